"""Whole runs on the tiny BERT: what a record and a checkpoint hold, reuse, the cache, and what cannot be run."""

import shutil
import threading

import pytest
import torch
from safetensors import SafetensorError
from whole_runs import start, teacher_record

from mixkd import callbacks, training
from mixkd import teacher as teacher_module
from mixkd import trainer as trainer_module
from mixkd.prediction import predict_logits, predict_states
from mixkd.runs import run
from mixkd.store import Store, UserError

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


def test_a_teacher_without_its_model_is_trained_again_when_a_student_needs_it(experiment, store, vader_folder):
    """As in a store that was restored from records."""
    teacher = teacher_record(store)
    weights = store.model_dir(teacher.run_id) / "model.safetensors"
    before = weights.read_bytes()
    student = run(experiment(), store, data_dir=vader_folder)
    shutil.rmtree(weights.parent)
    assert run(experiment(), store, data_dir=vader_folder) == student and not weights.exists()
    run(experiment(seed=5), store, data_dir=vader_folder)
    assert weights.read_bytes() == before
    assert teacher_record(store).measurements == teacher.measurements


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


@pytest.mark.cluster
def test_two_processes_on_one_store_do_a_run_once(experiment, tmp_path, vader_folder):
    processes = [start(experiment(), tmp_path / "results", vader_folder) for _ in range(2)]
    outputs = [process.communicate(timeout=200) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    lines = [out.split() for out, _ in outputs]
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
    with pytest.raises(UserError, match=r"scores 0\.\d+ on validation, no better than one answer for all"):
        run(lazy, tmp_path / "results", data_dir=vader_folder)
    assert [one.student_layers for one in trained] == [None]


def test_a_teacher_with_its_labels_the_other_way_round_is_refused(experiment, store, vader_folder):
    teacher = teacher_record(store)
    wrong = teacher.model_copy(update={"measurements": teacher.measurements | {"validation_score": 0.03}})
    store.save_run(wrong)
    with pytest.raises(UserError, match=r"scores 0\.030"):
        run(experiment(), store, data_dir=vader_folder)


def test_a_run_that_diverges_is_no_result(experiment, store, vader_folder):
    with pytest.raises(UserError, match="diverged .* lower the learning rate"):
        run(experiment(learning_rate=1e38, num_epochs=1), store, data_dir=vader_folder)
    assert len(store.runs()[0]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"recipe": "pkd", "pkd_layers": (5,)}, r"pkd_layers \[5\] must name layers between 1 and the teacher's 4"),
     ({"student_layers": 5}, "1 to 4 layers, not 5"),
     ({"init": (0, 4)}, r"\[0, 4\] must name 2 layers between 0 and 3")],
)  # fmt: skip
def test_layers_that_the_teacher_does_not_have(experiment, tmp_path, vader_folder, changes, message):
    with pytest.raises(UserError, match=message):
        run(experiment(**changes), tmp_path / "store", data_dir=vader_folder)
    assert not (tmp_path / "store" / "runs").exists()  # nor was the teacher trained


def test_batches_that_cannot_be_split_and_devices_that_are_not_there(
    experiment, store, vader_folder, monkeypatch, tmp_path
):
    with pytest.raises(UserError, match="batch_size 16 cannot be split over 1 processes with 3"):
        run(experiment(), tmp_path / "store", data_dir=vader_folder, gradient_accumulation_steps=3)
    assert not (tmp_path / "store" / "runs").exists()
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
    experiment, store, vader_folder, monkeypatch, error, free_bytes, is_full
):
    """Two libraries write a checkpoint, and neither says OSError."""
    monkeypatch.setattr(callbacks, "CHECKPOINT_INTERVAL_S", -1.0)

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


def test_the_teacher_is_asked_once(experiment, store, vader_folder, monkeypatch):
    """Training the teacher left its logits of every part in the cache; PKD's states are asked for once."""
    asked = []

    def noting(name, function):
        def spy(model, *args, **kwargs):
            asked.append((name, model.config.num_hidden_layers))
            return function(model, *args, **kwargs)

        return spy

    monkeypatch.setattr(teacher_module, "predict_logits", noting("logits", predict_logits))
    monkeypatch.setattr(teacher_module, "predict_states", noting("states", predict_states))
    monkeypatch.setattr(trainer_module, "predict_logits", noting("logits", predict_logits))
    monkeypatch.setattr(trainer_module, "predict_states", noting("states", predict_states))
    run(experiment(recipe="kd", num_epochs=1), store, data_dir=vader_folder)
    assert asked == []
    for seed in (5, 6):
        run(experiment(recipe="pkd", num_epochs=1, data_seed=0, init_seed=seed), store, data_dir=vader_folder)
    assert asked == [("states", 4)]


def test_another_teacher_never_meets_the_first_one_s_logits(experiment, store, vader_folder):
    first = run(experiment(recipe="kd"), store, data_dir=vader_folder)
    second = run(experiment(recipe="kd", teacher_seed=1), store, data_dir=vader_folder)
    assert second.measurements["test_distillation_loss"] != first.measurements["test_distillation_loss"]
