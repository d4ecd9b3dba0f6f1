import os
import sys
import threading

import joblib
import pytest
import yaml

from mixkd.backends import default_jobs, open_backend
from mixkd.store import Store, UserError
from mixkd.suite import Suite, load_suite, run_suite

BACKENDS = ("loky", "dask", "ray")


def needs(backend):
    """Skip where the backend's extra is not installed."""
    if backend != "loky":
        pytest.importorskip({"dask": "distributed", "ray": "ray"}[backend])


def test_unknown_backend(tmp_path, experiment):
    suite = Suite(name="s", description="d", experiments=[{"recipe": "ft"}])
    with pytest.raises(UserError, match="no backend 'spark'; choose loky, dask, ray"):
        run_suite(suite, tmp_path, backend="spark", jobs=2)


@pytest.mark.parametrize(("backend", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_package_is_named(monkeypatch, backend, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'mixkd\[{backend}\]'"), open_backend(backend, 2):
        pass


@pytest.mark.parametrize(
    ("device", "cores", "gpus", "jobs"),
    [("cpu", 2, 4, 2), ("cpu", 64, 0, 4), (None, 1, 0, 1), (None, 64, 8, 8), ("cuda", 64, 1, 1), (None, 64, 0, 4)],
)
def test_default_jobs(monkeypatch, device, cores, gpus, jobs):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("it initialises the driver"))
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    assert default_jobs(device) == jobs


@pytest.fixture(scope="module")
def small(tiny_bert, tmp_path_factory):
    """Two teachers and four students."""
    block = {
        "teacher": str(tiny_bert), "student_layers": 2, "recipe": ["sm+tmkd", "kd"], "train_fraction": 0.5, "seed": 1,
        "task": ["vader-movie", "vader-tweets"], "num_epochs": 2, "batch_size": 16, "learning_rate": 2e-3,
        "teacher_learning_rate": 2e-3, "teacher_num_epochs": 4, "teacher_batch_size": 16,
    }  # fmt: skip
    path = tmp_path_factory.mktemp("suite") / "small.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "description": "tiny", "experiments": [block]}))
    return load_suite(str(path))


@pytest.fixture(scope="module")
def in_turn(small, vader_folder, tmp_path_factory):
    """The records of the suite, run one after another with one thread."""
    import torch

    assert torch.get_num_threads() == 1  # conftest sets OMP_NUM_THREADS
    return run_suite(small, tmp_path_factory.mktemp("in turn"), data_dir=vader_folder, jobs=1)


@pytest.mark.cluster
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_records_whatever_the_backend(small, in_turn, tmp_path, vader_folder, capsys, monkeypatch, backend):
    """Bit for bit, from a store and data named by relative paths; teachers go through the workers as well."""
    needs(backend)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(vader_folder)
    records = run_suite(small, "results", data_dir="data", jobs=2, backend=backend)
    assert len(records) == 6 and [r.run_id for r in records] == [r.run_id for r in in_turn]
    differing = {
        name: (mine.measurements[name], value)
        for mine, its in zip(records, in_turn, strict=True)
        for name, value in its.measurements.items()
        if mine.measurements[name] != value
    }
    assert not differing and all(
        r.measurements.keys() == i.measurements.keys() for r, i in zip(records, in_turn, strict=True)
    )
    assert [r.history for r in records] == [r.history for r in in_turn]
    assert [r.provenance.num_threads for r in records] == [1] * 6
    assert [r.provenance.command for r in records] == [r.provenance.command for r in in_turn]
    store = Store("results")
    assert {r.run_id for r in store.runs()[0]} == {r.run_id for r in records}
    for record in records:
        assert (store.run_dir(record.run_id) / "examples.parquet").exists()
    lines = [line for line in capsys.readouterr().err.splitlines() if "test score" in line]
    assert len(lines) == 6 and lines[-1].startswith("suite small 100%")


@pytest.mark.cluster
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_of_a_run_is_the_same_sentence(small, tmp_path, vader_folder, backend):
    needs(backend)
    broken = Suite(name="broken", description="d", experiments=[
        block | {"teacher_learning_rate": 1e-9} for block in small.experiments
    ])  # fmt: skip
    with pytest.raises(UserError, match="no better than") as raised:
        run_suite(broken, tmp_path / "results", data_dir=vader_folder, jobs=2, backend=backend)
    assert "\n" not in str(raised.value)


@pytest.mark.cluster
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_worker_is_one_sentence(backend):
    needs(backend)
    with pytest.raises(UserError, match=r"worker process was killed.*lower --jobs \(now 2\)") as raised:  # noqa: SIM117
        with open_backend(backend, 2):
            joblib.Parallel(batch_size=1)(joblib.delayed(os._exit)(9) for _ in range(2))
    assert "\n" not in str(raised.value)
    # Ray's would ask for results after its end, and by that start another cluster.
    assert not [thread for thread in threading.enumerate() if type(thread).__name__ == "ResultThread"]


@pytest.mark.cluster
def test_a_dask_cluster_that_is_there_is_joined_and_left_running(monkeypatch):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        with distributed.Client(cluster):
            with open_backend("dask", 7) as workers:
                assert (workers.num_jobs, workers.num_hosts) == (2, 1)
                pids = set(joblib.Parallel(batch_size=1)(joblib.delayed(os.getpid)() for _ in range(8)))
            assert os.getpid() not in pids and len(cluster.scheduler.workers) == 2
        import dask

        with dask.config.set({"scheduler-address": cluster.scheduler_address}):
            with open_backend("dask", 7) as workers:
                assert workers.num_jobs == 2
                assert set(joblib.Parallel(batch_size=1)(joblib.delayed(os.getpid)() for _ in range(8))) <= pids
        assert len(cluster.scheduler.workers) == 2


@pytest.mark.cluster
def test_dask_workers_with_threads_are_refused():
    """Runs seed torch's generators: two in one process would spoil each other's."""
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster):
        with pytest.raises(UserError, match="--nthreads 1"), open_backend("dask", 2):
            pass


@pytest.mark.cluster
def test_a_ray_session_that_is_there_is_joined_and_left_running():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with pytest.raises(UserError, match="has 2 CPUs for 3 jobs"), open_backend("ray", 3):
            pass
        with open_backend("ray", 2) as workers:
            assert (workers.num_jobs, workers.num_hosts) == (2, 1)
            pids = set(joblib.Parallel(batch_size=1)(joblib.delayed(os.getpid)() for _ in range(8)))
        assert len(pids) == 2 and os.getpid() not in pids
        assert ray.is_initialized()
    finally:
        ray.shutdown()
