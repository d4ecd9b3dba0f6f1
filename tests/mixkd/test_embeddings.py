"""Sentence embeddings for the simulations: what is saved, against plain transformers."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

from mixkd.embeddings import export_embeddings
from mixkd.store import UserError
from mixkd.vader import rated_sentences


def test_the_file_holds_mean_states_ratings_and_a_trained_head(tmp_path, tiny_bert, vader_folder):
    export_embeddings(tmp_path / "cache" / "embeddings", str(tiny_bert), vader_folder)
    saved = load_file(tmp_path / "cache" / "embeddings")
    texts, ratings = rated_sentences(vader_folder)
    assert len(saved["embeddings"]) == len(texts) == len(saved["ratings"])
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_bert), AutoModel.from_pretrained(tiny_bert).eval()
    for row in (0, len(texts) // 2, len(texts) - 1):
        inputs = tokenizer(texts[row], return_tensors="pt", truncation=True, max_length=64)
        with torch.no_grad():
            mean = model(**inputs).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(saved["embeddings"][row], mean / mean.norm(), atol=1e-5)
    np.testing.assert_allclose(saved["ratings"], (ratings - ratings.mean()) / ratings.std(), atol=1e-5)
    inputs = saved["embeddings"] * np.sqrt(saved["embeddings"].shape[1])
    answers = np.tanh(inputs @ saved["directions"] + saved["biases"]) @ saved["output"] + saved["offset"]
    assert np.mean((answers - saved["ratings"]) ** 2) < 0.9  # it has learned something


def test_a_missing_corpus_is_named(tmp_path, tiny_bert):
    with pytest.raises(UserError, match="movieReviewSnippets_GroundTruth.txt cannot be read"):
        export_embeddings(tmp_path / "embeddings", str(tiny_bert), tmp_path)
    assert not list(tmp_path.iterdir())
