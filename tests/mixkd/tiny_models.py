"""Tiny classifiers of several architectures (a module of its own, because several test files use them)."""

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

ARCHITECTURES = ("bert", "roberta", "distilbert")

BERT_SIZES = {
    "vocab_size": 32, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 66, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
DISTILBERT_SIZES = {
    "vocab_size": 32, "dim": 32, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64, "dropout": 0.0,
    "attention_dropout": 0.0, "seq_classif_dropout": 0.0,
}  # fmt: skip
ROBERTA_TOKENS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}


def tiny_classifier(architecture, num_layers=3, seed=0, attention="sdpa", **changes):
    """A random classifier without dropout, in eval mode, whose weights are large enough to tell texts apart."""
    common = {"num_hidden_layers": num_layers, "initializer_range": 0.3, **changes}
    kind, config = {
        "bert": (BertForSequenceClassification, lambda: BertConfig(**(BERT_SIZES | common))),
        "roberta": (RobertaForSequenceClassification, lambda: RobertaConfig(**(BERT_SIZES | ROBERTA_TOKENS | common))),
        "distilbert": (DistilBertForSequenceClassification, lambda: DistilBertConfig(**(DISTILBERT_SIZES | common))),
    }[architecture]
    torch.manual_seed(seed)
    return kind._from_config(config(), attn_implementation=attention).eval()
