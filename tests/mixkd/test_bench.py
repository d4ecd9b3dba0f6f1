"""`mixkd bench`: what pytest is given, what is refused before it starts, and what is left when it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mixkd import bench
from mixkd.cli import main


def json_path(options):
    (written,) = [option for option in options if option.startswith("--benchmark-json=")]
    return Path(written.partition("=")[2])


@pytest.fixture
def started(monkeypatch):
    """The options of every pytest that was started, in place of pytest; it succeeds."""
    calls = []

    def fake_pytest(options):
        calls.append(options)
        json_path(options).write_text(json.dumps({"asked": options[-1], "benchmarks": [{}]}))
        return 0

    monkeypatch.setattr("mixkd.bench._pytest", fake_pytest)
    return calls


def test_unknown_options_go_to_pytest(tmp_path, capfd):
    code = main(["bench", "--output", str(tmp_path), "-k", "no_such_benchmark"])
    assert code == 2
    assert "No benchmark was chosen" in capfd.readouterr().err
    assert not list(tmp_path.rglob("*.json*"))


def test_every_run_of_the_benchmarks_is_kept(tmp_path, started):
    for option in ("latency", "size"):
        assert main(["bench", "--output", str(tmp_path), "-k", option]) == 0
    kept = sorted((tmp_path / "benchmarks").iterdir())
    assert [json.loads(path.read_text())["asked"] for path in kept] == ["latency", "size"]
    assert [path.name[:5] for path in kept] == ["0001_", "0002_"]


def test_what_did_not_fail_is_kept(tmp_path, monkeypatch, capsys):
    text = '{"benchmarks": [{"name": "test_latency"}]}'
    monkeypatch.setattr("mixkd.bench._pytest", lambda options: json_path(options).write_text(text) and 1)
    assert main(["bench", "--output", str(tmp_path)]) == 2
    (kept,) = (tmp_path / "benchmarks").iterdir()
    assert kept.read_text() == text
    assert capsys.readouterr().err == f"mixkd: Some benchmarks failed, see above; {kept} has the others.\n"


@pytest.mark.parametrize("ending", [(1, '{"benchmarks": []}'), (1, ""), (3, '{"benchmarks": [{}]}'), (0, "")])
def test_a_failed_run_leaves_nothing(tmp_path, monkeypatch, capsys, ending):
    status, text = ending
    monkeypatch.setattr("mixkd.bench._pytest", lambda options: (json_path(options).write_text(text), status)[1])
    assert main(["bench", "--output", str(tmp_path)]) == 2
    assert f"exit code {status}" in capsys.readouterr().err
    assert not list((tmp_path / "benchmarks").iterdir())


def test_a_store_that_cannot_be_written_is_found_out_first(started, capsys):
    assert main(["bench", "--output", os.devnull + "/x"]) == 2
    error = capsys.readouterr().err
    assert "Cannot write /dev/null/x/benchmarks/0001_" in error and len(error.splitlines()) == 1
    assert not started


@pytest.mark.parametrize("option", [["--benchmark-json=mine.json"], ["--benchmark-json", "mine.json"]])
def test_the_json_has_its_place(tmp_path, started, capsys, option):
    assert main(["bench", "--output", str(tmp_path), "-k", "size", *option]) == 2
    assert capsys.readouterr().err == f"mixkd: The JSON goes to {tmp_path}/benchmarks: leave --benchmark-json out.\n"
    assert not started


@pytest.mark.parametrize(
    "option", [["--benchmark-compare=a/b/c"], ["--benchmark-compare", "0001_x.json"], ["--benchmark-compare=/tmp/no/0"]]
)
def test_a_run_to_compare_with_must_be_there(tmp_path, started, capsys, option):
    assert main(["bench", "--output", str(tmp_path), *option]) == 2
    error = capsys.readouterr().err
    assert "There is no file" in error and f"the store's are in {tmp_path}/benchmarks." in error
    assert len(error.splitlines()) == 1 and not started


def test_a_run_to_compare_with_is_a_file_or_a_name_in_pytests_storage(tmp_path, started):
    earlier = tmp_path / "0001_earlier.json"
    earlier.write_text("{}")
    forms = (["--benchmark-compare", str(earlier)], ["--benchmark-compare=0001"], ["--benchmark-compare=Linux*/0001"])
    for form in (*forms, ["--benchmark-compare", "-k", "size"], ["--benchmark-compare"]):
        assert main(["bench", "--output", str(tmp_path / "store"), *form]) == 0
        assert started[-1][-len(form) :] == form


#: In place of pytest: half a file, and a while of clearing up that a second signal cuts off.
FAKE_PYTEST = """
import os, signal, sys, time

(path,) = [option.partition("=")[2] for option in sys.argv if option.startswith("--benchmark-json=")]
with open(path, "w") as file:
    file.write('{"benchmarks": [')
try:
    print("pytest", os.getpid(), flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    print("cleared up", flush=True)
"""

BENCH = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts behind its back ignores it
from mixkd.cli import main
sys.exit(main(["bench", "--output", sys.argv[1]]))
"""

#: Runs its arguments in a terminal, whose keyboard is standard input.
TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


@pytest.mark.parametrize("stopped_by", [signal.SIGTERM, signal.SIGINT, "Ctrl-C"])
def test_benchmarks_that_are_stopped_leave_nothing(tmp_path, stopped_by):
    (tmp_path / "pytest.py").write_text(FAKE_PYTEST)
    command = [sys.executable, "-c", BENCH, str(tmp_path / "store")]
    if stopped_by == "Ctrl-C":
        command = [sys.executable, "-c", TERMINAL, *command]
    stopped = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    )
    name, pid = stopped.stdout.readline().split()
    assert name == "pytest"
    if stopped_by == "Ctrl-C":
        stopped.stdin.write("\x03")
        stopped.stdin.flush()
    else:
        stopped.send_signal(stopped_by)  # to the command alone, as `kill` does
    said = stopped.stdout.read()
    assert stopped.wait(timeout=30) == 130
    assert "cleared up" in said and "Traceback" not in said
    assert "mixkd: stopped. The same command starts the benchmarks again; none was stored." in said
    assert "goes on" not in said
    assert not Path(f"/proc/{pid}").exists()
    assert not list((tmp_path / "store/benchmarks").iterdir())


#: In place of pytest: interrupts the command, and does not care to be interrupted itself.
DEAF_PYTEST = """
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
open("pid", "w").write(str(os.getpid()))
os.kill(os.getppid(), signal.SIGUSR1)
time.sleep(60)
"""


def test_a_pytest_that_does_not_end_is_killed(tmp_path, monkeypatch):
    (tmp_path / "pytest.py").write_text(DEAF_PYTEST)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "GRACE_S", 0.1)
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt, match="none was stored"):
            bench._pytest([])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
