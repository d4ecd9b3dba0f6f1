"""Settings reach the training, and what comes out is what they say."""

import os

import numpy as np
import pandas as pd
import pytest
import torch
from fake_apertium import FakeApertium
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from whole_runs import plain_logits, teacher_record

from mixkd import runs as runs_module
from mixkd import training
from mixkd.evaluate import measure
from mixkd.prediction import predict_logits
from mixkd.runs import run
from mixkd.store import Store
from mixkd.tasks import load_task, subsample, tokenize
from mixkd.trainer import DistillationTrainer


@pytest.fixture
def apertium(tmp_path, monkeypatch):
    """An `apertium` on PATH that makes `fine` of `good`, with a cache of the test's own."""
    (tmp_path / "apertium").mkdir()
    fake = FakeApertium(tmp_path / "apertium")
    monkeypatch.setenv("PATH", f"{fake.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("MIXKD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("APERTIUM_DATADIR", raising=False)
    return fake


BASE = {"num_epochs": 1, "train_fraction": 0.1, "recipe": "sm+tmkd+kd", "distance": "kl", "temperature": 2.0}
PKD = {"recipe": "pkd", "student_layers": 2, "distance": "mse"}
BT = {"recipe": "kd+bt"}
DECISIVE = [
    ({}, {
        "train_fraction": 0.3, "student_layers": 1, "init": "last", "init_from": "teacher", "recipe": "sm+tmkd",
        "kd_weight": 0.5, "sm_weight": 0.5, "tmkd_weight": 0.5, "distance": "mse", "temperature": 4.0,
        "beta_alpha": 0.3, "mix_ratio": 2.0, "partner": "batch", "lam_per": "batch", "level": 1, "learning_rate": 3e-3,
        "num_epochs": 2, "batch_size": 8, "max_length": 6, "weight_decay": 0.5, "warmup": 0.9,
        "length_grouping": False, "precision": "bf16", "teacher_precision": "bf16", "init_seed": 1, "data_seed": 1,
        "augmentation": "word-dropout",
    }),
    ({"augmentation": "word-dropout"}, {"word_dropout_rate": 0.5}),
    (PKD, {"pkd_weight": 3.0, "pkd_layers": "last", "pkd_normalize": False, "pkd_reduction": "mean",
           "recipe": "distilbert"}),
    (BT, {"recipe": "kd"}),
]  # fmt: skip


@pytest.fixture
def weights_only(monkeypatch):
    """In place of the evaluation, which takes longer than the training, a sum over the answers to the test texts."""

    def answers(parts, logits_of, teacher_logits_of):
        test = next(part for part in parts if part.name == "test")
        score = next(part for part in parts if part.name == "validation")
        accuracy = (logits_of(score).argmax(1) == np.array(score.examples["label"])).mean()
        return {"answers": float(np.abs(logits_of(test)).sum()), "validation_score": float(accuracy)}, pd.DataFrame()

    monkeypatch.setattr(training, "evaluate", answers)
    monkeypatch.setattr(training, "interpolation", lambda *_: ({}, pd.DataFrame()))
    monkeypatch.setattr(training, "model_card", lambda *_: "")
    monkeypatch.setattr(runs_module, "check_teacher", lambda teacher, task: None)  # cut texts: chance


def test_every_setting_changes_the_numbers(experiment, store, vader_folder, weights_only, apertium):
    """What is in the identity must reach the training; a setting that is not wired would repeat another run."""
    asked = {experiment(**(BASE | base | change)) for base, changes in DECISIVE
             for change in [{}, *({name: value} for name, value in changes.items())]}  # fmt: skip
    found = {one: run(one, store, data_dir=vader_folder).measurements["answers"] for one in asked}
    numbers = list(found.values())
    same = [one.identity().items() for one, number in found.items() if numbers.count(number) > 1]
    assert [dict(one - other) for one in same for other in same if one != other] == []
    assert len(found) == sum(len(changes) + 1 for _, changes in DECISIVE) - 1  # word dropout is there twice


def test_back_translated_rows_are_trained_on_and_counted(experiment, store, vader_folder, apertium, monkeypatch):
    """After the originals, with their labels; what is evaluated are the originals."""
    seen = []

    def spy(model, **options):
        seen.append((options["train_dataset"], options["teacher_logits"], options["teacher"]))
        return DistillationTrainer(model, **options)

    monkeypatch.setattr(training, "DistillationTrainer", spy)
    record = run(experiment(recipe="kd+bt", num_epochs=1), store, data_dir=vader_folder)
    originals = subsample(load_task("vader-movie", vader_folder).dataset["train"], 0.5, 0)
    known = [row for row in originals if "good" in row["text"].split()]
    dataset, logits, teacher = seen[0]
    ids = [row["example_id"] for row in known]
    assert dataset["example_id"][:] == [*originals["example_id"], *(f"{name}~bt" for name in ids)]
    assert dataset["label"][:] == [*originals["label"], *(row["label"] for row in known)]
    tokenizer = AutoTokenizer.from_pretrained(store.model_dir(record.run_id))
    expected = tokenizer([row["text"].replace("good", "fine") for row in known])["input_ids"]
    assert dataset["input_ids"][len(originals) :] == expected
    np.testing.assert_allclose(logits, predict_logits(teacher, dataset), rtol=1e-4, atol=1e-5)
    counts = {name: record.measurements[f"num_augmented_{name}"] for name in ("examples", "copies", "empty")}
    assert counts == {"examples": len(known), "copies": len(originals) - len(known), "empty": 0}
    assert record.measurements["num_train_examples"] == len(originals)
    table = pd.read_parquet(store.run_dir(record.run_id) / "examples.parquet")
    assert list(table[table["split"] == "train"]["example_id"]) == list(originals["example_id"])
    assert record.experiment["augmentation_fingerprint"].startswith("apertium-")
    assert sum(map(len, apertium.calls())) == len(set(originals["text"]))
    run(experiment(recipe="ft+bt", num_epochs=1), store, data_dir=vader_folder)
    assert sum(map(len, apertium.calls())) == len(set(originals["text"]))  # each text once, for all runs


def test_the_best_epoch_is_kept_and_patience_stops(experiment, store, vader_folder, monkeypatch):
    """Scores of validation that rise and fall, as if: the second epoch's model is the one that is saved."""
    scores = {1: 0.2, 2: 0.9, 3: 0.9, 4: 0.5, 5: 0.95, 6: 0.1}
    weights, epochs = {}, []

    def fake_score(metric, predictions, labels):
        epochs.append(len(epochs) + 1)
        return scores[epochs[-1]]

    class Remember(DistillationTrainer):
        def evaluate(self, *args, **kwargs):
            weights[len(epochs) + 1] = self.model.bert.encoder.layer[1].output.dense.weight.detach().clone()
            return super().evaluate(*args, **kwargs)

    monkeypatch.setattr(training, "compute_scores", fake_score)
    monkeypatch.setattr(training, "DistillationTrainer", Remember)

    def kept(**changes):
        epochs.clear()
        chosen = experiment(recipe="ft", num_epochs=6, best_epoch=True, train_fraction=0.1, **changes)
        record = run(chosen, store, data_dir=vader_folder)
        model = AutoModelForSequenceClassification.from_pretrained(store.model_dir(record.run_id))
        saved = model.bert.encoder.layer[1].output.dense.weight
        return record, [epoch for epoch, value in weights.items() if torch.equal(value, saved)]

    record, epochs_kept = kept(patience=2)
    assert epochs_kept == [2] and epochs == [1, 2, 3, 4]
    assert (record.measurements["best_epoch"], record.measurements["num_epochs_run"]) == (2, 4)
    assert [entry["validation_score"] for entry in record.history] == [0.2, 0.9, 0.9, 0.5]
    record, epochs_kept = kept()
    assert epochs_kept == [5] and epochs == [1, 2, 3, 4, 5, 6]
    assert (record.measurements["best_epoch"], record.measurements["num_epochs_run"]) == (5, 6)


def test_validation_scores_in_the_history_are_those_of_the_models(experiment, store, vader_folder):
    """The last epoch's, if it is kept, is what the record says of validation; the test split is never asked."""
    record = run(experiment(recipe="kd", best_epoch=True, num_epochs=3), store, data_dir=vader_folder)
    scores = [entry["validation_score"] for entry in record.history]
    best = int(record.measurements["best_epoch"])
    assert scores[best - 1] == max(scores) == pytest.approx(record.measurements["validation_score"])
    assert record.history[best - 1]["validation_loss"] == pytest.approx(
        record.measurements["validation_loss"], rel=1e-4
    )


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
