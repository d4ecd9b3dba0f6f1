"""The registered setting is that of the suites, and no field of an experiment is left open."""

from collections import Counter
from itertools import product

import pytest

from mixkd.experiment import Experiment
from mixkd.suite import load_suite
from reports.ledger import LEDGER
from reports.setting import EPOCHS, LEAST, LIMITED, NUM_SEEDS, deviations

CHANGES = {
    "task": "vader-nyt", "train_fraction": 0.3, "augmentation": "word-dropout", "teacher": "other",
    "teacher_fraction": 0.5, "teacher_learning_rate": 1e-5, "teacher_num_epochs": 1, "teacher_batch_size": 8,
    "teacher_seed": 1, "student": "other", "student_layers": 2, "init": "last", "init_from": "teacher", "recipe": "no",
    "kd_weight": 0.0, "pkd_weight": 1.0, "sm_weight": 0.3, "tmkd_weight": 0.5, "distance": "kl", "temperature": 2.0,
    "beta_alpha": 0.4, "mix_ratio": 2.0, "partner": "batch", "lam_per": "batch", "level": 2, "learning_rate": 1e-3,
    "num_epochs": 7, "best_epoch": True, "patience": 1, "batch_size": 16, "max_length": 64, "weight_decay": 0.1,
    "warmup": 0.0, "length_grouping": False, "precision": "fp32", "teacher_precision": "fp32", "pkd_layers": "last",
    "pkd_normalize": False, "pkd_reduction": "mean", "data_fingerprint": "other", "teacher_fingerprint": "sha256:0",
}  # fmt: skip

#: A run may differ in these and stay registered: what is replicated, and what only augmented data or a student of one's
#: own use.
FREE = {
    "init_seed", "data_seed", "bt_engine", "bt_pair", "bt_sides", "word_dropout_rate", "augmentation_fingerprint",
    "student_fingerprint",
}  # fmt: skip


@pytest.mark.parametrize(("suite", "precisions"), [("quick", {"bf16"}), ("full", {"bf16"}),
                                                   ("precision", {"bf16", "fp32"})])  # fmt: skip
def test_suites_run_in_the_registered_setting(suite, precisions):
    runs = [one.identity() for one in load_suite(suite).expand()]
    assert {run["precision"] for run in runs} == precisions and not any(map(deviations, runs))


def test_no_run_of_the_sensitivity_study_enters_a_claim_and_each_changes_one_thing():
    runs = [one.identity() for one in load_suite("sensitivity").expand()]
    assert {run["train_fraction"] for run in runs}.isdisjoint({LIMITED, LEAST})
    changed = Counter(tuple(deviations(run)) for run in runs)
    assert set(changed) == {(), ("beta_alpha",), ("mix_ratio",), ("sm_weight",), ("tmkd_weight",), ("learning_rate",)}
    assert changed[()] == 3 * 5 and changed["learning_rate",] == 3 * 5 * 4


def test_runs_of_other_starts_differ_in_nothing_else():
    assert all(deviations(one.identity()) == ["init"] for one in load_suite("starts").expand())


def test_longer_training_differs_in_nothing_else():
    changed = Counter((one.recipe, *deviations(one.identity())) for one in load_suite("longer").expand())
    assert changed == {("kd", "num_epochs"): 50, ("kd",): 50, ("sm+tmkd",): 50, ("sm+tmkd+kd",): 50}


@pytest.mark.parametrize("claim", [claim for claim in LEDGER if claim.evidence == "runs"], ids=lambda claim: claim.id)
def test_claims_ask_for_the_seeds_that_their_suite_has(claim):
    suite = [one.identity() for one in load_suite(claim.command.split()[-1]).expand()]
    for test in claim.tests:
        arms = {name for name in (test.arm, test.reference) if name != "teacher"}
        for name, fraction in product(arms, {test.fraction, test.against_fraction} - {None}):
            seeds = {
                run["init_seed"]
                for run in suite
                if name in (run["recipe"], run["precision"]) and run["train_fraction"] == fraction
            }
            assert seeds == set(range(test.first_seed, test.first_seed + claim.num_seeds))


def test_of_the_standard_suite_the_movie_sentences_with_three_layers_are_registered():
    registered = [one for one in load_suite("standard").expand() if deviations(one.identity()) == []]
    assert {(one.task, one.student_layers, one.augmentation) for one in registered} == {("vader-movie", 3, "none")}
    assert {one.train_fraction for one in registered} == set(EPOCHS)


def test_every_field_is_registered_or_free():
    assert set(Experiment.model_fields) == CHANGES.keys() | FREE


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_that_differs_in_one_field_is_not_registered(name):
    (first, *_) = (e for e in load_suite("full").expand() if e.recipe == "sm+tmkd+kd")
    assert deviations(first.identity()) == []
    assert deviations(first.identity() | {name: CHANGES[name]}) != []


def test_teachers_are_not_registered():
    assert deviations(load_suite("full").stages()[0][0].identity()) != []


def test_other_tasks_have_other_data():
    (first, *_) = (one.identity() for one in load_suite("breadth").expand() if one.task == "vader-tweets")
    assert deviations(first | {"data_fingerprint": "other"}) == ["task", "num_epochs"]


def test_the_suite_full_has_the_registered_number_of_seeds():
    assert {experiment.init_seed for experiment in load_suite("full").expand()} == set(range(NUM_SEEDS))
