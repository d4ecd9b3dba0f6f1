"""Times that were measured elsewhere, reported through pytest-benchmark.

pytest-benchmark runs the rounds of one test in a row, so that interleaved rounds must be timed before; each test then
replays its own. The clock that pytest-benchmark reads shows the seconds that were measured, and nothing else: its
statistics and the `data` in its JSON are the measured times, in the order they were measured.
"""

import math
from collections.abc import Iterable
from typing import Any, NoReturn

import pytest


class Stopwatch:
    """A timer for pytest-benchmark that shows only what it was told has elapsed."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0

    def replayed_seconds(self) -> float:
        """Seconds elapsed since the last reading."""
        elapsed_s, self.elapsed_s = self.elapsed_s, 0.0
        return elapsed_s

    def elapse(self, seconds: float) -> None:
        """Let time pass."""
        self.elapsed_s += seconds


STOPWATCH = Stopwatch()

#: Mark of every test that reports through `replay`.
measured_times = pytest.mark.benchmark(timer=STOPWATCH.replayed_seconds)


def replay(benchmark: Any, seconds: Iterable[float]) -> None:
    """Report measured times as the rounds of a test."""
    rounds = list(seconds)
    remaining = iter(rounds)
    benchmark.pedantic(lambda: STOPWATCH.elapse(next(remaining)), rounds=len(rounds))


def skip_not_run(benchmark: Any, reason: str) -> NoReturn:
    """End a test whose case cannot be measured; its entry in the JSON has the reason, and NaN for its time.

    NaN, not null: `--benchmark-compare` and the terminal's table still work.
    """
    benchmark.extra_info["not_run"] = reason
    replay(benchmark, [math.nan])
    pytest.skip(reason)
