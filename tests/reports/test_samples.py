import json

import numpy as np
import pytest
import synthetic

from mixkd.store import Store, content_id
from reports.claims import Claim
from reports.evidence import load
from reports.ledger import LEDGER
from reports.samples import Missing, Samples, samples
from reports.setting import LEAST, LIMITED

CLAIMS = {claim.id: claim for claim in LEDGER}


def read(store: Store, claim: str, test: int = 0) -> Samples | Missing:
    chosen: Claim = CLAIMS[claim]
    return samples(load(store, synthetic.STUDIES), chosen, chosen.tests[test])


def save(store: Store, recipe: str, score: float, seed: int = 0, **changes: object) -> None:
    measurements = {"test_score": score, "generalization_gap": 0.1, "teacher_test_score": 0.9}
    store.save_run(synthetic.record(synthetic.experiment(recipe, seed, **changes), measurements))


def test_runs_pair_when_all_but_the_recipe_agrees(tmp_path):
    store = Store(tmp_path)
    for seed in (0, 1):
        save(store, "ft", 0.7, seed)
        save(store, "sm+tmkd", 0.8, seed)
    save(store, "ft", 0.1, 2, learning_rate=1e-4)
    save(store, "sm+tmkd", 0.9, 2, learning_rate=2e-4)
    found = read(store, "E02")
    assert list(found.frame.index) == ["0/0", "1/1"]
    assert found.arm.tolist() == [0.8, 0.8]
    assert found.reference.tolist() == [0.7, 0.7]


@pytest.mark.parametrize(
    ("claim", "told"), [("E02", "In 2 of 3 pairs"), ("E08", ""), ("E16", "In 2 of 3 pairs"), ("E04", "")]
)
def test_pairs_of_runs_from_different_machines_are_told(tmp_path, claim, told):
    """FT's runs with limited data moved to another machine from seed 1 on."""
    store = Store(tmp_path)
    for fraction in (LIMITED, LEAST):
        for recipe in ("ft", "tmkd", "sm+tmkd", "kd"):
            for seed in range(3):
                save(store, recipe, 0.7, seed, train_fraction=fraction)
    evidence = load(store, synthetic.STUDIES)
    evidence.runs.loc[(evidence.runs["recipe"] == "ft") & (evidence.runs["init_seed"] > 0), "machine"] = "another"
    found = samples(evidence, CLAIMS[claim], CLAIMS[claim].tests[0])
    assert isinstance(found, Samples) and found.note.startswith(told) and bool(found.note) == bool(told)


def test_runs_of_two_machines_give_way_to_repeats_on_one(tmp_path):
    """KD with twice the epochs ran elsewhere from seed 6 on, where SM+TMKD was done again for seeds 6 and 7."""
    store = Store(tmp_path)
    for seed in range(5, 9):
        save(store, "sm+tmkd", 0.8, seed)
        save(store, "kd", 0.7, seed, num_epochs=12)
        if seed > 5:
            longer = store.load_run(content_id(synthetic.experiment("kd", seed, num_epochs=12)))
            there = longer.provenance.model_copy(update={"processor": "Other"})
            store.save_run(longer.model_copy(update={"provenance": there}))
        if seed in (6, 7):
            measurements = {"test_score": 0.75, "generalization_gap": 0.1, "teacher_test_score": 0.9}
            synthetic.repeat(store, synthetic.experiment("sm+tmkd", seed), measurements)
    found = read(store, "E20")
    assert found.frame.to_dict("list") == {"sm+tmkd": [0.8, 0.75, 0.75, 0.8], "kd": [0.7] * 4}
    assert found.note == (
        "In 1 of 4 pairs the runs are from different machines, which do not compute alike. "
        "In 2 of 4 pairs a run was done again, so that both are from one machine."
    )


def test_unpaired_runs_are_missing_evidence(tmp_path):
    store = Store(tmp_path)
    save(store, "ft", 0.7, 0)
    save(store, "sm+tmkd", 0.8, 1)
    assert isinstance(read(store, "E02"), Missing)


def test_other_settings_than_the_registered_ones_are_left_out(tmp_path):
    store = Store(tmp_path)
    for recipe in ("ft", "sm+tmkd"):
        save(store, recipe, 0.7, learning_rate=1e-4)
        save(store, recipe, 0.7, precision="fp32", teacher_precision="fp32")
        save(store, recipe, 0.7, train_fraction=1.0)
        save(store, recipe, 0.7, task="vader-nyt")
        save(store, recipe, 0.7, student_layers=2)
        save(store, recipe, 0.7, student_layers=None)
    assert isinstance(read(store, "E02"), Missing)


def test_a_gain_is_held_against_the_same_gain_on_more_data(tmp_path):
    store = Store(tmp_path)
    for seed, gain in ((0, 0.1), (1, 0.2), (2, 0.3)):
        for fraction, factor in ((0.02, 1.0), (0.1, 0.25)):
            save(store, "kd", 0.5, seed, train_fraction=fraction)
            if (seed, fraction) != (2, 0.1):
                save(store, "sm+tmkd", 0.5 + factor * gain, seed, train_fraction=fraction)
    found = read(store, "E15")
    assert found.arm.tolist() == pytest.approx([0.1, 0.2])
    assert found.reference.tolist() == pytest.approx([0.025, 0.05])
    assert read(store, "E13").frame["sm+tmkd"].tolist() == pytest.approx([0.6, 0.7, 0.8])
    missing = read(store, "E16")
    assert isinstance(missing, Missing) and "sm+tmkd and ft on 2% of the data" in missing.reason


def test_a_longer_reference_has_twice_the_epochs_on_later_seeds_and_differs_in_nothing_else(tmp_path):
    store = Store(tmp_path)
    for seed, score in ((4, 0.1), (5, 0.6), (6, 0.7)):
        save(store, "sm+tmkd", score, seed)
        save(store, "kd", 0.5, seed, num_epochs=12)
        save(store, "kd", 0.2, seed)
        save(store, "kd", 0.3, seed, num_epochs=18)
        save(store, "sm+tmkd", 0.9, seed, num_epochs=12)
    save(store, "sm+tmkd", 0.9, 7)
    save(store, "kd", 0.1, 7, num_epochs=12, learning_rate=1e-4)
    save(store, "kd", 0.1, 7, num_epochs=12, train_fraction=0.02)
    assert read(store, "E20").frame.to_dict("list") == {"sm+tmkd": [0.6, 0.7], "kd": [0.5, 0.5]}
    missing = read(store, "E22")
    assert isinstance(missing, Missing)
    assert missing.reason.endswith("in the registered setting, but for twice the epochs of kd, from seed 5 on")


def test_of_other_starts_only_later_seeds_and_runs_that_differ_in_nothing_else_count(tmp_path):
    store = Store(tmp_path)
    for seed, score in ((0, 0.1), (29, 0.2), (30, 0.6), (31, 0.7)):
        save(store, "kd", 0.5, seed, init="skip")
        save(store, "sm+tmkd", score, seed, init="skip")
    save(store, "kd", 0.5, 32, init="skip", beta_alpha=0.4)
    save(store, "sm+tmkd", 0.9, 32, init="skip", beta_alpha=0.4)
    save(store, "kd", 0.5, 30, init="skip", data_seed=0)
    save(store, "sm+tmkd", 0.9, 30, init="skip", data_seed=0)  # trained on examples that gave rise to the claim
    save(store, "kd", 0.5, 33)
    save(store, "sm+tmkd", 0.9, 33, init="skip")
    assert read(store, "E18").frame.to_dict("list") == {"sm+tmkd": [0.6, 0.7], "kd": [0.5, 0.5]}
    assert isinstance(read(store, "E01"), Missing)  # none of these is in the registered setting but KD's 33
    missing = read(store, "E19")
    assert isinstance(missing, Missing) and missing.reason.endswith("setting, but for init skip, from seed 30 on")


def test_the_teacher_is_the_one_the_student_recorded(tmp_path):
    store = Store(tmp_path)
    save(store, "sm+tmkd", 0.8)
    assert read(store, "E08").reference.tolist() == [0.9]


def test_replicates_pair_by_number(tmp_path):
    store = Store(tmp_path)
    synthetic.save_study(store, "T05")
    found = read(store, "T05")
    assert found.frame.index.name == "replicate"
    assert found.arm.mean() / found.reference.mean() == pytest.approx(0.6, rel=0.05)


def test_timing_ratios_and_their_intervals_turn_round(tmp_path):
    store = Store(tmp_path)
    synthetic.save_benchmarks(store, time_ratio=0.5)
    found = read(store, "E09")
    assert sorted(found.frame.index) == ["1 x 128", "1 x 32", "8 x 128", "8 x 32"]
    assert found.frame.iloc[0].tolist() == pytest.approx([0.5, 0.5 / 1.02, 0.5 / 0.98])
    parameters = read(store, "E09", test=1)
    assert parameters.arm.tolist() == [pytest.approx((17.4 - 11.9) / (22.7 - 11.9))]


def test_only_students_of_half_the_layers_count(tmp_path):
    store = Store(tmp_path)
    file = synthetic.benchmark_file()
    for case in file["benchmarks"]:
        if case["extra_info"]["model"] == "student":
            case["extra_info"]["num_layers"] = 2
    store.benchmarks_dir.mkdir()
    (store.benchmarks_dir / "bench.json").write_text(json.dumps(file))
    assert isinstance(read(store, "E09"), Missing)


def test_a_later_measurement_replaces_an_earlier_one(tmp_path):
    store = Store(tmp_path)
    store.benchmarks_dir.mkdir()
    for name, ratio, day in (("a", 0.4, "2025-01-02"), ("b", 0.5, "2025-01-01")):
        file = synthetic.benchmark_file(time_ratio=ratio) | {"datetime": f"{day}T00:00:00"}
        (store.benchmarks_dir / f"{name}.json").write_text(json.dumps(file))
    assert set(read(store, "E09").arm.round(3)) == {0.4}


def test_the_largest_difference_is_over_all_coefficients_and_both_signs(tmp_path):
    store = Store(tmp_path)
    for arm in ("S0", "S3"):
        cell = synthetic.STUDIES["T17"].cells[arm]
        columns = {f"coefficient_{k}": np.zeros(200) for k in range(3)}
        columns["coefficient_2"] = np.full(200, -0.5 if arm == "S3" else 0.0)
        synthetic.save_cell(store, cell, columns)
    found = samples(load(store, synthetic.STUDIES), CLAIMS["T17"], CLAIMS["T17"].tests[0])
    assert (found.arm == 0.5).all()


def test_sizes_are_those_of_the_world_and_arm(tmp_path):
    store = Store(tmp_path)
    for role, cell in synthetic.STUDIES["gap_by_n"].cells.items():
        synthetic.save_cell(store, cell, {"sup_one_sided": np.full(200, 1.0 if role.startswith("W1 S1") else 2.0)})
    found = samples(load(store, synthetic.STUDIES), CLAIMS["T06"], CLAIMS["T06"].tests[0])
    assert (found.arm == 1).all() and set(found.frame["n"]) == set(synthetic.SIZES)
    both = samples(load(store, synthetic.STUDIES), CLAIMS["T07"], CLAIMS["T07"].tests[0])
    assert (both.reference == 2).all()
