import pytest
import synthetic
from pydantic import ValidationError

from reports import ledger
from reports.calibration import registered_studies
from reports.ledger import LEDGER, ledger_sha256


def test_ids_are_unique_and_every_claim_has_tests():
    assert len({claim.id for claim in LEDGER}) == len(LEDGER)
    assert all(claim.tests for claim in LEDGER)


def test_controls_are_expected_to_be_contradicted():
    for claim in LEDGER:
        assert claim.expected == ("contradicted" if claim.family == "control" else "supported")


@pytest.mark.parametrize("studies", [registered_studies(), synthetic.STUDIES], ids=["registered", "synthetic"])
def test_theory_claims_read_roles_that_their_study_has(studies):
    for claim in LEDGER:
        roles = {role for test in claim.tests for role in (test.arm, test.reference) if role}
        if claim.evidence == "theory":
            known = set(studies[claim.study].cells)
            assert roles <= known | {role.rpartition(" n=")[0] for role in known}
            assert claim.command == f"mixkd theory {claim.study}"


def test_thresholds_are_those_of_the_design():
    registered = {claim.id: [(test.side, test.threshold) for test in claim.tests] for claim in LEDGER}
    assert registered["T01"] == registered["T02"] == registered["T03"] == registered["T04"] == [("above", 0.95)] * 3
    assert registered["T06"] == [("below", -0.45), ("above", -0.55)]
    assert registered["T07"] == [("below", 0.575), ("above", 0.425)]
    assert registered["T08"] == registered["T09"] == [("below", 0.95)]
    assert registered["T10"] == registered["T15"] == [("below", 1.05), ("above", 0.95)]
    assert registered["T12"] == [("below", 1), ("above", 1)]
    assert registered["T13"] == [("above", 0.95)]
    assert registered["T18b"] == [
        ("below", pytest.approx(1.1 * 0.02 / 4.5)),
        ("above", pytest.approx(0.9 * 0.02 / 4.5)),
    ]
    assert registered["T20"] == [("above", 1.3), ("below", 1.05)] and registered["T21"] == [("below", 1.05)]
    assert registered["T05"] == [("below", 0.8)]
    assert registered["T11"] == registered["T14"] == [("below", 1)]
    assert registered["T14b"] == [("below", 0)]
    assert registered["T16"] == [("below", 1e-8), ("above", 1.0)]
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
    monkeypatch.setattr(ledger, "LEDGER", (LEDGER[0], changed, *LEDGER[2:]))
    assert ledger_sha256() != before
    monkeypatch.undo()
    assert ledger_sha256() == before
