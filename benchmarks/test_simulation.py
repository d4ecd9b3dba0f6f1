"""Speed of the simulations on one thread: fits per second against a loop of scikit-learn's, and cost of whole cells.

Both fit the same problems, and the weights are compared. Rounds are interleaved, and the ratio is estimated in pairs.
"""

import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, Ridge
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.replay import measured_times, replay
from benchmarks.timing import speedup
from theory.cell import Cell
from theory.learners import min_norm, ridge
from theory.simulate import simulate
from theory.worlds import build_world

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
        seconds = _interleaved({"batched": batched, "looped": looped})
    fast, slow = seconds["batched"] / (NUM_LOOPED * BATCHES), seconds["looped"] / NUM_LOOPED
    ratio, low, high = speedup(slow, fast)
    benchmark.group = "fits of the simulations"
    benchmark.extra_info |= {
        "kind": "simulation", "model": learner, "num_samples": num_samples, "num_features": num_features,
        "num_threads": 1, "dtype": "float64", "device": "cpu", "seconds_per_replicate": float(np.median(fast)),
        "fits_per_s": float(1 / np.median(fast)), "sklearn_fits_per_s": float(1 / np.median(slow)),
        "speedup_vs_sklearn": ratio, "speedup_low": low,
        "speedup_high": high,
    }  # fmt: skip
    replay(benchmark, list(fast))


#: Whole cells under in-sample mixup, m = n: (world, n, replicates). One of the three grows at a time; the worlds have
#: 4, 20, 60 and 200 features.
COSTS = [
    *(("W1", n, 200) for n in (20, 80, 320, 1280)),
    *((world, 80, 100) for world in ("W3 d=20", "W3 d=60", "phase isotropic c=2 cosines")),
    *(("W1", 80, replicates) for replicates in (100, 1000, 4000)),
]


@pytest.fixture(scope="session")
def cell_seconds(request: pytest.FixtureRequest) -> dict[Cell, Array]:
    """Seconds per round of every cell that was asked for."""
    asked = [_cell(**item.callspec.params) for item in request.session.items if "cell_seconds" in item.fixturenames]
    with threadpool_limits(1):
        return _interleaved({cell: lambda cell=cell: simulate(cell) for cell in asked})


@pytest.mark.parametrize(("world", "num_samples", "num_replicates"), COSTS)
def test_cells(benchmark, cell_seconds: dict[Cell, Array], world: str, num_samples: int, num_replicates: int) -> None:
    """Draws, teacher, features, moments, bounds, learner and risks; memory is the peak of numpy's allocations."""
    cell = _cell(world, num_samples, num_replicates)
    seconds = cell_seconds[cell]
    tracemalloc.start()
    table = simulate(cell)
    peak_memory_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(table) == num_replicates and np.isfinite(table).all(axis=None)
    benchmark.group = "cells of the simulations"
    benchmark.extra_info |= {
        "kind": "cell", "model": f"{world} {cell.arm}", "num_samples": num_samples,
        "num_features": build_world(world).population.b.size, "num_replicates": num_replicates, "num_threads": 1,
        "dtype": "float64", "device": "cpu", "seconds_per_replicate": float(np.median(seconds)) / num_replicates,
        "peak_memory_bytes": peak_memory_bytes,
    }  # fmt: skip
    replay(benchmark, list(seconds))


def _cell(world: str, num_samples: int, num_replicates: int) -> Cell:
    return Cell(
        world=world,
        arm="S3",
        num_samples=num_samples,
        num_augmented=num_samples,
        num_replicates=num_replicates,
        master_seed=0,
    )


def _interleaved(calls: Mapping[Any, Callable[[], Any]]) -> dict[Any, Array]:
    """Seconds of every call in `NUM_ROUNDS` rounds, each in random order, after one to warm up."""
    rng, keys = np.random.default_rng(0), list(calls)
    seconds: dict[Any, list[float]] = {key: [] for key in keys}
    for _ in range(1 + NUM_ROUNDS):
        for k in rng.permutation(len(keys)):
            start = time.perf_counter()
            calls[keys[k]]()
            seconds[keys[k]].append(time.perf_counter() - start)
    return {key: np.array(each[1:]) for key, each in seconds.items()}
