"""Intervals of scores over texts: against closed forms, and where a score is undefined."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from mixkd.metrics import bootstrap_interval, compute_scores


def answers(num, share_right, seed=0):
    """Predicted and true classes, so many of them right."""
    labels = np.random.default_rng(seed).integers(2, size=num).astype(float)
    is_right = np.arange(num) < share_right * num
    return np.where(is_right, labels, 1 - labels), labels


def test_that_of_an_accuracy_is_wilson_s():
    num, share = 2000, 0.8
    found = bootstrap_interval("accuracy", *answers(num, share), seed=0)
    standard_error = np.sqrt(share * (1 - share) / num)  # a quantile of 1,000 draws has one of 0.085 of these
    assert found == pytest.approx(proportion_confint(share * num, num, method="wilson"), abs=0.25 * standard_error)


def test_that_of_a_correlation_is_fisher_s():
    num, generator = 1000, np.random.default_rng(1)
    labels = generator.normal(size=num)
    predictions = 0.7 * labels + generator.normal(size=num)
    score = compute_scores("pearson", predictions, labels)
    fisher = np.tanh(np.arctanh(score) + stats.norm.ppf([0.025, 0.975]) / np.sqrt(num - 3))
    found = bootstrap_interval("pearson", predictions, labels, seed=0)
    assert found == pytest.approx(tuple(fisher), abs=0.25 * (1 - score**2) / np.sqrt(num))


def test_it_holds_the_score_and_is_the_same_for_one_seed():
    predictions, labels = answers(300, 0.7)
    low, high = bootstrap_interval("matthews", predictions, labels, seed=3)
    assert low < compute_scores("matthews", predictions, labels) < high
    assert (low, high) == bootstrap_interval("matthews", predictions, labels, seed=3)


@pytest.mark.parametrize("metric", ["f1", "matthews", "pearson", "spearman"])
def test_resamples_without_a_score_are_left_out(metric):
    """Every resample with a text of class 1, a third has none, is answered without an error."""
    labels = np.array([1.0] + [0.0] * 19)
    assert bootstrap_interval(metric, labels, labels, seed=0) == pytest.approx((1, 1))


def test_a_score_that_is_undefined_in_every_resample_has_no_interval():
    labels = np.array([1.0, 0.0] * 10)
    assert bootstrap_interval("matthews", np.zeros(20), labels, seed=0) is None
    assert bootstrap_interval("f1", np.zeros(20), np.zeros(20), seed=0) is None
    assert bootstrap_interval("f1", np.zeros(20), labels, seed=0) == (0, 0)  # class 1 is there, and never found
