"""Fair times: cases interleaved at random, and what may be said about them.

A machine's speed drifts: it heats up, other programs come and go. Timed one after the other, two models would meet
different machines. Here a *round* times every model of one cell (batch size and sequence length) back to back, in
random order, and the rounds of all cells are mixed at random; the ratio of two models is estimated over rounds, in
pairs.
"""

import gc
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm, t

#: Untimed calls of each case before the first timed one.
NUM_WARMUP = 3
MIN_ROUNDS, MAX_ROUNDS = 10, 300
NUM_RESAMPLES = 2000
#: What torch says on a GPU and on the CPU.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


class Cell(NamedTuple):
    """What models are compared on."""

    batch_size: int
    sequence_length: int


class Case(NamedTuple):
    """One model in one cell: the parameters of a latency test, in their order."""

    model: str
    num_layers: int
    batch_size: int
    sequence_length: int

    @property
    def cell(self) -> Cell:
        """The case without its model."""
        return Cell(self.batch_size, self.sequence_length)


class Timed(NamedTuple):
    """Seconds of every round, shape (num_rounds,), aligned over the cases of a cell, and the last call's result."""

    seconds: NDArray[np.float64]
    result: Any


class NotRun(NamedTuple):
    """Why a case could not be measured."""

    reason: str


#: Calls once: seconds, and what the call returned.
Measure = Callable[[Callable[[], Any]], tuple[float, Any]]
Result = TypeVar("Result")


def time_interleaved(
    calls: Mapping[Case, Callable[[], Any]],
    budget_s: float,
    seed: int,
    measure: Measure | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> dict[Case, Timed | NotRun]:
    """Time calls in interleaved rounds, after a warm-up.

    Args:
        calls: What to time; on the CPU, a call returns when its work is done.
        budget_s: Time for the rounds, shared equally by the cells; each gets MIN_ROUNDS to MAX_ROUNDS.
        seed: Seed of the order.
        measure: Calls once, and says how long it took; None: `measure_on` the CPU.
        report: Told the share of the time that is over, between calls; 0 during the warm-up.

    Returns:
        By case. One that runs out of memory was not run, and the others go on.
    """
    measure = measure or measure_on(torch.device("cpu"))
    outcome: dict[Case, Timed | NotRun] = {}
    cells: dict[Cell, _Rounds] = defaultdict(_Rounds)
    worked_s = 0.0
    for case, call in calls.items():
        warm_up = unless_out_of_memory(lambda call=call: [measure(call)[0] for _ in range(NUM_WARMUP)])
        if isinstance(warm_up, NotRun):
            outcome[case] = warm_up
        else:
            cells[case.cell].add(case, min(warm_up))
            worked_s += sum(warm_up)
        report(0.0)
    share_s = budget_s / max(1, len(cells))
    order = np.random.default_rng(seed)
    results: dict[Case, Any] = {}
    gc.collect()
    gc.disable()
    try:
        while any(left := [rounds.left(share_s) for rounds in cells.values()]):
            # In proportion to what is left to do, the rounds of all cells spread over the whole time.
            rounds = list(cells.values())[order.choice(len(left), p=np.array(left) / sum(left))]
            cases = rounds.cases
            for index in order.permutation(len(cases)):
                timed = unless_out_of_memory(partial(measure, calls[case := cases[index]]))
                if isinstance(timed, NotRun):
                    outcome[case] = timed
                    del rounds.seconds[case]
                    continue
                seconds, results[case] = timed
                rounds.seconds[case].append(seconds)
                worked_s += seconds
            left_s = sum(each.left(share_s) * each.round_s for each in cells.values())
            report(worked_s / (worked_s + left_s))
    finally:
        gc.enable()
    times = {case: seconds for rounds in cells.values() for case, seconds in rounds.seconds.items()}
    return outcome | {case: Timed(np.array(seconds), results[case]) for case, seconds in times.items()}


@dataclass
class _Rounds:
    """The rounds of one cell: seconds per case, round by round."""

    seconds: dict[Case, list[float]] = field(default_factory=dict)
    warm_up_s: float = 0.0

    def add(self, case: Case, warm_up_s: float) -> None:
        self.seconds[case] = []
        self.warm_up_s += warm_up_s

    @property
    def cases(self) -> list[Case]:
        return list(self.seconds)

    @property
    def count(self) -> int:
        return len(next(iter(self.seconds.values()), []))

    @property
    def round_s(self) -> float:
        """Seconds of a round, judged by those that were timed (before the first: by the warm-up)."""
        return sum(map(sum, self.seconds.values())) / self.count if self.count else self.warm_up_s

    def left(self, share_s: float) -> int:
        """Rounds to go in `share_s` seconds."""
        if not self.seconds:
            return 0
        in_time = int(share_s / self.round_s)
        return max(0, min(MAX_ROUNDS, max(MIN_ROUNDS, in_time)) - self.count)


def measure_on(device: torch.device) -> Measure:
    """How one call is timed: by CUDA events on a GPU, the last of which is waited for; else by the clock."""
    if device.type != "cuda":

        def by_clock(call: Callable[[], Any]) -> tuple[float, Any]:
            start = time.perf_counter()
            result = call()
            return time.perf_counter() - start, result

        return by_clock

    def by_events(call: Callable[[], Any]) -> tuple[float, Any]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3, result

    return by_events


def unless_out_of_memory(call: Callable[[], Result]) -> Result | NotRun:
    """What a call returns, or that there was too little memory for it."""
    try:
        return call()
    except (RuntimeError, MemoryError) as error:  # torch has no common class for a GPU and the CPU
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        return NotRun(f"too little memory: {(str(error) or type(error).__name__).splitlines()[0]}")


def percentile(seconds: NDArray[np.float64], share: float) -> float | None:
    """A percentile of the times, or None where the rounds are too few to have seen it.

    Enough are so many that the slowest round lies beyond the true percentile with 95 % confidence,
    ``share**num_rounds <= 0.05``: 5 rounds for p50, 29 for p90, 299 for p99.
    """
    return float(np.quantile(seconds, share)) if len(seconds) >= math.log(0.05) / math.log(share) else None


def speedup(
    teacher_s: NDArray[np.float64],
    student_s: NDArray[np.float64],
    seed: int = 0,
    statistic: Callable[..., Any] = np.median,
) -> tuple[float, float, float]:
    """How many times faster the student is: ratio of medians with a 95 % percentile bootstrap interval.

    Rounds are resampled as pairs, so that what slows down a whole round cancels. A mean's percentiles lie too close
    where rounds are few; they are taken as much further out as Student's t is wider than a normal whose variance
    divides by n (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015: the expanded percentile interval).

    Args:
        teacher_s: Seconds per round, shape (num_rounds,).
        student_s: Seconds of the same rounds, shape (num_rounds,).
        seed: Seed of the resampling.
        statistic: What is compared; `numpy.mean` for rounds of different work, whose total counts.

    Returns:
        Estimate, low, high.
    """
    num = len(teacher_s)
    rows = np.random.default_rng(seed).integers(num, size=(NUM_RESAMPLES, num))
    ratios = statistic(teacher_s[rows], axis=1) / statistic(student_s[rows], axis=1)
    share = 0.025
    if statistic is np.mean and num > 1:
        share = norm.cdf(t.ppf(share, num - 1) * math.sqrt(num / (num - 1)))
    low, high = np.quantile(ratios, (share, 1 - share))
    return float(statistic(teacher_s) / statistic(student_s)), float(low), float(high)
