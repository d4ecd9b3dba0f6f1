import os
import subprocess
import sys
from collections import Counter

import pytest

from mixkd.gpus import claim_gpu, visible_gpus

HOLD = (
    "import os, sys; from mixkd.gpus import claim_gpu; "
    "print(claim_gpu(), os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
)


@pytest.fixture
def start(tmp_path):
    """Start processes that claim a GPU and hold it; each gives what it was given."""
    started = []

    def start_process(devices="0,1,2"):
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": devices, "TMPDIR": str(tmp_path)}
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        claimed, visible = process.stdout.readline().split()
        return process, claimed, visible

    yield start_process
    for process in started:
        process.kill()
        process.communicate()


def test_every_process_gets_a_gpu_of_its_own_and_then_they_share_evenly(start):
    claims = [start() for _ in range(7)]
    assert [claimed for _, claimed, _ in claims[:3]] == ["0", "1", "2"]
    assert all(claimed == visible for _, claimed, visible in claims)
    assert Counter(claimed for _, claimed, _ in claims) == {"0": 3, "1": 2, "2": 2}


def test_processes_that_start_together_never_share(tmp_path):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "3,5,GPU-7f", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", HOLD]
    options = {"env": environment, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **options) for _ in range(3)]
    claimed = {process.stdout.readline().split()[0] for process in processes}
    for process in processes:
        process.communicate()
    assert claimed == {"3", "5", "GPU-7f"}


def test_a_killed_process_gives_its_gpu_back(start):
    claims = [start() for _ in range(3)]
    process, claimed, _ = claims[1]
    process.kill()
    process.wait()
    assert start()[1] == claimed
    assert start()[1] == "0"  # all are taken: from the first one on


@pytest.mark.parametrize(
    ("named", "gpus"),
    [("", []), ("-1", []), ("0", ["0"]), ("2, 0", ["2", "0"]), ("1,-1,0", ["1"]), ("GPU-a,MIG-b", ["GPU-a", "MIG-b"])],
)
def test_what_the_environment_names_is_shared_out(monkeypatch, named, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == gpus


def test_all_gpus_are_shared_out_without_touching_cuda(monkeypatch, tmp_path):
    import torch

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("it initialises the driver"))
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA is initialised"))
    monkeypatch.setattr("mixkd.gpus._held", [])
    assert visible_gpus() == ["0", "1"]
    assert claim_gpu() == "0" and os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert claim_gpu() is None  # this process has its own
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_share(monkeypatch, count):
    import torch

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert claim_gpu() is None and "CUDA_VISIBLE_DEVICES" not in os.environ
