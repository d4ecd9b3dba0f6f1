import subprocess
import sys

import pytest

from mixkd import estimate as estimate_module
from mixkd.cost import SHAPES, disk_bytes, flops
from mixkd.estimate import Speed, dry_run, estimate_suite, measured_speed, other_machines, recorded_speed
from mixkd.experiment import Experiment
from mixkd.store import Record, Store, content_id, now, provenance
from mixkd.suite import Suite, load_suite

FINGERPRINTS = {"data_fingerprint": "d", "teacher_fingerprint": "t"}


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    """Four cores and no GPU."""
    monkeypatch.setattr(estimate_module.joblib, "cpu_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(estimate_module, "measured_speed", lambda *_: Speed(1e11, "measured just now"))


def record(experiment, wall_time_s=100.0, num_threads=1, **changes):
    """What a run would have left in the store."""
    identity = experiment.model_copy(update=FINGERPRINTS).identity()
    there = provenance(device="cpu", num_threads=num_threads, seeds={}, started_at=now())
    there = there.model_copy(update={"wall_time_s": wall_time_s, **changes})
    return Record(run_id=content_id(identity), experiment=identity, provenance=there, measurements={}, history=[])


def suite(**block):
    return Suite(name="small", description="a\n  grid", experiments=[{"student_layers": 3, **block}])


# ---- shipped suites ----

#: Students and teachers, counted by hand from what the suites promise.
RUNS = {
    "quick": (5 * 3, 1),
    "standard": (5 * 6 * 5 * ((8 + 4) + (6 + 4)), 5),  # at one layer neither pkd nor distilbert
    "full": (2 * 6 * 30 + 2 * 30, 1),
    # back-translation at two shares, two other shares, one layer, another start, four other tasks, twice the epochs
    "breadth": (5 * (2 * 4 + 2 * 5 + 5 + 3 + 4 * 5 + 2 * 2), 5),
    "glue": (6 * 2 * 11 * 3 + 4 * 2 * 2 * 7 * 3, 6),
    # ft, kd and the default, then everything else than the default: a, ratio, two weights; the rate of all three
    "sensitivity": (5 * (3 + 5 + 3 + 3 + 4 + 3 * 4), 1),
    "precision": (2 * 2 * 10, 2),
    "starts": (3 * 30, 1),
    "longer": (2 * 25 * 4, 1),
}


@pytest.mark.parametrize("name", RUNS)
def test_shipped_suites_are_as_large_as_they_promise(name, tmp_path):
    estimate = estimate_suite(load_suite(name), Store(tmp_path), jobs=2)
    assert (estimate.num_students, estimate.num_teachers) == RUNS[name]
    assert estimate.num_done == 0 and not estimate.assumed
    teachers, students = load_suite(name).stages()
    work = sum(map(flops, teachers + students)) / 1e11
    assert work / 4 < estimate.time_s < 1.3 * work / 2  # four cores at best, two jobs at worst
    assert estimate.kept_bytes > 15e6 * sum(RUNS[name])


def test_every_shipped_suite_is_counted():
    from mixkd.suite import suite_names

    assert set(suite_names()) == set(RUNS)


def test_orders_of_magnitude_on_two_cores(tmp_path, monkeypatch):
    """quick takes ten to eleven minutes on two cores that do 190 GFLOP/s each in bf16."""
    monkeypatch.setattr(estimate_module.joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(estimate_module, "measured_speed", lambda *_: Speed(1.9e11, "measured just now"))
    assert 500 < estimate_suite(load_suite("quick"), Store(tmp_path), jobs=2).time_s < 800


# ---- what is left ----


def test_finished_runs_are_left_out(tmp_path, tiny_bert):
    store, small = Store(tmp_path), suite(recipe=["ft", "kd"], seed=[0, 1], teacher=str(tiny_bert), num_epochs=3)
    (teacher,), students = small.stages()
    assert estimate_suite(small, store, jobs=1).num_done == 0
    # As `run` records it: the folder's name in place of its path, and fingerprints.
    for experiment in (teacher, students[0], Experiment(seed=7)):
        store.save_run(record(experiment.model_copy(update={"teacher": "tiny-bert"})))
    estimate = estimate_suite(small, store, jobs=1)
    assert (estimate.num_students, estimate.num_teachers, estimate.num_done) == (4, 1, 2)
    left = students[1:]
    assert estimate.time_s == pytest.approx(sum(flops(e) / (4 * estimate.speed.flops_per_s) + 4 for e in left))
    assert estimate.kept_bytes == sum(map(disk_bytes, left))
    for experiment in left:
        store.save_run(record(experiment.model_copy(update={"teacher": "tiny-bert"})))
    finished = estimate_suite(small, store, jobs=1)
    assert finished.num_done == 5 and finished.time_s == finished.kept_bytes == finished.working_bytes == 0


@pytest.mark.parametrize(
    ("jobs", "at_once", "threads"), [(1, 1, 4), (2, 2, 2), (3, 3, 1), (4, 4, 1), (8, 4, 1)]
)  # fmt: skip
def test_jobs_share_the_cores(tmp_path, jobs, at_once, threads):
    small = suite(recipe="ft", seed=list(range(24)))
    (teacher,), students = small.stages()
    alone = flops(teacher) / 4e11 + 4  # there is but one, on all cores
    expected = alone + 24 * (flops(students[0]) / (threads * 1e11) + 4) / at_once
    assert estimate_suite(small, Store(tmp_path), jobs=jobs).time_s == pytest.approx(expected)


def test_the_longest_run_is_waited_for(tmp_path):
    small = suite(recipe="ft", **{"train_fraction, num_epochs": [[0.01, 1], [0.01, 2], [1.0, 50]]})
    (teacher,), students = small.stages()
    expected = flops(teacher) / 4e11 + 4 + flops(students[-1]) / 1e11 + 4
    assert estimate_suite(small, Store(tmp_path), jobs=4).time_s == pytest.approx(expected)


def test_disk_while_runs_are_under_way(tmp_path):
    """Two checkpoints per job: weights and AdamW's two moments in float32."""
    small = suite(recipe="ft", seed=[0, 1, 2])
    assert estimate_suite(small, Store(tmp_path), jobs=2).working_bytes == 2 * 2 * 3 * 4 * 22_713_216
    assert estimate_suite(small, Store(tmp_path), jobs=8).working_bytes == 4 * 2 * 3 * 4 * 22_713_216


def test_disk_for_the_teacher_s_states(tmp_path):
    """BERT-base on QQP, six layers: five states of 768 float32 for each training example, once for all students."""
    settings = {"teacher": "bert-base-uncased", "task": "qqp", "student_layers": 6, "seed": [0, 1]}
    kept = {
        recipe: estimate_suite(suite(**settings | {"recipe": recipe}), Store(tmp_path), jobs=1).kept_bytes
        for recipe in ("kd", "pkd")
    }
    assert kept["pkd"] - kept["kd"] == 363_846 * 5 * 768 * 4


# ---- speed ----


def test_speed_of_finished_runs(monkeypatch):
    plain, bf16 = Experiment(student_layers=3, seed=1), Experiment(student_layers=3, precision="bf16")
    records = [
        record(plain, wall_time_s=flops(plain) / 1e11 + 4),
        record(Experiment(student_layers=3, seed=2), wall_time_s=flops(plain) / 4e11 + 4, num_threads=2),
        record(Experiment(student_layers=3, seed=3), wall_time_s=flops(plain) / 9e11 + 4, num_threads=3),
        record(bf16, wall_time_s=flops(bf16) / 5e11 + 4),
        record(plain, wall_time_s=flops(plain) / 7e11 + 4, processor="another"),
        record(plain, wall_time_s=flops(plain) / 7e11 + 4, device="NVIDIA H200"),
        record(plain, wall_time_s=5.0),
        record(plain.model_copy(update={"teacher": "somebody/bert"}), wall_time_s=1000.0),
    ]
    found = recorded_speed(records, "cpu", "fp32")
    assert found.flops_per_s == pytest.approx(2e11) and "3 finished runs" in found.source
    assert recorded_speed(records, "cpu", "bf16").flops_per_s == pytest.approx(5e11)
    assert recorded_speed(records[4:], "cpu", "fp32") is None
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(estimate_module, "gpu_name", lambda: "NVIDIA H200")
    assert recorded_speed(records, None, "fp32").flops_per_s == pytest.approx(7e11)


def test_records_of_another_version_say_nothing():
    strange = record(Experiment(student_layers=3))
    strange = strange.model_copy(update={"experiment": strange.experiment | {"mood": "good"}})
    assert recorded_speed([strange], "cpu", "fp32") is None


def test_a_store_s_speed_goes_before_measuring(tmp_path):
    store, small = Store(tmp_path), suite(recipe="ft", seed=[0, 1], num_epochs=3)
    assert estimate_suite(small, store).speed.source == "measured just now"
    student = small.expand()[0]
    store.save_run(record(student, wall_time_s=flops(student) / 3e10 + 4))
    assert estimate_suite(small, store).speed.flops_per_s == pytest.approx(3e10)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measured_speed(monkeypatch, precision):
    """By a clock that ticks half a second per look: four steps in two and a half seconds."""
    import torch

    monkeypatch.undo()
    ticks = iter(range(100))
    monkeypatch.setattr(estimate_module.time, "process_time", lambda: next(ticks) / 2)
    tiny = SHAPES["minilm"]._replace(hidden=64, intermediate=128)
    before = torch.get_num_threads()
    found = measured_speed(tiny, "cpu", precision)
    layer = 32 * (8 * 64**2 + 4 * 64 * 128 + 4 * 64 * 32)
    assert found.flops_per_s == pytest.approx(0.75 * 1 * 3 * 32 * 2 * layer / 1.5)
    assert torch.get_num_threads() == before


# ---- what is printed ----


def test_lines(tmp_path):
    small = suite(recipe="ft", seed=[0, 1], teacher="somebody/bert")
    assert dry_run(small, tmp_path, jobs=2)[:2] == ["suite small: a grid", "runs: 2 students and 1 teacher"]
    time_line, disk_line, assumed = dry_run(small, tmp_path, jobs=2)[2:]
    assert time_line.startswith("time: about ") and "2 at a time (100 GFLOP/s" in time_line
    assert disk_line.startswith("disk: 0.8 GB, and 5.3 GB of checkpoints meanwhile")
    assert assumed == "assumed: somebody/bert is as large as BERT-base"
    Store(tmp_path).save_run(record(small.expand()[0]))
    assert "; 1 of them is in the store" in dry_run(small, tmp_path, jobs=2)[1]


def test_finished_runs_of_another_machine_are_told(tmp_path):
    store, small = Store(tmp_path), suite(recipe="ft", seed=[0, 1, 2])
    first, second, third = small.expand()
    store.save_run(record(first))
    store.save_run(record(Experiment(student_layers=3, seed=7), processor="Another"))  # not of this suite
    assert other_machines(small, store.runs()[0], store.root) == "" and not any(
        "caution" in line for line in dry_run(small, store)
    )
    store.save_run(record(second, processor="Another"))
    told = other_machines(small, store.runs()[0], store.root)
    assert told.startswith("the store has 1 finished run from Another, which this ")
    assert str(tmp_path / "repeats/NAME") in told
    assert dry_run(small, store)[-1] == f"caution: {told}"
    for last in (third, *small.stages()[0]):
        store.save_run(record(last))
    assert other_machines(small, store.runs()[0], store.root) == ""  # nothing is left to do


def test_nothing_is_loaded(tmp_path):
    """Neither data nor a model, and nothing is written."""
    code = (
        "import sys, mixkd.assets as assets\n"
        "assets.fetch = None\n"
        "from mixkd.estimate import dry_run; from mixkd.suite import load_suite\n"
        f"print(*dry_run(load_suite('quick'), {str(tmp_path / 'results')!r}, 'cpu', 2), sep='\\n')\n"
        "assert 'datasets' not in sys.modules and 'mixkd.tasks' not in sys.modules\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "15 students and 1 teacher\n" in printed and "measured just now" in printed
    assert not (tmp_path / "results").exists()
