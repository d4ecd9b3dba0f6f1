"""The ledger: every claim, in the order of the report.

Thresholds are fixed before the confirmatory seeds are drawn; the ledger's hash goes into every report.
"""

import hashlib

from mixkd.store import canonical_json
from reports.claims import CONFIDENCE, DELTA, EPSILON, LEVEL, RESAMPLED, Claim, Test, at_least
from reports.setting import EPOCHS, SETTING, WEIGHTS
from reports.theory_claims import MUTANT_CLAIMS, THEORY_CLAIMS
from reports.training_claims import TRAINING_CLAIMS
from theory.studies import MASTER_SEED, PILOT_SEED


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

LEDGER: tuple[Claim, ...] = (*THEORY_CLAIMS, *MUTANT_CLAIMS, *TRAINING_CLAIMS, *_MACHINERY)


def ledger_sha256() -> str:
    """SHA-256 of the ledger and of the constants that decide its verdicts, as canonical JSON."""
    registered = {
        "level": LEVEL,
        "confidence": CONFIDENCE,
        "least_sample_size": {"epsilon": EPSILON, "delta": DELTA},
        "seeds": {"master": MASTER_SEED, "pilot": PILOT_SEED},
        "training": {**SETTING, "weights": WEIGHTS, "num_epochs": {str(share): num for share, num in EPOCHS.items()}},
        "claims": [claim.model_dump(mode="json") for claim in LEDGER],
    }
    return hashlib.sha256(canonical_json(registered).encode()).hexdigest()
