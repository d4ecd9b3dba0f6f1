"""Settings reach the training, and what comes out is what they say."""

import os

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification
from whole_runs import plain_logits, teacher_record

from mixkd import runs as runs_module
from mixkd.evaluate import measure
from mixkd.runs import run
from mixkd.store import Store
from mixkd.tasks import load_task, tokenize

BASE = {"num_epochs": 1, "train_fraction": 0.2, "recipe": "sm+tmkd+kd", "distance": "kl", "temperature": 2.0}
DECISIVE = {
    "train_fraction": 0.3, "student_layers": 1, "init": "last", "init_from": "teacher", "recipe": "sm+tmkd",
    "kd_weight": 0.5, "sm_weight": 0.5, "tmkd_weight": 0.5, "distance": "mse", "temperature": 4.0, "beta_alpha": 0.3,
    "mix_ratio": 2.0, "partner": "batch", "lam_per": "batch", "learning_rate": 1e-3, "num_epochs": 2,
    "batch_size": 8, "max_length": 6, "weight_decay": 0.5, "warmup": 0.9, "length_grouping": False,
    "precision": "bf16", "teacher_precision": "bf16", "init_seed": 1, "data_seed": 1,
}  # fmt: skip


def test_every_setting_changes_the_numbers(experiment, store, vader_folder, monkeypatch):
    """What is in the identity must reach the training; a setting that is not wired would repeat another run."""
    monkeypatch.setattr(runs_module, "check_teacher", lambda teacher, task: None)  # cut texts: chance

    def numbers(**changes):
        record = run(experiment(**(BASE | changes)), store, data_dir=vader_folder)
        return record.measurements["train_loss"], record.measurements["test_loss"]

    found = {"nothing": numbers()} | {name: numbers(**{name: value}) for name, value in DECISIVE.items()}
    losses = list(found.values())
    assert [name for name, value in found.items() if losses.count(value) > 1] == []


def test_training_helps(experiment, store, vader_folder):
    """The two-layer students come near their teacher, and the loss they report goes down."""
    for recipe in ("kd", "sm+tmkd"):
        record = run(experiment(recipe=recipe, num_epochs=8), store, data_dir=vader_folder)
        assert record.measurements["test_score"] > 0.7 and record.measurements["test_agreement"] > 0.7
        assert record.history[-1]["loss"] < record.history[0]["loss"]


@pytest.mark.parametrize("init_from", ["pretrained", "teacher"])
def test_students_start_from_the_pretrained_model_or_the_teacher(experiment, store, vader_folder, tiny_bert, init_from):
    record = run(experiment(init="last", init_from=init_from, num_epochs=0), store, data_dir=vader_folder)
    student = AutoModelForSequenceClassification.from_pretrained(store.model_dir(record.run_id))
    sources = {
        "pretrained": AutoModelForSequenceClassification.from_pretrained(tiny_bert),
        "teacher": AutoModelForSequenceClassification.from_pretrained(store.model_dir(teacher_record(store).run_id)),
    }
    for name, source in sources.items():
        weights = source.bert.encoder.layer[3].attention.self.query.weight
        same = torch.equal(student.bert.encoder.layer[1].attention.self.query.weight, weights)
        assert same == (name == init_from)
    assert torch.equal(student.classifier.weight, sources["teacher"].classifier.weight) == (init_from == "teacher")
    assert record.history == []


def test_a_fine_tuned_teacher_is_taken_as_it_is(experiment, store, vader_folder):
    teacher = teacher_record(store)
    folder = str(store.model_dir(teacher.run_id))
    record = run(experiment(teacher=folder, teacher_num_epochs=0, recipe="kd"), store, data_dir=vader_folder)
    assert record.measurements["teacher_test_score"] == teacher.measurements["test_score"]


def test_evaluation_is_in_fp32_after_training_in_bf16(experiment, store, vader_folder):
    record = run(experiment(precision="bf16", teacher_precision="bf16"), store, data_dir=vader_folder)
    task = load_task("vader-movie", vader_folder)
    logits = plain_logits(store.model_dir(record.run_id), task, "test")
    assert logits.dtype == torch.float32
    measured = measure(logits.numpy(), np.asarray(task.dataset["test"]["label"]), ("accuracy",))
    assert record.measurements["test_loss"] == pytest.approx(measured["loss"], rel=1e-6)


@pytest.mark.parametrize("changes", [{}, {"mix_ratio": 0.3}])
def test_pairs_with_three_classes(experiment, tmp_path, vader_folder, monkeypatch, changes):
    monkeypatch.setattr(runs_module, "check_teacher", lambda teacher, task: None)
    done = experiment(task="vader-order", recipe="sm+tmkd+kd", teacher_num_epochs=1, **changes)
    record = run(done, tmp_path / "results", data_dir=vader_folder)
    store, task = Store(tmp_path / "results"), load_task("vader-order", vader_folder)
    logits = plain_logits(store.model_dir(record.run_id), task, "test")
    measured = measure(logits.numpy(), np.asarray(task.dataset["test"]["label"]), ("accuracy",))
    assert record.measurements["test_loss"] == pytest.approx(measured["loss"], rel=1e-4)
    assert not any(name.startswith("shift/") for name in record.measurements)
    config = AutoModelForSequenceClassification.from_pretrained(store.model_dir(record.run_id)).config
    assert list(config.id2label.values()) == ["first", "second", "no difference"]


@pytest.mark.parametrize("recipe", ["kd", "sm+tmkd"])
def test_two_examples_are_enough(experiment, store, vader_folder, recipe):
    record = run(experiment(recipe=recipe, train_fraction=1e-6), store, data_dir=vader_folder)
    assert record.measurements["num_train_examples"] == 2


def test_tokenised_data_is_what_the_plain_tokenizer_gives(tokenizer, vader_folder):
    """The run's texts are cut at max_length, and nothing else happens to them."""
    task = load_task("vader-movie", vader_folder)
    cut = tokenize(task.dataset["test"], tokenizer, 6, is_pair=False)
    for text, ids in zip(task.dataset["test"]["text"], cut["input_ids"], strict=True):
        whole = tokenizer(text)["input_ids"]
        assert ids == (whole if len(whole) <= 6 else [*whole[:5], whole[-1]])


def test_progress_of_a_run_rises_to_one(experiment, tmp_path, vader_folder):
    told = []
    run(experiment(), tmp_path / "results", data_dir=vader_folder, report=lambda *args: told.append(args))
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and 0 <= shares[0] and shares[-1] == 1
    assert {message.partition(",")[0] for _, message in told} >= {"teacher", "evaluating"}
    assert sum(message.startswith("step ") for _, message in told) == 14


def test_environment_is_left_alone(experiment, store, vader_folder):
    before = dict(os.environ)
    threads = torch.get_num_threads()
    run(experiment(recipe="ft"), store, data_dir=vader_folder)
    assert torch.get_num_threads() == threads
    assert {key: value for key, value in os.environ.items() if before.get(key) != value} == {}
