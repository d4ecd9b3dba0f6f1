"""The ledger: every claim, where it comes from, how it is tested and what we expect.

Thresholds are fixed here before the confirmatory seeds are drawn; `LEDGER_SHA256` goes into every report.
A claim of family "control" is expected to be contradicted: it shows that the suite can say no.
"""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict

from mixkd.store import canonical_json

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

Outcome = Literal["supported", "contradicted", "inconclusive", "not run"]
Family = Literal["confirmatory", "control"]
Statistic = Literal[
    "mean difference",  # mean(arm - reference), paired
    "ratio of means",  # mean(arm) / mean(reference), paired
    "coverage",  # share of replicates with measure <= bound
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
    """

    __test__ = False  # not a test for pytest

    statistic: Statistic
    measure: str
    arm: str
    reference: str | None
    side: Literal["below", "above"]
    threshold: float


class Claim(_Frozen):
    """One claim; supported only if all its tests are, contradicted if any is.

    Attributes:
        source: Paper, seed (the project's brief) or our derivation, naming the inequality.
        evidence: Which producer's records the tests read.
        study: Key of ``theory.studies.STUDIES``; empty for other evidence.
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


def _equivalent(measure: str, arm: str, reference: str, margin: float) -> tuple[Test, Test]:
    """Two one-sided tests: the mean difference lies within the margin on both sides."""
    return (
        _less(measure, arm, reference).model_copy(update={"threshold": margin}),
        _more(measure, arm, reference).model_copy(update={"threshold": -margin}),
    )


def _at_most(statistic: Statistic, measure: str, arm: str, reference: str | None, threshold: float) -> Test:
    return Test(statistic=statistic, measure=measure, arm=arm, reference=reference, side="below", threshold=threshold)


_COVERS = Test(statistic="coverage", measure="sup_one_sided", arm="S0", reference=None, side="above", threshold=0.95)
_KEEPS = Test(
    statistic="ratio of means",
    measure="test_score",
    arm="sm+tmkd",
    reference="teacher",
    side="above",
    threshold=0.9,
)
_PAPER = "paper (direction of its experiments; data, model and test are ours)"
_THEOREM = "paper (direction of its theorem, read on trained networks; data, model and test are ours)"
_SIZE = "paper (a compressed student stays close to its teacher; the number is ours)"
_SPEED = "ours (what makes training cheap must not cost quality)"

LEDGER: tuple[Claim, ...] = (
    _theory(
        "T01",
        "Without augmentation, the bound T0 holds at least as often as it promises.",
        "inequality T0",
        _COVERS,
    ),
    _theory(
        "T05",
        "As many fresh inputs, labelled by the teacher, shrink the one-sided uniform deviation by 20 % or more.",
        "inequality T1",
        _ratio_below("S1", 0.8),
    ),
    _theory(
        "T11",
        "In-sample mixup shrinks the one-sided uniform deviation when teacher and student are affine.",
        "inequality N1 (which says the opposite)",
        _ratio_below("S3", 1),
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
        "T22",
        "With an over-parameterised student, a nonlinear teacher and few originals (20 and 50), in-sample "
        "mixup shrinks the learned gap and the risk.",
        "where S3 can help",
        *(
            _less(measure, f"S3 n={n}", f"S0 n={n}")
            for n in (20, 50)
            for measure in ("generalization_gap", "population_risk")
        ),
    ),
    _theory(
        "T23",
        "With an affine student, a nonlinear teacher and 400 originals, in-sample mixup shrinks the learned gap and "
        "the risk.",
        "bias of mixup where the teacher is outside the class (which says the opposite)",
        *(_less(measure, "S3", "S0") for measure in ("generalization_gap", "population_risk")),
        control=True,
    ),
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
        *_equivalent("test_score", "bf16", "fp32", EQUIVALENT_SCORE),
        source=_SPEED,
        command="mixkd suite precision",
    ),
)


def ledger_sha256() -> str:
    """SHA-256 of the ledger and of the constants that decide its verdicts, as canonical JSON."""
    registered = {
        "level": LEVEL,
        "confidence": CONFIDENCE,
        "limited": {"task": LIMITED_TASK, "fraction": LIMITED_FRACTION, "layers": LIMITED_LAYERS},
        "claims": [claim.model_dump(mode="json") for claim in LEDGER],
    }
    return hashlib.sha256(canonical_json(registered).encode()).hexdigest()
