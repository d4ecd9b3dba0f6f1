"""What a suite costs on this machine: time and disk, told before anything starts."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import joblib
from pydantic import ValidationError

from mixkd.backends import default_jobs
from mixkd.cost import SHAPES, SIZES, UNKNOWN_TASK, Shape, disk_bytes, flops, is_known, shape, trained_shape
from mixkd.experiment import Experiment
from mixkd.gpus import gpu_name
from mixkd.progress import duration
from mixkd.provenance import processor
from mixkd.store import REPEATS, Record, Store, canonical_json

if TYPE_CHECKING:
    from mixkd.suite import Suite

#: Loading libraries, data and models, for each run.
_START_S = 4.0

#: Runs shorter than this say little about speed.
_LEAST_S = 8.0

#: Real runs reach this share of the speed of the bare loop that is measured.
_SHARE_OF_MEASURED = 0.75


class Speed(NamedTuple):
    """Operations per second of one core or one GPU, and how that is known."""

    flops_per_s: float
    source: str


class Estimate(NamedTuple):
    """What a suite costs from here on.

    Attributes:
        num_students: Students of the suite.
        num_teachers: Teachers that they need.
        num_done: Runs of both kinds that the store already holds, if data and models are what they were.
        num_jobs: Runs at a time.
        speed: Of one core or one GPU.
        time_s: From start to end.
        kept_bytes: Disk that the finished runs take.
        working_bytes: Disk for checkpoints while they run.
        assumed: Pretrained models taken to have BERT-base's sizes, and tasks taken to have SST-2's.
        caution: What should be known before it starts, or "".
    """

    num_students: int
    num_teachers: int
    num_done: int
    num_jobs: int
    speed: Speed
    time_s: float
    kept_bytes: int
    working_bytes: int
    assumed: list[str]
    caution: str

    def lines(self) -> list[str]:
        """The estimate for people."""
        runs = f"{_count(self.num_students, 'student')} and {_count(self.num_teachers, 'teacher')}"
        is_or_are = "is" if self.num_done == 1 else "are"
        done = f"; {self.num_done} of them {is_or_are} in the store, if data and models are the same"
        lines = [
            f"runs: {runs}{done if self.num_done else ''}",
            f"time: about {duration(self.time_s)}, {self.num_jobs} at a time "
            f"({self.speed.flops_per_s / 1e9:,.0f} GFLOP/s each core or GPU, {self.speed.source})",
            f"disk: {self.kept_bytes / 1e9:.1f} GB, and {self.working_bytes / 1e9:.1f} GB of checkpoints meanwhile",
        ]
        lines += [f"assumed: {', '.join(self.assumed)}"] * bool(self.assumed)
        return lines + [f"caution: {self.caution}"] * bool(self.caution)


def dry_run(
    suite: Suite, store: Store | str | Path = "results", device: str | None = None, jobs: int | None = None
) -> list[str]:
    """What `run_suite` would do, as lines for people; nothing is started, no data and no model is loaded."""
    estimate = estimate_suite(suite, store if isinstance(store, Store) else Store(store), device, jobs)
    return [f"suite {suite.name}: {' '.join(suite.description.split())}", *estimate.lines()]


def other_machines(suite: Suite, records: list[Record], root: Path, device: str | None = None) -> str:
    """A sentence about finished runs of a suite that are from another machine, if any others are to be done; or ""."""
    machines = {plain_identity(record.experiment): record.provenance.machine for record in records}
    found = [machines.get(plain_identity(experiment.identity())) for stage in suite.stages() for experiment in stage]
    here = _machine(device)
    others = Counter(machine for machine in found if machine not in (None, here))
    if not others or None not in found or here is None:
        return ""
    told = " and ".join(f"{_count(number, 'finished run')} from {machine}" for machine, number in others.items())
    root = root.parent.parent if root.parent.name == REPEATS else root
    return (
        f"the store has {told}, which this {here} does not compute alike. The report says how many of its pairs are of "
        f"two machines. --output {root / REPEATS / 'NAME'} does all runs here, beside the others."
    )


def estimate_suite(suite: Suite, store: Store, device: str | None = None, jobs: int | None = None) -> Estimate:
    """What is left to do of a suite, and what that costs on this machine."""
    jobs = default_jobs(device) if jobs is None else jobs
    records, _ = store.runs()
    finished = {plain_identity(record.experiment) for record in records}
    stages = suite.stages()
    teachers, students = ([e for e in stage if plain_identity(e.identity()) not in finished] for stage in stages)
    todo = teachers + students
    precision = Counter(e.precision for e in todo).most_common(1)[0][0] if todo else "fp32"
    hidden = max((trained_shape(e) for e in todo), key=lambda s: s.hidden, default=SHAPES["minilm"])
    speed = recorded_speed(records, device, precision) or measured_speed(hidden, device, precision)
    return Estimate(
        num_students=len(stages[1]),
        num_teachers=len(stages[0]),
        num_done=sum(map(len, stages)) - len(todo),
        num_jobs=jobs,
        speed=speed,
        time_s=sum(_stage_s(stage, speed.flops_per_s, device, jobs) for stage in (teachers, students) if stage),
        kept_bytes=sum(map(disk_bytes, todo)) + _states_bytes(students),
        # Two checkpoints are kept, each with the weights and AdamW's two moments.
        working_bytes=min(jobs, len(todo)) * 24 * max((trained_shape(e).num_parameters() for e in todo), default=0),
        assumed=_assumed(todo),
        caution=other_machines(suite, records, store.root, device),
    )


def _stage_s(experiments: list[Experiment], flops_per_s: float, device: str | None, jobs: int) -> float:
    """Time for runs that may all go at once."""
    jobs = min(jobs, len(experiments))
    if num_gpus := _num_gpus(device):
        per_run, at_once = flops_per_s * min(1.0, num_gpus / jobs), jobs
    else:
        per_run, at_once = flops_per_s * max(1, joblib.cpu_count() // jobs), min(jobs, joblib.cpu_count())
    times = [flops(experiment) / per_run + _START_S for experiment in experiments]
    return max(sum(times) / at_once, max(times))


def _num_gpus(device: str | None) -> int:
    import torch

    return 0 if device == "cpu" else torch.cuda.device_count()


def _machine(device: str | None) -> str | None:
    """What a run on a device is recorded to be run by, if that can be told."""
    return gpu_name() if _num_gpus(device) else processor()


def recorded_speed(records: list[Record], device: str | None, precision: str) -> Speed | None:
    """The median over finished runs on such a device in this precision; None if there are none."""
    on_gpu, here, rates = _num_gpus(device) > 0, _machine(device), []
    for record in records:
        there = record.provenance
        if there.machine != here or record.experiment.get("precision") != precision or there.wall_time_s < _LEAST_S:
            continue
        try:
            experiment = Experiment(**record.experiment)
        except ValidationError:  # a record of another version
            continue
        if not _unknown_models([experiment]):
            seconds = (there.wall_time_s - _START_S) * (1 if on_gpu else there.num_threads)
            rates.append(flops(experiment) / seconds)
    return Speed(median(rates), f"as in {_count(len(rates), 'finished run')}") if rates else None


def measured_speed(model: Shape, device: str | None, precision: str) -> Speed:
    """A second of training steps of two such layers, freshly drawn, on one core or one GPU."""
    import torch
    from transformers import BertConfig, BertModel

    where = torch.device("cuda" if _num_gpus(device) else "cpu")
    clock = time.perf_counter if where.type == "cuda" else time.process_time  # whatever else runs here now
    config = BertConfig(
        vocab_size=100,
        num_hidden_layers=2,
        hidden_size=model.hidden,
        num_attention_heads=max(1, model.hidden // 64),
        intermediate_size=model.intermediate,
    )
    bert = BertModel(config).to(where)
    num_texts, num_tokens = 32, 32
    ids = torch.randint(0, 100, (num_texts, num_tokens), device=where)
    target = torch.randn(num_texts, num_tokens, model.hidden, device=where)

    def step() -> None:
        with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = (bert(ids).last_hidden_state - target).square().sum()  # no gradient comes near underflow
        loss.backward()
        loss.item()  # wait for the device

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step()
        start, num_steps = clock(), 0
        while clock() - start < 1.0:
            step()
            num_steps += 1
        elapsed = clock() - start
    finally:
        torch.set_num_threads(num_threads)
    work = num_steps * 3 * num_texts * Shape(2, model.hidden, model.intermediate).forward(num_tokens)
    return Speed(_SHARE_OF_MEASURED * work / elapsed, "measured just now")


def _states_bytes(students: list[Experiment]) -> int:
    """The teachers' hidden states that PKD keeps on disk, once for each training set and layer map."""
    kept = {}
    for e in students:
        if recipe := (e.recipe_object() if e.pkd_weight else None):
            teacher = shape(e.teacher)
            layers = recipe.pkd.map_layers(teacher.num_layers, trained_shape(e).num_layers)
            num_bytes = 4 * len(layers) * teacher.hidden * SIZES.get(e.task, UNKNOWN_TASK).num_train
            kept[e.teacher_experiment(), layers] = num_bytes
    return sum(kept.values())


def _assumed(experiments: list[Experiment]) -> list[str]:
    tasks = sorted({experiment.task for experiment in experiments} - SIZES.keys())
    models = [f"{name} is as large as BERT-base" for name in _unknown_models(experiments)]
    return models + [f"{name} is as large as SST-2" for name in tasks]


def _unknown_models(experiments: list[Experiment]) -> list[str]:
    models = {name for e in experiments for name in (e.teacher, e.student) if name is not None}
    return sorted(name for name in models if not is_known(name))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def plain_identity(experiment: dict[str, object]) -> str:
    """What identifies an experiment, but for the content of its data and models, which would have to be loaded."""
    plain = {key: value for key, value in experiment.items() if not key.endswith("_fingerprint")}
    for role in ("teacher", "student"):
        if (name := plain.get(role)) and Path(str(name)).expanduser().is_dir():  # as `mixkd.run` records it
            plain[role] = Path(str(name)).expanduser().name
    return canonical_json(plain)
