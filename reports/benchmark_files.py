"""Files of pytest-benchmark as a data frame."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError

from mixkd.store import Problem, first_error
from reports.statistics import median_estimate

#: What makes two timings comparable.
CONDITIONS = ["batch_size", "sequence_length", "num_threads", "dtype", "device", "processor"]

#: What is the same benchmark, in two files or two stores.
CASE = ["name", "kind", "model", "num_layers", "variant", *CONDITIONS]

#: What else a score is of. Times and sizes do not depend on it: they are those of the architecture.
SCORED = ["task", "metric", "num_examples", "train_fraction"]


class _Case(BaseModel):
    """``extra_info`` of one benchmark."""

    kind: str = "other"
    model: str | None = None
    num_layers: int | None = None
    batch_size: int | None = None
    sequence_length: int | None = None
    num_parameters: int | None = None
    num_embedding_parameters: int | None = None
    size_bytes: float | None = None
    flops: float | None = None
    peak_memory_bytes: float | None = None
    num_threads: int | None = None
    dtype: str | None = None
    device: str | None = None
    p50_s: float | None = None
    p90_s: float | None = None
    p99_s: float | None = None
    layer_ratio: float | None = None
    speedup_vs_teacher: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    num_samples: int | None = None
    num_features: int | None = None
    num_replicates: int | None = None
    seconds_per_replicate: float | None = None
    speedup_vs_sklearn: float | None = None
    variant: str = "float32"
    train_fraction: float | None = None
    task: str | None = None
    metric: str | None = None
    num_examples: int | None = None
    examples_per_s: float | None = None
    tokens_per_s: float | None = None
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    agreement: float | None = None
    agreement_float32: float | None = None
    joules_per_example: float | None = None
    times_as_fast: dict[str, tuple[float, float, float]] = {}
    share_of_ceiling: float | None = None
    energy_not_told: str | None = None
    origin: str | None = None
    not_run: str | None = None


class _Benchmark(BaseModel):
    name: str
    stats: dict[str, Any]
    extra_info: _Case


class _BenchmarkFile(BaseModel):
    """pytest-benchmark's own JSON, as far as it is read."""

    benchmarks: list[_Benchmark]
    machine_info: dict[str, Any]
    commit_info: dict[str, Any]
    datetime: str


def read_benchmarks(folder: Path, problems: list[Problem]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Every case of every file, oldest first, and a file's provenance; files that cannot be used join the problems."""
    rows, provenance = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            file = _BenchmarkFile.model_validate_json(path.read_bytes())
        except ValidationError as error:
            problems.append(Problem(path, f"is not pytest-benchmark's JSON: {first_error(error)}"))
            continue
        processor = str(file.machine_info.get("cpu", {}).get("brand_raw", "unknown processor"))
        shared = {"file": path.name, "started_at": file.datetime, "processor": processor}
        cases = [case.extra_info for case in file.benchmarks]
        rows += [
            {"name": case.name, **_median(case.stats), **case.extra_info.model_dump(), **shared}
            for case in file.benchmarks
        ]
        provenance.append(
            {
                "source": "benchmarks",
                "commit": file.commit_info.get("id"),
                "dirty": file.commit_info.get("dirty"),
                "versions": {},
                "python": file.machine_info.get("python_version", ""),
                "platform": f"{file.machine_info.get('system', '')} {file.machine_info.get('release', '')}",
                "processor": processor,
                "device": ", ".join(sorted({case.device for case in cases if case.device})),
                "num_threads": max((case.num_threads for case in cases if case.num_threads), default=0),
                "seeds": {},
                "command": "mixkd bench",
                "started_at": file.datetime,
                "wall_time_s": sum(float(case.stats.get("total") or 0) for case in file.benchmarks),
            }
        )
    columns = [
        "name",
        "median_s",
        "median_low_s",
        "median_high_s",
        *_Case.model_fields,
        "file",
        "started_at",
        "processor",
    ]
    return pd.DataFrame(rows, columns=columns).sort_values("started_at", kind="stable"), provenance


def _median(stats: Mapping[str, Any]) -> dict[str, float]:
    """Median over the rounds of a benchmark, with its interval."""
    rounds = [float(value) for value in stats.get("data") or ()]
    estimate = median_estimate(rounds, 0.0) if rounds else (np.nan,) * 3
    return dict(zip(("median_s", "median_low_s", "median_high_s"), estimate[:3], strict=True))


def latest(benchmarks: pd.DataFrame) -> pd.DataFrame:
    """The last measurement of every case on every machine; of one that was never measured, the last reason."""
    place = np.arange(len(benchmarks)) + len(benchmarks) * benchmarks["not_run"].isna()
    rows = benchmarks[[*CASE, *SCORED]].assign(place=place)
    pairs = rows.merge(rows, on=CASE, suffixes=("", "_later"))
    is_replaced = (pairs["place"] < pairs["place_later"]) & is_one_case(pairs, "_later")
    return benchmarks[~rows["place"].isin(pairs.loc[is_replaced, "place"])]


def is_one_case(pairs: pd.DataFrame, suffix: str) -> pd.Series:
    """Whether the two measurements of every row, alike in CASE, are of one case.

    Scores are not, where they are of other texts or of a model that saw another share of the data. Older files do not
    tell all of that; what is not told contradicts nothing.

    Args:
        pairs: With the columns CASE, SCORED, and those of SCORED with the suffix.
        suffix: Of the columns of the other measurement.
    """
    is_other = pd.Series(False, index=pairs.index)
    for name in SCORED:
        own, other = pairs[name], pairs[f"{name}{suffix}"]
        is_other |= own.notna() & other.notna() & (own != other)
    return ~is_other | (pairs["kind"] != "end-to-end")
