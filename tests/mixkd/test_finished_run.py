"""One finished run, looked at from all sides."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline
from whole_runs import plain_logits, teacher_record

from mixkd.evaluate import measure
from mixkd.experiment import Experiment
from mixkd.runs import run
from mixkd.store import Store
from mixkd.tasks import load_task, subsample


@pytest.fixture(scope="module")
def finished(teacher_store, tmp_path_factory, tiny_bert, vader_folder):
    """Store, record and experiment of a student."""
    root = tmp_path_factory.mktemp("finished") / "results"
    shutil.copytree(teacher_store, root)
    done = Experiment(teacher=str(tiny_bert), student_layers=2, recipe="sm+tmkd+kd", learning_rate=2e-3, num_epochs=2,
                      batch_size=16, train_fraction=0.5, teacher_learning_rate=2e-3, teacher_num_epochs=2,
                      teacher_batch_size=16, seed=1)  # fmt: skip
    return Store(root), run(done, root, data_dir=vader_folder), done


@pytest.fixture(scope="module")
def examples(finished):
    store, record, _ = finished
    return pd.read_parquet(store.run_dir(record.run_id) / "examples.parquet")


def test_the_store_holds_teacher_and_student_and_nothing_half_done(finished):
    store, record, done = finished
    records, problems = store.runs()
    assert {r.run_id for r in records} == {record.run_id, teacher_record(store).run_id} and not problems
    assert record == store.load_run(record.run_id)
    for one in records:
        names = {path.name for path in store.run_dir(one.run_id).iterdir()}
        tables = {"examples.parquet"} | ({"interpolation.parquet"} if one.experiment["student_layers"] else set())
        assert names == {"record.json", "model"} | tables  # no checkpoints
        files = {path.name for path in store.model_dir(one.run_id).iterdir()}
        assert files == {"config.json", "model.safetensors", "README.md", "tokenizer.json", "tokenizer_config.json"}
    assert record.experiment["init_seed"] == record.experiment["data_seed"] == 1
    assert record.experiment["teacher"] == "tiny-bert" and record.experiment["recipe"] == done.recipe


def test_provenance(finished):
    _, record, _ = finished
    provenance = record.provenance
    assert provenance.device == "cpu" and provenance.num_threads == torch.get_num_threads()
    assert provenance.seeds == {"init_seed": 1, "data_seed": 1}
    assert provenance.versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert provenance.command and provenance.wall_time_s > 0
    assert len(record.history) == 2 and all(entry["loss"] > 0 for entry in record.history)


def test_measurements_are_complete(finished):
    """Of every part the same, by its name; the teacher has nobody to agree with."""
    store, record, _ = finished
    parts = ["train_", "validation_", "test_", *(f"shift/vader-{name}/" for name in ("amazon", "nyt", "tweets")),
             "noise/typos/", "noise/case/"]  # fmt: skip
    measured = {part + name for part in parts for name in ("score", "loss", "ece", "brier")}
    of_run = {"generalization_gap", "score_gap", "num_parameters", "num_embedding_parameters", "num_train_examples",
              "num_epochs_run"}  # fmt: skip
    assert set(teacher_record(store).measurements) == measured | of_run
    measured |= {part + name for part in parts for name in ("distillation_loss", "agreement")}
    found = {name for name in record.measurements if not name.startswith("path/")}
    assert found == measured | of_run | {"distillation_gap", "teacher_test_score"}
    assert record.measurements["num_epochs_run"] == 2 and "best_epoch" not in record.measurements


def test_examples_are_in_the_dataset_s_own_order(finished, examples, vader_folder):
    _, record, done = finished
    assert list(examples.columns) == ["split", "example_id", "loss", "prediction", "teacher_prediction", "label"]
    task = load_task("vader-movie", vader_folder)
    expected = [("train", subsample(task.dataset["train"], done.train_fraction, done.data_seed))]
    expected += [(split, task.dataset[split]) for split in ("validation", "test")]
    expected += [(f"shift/{name}", load_task(name, vader_folder).dataset["test"]) for name in task.shifted]
    expected += [(f"noise/{name}", task.dataset["test"]) for name in ("typos", "case")]
    assert list(examples["split"]) == [name for name, part in expected for _ in range(len(part))]
    assert list(examples["example_id"]) == [example for _, part in expected for example in part["example_id"]]
    assert list(examples["label"]) == [label for _, part in expected for label in part["label"]]
    assert record.measurements["num_train_examples"] == len(expected[0][1])


def test_measurements_follow_from_the_examples(finished, examples):
    store, record, _ = finished
    for split, part in examples.groupby("split"):
        prefix = f"{split}/" if "/" in split else f"{split}_"
        assert record.measurements[f"{prefix}score"] == pytest.approx((part["prediction"] == part["label"]).mean())
        assert record.measurements[f"{prefix}loss"] == pytest.approx(part["loss"].mean(), rel=1e-5)
        agreement = (part["prediction"] == part["teacher_prediction"]).mean()
        assert record.measurements[f"{prefix}agreement"] == pytest.approx(agreement)
    losses = examples.groupby("split")["loss"].mean()
    assert record.measurements["generalization_gap"] == pytest.approx(losses["test"] - losses["train"], abs=1e-6)
    assert record.measurements["teacher_test_score"] == teacher_record(store).measurements["test_score"]


def test_measurements_follow_from_the_checkpoints_loaded_plainly(finished, examples, vader_folder):
    store, record, _ = finished
    task = load_task("vader-movie", vader_folder)
    logits, teacher = (
        plain_logits(store.model_dir(one.run_id), task, "test").numpy() for one in (record, teacher_record(store))
    )
    for name, value in measure(logits, np.asarray(task.dataset["test"]["label"]), ("accuracy",), teacher).items():
        assert record.measurements[f"test_{name}"] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    test = examples[examples["split"] == "test"]
    assert list(test["prediction"]) == logits.argmax(1).tolist()
    assert list(test["teacher_prediction"]) == teacher.argmax(1).tolist()


def test_pipeline_answers_with_the_label_names(finished, examples, vader_folder):
    store, record, _ = finished
    texts = list(load_task("vader-movie", vader_folder).dataset["test"]["text"])
    test = examples[examples["split"] == "test"]
    for one, column in ((record, "prediction"), (teacher_record(store), "teacher_prediction")):
        answers = pipeline("text-classification", str(store.model_dir(one.run_id)))(texts)
        assert [answer["label"] for answer in answers] == [("negative", "positive")[p] for p in test[column]]
    # The names mean what they say: the teacher calls a sentence positive that praises.
    praise = {answer["label"] for text, answer in zip(texts, answers, strict=True) if "superb" in text}
    assert praise == {"positive"} and {answer["label"] for answer in answers} == {"negative", "positive"}


def test_parameters_are_counted(finished):
    store, record, _ = finished
    model = AutoModelForSequenceClassification.from_pretrained(store.model_dir(record.run_id))
    assert record.measurements["num_parameters"] == model.num_parameters()
    assert model.config.num_hidden_layers == 2
    assert (
        record.measurements["num_embedding_parameters"]
        == model.bert.embeddings.word_embeddings.weight.numel() + (64 + 2 + 2) * 32
    )
