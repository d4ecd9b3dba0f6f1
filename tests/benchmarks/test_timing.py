import math
from collections import Counter

import numpy as np
import pytest
import torch

from benchmarks.timing import (
    MAX_ROUNDS,
    MIN_ROUNDS,
    NUM_WARMUP,
    Case,
    NotRun,
    Timed,
    percentile,
    speedup,
    time_interleaved,
)

TEACHER, STUDENT = Case("teacher", 6, 1, 32), Case("student", 3, 1, 32)
LARGE_TEACHER, LARGE_STUDENT = Case("teacher", 6, 32, 128), Case("student", 3, 32, 128)
COSTS = {TEACHER: 0.002, STUDENT: 0.001, LARGE_TEACHER: 0.2, LARGE_STUDENT: 0.1}


class Machine:
    """A clock that only calls advance, by their cost; `order` is what was called."""

    def __init__(self, costs):
        self.time, self.order = 0.0, []
        self.calls = {case: lambda case=case: self.work(case, costs[case]) for case in costs}

    def work(self, case, seconds):
        self.time += seconds
        self.order.append(case)
        return f"result {len(self.order)}"

    def measure(self, call):
        start = self.time
        result = call()
        return self.time - start, result

    def run(self, budget_s, seed=0):
        self.shares = []
        timed = time_interleaved(
            self.calls, budget_s, seed, self.measure, lambda share: self.shares.append((self.time, share))
        )
        return timed, self.order[NUM_WARMUP * len(self.calls) :]


def test_times_are_those_of_the_call_alone():
    timed, order = Machine(COSTS).run(budget_s=12.0)
    for case, cost in COSTS.items():
        assert timed[case].seconds == pytest.approx(cost)
        assert len(timed[case].seconds) == order.count(case)


def test_the_last_result_of_each_case_is_kept():
    machine = Machine(COSTS)
    timed, _ = machine.run(budget_s=12.0)
    last = {case: f"result {position}" for position, case in enumerate(machine.order, 1)}
    assert {case: outcome.result for case, outcome in timed.items()} == last


def test_the_budget_is_shared_by_the_cells_within_the_bounds():
    counts = Counter(Machine(COSTS).run(budget_s=12.0)[1])
    assert counts[LARGE_TEACHER] == pytest.approx(6.0 / 0.3, abs=1)
    assert counts[TEACHER] == MAX_ROUNDS
    assert set(Counter(Machine(COSTS).run(budget_s=0.0)[1]).values()) == {MIN_ROUNDS}


def test_a_machine_that_becomes_slow_does_not_overrun_the_budget():
    machine = Machine({TEACHER: 0.001})
    machine.calls[TEACHER] = lambda: machine.work(TEACHER, 0.001 if len(machine.order) < 20 else 0.5)
    machine.run(budget_s=8.0)
    assert machine.time == pytest.approx(8.0, abs=0.6)


def test_the_share_told_is_that_of_the_time():
    machine = Machine(COSTS)
    machine.run(budget_s=12.0)
    during = [(time, share) for time, share in machine.shares if share]
    assert [share for _, share in machine.shares[: len(COSTS)]] == [0] * len(COSTS)
    assert machine.shares[-1] == (machine.time, 1)
    assert all(share == pytest.approx(time / machine.time, abs=0.05) for time, share in during)


def test_a_round_times_all_models_of_its_cell_back_to_back_in_changing_order():
    order = Machine(COSTS).run(budget_s=12.0)[1]
    rounds = list(zip(order[::2], order[1::2], strict=True))
    assert {frozenset(pair) for pair in rounds} == {
        frozenset({TEACHER, STUDENT}),
        frozenset({LARGE_TEACHER, LARGE_STUDENT}),
    }
    firsts = Counter(first for first, _ in rounds)
    assert firsts[TEACHER] == pytest.approx(MAX_ROUNDS / 2, abs=5 * math.sqrt(MAX_ROUNDS / 4))


def test_rounds_of_a_cell_are_spread_over_the_whole_time():
    order = Machine(COSTS).run(budget_s=12.0)[1]
    quarters = np.array_split(np.array([case == LARGE_TEACHER for case in order]), 4)
    assert all(quarter.sum() >= 1 for quarter in quarters)


def test_the_seed_decides_the_order():
    assert Machine(COSTS).run(12.0, seed=1)[1] == Machine(COSTS).run(12.0, seed=1)[1]
    assert Machine(COSTS).run(12.0, seed=1)[1] != Machine(COSTS).run(12.0, seed=2)[1]


def test_a_case_without_memory_is_reported_and_the_others_are_timed():
    machine = Machine(COSTS)

    def fail():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes\ntrace")

    machine.calls[LARGE_TEACHER] = fail
    timed = machine.run(12.0)[0]
    assert timed[LARGE_TEACHER] == NotRun(
        "too little memory: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    )
    assert all(isinstance(timed[case], Timed) for case in COSTS if case != LARGE_TEACHER)


@pytest.mark.parametrize("failing", [[LARGE_TEACHER], [LARGE_TEACHER, LARGE_STUDENT]], ids=["one", "all of a cell"])
def test_a_case_that_finds_too_little_memory_later_is_left_out_and_the_others_go_on(failing):
    machine = Machine(COSTS)
    for case in failing:

        def call(case=case):
            if machine.order.count(case) == NUM_WARMUP + 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return machine.work(case, COSTS[case])

        machine.calls[case] = call
    timed = machine.run(12.0)[0]
    reason = NotRun("too little memory: CUDA out of memory. Tried to allocate 2 GiB")
    assert {case: outcome for case, outcome in timed.items() if isinstance(outcome, NotRun)} == dict.fromkeys(
        failing, reason
    )
    assert all(len(timed[case].seconds) >= MIN_ROUNDS for case in COSTS if case not in failing)
    assert machine.shares[-1][1] == 1


@pytest.mark.parametrize("message", ["mat1 and mat2 shapes cannot be multiplied", "an illegal memory access"])
def test_any_other_error_is_an_error(message):
    machine = Machine(COSTS)

    def fail():
        raise RuntimeError(message)

    machine.calls[TEACHER] = fail
    with pytest.raises(RuntimeError, match=message):
        machine.run(12.0)


@pytest.mark.parametrize(("share", "enough"), [(0.5, 5), (0.9, 29), (0.99, 299)])
def test_a_percentile_is_shown_from_enough_rounds_on(share, enough):
    seconds = np.arange(enough, dtype=float)
    assert percentile(seconds, share) == pytest.approx(share * (enough - 1))
    assert percentile(seconds[:-1], share) is None


def test_speedup_of_equal_pairs_has_no_width():
    student = np.random.default_rng(0).lognormal(size=50)
    assert speedup(2 * student, student) == pytest.approx((2.0, 2.0, 2.0))


def test_pairing_removes_what_slows_down_a_whole_round():
    rng = np.random.default_rng(0)
    load, noise = rng.lognormal(sigma=0.5, size=200), rng.lognormal(sigma=0.01, size=200)
    paired = speedup(2 * load * noise, load)
    unpaired = speedup(2 * rng.permutation(load) * noise, load)
    assert paired[2] - paired[1] < (unpaired[2] - unpaired[1]) / 3


@pytest.mark.parametrize(
    ("num_rounds", "statistic", "most"), [(60, np.median, 1.0), (16, np.mean, 0.97), (6, np.median, 1.0)]
)
def test_the_interval_covers_the_true_ratio_about_95_times_in_100(num_rounds, statistic, most):
    """Of medians, more often: they take few values."""
    rng = np.random.default_rng(0)
    num_trials = 600
    covered = 0
    for _ in range(num_trials):
        load = rng.lognormal(sigma=0.3, size=num_rounds)
        teacher, student = (mean * load * rng.lognormal(sigma=0.1, size=num_rounds) for mean in (2.0, 1.0))
        _, low, high = speedup(teacher, student, statistic=statistic)
        covered += low <= 2.0 <= high
    standard_error = math.sqrt(0.95 * 0.05 / num_trials)
    assert 0.95 - 2 * standard_error <= covered / num_trials <= most
