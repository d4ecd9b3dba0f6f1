"""What single tests find."""

import pandas as pd
import pytest

from reports.ledger import LEDGER
from reports.results import estimate, evaluate, holds
from reports.samples import Samples
from reports.statistics import Estimate

CLAIMS = {claim.id: claim for claim in LEDGER}


def test_a_side_holds_with_the_whole_interval():
    below, above = CLAIMS["T12"].tests
    assert not holds(below, Estimate(0.9, 0.7, 1.1, 0.1, 0.9)) and holds(below, Estimate(0.9, 0.8, 1.0, 0.01, 0.99))
    assert not holds(above, Estimate(1.1, 0.9, 1.3, 0.9, 0.1)) and holds(above, Estimate(1.1, 1.0, 1.3, 0.99, 0.01))


def test_the_worst_cell_decides():
    frame = pd.DataFrame({"ratio": [0.5, 0.58, 0.61], "low": [0.49, 0.54, 0.60], "high": [0.51, 0.62, 0.62]})
    test = CLAIMS["E09"].tests[0]
    found = estimate(test, frame)
    assert (found.effect, found.high) == (0.61, 0.62) and found.p_below > 0.5
    alone = estimate(test, frame.iloc[[2]])
    assert found.p_above == pytest.approx(3 * alone.p_above)


def test_single_pairs_are_held_against_the_threshold():
    frame = pd.DataFrame({"S1": [0.7, 0.75, 0.9, 0.95], "S0": [1.0] * 4}).rename_axis("replicate")
    result = evaluate(CLAIMS["T05"].tests[0], Samples(frame))  # at most 0.8
    assert result.improvement.effect == 0.5


def test_a_bound_that_is_met_exactly_covers():
    frame = pd.DataFrame({"sup": [1.0, 2.0], "bound": [1.0, 1.0]})
    assert estimate(CLAIMS["T01"].tests[0], frame).effect == 0.5
