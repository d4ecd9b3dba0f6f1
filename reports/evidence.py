"""The store as data frames.

Every file that cannot be used is listed as a problem with its reason; nothing is skipped in silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from pyarrow import BufferReader, parquet
from pydantic import BaseModel, ValidationError

from mixkd.store import CellRecord, Problem, Record, Store, canonical_json, first_error
from reports.benchmark_files import read_benchmarks
from reports.setting import EPOCHS, LIMITED, deviations
from theory.studies import PILOT_SEED

#: Fields of an experiment that belong to its recipe, beside ``*_weight``: runs of a pair may differ in them.
RECIPE_FIELDS = {
    "recipe", "init", "distance", "temperature", "beta_alpha", "mix_ratio", "partner", "lam_per", "level",
    "teacher_precision", "pkd_layers", "pkd_normalize", "pkd_reduction",
    "augmentation", "augmentation_fingerprint", "bt_engine", "bt_pair", "bt_sides", "word_dropout_rate",
}  # fmt: skip


#: Whose paths between two texts are drawn: one seed's, the least that has them all.
PATH_RECIPES = ("ft", "kd", "sm+tmkd")
_PATH_COLUMNS = {"model", "pair", "lam", "x", "y", "label_source", "distance_to_segment"}


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
    init: str | list[int] | None = None
    init_seed: int
    data_seed: int
    augmentation: str = "none"
    level: int | str = "embeddings"
    precision: str = "fp32"


@dataclass(frozen=True)
class Evidence:
    """All that the store holds, read once.

    Attributes:
        runs: One row per run: experiment, measurements and `machine`, with `seed`, `pair`, `twin`, `changed` (the
            fields that are not as registered, see `reports.setting.deviations`; None: none can be); runs of equal
            `pair` differ in their recipe only, runs of equal `twin` in their precision only.
        repeats: Rows as those of `runs`: the same experiments on another machine; `repeat` names their store.
        paths: The rows of interpolation.parquet of one student per recipe of PATH_RECIPES, with `recipe`, `run_id` and
            `init_seed`; those of the teacher, which all files have, under the recipe "teacher".
        cells: Registered role -> replicates, keyed by (study, role); index `replicate`.
        benchmarks: One row per benchmark case and file, oldest first.
        provenance: One row per record.
        problems: Files that cannot be used, with paths below the store.
        num_unregistered: Finished cells that no study asks for, pilots apart.
    """

    runs: pd.DataFrame
    repeats: pd.DataFrame
    paths: pd.DataFrame
    cells: dict[tuple[str, str], pd.DataFrame]
    benchmarks: pd.DataFrame
    provenance: pd.DataFrame
    problems: list[Problem]
    num_unregistered: int

    @cached_property
    def all_runs(self) -> pd.DataFrame:
        """Runs and their repeats."""
        return pd.concat([self.runs, self.repeats]) if len(self.repeats) else self.runs


def load(store: Store, studies: Mapping[str, Study]) -> Evidence:
    """Read the store; the cells are those that the studies register."""
    problems: list[Problem] = []
    records, run_problems = store.runs()
    cell_records, cell_problems = store.cells()
    problems += [*run_problems, *cell_problems]
    runs = _runs(store, records, problems).assign(repeat="")
    repeats = [runs.iloc[:0]]
    for name, again in store.repeats().items():
        repeated, repeat_problems = again.runs()
        problems += repeat_problems
        repeats.append(_repeats(_runs(again, repeated, problems).assign(repeat=name), again, runs, problems))
        records += repeated
    paths = _paths(store, runs, problems)
    cells, num_unregistered = _cells(store, cell_records, studies, problems)
    benchmarks, bench_provenance = read_benchmarks(store.benchmarks_dir, problems)
    provenance = [
        {"source": source, **record.provenance.model_dump()}
        for source, group in (("training", records), ("theory", cell_records))
        for record in group
    ]
    relative = [Problem(p.path.relative_to(store.root), p.reason.removeprefix(f"{store.root}/")) for p in problems]
    sources = pd.DataFrame(provenance + bench_provenance)
    return Evidence(
        runs, pd.concat(repeats, ignore_index=True), paths, cells, benchmarks, sources, relative, num_unregistered
    )


def _runs(store: Store, records: list[Record], problems: list[Problem]) -> pd.DataFrame:
    rows = []
    for record in records:
        path = store.run_dir(record.run_id) / "record.json"
        try:
            fields = _Identity.model_validate(record.experiment, strict=True)
        except ValidationError as error:
            problems.append(Problem(path, f"experiment field {first_error(error)}"))
            continue
        shared = {
            name: value
            for name, value in record.experiment.items()
            if name not in RECIPE_FIELDS and not name.endswith("_weight")
        }
        changed = deviations(record.experiment)
        row = {
            **record.experiment,
            **record.measurements,
            **fields.model_dump(),
            "recipe": recipe_name(fields),
            "run_id": record.run_id,
            "machine": record.provenance.machine,
            "pair": canonical_json(shared),
            "twin": canonical_json({k: v for k, v in record.experiment.items() if not k.endswith("precision")}),
            "seed": f"{fields.init_seed}/{fields.data_seed}",
            "changed": None if changed is None else ", ".join(changed),
        }
        lacking = {"test_score", "generalization_gap"} - record.measurements.keys()
        if row["changed"] in ("", "init", "num_epochs") and lacking:  # those that claims rest on
            problems.append(Problem(path, f"lacks the measurements {', '.join(sorted(lacking))}"))
            continue
        rows.append(row)
    numbers = ["train_fraction", "student_layers", "test_score", "generalization_gap", "teacher_test_score"]
    frame = pd.DataFrame(rows)
    columns = [
        *frame.columns,
        *_Identity.model_fields,
        *numbers,
        "num_epochs",
        "run_id",
        "machine",
        "pair",
        "twin",
        "seed",
        "changed",
    ]
    frame = frame.reindex(columns=[*dict.fromkeys(columns)])
    types: dict[str, type] = dict.fromkeys(numbers, float)
    types |= dict.fromkeys(["recipe", "changed"], object)  # also where there is no run
    return frame.astype(types).copy()


def _repeats(found: pd.DataFrame, store: Store, runs: pd.DataFrame, problems: list[Problem]) -> pd.DataFrame:
    """Those of the runs found that repeat one of the evidence's on another machine; on the same one, they are equal."""
    first = runs.set_index("run_id")[["machine", "test_score"]].reindex(found["run_id"]).set_index(found.index)
    is_alike = first["machine"] == found["machine"]
    reasons = {
        "repeats no run that could be read from the store around it": first["machine"].isna(),
        "differs from the first run on the same machine": is_alike & (first["test_score"] != found["test_score"]),
    }
    for reason, is_problem in reasons.items():
        problems += [Problem(store.run_dir(run_id) / "record.json", reason) for run_id in found["run_id"][is_problem]]
    return found[first["machine"].notna() & ~is_alike]


def recipe_name(fields: _Identity) -> str:
    """The recipe with what makes another one of it: augmented data, or mixing above the embeddings."""
    augmentation = {"none": "", "back-translation": "+bt"}.get(fields.augmentation, f"+{fields.augmentation}")
    level = "" if fields.level == "embeddings" else f"@{fields.level}"
    return f"{fields.recipe}{level}{augmentation}"


def registered_runs(runs: pd.DataFrame, fraction: float = LIMITED, changed: str = "") -> pd.DataFrame:
    """The runs in the registered setting, but for `changed`, with this share of the training examples; in bf16.

    Those in fp32 are their twins, for the claim about precision.
    """
    return runs[(runs["changed"] == changed) & (runs["precision"] == "bf16") & (runs["train_fraction"] == fraction)]


def longer_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs in the registered setting, but for twice the epochs; in bf16."""
    is_twice = runs["num_epochs"] == 2 * runs["train_fraction"].map(EPOCHS)
    return runs[(runs["changed"] == "num_epochs") & (runs["precision"] == "bf16") & is_twice]


def _paths(store: Store, runs: pd.DataFrame, problems: list[Problem]) -> pd.DataFrame:
    chosen = registered_runs(runs).assign(file=lambda found: found["run_id"].map(store.interpolation_path))
    chosen = chosen[chosen["recipe"].isin(PATH_RECIPES) & chosen["file"].map(Path.exists).astype(bool)]
    seeds = chosen.groupby(["init_seed", "data_seed"])
    complete = [group.drop_duplicates("recipe") for _, group in seeds if set(group["recipe"]) == set(PATH_RECIPES)]
    frames: list[pd.DataFrame] = []
    for row in complete[0].to_dict("records") if complete else ():
        try:
            frame = pd.read_parquet(row["file"])
            if lacking := _PATH_COLUMNS - set(frame.columns):
                raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
            numbers = frame[["lam", "x", "y", "distance_to_segment"]].to_numpy(dtype=float)
            is_path = frame["pair"].notna().to_numpy()
            if not np.isfinite(numbers[is_path]).all() or not (numbers[is_path, 0] == 0.5).any():
                raise ValueError("a number is missing, or there is no step half-way")
        except (OSError, ValueError) as error:
            problems.append(Problem(row["file"], f"cannot be read as paths between two texts: {error}"))
            continue
        if frames:  # the teacher's paths are the same in all files
            frame = frame[frame["model"] == "student"]
        recipes = frame["model"].map({"student": row["recipe"], "teacher": "teacher"})
        frames.append(frame.assign(recipe=recipes, run_id=row["run_id"], init_seed=row["init_seed"]))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _cells(
    store: Store, records: list[CellRecord], studies: Mapping[str, Study], problems: list[Problem]
) -> tuple[dict[tuple[str, str], pd.DataFrame], int]:
    roles = {(key, role): cell.cell_id for key, study in studies.items() for role, cell in study.cells.items()}
    registered = set(roles.values())
    frames = {}
    for record in records:
        if record.cell_id not in registered:
            continue
        path = store.cell_data_path(record.cell_id)
        try:
            # For thousands of small files, pyarrow's own way to open one, and its threads, cost more than the rest.
            with parquet.ParquetFile(BufferReader(path.read_bytes())) as file:
                table = file.read(use_threads=False)
            index = pd.Index(table["replicate"].to_numpy(), name="replicate")
            names = np.array([name for name in table.column_names if name != "replicate"])
            values = np.column_stack([np.asarray(table[name].to_numpy(), dtype=float) for name in names])
            is_measured = ~np.isnan(values).all(axis=0)
            frame = pd.DataFrame(values[:, is_measured], index, names[is_measured])
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
            problems.append(Problem(path, f"cannot be read as replicates: {error}"))
            continue
        num_replicates = record.cell["num_replicates"]
        if len(frame) != num_replicates or not frame.index.is_unique:
            problems.append(Problem(path, f"holds {len(frame)} rows for {num_replicates} replicates"))
        elif not np.isfinite(frame.to_numpy()).all():
            problems.append(Problem(path, "holds values that are not finite"))
        else:
            frames[record.cell_id] = frame
    cells = {role: frames[cell_id] for role, cell_id in roles.items() if cell_id in frames}
    is_pilot = {record.cell_id: record.cell.get("master_seed") == PILOT_SEED for record in records}
    return cells, sum(cell_id not in registered and not pilot for cell_id, pilot in is_pilot.items())
