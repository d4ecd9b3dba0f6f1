"""What the tests of whole runs share (a module of its own, because several files use it)."""

import subprocess
import sys
import textwrap

import pandas as pd
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mixkd.runs import run


def teacher_record(store):
    return next(r for r in store.runs()[0] if r.experiment["student_layers"] is r.experiment["student"] is None)


def steps_of(experiment, store, **options):
    """Run to the end: the record, and the steps that were done."""
    told = []
    record = run(experiment, store, report=lambda share, message: told.append(message), **options)
    return record, [int(message.split()[1].partition("/")[0]) for message in told if message.startswith("step ")]


def content(store, record):
    """All bits of a run that must not depend on an interruption."""
    folder = store.run_dir(record.run_id)
    return (
        record.measurements,
        (folder / "model" / "model.safetensors").read_bytes(),
        pd.read_parquet(folder / "examples.parquet").to_dict(),
        [{name: value for name, value in entry.items() if name != "loss"} for entry in record.history],
    )


def plain_logits(folder, task, split):
    """Logits of a saved model, loaded as anyone would, one text at a time."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    columns = [task.dataset[split][column] for column in task.text_columns]
    with torch.inference_mode():
        return torch.cat(
            [model(**tokenizer(*texts, return_tensors="pt")).logits for texts in zip(*columns, strict=True)]
        )


IN_A_PROCESS = """
    import sys
    import torch
    from mixkd import callbacks, training
    from mixkd.experiment import Experiment
    from mixkd.runs import run
    torch.set_num_threads(1)
    callbacks.CHECKPOINT_INTERVAL_S = float(sys.argv[4])
    trained, original = [], training.train_and_record
    def spy(experiment, *args, **kwargs):
        trained.append("student" if experiment.is_student else "teacher")
        return original(experiment, *args, **kwargs)
    training.train_and_record = spy
    experiment = Experiment.model_validate_json(sys.argv[1])
    record = run(experiment, sys.argv[2], data_dir=sys.argv[3], gradient_accumulation_steps=int(sys.argv[5]))
    print(record.run_id, *trained, flush=True)
"""


def start(experiment, root, data_dir, interval_s=60.0, accumulation=1):
    """A process of its own that runs the experiment, checkpointing at this interval."""
    arguments = [experiment.model_dump_json(), str(root), str(data_dir), str(interval_s), str(accumulation)]
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(IN_A_PROCESS), *arguments],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
