import pytest
import synthetic
from pydantic import ValidationError

from reports import claims
from reports.claims import LEDGER, ledger_sha256
from theory.studies import STUDIES


def test_ids_are_unique_and_every_claim_has_tests():
    assert len({claim.id for claim in LEDGER}) == len(LEDGER)
    assert all(claim.tests for claim in LEDGER)


def test_controls_are_expected_to_be_contradicted():
    for claim in LEDGER:
        assert claim.expected == ("contradicted" if claim.family == "control" else "supported")


@pytest.mark.parametrize("studies", [STUDIES, synthetic.STUDIES], ids=["registered", "synthetic"])
def test_theory_claims_read_roles_that_their_study_has(studies):
    for claim in LEDGER:
        roles = {role for test in claim.tests for role in (test.arm, test.reference) if role}
        if claim.evidence == "theory":
            assert roles <= set(studies[claim.study].cells)
            assert claim.command == f"mixkd theory {claim.study}"


def test_thresholds_are_those_of_the_design():
    registered = {claim.id: [(test.side, test.threshold) for test in claim.tests] for claim in LEDGER}
    assert registered["T01"] == [("above", 0.95)]
    assert registered["T05"] == [("below", 0.8)]
    assert registered["T11"] == registered["T14"] == [("below", 1)]
    assert registered["T14b"] == [("below", 0)]
    assert registered["T16"] == [("below", 1e-8), ("below", 1e-6)]
    assert registered["T17"] == [("below", 1e-8)] * 3
    assert registered["T22"] == [("below", 0)] * 4
    assert registered["T23"] == [("below", 0)] * 2
    assert registered["E08"] == [("above", 0.9)]
    assert registered["E09"] == [("below", 0.6)] * 2


def test_a_claim_cannot_be_changed():
    with pytest.raises(ValidationError):
        LEDGER[0].expected = "contradicted"


def test_the_hash_notices_a_changed_threshold(monkeypatch):
    before = ledger_sha256()
    test = LEDGER[1].tests[0].model_copy(update={"threshold": 0.81})
    changed = LEDGER[1].model_copy(update={"tests": (test,)})
    monkeypatch.setattr(claims, "LEDGER", (LEDGER[0], changed, *LEDGER[2:]))
    assert ledger_sha256() != before
    monkeypatch.undo()
    assert ledger_sha256() == before
