import numpy as np
import pytest
from scipy import stats

from reports.sample_size import (
    _resamples,
    _upper_quantiles,
    least_sample_size,
    least_sample_sizes,
    sample_size_interval,
)


def test_least_sample_size_of_a_power_law():
    sizes = np.array([10, 20, 40, 80])
    assert least_sample_size(sizes, 3 / np.sqrt(sizes), 0.6) == pytest.approx(25)
    assert least_sample_size(sizes, 3 / np.sqrt(sizes), 0.1) == np.inf
    assert least_sample_size(sizes, 3 / np.sqrt(sizes), 2.0) == pytest.approx(10)
    # A bump that noise made is smoothed away: the search is monotone.
    assert 20 < least_sample_size(sizes, [1.0, 0.5, 0.7, 0.2], 0.55) < 80


def test_bootstrap_of_least_sample_sizes_covers():
    """sup+ ~ |N(0, 1)| / sqrt(n): its 95 % quantile is 1.96 / sqrt(n), so n*(0.3) = (1.96 / 0.3)^2."""
    truth, covered = (stats.norm.isf(0.025) / 0.3) ** 2, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        deviations = {n: np.abs(rng.standard_normal(400)) / np.sqrt(n) for n in (10, 20, 40, 80, 160)}
        draws = least_sample_sizes(deviations, 0.3, 0.05, num=100)
        found = sample_size_interval(draws)
        covered += found.low <= truth <= found.high
        assert draws.shape == (101,)
    assert 50 <= covered  # binomial(60, 0.95) is below 50 once in a thousand


@pytest.mark.parametrize(("length", "delta"), [(1, 0.1), (2, 0.5), (11, 0.1), (400, 0.05), (37, 0.0), (300, 0.9)])
def test_quantiles_are_those_of_resampling_itself(length, delta):
    values = np.random.default_rng(length).standard_normal(length)
    rows = np.random.default_rng(0).integers(length, size=(20, length))
    (counts,) = _resamples((length,), 20)
    found = _upper_quantiles(values, counts, delta)
    expected = np.quantile(np.vstack([values, values[rows]]), 1 - delta, axis=1)
    assert found == pytest.approx(expected, rel=1e-12)


def test_quantiles_of_a_resample_without_the_largest_values():
    values, counts = np.arange(400.0), np.ones((400, 2), np.int16)
    counts[:, 1] = np.repeat([2, 0], 200)  # the lower half twice
    assert _upper_quantiles(values, counts, 0.05) == pytest.approx(
        [np.quantile(values, 0.95), np.quantile(np.repeat(values[:200], 2), 0.95)]
    )


def test_least_sample_size_that_is_never_reached_is_unbounded():
    draws = least_sample_sizes({n: np.full(50, 1.0) for n in (10, 20, 40)}, 0.3, 0.05, num=10)
    found = sample_size_interval(draws)
    assert found.effect == found.high == np.inf


def test_arms_are_resampled_alike():
    deviations = {n: np.random.default_rng(n).exponential(size=100) / np.sqrt(n) for n in (10, 40, 160)}
    one, two = (least_sample_sizes(deviations, 0.3, 0.05, num=20) for _ in range(2))
    assert np.array_equal(one, two)


def test_one_resample_that_reaches_nothing_leaves_the_interval_open():
    found = sample_size_interval(np.array([20.0, 19.0, np.inf, 21.0]))
    assert (found.effect, found.low, found.high) == (20, 19, np.inf)
