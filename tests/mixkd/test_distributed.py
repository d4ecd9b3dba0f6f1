"""Several processes, as `torchrun` starts them, with gloo on the CPU: one training, and one who writes."""

import json
import os
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

# Every file that the process opens for writing, makes, renames or removes, one a line, with the process's rank.
AUDIT = """\
import os, sys
rank, log, watched = os.environ.get("RANK"), os.environ.get("AUDIT_LOG"), os.environ.get("AUDIT_FOLDER", "")
if rank is not None and log:
    descriptor = os.open(f"{log}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    def note(event, args):
        if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            paths = [args[0]]
        elif event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.link", "os.symlink"):
            paths = [path for path in args[:2] if isinstance(path, (str, bytes, os.PathLike))]
        elif event == "sqlite3.connect":
            paths = [args[0]]
        else:
            return
        for path in paths:
            name = os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
            if name.startswith(watched):
                os.write(descriptor, f"{event} {name}\\n".encode())
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


def torchrun(tmp_path, settings, root, data_dir, processes=2, interval_s=60, accumulation=1):
    """`torchrun -m mixkd train ...`: what every process printed and did to files."""
    (tmp_path / "site").mkdir(exist_ok=True)
    audit = AUDIT + f"import mixkd.training as t\nt.CHECKPOINT_INTERVAL_S = {interval_s}\n" * (interval_s != 60)
    (tmp_path / "site" / "sitecustomize.py").write_text(audit)
    options = [
        f"--{name}={json.dumps(value) if isinstance(value, list) else value}" for name, value in settings.items()
    ]
    for log in tmp_path.glob("opened.*"):
        log.unlink()
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path / 'site'}:{os.getcwd()}", "AUDIT_LOG": str(tmp_path / "opened"),
        "AUDIT_FOLDER": str(root), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m",
               "mixkd", "train", *options, f"--output={root}", f"--data_dir={data_dir}", "--device=cpu",
               f"--gradient_accumulation_steps={accumulation}"]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    opened = {rank: (tmp_path / f"opened.{rank}").read_text().splitlines() for rank in range(processes)}
    return done.stdout, opened


def weights(store, record):
    return load_file(store.model_dir(record.run_id) / "model.safetensors")


RECIPES = [
    ({"recipe": "sm+tmkd", "mix_ratio": 1.5}, 1),
    ({"recipe": "pkd", "length_grouping": False}, 2),
    ({"recipe": "sm+tmkd+kd", "level": 1, "mix_ratio": 0.3, "best_epoch": True}, 1),
]


@pytest.mark.parametrize(("changes", "accumulation"), RECIPES, ids=str)
def test_two_processes_train_as_one(tmp_path, settings, vader_folder, changes, accumulation):
    """The same steps up to rounding: the last one of an epoch, too, for which there are too few examples.

    61 training examples in steps of 16 leave 13 for the last one, 8 of them for the first process.
    """
    chosen = settings | changes
    one = Store(tmp_path / "one")
    expected = run(Experiment(**chosen), one, data_dir=vader_folder, device="cpu")
    two = Store(tmp_path / "two")
    stdout, opened = torchrun(tmp_path, chosen, two.root, vader_folder, accumulation=accumulation)
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
    assert any("record.json" in line for line in opened[0]) and not opened[1]
    table, whole = (pd.read_parquet(store.run_dir(found.run_id) / "examples.parquet") for store in (two, one))
    assert list(table["example_id"]) == list(whole["example_id"])
    assert AutoTokenizer.from_pretrained(two.model_dir(found.run_id)).vocab_size == 32
    # The second start finds the record, and says the same.
    before = (two.run_dir(found.run_id) / "record.json").stat().st_mtime_ns
    again, opened = torchrun(tmp_path, chosen, two.root, vader_folder, accumulation=accumulation)
    assert again == stdout and not opened[1]
    assert (two.run_dir(found.run_id) / "record.json").stat().st_mtime_ns == before


def test_checkpoints_of_two_processes(tmp_path, settings, vader_folder):
    """By the first one's clock: taking one is work for all of them. Killed as a whole, the training goes on."""
    chosen = settings | {"recipe": "sm+tmkd", "num_epochs": 12, "train_fraction": 0.5}  # 84 steps
    one = Store(tmp_path / "one")
    expected = run(Experiment(**chosen), one, data_dir=vader_folder, device="cpu")
    _, opened = torchrun(tmp_path, chosen, tmp_path / "two", vader_folder, interval_s=0)
    saved = {line.partition("checkpoint-")[2].partition("/")[0] for line in opened[0] if "/checkpoint-" in line}
    assert {"20", "40", "60", "80"} <= saved
    written = [line.split(" ", 1) for line in opened[1]]
    assert {name.rpartition("/")[2] for event, name in written if event == "open"} == {"rng_state_1.pth"}  # its dropout
    folder = Store(tmp_path / "two").run_dir(expected.run_id) / "checkpoints"
    assert all(event == "os.mkdir" and str(folder).startswith(name) or name.startswith(str(folder))
               for event, name in written)  # fmt: skip
    found = Store(tmp_path / "two").load_run(expected.run_id)
    assert [entry["loss"] for entry in found.history] == pytest.approx([e["loss"] for e in expected.history], rel=0.02)
