"""The least sample size n*(epsilon, delta): the least n with P(deviation <= epsilon) >= 1 - delta, estimated."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from reports.statistics import TAIL, Array, Interval


def least_sample_size(sizes: ArrayLike, quantiles: ArrayLike, epsilon: float) -> float:
    """The least n whose quantile is at most epsilon, by a monotone search.

    Quantiles are made non-increasing in n (isotonic regression of their logs) and interpolated linearly in logs.

    Args:
        sizes: n, increasing, shape (K,).
        quantiles: The (1 - delta) quantile of the deviation at every n, positive, shape (K,).
        epsilon: What the deviation must not exceed.

    Returns:
        n*; infinity if no size reaches epsilon, and the smallest size if it does already.
    """
    x, y = np.log(np.asarray(sizes, dtype=float)), isotonic_regression(np.log(quantiles), increasing=False).x
    reached = np.flatnonzero(y <= np.log(epsilon))
    if not len(reached):
        return np.inf
    k = reached[0]
    if k == 0:
        return float(np.exp(x[0]))
    share = (y[k - 1] - np.log(epsilon)) / (y[k - 1] - y[k])
    return float(np.exp(x[k - 1] + share * (x[k] - x[k - 1])))


def least_sample_sizes(deviations: Mapping[int, ArrayLike], epsilon: float, delta: float, num: int = 400) -> Array:
    """n*(epsilon, delta) of the replicates, and of bootstrap resamples of them.

    All arms that are given the same numbers of replicates are resampled alike, so that their ratios stay paired.

    Args:
        deviations: n -> replicates of sup+, in the order of the replicates.
        epsilon: What the deviation must not exceed ...
        delta: ... with probability 1 - delta.
        num: Number of resamples.

    Returns:
        Shape (1 + num,): the estimate, then the resamples.
    """
    rng = np.random.default_rng(0)
    sizes = sorted(deviations)
    quantiles = []
    for n in sizes:
        values = np.asarray(deviations[n], dtype=float)
        rows = rng.integers(len(values), size=(num, len(values)))
        quantiles.append([*_quantiles(values[None], 1 - delta), *_quantiles(values[rows], 1 - delta)])
    return np.array([least_sample_size(sizes, column, epsilon) for column in np.transpose(quantiles)])


def _quantiles(samples: Array, share: float) -> Array:
    """`numpy.quantile` along axis 1, which takes five times as long for thousands of values."""
    place = share * (samples.shape[1] - 1)
    k = int(place)
    parted = np.partition(samples, k, axis=1)
    below, above = parted[:, k], parted[:, min(k + 1, samples.shape[1] - 1) :].min(axis=1)
    quantiles: Array = below + (place - k) * (above - below)
    return quantiles


def sample_size_interval(sizes: Array) -> Interval:
    """The estimate and the percentile interval of `least_sample_sizes`, or of a ratio of two of them."""
    finite = sizes[np.isfinite(sizes)]
    if not np.isfinite(sizes[0]) or len(finite) < len(sizes):
        return Interval(float(sizes[0]), float(finite.min()) if len(finite) else np.inf, np.inf)
    low, high = np.quantile(sizes[1:], [TAIL, 1 - TAIL])
    return Interval(float(sizes[0]), float(low), float(high))
