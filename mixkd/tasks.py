"""What is learned: tasks as data sets with fixed splits, label names and metrics.

===================================================  =======================================================
`vader-movie` and four more                          `mixkd.vader`: embedded, no download but the pinned asset
`cola sst2 mrpc stsb qqp mnli qnli rte wnli`         `mixkd.glue`: from a folder or from the hub
`custom`                                             `mixkd.custom`: one's own CSV, TSV, JSON lines or parquet
===================================================  =======================================================
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mixkd.metrics import has_labels
from mixkd.store import UserError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

    AnyDataset = TypeVar("AnyDataset", Dataset, DatasetDict)

SPLITS = ("train", "validation", "test")

VADER_TASKS = ("vader-movie", "vader-amazon", "vader-nyt", "vader-tweets", "vader-order")
GLUE_TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
TASK_NAMES = (*VADER_TASKS, *GLUE_TASKS, "custom")


@dataclass(frozen=True)
class Task:
    """A task ready to be learned.

    Attributes:
        name: Name that `load_task` takes.
        dataset: Splits train, validation and test (MNLI: also validation_mismatched and test_mismatched) with the
            columns text (and text_pair), label and example_id, unique in a split. A label is a class, or a number
            if the task is a regression; -1 where there is none. The sentences of VADER have mean_rating, in
            [-4, 4], and, where the file is there, ratings, the single ones.
        label_names: Name of each class, by its index; for a regression, the name of the number.
        metrics: Keys of `mixkd.metrics.METRICS`; the first decides.
        shifted: Tasks with the same labels whose test splits come from another domain.
        fingerprint: SHA-256 of texts, labels and splits in their order; the folder is no part of it.
        notes: What was left out of the files, in words.
    """

    name: str
    dataset: "DatasetDict"
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    shifted: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 for a regression."""
        return len(self.label_names)

    @property
    def is_regression(self) -> bool:
        """Whether a label is a number."""
        return len(self.label_names) == 1

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns that hold text, in the order the tokenizer takes them."""
        columns = next(iter(self.dataset.values())).column_names
        return tuple(name for name in ("text", "text_pair") if name in columns)

    @property
    def is_pair(self) -> bool:
        """Whether an example is two texts."""
        return len(self.text_columns) == 2

    @property
    def heldout(self) -> str:
        """The split that final scores and generalization gaps are read on: validation if test has no labels."""
        return "test" if has_labels(labels_of(self.dataset["test"])) else "validation"


def load_task(name: str, data_dir: str | Path | None = None) -> Task:
    """Load a task; a second call in this process gives the same object, as long as its files do not change.

    Args:
        name: One of `TASK_NAMES`.
        data_dir: Folder with the task's files: see `mixkd.vader`, `mixkd.glue` and `mixkd.custom`. By default the
            pinned VADER asset, downloaded on first use, and the hub for GLUE.

    Raises:
        UserError: If the name is unknown or the data is missing, damaged or too little.
    """
    folder = None if data_dir is None else Path(data_dir)
    if name in VADER_TASKS:
        from mixkd import vader

        return vader.load(name, folder)
    if name in GLUE_TASKS:
        from mixkd import glue

        return glue.load(name, folder)
    if name == "custom":
        from mixkd import custom

        return custom.load(folder)
    if name == "ax":
        raise UserError("`ax` is a test set for models of `mnli`: train on mnli, and give ax to `mixkd predict`.")
    raise UserError(f"There is no task {name!r}: choose one of {', '.join(TASK_NAMES)}.")


def content_fingerprint(dataset: "DatasetDict") -> str:
    """SHA-256 of texts, labels and splits in their order, in hex."""
    digest = hashlib.sha256()
    for split, examples in dataset.items():
        columns = [name for name in ("text", "text_pair", "label") if name in examples.column_names]
        for batch in examples.select_columns(columns).iter(batch_size=10_000):
            pairs = batch.get("text_pair") or [None] * len(batch["text"])
            for content in zip(batch["text"], pairs, batch["label"], strict=True):
                digest.update(json.dumps([split, *content]).encode())
    return digest.hexdigest()


def text_digest(*texts: str) -> str:
    """SHA-256 of the letters and digits: the same for texts that differ in case, spacing or punctuation only."""
    letters = "".join(filter(str.isalnum, "".join(texts).casefold()))
    return hashlib.sha256(letters.encode()).hexdigest()


def split_of(digest: str) -> str:
    """The split that a text belongs to by its digest, 70 / 10 / 20 %."""
    decile = int(digest, 16) % 10
    return "train" if decile < 7 else "validation" if decile < 8 else "test"


def labels_of(dataset: "Dataset") -> NDArray[Any]:
    """The column `label` as an array, shape (num_examples,): int64 classes or float32 numbers."""
    labels: NDArray[Any] = dataset.with_format("numpy")["label"][:]
    return labels


def subsample(dataset: "Dataset", fraction: float, seed: int) -> "Dataset":
    """Part of a labelled data set with the same class shares, in its order.

    For one seed a smaller part lies within every larger one. Every class keeps at least one example. The numbers of
    a regression are not stratified.

    Args:
        dataset: Data with a column `label`.
        fraction: Share of each class to keep, in (0, 1].
        seed: Decides which examples are kept.

    Raises:
        UserError: If the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"The training fraction must be in (0, 1], not {fraction}.")
    if fraction == 1:
        return dataset
    labels = labels_of(dataset)
    classes = labels if np.issubdtype(labels.dtype, np.integer) else np.zeros(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    kept = []
    for label in np.unique(classes):
        of_class = order[classes[order] == label]
        kept.append(of_class[: max(1, round(fraction * len(of_class)))])
    return dataset.select(np.sort(np.concatenate(kept)))


def tokenize(
    dataset: "AnyDataset", tokenizer: "PreTrainedTokenizerBase", max_length: int, is_pair: bool
) -> "AnyDataset":
    """Token ids for every example, without padding; nothing is written to disk.

    Args:
        dataset: Data with the columns text (and text_pair), label and example_id.
        tokenizer: The model's tokenizer.
        max_length: Longest number of tokens; the longer text of a pair is cut first.
        is_pair: Whether an example is two texts.

    Returns:
        The columns of the tokenizer (input_ids, attention_mask and, for BERT, token_type_ids), length in
        tokens, label and example_id.
    """
    columns: list[str] = ["text", "text_pair"][: 1 + is_pair]

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(*(batch[column] for column in columns), truncation=True, max_length=max_length)
        return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]]}

    needed = dataset.select_columns([*columns, "label", "example_id"])
    return needed.map(encode, batched=True, remove_columns=columns, keep_in_memory=True)
