"""The trainings that are compared: with this project's trainer, and with its peers."""

import copy
import functools
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from benchmarks import peers
from benchmarks.timing import NotRun
from benchmarks.training import (
    BATCH_SIZE,
    LEARNING_RATE,
    NUM_LAYERS,
    WEIGHT_DECAY,
    Data,
    Training,
    Variant,
    without_dropout,
)
from mixkd.cpu import use_cheap_dropout
from mixkd.forward import first_token_only
from mixkd.models import build_student
from mixkd.recipes import recipe
from mixkd.trainer import DistillationTrainer
from mixkd.vocabulary import use_tokens_of


def start(variant: Variant, data: Data, folder: Path) -> Training | NotRun:
    """Begin a training; what it writes goes to `folder`."""
    if variant.peer is None:
        return Ours(variant, data, folder)
    if reason := peers.missing(variant.peer):
        return NotRun(reason)
    return peers.PEERS[variant.peer](variant, data, folder)


class Ours:
    """A training with `DistillationTrainer`, prepared as `mixkd train` does it."""

    block_steps = 20

    def __init__(self, variant: Variant, data: Data, folder: Path):
        self.variant = variant
        self.student = build_student(data.teacher, NUM_LAYERS)
        teacher = copy.deepcopy(data.teacher)  # TextBrewer's stays as it is
        if variant.used_words:
            use_tokens_of(self.student, [data.train])
        if variant.cheap_dropout:
            use_cheap_dropout(self.student)
            teacher.set_attn_implementation("eager")
        if not variant.one_forward:
            split_forward(self.student)
        args = TrainingArguments(
            output_dir=str(folder), per_device_train_batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY, warmup_steps=0.1, num_train_epochs=1, bf16=variant.bf16,
            train_sampling_strategy="group_by_length" if variant.groups_lengths else "random", use_cpu=True,
            dataloader_pin_memory=False, optim=variant.optim, max_grad_norm=variant.max_grad_norm,
            logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        dtype = torch.bfloat16 if variant.bf16 else torch.float32
        self.ends: list[float] = []
        self.trainer = (DistillationTrainer if variant.caches_logits else UncachedTrainer)(
            self.student, recipe(variant.recipe), args, data.train, teacher=teacher,
            teacher_logits=data.teacher_logits, teacher_dtype=dtype, callbacks=[_StepClock(self.ends)],
        )  # fmt: skip
        self.trainer.remove_callback(PrinterCallback)
        if isinstance(self.trainer, UncachedTrainer):
            self.trainer.asked = teacher.to(dtype)

    def run(self, num_steps: int, seed: int) -> list[float]:
        """See `Training`."""
        self.ends.clear()
        self.trainer.args.data_seed, self.trainer.args.max_steps = seed, num_steps
        with ExitStack() as stack:
            if self.variant.first_token:
                for model in (self.student, self.trainer.teacher, getattr(self.trainer, "asked", None)):
                    stack.enter_context(first_token_only(model))
            self.trainer.train()
        return list(self.ends)

    def loss(self, rows: Sequence[int], seed: int) -> float:
        """See `Training`."""
        self.trainer.args.data_seed = seed
        batch = self.trainer.data_collator([self.trainer.train_dataset[row] for row in rows])
        self.student.train()
        with self.trainer.compute_loss_context_manager(), torch.no_grad(), without_dropout(self.student):
            return float(self.trainer.compute_loss(self.student, batch))


class _StepClock(TrainerCallback):
    def __init__(self, ends: list[float]):
        self.ends = ends

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


class UncachedTrainer(DistillationTrainer):
    """Asks the teacher, `asked`, for the originals' logits in every step."""

    asked: PreTrainedModel

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The recipe's loss."""
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            logits = self.asked(**{name: inputs[name] for name in self.columns}).logits
        self.step_loss.teacher_logits[torch.from_numpy(inputs["rows"])] = logits.float()
        return super().compute_loss(model, inputs, *args, **kwargs)


def split_forward(model: PreTrainedModel) -> None:
    """Let a model's forward do half of the rows, and then the others, each half as long as its longest text."""
    forward = model.forward

    @functools.wraps(forward)
    def two_forwards(*texts: Tensor, attention_mask: Tensor | None = None, **inputs: Tensor) -> Any:
        if attention_mask is None:  # not a training step
            return forward(*texts, **inputs)
        inputs["attention_mask"] = attention_mask
        num_originals, logits = len(attention_mask) // 2, []
        for rows in (slice(num_originals), slice(num_originals, None)):
            length = int(attention_mask[rows].sum(1).max())
            logits.append(forward(**{name: tensor[rows, :length] for name, tensor in inputs.items()}).logits)
        return SequenceClassifierOutput(logits=torch.cat(logits))

    model.forward = two_forwards
