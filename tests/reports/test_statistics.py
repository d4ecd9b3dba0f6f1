import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from reports import statistics
from reports.statistics import Interval


def pairs(n: int, seed: int = 0, effect: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(2, 0.5, n)
    return shared + effect + rng.normal(0, 0.3, n), shared + rng.normal(0, 0.3, n)


@pytest.mark.parametrize("n", [2, 3, 30])
def test_mean_agrees_with_scipy(n):
    values = pairs(n)[0]
    found = statistics.mean_estimate(values, 1.5)
    reference = stats.ttest_1samp(values, 1.5)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert found.p_below == pytest.approx(stats.ttest_1samp(values, 1.5, alternative="less").pvalue)
    assert found.p_above == pytest.approx(stats.ttest_1samp(values, 1.5, alternative="greater").pvalue)


@pytest.mark.parametrize("n", [3, 30])
def test_ratio_interval_holds_what_the_paired_test_does_not_reject(n):
    arm, reference = pairs(n)
    found = statistics.ratio_estimate(arm, reference, 0.9)
    assert found.effect == pytest.approx(arm.mean() / reference.mean())
    for end in (found.low, found.high):
        assert stats.ttest_rel(arm, end * reference).pvalue == pytest.approx(0.05, abs=1e-6)
    assert found.p_above == pytest.approx(stats.ttest_rel(arm, 0.9 * reference, alternative="greater").pvalue)


def test_ratio_covers_with_three_pairs():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        reference = rng.normal(1, 0.2, 3)
        found = statistics.ratio_estimate(0.7 * reference + rng.normal(0, 0.1, 3), reference)
        hits += found.low <= 0.7 <= found.high
    # A binomial count of 1,000 at 0.95 has a standard error of 0.007.
    assert hits / 1000 == pytest.approx(0.95, abs=0.028)


def test_ratio_is_unbounded_over_an_unclear_denominator():
    found = statistics.ratio_estimate([1.0, 1.1, 0.9], [0.5, -0.5, 0.1])
    assert (found.low, found.high, found.p_below, found.p_above) == (-np.inf, np.inf, 1, 1)


@pytest.mark.parametrize(("covered", "trials"), [(0, 5), (590, 600), (600, 600)])
def test_coverage_agrees_with_scipy(covered, trials):
    found = statistics.coverage_estimate(covered, trials, 0.95)
    exact = stats.binomtest(covered, trials, 0.95)
    assert (found.low, found.high) == pytest.approx(tuple(exact.proportion_ci(0.95, "exact")))
    assert found.p_above == pytest.approx(stats.binomtest(covered, trials, 0.95, alternative="greater").pvalue)
    assert found.p_below == pytest.approx(stats.binomtest(covered, trials, 0.95, alternative="less").pvalue)


@pytest.mark.parametrize("n", [5, 6, 9, 40])
def test_median_interval_is_the_shortest_symmetric_one_that_covers(n):
    values = np.arange(n, dtype=float)
    found = statistics.median_estimate(values, -1)
    # P(k-th smallest <= median <= k-th largest) = 1 - 2 P(Binomial(n, 1/2) < k)
    covering = [k for k in range(1, n // 2 + 1) if 2 * sum(math.comb(n, i) for i in range(k)) / 2**n <= 0.05]
    expected = (values[covering[-1] - 1], values[n - covering[-1]]) if covering else (-np.inf, np.inf)
    assert (found.low, found.high) == expected
    assert found.p_above == pytest.approx(0.5**n)  # all n values lie above the threshold


def test_median_ties_with_the_threshold_count_for_neither_side():
    found = statistics.median_estimate([1.0] * 10, 1.0)
    assert found.p_below == found.p_above == 1


@pytest.mark.parametrize("side", ["below", "above"])
def test_sign_flip_agrees_with_enumeration(side):
    arm, reference = pairs(7, seed=3)
    differences = arm - reference
    flipped = [np.dot(signs, differences) for signs in itertools.product([1, -1], repeat=7)]
    observed = differences.sum()
    extreme = [f <= observed + 1e-12 if side == "below" else f >= observed - 1e-12 for f in flipped]
    assert statistics.sign_flip(arm, reference, side) == pytest.approx(np.mean(extreme))


def test_sign_flip_of_one_pair_says_nothing():
    assert statistics.sign_flip([2.0], [1.0], "above") == 1


def test_sign_flip_of_many_pairs_is_close_to_the_t_test():
    arm, reference = pairs(300, effect=0.02)
    t_test = stats.ttest_rel(arm, reference, alternative="greater").pvalue
    assert statistics.sign_flip(arm, reference, "above") == pytest.approx(t_test, abs=0.04)


def test_probability_of_improvement():
    arm, reference = np.array([1.0, 2, 3, 4]), np.array([0.0, 2, 4, 0])
    found = statistics.probability_of_improvement(arm, reference, "above")
    assert found.effect == 0.625  # two wins and half a tie
    assert found.low < 0.625 < found.high
    other = statistics.probability_of_improvement(arm, reference, "below")
    assert other.effect == pytest.approx(1 - found.effect)
    whole = statistics.probability_of_improvement(np.ones(8), np.zeros(8), "above")
    assert whole[1:] == pytest.approx(tuple(stats.binomtest(8, 8).proportion_ci(0.95, "exact")))


def test_holm_agrees_with_its_definition():
    p_values = [0.04, 0.01, 0.03, 0.5]
    # Ordered .01 .03 .04 .5, times 4 3 2 1, made monotone.
    assert statistics.holm(p_values) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert statistics.holm([]) == []


@pytest.mark.parametrize("n", [3, 5, 40])
def test_detectable_difference_agrees_with_statsmodels(n):
    values = pairs(n)[0]
    effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="larger")
    expected = effect * values.std(ddof=1)
    assert statistics.minimal_detectable_difference(values) == pytest.approx(expected, rel=1e-4)


def test_interval_gives_back_the_p_value_it_came_from():
    standard_error, log_ratio = 0.05, math.log(0.55)
    ends = np.exp(log_ratio + stats.norm.ppf([0.025, 0.975]) * standard_error)
    found = statistics.interval_estimate(Interval(0.55, *ends), 0.6)
    assert found.p_below == pytest.approx(stats.norm.cdf((log_ratio - math.log(0.6)) / standard_error))
    assert found.p_below + found.p_above == pytest.approx(1)


def test_exact_deviations_are_within_or_not():
    assert statistics.exact_estimate(1e-9, 1e-8).p_below == 0
    assert statistics.exact_estimate(1e-7, 1e-8).p_above == 0


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5], [0.1 + 0.2, 0.3, 0.3]])
def test_samples_without_spread_decide_nothing(values):
    undecided = (-np.inf, np.inf, 1, 1)
    assert statistics.mean_estimate(values)[1:] == undecided
    assert statistics.ratio_estimate(values, np.ones(len(values)))[1:] == undecided
    assert statistics.interval_estimate(Interval(0.5, math.nan, math.nan), 0.6)[1:] == undecided
    assert statistics.minimal_detectable_difference(values) == np.inf


def test_slope_agrees_with_hc3_by_hand():
    rng = np.random.default_rng(4)
    n = np.repeat([10, 20, 40, 80], 25)
    values = 3.0 * n**-0.5 * np.exp(rng.normal(0, 0.05 * np.sqrt(n / 10)))
    found = statistics.slope_estimate(n, values, -0.5)
    x = np.column_stack([np.ones(100), np.log(n)])
    bread = np.linalg.inv(x.T @ x)
    coefficients = bread @ x.T @ np.log(values)
    residuals = (np.log(values) - x @ coefficients) / (1 - np.einsum("ij,jk,ik->i", x, bread, x))
    error = np.sqrt((bread @ (x.T * residuals**2) @ x @ bread)[1, 1])
    half_width = stats.t.ppf(0.975, 98) * error
    slope = coefficients[1]
    assert found[:3] == pytest.approx((slope, slope - half_width, slope + half_width))
    assert found.p_above == pytest.approx(stats.t.sf((slope + 0.5) / error, 98))
    assert found.p_below + found.p_above == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_holm_agrees_with_statsmodels(seed):
    p_values = list(np.random.default_rng(seed).uniform(0, 0.2, 12).round(2))  # with ties
    assert statistics.holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_ratio_needs_a_positive_denominator():
    reference = np.random.default_rng(0).normal(-1, 0.01, 20)
    assert statistics.ratio_estimate(0.5 * reference + np.linspace(0, 0.01, 20), reference)[1:] == (
        -np.inf,
        np.inf,
        1,
        1,
    )


def test_sign_flip_of_what_is_not_known_says_nothing():
    assert statistics.sign_flip([2.0, np.nan, 3.0], [1.0, 1.0, 1.0], "above") == 1
