"""What a model says of a tokenised dataset: logits, hidden states, or anything else that is computed batch by batch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from mixkd.batches import pad_texts
from mixkd.forward import first_token_only
from mixkd.models import model_columns


def predict_logits(
    model: PreTrainedModel, dataset: Dataset, device: torch.device | str | None = None, batch_size: int = 64
) -> NDArray[np.float32]:
    """Logits of a tokenised dataset in eval mode and float32, in the dataset's order.

    Returns:
        Shape (num_examples, num_classes).
    """
    with first_token_only(model):
        return predict(model, dataset, lambda batch: model(**batch).logits, device, batch_size)


def predict_states(
    model: PreTrainedModel,
    dataset: Dataset,
    layers: Sequence[int],
    device: torch.device | str | None = None,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Hidden states of [CLS] in eval mode and float32, in the dataset's order.

    Args:
        model: The model to ask.
        dataset: Tokenised examples.
        layers: After which layers, from 1; 0 is the embeddings' output.
        device: Where to compute; None: where the model is.
        batch_size: Examples at a time.

    Returns:
        Shape (num_examples, len(layers), hidden).
    """

    def states(batch: dict[str, Tensor]) -> Tensor:
        hidden = model.base_model(**batch, output_hidden_states=True).hidden_states
        return torch.stack([hidden[layer][:, 0] for layer in layers], dim=1)

    return predict(model, dataset, states, device, batch_size)


def predict(
    model: PreTrainedModel,
    dataset: Dataset,
    answer: Callable[[dict[str, Tensor]], Tensor],
    device: torch.device | str | None = None,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """What `answer` says of every example; texts are batched by length, so that little of a batch is padding.

    Args:
        model: The model to ask, in eval mode while it is asked.
        dataset: Tokenised examples.
        answer: From a padded batch to a tensor with one row per text.
        device: Where to compute; None: where the model is.
        batch_size: Examples at a time.
    """
    device = torch.device(device) if device is not None else model.device
    was_training = model.training
    model.to(device).eval()  # not in inference mode: what is moved to a GPU there can never be trained
    columns = [name for name in model_columns(model) if name in dataset.column_names]
    examples = dataset.select_columns(columns)
    order = np.argsort([len(ids) for ids in dataset["input_ids"]], kind="stable")
    answers: NDArray[np.float32] | None = None
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = pad_texts([examples[int(row)] for row in rows], model.config.pad_token_id or 0)
        with torch.inference_mode():
            part = answer({name: tensor.to(device) for name, tensor in batch.items()}).float().cpu().numpy()
        if answers is None:
            answers = np.empty((len(dataset), *part.shape[1:]), dtype=np.float32)
        answers[rows] = part
    model.train(was_training)
    assert answers is not None, "an empty data set has no answers"
    return answers
