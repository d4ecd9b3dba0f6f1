"""What makes a training step cheaper on a processor, where drawing dropout's masks costs a tenth of it.

torch draws one 64-bit random number per element there. Here a 64-bit number serves four elements, 16 bits each. And
with dropout, torch's fused attention falls back to a path slower than the plain products that are written out below.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

_ATTENTION = "mixkd_cpu"
_RESOLUTION = 2**16


def use_cheap_dropout(model: PreTrainedModel) -> None:
    """Let a model draw its dropout masks, also those of its attention, as `drop` does."""
    AttentionInterface.register(_ATTENTION, _attention)
    AttentionMaskInterface.register(_ATTENTION, eager_mask)
    model.set_attn_implementation(_ATTENTION)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, CheapDropout(child.p).train(child.training))


class CheapDropout(nn.Dropout):
    """`nn.Dropout` with the masks of `drop`."""

    def forward(self, values: Tensor) -> Tensor:
        """Shape as given."""
        return drop(values, self.p) if self.training else values


def drop(values: Tensor, rate: float) -> Tensor:
    """Each value is 0 with probability `rate`, to the nearest 2^-16, and else scaled up so that the mean stays.

    The random bits come from torch's default generator, so that a resumed run draws what it would have drawn.
    """
    num_dropped = round(rate * _RESOLUTION)  # of the values that 16 bits can have
    if num_dropped == 0:
        return values
    bits = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)  # flat
    kept = bits[: values.numel()].view(values.shape) >= num_dropped - _RESOLUTION // 2
    return values * (kept.to(values.dtype) * (_RESOLUTION / (_RESOLUTION - num_dropped)))


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of queries, keys and values of shape (batch, heads, length, head size)."""
    scores = torch.matmul(query, key.transpose(2, 3)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1).to(query.dtype)
    if module.training:
        weights = drop(weights, dropout)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None
