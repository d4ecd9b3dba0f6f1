"""What a claim is, where it comes from, how it is tested and what we expect; the claims are in `reports.ledger`.

A claim of family "control" is expected to be contradicted: it shows that the suite can say no. Claims of family
"machinery" are about the judge itself.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

#: Level of the Holm-corrected tests, and confidence of every interval.
LEVEL = 0.05
CONFIDENCE = 0.95

#: What the arm and the reference of a test on runs can be, beside recipes and the teacher.
PRECISIONS = ("bf16", "fp32")

#: Scores that differ by less than this count as equivalent.
EQUIVALENT_SCORE = 0.02

#: The least sample size n* is the least n with P(sup+ <= eps) >= 1 - delta.
EPSILON, DELTA = 0.3, 0.05

Outcome = Literal["supported", "contradicted", "inconclusive", "not run"]
Family = Literal["confirmatory", "control", "machinery"]
Statistic = Literal[
    "mean difference",  # mean(arm - reference), paired
    "ratio of means",  # mean(arm) / mean(reference), paired
    "coverage",  # share of replicates with measure <= column
    "share",  # share of replicates in which a measure of 0 or 1 is 1
    "log-log slope",  # of the measure over n, in all roles "ARM n=..."
    "least sample size",  # n*(arm) / n*(reference), from all roles "ARM n=..."
    "median",  # median(arm), or median(arm / reference) where there is a reference
    "largest",  # max |arm|, or max |arm - reference| (of sizes: arm / reference): exact, no sampling error
    "every cell",  # the worst arm / reference over all cells that were timed
]


#: Statistics whose values the calibration draws anew from the pilots' own, not from a law that fits the test.
RESAMPLED: tuple[Statistic, ...] = ("mean difference", "ratio of means", "median", "log-log slope")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Test(_Frozen):
    """One registered test: a statistic of a measure lies `side` the `threshold`.

    Attributes:
        measure: Column of the evidence; "coefficient" stands for all of a world's ``coefficient_*``.
        arm: Role of the study, recipe or precision of the runs, or "student" of the benchmarks.
        reference: What the arm is held against, in the same words; None where it stands alone.
        column: Column of the arm's own cell that takes the place of a reference: a bound, a limit.
        fraction: Of runs: their share of the training examples.
        against_fraction: Of runs: the difference at `fraction` is held against the same one at this share.
        init: Of runs: the layers from which both start; None: each as its recipe does.
        longer_reference: Of runs: the reference is trained for twice the registered epochs.
        first_seed: Of runs: the least seed that counts. Those before it gave rise to the claim.
    """

    __test__ = False  # not a test for pytest

    statistic: Statistic
    measure: str
    arm: str
    reference: str | None
    side: Literal["below", "above"]
    threshold: float
    column: str | None = None
    fraction: float | None = None
    against_fraction: float | None = None
    init: str | None = None
    longer_reference: bool = False
    first_seed: int = 0


class Claim(_Frozen):
    """One claim; supported only if all its tests are, contradicted if any is.

    Attributes:
        source: Paper, seed (the project's brief) or our derivation, naming the inequality.
        evidence: Which producer's records the tests read.
        num_seeds: Of runs: how many seeds are asked for; with fewer, the verdict is preliminary.
        study: Key of ``theory.studies.STUDIES``, or "calibration"; empty for other evidence.
        command: What regenerates the evidence.
    """

    id: str
    statement: str
    source: str
    family: Family
    expected: Literal["supported", "contradicted"]
    evidence: Literal["theory", "runs", "benchmarks"]
    study: str = ""
    num_seeds: int = 0
    tests: tuple[Test, ...]
    command: str


def at_most(
    statistic: Statistic, measure: str, arm: str, reference: str | None, threshold: float, column: str | None = None
) -> Test:
    """The test that a statistic is at most the threshold."""
    return Test(
        statistic=statistic,
        measure=measure,
        arm=arm,
        reference=reference,
        side="below",
        threshold=threshold,
        column=column,
    )


def at_least(
    statistic: Statistic, measure: str, arm: str, reference: str | None, threshold: float, column: str | None = None
) -> Test:
    """The test that a statistic is at least the threshold."""
    test = at_most(statistic, measure, arm, reference, threshold, column)
    return test.model_copy(update={"side": "above"})


def less(measure: str, arm: str, reference: str) -> Test:
    """The test that a measure is smaller in the arm than in the reference, on average over pairs."""
    return at_most("mean difference", measure, arm, reference, 0)


def more(measure: str, arm: str, reference: str) -> Test:
    """The test that a measure is larger in the arm."""
    return at_least("mean difference", measure, arm, reference, 0)


def within(test: Test, centre: float, margin: float) -> tuple[Test, Test]:
    """Two one-sided tests: what `test` estimates lies within `margin` of `centre`."""
    return (
        test.model_copy(update={"side": "below", "threshold": centre + margin}),
        test.model_copy(update={"side": "above", "threshold": centre - margin}),
    )
