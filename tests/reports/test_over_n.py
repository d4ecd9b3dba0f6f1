"""The numbers over n, against the cells they come from."""

import numpy as np
import pytest
import synthetic

from reports import over_n
from reports.claims import DELTA, EPSILON
from reports.sample_size import least_sample_sizes


def test_gaps_are_those_of_the_arms(evidence):
    gaps = over_n.gap_by_n(evidence)
    row = gaps[(gaps["world"] == "W1") & (gaps["arm"] == "S3") & (gaps["num_samples"] == 20)].iloc[0]
    arm, reference = (evidence.cells["gap_by_n", f"W1 {name} n=20"] for name in ("S3", "S0"))
    assert row["measure"] == "generalization_gap"
    assert row["mean"] == pytest.approx(arm["generalization_gap"].mean())
    assert row["difference"] == pytest.approx((arm - reference)["generalization_gap"].mean())
    assert row["low"] < row["mean"] < row["high"]


def test_coverage(evidence):
    found = over_n.coverage(evidence)
    assert (found["coverage"] == 1).all() and (found["low"] < 1).all()
    np.testing.assert_allclose(found["slack"], found["bound"] / found["quantile"])


def test_rates_and_least_sample_sizes(evidence):
    rates = over_n.rates(evidence)
    assert set(rates.loc[rates["slope"].isna(), "arm"]) == {"S2", "S3"}  # never through a plateau
    rates = rates.dropna()
    assert rates["slope"].to_numpy() == pytest.approx(-0.5, abs=0.05)
    np.testing.assert_allclose(rates["fitted"], rates["mean"], rtol=0.05)
    sizes = over_n.sample_sizes(evidence).set_index(["world", "arm"])
    ratio = sizes.loc[("W1", "S1"), "effect"] / sizes.loc[("W1", "S0"), "effect"]
    assert ratio == pytest.approx(0.5, abs=0.06)
    assert (sizes["low"] <= sizes["effect"]).all()
    deviations = {n: evidence.cells["gap_by_n", f"W1 S0 n={n}"]["sup_one_sided"] for n in synthetic.SIZES}
    (found, *_) = least_sample_sizes(deviations, EPSILON, DELTA, num=1)
    assert sizes.loc[("W1", "S0"), "effect"] == pytest.approx(found)
