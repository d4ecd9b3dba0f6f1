"""The tables behind the page: a folder of CSV files, or the same folder in one small archive."""

import hashlib
import io
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from mixkd.store import atomic_path
from reports import simulation, training_tables
from reports.drawing import Figure
from reports.evidence import Evidence
from reports.verdicts import Judged, evidence_frame

FOLDER, ARCHIVE = "evidence", "evidence.tar.xz"


def tables_of(evidence: Evidence, judged: list[Judged], drawn: list[Figure]) -> dict[str, pd.DataFrame]:
    """Every table behind the page by its name: claims, figures, runs and benchmarks."""
    return {
        **{item.claim.id: evidence_frame(item) for item in judged if item.results},
        **{f"figure-{figure.key}": figure.data for figure in drawn},
        "differences": training_tables.differences(evidence),
        "quantities": simulation.quantities(evidence),
        "bridge": simulation.bridge(evidence),
        "coverages": simulation.coverages(evidence),
        "runs": evidence.all_runs.drop(columns=["pair", "twin"]),
        "benchmarks": evidence.benchmarks,
    }


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame], packed: bool) -> str:
    """Write the tables, in place of earlier ones.

    Args:
        folder: Where `FOLDER` or `ARCHIVE` goes.
        tables: By name.
        packed: Whether to write the archive.

    Returns:
        SHA-256 of the names and the CSV files: equal where all numbers are.
    """
    files = {f"{name}.csv": _csv(table) for name, table in tables.items()}
    with atomic_path(folder / (ARCHIVE if packed else FOLDER)) as temporary:
        if packed:
            with tarfile.open(temporary, "w:xz") as archive:
                for name, content in files.items():
                    member = tarfile.TarInfo(f"{FOLDER}/{name}")  # of no owner and no time
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        else:
            temporary.mkdir()
            for name, content in files.items():
                (temporary / name).write_bytes(content)
    other = folder / (FOLDER if packed else ARCHIVE)  # of an earlier page, to which it belonged
    shutil.rmtree(other) if other.is_dir() else other.unlink(missing_ok=True)
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()


#: Significant digits of a number in the tables: the records have all, of which the last differ between machines.
_DIGITS = 9


def _rounded(values: pd.Series) -> pd.Series:
    numbers = values.to_numpy(dtype=float)
    if (numbers == np.rint(numbers)).all():  # flags, by the million
        return values
    return pd.Series([float(f"{number:.{_DIGITS}g}") for number in numbers], values.index)


def _csv(table: pd.DataFrame) -> bytes:
    """By Arrow, eight times as fast as pandas, but for columns of several types, which it does not have."""
    table = table.assign(**{str(name): _rounded(table[name]) for name in table.select_dtypes("float")})
    buffer = io.BytesIO()
    try:
        csv.write_csv(pa.Table.from_pandas(table, preserve_index=False), buffer)
        return buffer.getvalue()
    except (pa.ArrowException, OverflowError):
        return table.to_csv(index=False).encode()
