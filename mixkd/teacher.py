"""A finished teacher's answers, computed once and kept in the store's `cache`."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from mixkd.evaluate import Part
from mixkd.interpolation import walk
from mixkd.mixup import flat_column
from mixkd.models import MODEL_COLUMNS, load_classifier
from mixkd.prediction import predict_logits, predict_states
from mixkd.store import Store, UserError, atomic_path, content_id, file_sha256, is_first_process

Array = NDArray[np.float32]


class CachedTeacher:
    """A teacher whose logits and hidden states of whole data sets are computed once.

    The key of a file holds the weights and the tokens themselves: a teacher trained again, another tokenizer, another
    maximum length or other texts never meet one another's answers. The files are read memory-mapped, so they cost
    disk and no memory: 4 bytes x examples x classes for logits, 4 bytes x examples x mapped layers x hidden size for
    the states that PKD needs (MiniLM on `vader-movie`, 2 layers: 22 MB; BERT-base on QQP, 5 layers: 5.6 GB).
    """

    def __init__(self, store: Store, folder: Path, label_names: Sequence[str], device: torch.device):
        if not folder.is_dir():
            raise UserError(f"The teacher's model {folder} is gone; delete {folder.parent} to have it trained again.")
        self.weights = file_sha256(folder / "model.safetensors")
        self.model = load_classifier(str(folder), label_names).to(device)
        self.folder = store.root / "cache" / "teacher"

    def logits(self, dataset: Dataset) -> Array:
        """Logits of a tokenised data set, shape (num_examples, num_classes)."""
        return self._cached(dataset, "logits", lambda: predict_logits(self.model, dataset))

    def of(self, part: Part) -> Array:
        """Logits of a part's examples: those of its whole split, which every share of the data finds in the cache."""
        row_of = {example_id: row for row, example_id in enumerate(part.split["example_id"][:])}
        return self.logits(part.split)[[row_of[example_id] for example_id in part.examples["example_id"][:]]]

    def states(self, dataset: Dataset, layers: Sequence[int]) -> Array:
        """Hidden states of [CLS] after some layers (1-based), shape (num_examples, len(layers), hidden)."""
        name = f"states {list(layers)}"
        return self._cached(dataset, name, lambda: predict_states(self.model, dataset, layers))

    def walk(self, references: Dataset, pairs: NDArray[np.int64]) -> Array:
        """What `mixkd.interpolation.walk` says of the teacher."""
        return self._cached(references, f"walk {pairs.tolist()}", lambda: walk(self.model, references, pairs))

    def _cached(self, dataset: Dataset, what: str, compute: Callable[[], Array]) -> Array:
        key = {"what": what, "weights": self.weights, "tokens": tokens_sha256(dataset)}
        path = self.folder / f"{content_id(key)}.npy"
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):  # not there yet, or torn: it can always be computed again
            answers = compute()
            if not is_first_process():
                return answers
            with atomic_path(path) as temporary:
                np.save(temporary, answers)
            return np.load(path, mmap_mode="r")


def tokens_sha256(dataset: Dataset) -> str:
    """SHA-256 of a data set's tokens in their order."""
    digest = hashlib.sha256()
    for name in (name for name in MODEL_COLUMNS if name in dataset.column_names):
        values, lengths = flat_column(dataset, name)
        digest.update(f"{name} {len(lengths)}".encode() + lengths.astype(np.int32).tobytes())
        digest.update(values.astype(np.int32).tobytes())
    return digest.hexdigest()
