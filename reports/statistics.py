"""Estimators and tests: pure functions on arrays.

Every estimate comes with a 95 % interval and with a p-value for each side of its threshold. Where a sample
says nothing about its own spread (one pair, or differences that are all equal) the interval is unbounded
and both p-values are 1: such a sample never decides anything.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats
from statsmodels.stats.proportion import proportion_confint

from reports.claims import CONFIDENCE, LEVEL

Array = NDArray[Any]

#: What a 95 % interval leaves out on either side.
TAIL = (1 - CONFIDENCE) / 2
#: Half the width of a 95 % interval, in standard errors of a normal law.
Z = float(stats.norm.isf(TAIL))
_NUM_SIGN_FLIPS = 1999


class Interval(NamedTuple):
    """A point estimate and the ends of its 95 % confidence interval."""

    effect: float
    low: float
    high: float


class Estimate(NamedTuple):
    """An interval, and how strongly the data speak for each side of a threshold.

    Attributes:
        p_below: One-sided p-value; small where the parameter lies below the threshold.
        p_above: The same for the other side.
    """

    effect: float
    low: float
    high: float
    p_below: float
    p_above: float


def _undecided(effect: float) -> Estimate:
    return Estimate(effect, -np.inf, np.inf, 1.0, 1.0)


def has_spread(values: ArrayLike) -> bool:
    """Whether the sample's variance can be estimated: two values at least, not equal up to rounding."""
    values = np.asarray(values, dtype=float)
    return len(values) > 1 and bool(np.ptp(values) > 1e-12 * np.max(np.abs(values)))


def mean_estimate(values: ArrayLike, threshold: float = 0.0) -> Estimate:
    """Mean with its t interval and the one-sided t tests against a threshold.

    Args:
        values: Independent values (paired differences, for instance), shape (n,).
        threshold: Value of the mean under the null hypothesis.
    """
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if not has_spread(values):
        return _undecided(mean)
    df = len(values) - 1
    standard_error = values.std(ddof=1) / np.sqrt(len(values))
    half_width = -special.stdtrit(df, TAIL) * standard_error  # the functions behind stats.t, which takes 0.1 ms a call
    t = (mean - threshold) / standard_error
    p_below, p_above = special.stdtr(df, [t, -t])
    return Estimate(mean, mean - half_width, mean + half_width, float(p_below), float(p_above))


def ratio_estimate(arm: ArrayLike, reference: ArrayLike, threshold: float = 1.0) -> Estimate:
    """Ratio of paired means, mean(arm) / mean(reference), with Fieller's interval.

    The ratio is below c exactly when the mean of arm - c * reference is below zero (for a positive
    denominator), which is a paired t test. Fieller's interval holds the values c that this test does not
    reject, so interval and test never disagree; a delta-method or bootstrap interval can, and at three
    seeds both are too short. The interval is unbounded where the denominator is not clearly positive.

    Args:
        arm: Shape (n,).
        reference: Shape (n,), paired with `arm`.
        threshold: Ratio under the null hypothesis.

    Source: Fieller, J. R. Stat. Soc. B 16 (1954), 175-185.
    """
    arm, reference = np.asarray(arm, dtype=float), np.asarray(reference, dtype=float)
    ratio = float(arm.mean() / reference.mean())
    if not has_spread(arm - threshold * reference):
        return _undecided(ratio)
    n = len(arm)
    # Roots of (mean(arm) - c mean(reference))^2 = t^2 var(mean(arm - c reference)), a quadratic in c.
    (var_arm, cov), (_, var_reference) = np.cov(arm, reference) / n * stats.t.isf(TAIL, n - 1) ** 2
    a = reference.mean() ** 2 - var_reference
    b = arm.mean() * reference.mean() - cov
    c = arm.mean() ** 2 - var_arm
    if reference.mean() <= 0 or a <= 0:
        return _undecided(ratio)
    half_width = np.sqrt(max(b * b - a * c, 0.0)) / a
    contrast = mean_estimate(arm - threshold * reference)
    return Estimate(ratio, float(b / a - half_width), float(b / a + half_width), contrast.p_below, contrast.p_above)


def coverage_estimate(num_covered: int, num_trials: int, threshold: float) -> Estimate:
    """Share of trials in which a bound held, with Clopper and Pearson's interval and binomial tests."""
    low, high = proportion_confint(num_covered, num_trials, alpha=1 - CONFIDENCE, method="beta")
    return Estimate(
        num_covered / num_trials,
        float(low),
        float(high),
        float(stats.binom.cdf(num_covered, num_trials, threshold)),
        float(stats.binom.sf(num_covered - 1, num_trials, threshold)),
    )


def share_interval(num_successes: float, num_trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    low, high = proportion_confint(num_successes, num_trials, alpha=1 - CONFIDENCE, method="wilson")
    return float(low), float(high)


def median_estimate(values: ArrayLike, threshold: float) -> Estimate:
    """Median with its order-statistic interval and sign tests: no assumption on the distribution.

    The interval runs from the k-th smallest to the k-th largest value, k the largest for which it covers
    the median with 95 %; unbounded where no k does (fewer than six values).
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    k = int(stats.binom.ppf(TAIL, n, 0.5))  # P(fewer than k values below the median) <= TAIL
    low, high = (ordered[k - 1], ordered[n - k]) if k else (-np.inf, np.inf)
    num_below, num_above = int((ordered < threshold).sum()), int((ordered > threshold).sum())
    return Estimate(
        float(np.median(ordered)),
        float(low),
        float(high),
        float(stats.binom.sf(num_below - 1, n, 0.5)),
        float(stats.binom.sf(num_above - 1, n, 0.5)),
    )


def slope_estimate(sizes: ArrayLike, values: ArrayLike, threshold: float) -> Estimate:
    """Slope of log(values) over log(sizes), with HC3 standard errors and t tests.

    Args:
        sizes: Positive, shape (n,).
        values: Positive and independent, shape (n,).
        threshold: Slope under the null hypothesis.

    Source of HC3: MacKinnon and White, J. Econometrics 29 (1985), 305-325.
    """
    from statsmodels.regression.linear_model import OLS  # imports much, and only slopes need it

    x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(values, dtype=float))
    if not (has_spread(x) and np.isfinite(y).all()):
        return _undecided(np.nan)
    fit = OLS(y, np.column_stack([np.ones_like(x), x])).fit(cov_type="HC3", use_t=True)
    low, high = fit.conf_int(alpha=1 - CONFIDENCE)[1]
    t = (fit.params[1] - threshold) / fit.bse[1]
    df = fit.df_resid
    return Estimate(float(fit.params[1]), low, high, float(stats.t.cdf(t, df)), float(stats.t.sf(t, df)))


def exact_estimate(deviation: float, tolerance: float) -> Estimate:
    """A deviation that has no sampling error: it is within the tolerance or it is not."""
    within = deviation <= tolerance
    return Estimate(deviation, deviation, deviation, 0.0 if within else 1.0, 1.0 if within else 0.0)


def interval_estimate(interval: Interval, threshold: float) -> Estimate:
    """P-values of a positive quantity known only by its 95 % interval: normal on the log scale.

    Source: Altman and Bland, BMJ 343 (2011), d2304.
    """
    if not (np.isfinite(interval.high) and 0 < interval.low < interval.high):
        return _undecided(interval.effect)
    standard_error = np.log(interval.high / interval.low) / (2 * Z)
    z = np.log(interval.effect / threshold) / standard_error
    return Estimate(*interval, float(stats.norm.cdf(z)), float(stats.norm.sf(z)))


def sign_flip(arm: ArrayLike, reference: ArrayLike, side: str) -> float:
    """Permutation p-value that mean(arm - reference) is on one side of zero: "below" or "above".

    Swaps the members of every pair: all 2^n ways where there are few, else a seeded sample of them.
    `scipy.stats.permutation_test` does the same, and takes 40 times as long for thousands of pairs.
    """
    differences = np.asarray(arm, dtype=float) - np.asarray(reference, dtype=float)
    if side == "below":
        differences = -differences
    n = len(differences)
    if n < 2 or not np.isfinite(differences).all():
        return 1.0
    if 2**n <= _NUM_SIGN_FLIPS:
        swapped: Array = np.arange(2**n)[:, None] >> np.arange(n) & 1
    else:
        bits = np.frombuffer(np.random.default_rng(0).bytes(-(-_NUM_SIGN_FLIPS * n // 8)), np.uint8)
        swapped = np.unpackbits(bits)[: _NUM_SIGN_FLIPS * n].reshape(-1, n)
        swapped = np.concatenate([np.zeros((1, n), np.uint8), swapped])  # what was seen is one of the ways
    # The sum falls by twice what is swapped; rounding must not tell equal sums apart.
    return float(np.mean(swapped @ differences <= 1e-12 * np.abs(differences).sum()))


def probability_of_improvement(arm: ArrayLike, reference: ArrayLike, side: str) -> Interval:
    """Chance that the arm beats the reference in a pair (ties count half), with a Clopper-Pearson interval.

    Args:
        arm: Shape (n,).
        reference: Shape (n,), paired with `arm`.
        side: "above" where larger is better, "below" where smaller is.
    """
    differences = np.asarray(arm, dtype=float) - np.asarray(reference, dtype=float)
    if side == "below":
        differences = -differences
    wins = float((differences > 0).sum() + (differences == 0).sum() / 2)
    # The beta quantiles extend the interval to half counts.
    low, high = proportion_confint(wins, len(differences), alpha=1 - CONFIDENCE, method="beta")
    return Interval(wins / len(differences), float(low), float(high))


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values: reject where they are at most the level of the whole family.

    `statsmodels.stats.multitest.multipletests` gives the same numbers, but takes 0.1 s for each call.
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=float)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return [float(p) for p in adjusted]


def minimal_detectable_difference(values: ArrayLike, power: float = 0.8) -> float:
    """Mean that a one-sided t test at the 5 % level would find with the given power, for this spread.

    Returns:
        The difference in units of `values`, or infinity where their spread is unknown.
    """
    values = np.asarray(values, dtype=float)
    if not has_spread(values):
        return np.inf
    n = len(values)
    critical = stats.t.isf(LEVEL, n - 1)
    noncentrality = optimize.brentq(lambda x: stats.nct.sf(critical, n - 1, x) - power, 0.0, 1e3)
    return float(noncentrality * values.std(ddof=1) / np.sqrt(n))
