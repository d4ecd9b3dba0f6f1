"""Mixing in the words and in the middle of the network, against layers written out by hand, one text at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_models import ARCHITECTURES, tiny_classifier

from mixkd.forward import mixed_inputs

NUM_LAYERS = 3
LEVELS = ["embeddings", 1, 2, 3]
TEXTS = [[2, 7, 9, 11, 3], [2, 8, 3, 12, 13, 14, 3], [2, 20, 3], [2, 21, 22, 23, 24, 25, 3]]
TYPES = [[0] * 5, [0, 0, 0, 1, 1, 1, 1], [0, 0, 1], [0] * 7]
# Two originals, then (source, partner, lam): the source is longer, the partner is longer, both are as long.
PAIRS = [(0, 2, 0.3), (2, 1, 0.6), (1, 3, 0.8), (0, 1, 0.45)]
WIDTH = 9  # wider than any text, as when a longer one shares the batch


def batch_of(model, texts, types, width=WIDTH):
    """Texts padded on the right, as `mixkd.mixup.TokenTable` gives them."""
    pad = model.config.pad_token_id
    return {
        "input_ids": torch.tensor([text + [pad] * (width - len(text)) for text in texts]),
        "attention_mask": torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts]),
        "token_type_ids": torch.tensor([part + [0] * (width - len(part)) for part in types]),
    }


def run_mixed(model, level, originals, pairs):
    """Logits of the originals and then of the mixed examples, by the code under test."""
    rows = [*originals, *(source for source, _, _ in pairs), *(partner for _, partner, _ in pairs)]
    types = [TYPES[row] if model.config.model_type == "bert" else [0] * len(TEXTS[row]) for row in rows]
    texts = batch_of(model, [TEXTS[row] for row in rows], types)
    inputs, mixing = mixed_inputs(model, level, texts, torch.tensor([lam for *_, lam in pairs]))
    with mixing:
        return model(**inputs).logits


# ---- the reference: no padding beyond the pair's longer text, no mask but a choice of keys ----


def embed(model, words, positions, types):
    """Words, positions and segments, normalised; each of shape (length, hidden)."""
    table = model.base_model.embeddings
    total = words + table.position_embeddings(positions)
    if hasattr(table, "token_type_embeddings"):
        total = total + table.token_type_embeddings(types)
    return table.LayerNorm(total)


def positions_of(model, length, num_inside):
    """RoBERTa counts from 2, and gives its padding position 1 when it is told the words' numbers."""
    if model.config.model_type != "roberta":
        return torch.arange(length)
    return torch.tensor([2 + place if place < num_inside else 1 for place in range(length)])


def layer_by_hand(layer, states, num_keys, num_heads=2):
    """One transformer layer on states (length, hidden), whose first `num_keys` positions can be attended to."""
    if hasattr(layer, "ffn"):  # DistilBERT's names
        attention = layer.attention
        query, key, value, output = attention.q_lin, attention.k_lin, attention.v_lin, attention.out_lin
        norms, wide, narrow = (layer.sa_layer_norm, layer.output_layer_norm), layer.ffn.lin1, layer.ffn.lin2
    else:
        own, out = layer.attention.self, layer.attention.output
        query, key, value, output = own.query, own.key, own.value, out.dense
        norms, wide, narrow = (out.LayerNorm, layer.output.LayerNorm), layer.intermediate.dense, layer.output.dense
    q, k, v = query(states), key(states)[:num_keys], value(states)[:num_keys]
    size = states.shape[-1] // num_heads
    heads = []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        weights = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(size), dim=-1)
        heads.append(weights @ v[:, part])
    states = norms[0](output(torch.cat(heads, dim=-1)) + states)
    return norms[1](narrow(F.gelu(wide(states))) + states)


def head_by_hand(model, states):
    if model.config.model_type == "bert":
        return model.classifier(torch.tanh(model.bert.pooler.dense(states[0])))
    if model.config.model_type == "roberta":
        return model.classifier.out_proj(torch.tanh(model.classifier.dense(states[0])))
    return model.classifier(torch.relu(model.pre_classifier(states[0])))


def reference(model, level, source, partner=None, lam=1.0):
    """Logits of one text, or of one mixed pair."""
    rows = [source] if partner is None else [source, partner]
    length = max(len(TEXTS[row]) for row in rows)
    shares = [1.0] if partner is None else [lam, 1 - lam]
    base = model.base_model
    layers = list(base.transformer.layer if hasattr(base, "transformer") else base.encoder.layer)
    own_types = model.config.model_type == "bert"
    padded = [TEXTS[row] + [model.config.pad_token_id] * (length - len(TEXTS[row])) for row in rows]
    words = [base.embeddings.word_embeddings(torch.tensor(ids)) for ids in padded]
    types = [torch.tensor(TYPES[row] + [0] * (length - len(TYPES[row]))) * own_types for row in rows]
    if level == "embeddings" or partner is None:
        longer = 1 if partner is not None and len(TEXTS[partner]) > len(TEXTS[source]) else 0
        mixed = sum(share * part for share, part in zip(shares, words, strict=True))
        states, first = embed(model, mixed, positions_of(model, length, length), types[longer]), 0
    else:
        parts = []
        for row, word, segments in zip(rows, words, types, strict=True):
            inside = len(TEXTS[row])
            part = embed(model, word, positions_of(model, length, inside), segments)
            for layer in layers[:level]:
                part = layer_by_hand(layer, part, inside)
            parts.append(part)
        states, first = sum(share * part for share, part in zip(shares, parts, strict=True)), level
    for layer in layers[first:]:
        states = layer_by_hand(layer, states, length)
    return head_by_hand(model, states)


def references(model, level, originals=(0, 1), pairs=PAIRS):
    return torch.stack([reference(model, level, row) for row in originals]
                       + [reference(model, level, *pair) for pair in pairs])  # fmt: skip


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_originals_and_mixed_examples_are_what_each_alone_would_give(architecture, level, attention):
    model = tiny_classifier(architecture, NUM_LAYERS, attention=attention)
    found = run_mixed(model, level, (0, 1), PAIRS)
    expected = references(model, level)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    others = [references(model, other) for other in LEVELS if other != level]
    assert all((found - other)[2:].abs().max() > 1e-3 for other in others)  # control: the level matters


@pytest.mark.parametrize("level", ["embeddings", 1, 2])
def test_gradients_flow_through_both_texts(level):
    model = tiny_classifier("bert", NUM_LAYERS)
    weights = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))

    def gradients(logits):
        return torch.autograd.grad((weights * logits).sum(), list(model.parameters()))

    found, expected = gradients(run_mixed(model, level, (0, 1), PAIRS)), gradients(references(model, level))
    for (name, _), one, other in zip(model.named_parameters(), found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_at_lam_one_with_a_partner_no_longer_a_mixed_example_is_the_original(architecture, level):
    model = tiny_classifier(architecture, NUM_LAYERS)
    logits = run_mixed(model, level, (0, 1, 1), [(0, 2, 1.0), (1, 0, 1.0), (1, 3, 1.0)])
    torch.testing.assert_close(logits[3:], logits[:3], rtol=1e-5, atol=1e-5)
    mirrored = run_mixed(model, level, (0,), [(2, 0, 0.0)])
    torch.testing.assert_close(mirrored[1], mirrored[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_mixed_examples_alone_and_a_batch_without_padding(level):
    """As the teacher is asked, without originals; and where no mask is needed at all."""
    model = tiny_classifier("bert", NUM_LAYERS)
    logits = run_mixed(model, level, (), PAIRS)
    torch.testing.assert_close(logits, references(model, level, (), PAIRS), rtol=1e-4, atol=1e-5)
    texts = batch_of(model, [TEXTS[1], TEXTS[1], TEXTS[3]], [TYPES[1], TYPES[1], TYPES[3]], width=7)
    inputs, mixing = mixed_inputs(model, level, texts, torch.tensor([0.7]))
    with mixing:
        logits = model(**inputs).logits
    expected = references(model, level, (1,), [(1, 3, 0.7)])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def hooks_of(model):
    return [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


@pytest.mark.parametrize("level", LEVELS)
def test_afterwards_the_model_is_as_it_was(level):
    """Also after an error inside the forward, such as a lack of memory."""
    model = tiny_classifier("bert", NUM_LAYERS)
    before, alone = hooks_of(model), model(**batch_of(model, TEXTS, TYPES)).logits
    run_mixed(model, level, (0,), PAIRS)
    assert hooks_of(model) == before

    def fail(*_):
        raise MemoryError

    broken = model.base_model.encoder.layer[-1].output.register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        run_mixed(model, level, (0,), PAIRS)
    broken.remove()
    assert hooks_of(model) == before
    assert torch.equal(model(**batch_of(model, TEXTS, TYPES)).logits, alone)


def test_gradient_checkpointing_meets_the_same_mixed_states():
    """The layers are computed a second time in the backward pass, when the mixing is over."""
    plain, checkpointed = (tiny_classifier("bert", NUM_LAYERS).train() for _ in range(2))
    checkpointed.gradient_checkpointing_enable()
    gradients = []
    for model in (plain, checkpointed):
        run_mixed(model, 1, (0, 1), PAIRS).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
