import math

import pytest

from reports import wording
from reports.ledger import LEDGER
from reports.statistics import Estimate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.71234, "0.712"), (-0.0123456, "−0.0123"), (0.00071, "0.000710"), (1e-9, "1e−09"), (0, "0"), (2000, "2,000"),
        (1234.5, "1,234"), (12.345, "12.3"), (None, "—"), (math.inf, "—"), (math.nan, "—"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert wording.number(value) == text


def test_intervals_and_estimates():
    assert wording.interval(-math.inf, 1) == wording.interval(None, 1) == "[unbounded]"
    assert wording.estimate(Estimate(0.5, 0.4, 0.6, 0, 1)) == "0.500 [0.400, 0.600]"
    assert wording.estimate(Estimate(0.5, 0.5, 0.5, 0, 1)) == "0.500"


def test_counts_and_p_values():
    assert (wording.count(1, "seed"), wording.count(2000, "replicate")) == ("1 seed", "2,000 replicates")
    assert (wording.p_value(0.0004), wording.p_value(0.0314)) == ("p < 0.001", "p = 0.031")


def test_every_registered_test_has_its_own_words():
    texts = [wording.quantity(claim, test) for claim in LEDGER for test in claim.tests]
    named = {(claim.id, wording.quantity(claim, test), test.side) for claim in LEDGER for test in claim.tests}
    assert len(named) == len(texts)
    assert not any("_" in text or "None" in text for text in texts)


def test_a_claim_is_told_by_its_first_test_and_the_number_of_the_others():
    claims = {claim.id: claim for claim in LEDGER}
    assert wording.tests(claims["E01"]) == "Mean difference in test score, SM+TMKD minus KD on 10% of the data: above 0"
    assert wording.tests(claims["T01"]).endswith("is within its bound: at least 0.950; 2 more tests")


def test_enumerations():
    assert [wording.enumeration("abc"[:num]) for num in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
