"""The ledger: every claim, where it comes from, how it is tested and what we expect.

Thresholds are fixed here before the confirmatory seeds are drawn; `LEDGER_SHA256` goes into every report.
A claim of family "control" is expected to be contradicted: it shows that the suite can say no. Claims of family
"machinery" are about the judge itself.
"""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict

from mixkd.store import canonical_json
from theory.studies import CURVATURE_EXCESS, MASTER_SEED, PILOT_SEED, SAMPLE_SIZE_RATIO

#: Level of the Holm-corrected tests, and confidence of every interval.
LEVEL = 0.05
CONFIDENCE = 0.95

#: What "limited data" means in the claims about training: the runs that are selected.
LIMITED_TASK = "vader-movie"
LIMITED_FRACTION = 0.1
LIMITED_LAYERS = 3

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


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Test(_Frozen):
    """One registered test: a statistic of a measure lies `side` the `threshold`.

    Attributes:
        measure: Column of the evidence; "coefficient" stands for all of a world's ``coefficient_*``.
        arm: Role of the study, recipe or precision of the runs, or "student" of the benchmarks.
        reference: What the arm is held against, in the same words; None where it stands alone.
        column: Column of the arm's own cell that takes the place of a reference: a bound, a limit.
    """

    __test__ = False  # not a test for pytest

    statistic: Statistic
    measure: str
    arm: str
    reference: str | None
    side: Literal["below", "above"]
    threshold: float
    column: str | None = None


class Claim(_Frozen):
    """One claim; supported only if all its tests are, contradicted if any is.

    Attributes:
        source: Paper, seed (the project's brief) or our derivation, naming the inequality.
        evidence: Which producer's records the tests read.
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
    tests: tuple[Test, ...]
    command: str


def _theory(id: str, statement: str, source: str, *tests: Test, control: bool = False, study: str = "") -> Claim:
    study = study or id
    return Claim(
        id=id,
        statement=statement,
        source=f"our derivation, {source}",
        family="control" if control else "confirmatory",
        expected="contradicted" if control else "supported",
        evidence="theory",
        study=study,
        tests=tests,
        command=f"mixkd theory {study}",
    )


def _training(id: str, statement: str, *tests: Test, source: str, command: str = "mixkd suite quick") -> Claim:
    return Claim(
        id=id,
        statement=statement,
        source=source,
        family="confirmatory",
        expected="supported",
        evidence="runs",
        tests=tests,
        command=command,
    )


def _less(measure: str, arm: str, reference: str) -> Test:
    return Test(statistic="mean difference", measure=measure, arm=arm, reference=reference, side="below", threshold=0)


def _more(measure: str, arm: str, reference: str) -> Test:
    return _less(measure, arm, reference).model_copy(update={"side": "above"})


def _ratio_below(arm: str, threshold: float) -> Test:
    return Test(
        statistic="ratio of means",
        measure="sup_one_sided",
        arm=arm,
        reference="S0",
        side="below",
        threshold=threshold,
    )


def _within(test: Test, centre: float, margin: float) -> tuple[Test, Test]:
    """Two one-sided tests: what `test` estimates lies within `margin` of `centre`."""
    return (
        test.model_copy(update={"side": "below", "threshold": centre + margin}),
        test.model_copy(update={"side": "above", "threshold": centre - margin}),
    )


def _at_most(statistic: Statistic, measure: str, arm: str, reference: str | None, threshold: float) -> Test:
    return Test(statistic=statistic, measure=measure, arm=arm, reference=reference, side="below", threshold=threshold)


def _at_least(statistic: Statistic, measure: str, arm: str, reference: str | None, threshold: float) -> Test:
    return _at_most(statistic, measure, arm, reference, threshold).model_copy(update={"side": "above"})


def _covers(arm: str, column: str = "bound") -> Test:
    return Test(
        statistic="coverage",
        measure="sup_one_sided",
        arm=arm,
        reference=None,
        column=column,
        side="above",
        threshold=0.95,
    )


_KEEPS = _at_least("ratio of means", "test_score", "sm+tmkd", "teacher", 0.9)
_ALL_COVER = (_covers("W1"), _covers("W2"), _covers("coin"))


def _shrinks_both(arm: str, reference: str) -> tuple[Test, Test]:
    """The learned gap and the risk are smaller."""
    return _less("generalization_gap", arm, reference), _less("population_risk", arm, reference)


_PAPER = "paper (direction of its experiments; data, model and test are ours)"
_THEOREM = "paper (direction of its theorem, read on trained networks; data, model and test are ours)"
_SIZE = "paper (a compressed student stays close to its teacher; the number is ours)"
_SPEED = "ours (what makes training cheap must not cost quality)"

_THEORY: tuple[Claim, ...] = (
    _theory(
        "T01",
        "Without augmentation, the bound T0 holds at least as often as it promises.",
        "inequality T0",
        *_ALL_COVER,
    ),
    _theory(
        "T02",
        "With fresh inputs, the bound T1 holds at least as often as it promises.",
        "inequality T1",
        *_ALL_COVER,
    ),
    _theory(
        "T03",
        "With independent mixup, the bound T2 holds at least as often as it promises.",
        "inequality T2",
        *_ALL_COVER,
    ),
    _theory(
        "T04",
        "With in-sample mixup, the bound T3 holds at least as often as it promises.",
        "inequality T3",
        *_ALL_COVER,
    ),
    _theory(
        "T05",
        "As many fresh inputs, labelled by the teacher, shrink the one-sided uniform deviation by 20 % or more.",
        "inequality T1",
        _ratio_below("S1", 0.8),
    ),
    _theory(
        "T06",
        "With fresh inputs, the one-sided uniform deviation falls like the root of the number of all inputs.",
        "inequality T1",
        *_within(_at_most("log-log slope", "sup_one_sided", "W1 S1", None, 0), -0.5, 0.05),
        study="gap_by_n",
    ),
    _theory(
        "T07",
        "As many fresh inputs as originals halve the number of originals that a given deviation needs.",
        "inequality T1 (n*(S1) / n*(S0) = 1 / (1 + rho), rho = 1)",
        *_within(
            _at_most("least sample size", "sup_one_sided", "W1 S1", "W1 S0", 0),
            SAMPLE_SIZE_RATIO,
            0.15 * SAMPLE_SIZE_RATIO,
        ),
        study="gap_by_n",
    ),
    _theory(
        "T08",
        "With 20 originals, as many independent mixups shrink the one-sided uniform deviation by 5 % or more.",
        "inequality T2",
        _ratio_below("S2", 0.95),
    ),
    _theory(
        "T09",
        "With 320 originals they do, too.",
        "inequality T2 (whose discrepancy stays as n grows)",
        _ratio_below("S2", 0.95),
        control=True,
    ),
    _theory(
        "T10",
        "With independent mixup, the one-sided uniform deviation tends to the discrepancy of the mixed law, times its "
        "share.",
        "inequality T2 (its limit)",
        *_within(
            Test(
                statistic="ratio of means",
                measure="sup_one_sided",
                arm="S2",
                reference=None,
                column="limit",
                side="below",
                threshold=1,
            ),
            1,
            0.05,
        ),
    ),
    _theory(
        "T11",
        "In-sample mixup shrinks the one-sided uniform deviation when teacher and student are affine.",
        "inequality N1 (which says the opposite)",
        _ratio_below("S3", 1),
        control=True,
    ),
    _theory(
        "T12",
        "In-sample mixup shrinks the two-sided uniform deviation of linear students where the originals are few for "
        "their dimension (60 and 400), and enlarges it where they are many (20 and 2,000).",
        "case (ii), shrinkage",
        _at_most("ratio of means", "sup_two_sided", "d=60 S3", "d=60 S0", 1),
        _at_least("ratio of means", "sup_two_sided", "d=20 S3", "d=20 S0", 1),
    ),
    _theory(
        "T13",
        "The bound for as many independent inputs covers in-sample mixup with 100 mixups per original.",
        "inequality T3 (pairs of one sample are not independent)",
        _covers("rho=100", "iid_bound"),
        control=True,
    ),
    _theory(
        "T14",
        "Duplicating originals at random shrinks the one-sided uniform deviation.",
        "inequality N2 (which says the opposite)",
        _ratio_below("random", 1),
        control=True,
    ),
    _theory(
        "T14b",
        "Duplicating every original equally often leaves the one-sided uniform deviation exactly as it was.",
        "inequality N2 (its case of equality)",
        _at_most("largest", "sup_one_sided", "balanced", "S0", 0),
        study="T14",
    ),
    _theory(
        "T15",
        "From 20 to 100 mixups per original, the one-sided uniform deviation hardly moves: within 5 %.",
        "case (iii), more mixups only remove the conditional Monte-Carlo term",
        *_within(_at_most("ratio of means", "sup_one_sided", "rho=100", "rho=20", 0), 1, 0.05),
        study="T13",
    ),
    _theory(
        "T16",
        "One mixup per pair of d + 1 originals identifies a quadratic teacher; the originals alone do not.",
        "case (i), teacher queries",
        _at_most("median", "population_risk", "S3", None, 1e-8),
        _at_most("median", "population_risk", "S3", "S0", 1e-6),
    ),
    _theory(
        "T17",
        "With a linear teacher and fewer originals than dimensions, in-sample mixup teaches the min-norm "
        "student nothing, while fresh inputs and jitter recover the teacher.",
        "case (i), affine features",
        _at_most("largest", "coefficient", "S3", "S0", 1e-8),
        _at_most("largest", "parameter_error", "S1", None, 1e-8),
        _at_most("largest", "parameter_error", "jitter", None, 1e-8),
    ),
    _theory(
        "T18",
        "With an affine student, a quadratic teacher and 5,120 originals, in-sample mixup lowers the risk.",
        "bias of mixup where the teacher is outside the class (which says the opposite)",
        _less("population_risk", "S3", "S0"),
        control=True,
    ),
    _theory(
        "T18b",
        "There, in-sample mixup adds to the risk what the curvature of the teacher predicts, within 10 %.",
        "bias of mixup where the teacher is outside the class (closed form)",
        *_within(_less("population_risk", "S3", "S0"), CURVATURE_EXCESS, 0.1 * CURVATURE_EXCESS),
        study="T18",
    ),
    _theory(
        "T19",
        "Jitter labelled by the teacher, which shrinks the learned gap, lowers the risk as well.",
        "inequality N4 (the gap can be gamed)",
        _less("population_risk", "jitter", "S0"),
        control=True,
    ),
    _theory(
        "T19b",
        "Jitter labelled by the teacher shrinks the learned gap.",
        "inequality N4 (its premise in T19)",
        _less("generalization_gap", "jitter", "S0"),
        study="T19",
    ),
    _theory(
        "T20",
        "Along the gradient flow, mixed labels over-train a student that could represent the teacher (its final risk "
        "is 30 % above its least); the teacher's answers to the same inputs do not (5 %).",
        "gradient flow in closed form",
        _at_least("median", "overtraining", "realisable label-mixup", None, 1.3),
        _at_most("median", "overtraining", "realisable S3", None, 1.05),
    ),
    _theory(
        "T20b",
        "Two-layer networks over-train more on mixed labels than on the teacher's answers to the same inputs.",
        "T20, for trained networks",
        _at_least("median", "overtraining", "network label-mixup", "network S3", 1),
        study="T20",
    ),
    _theory(
        "T20c",
        "Two-layer networks wide enough for the teacher do not over-train on its answers: by 5 % at most.",
        "T20, for trained networks (the pilot said the opposite)",
        _at_most("median", "overtraining", "network S3", None, 1.05),
        control=True,
        study="T20",
    ),
    _theory(
        "T21",
        "Along the gradient flow, the teacher's answers to mixed inputs do not over-train a student that cannot "
        "represent the teacher: by 5 % at most.",
        "gradient flow in closed form (which says the opposite)",
        _at_most("median", "overtraining", "misspecified S3", None, 1.05),
        control=True,
        study="T20",
    ),
    _theory(
        "T22",
        "With an over-parameterised student, a nonlinear teacher and few originals (20 and 50), in-sample "
        "mixup shrinks the learned gap and the risk.",
        "where S3 can help",
        *_shrinks_both("S3 n=20", "S0 n=20"),
        *_shrinks_both("S3 n=50", "S0 n=50"),
    ),
    _theory(
        "T23",
        "With an affine student, a nonlinear teacher and 400 originals, in-sample mixup shrinks the learned gap and "
        "the risk.",
        "bias of mixup where the teacher is outside the class (which says the opposite)",
        *_shrinks_both("S3", "S0"),
        control=True,
    ),
    *(
        _theory(
            f"T24{suffix}",
            f"On sentence embeddings, with a trained head as teacher and {' and '.join(map(str, sizes))} sentences, "
            f"in-sample mixup shrinks the learned gap and the risk of {name}.",
            "T22, on real inputs",
            *(test for n in sizes for test in _shrinks_both(f"{student} S3 n={n}", f"{student} S0 n={n}")),
            study="T24",
        )
        for suffix, student, name, sizes in (
            ("", "cosines", "students on random cosines", (20, 50)),
            ("b", "affine", "affine students", (20, 50)),
            # With 50, the pilot's effect on networks (2 % of the risk) was too small for 200 replicates.
            ("c", "network", "small networks", (20,)),
        )
    ),
)

_TRAINING_AND_SPEED: tuple[Claim, ...] = (
    _training(
        "E01",
        "With limited data, SM+TMKD scores higher on the test set than KD.",
        _more("test_score", "sm+tmkd", "kd"),
        source=_PAPER,
    ),
    _training(
        "E02",
        "With limited data, SM+TMKD scores higher on the test set than fine-tuning.",
        _more("test_score", "sm+tmkd", "ft"),
        source=_PAPER,
    ),
    _training(
        "E03",
        "With limited data, SM alone scores higher on the test set than fine-tuning.",
        _more("test_score", "sm", "ft"),
        source=_PAPER,
    ),
    _training(
        "E04",
        "With limited data, TMKD alone scores higher on the test set than KD.",
        _more("test_score", "tmkd", "kd"),
        source=_PAPER,
    ),
    _training(
        "E05",
        "With limited data, TMKD alone scores higher on the test set than fine-tuning.",
        _more("test_score", "tmkd", "ft"),
        source=_PAPER,
    ),
    _training(
        "E06",
        "With limited data, SM+TMKD has a smaller generalization gap than fine-tuning.",
        _less("generalization_gap", "sm+tmkd", "ft"),
        source=_THEOREM,
    ),
    _training(
        "E07",
        "With limited data, SM+TMKD has a smaller generalization gap than KD.",
        _less("generalization_gap", "sm+tmkd", "kd"),
        source=_THEOREM,
    ),
    _training(
        "E08",
        "With limited data, the SM+TMKD student keeps at least 90 % of its teacher's test score.",
        _KEEPS,
        source=_SIZE,
    ),
    Claim(
        id="E09",
        statement="A student with half its teacher's layers needs at most 60 % of its time, at every batch size "
        "and length measured, and at most 60 % of its parameters apart from embeddings.",
        source=_SIZE,
        family="confirmatory",
        expected="supported",
        evidence="benchmarks",
        tests=(
            _at_most("every cell", "time", "student", "teacher", 0.6),
            _at_most("largest", "parameters apart from embeddings", "student", "teacher", 0.6),
        ),
        command="mixkd bench",
    ),
    _training(
        "E10",
        "With limited data, SM+TMKD scores higher on the test set than PKD.",
        _more("test_score", "sm+tmkd", "pkd"),
        source=_PAPER,
        command="mixkd suite full",
    ),
    _training(
        "E11",
        "With limited data, SM+TMKD scores higher on the test set than KD from every other layer (DistilBERT).",
        _more("test_score", "sm+tmkd", "distilbert"),
        source=_PAPER,
        command="mixkd suite full",
    ),
    _training(
        "E12",
        "Training in bf16 changes the test score by less than two points against fp32, teacher included.",
        *_within(_less("test_score", "bf16", "fp32"), 0, EQUIVALENT_SCORE),
        source=_SPEED,
        command="mixkd suite precision",
    ),
)


def _machinery(id: str, statement: str, *tests: Test) -> Claim:
    return Claim(
        id=id,
        statement=statement,
        source="ours (trust in the verdicts)",
        family="machinery",
        expected="supported",
        evidence="theory",
        study="calibration",
        tests=tests,
        command="mixkd theory calibration",
    )


def _in_worlds(kind: str, flag: str, share: float) -> Test:
    return _at_least("share", flag, f"{kind} worlds", None, share)


def _hold(statistic: Statistic) -> Test:
    """Intervals of a statistic hold the truth in 93 % of cases or more, of the promised 95 %."""
    return Test(
        statistic="ratio of means",
        measure=f"{statistic} covered",
        arm="null worlds",
        reference=None,
        column="promised",
        side="above",
        threshold=0.93 / CONFIDENCE,
    )


_MACHINERY = (
    _machinery(
        "C01",
        "Where nothing has the claimed effect, some claim of a family is falsely supported in at most 5 % of all "
        "reports.",
        _in_worlds("null", "nothing falsely supported (confirmatory)", 0.95),
        _in_worlds("null", "nothing falsely supported (control)", 0.95),
    ),
    _machinery(
        "C02",
        "Where nothing has the claimed effect, some claim of a family is falsely contradicted in at most 5 % of all "
        "reports.",
        _in_worlds("null", "nothing falsely contradicted (confirmatory)", 0.95),
        _in_worlds("null", "nothing falsely contradicted (control)", 0.95),
    ),
    _machinery(
        "C03",
        "At the effects that the pilots saw, every claim of the theory is decided as expected in at least 90 % of all "
        "reports.",
        *(_in_worlds("effect", f"{claim.id} as expected", 0.9) for claim in _THEORY),
    ),
    _machinery(
        "C04",
        "Intervals that should hold the truth in 95 % of all reports do so in at least 93 %.",
        _hold("mean difference"),
        _hold("ratio of means"),
        _hold("coverage"),
        _hold("median"),
        _hold("log-log slope"),
    ),
)


def _mutant(study: str, role: str, constant: str) -> Claim:
    claim = _theory(
        f"M{study[1:]}-{constant}",
        f"The bound {'T' + str(int(study[1:]) - 1)} with a wrong {constant} term still holds as often as it promises.",
        "mutation of the bound (a suite that supported it could not tell bounds from wrong ones)",
        _covers(role, f"mutant_{constant}"),
        control=True,
        study=study,
    )
    return claim


#: Bounds with one wrong constant, where the world is tight enough to tell; the others are too loose (see the report).
_MUTANTS = (
    _mutant("T01", "coin", "loss"),
    _mutant("T02", "coin", "loss"),
    _mutant("T03", "coin", "loss"),
    _mutant("T03", "W1 n=100000", "discrepancy"),
)

LEDGER: tuple[Claim, ...] = (*_THEORY, *_MUTANTS, *_TRAINING_AND_SPEED, *_MACHINERY)


def ledger_sha256() -> str:
    """SHA-256 of the ledger and of the constants that decide its verdicts, as canonical JSON."""
    registered = {
        "level": LEVEL,
        "confidence": CONFIDENCE,
        "least_sample_size": {"epsilon": EPSILON, "delta": DELTA},
        "seeds": {"master": MASTER_SEED, "pilot": PILOT_SEED},
        "limited": {"task": LIMITED_TASK, "fraction": LIMITED_FRACTION, "layers": LIMITED_LAYERS},
        "claims": [claim.model_dump(mode="json") for claim in LEDGER],
    }
    return hashlib.sha256(canonical_json(registered).encode()).hexdigest()
