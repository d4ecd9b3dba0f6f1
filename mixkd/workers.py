"""Experiments in worker processes, whatever backend started them, and what they tell while they run."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import joblib
from pydantic import BaseModel

from mixkd.backends import Workers
from mixkd.cost import flops
from mixkd.experiment import Experiment
from mixkd.gpus import claim_gpu
from mixkd.progress import Progress, duration, quiet_libraries
from mixkd.runs import run
from mixkd.store import Record, Store, UserError, atomic_path, now


def run_in_turn(
    experiments: list[Experiment], store: Store, options: dict[str, Any], progress: Progress
) -> list[Record]:
    """Run experiments one after another in this process; `options` are those of `mixkd.run`."""
    if options["device"] != "cpu":
        claim_gpu()
    quiet_libraries()
    records, done = [], 0.0
    for experiment in experiments:
        work, label, is_new, called_at = flops(experiment), experiment.label(), True, now()

        def report(share: float, message: str, work: float = work, label: str = label, done: float = done) -> None:
            nonlocal is_new
            if is_new:  # what a run starts with was done before it was interrupted
                progress.skip(0.95 * share * work)
            is_new = False
            progress.update(done + 0.95 * share * work, f"{label}, {message}")

        records.append(run(experiment, store, report=report, **options))
        done += work
        _show_result(progress, done, experiment, records[-1], called_at)
    return records


def run_in_workers(
    experiments: list[Experiment],
    store: Store,
    options: dict[str, Any],
    progress: Progress,
    done: float,
    workers: Workers,
) -> list[Record]:
    """Run experiments through joblib, with the backend that is open; `done` is the work done before them."""
    num_jobs = min(workers.num_jobs, len(experiments))
    host = _Host(
        num_runs=math.ceil(num_jobs / workers.num_hosts),
        num_threads=int(os.environ.get("OMP_NUM_THREADS", "0")) or None,
        argv=sys.argv,
    )
    with tempfile.TemporaryDirectory(dir=store.make_folder(), prefix=".progress.") as folder:
        watch = _Watch(experiments, Path(folder), store, progress, done)
        tasks = [
            joblib.delayed(_run_and_tell)(watch.file(index), experiment, store.root, options, host)
            for index, experiment in enumerate(experiments)
        ]
        with watch.running():
            records: list[Record] = joblib.Parallel(batch_size=1, pre_dispatch=workers.pre_dispatch)(tasks)
        watch.finish(records)
    return records


class _Host(BaseModel):
    """How a worker's machine is shared.

    Attributes:
        num_runs: Runs on it at a time.
        num_threads: Threads of a run; None: its share of the cores.
        argv: The command that started the suite.
    """

    num_runs: int
    num_threads: int | None
    argv: list[str]


class _Told(BaseModel):
    """What a worker writes about its run: the share that is done, the part of it that was done before, its end."""

    share: float = 0.0
    before: float = 0.0
    run_id: str | None = None


def _run_and_tell(file: Path, experiment: Experiment, root: Path, options: dict[str, Any], host: _Host) -> Record:
    """One run in a worker process."""
    if options["device"] != "cpu":
        claim_gpu()
    import torch

    quiet_libraries()
    sys.argv = host.argv  # provenance names the user's command, and not the cluster's
    torch.set_num_threads(host.num_threads or max(1, joblib.cpu_count() // host.num_runs))
    told: _Told | None = None

    def report(share: float, message: str) -> None:
        nonlocal told
        if told is None or share - told.share >= 0.01:
            told = _Told(share=share, before=share if told is None else told.before)
            _tell(file, told)

    record = run(experiment, root, report=report, **options)
    _tell(file, _Told(share=1.0, before=0.0 if told is None else told.before, run_id=record.run_id))
    return record


def _tell(file: Path, told: _Told) -> None:
    if file.parent.is_dir():  # gone when the suite has been interrupted
        with atomic_path(file) as temporary:
            temporary.write_text(told.model_dump_json())


class _Watch:
    """Reads what workers tell, and shows it."""

    def __init__(self, experiments: list[Experiment], folder: Path, store: Store, progress: Progress, done: float):
        self.experiments, self.folder, self.store, self.progress, self.done = (
            experiments, folder, store, progress, done,
        )  # fmt: skip
        self.told = [_Told() for _ in experiments]
        self.costs = [flops(experiment) for experiment in experiments]
        self.called_at = now()

    def file(self, index: int) -> Path:
        """Where the worker of a run writes."""
        return self.folder / str(index)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look every two seconds."""
        stop = threading.Event()

        def look_again() -> None:
            while not stop.wait(2.0):
                self.look()

        thread = threading.Thread(target=look_again, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def look(self) -> None:
        """Show what has ended since the last time, and how far the others are."""
        for index, told in enumerate(self.told):
            if told.run_id is None and self.file(index).exists():
                self.hear(index, _Told.model_validate_json(self.file(index).read_bytes()))
        num_done = sum(told.run_id is not None for told in self.told)
        self.progress.update(self.work(), f"{num_done} of {len(self.told)} done")

    def hear(self, index: int, told: _Told) -> None:
        """Take in what one worker has told."""
        self.progress.skip(0.95 * (told.before - self.told[index].before) * self.costs[index])
        self.told[index] = told
        if told.run_id is not None and (record := self.store.load_run(told.run_id)):
            _show_result(self.progress, self.work(), self.experiments[index], record, self.called_at)

    def work(self) -> float:
        """Work that is done: earlier, in finished runs, and in those that are running."""
        shares = (1.0 if told.run_id else 0.95 * told.share for told in self.told)
        return self.done + sum(cost * share for cost, share in zip(self.costs, shares, strict=True))

    def finish(self, records: list[Record]) -> None:
        """Show what has not been shown.

        Raises:
            UserError: If the workers wrote their records elsewhere.
        """
        self.look()
        for index, record in enumerate(records):
            if self.store.load_run(record.run_id) is None:
                raise UserError(
                    f"The workers wrote into another {self.store.root}, on their own machine; choose an --output that "
                    "all hosts share."
                )
            if self.told[index].run_id is None:
                self.hear(index, _Told(share=1.0, before=self.told[index].before, run_id=record.run_id))


def _show_result(progress: Progress, done: float, experiment: Experiment, record: Record, called_at: datetime) -> None:
    took = duration(record.provenance.wall_time_s)
    if datetime.fromisoformat(record.provenance.started_at) < called_at.replace(microsecond=0):
        progress.skip(flops(experiment))
        took = "already in the store"
    split = "test" if "test_score" in record.measurements else "validation"  # GLUE's test splits have no labels
    progress.line(done, f"{experiment.label()}: {split} score {record.measurements[f'{split}_score']:.3f} ({took})")
