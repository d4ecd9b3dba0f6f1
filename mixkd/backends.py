"""joblib's backends, made ready for a suite: processes here, or a cluster of Dask or Ray."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import joblib

from mixkd.store import UserError


class Workers(NamedTuple):
    """What runs experiments.

    Attributes:
        num_jobs: Runs at a time, over all hosts.
        num_hosts: Machines that share them.
        killed: What joblib raises if a worker process died.
        pre_dispatch: Of `joblib.Parallel`.
    """

    num_jobs: int
    num_hosts: int
    killed: type[BaseException]
    pre_dispatch: str = "2 * n_jobs"


def default_jobs(device: str | None) -> int:
    """Runs at a time here: one per GPU; on the processor one per core up to four, as small models share badly."""
    import torch

    num_gpus = 0 if device == "cpu" else torch.cuda.device_count()  # unlike is_available, it leaves CUDA alone
    return num_gpus or max(1, min(joblib.cpu_count(), 4))


@contextmanager
def open_backend(name: str, jobs: int, device: str | None = None) -> Iterator[Workers]:
    """Start, or join, what a backend needs; within the block `joblib.Parallel` uses it.

    A cluster that is there is joined: a Dask client of this process or DASK_SCHEDULER_ADDRESS, a Ray session of this
    process or RAY_ADDRESS. Otherwise one of `jobs` worker processes is started on this machine, and stopped again.
    Hosts of a cluster must share the store's folder.

    Raises:
        UserError: If the backend is unknown, its package is missing, its cluster cannot be used, or a worker dies.
    """
    if name not in _BACKENDS:
        raise UserError(f"There is no backend {name!r}; choose {', '.join(_BACKENDS)}.")
    with _BACKENDS[name](jobs, device) as workers:
        try:
            yield workers
        except workers.killed as error:
            raise UserError(
                "A worker process was killed, as the system does when memory runs out; lower --jobs (now "
                f"{workers.num_jobs}) or the runs' max_length. The same command goes on where it was."
            ) from error


@contextmanager
def _loky(jobs: int, device: str | None) -> Iterator[Workers]:
    with joblib.parallel_config("loky", n_jobs=jobs):
        yield Workers(jobs, 1, BrokenProcessPool)


@contextmanager
def _dask(jobs: int, device: str | None) -> Iterator[Workers]:
    try:
        import dask
        from distributed import Client, LocalCluster
        from distributed.scheduler import KilledWorker
        from joblib._dask import DaskDistributedBackend
    except ImportError as error:
        raise _missing("dask") from error

    class Backend(DaskDistributedBackend):
        """joblib's own waits for ever for a run whose worker was killed."""

        def submit(self, func: Any, callback: Callable[[Any], None]) -> Future[Any]:
            future: Future[Any] = super().submit(func, callback)
            future.add_done_callback(lambda done: callback(done) if done.exception() else None)
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            return super().retrieve_result_callback(out.result() if isinstance(out, Future) else out)

    joblib.register_parallel_backend("dask", Backend)
    address = dask.config.get("scheduler-address", None)
    try:
        client, is_ours = Client.current(), False
    except ValueError:
        is_ours = True
        # A worker that died once has no better chance the next time; memory is left to the operating system, as a
        # share per worker would kill runs that fit.
        with dask.config.set({} if address else {"distributed.scheduler.allowed-failures": 0}):
            local = {"n_workers": jobs, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": None}
            try:
                client = Client(address or LocalCluster(**local, silence_logs="CRITICAL"), set_as_default=True)
            except OSError as error:
                raise UserError(
                    f"No Dask scheduler answers at {address}; start it, or unset DASK_SCHEDULER_ADDRESS."
                ) from error
    try:
        client.wait_for_workers(1, timeout=60)
        info = client.scheduler_info(n_workers=-1)["workers"].values()
        if any(worker["nthreads"] > 1 for worker in info):
            raise UserError(
                "Runs cannot share a process, but a Dask worker has several threads; start workers with --nthreads 1."
            )
        with joblib.parallel_config("dask"):
            yield Workers(len(info), len({worker["host"] for worker in info}), KilledWorker)
    except TimeoutError as error:
        raise UserError("The Dask cluster has had no worker for a minute; start some, and try again.") from error
    finally:
        if is_ours:
            cluster = client.cluster
            client.close()
            if cluster is not None:
                cluster.close()


@contextmanager
def _ray(jobs: int, device: str | None) -> Iterator[Workers]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report home
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a call that comes too late would start another cluster
    try:
        import ray
        from ray.exceptions import RayError
        from ray.util.joblib import register_ray
        from ray.util.multiprocessing.pool import ResultThread
    except ImportError as error:
        raise _missing("ray") from error
    register_ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        local = {"address": "local", "num_cpus": jobs, "include_dashboard": False}
        try:
            ray.init(**({} if "RAY_ADDRESS" in os.environ else local), log_to_driver=False, logging_level="ERROR")
        except ConnectionError as error:
            raise UserError(
                f"No Ray cluster answers at {os.environ['RAY_ADDRESS']}; start it, or unset RAY_ADDRESS."
            ) from error
    try:
        resources, num_hosts = ray.cluster_resources(), len(ray.nodes())
        num_cpus, num_gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0)
        if jobs > num_cpus:
            raise UserError(f"The Ray cluster has {num_cpus} CPUs for {jobs} jobs; choose --jobs {num_cpus}.")
        needs = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
        if num_gpus and device != "cpu":
            needs["num_gpus"] = min(1, num_gpus / jobs)
        with joblib.parallel_config("ray", n_jobs=jobs, ray_remote_args=needs):
            # Ray deals runs out in turn, and not to whoever is idle: all at once, so that nobody waits for another.
            yield Workers(jobs, num_hosts, RayError, pre_dispatch="all")
    finally:
        if is_ours:
            for thread in threading.enumerate():
                if isinstance(thread, ResultThread):  # after an error one may still be asking Ray
                    thread.join(timeout=10)
            ray.shutdown()


_BACKENDS: dict[str, Callable[[int, str | None], AbstractContextManager[Workers]]] = {
    "loky": _loky,
    "dask": _dask,
    "ray": _ray,
}


def _missing(package: str) -> UserError:
    return UserError(f"The backend {package} needs a package of its own; run: pip install 'mixkd[{package}]'.")
