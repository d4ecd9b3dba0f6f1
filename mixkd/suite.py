"""A grid of experiments from a YAML file, run through joblib."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import joblib
import yaml
from joblib import cpu_count
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mixkd.experiment import Experiment, run
from mixkd.progress import Progress, duration
from mixkd.store import Record, Store, UserError, atomic_path, now


class Suite(BaseModel):
    """A named grid.

    Attributes:
        name: Name of the suite.
        description: What it is for, and how long it takes.
        experiments: Blocks of fields of `Experiment`; every list stands for one run per value, and the lists of a
            block are crossed (a list of layer indices for `init` is written as a list in a list).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    experiments: list[dict[str, Any]]

    @field_validator("experiments")
    @classmethod
    def _not_empty(cls, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not blocks:
            raise ValueError("a suite needs at least one block of experiments")
        for key in (key for block in blocks for key, value in block.items() if value == []):
            raise ValueError(f"{key} is an empty list; give it a value, or leave it out")
        return blocks

    def expand(self) -> list[Experiment]:
        """Every experiment of the grid once, in the order of the file."""
        expanded: dict[Experiment, None] = {}
        for block in self.experiments:
            axes = [[(key, v) for v in (value if isinstance(value, list) else [value])] for key, value in block.items()]
            for choice in itertools.product(*axes):
                expanded[Experiment(**dict(choice))] = None
        return list(expanded)


def suite_names() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in _shipped().iterdir() if path.name.endswith(".yaml"))


def load_suite(name_or_path: str) -> Suite:
    """Read a suite that comes with the package, by name, or one from a YAML file.

    Raises:
        UserError: If there is no such suite or file, or it is not valid.
    """
    if name_or_path in suite_names():
        text = (_shipped() / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    elif Path(name_or_path).is_file():
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{name_or_path} cannot be read as UTF-8 text: {error}.") from error
    else:
        raise UserError(
            f"There is no suite {name_or_path!r}; give one of {', '.join(suite_names())} or a path to a YAML file."
        )
    try:
        suite = Suite.model_validate(yaml.safe_load(text))
        suite.expand()
    except yaml.YAMLError as error:
        raise UserError(f"{name_or_path} is not valid YAML: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{name_or_path} is not a valid suite: {where} {first['msg']}.") from error
    return suite


def run_suite(
    suite: Suite,
    store: Store | str | Path = "results",
    *,
    data_dir: str | Path | None = None,
    device: str | None = None,
    jobs: int | None = None,
    backend: str = "loky",
    force: bool = False,
) -> list[Record]:
    """Run every experiment of a suite, teachers first; finished ones are read from the store.

    Args:
        suite: The grid.
        store: Folder of the evidence.
        data_dir: Folder with the tasks' files, in place of the pinned assets.
        device: "cpu" or "cuda"; None: CUDA if there is one.
        jobs: Experiments at a time, each with its share of the cores; None: see `default_jobs`.
        backend: joblib's backend: loky here, dask or ray on a cluster.
        force: Compute again what is there.

    Returns:
        The students' and teachers' records, in the order of `suite.expand()`, teachers first.
    """
    store = store if isinstance(store, Store) else Store(store)
    students = suite.expand()
    teachers = list(dict.fromkeys(e.teacher_experiment() for e in students if e.student_layers is not None))
    students = [experiment for experiment in students if experiment not in teachers]
    if jobs is None:
        jobs = default_jobs(device)
    options = {"data_dir": data_dir, "device": device, "force": force}
    with Progress(sum(map(cost, [*teachers, *students])), f"suite {suite.name}") as progress:
        records = _run_in_turn(teachers, store, options, progress, 0.0)
        done = sum(map(cost, teachers))
        if jobs == 1 or len(students) < 2:
            return records + _run_in_turn(students, store, options, progress, done)
        return records + _run_in_parallel(students, store, options, progress, done, jobs, backend)


def default_jobs(device: str | None) -> int:
    """Experiments at a time: one on a GPU; on the processor one per core up to four, as small models share badly."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return 1
    return max(1, min(cpu_count(), 4))


def _run_in_turn(
    experiments: list[Experiment], store: Store, options: dict[str, Any], progress: Progress, done: float
) -> list[Record]:
    records = []
    for experiment in experiments:
        work, label = cost(experiment), experiment.label()

        def report(share: float, message: str, work: float = work, label: str = label, done: float = done) -> None:
            progress.update(done + 0.95 * share * work, f"{label}, {message}")

        called_at = now()
        records.append(run(experiment, store, report=report, **options))
        done += work
        _show_result(progress, done, experiment, records[-1], called_at)
    return records


def _run_in_parallel(
    experiments: list[Experiment],
    store: Store,
    options: dict[str, Any],
    progress: Progress,
    done: float,
    jobs: int,
    backend: str,
) -> list[Record]:
    """Run through joblib; every run tells how far it is in a small file, which a thread here reads."""
    records: list[Record | None] = [None] * len(experiments)
    shares = [0.0] * len(experiments)
    stop, called_at = threading.Event(), now()

    def work() -> float:
        """Work that is done: earlier, in finished runs, and in those that are running."""
        parts = zip(experiments, records, shares, strict=True)
        return done + sum(cost(experiment) * (1.0 if record else 0.95 * share) for experiment, record, share in parts)

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(index) for index in range(len(experiments))]

        def show() -> None:
            while not stop.wait(2.0):
                shares[:] = [float(file.read_text()) if file.exists() else 0.0 for file in files]
                num_done = sum(record is not None for record in records)
                progress.update(work(), f"{num_done} of {len(files)} done")

        parallel = joblib.Parallel(n_jobs=jobs, backend=backend, return_as="generator_unordered")
        results = parallel(
            joblib.delayed(_run_and_tell)(index, files[index], experiment, store.root, options)
            for index, experiment in enumerate(experiments)
        )
        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            for index, record in results:
                records[index] = record
                _show_result(progress, work(), experiments[index], record, called_at)
        finally:
            stop.set()
            thread.join()
    return [record for record in records if record is not None]


def _run_and_tell(
    index: int, file: Path, experiment: Experiment, root: Path, options: dict[str, Any]
) -> tuple[int, Record]:
    """One run in a worker process."""
    quiet_libraries()
    told = 0.0

    def report(share: float, message: str) -> None:
        nonlocal told
        if share - told >= 0.01 and file.parent.is_dir():  # elsewhere, on another host, nobody reads it
            with atomic_path(file) as temporary:
                temporary.write_text(str(share))
            told = share

    return index, run(experiment, root, report=report, **options)


def quiet_libraries() -> None:
    """Keep libraries from mixing their own bars and notices with our progress."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns after every fork
    from datasets import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _show_result(progress: Progress, done: float, experiment: Experiment, record: Record, called_at: datetime) -> None:
    took = duration(record.provenance.wall_time_s)
    if datetime.fromisoformat(record.provenance.started_at) < called_at.replace(microsecond=0):
        progress.skip(cost(experiment))
        took = "already in the store"
    progress.line(done, f"{experiment.label()}: test score {record.measurements['test_score']:.3f} ({took})")


def cost(experiment: Experiment) -> float:
    """Rough work of a run, in forward passes of one layer over the whole training set; for progress only."""
    recipe = experiment.recipe_object()
    layers = experiment.student_layers or 12
    mixed = recipe.mixup.mix_ratio if recipe.uses_mixup else 0.0
    teacher_forward = 12 * mixed if recipe.tmkd_weight else 0.0
    return experiment.train_fraction * experiment.num_epochs * (3 * layers * (1 + mixed) + teacher_forward) + layers


def _shipped():  # type: ignore[no-untyped-def]
    return resources.files("mixkd") / "suites"
