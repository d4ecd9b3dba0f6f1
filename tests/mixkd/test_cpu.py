"""Cheap dropout: the right share, the right mean, independent places, and the same attention without it."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chi2_contingency
from tiny import tiny_config
from torch import nn
from transformers import BertForSequenceClassification, DistilBertConfig, DistilBertForSequenceClassification

from mixkd.cpu import CheapDropout, drop, use_cheap_dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.003])
def test_share_and_scale(rate):
    torch.manual_seed(0)
    values = torch.full((301, 1001), 2.0)
    dropped = drop(values, rate)
    zeros = int((dropped == 0).sum())
    assert binomtest(zeros, values.numel(), round(rate * 2**16) / 2**16).pvalue > 1e-3
    kept = dropped[dropped != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 2 / (1 - rate)), rtol=2e-5, atol=0)


def test_neighbours_are_independent():
    """Four neighbours share one 64-bit number."""
    torch.manual_seed(0)
    zeros = (drop(torch.ones(400_000), 0.2) == 0).view(-1, 4).numpy()
    for first in range(4):
        for second in range(first):
            table = np.histogram2d(zeros[:, first], zeros[:, second], bins=2)[0]
            assert chi2_contingency(table).pvalue > 1e-3


def test_random_state_decides_and_gradient_follows_the_mask():
    values = torch.randn(7, 13, requires_grad=True)
    torch.manual_seed(5)
    first = drop(values, 0.3)
    torch.manual_seed(5)
    assert torch.equal(drop(values, 0.3), first)
    assert not torch.equal(drop(values, 0.3), first)
    first.sum().backward()
    assert torch.equal(values.grad == 0, first == 0)
    assert drop(values, 0.0) is values
    assert drop(values.bfloat16(), 0.3).dtype == torch.bfloat16


def models():
    torch.manual_seed(0)
    bert = BertForSequenceClassification(tiny_config())
    config = DistilBertConfig(vocab_size=32, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64)
    return [bert, DistilBertForSequenceClassification(config)]


@pytest.mark.parametrize("model", models(), ids=lambda model: model.config.model_type)
def test_model_answers_as_before_in_eval_mode_and_drops_in_training(model):
    ids, mask = torch.randint(5, 30, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    mask[1, 4:] = 0
    expected = model.eval()(input_ids=ids, attention_mask=mask).logits
    use_cheap_dropout(model)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected, rtol=1e-4, atol=1e-6)
    places = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert places and all(type(module) is CheapDropout and not module.training for module in places)
    model.train()
    torch.manual_seed(0)
    first, second = (model(input_ids=ids, attention_mask=mask).logits for _ in range(2))
    assert not torch.equal(first, second)


def test_attention_drops_too():
    """With every other dropout off, only the attention's is left to make two forwards differ."""
    model = BertForSequenceClassification(tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5))
    use_cheap_dropout(model)
    model.train()
    ids = torch.randint(5, 30, (3, 9))
    assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
