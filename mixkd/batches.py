"""From rows of a training set to padded batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler

from mixkd.models import MODEL_COLUMNS


def pad_texts(examples: Sequence[dict[str, list[int]]], pad_token_id: int) -> dict[str, Tensor]:
    """The model's columns of some tokenised examples as int64 tensors, each of shape (num_examples, longest text)."""
    return {
        name: pad_sequence(
            [torch.tensor(example[name]) for example in examples],
            batch_first=True,
            padding_value=pad_token_id if name == "input_ids" else 0,
        )
        for name in MODEL_COLUMNS
        if name in examples[0]
    }


class WithRows(torch.utils.data.Dataset[dict[str, Any]]):
    """Examples with their `row`; a column of that name would have `datasets` write a selection of rows to disk."""

    def __init__(self, examples: Dataset):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**self.examples[row], "row": row}


class RowCollator:
    """Pads a batch, and keeps the examples' rows in the training set on the host, as a numpy array."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate: tensors of shape (batch, longest text), `labels` (batch,), and `rows` if there are any."""
        batch: dict[str, Any] = dict(pad_texts(examples, self.pad_token_id))
        if "label" in examples[0]:
            batch["labels"] = torch.tensor([example["label"] for example in examples])
        if "row" in examples[0]:
            batch["rows"] = np.array([example["row"] for example in examples])
        return batch


class EpochSampler(Sampler[int]):
    """The order that `order` gives for the epoch that `epoch` names."""

    def __init__(self, order: Callable[[int], NDArray[np.int64]], num_examples: int, epoch: Callable[[], int]):
        self.order, self.num_examples, self.epoch = order, num_examples, epoch

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch()).tolist())


def to_device(device: torch.device, array: NDArray[Any]) -> Tensor:
    """A copy on a device; the host does not wait for it."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
