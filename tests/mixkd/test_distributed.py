"""Several processes, as `torchrun` starts them, with gloo on the CPU: one training, and one who writes."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_config
from transformers import AutoTokenizer, BertModel

from mixkd.experiment import Experiment
from mixkd.runs import run
from mixkd.store import Store

pytestmark = pytest.mark.cluster

# Of every process but the first: no file gets more than 100 bytes, whichever library writes (`tempfile` tries folders
# with 4), and what it opens, makes, renames or removes in the store from Python is printed. Of every process: whether
# it ends inside its group, whose threads then sometimes abort it.
SITE = """\
import atexit, os, resource, sys
def tell_group():
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        os.write(2, b"\\nSTILL IN ITS GROUP\\n")
atexit.register(tell_group)
if os.environ.get("RANK", "0") != "0":
    if os.environ["NO_FILE"] == "yes":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    def note(event, args):
        if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            paths = args[:1]
        elif event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "sqlite3.connect"):
            paths = args[:2]
        else:
            return
        for path in paths:
            name = os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
            if name.startswith(os.environ["STORE"]):
                os.write(2, f"\\nTOUCHED {event} {name}\\n".encode())
    sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def quiet_bert(tmp_path_factory, tokenizer):
    """Folder of a pretrained tiny BERT without dropout, whose draws would be other ones in two processes."""
    folder = tmp_path_factory.mktemp("models") / "quiet-bert"
    torch.manual_seed(0)
    model = BertModel(tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    words = tokenizer.convert_tokens_to_ids(["good", "great", "lovely", "superb"])
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[words, :8] += 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(quiet_bert):
    return {
        "teacher": str(quiet_bert), "student_layers": 2, "learning_rate": 2e-3, "num_epochs": 2, "batch_size": 16,
        "train_fraction": 0.3, "teacher_learning_rate": 2e-3, "teacher_num_epochs": 2, "teacher_batch_size": 16,
    }  # fmt: skip


def torchrun(tmp_path, settings, root, data_dir, interval_s=60, accumulation=1, may_write=False, site=SITE):
    """`torchrun --nproc_per_node 2 -m mixkd train ...`: what was printed, and what the second process did to files."""
    (tmp_path / "site").mkdir(exist_ok=True)
    often = f"import mixkd.callbacks as callbacks\ncallbacks.CHECKPOINT_INTERVAL_S = {interval_s}\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(site + (often if interval_s != 60 else ""))
    options = [f"--{name}={value}" for name, value in settings.items()]
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path / 'site'}:{os.getcwd()}", "STORE": str(root), "OMP_NUM_THREADS": "1",
        "NO_FILE": "no" if may_write else "yes", "PYTHONDONTWRITEBYTECODE": "1",  # not even half a module's bytecode
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "mixkd",
               "train", *options, f"--output={root}", f"--data_dir={data_dir}", "--device=cpu",
               f"--gradient_accumulation_steps={accumulation}"]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-20_000:]
    assert "STILL IN ITS GROUP" not in done.stderr
    touched = [line.split(" ", 2)[1:] for line in done.stderr.splitlines() if line.startswith("TOUCHED ")]
    return done.stdout, touched


def weights(store, record):
    return load_file(store.model_dir(record.run_id) / "model.safetensors")


# With accumulation steps, and the examples in the last step of 16: in two processes of 8, or of twice 4.
RECIPES = [
    ({"recipe": "sm+tmkd", "mix_ratio": 1.5, "train_fraction": 0.3}, 1, 14),
    ({"recipe": "pkd", "length_grouping": False, "train_fraction": 0.3}, 2, 14),
    ({"recipe": "kd", "train_fraction": 0.34}, 1, 6),
    ({"recipe": "sm+tmkd+kd", "level": 1, "mix_ratio": 0.3, "train_fraction": 0.34, "best_epoch": True}, 1, 6),
]


@pytest.mark.parametrize(("changes", "accumulation", "num_in_last_step"), RECIPES, ids=str)
def test_two_processes_train_as_one(
    tmp_path, settings, tokenizer, vader_folder, changes, accumulation, num_in_last_step
):
    """The same steps up to rounding: the last one of an epoch, too, of which one process has few examples or none."""
    chosen = settings | changes
    one = Store(tmp_path / "one")
    expected = run(Experiment(**chosen), one, data_dir=vader_folder, device="cpu")
    assert expected.measurements["num_train_examples"] % 16 == num_in_last_step
    two = Store(tmp_path / "two")
    options = {"accumulation": accumulation, "may_write": "best_epoch" in changes}
    stdout, touched = torchrun(tmp_path, chosen, two.root, vader_folder, **options)
    records, problems = two.runs()
    assert len(records) == 2 and not problems  # the teacher's, too
    found = two.load_run(expected.run_id)
    teacher = next(record for record in records if record.run_id != expected.run_id)
    for mine, its in ((found, expected), (teacher, one.load_run(teacher.run_id))):
        assert len(mine.history) == len(its.history) == 2
        for entry, other in zip(mine.history, its.history, strict=True):
            assert entry == pytest.approx(other, rel=2e-3), mine.run_id
        for name, tensor in weights(one, its).items():
            torch.testing.assert_close(weights(two, mine)[name], tensor, rtol=0, atol=2e-3, msg=name)
        assert mine.measurements.keys() == its.measurements.keys()
        losses = {name: value for name, value in its.measurements.items() if name.endswith("_loss")}
        assert {name: mine.measurements[name] for name in losses} == pytest.approx(losses, rel=5e-3, abs=5e-3)
    # One process speaks and writes, and all is there.
    assert stdout.count("test_score") == 2 and stdout.count("Model: ") == 1  # test_score and teacher_test_score
    assert not [name for event, name in touched if event != "os.mkdir" or "/checkpoints" not in name]
    table, whole = (pd.read_parquet(store.run_dir(found.run_id) / "examples.parquet") for store in (two, one))
    assert list(table["example_id"]) == list(whole["example_id"])
    assert AutoTokenizer.from_pretrained(two.model_dir(found.run_id)).get_vocab() == tokenizer.get_vocab()


def test_checkpoints_of_two_processes(tmp_path, settings, vader_folder):
    """By the first one's clock: taking one is work for both, at the same step; the second writes its generators."""
    chosen = settings | {"recipe": "sm+tmkd", "num_epochs": 6, "train_fraction": 0.5}  # 42 steps
    one = Store(tmp_path / "one")
    expected = run(Experiment(**chosen), one, data_dir=vader_folder, device="cpu")
    two = Store(tmp_path / "two")
    stdout, touched = torchrun(tmp_path, chosen, two.root, vader_folder, interval_s=0, may_write=True)
    saved = {name.partition("checkpoint-")[2] for event, name in touched if "checkpoint-" in name}
    assert {"20", "40"} <= saved  # of the teacher's steps and the student's
    assert {event for event, _ in touched} == {"os.mkdir"}
    found = two.load_run(expected.run_id)
    losses, whole = ([entry["loss"] for entry in record.history] for record in (found, expected))
    assert losses == pytest.approx(whole, rel=0.02)
    # Started once more, both find the record and say the same.
    again, touched = torchrun(tmp_path, chosen, two.root, vader_folder)
    assert again == stdout and not touched and two.load_run(expected.run_id) == found


def test_two_processes_killed_together_go_on_together(tmp_path, settings, vader_folder):
    """Stopped by SIGKILL after the checkpoint of step 20; the rest are the steps of the uninterrupted two."""
    chosen = settings | {"recipe": "sm+tmkd", "num_epochs": 6, "train_fraction": 0.5, "mix_ratio": 1.5}
    whole, stopped = Store(tmp_path / "whole"), Store(tmp_path / "stopped")
    torchrun(tmp_path, chosen, whole.root, vader_folder, interval_s=0, may_write=True)
    [student] = [record for record in whole.runs()[0] if record.experiment["student_layers"]]
    shutil.copytree(whole.root, stopped.root)
    shutil.rmtree(stopped.run_dir(student.run_id))
    dying = """
import mixkd.training as training
class Dying(training.ReportSteps):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 25 and state.max_steps == 42:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
training.ReportSteps = Dying
"""
    with pytest.raises(AssertionError, match="SIGKILL"):
        torchrun(tmp_path, chosen, stopped.root, vader_folder, interval_s=0, may_write=True, site=SITE + dying)
    assert len(stopped.runs()[0]) == 1 and list(stopped.root.glob("runs/*/checkpoints/checkpoint-20/rng_state_1.pth"))
    torchrun(tmp_path, chosen, stopped.root, vader_folder, interval_s=0, may_write=True)
    found = stopped.load_run(student.run_id)
    assert found.measurements == student.measurements
    assert all(torch.equal(tensor, weights(stopped, found)[name]) for name, tensor in weights(whole, student).items())
