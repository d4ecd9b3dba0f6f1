"""The ledger: every claim, in the order of the report; those about theory have a room of their own.

Thresholds are fixed before the confirmatory seeds are drawn; the ledger's hash goes into every report.
"""

import hashlib

from mixkd.store import canonical_json
from reports.claims import (
    CONFIDENCE,
    DELTA,
    EPSILON,
    EQUIVALENT_SCORE,
    LEVEL,
    LIMITED_FRACTION,
    LIMITED_LAYERS,
    LIMITED_TASK,
    RESAMPLED,
    Claim,
    Test,
    at_least,
    at_most,
    less,
    more,
    within,
)
from reports.theory_claims import MUTANT_CLAIMS, THEORY_CLAIMS
from theory.studies import MASTER_SEED, PILOT_SEED


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


_PAPER = "paper (direction of its experiments; data, model and test are ours)"
_THEOREM = "paper (direction of its theorem, read on trained networks; data, model and test are ours)"
_SIZE = "paper (a compressed student stays close to its teacher; the number is ours)"
_SPEED = "ours (what makes training cheap must not cost quality)"

_TRAINING_AND_SPEED: tuple[Claim, ...] = (
    _training(
        "E01",
        "With limited data, SM+TMKD scores higher on the test set than KD.",
        more("test_score", "sm+tmkd", "kd"),
        source=_PAPER,
    ),
    _training(
        "E02",
        "With limited data, SM+TMKD scores higher on the test set than fine-tuning.",
        more("test_score", "sm+tmkd", "ft"),
        source=_PAPER,
    ),
    _training(
        "E03",
        "With limited data, SM alone scores higher on the test set than fine-tuning.",
        more("test_score", "sm", "ft"),
        source=_PAPER,
    ),
    _training(
        "E04",
        "With limited data, TMKD alone scores higher on the test set than KD.",
        more("test_score", "tmkd", "kd"),
        source=_PAPER,
    ),
    _training(
        "E05",
        "With limited data, TMKD alone scores higher on the test set than fine-tuning.",
        more("test_score", "tmkd", "ft"),
        source=_PAPER,
    ),
    _training(
        "E06",
        "With limited data, SM+TMKD has a smaller generalization gap than fine-tuning.",
        less("generalization_gap", "sm+tmkd", "ft"),
        source=_THEOREM,
    ),
    _training(
        "E07",
        "With limited data, SM+TMKD has a smaller generalization gap than KD.",
        less("generalization_gap", "sm+tmkd", "kd"),
        source=_THEOREM,
    ),
    _training(
        "E08",
        "With limited data, the SM+TMKD student keeps at least 90 % of its teacher's test score.",
        at_least("ratio of means", "test_score", "sm+tmkd", "teacher", 0.9),
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
            at_most("every cell", "time", "student", "teacher", 0.6),
            at_most("largest", "parameters apart from embeddings", "student", "teacher", 0.6),
        ),
        command="mixkd bench",
    ),
    _training(
        "E10",
        "With limited data, SM+TMKD scores higher on the test set than PKD.",
        more("test_score", "sm+tmkd", "pkd"),
        source=_PAPER,
        command="mixkd suite full",
    ),
    _training(
        "E11",
        "With limited data, SM+TMKD scores higher on the test set than KD from every other layer (DistilBERT).",
        more("test_score", "sm+tmkd", "distilbert"),
        source=_PAPER,
        command="mixkd suite full",
    ),
    _training(
        "E12",
        "Training in bf16 changes the test score by less than two points against fp32, teacher included.",
        *within(less("test_score", "bf16", "fp32"), 0, EQUIVALENT_SCORE),
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
    return at_least("share", flag, f"{kind} worlds", None, share)


_MACHINERY = (
    _machinery(
        "C01",
        "Where every claim is false as narrowly as can be (one of its tests is at its threshold), some claim of a "
        "family is falsely supported in at most 5 % of all reports.",
        _in_worlds("null", "nothing falsely supported (confirmatory)", 0.95),
        _in_worlds("null", "nothing falsely supported (control)", 0.95),
    ),
    _machinery(
        "C02",
        "Where one test of every claim is at its threshold and its others hold, some claim of a family is falsely "
        "contradicted in at most 5 % of all reports.",
        _in_worlds("null", "nothing falsely contradicted (confirmatory)", 0.95),
        _in_worlds("null", "nothing falsely contradicted (control)", 0.95),
    ),
    _machinery(
        "C03",
        "At the effects that the pilots saw, each claim of the theory is decided as expected in at least 90 % of all "
        "reports.",
        *(_in_worlds("effect", f"{claim.id} as expected", 0.9) for claim in THEORY_CLAIMS),
    ),
    _machinery(
        "C04",
        "For each claim of the theory whose evidence is resampled, the intervals that should hold the truth in 95 % of "
        "all reports do so in at least 93 %.",
        *(
            _in_worlds("null", f"{claim.id} covered", 0.93)
            for claim in THEORY_CLAIMS
            if any(test.statistic in RESAMPLED for test in claim.tests)
        ),
    ),
)

LEDGER: tuple[Claim, ...] = (*THEORY_CLAIMS, *MUTANT_CLAIMS, *_TRAINING_AND_SPEED, *_MACHINERY)


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
