"""Whole runs on the tiny BERT: identity, reuse, resumption, and what a record and a checkpoint hold."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from mixkd import experiment as experiment_module
from mixkd import training
from mixkd.evaluate import measure
from mixkd.experiment import Experiment, pin, run
from mixkd.models import predict_logits
from mixkd.store import Store, UserError, content_id
from mixkd.tasks import load_task, subsample, tokenize

# ---- identity ----


def run_id(**settings):
    return content_id(Experiment(**settings).identity())


def test_run_id_is_pinned():
    """A change here gives every finished run another id: none of them would be found again."""
    settings = {"task": "vader-movie", "recipe": "sm+tmkd", "student_layers": 3, "seed": 1, "train_fraction": 0.1}
    assert run_id(**settings) == "a268a38e5654228d"
    assert run_id() == "b3c9c6f5c521d23f"


def test_seed_sets_both_seeds():
    assert Experiment(seed=3) == Experiment(init_seed=3, data_seed=3)
    assert Experiment(seed=3, data_seed=4) == Experiment(init_seed=3, data_seed=4)
    assert "seed" not in Experiment(seed=3).identity()


@pytest.mark.parametrize("recipe", ["ft", "kd", "sm+tmkd+kd"])
@pytest.mark.parametrize("changes", [{}, {"init": (0, 2), "distance": "kl", "temperature": 2, "mix_ratio": 0.5}])
def test_identity_survives_json(recipe, changes):
    one = Experiment(recipe=recipe, student_layers=2, seed=1, **changes)
    again = Experiment(**json.loads(json.dumps(one.identity())))
    assert again == one and content_id(again.identity()) == content_id(one.identity())
    assert Experiment.model_validate_json(one.model_dump_json()) == one


MIXUP = [{"beta_alpha": 0.4}, {"mix_ratio": 0.5}, {"partner": "batch"}, {"lam_per": "batch"}]
UNUSED = [
    *(("ft", change) for change in MIXUP),
    *(("kd", change) for change in MIXUP),
    ("ft", {"distance": "kl", "temperature": 3}),
    ("sm", {"distance": "kl"}),
    ("kd", {"temperature": 3}),  # of mse
    ("kd", {"teacher_precision": "bf16"}),
    ("sm", {"teacher_precision": "bf16"}),
    ("sm", {"sm_weight": 1}),
    ("kd", {"tmkd_weight": 0}),
    ("kd", {"learning_rate": 0.0003}),
]


@pytest.mark.parametrize(("recipe", "changes"), UNUSED)
def test_settings_that_a_recipe_does_not_use_do_not_change_its_id(recipe, changes):
    settings = {"recipe": recipe, "student_layers": 3}
    assert run_id(**settings, **changes) == run_id(**settings)


@pytest.mark.parametrize(
    "changes",
    [{"teacher_num_epochs": 9}, {"teacher_learning_rate": 1.0}, {"teacher_seed": 3}, {"teacher_batch_size": 1},
     {"teacher_fraction": 0.5}, {"init": "last"}, {"init_from": "teacher"}, {"teacher_precision": "bf16"}],
)  # fmt: skip
def test_a_teacher_has_no_teacher_and_no_choice_of_layers(changes):
    assert run_id(**changes) == run_id()


def test_a_random_student_takes_no_layers_from_anyone():
    settings = {"student_layers": 2, "init": "random"}
    assert run_id(**settings, init_from="teacher") == run_id(**settings, init_from="pretrained")


USED = {
    "task": "vader-nyt", "train_fraction": 0.5, "teacher": "other", "teacher_fraction": 0.5,
    "teacher_learning_rate": 1e-4, "teacher_num_epochs": 2, "teacher_batch_size": 16, "teacher_seed": 1,
    "student_layers": 2, "init": "last", "init_from": "teacher", "recipe": "sm+tmkd", "kd_weight": 0.5,
    "sm_weight": 0.5, "tmkd_weight": 0.5, "distance": "mse", "temperature": 3.0, "beta_alpha": 0.4, "mix_ratio": 2.0,
    "partner": "batch", "lam_per": "batch", "learning_rate": 1e-4, "num_epochs": 3, "batch_size": 16,
    "max_length": 64, "weight_decay": 0.1, "warmup": 0.0, "length_grouping": False, "precision": "bf16",
    "teacher_precision": "bf16", "init_seed": 1, "data_seed": 1, "data_fingerprint": "0", "teacher_fingerprint": "0",
}  # fmt: skip


def test_every_field_is_part_of_the_identity():
    settings = {"recipe": "sm+tmkd+kd", "distance": "kl", "temperature": 2.0, "student_layers": 3}
    assert set(USED) == set(Experiment.model_fields)
    ids = {run_id(**(settings | {field: value})) for field, value in USED.items()} | {run_id(**settings)}
    assert len(ids) == len(USED) + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "mixkd"}, "no recipe 'mixkd'; choose one of ft"),
        ({"recipe": "ft", "kd_weight": 1.0}, "recipe ft has no kd term"),
        ({"recipe": "kd"}, "give the student's student_layers"),
        ({"recipe": "kd", "student_layers": 2, "kd_weight": -1}, "kd_weight is -1"),
        ({"recipe": "sm", "beta_alpha": 0}, "beta_alpha is 0"),
        ({"recipe": "sm", "mix_ratio": -1}, "mix_ratio is -1"),
        ({"recipe": "sm", "partner": "uniforn"}, "partner"),
        ({"train_fraction": 0}, "train_fraction"),
        ({"train_fraction": 1.5}, "train_fraction"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"student_layers": 0}, "student_layers"),
        ({"warmup": 1.0}, "warmup"),
        ({"output": "results"}, "output"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        Experiment(**settings)


def test_where_data_and_teacher_are_read_from_is_not_part_of_the_identity(
    experiment, vader_folder, tiny_bert, tmp_path
):
    data, model = (shutil.copytree(source, tmp_path / source.name) for source in (vader_folder, tiny_bert))
    here, there = (
        pin(experiment(teacher=str(teacher)), folder).identity()
        for teacher, folder in ((tiny_bert, vader_folder), (model, data))
    )
    assert here == there and str(tmp_path) not in json.dumps(there)
    corpus = data / "movieReviewSnippets_GroundTruth.txt"
    corpus.write_bytes(corpus.read_bytes().replace(b"good", b"fine"))
    assert pin(experiment(), data).identity()["data_fingerprint"] != here["data_fingerprint"]


# ---- one finished run, looked at from all sides ----


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


def teacher_record(store):
    return next(r for r in store.runs()[0] if r.experiment["student_layers"] is None)


def test_the_store_holds_teacher_and_student_and_nothing_half_done(finished):
    store, record, done = finished
    records, problems = store.runs()
    assert {r.run_id for r in records} == {record.run_id, teacher_record(store).run_id} and not problems
    assert record == store.load_run(record.run_id)
    for one in records:
        names = {path.name for path in store.run_dir(one.run_id).iterdir()}
        assert names == {"record.json", "examples.parquet", "model"}  # no checkpoints
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
    store, record, _ = finished
    parts = ["train_", "validation_", "test_", *(f"shift/vader-{name}/" for name in ("amazon", "nyt", "tweets"))]
    measured = {part + name for part in parts for name in ("score", "loss")}
    assert set(teacher_record(store).measurements) == measured | {
        "generalization_gap", "score_gap", "num_parameters", "num_embedding_parameters", "num_train_examples",
    }  # fmt: skip
    measured |= {part + name for part in parts for name in ("distillation_loss", "agreement")}
    assert set(record.measurements) == measured | {
        "generalization_gap", "score_gap", "distillation_gap", "teacher_test_score", "num_parameters",
        "num_embedding_parameters", "num_train_examples",
    }  # fmt: skip


def test_examples_are_in_the_dataset_s_own_order(finished, examples, vader_folder):
    _, record, done = finished
    assert list(examples.columns) == ["split", "example_id", "loss", "prediction", "teacher_prediction", "label"]
    task = load_task("vader-movie", vader_folder)
    expected = [("train", subsample(task.dataset["train"], done.train_fraction, done.data_seed))]
    expected += [(split, task.dataset[split]) for split in ("validation", "test")]
    expected += [(f"shift/{name}", load_task(name, vader_folder).dataset["test"]) for name in task.shifted]
    assert list(examples["split"]) == [name for name, part in expected for _ in range(len(part))]
    assert list(examples["example_id"]) == [example for _, part in expected for example in part["example_id"]]
    assert list(examples["label"]) == [label for _, part in expected for label in part["label"]]
    assert record.measurements["num_train_examples"] == len(expected[0][1])


def test_measurements_follow_from_the_examples(finished, examples):
    store, record, _ = finished
    for split, part in examples.groupby("split"):
        prefix = f"{split}/" if split.startswith("shift/") else f"{split}_"
        assert record.measurements[f"{prefix}score"] == pytest.approx((part["prediction"] == part["label"]).mean())
        assert record.measurements[f"{prefix}loss"] == pytest.approx(part["loss"].mean(), rel=1e-5)
        agreement = (part["prediction"] == part["teacher_prediction"]).mean()
        assert record.measurements[f"{prefix}agreement"] == pytest.approx(agreement)
    losses = examples.groupby("split")["loss"].mean()
    assert record.measurements["generalization_gap"] == pytest.approx(losses["test"] - losses["train"], abs=1e-6)
    assert record.measurements["teacher_test_score"] == teacher_record(store).measurements["test_score"]


def plain_logits(folder, task, split):
    """Logits of a saved model, loaded as anyone would, one text at a time."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    columns = [task.dataset[split][column] for column in task.text_columns]
    with torch.inference_mode():
        return torch.cat(
            [model(**tokenizer(*texts, return_tensors="pt")).logits for texts in zip(*columns, strict=True)]
        )


def test_measurements_follow_from_the_checkpoints_loaded_plainly(finished, examples, vader_folder):
    store, record, _ = finished
    task = load_task("vader-movie", vader_folder)
    logits, teacher = (
        plain_logits(store.model_dir(one.run_id), task, "test").numpy() for one in (record, teacher_record(store))
    )
    for name, value in measure(logits, np.asarray(task.dataset["test"]["label"]), "accuracy", teacher).items():
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


# ---- reuse ----


def count_trainings(monkeypatch):
    """Makes `train_and_record` note whom it trains."""
    trained, original = [], training.train_and_record

    def spy(experiment, *args, **kwargs):
        trained.append(experiment)
        return original(experiment, *args, **kwargs)

    monkeypatch.setattr(training, "train_and_record", spy)
    return trained


def test_a_finished_run_is_read_and_force_repeats_it(experiment, store, vader_folder, monkeypatch):
    trained = count_trainings(monkeypatch)
    first = run(experiment(), store, data_dir=vader_folder)
    assert [one.student_layers for one in trained] == [2]  # the teacher was there
    assert run(experiment(), store, data_dir=vader_folder) == first and len(trained) == 1
    assert run(experiment(), str(store.root), data_dir=str(vader_folder)) == first and len(trained) == 1
    again = run(experiment(), store, data_dir=vader_folder, force=True)
    assert [one.student_layers for one in trained] == [2, 2]
    assert again.measurements == first.measurements and again.provenance.started_at >= first.provenance.started_at
    assert again.history == first.history


def test_the_teacher_is_trained_first_and_once(experiment, tmp_path, vader_folder, monkeypatch):
    trained = count_trainings(monkeypatch)
    for recipe in ("ft", "kd"):
        run(experiment(recipe=recipe), tmp_path / "results", data_dir=vader_folder)
    assert [(one.student_layers, one.recipe) for one in trained] == [(None, "ft"), (2, "ft"), (2, "kd")]


def test_corrupt_records_are_named_and_overwritten_only_by_force(experiment, store, vader_folder):
    first = run(experiment(), store, data_dir=vader_folder)
    path = store.run_dir(first.run_id) / "record.json"
    path.write_text("{")
    with pytest.raises(UserError, match=rf"{first.run_id}/record\.json is not a valid record"):
        run(experiment(), store, data_dir=vader_folder)
    assert path.read_text() == "{"
    assert run(experiment(), store, data_dir=vader_folder, force=True).measurements == first.measurements
    assert store.load_run(first.run_id).measurements == first.measurements
    teacher_path = store.run_dir(teacher_record(store).run_id) / "record.json"
    teacher_path.write_text("")
    with pytest.raises(UserError, match=str(teacher_path)):
        run(experiment(recipe="kd"), store, data_dir=vader_folder)
    assert teacher_path.read_text() == ""


def test_a_teacher_without_its_model(experiment, store, vader_folder):
    shutil.rmtree(store.model_dir(teacher_record(store).run_id))
    with pytest.raises(UserError, match="teacher's model .* is gone; delete"):
        run(experiment(), store, data_dir=vader_folder)


def test_runs_are_reproducible_and_seeds_matter(experiment, store, vader_folder, tmp_path, teacher_store):
    shutil.copytree(teacher_store, tmp_path / "other")
    one, other = (run(experiment(seed=1), root, data_dir=vader_folder) for root in (store, tmp_path / "other"))
    assert one.measurements == other.measurements
    assert run(experiment(seed=2), store, data_dir=vader_folder).measurements != one.measurements


def test_changed_test_sets_of_shifted_tasks_are_not_mistaken_for_the_old_ones(
    experiment, store, vader_folder, tmp_path
):
    """Their scores are in the record, so their content must be part of what identifies it."""
    first = run(experiment(), store, data_dir=vader_folder)
    data = shutil.copytree(vader_folder, tmp_path / "changed")
    corpus = data / "amazonReviewSnippets_GroundTruth.txt"
    lines = (line.split(b"\t") for line in corpus.read_bytes().split(b"\r\n"))
    corpus.write_bytes(b"\r\n".join(b"\t".join([i, b"%.2f" % -float(r), text]) for i, r, text in lines))
    second = run(experiment(), store, data_dir=data)
    name = "shift/vader-amazon/score"
    assert second.measurements[name] == pytest.approx(1 - first.measurements[name])


# ---- interruption ----


class Interrupted(Exception):
    pass


def interrupt_at(message):
    """A `report` that stops the run when it is told this; `step 3/` for the end of step 3, before its checkpoint."""

    def report(share, told):
        if told.startswith(message):
            raise Interrupted

    return report


@pytest.fixture
def checkpoint_every_step(monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_INTERVAL_S", -1.0)


def steps_of(experiment, store, **options):
    """Run to the end: the record, and the steps that were done."""
    told = []
    record = run(experiment, store, report=lambda share, message: told.append(message), **options)
    return record, [int(message.split()[1].partition("/")[0]) for message in told if message.startswith("step ")]


def content(store, record):
    """All bits of a run that must not depend on an interruption."""
    folder = store.run_dir(record.run_id)
    return (
        record.measurements,
        (folder / "model" / "model.safetensors").read_bytes(),
        pd.read_parquet(folder / "examples.parquet").to_dict(),
    )


@pytest.fixture(scope="module")
def uninterrupted(finished):
    store, record, _ = finished
    return content(store, record), record.history


@pytest.mark.parametrize(
    ("stops", "first_step"),
    [(["step 1/"], 1), (["step 4/"], 4), (["step 8/"], 8), (["step 3/", "step 10/"], 10), (["step 14/"], 14),
     (["evaluating"], None)],
)  # fmt: skip
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    finished, uninterrupted, store, vader_folder, checkpoint_every_step, stops, first_step
):
    """14 steps in 2 epochs of 7: stopped at the start, within epochs, at an epoch's end, and after the last step."""
    done = finished[2]
    for stop in stops:
        with pytest.raises(Interrupted):
            run(done, store, data_dir=vader_folder, report=interrupt_at(stop))
    assert len(store.runs()[0]) == 1  # the teacher's
    record, steps = steps_of(done, store, data_dir=vader_folder)
    assert steps == (list(range(first_step, 15)) if first_step else [])
    assert content(store, record) == uninterrupted[0]
    assert not list(store.run_dir(record.run_id).glob("checkpoints"))


@pytest.mark.parametrize("stop", ["step 4/", "step 8/", "step 10/", "evaluating"])
def test_the_history_of_an_interrupted_run_is_whole(
    finished, uninterrupted, store, vader_folder, checkpoint_every_step, stop
):
    """One entry per epoch with the mean loss of all its steps, whether the run was interrupted or not."""
    with pytest.raises(Interrupted):
        run(finished[2], store, data_dir=vader_folder, report=interrupt_at(stop))
    record = run(finished[2], store, data_dir=vader_folder)
    assert [entry["epoch"] for entry in record.history] == [1.0, 2.0]
    losses, expected = ([entry["loss"] for entry in history] for history in (record.history, uninterrupted[1]))
    assert losses == pytest.approx(expected, rel=1e-6)


OTHERS = [
    {"recipe": "sm", "partner": "batch", "lam_per": "batch", "mix_ratio": 2.5},
    {"recipe": "tmkd", "precision": "bf16", "teacher_precision": "bf16", "length_grouping": False},
    {"recipe": "ft", "student_layers": None},
]


@pytest.mark.parametrize("changes", OTHERS, ids=lambda changes: changes["recipe"])
def test_other_recipes_resume_as_well(experiment, store, tmp_path, vader_folder, checkpoint_every_step, changes):
    done = experiment(**changes, train_fraction=0.2)  # 2 epochs of 3 steps
    other = Store(shutil.copytree(store.root, tmp_path / "other"))
    expected = content(store, run(done, store, data_dir=vader_folder))
    with pytest.raises(Interrupted):
        run(done, other, data_dir=vader_folder, report=interrupt_at("step 5/"))
    record, steps = steps_of(done, other, data_dir=vader_folder)
    assert steps == [5, 6] and content(other, record) == expected


def test_resumption_with_accumulation(experiment, store, tmp_path, vader_folder, checkpoint_every_step):
    options = {"data_dir": vader_folder, "gradient_accumulation_steps": 4}
    other = Store(shutil.copytree(store.root, tmp_path / "other"))
    expected = content(store, run(experiment(), store, **options))
    with pytest.raises(Interrupted):
        run(experiment(), other, report=interrupt_at("step 5/"), **options)
    record, steps = steps_of(experiment(), other, **options)
    assert steps == list(range(5, 15)) and content(other, record) == expected


@pytest.mark.parametrize("half_written", ["empty", "cut", "unmarked"])
def test_half_written_checkpoints_are_ignored(
    finished, uninterrupted, store, vader_folder, checkpoint_every_step, half_written
):
    done = finished[2]
    with pytest.raises(Interrupted):
        run(done, store, data_dir=vader_folder, report=interrupt_at("step 6/"))
    [folder] = store.root.glob("runs/*/checkpoints")
    newest, later = folder / "checkpoint-5", folder / "checkpoint-6"
    assert (newest / "complete").exists()
    if half_written == "empty":
        later.mkdir()
    else:
        shutil.copytree(newest, later)
        (later / "complete").unlink()
        if half_written == "cut":
            (later / "model.safetensors").write_bytes((later / "model.safetensors").read_bytes()[:100])
            (later / "trainer_state.json").write_text("{")
    record, steps = steps_of(done, store, data_dir=vader_folder)
    assert steps == list(range(6, 15)) and content(store, record) == uninterrupted[0]


IN_A_PROCESS = """
    import sys
    import torch
    from mixkd import training
    from mixkd.experiment import Experiment, run
    torch.set_num_threads(1)
    training.CHECKPOINT_INTERVAL_S = float(sys.argv[4])
    trained, original = [], training.train_and_record
    def spy(experiment, *args, **kwargs):
        trained.append("teacher" if experiment.student_layers is None else "student")
        return original(experiment, *args, **kwargs)
    training.train_and_record = spy
    experiment = Experiment.model_validate_json(sys.argv[1])
    print("ready", flush=True)
    record = run(experiment, sys.argv[2], data_dir=sys.argv[3])
    print(record.run_id, *trained, flush=True)
"""


def start(experiment, root, data_dir, interval_s=60.0):
    """A process of its own that runs the experiment, checkpointing at this interval."""
    arguments = [experiment.model_dump_json(), str(root), str(data_dir), str(interval_s)]
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(IN_A_PROCESS), *arguments],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def test_a_process_killed_while_it_trains(experiment, store, tmp_path, vader_folder):
    """SIGKILL, as by a lack of memory or a batch system; started again here, it ends as an uninterrupted run does."""
    done = experiment(num_epochs=12, recipe="sm+tmkd+kd")  # 84 steps
    other = Store(shutil.copytree(store.root, tmp_path / "other"))
    with start(done, store.root, vader_folder, interval_s=-1) as process:
        deadline = time.monotonic() + 60
        while not list(store.root.glob("runs/*/checkpoints/checkpoint-2*/complete")):
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and len(store.runs()[0]) == 1
    record, steps = steps_of(done, store, data_dir=vader_folder)
    assert steps == list(range(steps[0], 85)) and steps[0] > 2
    assert content(store, record) == content(other, run(done, other, data_dir=vader_folder))


def test_two_processes_on_one_store_do_a_run_once(experiment, tmp_path, vader_folder):
    processes = [start(experiment(), tmp_path / "results", vader_folder) for _ in range(2)]
    outputs = [process.communicate(timeout=90) for process in processes]
    lines = [out.split("\n")[1].split() for out, _ in outputs]
    assert all(process.returncode == 0 for process in processes), outputs
    assert sorted(sum((line[1:] for line in lines), [])) == ["student", "teacher"]  # each once, by whomever
    assert lines[0][0] == lines[1][0]
    records, problems = Store(tmp_path / "results").runs()
    assert len(records) == 2 and not problems


def test_the_second_waits_and_reads(experiment, store, vader_folder, monkeypatch):
    trained, results = count_trainings(monkeypatch), []

    def work():
        results.append(run(experiment(), store, data_dir=vader_folder))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trained) == 1 and results[0] == results[1]


# ---- what cannot be run ----


def test_a_teacher_at_chance_is_refused(experiment, tmp_path, vader_folder, monkeypatch):
    trained = count_trainings(monkeypatch)
    lazy = experiment(teacher_learning_rate=1e-9, teacher_num_epochs=1)
    with pytest.raises(UserError, match=r"scores 0\.\d+ on validation, no better than always answering"):
        run(lazy, tmp_path / "results", data_dir=vader_folder)
    assert [one.student_layers for one in trained] == [None]


def test_a_teacher_with_its_labels_the_other_way_round_is_refused(finished, experiment, store, vader_folder):
    teacher = teacher_record(store)
    wrong = teacher.model_copy(update={"measurements": teacher.measurements | {"validation_score": 0.03}})
    store.save_run(wrong)
    with pytest.raises(UserError, match=r"scores 0\.030"):
        run(experiment(), store, data_dir=vader_folder)


def test_a_run_that_diverges_is_no_result(experiment, store, vader_folder):
    with pytest.raises(UserError, match="diverged .* lower the learning rate"):
        run(experiment(learning_rate=1e38, num_epochs=1), store, data_dir=vader_folder)
    assert len(store.runs()[0]) == 1


def test_batches_that_cannot_be_split_and_devices_that_are_not_there(experiment, store, vader_folder, monkeypatch):
    with pytest.raises(UserError, match="batch_size 16 cannot be split over 1 processes with 3"):
        run(experiment(), store, data_dir=vader_folder, gradient_accumulation_steps=3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "tpu"):
        with pytest.raises(UserError, match=f"device '{device}' cannot be used"):
            run(experiment(), store, data_dir=vader_folder, device=device)


@pytest.mark.parametrize(
    ("error", "free_bytes", "is_full"),
    [
        (SafetensorError("I/O error: No space left on device (os error 28)"), 2**40, True),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 128 vs 22"), 0, True),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 128 vs 22"), 2**40, False),
    ],
    ids=["safetensors", "torch", "control"],
)
def test_a_disk_that_fills_up_ends_in_one_sentence_and_loses_nothing(
    experiment, store, vader_folder, checkpoint_every_step, error, free_bytes, is_full
):
    """Two libraries write a checkpoint, and neither says OSError."""

    def fail(*args, **kwargs):
        raise error

    target = "torch.save" if "inline" in str(error) else "transformers.modeling_utils.safe_save_file"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, fail)
        usage = shutil.disk_usage(store.root)._replace(free=free_bytes)
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(UserError if is_full else RuntimeError, match="is full. Free some" if is_full else "pos"):
            run(experiment(), store, data_dir=vader_folder)
    records, problems = store.runs()
    assert len(records) == 1 and not problems
    run(experiment(), store, data_dir=vader_folder)


# ---- the cache of the teacher's logits ----


def test_the_teacher_is_asked_once_per_split(experiment, store, vader_folder, monkeypatch):
    asked = []

    def spy(model, *args, **kwargs):
        asked.append(model.config.num_hidden_layers)
        return predict_logits(model, *args, **kwargs)

    monkeypatch.setattr(training, "predict_logits", spy)
    run(experiment(recipe="kd"), store, data_dir=vader_folder)
    run(experiment(recipe="ft", seed=5), store, data_dir=vader_folder)
    assert set(asked) == {2}  # training the teacher left its logits in the cache


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[:-40], lambda content: content[:60], lambda content: b"torn" * 99],
    ids=["empty", "cut", "header", "foreign"],
)
def test_torn_files_of_the_cache_are_computed_again(experiment, store, vader_folder, tmp_path, damage):
    other = Store(shutil.copytree(store.root, tmp_path / "other"))
    expected = run(experiment(recipe="kd"), other, data_dir=vader_folder).measurements
    files = list((store.root / "cache").rglob("*.npy"))
    whole = {path: path.read_bytes() for path in files}
    assert len(files) == 6  # train, validation, test and three shifted tests
    for path in files:
        path.write_bytes(damage(whole[path]))
    assert run(experiment(recipe="kd"), store, data_dir=vader_folder).measurements == expected
    assert {path: path.read_bytes() for path in files} == whole


def test_another_teacher_never_meets_the_first_one_s_logits(experiment, store, vader_folder):
    first = run(experiment(recipe="kd"), store, data_dir=vader_folder)
    second = run(experiment(recipe="kd", teacher_seed=1), store, data_dir=vader_folder)
    assert second.measurements["test_distillation_loss"] != first.measurements["test_distillation_loss"]
    assert len(list((store.root / "cache").rglob("*.npy"))) == 12


# ---- settings reach the training ----

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
    monkeypatch.setattr(experiment_module, "check_teacher", lambda teacher, task: None)  # cut texts: chance

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
    measured = measure(logits.numpy(), np.asarray(task.dataset["test"]["label"]), "accuracy")
    assert record.measurements["test_loss"] == pytest.approx(measured["loss"], rel=1e-6)


@pytest.mark.parametrize("changes", [{}, {"mix_ratio": 0.3}])
def test_pairs_with_three_classes(experiment, tmp_path, vader_folder, monkeypatch, changes):
    monkeypatch.setattr(experiment_module, "check_teacher", lambda teacher, task: None)
    done = experiment(task="vader-order", recipe="sm+tmkd+kd", teacher_num_epochs=1, **changes)
    record = run(done, tmp_path / "results", data_dir=vader_folder)
    store, task = Store(tmp_path / "results"), load_task("vader-order", vader_folder)
    logits = plain_logits(store.model_dir(record.run_id), task, "test")
    measured = measure(logits.numpy(), np.asarray(task.dataset["test"]["label"]), "accuracy")
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
