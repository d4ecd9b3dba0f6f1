"""On CUDA: a training step's share of the matmul ceiling, for BERT-base taught down to 6 and to 3 layers, in bf16.

The texts have 128 random tokens and no padding. Steps are timed by events, one after another, after a warm-up; no test
asserts a time or a share.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig

from benchmarks.conftest import Session
from benchmarks.replay import measured_times, replay, skip_not_run
from benchmarks.timing import NotRun, unless_out_of_memory
from benchmarks.utilisation import Steps, matmul_ceiling

pytestmark = measured_times

LENGTH, NUM_STEPS = 128, 40


@pytest.fixture(scope="session")
def ceiling(session: Session) -> float | NotRun:
    """Operations per second that the device reaches in bfloat16."""
    if session.device.type != "cuda" or session.unavailable:
        return NotRun(session.unavailable or "a share of a GPU's ceiling is measured on CUDA only")
    return unless_out_of_memory(lambda: matmul_ceiling(session.device, torch.bfloat16))


@pytest.mark.parametrize("recipe", ["kd", "sm+tmkd"])
@pytest.mark.parametrize("student_layers", [6, 3])
@pytest.mark.parametrize("batch_size", [32, 128])
def test_utilisation(
    benchmark,
    session: Session,
    ceiling: float | NotRun,
    tmp_path: Path,
    batch_size: int,
    student_layers: int,
    recipe: str,
) -> None:
    is_gpu = session.device.type == "cuda" and not session.unavailable
    benchmark.group = "share of the matmul ceiling, seconds per step"
    benchmark.extra_info |= {
        "kind": "training", "model": f"{recipe}, BERT-base", "num_layers": student_layers, "batch_size": batch_size,
        "sequence_length": LENGTH, "num_threads": session.num_threads, "dtype": "bfloat16",
        "device": torch.cuda.get_device_name(session.device) if is_gpu else session.device.type,
    }  # fmt: skip
    if isinstance(ceiling, NotRun):
        skip_not_run(benchmark, ceiling.reason)

    def measure() -> tuple[int, list[float]]:
        steps = Steps(recipe, BertConfig(num_labels=2), student_layers, batch_size, LENGTH, session.device, tmp_path)
        return steps.count_flops(), steps.seconds(NUM_STEPS)

    measured = unless_out_of_memory(measure)
    if isinstance(measured, NotRun):
        skip_not_run(benchmark, measured.reason)
    flops, seconds = measured
    p50_s = float(np.median(seconds))
    share = flops / p50_s / ceiling
    assert 0 < share < 1, "more than the ceiling"
    benchmark.extra_info |= {
        "flops": flops, "p50_s": p50_s, "examples_per_s": batch_size / p50_s,
        "tokens_per_s": batch_size * LENGTH / p50_s, "ceiling_flops_per_s": ceiling, "share_of_ceiling": share,
    }  # fmt: skip
    replay(benchmark, seconds)
