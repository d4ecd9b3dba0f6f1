"""Classifiers computed layer by layer, one text or one mixed pair at a time, for BERT, RoBERTa and DistilBERT.

No padding beyond the pair's longer text, and no mask but a choice of keys: nothing is shared with the code under test.
"""

import math

import torch
import torch.nn.functional as F


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


def logits_by_hand(model, level, text, partner=None, lam=1.0):
    """Logits of one text, or of one mixed pair, mixed at this level; a text is its token ids and its segment ids."""
    texts, shares = ([text], [1.0]) if partner is None else ([text, partner], [lam, 1 - lam])
    length = max(len(ids) for ids, _ in texts)
    base, pad = model.base_model, model.config.pad_token_id
    layers = list(base.transformer.layer if hasattr(base, "transformer") else base.encoder.layer)
    words = [base.embeddings.word_embeddings(torch.tensor(ids + [pad] * (length - len(ids)))) for ids, _ in texts]
    segments = [torch.tensor(types + [0] * (length - len(types))) for _, types in texts]
    first = 0
    if level == "embeddings" or partner is None:
        longer = segments[-1] if len(texts[-1][0]) > len(text[0]) else segments[0]
        mixed = sum(share * part for share, part in zip(shares, words, strict=True))
        states = embed(model, mixed, positions_of(model, length, length), longer)
    else:
        parts = []
        for (ids, _), word, types in zip(texts, words, segments, strict=True):
            part = embed(model, word, positions_of(model, length, len(ids)), types)
            for layer in layers[:level]:
                part = layer_by_hand(layer, part, len(ids))
            parts.append(part)
        states, first = sum(share * part for share, part in zip(shares, parts, strict=True)), level
    for layer in layers[first:]:
        states = layer_by_hand(layer, states, length)
    return head_by_hand(model, states)
