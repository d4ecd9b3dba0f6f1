"""One experiment, run: found in the store, resumed, or trained with its teacher first."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mixkd.experiment import Experiment
from mixkd.metrics import compute_scores
from mixkd.store import Record, Store, UserError, content_id, explaining_full_disk, is_first_process

if TYPE_CHECKING:
    from mixkd.tasks import Task

#: Told how far a run is: share done in [0, 1], and what it is doing.
Report = Callable[[float, str], None]


class Options(NamedTuple):
    """How a run is done, as far as it does not change the numbers.

    Attributes:
        data_dir: Folder with the task's files, in place of the pinned asset or the hub.
        device: "cpu" or "cuda"; None: CUDA if there is one.
        gradient_accumulation_steps: Micro-batches per optimizer step; `batch_size` is what they add up to.
        torch_compile: Whether torch compiles student and teacher for the training: for long ones on a GPU.
        report_to: Trainer's integrations that follow the training, such as "tensorboard"; "none" for none.
        keep_model: Whether a student's model stays in the store after it has been measured; a teacher's does.
    """

    data_dir: str | Path | None = None
    device: str | None = None
    gradient_accumulation_steps: int = 1
    torch_compile: bool = False
    report_to: str = "none"
    keep_model: bool = True


def pin(experiment: Experiment, data_dir: str | Path | None = None) -> Experiment:
    """The experiment with the content of data, models and translators in place of where they are read from."""
    from mixkd.augment import engine_fingerprint
    from mixkd.models import checkpoint_fingerprint
    from mixkd.tasks import load_task

    task = load_task(experiment.task, data_dir)
    fingerprints = {name: load_task(name, data_dir).fingerprint for name in (task.name, *task.shifted)}
    update: dict[str, str] = {"data_fingerprint": content_id(fingerprints)}
    for role, name in (("teacher", experiment.teacher), ("student", experiment.student)):
        if name is not None:
            folder = Path(name).expanduser()
            update |= {
                f"{role}_fingerprint": checkpoint_fingerprint(name),
                role: folder.name if folder.is_dir() else name,
            }
    if experiment.augmentation == "back-translation":
        fingerprint = engine_fingerprint(experiment.bt_engine, experiment.bt_pair)
        pair = ",".join(Path(part).name if Path(part).is_dir() else part for part in experiment.bt_pair.split(","))
        update |= {"augmentation_fingerprint": fingerprint, "bt_pair": pair}
    return experiment.model_copy(update=update)


def run(
    experiment: Experiment,
    store: Store | str | Path = "results",
    *,
    force: bool = False,
    report: Report | None = None,
    **options: Any,
) -> Record:
    """Train, evaluate and record one experiment; a finished one is read, an interrupted one resumed.

    A student's teacher is trained, or reused, first. Two processes never do the same run: the second waits.

    Args:
        experiment: What to run.
        store: Folder of the evidence.
        force: Compute again, and overwrite, what is there.
        report: Told about progress.
        **options: Fields of `Options`.

    Raises:
        UserError: If data, teacher or record cannot be used, or the training diverges.
    """
    store = Store(store) if isinstance(store, str | Path) else store
    return _run(experiment, store, force, report or (lambda share, message: None), options)


def _run(
    experiment: Experiment,
    store: Store,
    force: bool,
    report: Report,
    options: dict[str, Any],
    needs_model: bool = False,
) -> Record:
    """As `run`; a run whose model is needed is not finished without it (a store restored from records has none)."""
    from mixkd.tasks import load_task

    where = Options(**options)
    pinned = pin(experiment, where.data_dir)
    run_id = content_id(pinned.identity())

    def finished() -> Record | None:
        is_complete = not needs_model or store.model_dir(run_id).is_dir()
        return _finished(store, run_id, where) if is_complete and not force else None

    if record := finished():
        return record
    # Processes of one distributed run share the lock that their first one holds.
    with store.lock(run_id) if is_first_process() else nullcontext():
        if record := finished():  # by another process, while this one waited
            return record
        from mixkd.training import check, train_and_record

        check(experiment, where)
        teacher_run, start = None, 0.0
        if experiment.is_student:

            def report_teacher(share: float, message: str) -> None:
                nonlocal start
                start = 0.5  # half the work, if it has to be trained
                report(start * share, f"teacher, {message}")

            options = {**options, "gradient_accumulation_steps": 1}
            teacher = _run(experiment.teacher_experiment(), store, False, report_teacher, options, needs_model=True)
            check_teacher(teacher, load_task(experiment.task, where.data_dir))
            teacher_run = teacher.run_id

        def report_rest(share: float, message: str) -> None:
            report(start + (1 - start) * share, message)

        with explaining_full_disk(store.root):
            return train_and_record(experiment, pinned, store, teacher_run, where, report_rest)


def _finished(store: Store, run_id: str, options: Options) -> Record | None:
    """The run's record, if there is one: in several processes as the first one sees it, so that none trains alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return store.load_run(run_id)
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=options.device == "cpu" or not torch.cuda.is_available())
    found = [store.load_run(run_id) if is_first_process() else None]
    broadcast_object_list(found)
    return found[0]


def leave_process_group() -> None:
    """End what processes started by torchrun share: threads of gloo that outlive the interpreter abort the process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def check_teacher(teacher: Record, task: Task) -> None:
    """Refuse to distil from a teacher that has learned nothing (or whose labels are in another order).

    Raises:
        UserError: If its validation score is not above that of one answer for all: the commonest class, or the mean.
    """
    from mixkd.tasks import labels_of

    labels = labels_of(task.dataset["validation"])
    constant = labels.mean() if task.is_regression else np.bincount(labels).argmax()
    floor = compute_scores(task.metrics[0], np.full(len(labels), constant), labels)
    score = teacher.measurements["validation_score"]
    if score <= floor:
        raise UserError(
            f"The teacher (run {teacher.run_id}) scores {score:.3f} on validation, no better than one answer for all "
            f"({floor:.3f}); check its labels, or train it longer (--teacher_num_epochs) or on more data."
        )
