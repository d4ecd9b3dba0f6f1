"""The loss of a step: a recipe's terms, with what the rows of a training set are compared with."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixkd.batches import to_device
from mixkd.losses import distillation_loss, label_loss, pkd_loss
from mixkd.mixup import MixupPairs, mix_labels
from mixkd.recipes import Recipe


@dataclass(frozen=True)
class StepLoss:
    """The terms of a recipe as sums over examples, and what they compare the student's answers with.

    Attributes:
        recipe: Terms and weights.
        num_labels: Number of classes; 1 for a regression.
        labels: Of every row of the training set, shape (num_examples,).
        teacher_logits: Of every row, shape (num_examples, num_labels); None without a kd term.
        teacher_states: [CLS] of every row after the layers that pkd maps, shape (num_examples, num_mapped, hidden);
            None without a pkd term.
    """

    recipe: Recipe
    num_labels: int
    labels: Tensor
    teacher_logits: Tensor | None
    teacher_states: NDArray[np.float32] | None

    def of_originals(self, outputs: Any, labels: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Sum over the originals, which come first in the outputs, of the terms on them."""
        recipe, logits = self.recipe, outputs.logits[: len(labels)]
        loss = recipe.mle_weight * label_loss(logits, labels).sum()
        if recipe.kd_weight:
            target = self.teacher_logits[torch.from_numpy(rows)].to(logits.device, non_blocking=True)
            loss = loss + recipe.kd_weight * self._distance(logits, target).sum()
        if recipe.pkd_weight:
            layers = outputs.hidden_states[1 : self.teacher_states.shape[1] + 1]
            states = torch.stack([layer[: len(labels), 0] for layer in layers], dim=1)  # (batch, num_mapped, hidden)
            target = to_device(states.device, np.array(self.teacher_states[rows]))
            loss = loss + recipe.pkd_weight * pkd_loss(states, target, recipe.pkd.normalize, recipe.pkd.reduction).sum()
        return loss

    def of_mixed(self, logits: Tensor, pairs: MixupPairs, teacher_logits: Tensor | None) -> Tensor:
        """Sum over mixed examples, whose logits have shape (num_mixed, num_classes), of the terms on them."""
        recipe, loss = self.recipe, logits.new_zeros(())
        if recipe.sm_weight:
            loss = loss + recipe.sm_weight * label_loss(logits, self._mixed_labels(logits.device, pairs)).sum()
        if teacher_logits is not None:
            loss = loss + recipe.tmkd_weight * self._distance(logits, teacher_logits).sum()
        return loss / recipe.mixup.mix_ratio

    def _distance(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return distillation_loss(student_logits, teacher_logits, self.recipe.distance, self.recipe.temperature)

    def _mixed_labels(self, device: torch.device, pairs: MixupPairs) -> Tensor:
        labels = (self.labels[torch.from_numpy(np.ascontiguousarray(rows))] for rows in pairs[:2])
        labels, partner_labels = (part.to(device, non_blocking=True) for part in labels)
        return mix_labels(labels, partner_labels, to_device(device, pairs.lam), self.num_labels)
