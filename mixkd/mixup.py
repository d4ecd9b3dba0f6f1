"""Mixup of word embeddings and labels: who is mixed with whom, how much, and the mixed tensors.

Randomness is a pure function of (seed, epoch, row of the training set). A draw therefore does not depend on
the order of the batches, on gradient accumulation, on the number of processes, or on whether the run was
interrupted: there is no generator to save and restore.
"""

from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixkd.recipes import MixupSettings


class MixupPairs(NamedTuple):
    """The mixed examples of one batch: x' = lam * x_source + (1 - lam) * x_partner.

    Attributes:
        source: Positions in the batch, shape (num_mixed,).
        partner: Rows of the training set, shape (num_mixed,).
        lam: Coefficients of the source, float32, shape (num_mixed,).
    """

    source: NDArray[np.int64]
    partner: NDArray[np.int64]
    lam: NDArray[np.float32]


class EpochMixup:
    """The draws of one epoch, for every row of the training set (see the module's docstring)."""

    def __init__(self, num_examples: int, seed: int, epoch: int, settings: MixupSettings):
        if num_examples < 2:
            raise ValueError(f"mixup needs at least 2 training examples, not {num_examples}")
        generator = np.random.default_rng([seed, epoch, 2])  # subsample draws from seed, EpochSampler from [.., 1]
        self.settings = settings
        self.num_copies = np.full(num_examples, int(settings.mix_ratio))
        num_extra = round((settings.mix_ratio - int(settings.mix_ratio)) * num_examples)
        self.num_copies[generator.permutation(num_examples)[:num_extra]] += 1
        self.first_copy = np.cumsum(self.num_copies) - self.num_copies  # where a row's copies start, below
        row = np.repeat(np.arange(num_examples), self.num_copies)
        # An offset of 1 to n - 1 reaches every other row with the same probability, and never the row itself.
        self.partner = (row + generator.integers(1, num_examples, size=row.size)) % num_examples
        self.lam = generator.beta(settings.beta_alpha, settings.beta_alpha, size=row.size).astype(np.float32)
        self.order_key = generator.random((max(int(self.num_copies.max()), 1), num_examples))

    def pairs(self, rows: NDArray[np.int64]) -> MixupPairs:
        """The mixed examples whose sources are these rows of the training set, shape (batch,)."""
        copies = self.num_copies[rows]
        source = np.repeat(np.arange(len(rows)), copies)
        copy = np.arange(len(source)) - np.repeat(np.cumsum(copies) - copies, copies)
        draw = self.first_copy[rows][source] + copy
        partner, lam = self.partner[draw], self.lam[draw]
        if self.settings.partner == "batch":
            # Sorting iid uniform keys gives a uniform permutation, another one for every copy.
            permutations = np.argsort(self.order_key[:, rows], axis=1)  # (num_copies, batch)
            partner = rows[permutations[copy, source]]
        if self.settings.lam_per == "batch":
            lam = np.repeat(lam[:1], len(lam))
        return MixupPairs(source, partner, lam)


def mix_embeddings(embeddings: Tensor, partner_embeddings: Tensor, lam: Tensor) -> Tensor:
    """Convex combination lam * e + (1 - lam) * e~ of word embeddings.

    Args:
        embeddings: Word embeddings of the sources, shape (num_mixed, length, hidden).
        partner_embeddings: Word embeddings of the partners, same shape.
        lam: Coefficients, shape (num_mixed,).

    Returns:
        Mixed embeddings, same shape and dtype as `embeddings`. At lam = 1 they equal `embeddings` exactly.
    """
    weight = lam.to(embeddings.dtype)[:, None, None]
    return weight * embeddings + (1 - weight) * partner_embeddings


def mix_masks(mask: Tensor, partner_mask: Tensor) -> Tensor:
    """Union of two attention masks, shape (num_mixed, length): the mixed text is as long as the longer one."""
    return torch.maximum(mask, partner_mask)


def mix_token_types(token_types: Tensor, partner_token_types: Tensor, mask: Tensor, partner_mask: Tensor) -> Tensor:
    """Segment ids of the longer text (of the source where both are as long), shape (num_mixed, length)."""
    partner_is_longer = partner_mask.sum(1) > mask.sum(1)
    return torch.where(partner_is_longer[:, None], partner_token_types, token_types)


def mix_labels(labels: Tensor, partner_labels: Tensor, lam: Tensor, num_classes: int) -> Tensor:
    """Mixed label distributions lam * y + (1 - lam) * y~.

    Args:
        labels: Classes of the sources, int64, shape (num_mixed,).
        partner_labels: Classes of the partners, int64, shape (num_mixed,).
        lam: Coefficients, shape (num_mixed,).
        num_classes: Number of classes.

    Returns:
        Class probabilities, float32, shape (num_mixed, num_classes); rows sum to 1.
    """
    one_hot = torch.nn.functional.one_hot
    weight = lam.float()[:, None]
    return weight * one_hot(labels, num_classes) + (1 - weight) * one_hot(partner_labels, num_classes)


class TokenTable:
    """All texts of a training set as padded arrays on the host, to look partners up without a copy to and fro.

    Attributes:
        input_ids, attention_mask, token_type_ids: int64 tensors, shape (num_examples, longest text).
        lengths: Tokens per text, shape (num_examples,).
    """

    def __init__(self, texts: list[list[int]], token_types: list[list[int]] | None, pad_token_id: int):
        self.lengths = np.array([len(text) for text in texts])
        shape = (len(texts), int(self.lengths.max()))
        inside = np.arange(shape[1]) < self.lengths[:, None]
        ids, types = np.full(shape, pad_token_id, dtype=np.int32), np.zeros(shape, dtype=np.int8)
        ids[inside] = np.concatenate([np.asarray(text) for text in texts])
        if token_types is not None:
            types[inside] = np.concatenate([np.asarray(token_type) for token_type in token_types])
        self.input_ids, self.attention_mask, self.token_type_ids = map(torch.from_numpy, (ids, inside, types))

    @classmethod
    def from_columns(cls, columns: dict[str, list[list[int]]], pad_token_id: int) -> Self:
        """Build the table from a tokenised dataset's columns."""
        return cls(columns["input_ids"], columns.get("token_type_ids"), pad_token_id)

    def batch(self, rows: NDArray[np.int64], length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Input ids, attention mask and token types of some rows, int64, each of shape (len(rows), length)."""
        selected = torch.from_numpy(np.ascontiguousarray(rows))
        return (
            self.input_ids[selected, :length].long(),
            self.attention_mask[selected, :length].long(),
            self.token_type_ids[selected, :length].long(),
        )
