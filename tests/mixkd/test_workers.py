import io
import sys
from concurrent.futures.process import BrokenProcessPool

import joblib
import pytest

from mixkd import workers as workers_module
from mixkd.backends import Workers
from mixkd.cost import flops
from mixkd.experiment import Experiment
from mixkd.progress import Progress
from mixkd.store import Record, Store, UserError, content_id, now, provenance
from mixkd.workers import run_in_turn, run_in_workers

#: Three runs of very different cost.
EXPERIMENTS = [Experiment(student_layers=layers, train_fraction=0.1, num_epochs=2 * layers) for layers in (1, 2, 3)]
OPTIONS = {"device": "cpu", "data_dir": None, "force": False}


def record_of(experiment):
    identity = experiment.identity()
    there = provenance(device="cpu", num_threads=1, seeds={}, started_at=now())
    measurements = {"test_score": 0.1 * experiment.student_layers}
    return Record(
        run_id=content_id(identity), experiment=identity, provenance=there, measurements=measurements, history=[]
    )


@pytest.fixture
def shown():
    """Progress as plain lines, into a stream that can be read."""
    return Progress(sum(map(flops, EXPERIMENTS)), "suite", stream=io.StringIO())


@pytest.fixture
def run(monkeypatch):
    """Replace `mixkd.run` by one that reports these shares; in workers, joblib calls it in this process."""
    import torch

    done = {"shares": [0.5, 1.0], "threads": []}

    def fake_run(experiment, store, *, report, **options):
        done["threads"].append(torch.get_num_threads())
        done["options"] = options
        for share in done["shares"]:
            report(share, "step")
        record = record_of(experiment)
        store = store if isinstance(store, Store) else Store(done.get("elsewhere", store))
        store.save_run(record)
        return record

    monkeypatch.setattr(workers_module, "run", fake_run)
    monkeypatch.setattr(sys, "argv", ["mixkd", "suite", "quick"])
    threads = torch.get_num_threads()
    yield done
    torch.set_num_threads(threads)


def in_workers(store, shown, num_jobs=1, num_hosts=1):
    with joblib.parallel_config("sequential"):
        return run_in_workers(EXPERIMENTS, store, OPTIONS, shown, 0.0, Workers(num_jobs, num_hosts, BrokenProcessPool))


def lines(shown):
    return shown.stream.getvalue().splitlines()


def test_records_come_in_the_order_of_the_experiments(run, shown, tmp_path):
    for records in (in_workers(Store(tmp_path), shown), run_in_turn(EXPERIMENTS, Store(tmp_path), OPTIONS, shown)):
        assert [record.experiment["student_layers"] for record in records] == [1, 2, 3]
    assert run["options"] == OPTIONS
    results = [line for line in lines(shown) if "test score" in line]
    assert [line.partition("test score ")[2][:5] for line in results] == ["0.100", "0.200", "0.300"] * 2
    shares = [line.partition("%")[0] for line in results]
    assert shares[:3] == shares[3:] and len(set(shares)) == 3
    assert results[2].startswith("suite 100%:")
    assert not list(tmp_path.glob(".progress*"))


def test_what_was_done_before_is_no_part_of_the_speed(run, shown, tmp_path):
    """Runs that begin at 60 % have 60 % of their work taken out, in both ways of running."""
    run["shares"] = [0.6, 0.8, 1.0]
    in_workers(Store(tmp_path / "a"), shown)
    skipped = 0.95 * 0.6 * sum(map(flops, EXPERIMENTS))
    assert shown.skipped == pytest.approx(skipped)
    run_in_turn(EXPERIMENTS, Store(tmp_path / "b"), OPTIONS, shown)
    assert shown.skipped == pytest.approx(2 * skipped)


def test_a_record_that_was_there_is_taken_out_whole(run, shown, tmp_path, monkeypatch):
    old = provenance(device="cpu", num_threads=1, seeds={}, started_at=now())
    old = old.model_copy(update={"started_at": "2020-01-01T00:00:00+00:00"})

    def finished(experiment, store, **options):
        record = record_of(experiment).model_copy(update={"provenance": old})
        Store(store).save_run(record)
        return record

    monkeypatch.setattr(workers_module, "run", finished)
    in_workers(Store(tmp_path), shown)
    assert shown.skipped == pytest.approx(sum(map(flops, EXPERIMENTS)))
    assert sum("already in the store" in line for line in lines(shown)) == 3


def test_workers_that_write_elsewhere(run, shown, tmp_path):
    run["elsewhere"] = tmp_path / "other host"
    with pytest.raises(UserError, match="on their own machine; choose an --output that all hosts share"):
        in_workers(Store(tmp_path / "here"), shown)


@pytest.mark.parametrize(
    ("num_jobs", "num_hosts", "threads"), [(1, 1, 8), (2, 1, 4), (3, 1, 2), (8, 1, 2), (2, 2, 8), (3, 2, 4)]
)  # fmt: skip
def test_runs_on_a_host_share_its_cores(run, shown, tmp_path, monkeypatch, num_jobs, num_hosts, threads):
    """Eight cores; there are three runs, however many jobs are allowed."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    in_workers(Store(tmp_path), shown, num_jobs, num_hosts)
    assert run["threads"] == [threads] * 3


def test_the_user_s_number_of_threads_is_kept(run, shown, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    in_workers(Store(tmp_path), shown, 2)
    assert run["threads"] == [3] * 3


@pytest.mark.parametrize(("device", "claims"), [("cpu", 0), ("cuda", 1), (None, 1)])
def test_a_gpu_is_claimed_before_anything_else(run, shown, tmp_path, monkeypatch, device, claims):
    claimed = []
    monkeypatch.setattr(workers_module, "claim_gpu", lambda: claimed.append(len(run["threads"])))
    run_in_turn(EXPERIMENTS, Store(tmp_path), OPTIONS | {"device": device}, shown)
    assert claimed == [0] * claims
    claimed.clear()
    run["threads"].clear()
    monkeypatch.setitem(OPTIONS, "device", device)
    in_workers(Store(tmp_path), shown)
    assert claimed == [0, 1, 2][: 3 * claims]  # each run asks, in a process that may be new
