"""Mixup of word embeddings and labels: who is mixed with whom, how much, and the mixed tensors.

Randomness is a pure function of (seed, epoch, row of the training set). A draw therefore does not depend on
gradient accumulation, on the number of processes, or on whether the run was interrupted: there is no generator to
save and restore.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixkd.recipes import MixupSettings

if TYPE_CHECKING:
    from datasets import Dataset


class MixupPairs(NamedTuple):
    """Some mixed examples: x' = lam * x_source + (1 - lam) * x_partner.

    Attributes:
        source: Rows of the training set, shape (num_mixed,).
        partner: Rows of the training set, shape (num_mixed,).
        lam: Coefficients of the source, float32, shape (num_mixed,).
    """

    source: NDArray[np.int64]
    partner: NDArray[np.int64]
    lam: NDArray[np.float32]

    def part(self, where: slice | NDArray[np.int64]) -> "MixupPairs":
        """Some of the pairs."""
        return MixupPairs(self.source[where], self.partner[where], self.lam[where])


class EpochMixup:
    """The draws of one epoch, for every row of the training set (see the module's docstring)."""

    def __init__(self, num_examples: int, seed: int, epoch: int, settings: MixupSettings):
        if num_examples < 2:
            raise ValueError(f"mixup needs at least 2 training examples, not {num_examples}")
        generator = np.random.default_rng([seed, epoch, 2])  # subsample draws from seed, epoch_order from [.., 1]
        self.settings = settings
        self.num_copies = np.full(num_examples, int(settings.mix_ratio))
        num_extra = round((settings.mix_ratio - int(settings.mix_ratio)) * num_examples)
        self.num_copies[generator.permutation(num_examples)[:num_extra]] += 1
        self.first_copy = np.cumsum(self.num_copies) - self.num_copies  # where a row's copies start, below
        row = np.repeat(np.arange(num_examples), self.num_copies)
        # An offset of 1 to n - 1 reaches every other row with the same probability, and never the row itself.
        partner = (row + generator.integers(1, num_examples, size=row.size)) % num_examples
        lam = generator.beta(settings.beta_alpha, settings.beta_alpha, size=row.size).astype(np.float32)
        self.all = MixupPairs(row, partner, lam)
        self.order_key = generator.random((max(int(self.num_copies.max()), 1), num_examples))
        self.shuffle = generator.permutation(row.size)

    def of_rows(self, rows: NDArray[np.int64]) -> MixupPairs:
        """The mixed examples whose sources are these rows, shape (batch,), in their order."""
        copies = self.num_copies[rows]
        source = np.repeat(np.arange(len(rows)), copies)
        copy = np.arange(len(source)) - np.repeat(np.cumsum(copies) - copies, copies)
        _, partner, lam = self.all.part(self.first_copy[rows][source] + copy)
        if self.settings.partner == "batch":
            # Sorting iid uniform keys gives a uniform permutation, another one for every copy.
            permutations = np.argsort(self.order_key[:, rows], axis=1)  # (num_copies, batch)
            partner = rows[permutations[copy, source]]
        if self.settings.lam_per == "batch":
            lam = np.repeat(lam[:1], len(lam))
        return MixupPairs(rows[source], partner, lam)

    def by_length(
        self, lengths: NDArray[np.int64], order: NDArray[np.int64], examples_per_step: int
    ) -> list[MixupPairs]:
        """All mixed examples of the epoch, dealt out to its steps so that a step's texts are of similar length.

        A partner is any other example, so a mixed text is as long as the longer of two random ones, and 32 of them
        beside 32 short originals would be mostly padding. Here the longest mixed texts go to the step with the
        longest originals. Who is mixed with whom, and how much, is the same as in `of_rows`, and so is the sum of
        the loss over the epoch; only the step in which a mixed example is met depends on lengths, as it does for
        originals.

        Args:
            lengths: Tokens of every training example, shape (num_examples,).
            order: Rows in the order of the epoch's steps, shape (num_examples,).
            examples_per_step: Originals per optimizer step; the last one may have fewer.

        Returns:
            The mixed examples of every step: in each as near as can be mix_ratio times its originals.
        """
        starts = np.arange(0, len(order), examples_per_step)
        longest = np.maximum.reduceat(lengths[order], starts)  # of a step's originals
        sizes = np.diff(np.round(len(self.all.source) * np.append(starts, len(order)) / len(order)).astype(int))
        mixed_lengths = np.maximum(lengths[self.all.source], lengths[self.all.partner])
        pairs = self.shuffle[np.argsort(mixed_lengths[self.shuffle], kind="stable")]
        steps = np.argsort(longest, kind="stable")
        parts = np.split(pairs, np.cumsum(sizes[steps])[:-1])
        dealt = {int(step): self.all.part(part) for step, part in zip(steps, parts, strict=True)}
        return [dealt[step] for step in range(len(starts))]


def epoch_order(
    num_examples: int, lengths: NDArray[np.int64] | None, batch_size: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """The order of the training examples as a pure function of seed and epoch, so that a resumed run goes on in it.

    With lengths, examples of similar length share a batch: they are shuffled, sorted by length within 50 batches at a
    time, and the batches are shuffled again.

    Returns:
        Rows of the training set, shape (num_examples,).
    """
    generator = np.random.default_rng([seed, epoch, 1])  # EpochMixup draws from [.., 2]
    order = generator.permutation(num_examples)
    if lengths is None:
        return order
    window = 50 * batch_size
    windows = (order[start : start + window] for start in range(0, len(order), window))
    order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in windows])
    full, rest = np.split(order, [len(order) // batch_size * batch_size])
    return np.concatenate([generator.permutation(full.reshape(-1, batch_size)).ravel(), rest])


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
    """Mixed labels lam * y + (1 - lam) * y~.

    Args:
        labels: Of the sources, shape (num_mixed,): classes (int64), or real numbers for a regression.
        partner_labels: Of the partners, the same.
        lam: Coefficients, shape (num_mixed,).
        num_classes: Number of classes; 1 for a regression.

    Returns:
        Class probabilities, float32, shape (num_mixed, num_classes), whose rows sum to 1; for a regression numbers,
        shape (num_mixed,).
    """
    if num_classes == 1:
        return lam * labels.float() + (1 - lam) * partner_labels.float()
    one_hot = torch.nn.functional.one_hot
    weight = lam.float()[:, None]
    return weight * one_hot(labels, num_classes) + (1 - weight) * one_hot(partner_labels, num_classes)


class TokenTable:
    """All texts of a training set as padded arrays on the host, to look mixed texts up without a copy to and fro.

    It costs 6 bytes per token and padding: 0.3 GB for MNLI at 128 tokens.

    Attributes:
        input_ids, attention_mask, token_type_ids: int32, bool and int8 tensors, shape (num_examples, longest text).
        lengths: Tokens per text, shape (num_examples,).
    """

    def __init__(self, dataset: "Dataset", pad_token_id: int):
        ids, self.lengths = flat_column(dataset, "input_ids")
        shape = (len(self.lengths), int(self.lengths.max()))
        inside = np.arange(shape[1]) < self.lengths[:, None]
        padded, types = np.full(shape, pad_token_id, dtype=np.int32), np.zeros(shape, dtype=np.int8)
        padded[inside] = ids
        if "token_type_ids" in dataset.column_names:
            types[inside] = flat_column(dataset, "token_type_ids")[0]
        self.input_ids, self.attention_mask, self.token_type_ids = map(torch.from_numpy, (padded, inside, types))

    def batch(self, rows: NDArray[np.int64], length: int) -> dict[str, Tensor]:
        """The model's columns of some rows, int64, each of shape (len(rows), length)."""
        selected = torch.from_numpy(np.ascontiguousarray(rows))
        columns = {name: getattr(self, name) for name in ("input_ids", "attention_mask", "token_type_ids")}
        return {name: table[selected, :length].long() for name, table in columns.items()}


def flat_column(dataset: "Dataset", column: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A column of lists as one flat array and the lists' lengths, without a Python object per token."""
    lists = dataset.with_format("arrow")[:][column].combine_chunks()
    return lists.flatten().to_numpy(zero_copy_only=False), np.diff(lists.offsets.to_numpy())
