"""GLUE's metrics, as scikit-learn and SciPy compute them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixkd.store import UserError


def _accuracy(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions, sample_weight=weights))


def _f1(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, pos_label=1, zero_division=0.0, sample_weight=weights))


def _matthews(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions, sample_weight=weights))


def _pearson(labels: ArrayLike, predictions: ArrayLike) -> float:
    from scipy.stats import pearsonr

    return 0.0 if _is_constant(labels) or _is_constant(predictions) else float(pearsonr(labels, predictions)[0])


def _spearman(labels: ArrayLike, predictions: ArrayLike) -> float:
    from scipy.stats import spearmanr

    return 0.0 if _is_constant(labels) or _is_constant(predictions) else float(spearmanr(labels, predictions)[0])


def _is_constant(values: ArrayLike) -> bool:
    return bool(np.ptp(np.asarray(values)) == 0)


Metric = Callable[..., float]

#: Metric name -> function of (labels, predicted classes, weights of examples). Every metric goes up; f1 is class 1's.
CLASS_METRICS: dict[str, Metric] = {"accuracy": _accuracy, "f1": _f1, "matthews": _matthews}
#: Metric name -> function of (labels, predicted numbers); a correlation with a constant is 0.
REGRESSION_METRICS: dict[str, Metric] = {"pearson": _pearson, "spearman": _spearman}
METRICS = CLASS_METRICS | REGRESSION_METRICS

_NUM_RESAMPLES = 1000


def has_labels(labels: ArrayLike) -> bool:
    """Whether a split can be scored.

    Args:
        labels: Classes, or real numbers, which are unlabelled if one is NaN or all are -1: among numbers that vary,
            -1 is one like any other.
    """
    values = np.asarray(labels)
    if np.issubdtype(values.dtype, np.floating):
        return not (np.isnan(values).any() or (values == -1).all())
    return not (values < 0).any()


def compute_scores(metric: str, predictions: ArrayLike, labels: ArrayLike) -> float:
    """Score of predictions.

    Args:
        metric: A key of `METRICS`.
        predictions: Predicted classes, or numbers for a regression, shape (num_examples,).
        labels: True ones, shape (num_examples,).

    Raises:
        UserError: If the examples have no labels, as in GLUE's test splits.
    """
    if not has_labels(labels):
        raise UserError("This split has no labels (-1) and cannot be scored: evaluate on validation instead.")
    return METRICS[metric](labels, predictions)


def bootstrap_interval(metric: str, predictions: ArrayLike, labels: ArrayLike, seed: int) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of a score; examples are resampled, each prediction with its label.

    Resamples in which the score is undefined are left out: the value that stands for it there is a convention.

    Args:
        metric: A key of `METRICS`.
        predictions: Predicted classes, or numbers for a regression, shape (num_examples,).
        labels: True ones, shape (num_examples,).
        seed: Seed of the resampling.

    Returns:
        Low and high; None where the score is undefined in every resample, as that of a constant prediction may be.
    """
    predicted, true = np.asarray(predictions), np.asarray(labels)
    generator = np.random.default_rng(seed)
    scores = []
    for _ in range(_NUM_RESAMPLES):
        rows = generator.integers(len(true), size=len(true))
        if _is_defined(metric, predicted[rows], true[rows]):
            scores.append(compute_scores(metric, predicted[rows], true[rows]))
    if not scores:
        return None
    low, high = np.quantile(scores, (0.025, 0.975))
    return float(low), float(high)


def _is_defined(metric: str, predictions: NDArray[Any], labels: NDArray[Any]) -> bool:
    if metric == "accuracy":
        return True
    if metric == "f1":
        return bool((predictions == 1).any() or (labels == 1).any())
    return not (_is_constant(predictions) or _is_constant(labels))
