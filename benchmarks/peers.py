"""Trainings with other libraries: the same models, texts, loss, optimizer and batches as ours."""

import copy
import importlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, get_linear_schedule_with_warmup
from transformers.modeling_outputs import SequenceClassifierOutput

from benchmarks.training import (
    BATCH_SIZE,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    MAX_LENGTH,
    NUM_LAYERS,
    WEIGHT_DECAY,
    Data,
    Training,
    Variant,
    without_dropout,
)
from mixkd.models import MODEL_COLUMNS, build_student


def missing(peer: str) -> str:
    """Why a library cannot be used; empty if it can."""
    try:
        importlib.import_module(_MODULES[peer])
    except (ImportError, RuntimeError) as error:  # a torchvision that was built for another torch raises the latter
        return f"{peer} cannot be imported ({str(error).splitlines()[0]}): pip install 'mixkd[{_EXTRAS[peer]}]'"
    return ""


class _Batches:
    """Texts in random order, padded as the variant says."""

    def __init__(self, variant: Variant, data: Data):
        columns = [name for name in MODEL_COLUMNS if name in data.train.column_names]
        self.examples = data.train.select_columns([*columns, "label"]).rename_column("label", "labels")
        self.pad = DataCollatorWithPadding(data.tokenizer, padding=variant.padding, max_length=MAX_LENGTH)

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        return dict(self.pad(examples))  # GeneralDistiller asks for a dict and no other mapping

    def of_rows(self, rows: Sequence[int]) -> dict[str, Tensor]:
        return self.collate([self.examples[row] for row in rows])

    def loader(self, seed: int) -> DataLoader:
        return DataLoader(
            self.examples, BATCH_SIZE, shuffle=True, collate_fn=self.collate, drop_last=True,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip


class TextBrewer:
    """A training with `textbrewer.GeneralDistiller`, used as in its SST-2 example."""

    block_steps = 5  # random batches are all padded to about 52 tokens

    def __init__(self, variant: Variant, data: Data, folder: Path):
        from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

        self.student = build_student(data.teacher, NUM_LAYERS)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.batches = _Batches(variant, data)
        self.distiller = GeneralDistiller(
            TrainingConfig(device="cpu", output_dir=str(folder)),
            DistillationConfig(temperature=1, kd_loss_type="mse", kd_loss_weight=1, hard_label_weight=1),
            data.teacher,
            self.student,
            _adapt,
            _adapt,
        )

    def run(self, num_steps: int, seed: int) -> list[float]:
        """See `Training`."""
        loader = self.batches.loader(seed)
        ends: list[float] = []

        def end_step(*_: Any) -> None:
            ends.append(time.perf_counter())
            if len(ends) == num_steps:
                raise _EnoughSteps  # before the checkpoint that every training ends with

        hook = self.optimizer.register_step_post_hook(end_step)
        schedule = {"num_warmup_steps": len(loader) // 10, "num_training_steps": len(loader)}
        try:
            with self.distiller:
                self.distiller.train(
                    self.optimizer, loader, num_epochs=1, scheduler_class=get_linear_schedule_with_warmup,
                    scheduler_args=schedule, max_grad_norm=MAX_GRAD_NORM,
                )  # fmt: skip
        except _EnoughSteps:
            self.optimizer.zero_grad()
        finally:
            hook.remove()
        return ends

    def loss(self, rows: Sequence[int], seed: int) -> float:
        """See `Training`; nothing is drawn here."""
        with self.distiller, torch.no_grad(), without_dropout(self.student):
            return float(self.distiller.train_on_batch(self.batches.of_rows(rows), {})[0])


class _EnoughSteps(Exception):
    pass


def _adapt(batch: dict[str, Tensor], outputs: SequenceClassifierOutput) -> dict[str, Tensor]:
    return {"logits": outputs.logits, "losses": outputs.loss}


class Torchdistill:
    """A training with torchdistill's `DistillationBox`, in the loop of its text classification example."""

    block_steps = 5

    def __init__(self, variant: Variant, data: Data, folder: Path):
        from torchdistill.core.distillation import get_distillation_box

        self.student = build_student(data.teacher, NUM_LAYERS)
        self.batches = _Batches(variant, data)
        teacher = copy.deepcopy(data.teacher)  # it is frozen
        num_steps = len(self.batches.examples) // BATCH_SIZE
        config = _torchdistill_config(num_steps)
        self.box = get_distillation_box(teacher, self.student, {}, config, torch.device("cpu"), None, False, 1)

    def run(self, num_steps: int, seed: int) -> list[float]:
        """See `Training`."""
        ends: list[float] = []
        self.box.pre_epoch_process()
        for batch, _ in zip(self.batches.loader(seed), range(num_steps), strict=False):
            self.box.post_forward_process(self._loss(batch))
            ends.append(time.perf_counter())
        return ends

    def loss(self, rows: Sequence[int], seed: int) -> float:
        """See `Training`; nothing is drawn here."""
        self.box.pre_epoch_process()
        with torch.no_grad(), without_dropout(self.student):
            return float(self._loss(self.batches.of_rows(rows)))

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        texts = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return self.box.forward_process(texts, batch["labels"])


def _torchdistill_config(num_steps: int) -> dict[str, Any]:
    def term(loss: str, target: dict[str, Any]) -> dict[str, Any]:
        logits = {"is_from_teacher": False, "module_path": "classifier", "io": "output"}
        wrapper = {"key": "SimpleLossWrapper", "kwargs": {"input": logits, "target": target}}
        return {"criterion": {"key": loss, "kwargs": {}}, "criterion_wrapper": wrapper, "weight": 1.0}

    model = {"forward_proc": "forward_batch_only_as_kwargs", "forward_hook": {"input": [], "output": ["classifier"]}}
    teachers = {"is_from_teacher": True, "module_path": "classifier", "io": "output"}
    terms = {"label": term("CrossEntropyLoss", {"uses_label": True}), "teacher": term("MSELoss", teachers)}
    schedule = {"start_factor": 1.0, "end_factor": 0.0, "total_iters": num_steps}
    return {
        "num_epochs": 1,
        "teacher": {**model, "requires_grad": False},
        "student": model,
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
            "max_grad_norm": MAX_GRAD_NORM,
        },
        "scheduler": {"key": "LinearLR", "kwargs": schedule, "scheduling_step": 1},
    }


class _Peer(Protocol):
    def __call__(self, variant: Variant, data: Data, folder: Path) -> Training: ...


PEERS: Mapping[str, _Peer] = {"textbrewer": TextBrewer, "torchdistill": Torchdistill}
_EXTRAS = {"textbrewer": "peers", "torchdistill": "torchdistill"}
_MODULES = {"textbrewer": "textbrewer", "torchdistill": "torchdistill.core.distillation"}
