"""Predictions of a trained model, as tables or as the files that the GLUE server takes.

A submission is a zip of eleven files, one per test set, with the header ``index <tab> prediction`` and the examples in
the order of the test file, from 0. MNLI, QNLI, RTE and AX are answered in words, STS-B with a number from 0 to 5, the
others with 0 or 1. Source: the formatter in jiant, the toolkit of GLUE's authors, and the sizes of the test sets.
"""

import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from filelock import FileLock
from scipy.special import softmax
from transformers import AutoConfig, PreTrainedModel

from mixkd import evaluate, glue
from mixkd.gpus import choose_device
from mixkd.metrics import compute_scores, has_labels
from mixkd.models import load_classifier, load_tokenizer, resolve_checkpoint
from mixkd.prediction import predict_logits
from mixkd.store import UserError, atomic_path
from mixkd.tasks import Task, labels_of, load_task, tokenize

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

#: (task, split) -> file of the submission and the number of its examples.
SUBMISSION = {
    ("cola", "test"): ("CoLA.tsv", 1063),
    ("sst2", "test"): ("SST-2.tsv", 1821),
    ("mrpc", "test"): ("MRPC.tsv", 1725),
    ("stsb", "test"): ("STS-B.tsv", 1379),
    ("qqp", "test"): ("QQP.tsv", 390_965),
    ("mnli", "test"): ("MNLI-m.tsv", 9796),
    ("mnli", "test_mismatched"): ("MNLI-mm.tsv", 9847),
    ("qnli", "test"): ("QNLI.tsv", 5463),
    ("rte", "test"): ("RTE.tsv", 3000),
    ("wnli", "test"): ("WNLI.tsv", 146),
    ("ax", "test"): ("AX.tsv", 1104),
}
_IN_WORDS = ("mnli", "qnli", "rte", "ax")


def predict(
    model: str,
    task: str,
    split: str = "test",
    data_dir: str | Path | None = None,
    output: str | Path = "predictions",
    batch_size: int = 64,
    device: str | None = None,
    max_length: int = 128,
) -> list[Path]:
    """Predict a split of a task with a fine-tuned model.

    A test split of GLUE becomes a file of the submission, and ``submission.zip`` is made of all that are there. Any
    other split becomes ``<task>-<split>.tsv`` with example_id, prediction, label if there is one, and the probability
    of every class; its scores are printed. For MNLI, test and validation stand for both of them, matched and not.

    Args:
        model: Folder or hub id of a model with a classification head.
        task: Name of a task, or `ax`, the diagnostic set for models of `mnli`.
        split: A split of the task.
        data_dir: Folder with the task's files, see `mixkd.tasks`.
        output: Folder to write to.
        batch_size: Examples at a time.
        device: "cpu" or "cuda"; None: CUDA if there is one.
        max_length: Tokens per text or pair; longer ones are cut.

    Returns:
        The files written.

    Raises:
        UserError: If the model is not one for this task, the split is not there, or something cannot be read or
            written.
    """
    folder = Path(data_dir) if data_dir is not None else None
    loaded = glue.load("ax", folder) if task == "ax" else load_task(task, folder)
    splits = [split, f"{split}_mismatched"] if f"{split}_mismatched" in loaded.dataset else [split]
    if split not in loaded.dataset:
        raise UserError(f"{task} has no split {split!r}: choose one of {', '.join(loaded.dataset)}.")
    tokenizer, on = load_tokenizer(model), choose_device(device)
    classifier = _load_model(model, loaded)
    written = []
    for name in splits:
        examples = loaded.dataset[name]
        encoded = tokenize(examples, tokenizer, max_length, loaded.is_pair)
        logits = predict_logits(classifier, encoded, on, batch_size)
        if (task, name) in SUBMISSION:
            written.append(_write_submission(loaded, name, logits, Path(output)))
        else:
            written.append(_write_table(_table(loaded, examples, logits), Path(output) / f"{task}-{name}.tsv"))
            _print_scores(loaded, name, examples, logits)
    if (task, split) in SUBMISSION:
        written.append(_zip_submission(Path(output)))
    return written


def _load_model(model: str, task: Task) -> PreTrainedModel:
    """The model, if its classes are the task's, in the same order."""
    config = AutoConfig.from_pretrained(resolve_checkpoint(model))
    if not any("SequenceClassification" in architecture for architecture in config.architectures or []):
        raise UserError(
            f"{model} has no classification head, so it predicts nothing; fine-tune it on {task.name} first."
        )
    known, expected = [str(config.id2label[index]) for index in range(config.num_labels)], list(task.label_names)
    if known == [f"LABEL_{index}" for index in range(len(expected))]:
        order = ", ".join(f"{generic} is {name}" for generic, name in zip(known, expected, strict=True))
        print(f"Warning: {model} does not name its classes; taken for granted: {order}.", file=sys.stderr)
    elif sorted(map(str.lower, known)) == sorted(map(str.lower, expected)) and _lower(known) != _lower(expected):
        raise UserError(
            f"{model} has the classes of {task.name} in another order, {known} instead of {expected}, and its answers "
            "would be mixed up: give a model that was trained with this order."
        )
    return load_classifier(model, task.label_names)


def _lower(names: list[str]) -> list[str]:
    return [name.lower() for name in names]


def _write_submission(task: Task, split: str, logits: "NDArray[np.float32]", folder: Path) -> Path:
    name, size = SUBMISSION[task.name, split]
    if task.is_regression:
        answers = [f"{number:.3f}" for number in np.clip(logits[:, 0], 0, 5)]
    elif task.name in _IN_WORDS:
        answers = [task.label_names[index] for index in logits.argmax(1)]
    else:
        answers = [str(index) for index in logits.argmax(1)]
    if len(answers) != size:
        print(f"Warning: {name} has {len(answers)} examples, and the GLUE server expects {size}.", file=sys.stderr)
    return _write_table(pd.DataFrame({"index": range(len(answers)), "prediction": answers}), folder / name)


def _zip_submission(folder: Path) -> Path:
    """Put all files of the submission that are there into a zip, and say which are not."""
    path, names = folder / "submission.zip", [name for name, _ in SUBMISSION.values()]
    with FileLock(folder / ".submission.lock"):  # two tasks may be predicted at a time
        there = [name for name in names if (folder / name).exists()]
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in there:
                archive.write(folder / name, name)
    missing = [name for name in names if name not in there]
    print(f"{path}: {len(there)} of {len(names)} files" + (f", without {', '.join(missing)}" if missing else ""))
    return path


def _table(task: Task, examples: "Dataset", logits: "NDArray[np.float32]") -> pd.DataFrame:
    """One row per example, in the order of the split."""
    names, labels, predicted = np.array(task.label_names), labels_of(examples), evaluate.predict(logits)
    columns: dict[str, object] = {"example_id": examples["example_id"][:]}
    columns["prediction"] = predicted if task.is_regression else names[predicted]
    if has_labels(labels):
        columns["label"] = labels if task.is_regression else names[labels]
    if not task.is_regression:
        columns |= dict(zip((f"p_{name}" for name in names), softmax(logits, axis=1).T, strict=True))
    return pd.DataFrame(columns)


def _write_table(table: pd.DataFrame, path: Path) -> Path:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False)
    return path


def _print_scores(task: Task, split: str, examples: "Dataset", logits: "NDArray[np.float32]") -> None:
    labels = labels_of(examples)
    if not has_labels(labels):
        print(f"{task.name} {split}: {len(labels)} predictions, no labels to score them with")
        return
    scores = {metric: compute_scores(metric, evaluate.predict(logits), labels) for metric in task.metrics}
    print(f"{task.name} {split}: " + ", ".join(f"{metric} {score:.4f}" for metric, score in scores.items()))
