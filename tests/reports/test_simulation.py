"""The numbers behind the simulations' figures and tables, against pandas and numpy by hand."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic
from pandas.testing import assert_frame_equal

from mixkd.store import Store
from reports import simulation
from reports.evidence import load


def test_the_four_quantities_stand_together(evidence):
    found = simulation.quantities(evidence).set_index(["study", "role"])
    cell = evidence.cells["T05", "S1"]
    row = found.loc[("T05", "S1")]
    for name in simulation.QUANTITIES:
        assert row[name] == pytest.approx(cell[name].mean())
        half_width = 1.972 * cell[name].std() / np.sqrt(200)
        assert row[f"{name}_high"] - row[name] == pytest.approx(half_width, rel=1e-3)
    assert np.isnan(found.loc[("T17", "S1"), "sup_one_sided"])  # not recorded there
    assert "phase" not in found.index.get_level_values(0)


def test_mutants_are_those_of_the_bounds(evidence):
    found = simulation.coverages(evidence)
    assert set(found["bound"]) == {"T0", "T1", "T2", "T3"} and not found["told"].any()
    assert set(found["constant"]) == {"", "loss", "discrepancy"}


def test_changes_are_paired_and_over_the_risk_without(evidence):
    found = simulation.contrasts(evidence).set_index(["study", "setting", "measure"])
    arm, none = (evidence.cells["T22", f"{name} n=20"] for name in ("S3", "S0"))
    row = found.loc[("T22", "n=20", "generalization_gap")]
    difference = arm["generalization_gap"] - none["generalization_gap"]
    assert row["change"] == pytest.approx(difference.mean() / none["population_risk"].mean())
    assert row["low"] < row["change"] < row["high"] < 0
    shuffled = evidence.cells | {("T22", "S0 n=20"): none.iloc[::-1]}  # replicates are paired by their number
    assert_frame_equal(simulation.contrasts(replace(evidence, cells=shuffled)), simulation.contrasts(evidence))
    phase = simulation.phase(evidence)
    assert len(phase) == 2 * 2 * 2 * 2 * 2 and set(phase["ratio"]) == {22 / 200, 440 / 200, 22 / 11, 440 / 11}
    assert set(zip(phase["a"], phase["rho"], strict=True)) == {(1, 4), (0.2, 16)} and set(phase["study"]) == {"phase"}


def test_the_full_phase_diagram_is_shown_once_there_is_more_of_it(evidence):
    cells = dict(evidence.cells)
    shared = {("phase_full", role): cell for (study, role), cell in cells.items() if study == "phase"}
    found = simulation.phase(replace(evidence, cells=cells | shared))
    assert_frame_equal(found, simulation.phase(evidence))
    world = "phase manifold c=2 affine n=22"
    more = {("phase_full", f"{world} S3 a=5 rho=1"): cells["phase", f"{world} S0"]}
    found = simulation.phase(replace(evidence, cells=cells | shared | more))
    assert set(found["study"]) == {"phase_full"} and len(found) == 32 + 2
    assert found.loc[found["a"] == 5, "change"].eq(0).all()


def test_trainings_are_relative_to_each_replicates_least(evidence):
    found = simulation.trainings(evidence)
    ends = found[(found["progress"] == 1) & (found["arm"] == "label-mixup")]
    assert ends["median"].to_numpy() == pytest.approx(2.0, rel=0.01)
    assert found[found["progress"] == 0.5]["median"].to_numpy() == pytest.approx(1.0)


def test_the_bridge_names_what_cannot_be_estimated(evidence, tmp_path):
    found = simulation.bridge(evidence).set_index(["source", "quantity"])
    students = "BERT students, SM+TMKD minus FT"
    assert "cannot be computed" in found.loc[(students, "one-sided deviation"), "reason"]
    assert found.loc[(students, "learned gap"), "effect"] == pytest.approx(-0.3, abs=0.02)
    assert found.loc[(students, "learned gap"), "num"] == 12
    assert "mixkd suite" in found.loc[(students, "risk"), "reason"]  # the synthetic runs have no test loss
    simulated = found.loc[("W4, 20 originals, random cosines", "risk")]
    assert simulated["low"] < simulated["effect"] < simulated["high"] < 0
    empty = simulation.bridge(load(Store(tmp_path), synthetic.STUDIES))
    assert empty["effect"].isna().all() and empty["reason"].notna().all()


def test_mutants_are_told_only_where_the_interval_is_below(tmp_path):
    store, sup = Store(tmp_path), np.arange(200.0)
    for world, misses in (("W1", 10), ("W2", 40), ("coin", 0)):
        synthetic.save_cell(
            store,
            synthetic.STUDIES["T01"].cells[world],
            {
                "sup_one_sided": sup,
                "mutant_loss": np.full(200, 199.0 - misses),
                "mutant_mixed": np.full(200, 300.0000001),
            }
            | ({"bound": np.full(200, 300.0)} if world == "coin" else {}),
        )
    found = simulation.coverages(load(store, synthetic.STUDIES)).set_index("world")
    is_there = found.reset_index().groupby("world")["constant"].agg(set).to_dict()
    assert is_there == {"W1": {"loss", "mixed"}, "W2": {"loss", "mixed"}, "coin": {"", "loss"}}  # mixed is its bound
    found = found[found["constant"] == "loss"]
    assert found["told"].to_dict() == {"W1": False, "W2": True, "coin": False}
    assert found.loc["coin", "slack"] == pytest.approx(199 / np.quantile(sup, 0.95))


def test_ratios_are_arm_over_reference(evidence):
    ratio = simulation.ratios(evidence).set_index("claim").loc["T05"]
    arms = [evidence.cells["T05", arm]["sup_one_sided"].mean() for arm in ("S1", "S0")]
    assert ratio["ratio"] == pytest.approx(arms[0] / arms[1])


def test_recovery_is_the_median_of_each_arm_with_its_order_statistics(tmp_path):
    store, errors = Store(tmp_path), np.random.default_rng(0).permutation(np.arange(1.0, 201.0))
    synthetic.save_cell(store, synthetic.STUDIES["T17"].cells["S3"], {"parameter_error": errors})
    (row,) = simulation.recovery(load(store, synthetic.STUDIES)).to_dict("records")
    # P(Bin(200, 1/2) < 86) = 0.0200 and P(< 87) = 0.0280: the 86th smallest and the 86th largest.
    assert row == {"arm": "S3", "median": 100.5, "low": 86.0, "high": 115.0, "num_replicates": 200}
