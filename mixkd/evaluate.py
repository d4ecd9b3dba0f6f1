"""What a trained model is worth: scores, losses, calibration, gaps, agreement with the teacher and with people."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import NDArray
from scipy.special import softmax

from mixkd.human import human_reference
from mixkd.losses import distillation_loss, label_loss
from mixkd.metrics import compute_scores, has_labels
from mixkd.noise import case_noise, typos
from mixkd.tasks import Task, labels_of

Logits = NDArray[np.float32]

#: Rates of the noise that a model has to stand; see `mixkd.noise` for what they are rates of.
TYPO_RATE = CASE_RATE = 0.1


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
    """Measurements on every part that has labels, the gaps between them, and every example's result.

    Args:
        parts: The task's train, validation and test (and further splits), then others with a slash in their name, such
            as `shift/vader-nyt` and `noise/typos`.
        logits_of: The model's logits of a part.
        teacher_logits_of: The teacher's; None for the teacher itself.

    Returns:
        Measurements by name (`test_score`, `shift/vader-nyt/agreement`, ...), and the rows of examples.parquet.
    """
    measurements: dict[str, float] = {}
    frames = []
    task, heldout = parts[0].task, parts[0].task.heldout
    for part in parts:
        name, labels = part.name, labels_of(part.examples)
        if not has_labels(labels):
            continue
        logits = logits_of(part)
        teacher = None if teacher_logits_of is None else teacher_logits_of(part)
        prefix = f"{name}/" if "/" in name else f"{name}_"
        measured = measure(logits, labels, part.task.metrics, teacher)
        measurements |= {prefix + key: value for key, value in measured.items()}
        if name == heldout and teacher is not None:
            measurements[f"teacher_{heldout}_score"] = measure(teacher, labels, part.task.metrics)["score"]
        if name == heldout and "ratings" in task.dataset[heldout].column_names:
            measurements |= human_reference(task.dataset[heldout]["ratings"], labels, logits)
        frames.append(example_frame(name, part.examples, logits, teacher))
    return add_gaps(measurements, heldout), pd.concat(frames, ignore_index=True)


def noisy_texts(split: Dataset, text_columns: Sequence[str]) -> dict[str, Dataset]:
    """A split's examples, not yet tokenised, with mistakes that people make, from a fixed seed.

    Returns:
        The split by the name of its part: `noise/typos` and `noise/case`.
    """

    def spoil(noise: Callable[..., list[str]], rate: float) -> Dataset:
        generator, noisy = np.random.default_rng(0), split
        for column in text_columns:
            noisy = noisy.remove_columns(column).add_column(column, noise(list(split[column]), rate, generator))
        return noisy

    return {"noise/typos": spoil(typos, TYPO_RATE), "noise/case": spoil(case_noise, CASE_RATE)}


def measure(
    logits: Logits, labels: NDArray[Any], metrics: Sequence[str], teacher_logits: Logits | None = None
) -> dict[str, float]:
    """Scores, loss and calibration on some examples, and how far the student is from its teacher there.

    Args:
        logits: The model's logits, shape (num_examples, num_classes); one column is a regression's prediction.
        labels: Classes or, for a regression, real numbers, shape (num_examples,).
        metrics: Names of metrics, see `mixkd.metrics`.
        teacher_logits: The teacher's logits of the same examples; None for the teacher itself.

    Returns:
        `score` by the first metric and each further one by its name; `loss` (cross-entropy in nats, or squared error);
        for classes `ece` and `brier`; with a teacher `distillation_loss` (mean squared difference of logits) and, for
        classes, `agreement` (share of equal predictions).
    """
    student, is_regression = torch.from_numpy(logits), logits.shape[1] == 1
    predictions = predict(logits)
    names = ("score", *metrics[1:])
    measurements = {
        name: compute_scores(metric, predictions, labels) for name, metric in zip(names, metrics, strict=True)
    }
    measurements["loss"] = label_loss(student, torch.from_numpy(labels)).mean().item()
    if not is_regression:
        probabilities = softmax(logits.astype(np.float64), axis=1)
        measurements["ece"] = calibration_error(probabilities, labels)
        measurements["brier"] = brier_score(probabilities, labels)
    if teacher_logits is not None:
        measurements["distillation_loss"] = distillation_loss(student, torch.from_numpy(teacher_logits)).mean().item()
        if not is_regression:
            measurements["agreement"] = float(np.mean(predictions == predict(teacher_logits)))
    return measurements


def predict(logits: Logits) -> NDArray[Any]:
    """The predicted classes, or a regression's numbers, shape (num_examples,)."""
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(1)


def calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64], num_bins: int = 15) -> float:
    """Expected calibration error of the predicted class (Guo et al. 2017, equation 3).

    Examples are binned by the probability p of their predicted class, bin m holding ((m - 1) / M, m / M]; the error is
    the mean over examples of |accuracy - mean p| of their bin, in [0, 1]. With few examples per bin it is positive
    also for a calibrated model.

    Args:
        probabilities: Shape (num_examples, num_classes).
        labels: Classes, shape (num_examples,).
        num_bins: M.
    """
    confidence = probabilities.max(1)
    excess = (probabilities.argmax(1) == labels) - confidence
    edges = np.arange(1, num_bins) / num_bins
    bins = np.digitize(confidence, edges, right=True)
    return float(np.abs(np.bincount(bins, weights=excess)).sum() / len(labels))


def brier_score(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Squared distance of the probabilities to the one-hot label, summed over classes (Brier 1950), mean over examples.

    In [0, 2]; with two classes it is twice the score of the positive class that scikit-learn gives.
    """
    one_hot = np.eye(probabilities.shape[1])[labels]
    return float(np.square(probabilities - one_hot).sum(1).mean())


def add_gaps(measurements: Mapping[str, float], heldout: str = "test") -> dict[str, float]:
    """The measurements with the gaps between the held-out split and train (in eval mode, on original examples).

    `generalization_gap` = held-out loss - train loss, `score_gap` = train score - held-out score, and with a teacher
    `distillation_gap` = held-out - train distillation loss: for all three, larger is worse.
    """
    gaps = {
        "generalization_gap": measurements[f"{heldout}_loss"] - measurements["train_loss"],
        "score_gap": measurements["train_score"] - measurements[f"{heldout}_score"],
    }
    if "train_distillation_loss" in measurements:
        name = "distillation_loss"
        gaps["distillation_gap"] = measurements[f"{heldout}_{name}"] - measurements[f"train_{name}"]
    return {**measurements, **gaps}


def example_frame(split: str, dataset: Dataset, logits: Logits, teacher_logits: Logits | None) -> pd.DataFrame:
    """One row per example, in the dataset's order: split, example_id, loss, prediction, teacher_prediction, label.

    Predictions are classes (Int64, missing without a teacher) or, for a regression, numbers (Float64).
    """
    labels = labels_of(dataset)
    columns: dict[str, Any] = {
        "split": split,
        "example_id": dataset["example_id"],
        "loss": label_loss(torch.from_numpy(logits), torch.from_numpy(labels)).numpy(),
        "prediction": predict(logits),
        "teacher_prediction": None if teacher_logits is None else predict(teacher_logits),
        "label": labels,
    }
    return pd.DataFrame(columns).astype({"teacher_prediction": "Float64" if logits.shape[1] == 1 else "Int64"})
