"""Tables of trained students in other settings than the registered one, on runs whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic

from mixkd.store import Store
from reports import setting_figures, setting_tables, training_tables, wording
from reports.evidence import registered_runs
from reports.pairs import by_seed


def test_back_translation_is_held_against_the_same_seed_without_in_as_many_epochs_and_in_as_many_steps(store):
    synthetic.save_studies_of_training(store)
    found = setting_tables.back_translation(synthetic.read(store)).set_index(["reference", "recipe"])
    expected = {
        ("epochs", "kd"): 0.01, ("epochs", "sm+tmkd"): 0.03, ("steps", "kd"): -0.01, ("steps", "sm+tmkd"): -0.01,
    }  # fmt: skip
    assert found["effect"].to_dict() == pytest.approx(expected, abs=3e-4)
    assert [np.mean(seeds) for seeds in found["seeds"]] == pytest.approx(found["effect"].tolist())
    of_seeds = by_seed(found.reset_index()).groupby(["reference", "recipe"])["of_seed"]
    assert of_seeds.size().eq(3).all()
    assert of_seeds.mean().to_dict() == pytest.approx(found["effect"].to_dict())
    assert (found["low"] * found["high"] > 0).all()
    assert (found["high"] - found["low"] < 0.002).all()  # the seeds' spread cancels
    assert found["train_fraction"].eq(0.05).all() and found["num_seeds"].eq(3).all()


def test_twice_the_epochs_are_held_against_once_and_against_kd_on_the_same_seeds(store):
    synthetic.save_studies_of_training(store)
    for seed in range(5):  # of no use without KD with twice the epochs
        measurements = {"test_score": 0.9, "generalization_gap": 0.1, "teacher_test_score": 0.9}
        store.save_run(synthetic.record(synthetic.experiment("sm+tmkd", 50 + seed, train_fraction=0.05), measurements))
    found = setting_tables.epochs(synthetic.read(store)).set_index(
        ["recipe", "epochs", "reference", "reference_epochs"]
    )
    expected = {
        ("sm+tmkd", "once", "kd", "once"): 0.02, ("sm+tmkd", "once", "kd", "twice"): 0.0,
        ("sm+tmkd", "twice", "kd", "twice"): 0.04,
        ("kd", "twice", "kd", "once"): 0.02, ("sm+tmkd", "twice", "sm+tmkd", "once"): 0.04,
    }  # fmt: skip
    assert found["effect"].to_dict() == pytest.approx(expected, abs=3e-4)
    assert found["train_fraction"].eq(0.05).all() and found["num_seeds"].eq(3).all()
    assert setting_tables.epochs(synthetic.read(Store(store.root / "nothing"))).empty


def test_one_setting_is_changed_at_a_time(store):
    synthetic.save_studies_of_training(store)
    found = setting_tables.sensitivity(synthetic.read(store)).set_index(["setting", "reference", "value"])["effect"]
    expected = {
        ("beta_alpha", "sm+tmkd", 0.4): -0.005, ("beta_alpha", "sm+tmkd", 1.0): 0.0,
        ("beta_alpha", "kd", 0.4): 0.015, ("beta_alpha", "kd", 1.0): 0.02,
        ("learning_rate", "sm+tmkd", 3e-4): 0.0, ("learning_rate", "sm+tmkd", 1e-3): -0.01,
        ("learning_rate", "kd", 3e-4): 0.02, ("learning_rate", "kd", 1e-3): 0.02,
    }  # fmt: skip
    assert found.to_dict() == pytest.approx(expected, abs=3e-4)


@pytest.mark.parametrize("lacking", ["sm+tmkd", "kd"])
def test_a_reference_that_was_not_run_takes_no_figure_from_the_other(tmp_path, lacking):
    store = Store(tmp_path)
    synthetic.save_studies_of_training(store)
    for run in store.runs()[0]:
        if run.experiment["recipe"] == lacking and run.experiment["beta_alpha"] == 1.0:
            (store.run_dir(run.run_id) / "record.json").unlink()
    found = setting_tables.sensitivity(synthetic.read(store))
    assert set(found["reference"]) == {"kd", "sm+tmkd"} - {lacking} and found["effect"].dtype == float
    assert "sensitivity" in {figure.key for figure in setting_figures.build(synthetic.read(store))}


def test_pairs_of_two_machines_are_told_wherever_they_are(tmp_path):
    """KD on another machine, where SM+TMKD was done again for two of three seeds."""
    store = Store(tmp_path)
    measurements = {"generalization_gap": 0.1, "teacher_test_score": 0.9, "noise/typos/score": 0.6}
    for seed in range(3):
        ours = synthetic.experiment("sm+tmkd", seed)
        store.save_run(synthetic.record(ours, measurements | {"test_score": 0.7}))
        kd = synthetic.record(synthetic.experiment("kd", seed), measurements | {"test_score": 0.72 + 0.001 * seed})
        there = kd.provenance.model_copy(update={"processor": "Other"})
        store.save_run(kd.model_copy(update={"provenance": there}))
        if seed < 2:
            synthetic.repeat(store, ours, measurements | {"test_score": 0.75})
    tables = {
        "differences": training_tables.differences(synthetic.read(store)),
        "elsewhere": setting_tables.elsewhere(synthetic.read(store), "test_score"),
        "robustness": training_tables.robustness(synthetic.read(store)),
    }
    for name, table in tables.items():
        row = table.to_dict("records")[0]
        assert row["effect"] == pytest.approx(np.mean([0.03, 0.029, -0.022])), name
        assert row["num_apart"] == 1 and wording.apart_told(table).startswith(str(table["num_apart"].sum()))


def test_the_same_runs_on_two_machines_are_held_against_each_other(evidence):
    found = setting_tables.machines(evidence).set_index(["train_fraction", "recipe"])
    expected = {
        (share, recipe): 0.01 if recipe == "kd" else -0.005 for share in (0.02, 0.1) for recipe in ("kd", "sm+tmkd")
    }
    assert found["effect"].to_dict() == pytest.approx({key: value - 1.5e-4 for key, value in expected.items()})
    assert found["sd"].to_numpy() == pytest.approx(np.std([0, 1e-4, 2e-4, 3e-4], ddof=1))
    assert set(found["machine"]) == {"A Processor @ 2.0GHz"} and set(found["other"]) == {"Other"}
    assert found["num_seeds"].eq(4).all()


def test_the_same_contrast_is_told_of_each_machine_over_the_same_seeds(evidence):
    """On the other one SM+TMKD scores half a point more than here, and KD a point less."""
    found = setting_tables.again(evidence).set_index(["train_fraction", "machine"])
    assert set(found["recipe"]) == {"sm+tmkd"} and found["num_seeds"].eq(4).all() and found["num_apart"].eq(0).all()
    runs = registered_runs(evidence.runs)
    scores = runs[runs["init_seed"] < 4].groupby("recipe")["test_score"].mean()
    here = scores["sm+tmkd"] - scores["kd"]
    assert found.loc[(0.1, "A Processor @ 2.0GHz"), "effect"] == pytest.approx(here)
    assert found.loc[(0.1, "Other"), "effect"] == pytest.approx(here + 0.015)
    assert setting_tables.again(replace(evidence, repeats=evidence.repeats[:0])).empty


def test_a_repeat_of_nothing_that_is_compared_takes_no_figure(tmp_path):
    """As every store of repeats has one: a teacher, which is trained on all the data."""
    store, teacher = Store(tmp_path), synthetic.experiment("ft", student_layers=None, train_fraction=1.0, init=None)
    measurements = {"test_score": 0.87, "generalization_gap": 0.1}
    store.save_run(synthetic.record(teacher, measurements))
    synthetic.repeat(store, teacher, measurements)
    assert len(synthetic.read(store).repeats) == 1
    assert setting_tables.again(synthetic.read(store)).empty and setting_tables.machines(synthetic.read(store)).empty
    assert list(setting_figures.build(synthetic.read(store))) == []


def test_everywhere_sm_tmkd_is_held_against_kd_and_ft(evidence):
    keys = ["task", "student_layers", "train_fraction", "num_epochs", "reference"]
    found = setting_tables.elsewhere(evidence, "test_score").set_index(keys)["effect"]
    expected = {
        ("vader-nyt", 3, 0.1, 18, "kd"): 0.05, ("vader-nyt", 3, 0.1, 18, "ft"): 0.03,
        ("vader-movie", 1, 0.1, 6, "kd"): -0.05, ("vader-movie", 1, 0.1, 6, "ft"): -0.07,
        ("vader-movie", 3, 0.05, 12, "kd"): 0.02, ("vader-movie", 3, 0.05, 24, "kd"): 0.04,
        ("vader-movie", 3, 0.2, 3, "kd"): 0.02,
    }  # fmt: skip
    assert found[list(expected)].to_dict() == pytest.approx(expected, abs=3e-4)
    registered = {
        ("vader-movie", 3, share, epochs, ref) for share, epochs in ((0.02, 30), (0.1, 6)) for ref in ("kd", "ft")
    }
    assert set(found.index) == expected.keys() | registered
    gaps = setting_tables.elsewhere(evidence, "generalization_gap").set_index(keys)["effect"]
    assert gaps["vader-movie", 3, 0.1, 6, "kd"] == pytest.approx(-0.2, abs=0.01) and len(gaps) == len(found)


def test_elsewhere_runs_of_different_length_are_not_paired(tmp_path):
    store = Store(tmp_path)
    for seed in range(3):
        for recipe, epochs, score in (("kd", 18, 0.7), ("sm+tmkd", 18, 0.7), ("kd", 1, 0.5)):
            run = synthetic.experiment(recipe, seed, task="vader-nyt", num_epochs=epochs)
            store.save_run(synthetic.record(run, {"test_score": score + 0.01 * seed, "generalization_gap": 0.1}))
    (row,) = setting_tables.elsewhere(synthetic.read(store), "test_score").to_dict("records")
    assert (row["num_epochs"], row["effect"], row["num_seeds"]) == (18, pytest.approx(0), 3)
