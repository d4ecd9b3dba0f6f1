import math
import random
import warnings

import numpy as np
import pytest

from mixkd.metrics import CLASS_METRICS, METRICS, REGRESSION_METRICS, compute_scores, has_labels
from mixkd.store import UserError

RNG = random.Random(0)
LABELS = [RNG.randrange(2) for _ in range(60)]
PREDICTIONS = [label if RNG.random() < 0.7 else 1 - label for label in LABELS]
NUMBERS = [RNG.randrange(8) / 2 for _ in range(40)]  # with ties
GUESSES = [number**2 + RNG.gauss(0, 2) for number in NUMBERS]


def count(label, prediction):
    return sum((a, b) == (label, prediction) for a, b in zip(LABELS, PREDICTIONS, strict=True))


def correlation(x, y):
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))


def mean_ranks(values):
    return [sum(other < v for other in values) + (sum(other == v for other in values) + 1) / 2 for v in values]


def test_class_metrics_by_their_definitions():
    tp, tn, fp, fn = count(1, 1), count(0, 0), count(0, 1), count(1, 0)
    assert min(tp, tn, fp, fn) > 0
    matthews = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    expected = {"accuracy": (tp + tn) / 60, "f1": 2 * tp / (2 * tp + fp + fn), "matthews": matthews}
    assert {name: compute_scores(name, PREDICTIONS, LABELS) for name in CLASS_METRICS} == pytest.approx(expected)


def test_correlations_by_their_definitions():
    expected = {
        "pearson": correlation(NUMBERS, GUESSES),
        "spearman": correlation(mean_ranks(NUMBERS), mean_ranks(GUESSES)),
    }
    assert abs(expected["pearson"] - expected["spearman"]) > 0.01
    assert {name: compute_scores(name, GUESSES, NUMBERS) for name in REGRESSION_METRICS} == pytest.approx(expected)


def test_matthews_takes_three_classes():
    assert compute_scores("matthews", [0, 1, 2], [0, 1, 2]) == 1.0


@pytest.mark.parametrize(
    ("metric", "predictions", "labels"),
    [
        ("matthews", [1, 1, 1], [0, 1, 1]),
        ("matthews", [0, 1, 1], [1, 1, 1]),
        ("f1", [0, 0, 0], [0, 1, 1]),
        ("f1", [0, 0], [0, 0]),
        ("pearson", [2.5, 2.5, 2.5], [0.0, 1.0, 5.0]),
        ("pearson", [0.0, 1.0, 5.0], [2.5, 2.5, 2.5]),
        ("spearman", [2.5, 2.5, 2.5], [0.0, 1.0, 5.0]),
        ("spearman", [1.0], [2.0]),
    ],
)
def test_what_has_no_value_is_zero_and_warns_of_nothing(metric, predictions, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = compute_scores(metric, np.array(predictions), np.array(labels))
    assert score == 0.0 and type(score) is float


@pytest.mark.parametrize("metric", list(METRICS))
def test_every_metric_is_1_for_what_is_right(metric):
    assert METRICS[metric]([0, 1, 1, 0], [0, 1, 1, 0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1], True),
        ([0, -1], False),
        ([-1, -1], False),
        ([0.0, 5.0], True),
        ([-1.0, -1.0], False),
        ([math.nan, 1.0], False),
        ([-1.0, 2.0, -3.5], True),  # a number like any other
    ],
)
def test_what_counts_as_labelled(labels, expected):
    assert has_labels(labels) is expected
    metric = "accuracy" if isinstance(labels[0], int) else "pearson"
    if expected:
        compute_scores(metric, labels, labels)
    else:
        with pytest.raises(UserError, match=r"no labels \(-1\).*validation"):
            compute_scores(metric, [0] * len(labels), labels)
