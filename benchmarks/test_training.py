"""Speed of training on the CPU: TextBrewer, torchdistill, this project, and this one with one thing changed at a time.

The same MiniLM teacher, a 3-layer student, batches of 32 texts of `vader-movie`, at most 64 tokens. Measured only
with `--training SECONDS`. All trainings are timed together in interleaved blocks of steps (`training.time_blocks`); a
test checks its training's loss against one computed text by text, and reports its seconds per step. Examples are
originals: `sm+tmkd` trains on twice as many rows. No test asserts a time. Peak memory is that of a whole process.
"""

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import peers
from benchmarks.conftest import Session
from benchmarks.contestants import start
from benchmarks.replay import measured_times, replay, skip_not_run
from benchmarks.subjects import SEED
from benchmarks.timing import NotRun, speedup, unless_out_of_memory
from benchmarks.training import (
    BATCH_SIZE,
    MAX_LENGTH,
    NUM_LAYERS,
    VARIANTS,
    Data,
    Training,
    load_data,
    naive_loss,
    time_blocks,
)
from benchmarks.training_memory import training_memory_bytes
from mixkd.progress import Progress

pytestmark = measured_times

ROWS = range(0, 800, 100)
PEERS = ("textbrewer", "textbrewer-padded-to-64", "torchdistill")

#: By the variant's name: a training and its seconds per step, shape (num_rounds,), aligned over the trainings.
Trainings = dict[str, tuple[Training, NDArray[np.float64]] | NotRun]


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest) -> Data | NotRun:
    """Texts and teacher."""
    if not request.config.getoption("--training"):
        return NotRun("not asked for: give it time with --training 120")
    return load_data()


@pytest.fixture(scope="session")
def trainings(request: pytest.FixtureRequest, data: Data | NotRun) -> Iterator[Trainings]:
    """Times of all trainings that were asked for, measured interleaved."""
    asked = [item.callspec.params["variant"] for item in request.session.items if "trainings" in item.fixturenames]
    if isinstance(data, NotRun):
        yield dict.fromkeys(asked, data)
        return
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with tempfile.TemporaryDirectory() as folder:
        started = {name: unless_out_of_memory(partial(start, VARIANTS[name], data, Path(folder))) for name in asked}
        ready = {name: training for name, training in started.items() if not isinstance(training, NotRun)}
        with capture.global_and_fixture_disabled(), Progress(1.0, "training") as progress:

            def report(share: float) -> None:
                progress.update(share, f"{len(ready)} trainings, interleaved")

            seconds = time_blocks(ready, request.config.getoption("--training"), SEED, report)
        yield started | {
            name: times if isinstance(times, NotRun) else (ready[name], times) for name, times in seconds.items()
        }


def extra_info(session: Session, variant: str) -> dict[str, Any]:
    """What is known of a case before it is measured."""
    return {
        "kind": "training", "model": variant, "num_layers": NUM_LAYERS, "batch_size": BATCH_SIZE,
        "sequence_length": MAX_LENGTH, "num_threads": session.num_threads, "device": "cpu",
        "dtype": "bfloat16" if VARIANTS[variant].bf16 else "float32",
    }  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_training(benchmark, session: Session, data: Data | NotRun, trainings: Trainings, variant: str) -> None:
    settings, measured = VARIANTS[variant], trainings[variant]
    benchmark.group = "training, seconds per step"
    benchmark.extra_info |= extra_info(session, variant)
    if isinstance(measured, NotRun) or isinstance(data, NotRun):
        skip_not_run(benchmark, measured.reason)

    training, seconds = measured
    expected = naive_loss(settings, data, training.student, ROWS, SEED)
    assert training.loss(ROWS, SEED) == pytest.approx(expected, rel=0.02 if settings.bf16 else 1e-4)
    p50_s = float(np.median(seconds))
    benchmark.extra_info |= {"p50_s": p50_s, "examples_per_s": BATCH_SIZE / p50_s}
    benchmark.extra_info["times_as_fast"] = {
        other: speedup(beside[1], seconds)
        for other in (*PEERS, settings.recipe)
        if other != variant and isinstance(beside := trainings.get(other), tuple)
    }
    replay(benchmark, seconds)


@pytest.mark.parametrize("variant", ("textbrewer", "torchdistill", "kd", "sm+tmkd"))
def test_training_memory(benchmark, session: Session, data: Data | NotRun, variant: str) -> None:
    """The time that is reported is that of the whole process."""
    benchmark.group = "training, memory"
    benchmark.extra_info |= extra_info(session, variant)
    if isinstance(data, NotRun):
        skip_not_run(benchmark, data.reason)
    peer = VARIANTS[variant].peer
    if peer and (reason := peers.missing(peer)):
        skip_not_run(benchmark, reason)
    started_at = time.perf_counter()
    peak = unless_out_of_memory(lambda: training_memory_bytes(variant, session.num_threads))
    if isinstance(peak, NotRun):
        skip_not_run(benchmark, peak.reason)
    seconds = time.perf_counter() - started_at
    weights = 4 * sum(parameter.numel() for parameter in data.teacher.parameters())
    assert peak > weights, "the teacher alone takes more"
    benchmark.extra_info["peak_memory_bytes"] = peak
    replay(benchmark, [seconds])
