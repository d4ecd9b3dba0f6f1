"""The store as data frames.

Every file that cannot be used is listed as a problem with its reason; nothing is skipped in silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError

from mixkd.store import CellRecord, Problem, Record, Store, canonical_json
from reports.setting import LIMITED, registered_precision
from reports.statistics import median_estimate
from theory.studies import PILOT_SEED

#: Fields of an experiment that belong to its recipe, beside ``*_weight``: runs of a pair may differ in them.
RECIPE_FIELDS = {
    "recipe", "init", "distance", "temperature", "beta_alpha", "mix_ratio", "partner", "lam_per", "level",
    "teacher_precision", "pkd_layers", "pkd_normalize", "pkd_reduction",
    "augmentation", "augmentation_fingerprint", "bt_engine", "bt_pair", "bt_sides", "word_dropout_rate",
}  # fmt: skip

#: What makes two timings comparable.
CONDITIONS = ["batch_size", "sequence_length", "num_threads", "dtype", "device", "processor"]


class Cell(Protocol):
    """What is needed of a ``theory.studies.Cell``."""

    @property
    def cell_id(self) -> str:
        """Name of the cell's files in the store."""
        ...


class Study(Protocol):
    """What is needed of a ``theory.studies.Study``."""

    @property
    def cells(self) -> Mapping[str, Cell]:
        """Role name -> cell."""
        ...


class _Identity(BaseModel):
    """Fields of an experiment that decide where a run belongs."""

    task: str
    train_fraction: float
    student_layers: int | None
    recipe: str
    init_seed: int
    data_seed: int
    augmentation: str = "none"
    level: int | str = "embeddings"
    precision: str = "fp32"


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
    metric: str | None = None
    num_examples: int | None = None
    examples_per_s: float | None = None
    tokens_per_s: float | None = None
    score: float | None = None
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


@dataclass(frozen=True)
class Evidence:
    """All that the store holds, read once.

    Attributes:
        runs: One row per run: experiment and measurements, with `seed`, `pair`, `twin` and `registered` (see
            `reports.setting.registered_precision`); runs of equal `pair` differ in their recipe only, runs of equal
            `twin` in their precision only.
        cells: Registered role -> replicates, keyed by (study, role); index `replicate`.
        benchmarks: One row per benchmark case and file, oldest first.
        provenance: One row per record.
        problems: Files that cannot be used, with paths below the store.
        num_unregistered: Finished cells that no study asks for, pilots apart.
    """

    runs: pd.DataFrame
    cells: dict[tuple[str, str], pd.DataFrame]
    benchmarks: pd.DataFrame
    provenance: pd.DataFrame
    problems: list[Problem]
    num_unregistered: int


def load(store: Store, studies: Mapping[str, Study]) -> Evidence:
    """Read the store; the cells are those that the studies register."""
    problems: list[Problem] = []
    records, run_problems = store.runs()
    cell_records, cell_problems = store.cells()
    problems += [*run_problems, *cell_problems]
    runs = _runs(store, records, problems)
    cells, num_unregistered = _cells(store, cell_records, studies, problems)
    benchmarks, bench_provenance = _benchmarks(store.benchmarks_dir, problems)
    provenance = [
        {"source": source, **record.provenance.model_dump()}
        for source, group in (("training", records), ("theory", cell_records))
        for record in group
    ]
    relative = [Problem(p.path.relative_to(store.root), p.reason.replace(f"{store.root}/", "")) for p in problems]
    return Evidence(runs, cells, benchmarks, pd.DataFrame(provenance + bench_provenance), relative, num_unregistered)


def _runs(store: Store, records: list[Record], problems: list[Problem]) -> pd.DataFrame:
    rows = []
    for record in records:
        path = store.run_dir(record.run_id) / "record.json"
        try:
            fields = _Identity.model_validate(record.experiment, strict=True)
        except ValidationError as error:
            problems.append(Problem(path, f"experiment field {_first(error)}"))
            continue
        shared = {
            name: value
            for name, value in record.experiment.items()
            if name not in RECIPE_FIELDS and not name.endswith("_weight")
        }
        row = {
            **record.experiment,
            **record.measurements,
            **fields.model_dump(),
            "recipe": recipe_name(fields),
            "run_id": record.run_id,
            "pair": canonical_json(shared),
            "twin": canonical_json({k: v for k, v in record.experiment.items() if not k.endswith("precision")}),
            "seed": f"{fields.init_seed}/{fields.data_seed}",
            "registered": registered_precision(record.experiment),
        }
        lacking = {"test_score", "generalization_gap"} - record.measurements.keys()
        if row["registered"] and lacking:
            problems.append(Problem(path, f"lacks the measurements {', '.join(sorted(lacking))}"))
            continue
        rows.append(row)
    numbers = ["train_fraction", "student_layers", "test_score", "generalization_gap", "teacher_test_score"]
    frame = pd.DataFrame(rows)
    columns = [*frame.columns, *_Identity.model_fields, *numbers, "run_id", "pair", "twin", "seed", "registered"]
    return frame.reindex(columns=[*dict.fromkeys(columns)]).astype(dict.fromkeys(numbers, float))


def recipe_name(fields: _Identity) -> str:
    """The recipe with what makes another one of it: augmented data, or mixing above the embeddings."""
    augmentation = {"none": "", "back-translation": "+bt"}.get(fields.augmentation, f"+{fields.augmentation}")
    level = "" if fields.level == "embeddings" else f"@{fields.level}"
    return f"{fields.recipe}{level}{augmentation}"


def registered_runs(runs: pd.DataFrame, fraction: float = LIMITED) -> pd.DataFrame:
    """The runs in the registered setting with this share of the training examples."""
    return runs[(runs["registered"] == "bf16") & (runs["train_fraction"] == fraction)]


def _cells(
    store: Store, records: list[CellRecord], studies: Mapping[str, Study], problems: list[Problem]
) -> tuple[dict[tuple[str, str], pd.DataFrame], int]:
    registered = {cell.cell_id for study in studies.values() for cell in study.cells.values()}
    frames = {}
    for record in records:
        if record.cell_id not in registered:
            continue
        path = store.cell_data_path(record.cell_id)
        try:
            frame = pd.read_parquet(path).set_index("replicate").dropna(axis="columns", how="all")
            values = frame.to_numpy(dtype=float)
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
            problems.append(Problem(path, f"cannot be read as replicates: {error}"))
            continue
        num_replicates = record.cell["num_replicates"]
        if len(frame) != num_replicates or not frame.index.is_unique:
            problems.append(Problem(path, f"holds {len(frame)} rows for {num_replicates} replicates"))
        elif not np.isfinite(values).all():
            problems.append(Problem(path, "holds values that are not finite"))
        else:
            frames[record.cell_id] = frame
    cells = {
        (key, role): frames[cell.cell_id]
        for key, study in studies.items()
        for role, cell in study.cells.items()
        if cell.cell_id in frames
    }
    is_pilot = {record.cell_id: record.cell.get("master_seed") == PILOT_SEED for record in records}
    return cells, sum(cell_id not in registered and not pilot for cell_id, pilot in is_pilot.items())


def _benchmarks(folder: Path, problems: list[Problem]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    rows, provenance = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            file = _BenchmarkFile.model_validate_json(path.read_bytes())
        except ValidationError as error:
            problems.append(Problem(path, f"is not pytest-benchmark's JSON: {_first(error)}"))
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
    """The last measurement of every case on every machine."""
    return benchmarks.drop_duplicates(["name", "kind", "model", "num_layers", "variant", *CONDITIONS], keep="last")


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"
