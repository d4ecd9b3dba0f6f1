"""A grid of experiments from a YAML file, run through joblib."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mixkd.experiment import Experiment, run
from mixkd.progress import Progress, duration
from mixkd.store import Record, Store, UserError


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
        text = Path(name_or_path).read_text(encoding="utf-8")
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
    jobs: int = 1,
    backend: str = "loky",
    force: bool = False,
) -> list[Record]:
    """Run every experiment of a suite, teachers first; finished ones are read from the store.

    Args:
        suite: The grid.
        store: Folder of the evidence.
        data_dir: Folder with the tasks' files, in place of the pinned assets.
        device: "cpu", "cuda", ...; None: CUDA if there is one.
        jobs: Experiments at a time; each gets its share of the cores.
        backend: joblib's backend: loky here, dask or ray on a cluster.
        force: Compute again what is there.

    Returns:
        The students' and teachers' records, in the order of `suite.expand()`, teachers first.
    """
    import joblib

    store = store if isinstance(store, Store) else Store(store)
    students = suite.expand()
    teachers = list(dict.fromkeys(e.teacher_experiment() for e in students if e.student_layers is not None))
    students = [experiment for experiment in students if experiment not in teachers]
    total = sum(map(cost, [*teachers, *students]))
    records: list[Record] = []
    done = 0.0
    with Progress(total, f"suite {suite.name}") as progress:

        def finish(experiment: Experiment, record: Record) -> None:
            nonlocal done
            done += cost(experiment)
            records.append(record)
            result = f"test score {record.measurements['test_score']:.3f}"
            took = duration(record.provenance.wall_time_s)
            progress.line(done, f"{experiment.label()}: {result} ({took})")

        def run_here(experiment: Experiment) -> None:
            def report(share: float, message: str) -> None:
                progress.update(done + 0.95 * share * cost(experiment), f"{experiment.label()}, {message}")

            finish(experiment, run(experiment, store, data_dir=data_dir, device=device, force=force, report=report))

        for teacher in teachers:
            run_here(teacher)
        if jobs == 1:
            for student in students:
                run_here(student)
        else:
            parallel = joblib.Parallel(n_jobs=jobs, backend=backend, return_as="generator")
            results: Iterable[Record] = parallel(
                joblib.delayed(run)(student, store, data_dir=data_dir, device=device, force=force)
                for student in students
            )
            for student, record in zip(students, results, strict=True):
                finish(student, record)
    return records


def cost(experiment: Experiment) -> float:
    """Rough work of a run, in forward passes of one layer over the whole training set; for progress only."""
    recipe = experiment.recipe_object()
    layers = experiment.student_layers or 12
    mixed = recipe.mixup.mix_ratio if recipe.uses_mixup else 0.0
    teacher_forward = 12 * mixed if recipe.tmkd_weight else 0.0
    return experiment.train_fraction * experiment.num_epochs * (3 * layers * (1 + mixed) + teacher_forward) + layers


def _shipped():  # type: ignore[no-untyped-def]
    return resources.files("mixkd") / "suites"
