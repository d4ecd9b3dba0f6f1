"""Interrupted runs: whatever is stopped, wherever, ends with the bits of a run that was not."""

import os
import shutil
import signal
import time

import pytest
from fake_apertium import FakeApertium
from whole_runs import content, start, steps_of

from mixkd import callbacks, training
from mixkd.evaluate import predict
from mixkd.runs import run
from mixkd.store import Store


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
    monkeypatch.setattr(callbacks, "CHECKPOINT_INTERVAL_S", -1.0)


@pytest.fixture
def apertium(tmp_path, monkeypatch):
    """An `apertium` on PATH that makes `fine` of `good`, with a cache of the test's own."""
    (tmp_path / "apertium").mkdir()
    fake = FakeApertium(tmp_path / "apertium")
    monkeypatch.setenv("PATH", f"{fake.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("MIXKD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("APERTIUM_DATADIR", raising=False)
    return fake


@pytest.fixture(scope="module")
def uninterrupted(teacher_store, vader_folder, tmp_path_factory):
    """Runs an experiment to the end in one go, once for the module: its content and its history."""
    known = {}

    def of(experiment, **options):
        key = (experiment.model_dump_json(), str(options))
        if key not in known:
            store = Store(shutil.copytree(teacher_store, tmp_path_factory.mktemp("whole") / "results"))
            record = run(experiment, store, data_dir=vader_folder, **options)
            known[key] = content(store, record), record.history
        return known[key]

    return of


def assert_same(experiment, store, vader_folder, expected, first_step=None, **options):
    """Go on, and end as if nothing had been: bit for bit, but for the rounding of an epoch's mean loss."""
    record, steps = steps_of(experiment, store, data_dir=vader_folder, **options)
    if first_step is not None:
        assert steps[:1] == [first_step]
    assert content(store, record) == expected[0]
    losses, whole = ([entry["loss"] for entry in history] for history in (record.history, expected[1]))
    assert losses == pytest.approx(whole, rel=1e-6)
    assert not list(store.run_dir(record.run_id).glob("checkpoints"))


# Of 2 epochs of 4 steps, the last one short. The end of an epoch has no checkpoint by the clock.
STOPS = [(["step 1/"], 1), (["step 3/"], 3), (["step 5/"], 4), (["step 2/", "step 7/"], 7), (["evaluating"], 8)]


@pytest.mark.parametrize(("stops", "first_step"), STOPS, ids=str)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    experiment, uninterrupted, store, vader_folder, checkpoint_every_step, stops, first_step
):
    """Stopped at the start, within epochs, at an epoch's end, twice, and after the last step."""
    done = experiment(recipe="sm+tmkd+kd", train_fraction=0.3)
    for stop in stops:
        with pytest.raises(Interrupted):
            run(done, store, data_dir=vader_folder, report=interrupt_at(stop))
    assert len(store.runs()[0]) == 1  # the teacher's
    assert_same(done, store, vader_folder, uninterrupted(done), first_step)


OTHERS = [
    ({"recipe": "pkd"}, 1),
    ({"recipe": "sm+tmkd", "mix_ratio": 1.5}, 2),
    ({"recipe": "sm", "partner": "batch", "lam_per": "batch", "mix_ratio": 2.5}, 4),
    ({"recipe": "tmkd", "precision": "bf16", "teacher_precision": "bf16", "length_grouping": False}, 1),
    ({"recipe": "sm+tmkd", "level": 1}, 1),
    ({"recipe": "sm+tmkd+kd+bt"}, 1),
    ({"recipe": "kd", "best_epoch": True, "patience": 1, "num_epochs": 4}, 1),
    ({"recipe": "ft", "student_layers": None}, 1),
]


@pytest.mark.parametrize(("changes", "accumulation"), OTHERS, ids=str)
def test_other_recipes_resume_as_well(
    experiment, uninterrupted, store, vader_folder, checkpoint_every_step, apertium, changes, accumulation
):
    """Stopped in the second epoch, with gradient accumulation too."""
    done, options = experiment(**changes, train_fraction=0.2), {"gradient_accumulation_steps": accumulation}
    with pytest.raises(Interrupted):
        run(done, store, data_dir=vader_folder, report=interrupt_at("step 5/"), **options)
    assert len(list(store.root.glob("runs/*/checkpoints/*/complete"))) == 2
    assert_same(done, store, vader_folder, uninterrupted(done, **options), **options)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_that_is_stopped_while_it_chooses_its_epoch(
    experiment, uninterrupted, store, vader_folder, checkpoint_every_step, monkeypatch, epoch
):
    """Within the evaluation at an epoch's end: that epoch must be scored all the same, and patience must count it."""
    done = experiment(recipe="ft", best_epoch=True, patience=2, num_epochs=4, train_fraction=0.2, learning_rate=0.02)
    expected, calls = uninterrupted(done), []

    def stop(logits):
        calls.append(logits)
        if len(calls) == epoch:
            raise Interrupted
        return predict(logits)

    with monkeypatch.context() as patch:
        patch.setattr(training, "predict", stop)
        with pytest.raises(Interrupted):
            run(done, store, data_dir=vader_folder)
    assert_same(done, store, vader_folder, expected)


@pytest.mark.parametrize("stop", ["step 5/", "step 8/"])
def test_patience_goes_on_counting(experiment, store, vader_folder, checkpoint_every_step, tmp_path, monkeypatch, stop):
    """Stopped in the second or third epoch; the third is the second one without a better score, and the last."""
    done = experiment(recipe="ft", best_epoch=True, patience=2, num_epochs=5, train_fraction=0.2)
    scores = []
    monkeypatch.setattr(training, "compute_scores", lambda *_: scores.pop(0))
    other = Store(shutil.copytree(store.root, tmp_path / "other"))
    scores[:] = [0.9, 0.1, 0.1]
    expected = run(done, other, data_dir=vader_folder)
    scores[:] = [0.9, 0.1, 0.1]
    with pytest.raises(Interrupted):
        run(done, store, data_dir=vader_folder, report=interrupt_at(stop))
    record, steps = steps_of(done, store, data_dir=vader_folder)
    assert steps[-1] == 9 and not scores and record.measurements["num_epochs_run"] == 3
    assert content(store, record) == content(other, expected)


@pytest.mark.parametrize("stop", ["step 11/", "evaluating"])
def test_a_store_may_be_moved_while_a_run_is_interrupted(
    experiment, store, vader_folder, checkpoint_every_step, tmp_path, monkeypatch, stop
):
    """The best epoch so far, here the first, is found again where it is now."""
    done = experiment(recipe="ft", best_epoch=True, num_epochs=4, train_fraction=0.2)
    scores = iter([0.9, 0.1, 0.1, 0.1] * 2)  # whole, and stopped in the fourth epoch or after it
    monkeypatch.setattr(training, "compute_scores", lambda *_: next(scores))
    other = Store(shutil.copytree(store.root, tmp_path / "other"))
    expected = run(done, other, data_dir=vader_folder)
    with pytest.raises(Interrupted):
        run(done, store, data_dir=vader_folder, report=interrupt_at(stop))
    moved = Store(store.root.rename(tmp_path / "elsewhere"))
    record, _ = steps_of(done, moved, data_dir=vader_folder)
    assert record.measurements["best_epoch"] == 1
    assert content(moved, record) == content(other, expected)


@pytest.mark.parametrize("half_written", ["empty", "cut", "unmarked"])
def test_half_written_checkpoints_are_ignored(
    experiment, uninterrupted, store, vader_folder, checkpoint_every_step, half_written
):
    done = experiment(recipe="sm+tmkd+kd", train_fraction=0.3)
    with pytest.raises(Interrupted):
        run(done, store, data_dir=vader_folder, report=interrupt_at("step 4/"))
    [folder] = store.root.glob("runs/*/checkpoints")
    newest, later = folder / "checkpoint-3", folder / "checkpoint-4"
    assert (newest / "complete").exists()
    if half_written == "empty":
        later.mkdir()
    else:
        shutil.copytree(newest, later)
        (later / "complete").unlink()
        if half_written == "cut":
            (later / "model.safetensors").write_bytes((later / "model.safetensors").read_bytes()[:100])
            (later / "trainer_state.json").write_text("{")
    assert_same(done, store, vader_folder, uninterrupted(done), first_step=4)


def kill(process, store, steps, deadline_s=200):
    """SIGKILL as soon as a checkpoint at or above this step appears, whole or not."""
    deadline = time.monotonic() + deadline_s
    while not any(int(path.name.rpartition("-")[2]) >= steps for path in store.root.glob("runs/*/checkpoints/ch*-*")):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and len(store.runs()[0]) == 1


@pytest.mark.parametrize(
    ("changes", "accumulation"),
    [
        ({"recipe": "sm+tmkd+kd", "mix_ratio": 1.5}, 2),
        pytest.param({"recipe": "sm+tmkd+bt", "level": 1}, 1, marks=pytest.mark.cluster),
        pytest.param({"recipe": "pkd", "best_epoch": True, "patience": 9}, 1, marks=pytest.mark.cluster),
    ],
    ids=str,
)
def test_a_process_killed_while_it_trains(
    experiment, uninterrupted, store, vader_folder, apertium, changes, accumulation
):
    """SIGKILL, as by a lack of memory or a batch system, two times; started again, it ends as if nothing had been."""
    done = experiment(num_epochs=12, train_fraction=0.3, **changes)  # 12 epochs of 4 steps
    for steps in (3, 22):
        kill(start(done, store.root, vader_folder, interval_s=-1, accumulation=accumulation), store, steps)
    options = {"gradient_accumulation_steps": accumulation}
    assert_same(done, store, vader_folder, uninterrupted(done, **options), **options)
