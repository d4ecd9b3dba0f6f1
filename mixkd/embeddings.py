"""Sentence embeddings of the VADER corpora, and a head on them, as a file that simulations read without a model."""

import warnings
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from safetensors.numpy import save_file
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from torch import Tensor

from mixkd.models import load_encoder, load_tokenizer
from mixkd.prediction import predict
from mixkd.store import atomic_path
from mixkd.vader import rated_sentences

NUM_UNITS = 32


def export_embeddings(path: Path, model: str = "minilm", data_dir: Path | None = None, max_length: int = 64) -> None:
    """Embed every sentence of the four corpora, train a small network on its mean rating, and save both.

    The file holds `embeddings` (num_sentences, hidden), means of the last hidden states over the tokens, scaled to
    length 1 as all-MiniLM-L6-v2 was trained; `ratings` (num_sentences,), standardised; and the head
    output'tanh(directions'x + biases) + offset on x = sqrt(hidden) * embedding: `directions` (hidden, 32),
    `biases` (32,), `output` (32,), `offset` (1,).

    Args:
        path: Where to.
        model: What embeds: "minilm", a folder, or a hub id.
        data_dir: Folder of the corpora; None: the pinned asset.
        max_length: Tokens that are read of a sentence.

    Raises:
        UserError: If the model or the corpora cannot be loaded, or the file cannot be written.
    """
    texts, ratings = rated_sentences(data_dir)
    tokens = load_tokenizer(model)(texts, truncation=True, max_length=max_length)
    encoder = load_encoder(model)

    def mean_state(batch: dict[str, Tensor]) -> Tensor:
        states = encoder(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(states.dtype)
        return torch.nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1))

    embeddings = predict(encoder, Dataset.from_dict(dict(tokens)), mean_state)
    targets = (ratings - ratings.mean()) / ratings.std()
    head = MLPRegressor(
        hidden_layer_sizes=(NUM_UNITS,), activation="tanh", alpha=1e-2, early_stopping=True, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        head.fit(embeddings * np.sqrt(embeddings.shape[1]), targets)
    tensors = {
        "embeddings": embeddings,
        "ratings": targets,
        "directions": head.coefs_[0],
        "biases": head.intercepts_[0],
        "output": head.coefs_[1][:, 0],
        "offset": head.intercepts_[1],
    }
    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}, temporary)
