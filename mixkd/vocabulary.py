"""Training with the rows of the word-embedding table that the texts use.

Most rows belong to tokens that no training text holds: 20 thousand of MiniLM's 30 thousand on the whole of
`vader-movie`. Their gradient is zero in every step, so AdamW's moments of them stay zero and only weight decay reaches
them: in the end each is its first value times the product over the steps of (1 - learning rate x weight decay).
Leaving them out, and multiplying once at the end, gives the same model up to rounding, without a dense gradient of
millions of zeros to be filled, clipped and applied in every step.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from mixkd.mixup import flat_column


class UsedEmbedding(nn.Embedding):
    """The used rows of a table, asked by the ids of the whole table.

    A last row, of ones, is the witness: it belongs to no token, so what weight decay makes of it is what it would have
    made of the rows that were left out.
    """

    def __init__(self, table: nn.Embedding, used: Tensor):
        rows = torch.cat([table.weight.data[used], torch.ones_like(table.weight.data[:1])])
        super().__init__(*rows.shape, _weight=rows)
        self.table, self.used = [table], used  # in a list: no submodule, whose weights would be trained and saved
        position = torch.full((table.num_embeddings,), len(rows), dtype=torch.int64)  # beyond the end: an error
        position[used] = torch.arange(len(used))
        self.register_buffer("position", position, persistent=False)
        if table.padding_idx is not None:
            self.padding_idx = int(position[table.padding_idx])

    def forward(self, input_ids: Tensor) -> Tensor:
        """Rows of these ids, of shape (..., hidden)."""
        return F.embedding(self.position[input_ids], self.weight, self.padding_idx)

    def whole(self) -> nn.Embedding:
        """The whole table, as training all of it would have left it."""
        (table,) = self.table
        table.weight.data *= self.weight.data[-1].to(table.weight)
        table.weight.data[self.used] = self.weight.data[:-1].to(table.weight)
        return table


def use_tokens_of(model: PreTrainedModel, datasets: Iterable[Dataset]) -> None:
    """Put a `UsedEmbedding` of these tokenised data sets in the place of a model's word embeddings."""
    table = model.get_input_embeddings()
    ids = [np.unique(flat_column(dataset, "input_ids")[0]) for dataset in datasets]
    padding = [] if table.padding_idx is None else [[table.padding_idx]]
    used = np.unique(np.concatenate([*ids, *padding, [model.config.pad_token_id or 0]]))
    model.set_input_embeddings(UsedEmbedding(table, torch.from_numpy(used.astype(np.int64))))


def use_whole_table(model: PreTrainedModel) -> None:
    """Undo `use_tokens_of` after the training."""
    model.set_input_embeddings(model.get_input_embeddings().whole())
