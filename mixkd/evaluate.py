"""What a trained model is worth: scores, losses, gaps and agreement with the teacher."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import NDArray

from mixkd.losses import cross_entropy, distillation_loss
from mixkd.models import load_classifier, predict_logits
from mixkd.store import Store, UserError, atomic_path, content_id, file_sha256
from mixkd.tasks import Task, compute_scores

Logits = NDArray[np.float32]


class Part(NamedTuple):
    """Tokenised examples to evaluate on: a split of a task, or a subset of it."""

    name: str
    task: Task
    split: Dataset
    examples: Dataset


LogitsOf = Callable[[Part], Logits]


def evaluate(
    parts: list[Part], logits_of: LogitsOf, teacher_logits_of: LogitsOf | None
) -> tuple[dict[str, float], pd.DataFrame]:
    """Measurements on every part, the gaps between them, and every example's result.

    Args:
        parts: train, validation and test, then shifted test sets, whose names start with `shift/`.
        logits_of: The model's logits of a part.
        teacher_logits_of: The teacher's; None for the teacher itself.

    Returns:
        Measurements by name (`test_score`, `shift/vader-nyt/agreement`, ...), and the rows of examples.parquet.
    """
    measurements: dict[str, float] = {}
    frames = []
    for part in parts:
        name, metric = part.name, part.task.metrics[0]
        logits, labels = logits_of(part), np.asarray(part.examples["label"])
        teacher = None if teacher_logits_of is None else teacher_logits_of(part)
        prefix = f"{name}/" if name.startswith("shift/") else f"{name}_"
        measured = measure(logits, labels, metric, teacher)
        measurements |= {prefix + key: value for key, value in measured.items()}
        if name == "test" and teacher is not None:
            measurements["teacher_test_score"] = measure(teacher, labels, metric)["score"]
        frames.append(example_frame(name, part.examples, logits, teacher))
    return add_gaps(measurements), pd.concat(frames, ignore_index=True)


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


class CachedLogits:
    """A finished teacher's logits of whole splits, computed once and kept in the store's `cache`.

    The key holds the weights themselves, so that a teacher trained again never meets another one's logits.
    """

    def __init__(self, store: Store, run_id: str, label_names: Sequence[str], device: torch.device):
        folder = store.model_dir(run_id)
        if not folder.is_dir():
            raise UserError(f"The teacher's model {folder} is gone; delete {folder.parent} to have it trained again.")
        self.weights = file_sha256(folder / "model.safetensors")
        self.model = load_classifier(str(folder), label_names).to(device)
        self.folder = store.root / "cache" / "teacher_logits"

    def of(self, part: Part) -> Logits:
        """Logits of the part's examples, shape (num_examples, num_classes); those of its whole split are kept."""
        ids = [str(example_id) for example_id in part.split["example_id"]]
        longest = max(map(len, part.split["input_ids"]))
        key = {"weights": self.weights, "data": part.task.fingerprint, "ids": ids, "longest_text": longest}
        path = self.folder / f"{content_id(key)}.npy"
        try:
            logits = np.load(path)
        except (OSError, ValueError, EOFError):  # not there yet, or torn: it can always be computed again
            logits = predict_logits(self.model, part.split)
            with atomic_path(path) as temporary:
                np.save(temporary, logits)
        row_of = {example_id: row for row, example_id in enumerate(ids)}
        return logits[[row_of[str(example_id)] for example_id in part.examples["example_id"]]]
