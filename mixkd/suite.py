"""A grid of experiments from a YAML file."""

from __future__ import annotations

import itertools
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mixkd.backends import default_jobs, open_backend
from mixkd.cost import flops
from mixkd.estimate import other_machines, plain_identity
from mixkd.experiment import Experiment
from mixkd.progress import Progress
from mixkd.store import Record, Store, UserError, first_error
from mixkd.workers import run_in_turn, run_in_workers


class Suite(BaseModel):
    """A named grid.

    Attributes:
        name: Name of the suite.
        description: What it is for.
        experiments: Blocks of fields of `Experiment`; every list stands for one run per value, and the lists of a
            block are crossed (a list of layer indices for `init` is written as a list in a list). Fields that go
            together share a line: ``train_fraction, num_epochs: [[0.01, 60], [0.1, 6]]``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    experiments: list[dict[str, Any]]

    @field_validator("experiments")
    @classmethod
    def _can_be_crossed(cls, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not blocks:
            raise ValueError("a suite needs at least one block of experiments")
        fields = [*Experiment.model_fields, "seed"]
        of_users = [name for name in fields if not name.endswith("_fingerprint")]
        for block in blocks:
            for key, value in block.items():
                if value == []:
                    raise ValueError(f"{key} is an empty list; give it a value, or leave it out")
                if "," in key and not (
                    isinstance(value, list)
                    and all(isinstance(one, list) and len(one) == key.count(",") + 1 for one in value)
                ):
                    raise ValueError(f"{key} go together; give a list of lists, each with a value for every one")
            names = [name for key in block for name in _names(key)]
            for name in (name for name in names if name not in fields):
                raise ValueError(f"there is no field {name!r}: choose of {', '.join(of_users)}")
            for name in (name for name in names if names.count(name) > 1):
                raise ValueError(f"{name} is given twice in one block; leave one out")
        return blocks

    def expand(self) -> list[Experiment]:
        """Every experiment of the grid once, in the order of the file."""
        expanded: dict[Experiment, None] = {}
        for block in self.experiments:
            axes = [_settings(key, value) for key, value in block.items()]
            for choice in itertools.product(*axes):
                expanded[Experiment(**dict(itertools.chain(*choice)))] = None
        return list(expanded)

    def stages(self) -> tuple[list[Experiment], list[Experiment]]:
        """The teachers that the students need, each once, and then everything else."""
        expanded = self.expand()
        teachers = list(dict.fromkeys(e.teacher_experiment() for e in expanded if e.is_student))
        return teachers, [experiment for experiment in expanded if experiment not in teachers]


def _names(key: str) -> list[str]:
    return [name.strip() for name in key.split(",")]


def _settings(key: str, value: Any) -> list[list[tuple[str, Any]]]:
    """The settings that a line of a block stands for, one after another: each is some pairs of field and value."""
    values = value if isinstance(value, list) else [value]
    return [list(zip(_names(key), one if "," in key else [one], strict=True)) for one in values]


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
        raise UserError(f"{name_or_path} is not a valid suite: {first_error(error)}.") from error
    return suite


def run_suite(
    suite: Suite,
    store: Store | str | Path = "results",
    *,
    data_dir: str | Path | None = None,
    device: str | None = None,
    jobs: int | None = None,
    backend: str = "loky",
    keep_models: bool = True,
    force: bool = False,
) -> list[Record]:
    """Run every experiment of a suite, teachers first; finished ones are read from the store.

    On a machine with several GPUs each process takes one for itself, see `mixkd.gpus`.

    Args:
        suite: The grid.
        store: Folder of the evidence; all hosts of a cluster must share it.
        data_dir: Folder with the tasks' files, in place of the pinned assets.
        device: "cpu" or "cuda"; None: CUDA if there is one.
        jobs: Experiments at a time, each with its share of the cores; None: see `default_jobs`. A Dask cluster that is
            already there runs as many as it has workers.
        backend: joblib's backend: loky here, dask or ray on a cluster.
        keep_models: Whether students' models stay in the store after they have been measured.
        force: Compute again what is there.

    Returns:
        The teachers' and then the students' records, in the order of `suite.stages()`.

    Raises:
        UserError: If a run fails, a worker process is killed, or the backend cannot be used.
    """
    root = (store.root if isinstance(store, Store) else Path(store)).absolute()  # workers may be in another folder
    folder = data_dir and Path(data_dir).absolute()
    options = {"data_dir": folder, "device": device, "keep_model": keep_models, "force": force}
    jobs = default_jobs(device) if jobs is None else jobs
    stages = suite.stages()
    # What is in the store comes first, so that the time that is told to be left is that of the others.
    stored_records = [] if force else Store(root).runs()[0]
    stored = {plain_identity(record.experiment) for record in stored_records}
    teachers, students = (sorted(stage, key=lambda e: plain_identity(e.identity()) not in stored) for stage in stages)
    with Progress(sum(map(flops, teachers + students)), f"suite {suite.name}") as progress:
        if caution := other_machines(suite, stored_records, root, device):
            progress.line(0.0, caution)
        if jobs == 1 and backend == "loky":
            records = run_in_turn(teachers + students, Store(root), options, progress)
        else:
            with open_backend(backend, jobs, device) as workers:
                records = run_in_workers(teachers, Store(root), options, progress, 0.0, workers) if teachers else []
                done = sum(map(flops, teachers))
                records += run_in_workers(students, Store(root), options, progress, done, workers)
    by_experiment = dict(zip(teachers + students, records, strict=True))
    return [by_experiment[experiment] for stage in stages for experiment in stage]


def _shipped():  # type: ignore[no-untyped-def]
    return resources.files("mixkd") / "suites"
