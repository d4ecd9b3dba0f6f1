"""Tables of trained students, on runs whose truth is known."""

import shutil

import numpy as np
import pytest
import synthetic
from scipy import stats

from mixkd.store import Store
from reports import training_tables
from reports.setting import LEAST


def test_recipes_come_in_their_usual_order_with_every_seed(evidence):
    seeds = training_tables.recipe_seeds(evidence)
    recipes = ["ft", "kd", "pkd", "distilbert", "sm", "tmkd", "sm+tmkd", "sm+tmkd+kd"]
    assert list(dict.fromkeys(seeds["recipe"])) == recipes
    assert seeds.groupby("recipe").size().eq(12).all()
    summary = training_tables.recipe_summary(seeds, "test_score").set_index("recipe")
    scores = seeds.loc[seeds["recipe"] == "kd", "test_score"]
    interval = stats.t.interval(0.95, 11, scores.mean(), stats.sem(scores))
    assert summary.loc["kd", ["mean", "low", "high"]].tolist() == pytest.approx([scores.mean(), *interval])


def test_every_share_of_the_data_has_the_mean_of_each_recipe(store):
    synthetic.save_studies_of_training(store)
    found = training_tables.by_share(synthetic.read(store)).set_index(["train_fraction", "recipe"])
    assert found["num_seeds"].eq(3).all() and len(found) == 4  # neither translated nor otherwise changed runs
    assert found.loc[(0.2, "sm+tmkd"), "mean"] == pytest.approx(0.81, abs=1e-3)
    assert training_tables.by_share(synthetic.read(Store(store.root / "nothing"))).empty


def test_every_recipe_is_held_against_ft_and_kd_at_both_shares(evidence):
    found = training_tables.differences(evidence).set_index(["train_fraction", "reference", "recipe"])
    assert len(found) == 2 * 2 * 7 and found["num_seeds"].eq(12).all()
    runs = evidence.runs[(evidence.runs["train_fraction"] == LEAST) & (evidence.runs["changed"] == "")]
    sm, ft = (runs[runs["recipe"] == name].set_index("seed")["test_score"].astype(float) for name in ("sm", "ft"))
    row, test = found.loc[LEAST, "ft", "sm"], stats.ttest_rel(sm, ft[sm.index])
    assert row["effect"] == pytest.approx((sm - ft).mean())
    assert tuple(row[["low", "high"]]) == pytest.approx(tuple(test.confidence_interval()))


def test_other_texts_and_noise_are_held_against_kd_seed_by_seed(evidence):
    found = training_tables.robustness(evidence).set_index(["target", "recipe"])
    assert set(found.index.get_level_values("target")) == {"test texts", "with typing errors", "newspaper"}
    assert "kd" not in found.index.get_level_values("recipe")
    rows = found.xs("sm+tmkd", level="recipe")["effect"]
    assert np.ptp(rows) < 1e-9 and rows.iloc[0] == pytest.approx(0.05, abs=0.01)  # all targets differ by constants


def test_paths_are_those_of_students_beside_their_teacher(evidence):
    paths = training_tables.paths(evidence).set_index("recipe")
    assert paths["effect"].tolist() == pytest.approx([-0.1] * 7) and "ft" not in paths.index
    means = training_tables.path_means(evidence).set_index("recipe")
    assert means.loc["ft", "mean"] == pytest.approx(0.355) and np.isnan(means.loc["teacher", "low"])


def test_half_way_between_texts_the_drawn_students_are_measured_one_by_one(tmp_path):
    store = Store(tmp_path)
    synthetic.save_runs(store, synthetic.GOOD_RUNS, num_seeds=2)
    synthetic.save_paths(store, kd=0.7)
    evidence = synthetic.read(store)
    assert set(evidence.paths["init_seed"]) == {0}
    halves = training_tables.halves(evidence).set_index("recipe")
    assert list(halves.index) == ["teacher", "ft", "kd", "sm+tmkd"]  # once each, the teacher too
    assert halves["median"].tolist() == pytest.approx([0.535, 0.235, 0.735, 0.235])  # pairs add 0 to 0.07
    assert halves.loc["kd", ["low", "high"]].tolist() == pytest.approx([0.7, 0.77])  # of eight, the extremes
    assert set(halves["num_pairs"]) == {8}


def test_paths_are_drawn_of_a_seed_that_has_them_all(tmp_path):
    store = Store(tmp_path)
    synthetic.save_runs(store, synthetic.GOOD_RUNS, num_seeds=2)
    assert synthetic.read(store).paths.empty
    synthetic.save_paths(store)
    store.interpolation_path(synthetic.content_id(synthetic.experiment("kd"))).unlink()
    evidence = synthetic.read(store)
    assert evidence.paths.empty and evidence.problems == []


def test_a_seed_without_its_partner_leaves_the_others_paired(tmp_path):
    store = Store(tmp_path)
    synthetic.save_runs(store, synthetic.GOOD_RUNS, num_seeds=4)
    shutil.rmtree(store.run_dir(synthetic.content_id(synthetic.experiment("sm+tmkd", 2))))
    found = training_tables.robustness(synthetic.read(store)).set_index(["target", "recipe"])
    assert found.loc[("test texts", "sm+tmkd"), "num_seeds"] == 3 and found.notna().all(axis=None)
