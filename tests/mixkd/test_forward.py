"""Mixing in the words and in the middle of the network, against layers written out by hand, one text at a time."""

import pytest
import torch
from by_hand import logits_by_hand
from tiny_models import ARCHITECTURES, tiny_classifier

from mixkd.cpu import use_cheap_dropout
from mixkd.forward import first_token_only, mixed_inputs

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


def has_segments(model):
    """Whether texts may have two segments: RoBERTa knows one, and DistilBERT none."""
    return int(model.config.model_type == "bert")


def run_mixed(model, level, originals, pairs):
    """Logits of the originals and then of the mixed examples, by the code under test."""
    rows = [*originals, *(source for source, _, _ in pairs), *(partner for _, partner, _ in pairs)]
    texts = batch_of(
        model, [TEXTS[row] for row in rows], [[k * has_segments(model) for k in TYPES[row]] for row in rows]
    )
    inputs, mixing = mixed_inputs(model, level, texts, torch.tensor([lam for *_, lam in pairs]))
    with mixing:
        return model(**inputs).logits


def reference(model, level, row, partner=None, lam=1.0):
    texts = [(TEXTS[one], [kind * has_segments(model) for kind in TYPES[one]])
             for one in (row, partner) if one is not None]  # fmt: skip
    return logits_by_hand(model, level, *texts, **({} if partner is None else {"lam": lam}))


def references(model, level, originals=(0, 1), pairs=PAIRS):
    return torch.stack([reference(model, level, row) for row in originals]
                       + [reference(model, level, *pair) for pair in pairs])  # fmt: skip


@pytest.mark.parametrize("attention", ["sdpa", "eager", "cheap"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_originals_and_mixed_examples_are_what_each_alone_would_give(architecture, level, attention):
    model = tiny_classifier(architecture, NUM_LAYERS, attention="sdpa" if attention == "cheap" else attention)
    if attention == "cheap":
        use_cheap_dropout(model)
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
    checkpointed.activation_checkpointing_enable()
    gradients = []
    for model in (plain, checkpointed):
        run_mixed(model, 1, (0, 1), PAIRS).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_first_token_is_all_that_the_classifier_reads(architecture, attention):
    """Logits and all gradients are those of the whole network; DistilBERT is left as it is."""
    model = tiny_classifier(architecture, attention=attention)
    texts = {
        "input_ids": torch.randint(3, 32, (4, 9), generator=torch.Generator().manual_seed(0)),
        "attention_mask": (torch.arange(9) < torch.tensor([[9], [4], [1], [7]])).long(),
    }

    def logits_gradients_and_length():
        model.zero_grad()
        outputs = model(**texts, output_hidden_states=True)
        (outputs.logits**2).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return outputs.logits.detach(), gradients, outputs.hidden_states[-1].shape[1]

    logits, gradients, length = logits_gradients_and_length()
    with first_token_only(model):
        fewer_logits, fewer_gradients, fewer_length = logits_gradients_and_length()
    torch.testing.assert_close(fewer_logits, logits)
    assert fewer_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(fewer_gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    assert (length, fewer_length) == (9, 9 if architecture == "distilbert" else 1)
    assert logits_gradients_and_length()[2] == 9  # and it is undone
    with first_token_only(None):
        pass
