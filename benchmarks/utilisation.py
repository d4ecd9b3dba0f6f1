"""How much of what a device's matrix products allow a training step uses.

The operations of a step are those that torch counts while it runs: forward and backward of the student, forward of the
teacher on mixed texts, matrix products only. What is left out of the last layer is not counted, nor what a backward
pass computes again. The ceiling is the
fastest square matrix product that the same device does in the same precision.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from benchmarks.size import FLOPS_OF_KERNELS
from benchmarks.timing import Measure, measure_on
from benchmarks.variants import VARIANTS, check_answer
from mixkd.cpu import use_cheap_dropout
from mixkd.forward import compiled, first_token_only
from mixkd.models import build_student
from mixkd.recipes import recipe
from mixkd.trainer import DistillationTrainer

#: Of the square matrices, by kind of device.
SIZES = {"cuda": (4096, 8192, 16384), "cpu": (1024, 2048, 4096)}
NUM_ROUNDS = 20
NUM_WARMUP_STEPS = 5
#: Texts whose logits are checked.
NUM_CHECKED = 16


def matmul_ceiling(device: torch.device, dtype: torch.dtype, sizes: Sequence[int] = ()) -> float:
    """Operations per second of the fastest square matrix product, a multiply-add being two; median of its rounds."""
    measure = measure_on(device)
    return max(_matmul_speed(size, device, dtype, measure) for size in sizes or SIZES[device.type])


def _matmul_speed(size: int, device: torch.device, dtype: torch.dtype, measure: Measure) -> float:
    factors = [torch.randn((size, size), device=device, dtype=dtype) for _ in range(2)]
    seconds = [measure(lambda: factors[0] @ factors[1])[0] for _ in range(NUM_ROUNDS)]
    return 2 * size**3 / statistics.median(seconds[NUM_ROUNDS // 4 :])


class Steps:
    """A training of a student of some layers, on random texts of equal length; weights are random.

    Args:
        recipe_name: See `mixkd.recipe`.
        config: The teacher's.
        num_layers: The student's.
        batch_size: Original examples per step.
        length: Tokens per text.
        device: Where it runs.
        folder: For what Trainer writes.
        bf16: Whether in bfloat16 (autocast for the student, bfloat16 weights for the teacher).
        torch_compile: Whether what is timed is compiled by torch.
    """

    def __init__(
        self,
        recipe_name: str,
        config: BertConfig,
        num_layers: int,
        batch_size: int,
        length: int,
        device: torch.device,
        folder: Path,
        bf16: bool = True,
        torch_compile: bool = False,
    ):
        set_seed(0)
        teacher = BertForSequenceClassification(config).eval()
        num_texts = 64 * batch_size
        generator = np.random.default_rng(0)
        ids = generator.integers(5, config.vocab_size, (num_texts, length))
        train = Dataset.from_dict(
            {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "label": generator.integers(config.num_labels, size=num_texts),
                "length": np.full(num_texts, length),
            }
        )
        args = TrainingArguments(
            output_dir=str(folder), per_device_train_batch_size=batch_size, bf16=bf16, use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type == "cuda", logging_strategy="no", save_strategy="no", report_to="none",
            disable_tqdm=True, logging_nan_inf_filter=False,
        )  # fmt: skip
        student = build_student(teacher, num_layers)
        if device.type == "cpu":  # as `mixkd train` does it
            use_cheap_dropout(student)
            teacher.set_attn_implementation("eager")
        self._torch_compile = torch_compile
        self._clock = _StepClock(device)
        self._trainer = DistillationTrainer(
            student,
            recipe(recipe_name),
            args,
            train,
            teacher=teacher,
            teacher_logits=generator.normal(size=(num_texts, config.num_labels)).astype(np.float32),
            teacher_dtype=torch.bfloat16 if bf16 else torch.float32,
            callbacks=[self._clock],
        )
        self._trainer.remove_callback(PrinterCallback)

    def seconds(self, num_steps: int) -> list[float]:
        """Train for some steps, after a few that warm up; seconds of each.

        Raises:
            AssertionError: If nothing was compiled that should be, or the student's logits, computed as while it is
                trained, are not those of plain float32.
        """
        models = (self._trainer.model, self._trainer.teacher) if self._torch_compile else ()
        num_graphs = counters["stats"]["unique_graphs"]
        with compiled(*models):
            self._run(NUM_WARMUP_STEPS + num_steps)
            with first_token_only(self._trainer.model), self._trainer.compute_loss_context_manager():
                logits = self._logits()
        assert not models or counters["stats"]["unique_graphs"] > num_graphs, "nothing was compiled"
        check_answer(logits, self._logits(), VARIANTS["bfloat16"].tolerance)
        return self._clock.seconds()[-num_steps:]

    @torch.no_grad()
    def _logits(self) -> Tensor:
        """The student's, of a few texts, without dropout, shape (NUM_CHECKED, num_classes)."""
        batch = self._trainer.data_collator([self._trainer.train_dataset[row] for row in range(NUM_CHECKED)])
        student = self._trainer.model.eval()
        return student(**{name: batch[name].to(student.device) for name in ("input_ids", "attention_mask")}).logits

    def count_flops(self) -> int:
        """Operations of a step."""
        with FlopCounterMode(display=False, custom_mapping=FLOPS_OF_KERNELS) as counter:
            self._run(1)
        return counter.get_total_flops()

    def _run(self, num_steps: int) -> None:
        self._clock.clear()
        self._trainer.args.max_steps = num_steps
        with first_token_only(self._trainer.model), first_token_only(self._trainer.teacher):
            self._trainer.train()


class _StepClock(TrainerCallback):
    """Notes the end of every step, on a GPU by an event, so that no step waits for the one before."""

    def __init__(self, device: torch.device):
        self._is_gpu = device.type == "cuda"
        self._events: list[Any] = []

    def clear(self) -> None:
        self._events.clear()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._note()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._note()

    def _note(self) -> None:
        if self._is_gpu:
            self._events.append(torch.cuda.Event(enable_timing=True))
            self._events[-1].record()
        else:
            self._events.append(time.perf_counter())

    def seconds(self) -> list[float]:
        pairs = list(zip(self._events[:-1], self._events[1:], strict=True))
        if not self._is_gpu:
            return [end - start for start, end in pairs]
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]
