"""A training step's share of the matmul ceiling, in bf16: BERT-base taught down to 6 and to 3 layers on CUDA, MiniLM.

Of MixKD's step also compiled, as by `mixkd train --torch_compile true`, which fuses what lies between the products.
The texts have random tokens and no padding. Steps are timed one after another, on a GPU by events, after a warm-up; no
test asserts a time or a share.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from transformers import BertConfig

from benchmarks.conftest import Session
from benchmarks.replay import measured_times, replay, skip_not_run
from benchmarks.subjects import MINILM
from benchmarks.timing import NotRun, unless_out_of_memory
from benchmarks.utilisation import Steps, matmul_ceiling
from mixkd.gpus import device_name
from mixkd.store import UserError

pytestmark = measured_times

NUM_STEPS = 40


class Student(NamedTuple):
    """What is trained: a student of some layers of a teacher, in batches of texts of one length."""

    teacher: str
    layers: int
    batch: int
    length: int


STUDENTS = [*(Student("BERT-base", layers, batch, 128) for layers in (6, 3) for batch in (32, 128)),
            Student("MiniLM", 3, 32, 32)]  # fmt: skip
CONFIGS = {"BERT-base": BertConfig(num_labels=2), "MiniLM": BertConfig(**MINILM)}


@pytest.mark.parametrize("training", ["kd", "sm+tmkd", "sm+tmkd compiled"])
@pytest.mark.parametrize("student", STUDENTS, ids=lambda student: "-".join(map(str, student)))
def test_utilisation(benchmark, session: Session, tmp_path: Path, student: Student, training: str) -> None:
    is_gpu = session.device.type == "cuda" and not session.unavailable
    benchmark.group = "share of the matmul ceiling, seconds per step"
    benchmark.extra_info |= {
        "kind": "training", "model": f"{training}, {student.teacher}", "num_layers": student.layers,
        "batch_size": student.batch, "sequence_length": student.length, "num_threads": session.num_threads,
        "dtype": "bfloat16",
        "device": device_name(session.device),
    }  # fmt: skip
    if session.unavailable:
        skip_not_run(benchmark, session.unavailable)
    if student.teacher == "BERT-base" and not is_gpu:
        skip_not_run(benchmark, "BERT-base is trained on CUDA only")
    recipe, _, compiled = training.partition(" ")
    if compiled and not is_gpu:
        skip_not_run(benchmark, "compiled trainings are timed on CUDA only")

    def measure() -> tuple[float, int, list[float]]:
        steps = Steps(
            recipe, CONFIGS[student.teacher], student.layers, student.batch, student.length, session.device, tmp_path,
            torch_compile=bool(compiled),
        )  # fmt: skip
        ceiling = matmul_ceiling(session.device, torch.bfloat16)
        return ceiling, steps.count_flops(), steps.seconds(NUM_STEPS)

    try:
        measured = unless_out_of_memory(measure)
    except UserError as error:
        if not compiled:
            raise
        measured = NotRun(str(error))  # there is no compiler
    if isinstance(measured, NotRun):
        skip_not_run(benchmark, measured.reason)
    ceiling, flops, seconds = measured
    p50_s = float(np.median(seconds))
    benchmark.extra_info |= {
        "flops": flops, "p50_s": p50_s, "examples_per_s": student.batch / p50_s,
        "tokens_per_s": student.batch * student.length / p50_s, "ceiling_flops_per_s": ceiling,
        "share_of_ceiling": flops / p50_s / ceiling,
    }  # fmt: skip
    replay(benchmark, seconds)
