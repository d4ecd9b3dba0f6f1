"""The `mixkd` command: start-up, options, and what a user sees when something is wrong."""

import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixkd import cli
from mixkd.cli import main


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "mixkd", *arguments], capture_output=True, text=True, check=False)


def test_help_is_fast_and_lists_every_command():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = run("--help")
        seconds.append(time.perf_counter() - start)
    assert result.returncode == 0
    for command in ("reproduce", "train", "suite", "theory", "bench", "report", "doctor"):
        assert command in result.stdout
    assert min(seconds) < 1.0


def test_help_does_not_import_torch():
    code = "import sys; from mixkd.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass\n"
    result = subprocess.run(
        [sys.executable, "-c", code + "assert 'torch' not in sys.modules"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "--beta_alpha" in result.stdout and "Parameter a of lam ~ Beta(a, a)" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--recipe", "nope"], "choose one of ft, kd"),
        (["train", "--recipe", "kd"], "student_layers"),
        (["train", "--recipe", "ft", "--kd_weight", "1"], "leave kd_weight out"),
        (["train", "--recipe", "sm", "--student_layers", "1", "--beta_alpha", "0"], "needs a > 0"),
        (["train", "--task", "nope"], "nope"),
        (["train", "--data_dir", "/no/such/folder"], "/no/such/folder"),
        (["train", "--teacher", "./nowhere"], "no folder ./nowhere"),
        (["suite", "nope"], "There is no suite 'nope'"),
        (["theory", "T99"], "There is no study T99"),
        (["theory", "T05", "--device", "tpu"], "device 'tpu' cannot be used"),
        (["suite", "quick", "--jobs", "0"], '"jobs": Not of type PositiveInt'),
        (["train", "--num_epochs", "-1"], '"num_epochs": Input should be greater than or equal to 0'),
        (["train", "--train_fraction", "2"], "less than or equal to 1"),
        (["train", "--seed", "-1"], "init_seed: Input should be"),
        (["train", "--gradient_accumulation_steps", "0"], "PositiveInt"),
        (["train", "--nonsense", "3"], "unrecognized arguments: --nonsense 3"),
        (["predict", "--model", "x", "--task", "rte", "--max_length", "-1"], "PositiveInt"),
        (["report"], "There is no store"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, sentence, tmp_path, capsys, vader_folder):
    needs_data = arguments[0] == "train" and "--data_dir" not in arguments
    data = ["--data_dir", str(vader_folder)] if needs_data else []
    code = main([*arguments, *data, "--output", str(tmp_path / "results")])
    error = capsys.readouterr().err
    message = [line for line in error.splitlines() if line.startswith("mixkd: ")]
    assert code == 2
    assert len(message) == 1 and sentence in message[0]
    assert "Traceback" not in error


def test_debug_shows_the_traceback(capsys, tmp_path):
    assert main(["--debug", "suite", "nope", "--output", str(tmp_path)]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["nope"], ["suite"], ["train", "--config", "no.yaml"]])
def test_wrong_words_name_the_help(command, capsys):
    assert main(command) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "--help`." in error


def test_options_in_a_file(tmp_path, capsys):
    config = tmp_path / "options.yaml"
    config.write_text("studies: [T99]")
    assert main(["theory", "--config", str(config)]) == 2
    assert "There is no study T99" in capsys.readouterr().err
    config.write_bytes(b'output: "\xff"')
    assert main(["theory", "--config", str(config)]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_a_file_is_no_store(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["suite", "quick", "--output", str(tmp_path / "file"), "--jobs", "2"]) == 2
    assert "Cannot use" in capsys.readouterr().err


def test_train_from_a_config_file(tmp_path, vader_folder, tiny_bert, capsys):
    config = tmp_path / "config.yaml"
    options = {"teacher": str(tiny_bert), "student_layers": 1, "num_epochs": 1, "max_length": 32, "recipe": "ft"}
    options |= {"output": str(tmp_path / "results"), "data_dir": str(vader_folder), "device": "cpu"}
    config.write_text("\n".join(f"{key}: {value}" for key, value in options.items()))
    assert main(["train", "--config", str(config), "--seed", "5", "--teacher_learning_rate", "0.003"]) == 0
    records = [json.loads(path.read_text()) for path in (tmp_path / "results/runs").glob("*/record.json")]
    student = next(record for record in records if record["experiment"]["student_layers"] == 1)
    assert len(records) == 2
    assert student["experiment"]["init_seed"] == student["experiment"]["data_seed"] == 5
    assert f'"test_score": {student["measurements"]["test_score"]}' in capsys.readouterr().out


def test_doctor_names_versions_assets_and_disk(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MIXKD_HOME", str(tmp_path / "cache"))
    assert main(["doctor", "--output", str(tmp_path / "not" / "there")]) == 0
    out = capsys.readouterr().out
    assert "torch 2" in out and "minilm: not fetched" in out and "GB free" in out


def test_report_of_an_empty_store_runs_nothing_and_passes_nothing(tmp_path, capsys):
    assert main(["report", "--output", str(tmp_path)]) == 0
    assert "supported" not in capsys.readouterr().out
    verdicts = json.loads((tmp_path / "verdicts.json").read_text())["verdicts"]
    assert {verdict["verdict"] for verdict in verdicts} == {"not run"}


def test_pilots_run_on_their_own_seed(tmp_path):
    assert main(["theory", "T17", "--pilot", "--jobs", "1", "--output", str(tmp_path)]) == 0
    seeds = {json.loads(path.read_text())["cell"]["master_seed"] for path in (tmp_path / "theory").glob("*.json")}
    assert seeds == {77001}


def test_the_calibration_runs_its_pilots_first(tmp_path, monkeypatch):
    import reports.calibration
    import theory.running
    import theory.studies

    calls = []
    monkeypatch.setattr(
        theory.running, "run_studies", lambda names, *_, pilot, **__: calls.append((list(names), pilot))
    )
    monkeypatch.setattr(theory.studies, "needs_embeddings", lambda names: False)
    monkeypatch.setattr(reports.calibration, "run_calibration", lambda store, force, jobs: calls.append(store.root))
    assert main(["theory", "calibration", "--output", str(tmp_path)]) == 0
    assert calls == [(list(theory.studies.CLAIM_STUDIES), True), tmp_path]
    calls.clear()
    assert main(["theory", "T05", "calibration", "--output", str(tmp_path)]) == 0
    assert calls[0] == (["T05"], False) and calls[-1] == tmp_path


def test_real_inputs_are_exported_once(tmp_path, monkeypatch):
    import mixkd.embeddings
    import theory.running
    import theory.studies

    calls = []
    monkeypatch.setattr(theory.running, "run_studies", lambda *_, **__: calls.append("studies"))
    monkeypatch.setattr(
        mixkd.embeddings, "export_embeddings", lambda path: (path.parent.mkdir(), path.touch(), calls.append("export"))
    )
    for _ in range(2):
        assert main(["theory", "T24", "--output", str(tmp_path)]) == 0
    assert main(["theory", "T05", "--output", str(tmp_path / "other")]) == 0
    assert calls == ["export", "studies", "studies", "studies"]


WORKERS = """
import os, signal, sys, time, joblib
from mixkd import cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts behind its back ignores it

def work(number):
    os.write(1, b"%d\\n" % os.getpid())  # at once: two of them print
    time.sleep(60)

def wait() -> None:
    '''Two processes at work.'''
    joblib.Parallel(2)(joblib.delayed(work)(number) for number in range(4))

if __name__ == "__main__":
    cli.COMMANDS["theory"] = wait
    sys.exit(cli.main(["theory"]))
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_end_ends_the_workers(tmp_path, sent):
    """It goes to the command alone, as `kill` sends it, and not to its process group, as a terminal's Ctrl-C does."""
    script = tmp_path / "wait.py"
    script.write_text(WORKERS)
    command = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    workers = [int(command.stdout.readline()) for _ in range(2)]
    command.send_signal(sent)
    assert "The same command goes on where it was" in command.communicate(timeout=30)[1]
    assert command.returncode == 130
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "goes_on"),
    [
        (["reproduce"], True),
        (["suite", "quick"], True),
        (["suite", "quick", "--force"], False),
        (["suite", "quick", "--dry-run"], False),
        (["theory", "T05"], True),
        (["theory", "T05", "--force"], False),
        (["restore"], True),
        (["report"], False),
        (["publish"], False),
        (["bench"], False),
        (["predict", "--model", "x", "--task", "rte"], False),
    ],
)
def test_only_a_command_that_goes_on_says_so(arguments, goes_on, monkeypatch, capsys):
    function = cli.COMMANDS[arguments[0]]

    @functools.wraps(function)
    def stopped(**_):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, arguments[0], stopped)
    assert main(arguments) == 130
    sentence = "mixkd: stopped. The same command goes on where it was.\n" if goes_on else "mixkd: stopped.\n"
    assert capsys.readouterr().err == sentence
