"""The values that a registered test compares, read from the evidence."""

import re
from typing import NamedTuple

import pandas as pd

from reports.benchmark_files import CONDITIONS, latest
from reports.claims import PRECISIONS, Claim, Test
from reports.evidence import Evidence, longer_runs, registered_runs
from reports.pairs import matched
from reports.statistics import Array


class Samples(NamedTuple):
    """Values a test compares; rows of arm and reference are paired.

    Attributes:
        frame: One row per pair; index named by the unit of replication, columns arm, then reference.
        note: What else should be said beside the estimate.
    """

    frame: pd.DataFrame
    note: str = ""

    @property
    def arm(self) -> Array:
        """First column, shape (n,)."""
        return self.frame.iloc[:, 0].to_numpy(dtype=float)

    @property
    def reference(self) -> Array:
        """Second column, shape (n,)."""
        return self.frame.iloc[:, 1].to_numpy(dtype=float)


class Missing(NamedTuple):
    """Evidence that is not there: which, in words."""

    reason: str


def samples(evidence: Evidence, claim: Claim, test: Test) -> Samples | Missing:
    """The values that a registered test compares, or what is missing."""
    if claim.evidence == "theory":
        return _theory_samples(evidence, claim.study, test)
    if claim.evidence == "runs":
        return _run_samples(evidence.all_runs, test)
    return _benchmark_samples(evidence.benchmarks, test)


def _theory_samples(evidence: Evidence, study: str, test: Test) -> Samples | Missing:
    if test.statistic in ("log-log slope", "least sample size"):
        return _over_sizes(evidence, study, test)
    roles = [role for role in (test.arm, test.reference) if role is not None]
    cells = {}
    for role in roles:
        if (study, role) not in evidence.cells:
            return Missing(f"the cell {role} of study {study} has not been simulated")
        # A measure is one column, or several with a number each (the coefficients of a student).
        cells[role] = evidence.cells[study, role].filter(regex=rf"^{re.escape(test.measure)}(_\d+)?$")
        if cells[role].empty:
            return Missing(f"the cell {role} of study {study} does not record {test.measure}")
    if test.statistic == "largest":
        deviation = cells[test.arm] - cells[test.reference] if test.reference else cells[test.arm]
        return _whole(pd.DataFrame({"largest": deviation.abs().max(axis="columns")}), roles)
    columns = {role: cell[test.measure] for role, cell in cells.items()}
    if test.column is None:
        return _whole(pd.DataFrame(columns), roles)
    cell = evidence.cells[study, test.arm]
    if test.column not in cell:
        return Missing(f"the cell {test.arm} of study {study} does not record its {test.column}")
    note = ""
    if test.statistic == "coverage":
        slack = cell[test.column].mean() / cell[test.measure].quantile(0.95)
        note = f"The bound is {slack:.3g} times the 95 % quantile of the deviation."
    return Samples(pd.DataFrame({**columns, test.column: cell[test.column]}), note)


def _over_sizes(evidence: Evidence, study: str, test: Test) -> Samples | Missing:
    """A measure in all roles "ARM n=...": one row per replicate and n, indexed by the replicate."""
    columns = {}
    for arm in (test.arm, test.reference):
        if arm is None:
            continue
        sizes = {
            int(role.rpartition("=")[2]): cell[test.measure]
            for (own_study, role), cell in evidence.cells.items()
            if own_study == study and role.rpartition(" n=")[0] == arm and test.measure in cell
        }
        if len(sizes) < 3:
            return Missing(f"study {study} has fewer than three sizes of {arm}")
        columns[arm] = pd.concat(sizes, names=["n"])
    frame = pd.DataFrame(columns).dropna().reset_index("n")
    return Samples(frame[[*columns, "n"]])


def _whole(frame: pd.DataFrame, roles: list[str]) -> Samples | Missing:
    """The replicates that all roles share."""
    frame = frame.dropna()
    return Missing(f"the cells {' and '.join(roles)} share no replicate") if frame.empty else Samples(frame)


def _run_samples(runs: pd.DataFrame, test: Test) -> Samples | Missing:
    """Pairs of runs in the registered setting, one row per seed: the seed is what is replicated."""
    pairs = {}
    for fraction in (test.fraction, test.against_fraction):
        if fraction is not None:
            pairs[fraction] = _pairs(runs, test, fraction)
            if pairs[fraction].empty:
                arms = f"{test.arm} and {test.reference} on {fraction:.0%} of the data"
                but = "" if test.init is None else f", but for init {test.init}"
                but += f", but for twice the epochs of {test.reference}" if test.longer_reference else ""
                but += f", from seed {test.first_seed} on" if test.first_seed else ""
                return Missing(f"no paired runs of {arms} in the registered setting{but}")
    frame = next(iter(pairs.values())).iloc[:, :2]
    if len(pairs) > 1:
        gains = {
            f"{test.arm} - {test.reference}, {fraction:.0%} of the data": pair.iloc[:, 0] - pair.iloc[:, 1]
            for fraction, pair in pairs.items()
        }
        frame = pd.DataFrame(gains).dropna()
        if frame.empty:
            return Missing("no seed has paired runs at both shares of the data")
    notes = {
        "apart": "the runs are from different machines, which do not compute alike.",
        "repeats": "a run was done again, so that both are from one machine.",
    }
    nums = {name: (sum(pair.loc[frame.index, name] for pair in pairs.values()) > 0).sum() for name in notes}
    return Samples(
        frame, " ".join(f"In {num} of {len(frame)} pairs {notes[name]}" for name, num in nums.items() if num)
    )


def _pairs(runs: pd.DataFrame, test: Test, fraction: float) -> pd.DataFrame:
    """The measure of arm and reference, whose runs agree in all that is not compared; one row per seed.

    Beside it, `apart` and `repeats`, as `matched` has them.
    """
    chosen = registered_runs(runs, fraction, changed="" if test.init is None else "init")
    if test.init is not None:
        chosen = chosen[chosen["init"] == test.init]
    if test.longer_reference:
        longer = longer_runs(runs).query("train_fraction == @fraction and recipe == @test.reference")
        # What else a pair has to agree in, the registered setting holds.
        chosen = pd.concat([chosen[chosen["recipe"] == test.arm], longer]).assign(pair="")
    chosen = chosen[chosen[["init_seed", "data_seed"]].min(axis="columns") >= test.first_seed]
    shared, compared = "pair", "recipe"
    if test.reference == "teacher":
        chosen = chosen[(chosen["recipe"] == test.arm) & (chosen["repeat"] == "")]
        frame = chosen.groupby("seed")[[test.measure, f"teacher_{test.measure}"]].mean().astype(float).dropna()
        return frame.set_axis([test.arm, "teacher"], axis="columns").assign(apart=0.0, repeats=0.0)
    if test.arm in PRECISIONS:
        chosen = runs[(runs["changed"] == "") & (runs["train_fraction"] == fraction)]
        shared, compared = "twin", "precision"
    pairs = matched(chosen, ["seed", shared], compared, (test.arm, str(test.reference)), test.measure)
    return pairs.groupby("seed").mean()


def _benchmark_samples(benchmarks: pd.DataFrame, test: Test) -> Samples | Missing:
    """Student over teacher in every measured cell, for students with half their teacher's layers."""
    kind = "latency" if test.measure == "time" else "size"
    cases = benchmarks[(benchmarks["kind"] == kind) & benchmarks["not_run"].isna()]
    same = ["file", *CONDITIONS] if kind == "latency" else ["file"]
    pairs = cases[cases["model"] == "student"].merge(
        cases[cases["model"] == "teacher"], on=same, suffixes=("", "_teacher")
    )
    pairs = latest(pairs[2 * pairs["num_layers"] == pairs["num_layers_teacher"]])
    if kind == "latency":
        # Low and high change places: a speed-up is the teacher's time over the student's.
        frame = 1 / pairs[["speedup_vs_teacher", "speedup_high", "speedup_low"]].astype(float)
        frame.columns = pd.Index(["ratio", "low", "high"])
        cells = zip(pairs["batch_size"], pairs["sequence_length"], strict=True)
        names = [f"{batch_size:g} x {length:g}" for batch_size, length in cells]
    else:
        own, teachers = (
            pairs[f"num_parameters{suffix}"] - pairs[f"num_embedding_parameters{suffix}"] for suffix in ("", "_teacher")
        )
        frame = pd.DataFrame({"ratio": (own / teachers).astype(float)})
        names = list(pairs["name"])
    if frame.empty:
        return Missing(f"no {kind} benchmark of a student with half its teacher's layers, beside its teacher")
    if frame["ratio"].isna().any():
        return Missing(f"a {kind} benchmark of the student does not give its {test.measure}")
    return Samples(frame.set_axis(pd.Index(names, name="cell")))
