"""What a trained model is worth: scores, losses, gaps and agreement with the teacher."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import NDArray

from mixkd.losses import cross_entropy, distillation_loss
from mixkd.tasks import compute_scores

Logits = NDArray[np.float32]


def measure(
    logits: Logits, labels: NDArray[np.int64], metric: str, teacher_logits: Logits | None = None
) -> dict[str, float]:
    """Score and loss on some examples, and how far the student is from its teacher there.

    Args:
        logits: The model's logits, shape (num_examples, num_classes).
        labels: Classes, shape (num_examples,).
        metric: A metric's name, see `mixkd.tasks`.
        teacher_logits: The teacher's logits of the same examples; None for the teacher itself.

    Returns:
        `score`, `loss` (cross-entropy, nats) and, with a teacher, `distillation_loss` (mean squared difference of
        logits) and `agreement` (share of equal predictions).
    """
    student = torch.from_numpy(logits)
    measurements = {
        "score": compute_scores(metric, logits.argmax(1), labels),
        "loss": cross_entropy(student, torch.from_numpy(labels)).mean().item(),
    }
    if teacher_logits is not None:
        distance = distillation_loss(student, torch.from_numpy(teacher_logits))
        measurements["distillation_loss"] = distance.mean().item()
        measurements["agreement"] = float(np.mean(logits.argmax(1) == teacher_logits.argmax(1)))
    return measurements


def add_gaps(measurements: Mapping[str, float]) -> dict[str, float]:
    """The measurements with the gaps between test and train (train in eval mode, on original examples).

    `generalization_gap` = test loss - train loss, `score_gap` = train score - test score, and with a teacher
    `distillation_gap` = test - train distillation loss: for all three, larger is worse.
    """
    gaps = {
        "generalization_gap": measurements["test_loss"] - measurements["train_loss"],
        "score_gap": measurements["train_score"] - measurements["test_score"],
    }
    if "test_distillation_loss" in measurements:
        gaps["distillation_gap"] = measurements["test_distillation_loss"] - measurements["train_distillation_loss"]
    return {**measurements, **gaps}


def example_frame(split: str, dataset: Dataset, logits: Logits, teacher_logits: Logits | None) -> pd.DataFrame:
    """One row per example, in the dataset's order: split, example_id, loss, prediction, teacher_prediction, label."""
    labels = np.asarray(dataset["label"])
    columns: dict[str, Any] = {
        "split": split,
        "example_id": dataset["example_id"],
        "loss": cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).numpy(),
        "prediction": logits.argmax(1),
        "teacher_prediction": None if teacher_logits is None else teacher_logits.argmax(1),
        "label": labels,
    }
    return pd.DataFrame(columns).astype({"teacher_prediction": "Int64"})
