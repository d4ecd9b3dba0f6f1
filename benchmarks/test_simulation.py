"""Fits per second of the batched learners of `theory`, against a loop of scikit-learn's, on one thread each.

Both fit the same problems, and the weights are compared. Rounds are interleaved, and the ratio is estimated in pairs.
"""

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, Ridge
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.replay import measured_times, replay
from benchmarks.timing import speedup
from theory.learners import min_norm, ridge

pytestmark = measured_times

NUM_ROUNDS = 9
#: Replicates that the loop fits in a round; the batched learners fit `BATCHES` times as many.
NUM_LOOPED, BATCHES = 100, 20
PENALTY = 1e-3

Array = NDArray[np.float64]


@pytest.mark.parametrize(("num_samples", "num_features"), [(20, 4), (80, 4), (80, 16), (400, 16)])
@pytest.mark.parametrize("learner", ["min_norm", "ridge"])
def test_fits(benchmark, learner: str, num_samples: int, num_features: int) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((NUM_LOOPED * BATCHES, num_samples, num_features))
    targets = rng.standard_normal((NUM_LOOPED * BATCHES, num_samples))

    def batched() -> Array:
        return min_norm(features, targets) if learner == "min_norm" else ridge(features, targets, PENALTY)

    def looped() -> Array:
        penalty = PENALTY * num_samples  # scikit-learn's loss is a sum
        models = [
            LinearRegression(fit_intercept=False) if learner == "min_norm" else Ridge(penalty, fit_intercept=False)
            for _ in range(NUM_LOOPED)
        ]
        fitted = [model.fit(x, y).coef_ for model, x, y in zip(models, features, targets, strict=False)]
        return np.array(fitted)

    with threadpool_limits(1):
        np.testing.assert_allclose(batched()[:NUM_LOOPED], looped(), rtol=1e-8, atol=1e-10)
        seconds = {call: [] for call in (batched, looped)}
        for _ in range(NUM_ROUNDS):
            for call in rng.permutation(list(seconds)):  # type: ignore[arg-type]
                seconds[call].append(_seconds(call))
    fast, slow = np.array(seconds[batched]) / (NUM_LOOPED * BATCHES), np.array(seconds[looped]) / NUM_LOOPED
    ratio, low, high = speedup(slow, fast)
    benchmark.group = "fits of the simulations"
    benchmark.extra_info |= {
        "kind": "simulation", "model": learner, "num_samples": num_samples, "num_features": num_features,
        "num_threads": 1, "dtype": "float64", "device": "cpu", "fits_per_s": float(1 / np.median(fast)),
        "sklearn_fits_per_s": float(1 / np.median(slow)), "speedup_vs_sklearn": ratio, "speedup_low": low,
        "speedup_high": high,
    }  # fmt: skip
    replay(benchmark, list(fast))


def _seconds(call: Callable[[], Array]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
