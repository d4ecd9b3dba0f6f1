import sys
from datetime import UTC, datetime

from mixkd import store as evidence


def test_provenance_describes_this_process():
    started_at = datetime.now(UTC)
    described = evidence.provenance(device="cpu", num_threads=1, seeds={}, started_at=evidence.now())
    assert described.python.startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert {"mixkd", "torch", "transformers", "numpy"} <= set(described.versions)
    assert described.commit is None or len(described.commit) == 40
    assert (described.commit is None) == (described.dirty is None)
    assert described.processor and described.platform and described.command
    assert abs((datetime.fromisoformat(described.started_at) - started_at).total_seconds()) < 5
    assert 0 <= described.wall_time_s < 5


def test_the_command_can_be_run_again_and_names_no_folder(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/opt/somewhere/bin/mixkd", "train", "--task", "a task", "--seed", "0"])
    assert evidence.command_line() == "mixkd train --task 'a task' --seed 0"
    monkeypatch.setattr(sys, "argv", ["/opt/somewhere/mixkd/__main__.py", "doctor"])
    assert evidence.command_line() == "mixkd doctor"
