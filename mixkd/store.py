"""Evidence on disk: schema and locks, and with `mixkd.files` and `mixkd.provenance` atomic writes and provenance.

Producers (``mixkd``, ``theory``, ``benchmarks``) write here, ``reports`` reads. The three modules import only the
standard library, pydantic and filelock, so that everyone may import this one.

Layout of a store::

    runs/<run-id>/record.json         the Record: experiment, provenance, measurements, history
                  examples.parquet    one row per evaluated example
                  interpolation.parquet   where hidden states go while one input is mixed into another
                  model/              Hugging Face format
    theory/<cell-id>.parquet + .json  one row per replicate; the CellRecord beside it
    benchmarks/<name>.json            pytest-benchmark's own JSON
    repeats/<name>/                   a store: runs that are above, done again on another machine
    report.html  verdicts.json  evidence/*.csv

In each folder the JSON is written last: what has no valid JSON is unfinished work, not evidence.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar

from filelock import FileLock
from pydantic import ValidationError, model_validator

from mixkd.files import UserError as UserError
from mixkd.files import atomic_path as atomic_path
from mixkd.files import explaining_full_disk as explaining_full_disk
from mixkd.files import file_sha256 as file_sha256
from mixkd.files import first_error as first_error
from mixkd.files import write_text as write_text
from mixkd.provenance import Frozen
from mixkd.provenance import Provenance as Provenance
from mixkd.provenance import command_line as command_line
from mixkd.provenance import machine as machine
from mixkd.provenance import now as now
from mixkd.provenance import provenance as provenance
from mixkd.provenance import without_folders as without_folders


def canonical_json(identity: dict[str, Any]) -> str:
    """JSON text that equal identities share: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: If a number is NaN or infinite.
    """
    return json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def content_id(identity: dict[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON: a run id or a cell id."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


def is_first_process() -> bool:
    """Whether this process may write: the only one, or the first of those that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"


class Record(Frozen):
    """One finished training run.

    Attributes:
        run_id: ``content_id(experiment)``; a record whose id does not match its content is refused.
        experiment: Everything that decides the numbers, as plain JSON.
        measurements: Name -> value, in the unit of the name (``*_score`` and ``*_agreement`` in [0, 1] or
            [-1, 1] for correlations, ``*_loss`` in nats, ``num_*`` counts).
        history: One entry per logged step, as the Trainer logs them.
    """

    schema_version: Literal[1] = 1
    run_id: str
    experiment: dict[str, Any]
    provenance: Provenance
    measurements: dict[str, float]
    history: list[dict[str, float]]

    @model_validator(mode="after")
    def _id_matches(self) -> Self:
        if self.run_id != content_id(self.experiment):
            raise ValueError(f"run id {self.run_id} does not match its experiment")
        return self


class CellRecord(Frozen):
    """One finished simulation cell; the replicates are in the parquet file beside it.

    Attributes:
        cell_id: ``content_id(cell)``.
        data_sha256: Hash of ``<cell-id>.parquet``, so that a torn or foreign data file is noticed.
    """

    schema_version: Literal[1] = 1
    cell_id: str
    cell: dict[str, Any]
    provenance: Provenance
    data_sha256: str

    @model_validator(mode="after")
    def _id_matches(self) -> Self:
        if self.cell_id != content_id(self.cell):
            raise ValueError(f"cell id {self.cell_id} does not match its cell")
        return self


#: Folder of a store for stores of runs done again.
REPEATS = "repeats"

_Model = TypeVar("_Model", Record, CellRecord)


class Problem(NamedTuple):
    """A file of the store that cannot be used, and why."""

    path: Path
    reason: str


class Store:
    """A folder of evidence. Creating the object touches nothing on disk."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def run_dir(self, run_id: str) -> Path:
        """Folder of one run."""
        return self.root / "runs" / run_id

    def model_dir(self, run_id: str) -> Path:
        """Checkpoint folder of one run."""
        return self.run_dir(run_id) / "model"

    def interpolation_path(self, run_id: str) -> Path:
        """Where a run's paths between two texts lie."""
        return self.run_dir(run_id) / "interpolation.parquet"

    @property
    def benchmarks_dir(self) -> Path:
        """Folder of pytest-benchmark's JSON files."""
        return self.root / "benchmarks"

    @property
    def embeddings_path(self) -> Path:
        """File of the sentence embeddings that simulations with real inputs draw from."""
        return self.root / "cache" / "embeddings.safetensors"

    def cell_data_path(self, cell_id: str) -> Path:
        """Parquet file of one simulation cell, one row per replicate."""
        return self.root / "theory" / f"{cell_id}.parquet"

    def load_run(self, run_id: str) -> Record | None:
        """Read one run's record.

        Returns:
            The record, or None if the run has not finished.

        Raises:
            UserError: If the record exists but is not valid.
        """
        path = self.run_dir(run_id) / "record.json"
        return _read(path, Record, run_id) if path.exists() else None

    def save_run(self, record: Record) -> None:
        """Write a run's record: the last file of the run, which makes it finished."""
        path = self.run_dir(record.run_id) / "record.json"
        write_text(path, record.model_dump_json(indent=1))

    def runs(self) -> tuple[list[Record], list[Problem]]:
        """All finished runs, sorted by id, and every record that cannot be used."""
        return _read_all(sorted((self.root / "runs").glob("*/record.json")), Record)

    def load_cell(self, cell_id: str) -> CellRecord | None:
        """Read one cell's record, checking the data file beside it.

        Returns:
            The record, or None if the cell has not finished.

        Raises:
            UserError: If the record or its data file is not valid.
        """
        path = self.cell_data_path(cell_id).with_suffix(".json")
        return _read(path, CellRecord, cell_id) if path.exists() else None

    def save_cell(self, cell: dict[str, Any], provenance: Provenance) -> CellRecord:
        """Make a cell finished, once its data file is in place.

        Raises:
            FileNotFoundError: If ``cell_data_path(content_id(cell))`` has not been written.
        """
        data_path = self.cell_data_path(content_id(cell))
        record = CellRecord(
            cell_id=content_id(cell), cell=cell, provenance=provenance, data_sha256=file_sha256(data_path)
        )
        write_text(data_path.with_suffix(".json"), record.model_dump_json(indent=1))
        return record

    def cells(self) -> tuple[list[CellRecord], list[Problem]]:
        """All finished cells, sorted by id, and every one that cannot be used."""
        return _read_all(sorted((self.root / "theory").glob("*.json")), CellRecord)

    def repeats(self) -> dict[str, "Store"]:
        """Stores of runs that were done again on another machine, by name."""
        return {path.parent.name: Store(path.parent) for path in sorted((self.root / REPEATS).glob("*/runs"))}

    def make_folder(self, name: str = ".") -> Path:
        """A folder of the store, made if it is not there.

        Raises:
            UserError: If it cannot be made.
        """
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Cannot use {self.root} as a store: {error.strerror}. Choose another --output.") from error
        return folder

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the inter-process lock of a run or cell id, once nobody else does.

        The operating system releases it when the process dies, however it dies.
        """
        folder = self.make_folder(".locks")
        with FileLock(folder / f"{name}.lock"):
            yield


def _read(path: Path, model: type[_Model], expected_id: str) -> _Model:
    """Parse and validate one JSON file; every way in which it can be wrong becomes a UserError."""
    way_out = f"Delete {path.name} to have it computed again."
    try:
        record = model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} is not a valid record ({first_error(error)}). {way_out}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    stored_id = record.run_id if isinstance(record, Record) else record.cell_id
    if stored_id != expected_id:
        raise UserError(f"{path} holds {stored_id}, not {expected_id}. {way_out}")
    if isinstance(record, CellRecord):
        data_path = path.with_suffix(".parquet")
        if not data_path.exists() or file_sha256(data_path) != record.data_sha256:
            raise UserError(f"{data_path} is missing or is not the file that {path.name} describes. {way_out}")
    return record


def _read_all(paths: list[Path], model: type[_Model]) -> tuple[list[_Model], list[Problem]]:
    records, problems = [], []
    for path in paths:
        try:
            records.append(_read(path, model, path.parent.name if model is Record else path.stem))
        except UserError as error:
            problems.append(Problem(path, str(error)))
    return records, problems
