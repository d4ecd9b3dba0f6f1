import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import BertForSequenceClassification

from mixkd.mixup import EpochMixup, TokenTable, mix_embeddings, mix_labels, mix_masks, mix_token_types
from mixkd.recipes import MixupSettings

PAD, CLS, SEP = 0, 2, 3


def draws(num_examples=50, seed=0, epoch=0, **changes):
    return EpochMixup(num_examples, seed, epoch, MixupSettings(**changes))


def by_source(pairs, rows):
    """Row of the training set -> its (partner, lam), sorted."""
    found = {int(row): [] for row in rows}
    for source, partner, lam in zip(pairs.source, pairs.partner, pairs.lam, strict=True):
        found[int(rows[source])].append((int(partner), float(lam)))
    return {row: sorted(values) for row, values in found.items()}


# ---- the mixed tensors ----

LONG = [CLS, 5, 6, 7, SEP, 8, 9, SEP]  # a pair
SHORT = [CLS, 10, SEP, 11, SEP]
SAME = [CLS, 10, 11, 12, SEP, 13, 14, SEP]
TYPES = {8: [0] * 5 + [1] * 3, 5: [0] * 3 + [1] * 2}


@pytest.fixture(scope="module")
def model():
    from tiny import tiny_config

    torch.manual_seed(0)
    return BertForSequenceClassification(tiny_config()).eval()


def mixed_inputs(model, text, partner, lam, is_pair=True):
    """The mixed example of two texts, put together from the functions under test."""
    texts = [text, partner]
    table = TokenTable(texts, [TYPES[len(t)] for t in texts] if is_pair else None, PAD)
    ids, mask, types = table.batch(np.arange(2), max(map(len, texts)))
    embeddings = model.get_input_embeddings()(ids)
    return {
        "inputs_embeds": mix_embeddings(embeddings[:1], embeddings[1:], torch.tensor([lam])),
        "attention_mask": mix_masks(mask[:1], mask[1:]),
        "token_type_ids": mix_token_types(types[:1], types[1:], mask[:1], mask[1:]),
    }


def plain_inputs(text, is_pair=True):
    types = TYPES[len(text)] if is_pair else [0] * len(text)
    ids = torch.tensor([text])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.tensor([types])}


@pytest.mark.parametrize("is_pair", [False, True])
@pytest.mark.parametrize(("lam", "text", "partner"), [(1.0, LONG, SHORT), (1.0, LONG, SAME), (0.0, SHORT, LONG)])
def test_lam_of_one_or_zero_is_the_original_through_the_whole_forward(model, lam, text, partner, is_pair):
    original = text if lam == 1 else partner
    mixed, plain = mixed_inputs(model, text, partner, lam, is_pair), plain_inputs(original, is_pair)
    assert torch.equal(mixed["inputs_embeds"], model.get_input_embeddings()(plain["input_ids"]))
    assert torch.equal(mixed["attention_mask"], plain["attention_mask"])
    assert torch.equal(mixed["token_type_ids"], plain["token_type_ids"])
    with torch.inference_mode():
        assert torch.equal(model(**mixed).logits, model(**plain).logits)
        between = model(**mixed_inputs(model, text, partner, 0.5, is_pair)).logits
        assert not torch.allclose(between, model(**plain).logits, atol=1e-3)  # control: lam matters


def test_inputs_embeds_are_input_ids_in_eval_mode(model):
    inputs = plain_inputs(LONG)
    with torch.inference_mode():
        expected = model(**inputs).logits
        embeddings = model.get_input_embeddings()(inputs.pop("input_ids"))
        assert torch.equal(model(inputs_embeds=embeddings, **inputs).logits, expected)


@pytest.mark.parametrize(("text", "partner"), [(LONG, SHORT), (SHORT, LONG)])
def test_the_shorter_text_goes_on_as_padding_and_the_longer_gives_mask_and_segments(model, text, partner):
    lam = 0.3
    mixed = mixed_inputs(model, text, partner, lam)
    table = model.get_input_embeddings().weight.detach().double().numpy()
    for position in range(len(LONG)):
        first, second = (t[position] if position < len(t) else PAD for t in (text, partner))
        expected = lam * table[first] + (1 - lam) * table[second]
        np.testing.assert_allclose(mixed["inputs_embeds"][0, position].detach(), expected, rtol=1e-6, atol=1e-7)
    assert mixed["attention_mask"].tolist() == [[1] * len(LONG)]
    assert mixed["token_type_ids"].tolist() == [TYPES[len(LONG)]]


def test_masks_are_united_and_equally_long_texts_keep_the_source_s_segments():
    mask, other = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    assert mix_masks(mask, other).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    types, other_types = torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 1]])
    full = torch.ones(1, 3, dtype=torch.int64)
    assert mix_token_types(types, other_types, full, full).tolist() == [[0, 1, 1]]


unit = st.floats(0, 1, width=32)
values = st.floats(-100, 100, width=32)


@given(unit, st.lists(st.tuples(values, values), min_size=1, max_size=6))
def test_mixed_embeddings_lie_between_and_are_symmetric(lam, columns):
    first, second = (torch.tensor(column).reshape(1, -1, 1) for column in zip(*columns, strict=True))
    mixed = mix_embeddings(first, second, torch.tensor([lam]))
    margin = 1e-5 * (1 + torch.maximum(first.abs(), second.abs()))
    assert (mixed >= torch.minimum(first, second) - margin).all()
    assert (mixed <= torch.maximum(first, second) + margin).all()
    torch.testing.assert_close(mixed.double(), lam * first.double() + (1 - lam) * second.double(), rtol=1e-5, atol=1e-4)
    mirrored = mix_embeddings(second, first, torch.tensor([1 - lam], dtype=torch.float32))
    torch.testing.assert_close(mixed, mirrored, rtol=1e-4, atol=1e-3)


def test_mixed_embeddings_keep_the_dtype_and_are_exact_at_one_in_bf16():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(3, 5, 8, generator=generator).bfloat16() for _ in range(2))
    mixed = mix_embeddings(first, second, torch.tensor([1.0, 0.0, 0.25]))
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed[0], first[0]) and torch.equal(mixed[1], second[1])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), unit), min_size=1, max_size=8))
def test_mixed_labels(examples):
    labels, partners, lam = zip(*examples, strict=True)
    mixed = mix_labels(torch.tensor(labels), torch.tensor(partners), torch.tensor(lam), 4)
    assert mixed.dtype == torch.float32 and mixed.shape == (len(examples), 4)
    expected = np.zeros((len(examples), 4))
    for row, (label, partner, weight) in enumerate(examples):
        expected[row, label] += weight
        expected[row, partner] += 1 - weight
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-6)


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=7), min_size=1, max_size=5), st.data())
def test_token_table_is_the_texts_padded(texts, data):
    types = [[int(i % 2) for i in text] for text in texts]
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=6))
    table = TokenTable.from_columns({"input_ids": texts, "token_type_ids": types}, PAD)
    length = max(len(texts[row]) for row in rows)
    batch = table.batch(np.array(rows), length)
    assert all(tensor.dtype == torch.int64 for tensor in batch)
    for row, ids, mask, type_ids in zip(rows, *batch, strict=True):
        missing = length - len(texts[row])
        assert ids.tolist() == texts[row] + [PAD] * missing
        assert mask.tolist() == [1] * len(texts[row]) + [0] * missing
        assert type_ids.tolist() == types[row] + [0] * missing
    assert not TokenTable.from_columns({"input_ids": texts}, PAD).token_type_ids.any()
    assert TokenTable([[7], [7, 7]], None, 5).batch(np.array([0]), 2)[0].tolist() == [[7, 5]]


# ---- the draws ----


@pytest.mark.parametrize("beta_alpha", [0.2, 0.4, 1.0, 2.0, 8.0])
def test_lam_has_beta_s_moments_and_law(beta_alpha):
    num = 20_000
    lam = draws(num, beta_alpha=beta_alpha).pairs(np.arange(num)).lam.astype(float)
    assert lam.min() >= 0 and lam.max() <= 1
    variance = 1 / (4 * (2 * beta_alpha + 1))
    assert abs(lam.mean() - 0.5) < 4.5 * np.sqrt(variance / num)
    fourth = stats.beta(beta_alpha, beta_alpha).expect(lambda x: (x - 0.5) ** 4)
    assert abs(((lam - 0.5) ** 2).mean() - variance) < 4.5 * np.sqrt((fourth - variance**2) / num)

    def p_value(parameter):  # bins and not a KS test: float32 rounds many values of a small a to exactly 1
        edges = stats.beta(parameter, parameter).ppf(np.linspace(0, 1, 11))
        edges[[0, -1]] = -1, 2
        return stats.chisquare(np.histogram(lam, edges)[0]).pvalue

    assert p_value(beta_alpha) > 1e-4
    assert p_value(1.3 * beta_alpha) < 1e-4  # control


def test_uniform_partner_is_any_other_example():
    num, counts = 5, Counter()
    rows = np.arange(num)
    for epoch in range(2000):
        pairs = draws(num, epoch=epoch).pairs(rows)
        counts.update(zip(rows[pairs.source].tolist(), pairs.partner.tolist(), strict=True))
    assert set(counts) == set(itertools.permutations(range(num), 2))  # never itself
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_batch_partners_are_a_uniform_permutation_of_the_batch():
    rows, counts = np.array([41, 7, 19]), Counter()
    for epoch in range(1500):
        pairs = draws(epoch=epoch, partner="batch").pairs(rows)
        assert pairs.source.tolist() == [0, 1, 2]
        counts[tuple(pairs.partner.tolist())] += 1
    assert set(counts) == set(itertools.permutations(rows.tolist()))
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_each_copy_has_its_own_batch_permutation():
    rows, different = np.arange(12), 0
    for epoch in range(20):
        pairs = draws(epoch=epoch, partner="batch", mix_ratio=2).pairs(rows)
        partners = pairs.partner.reshape(12, 2).T  # the copies of a source follow each other
        assert np.array_equal(pairs.source, np.repeat(rows, 2))
        assert all(sorted(copy) == rows.tolist() for copy in partners)
        different += not np.array_equal(*partners)
    assert different == 20


@pytest.mark.parametrize(("ratio", "total"), [(0.3, 30), (1, 101), (1.0, 101), (2.5, 252), (0.004, 0), (3, 303)])
def test_ratio_gives_exact_counts_per_epoch(ratio, total):
    num, extra = 101, np.zeros(101)
    for epoch in range(40):
        pairs = draws(num, epoch=epoch, mix_ratio=ratio).pairs(np.arange(num))
        copies = np.bincount(pairs.source, minlength=num)
        assert copies.sum() == len(pairs.partner) == len(pairs.lam) == total
        assert set(copies) <= {int(ratio), int(ratio) + 1}
        extra += copies - int(ratio)
    share = (total - int(ratio) * num) / num
    if share:  # every example is chosen as often as any other, up to chance
        assert stats.chisquare(extra).pvalue > 1e-4
        assert extra.std() > 0
    assert extra.sum() == 40 * (total - int(ratio) * num)


def test_copies_of_one_source_differ():
    pairs = draws(200, mix_ratio=2).pairs(np.arange(200))
    partner, lam = pairs.partner.reshape(200, 2), pairs.lam.reshape(200, 2)
    assert (lam[:, 0] != lam[:, 1]).all() and (partner[:, 0] != partner[:, 1]).mean() > 0.9
    assert abs(np.corrcoef(lam.T)[0, 1]) < 4.5 / np.sqrt(200)


def test_lam_and_partner_are_independent():
    num = 20_000
    pairs = draws(num).pairs(np.arange(num))
    offset = (pairs.partner - np.arange(num)) % num
    assert abs(stats.spearmanr(offset, pairs.lam).statistic) < 4.5 / np.sqrt(num)


@pytest.mark.parametrize("ratio", [0.3, 1, 2.5])
def test_lam_per_batch_is_shared_by_the_batch_and_has_beta_s_law(ratio):
    rows, seen = np.arange(10, 30), []
    for epoch in range(300):
        lam = draws(epoch=epoch, beta_alpha=0.4, lam_per="batch", mix_ratio=ratio).pairs(rows).lam
        assert len(set(lam.tolist())) <= 1
        seen += lam[:1].tolist()
    assert len(set(seen)) > 0.9 * len(seen) > 200
    assert stats.kstest(seen, stats.beta(0.4, 0.4).cdf).pvalue > 1e-4
    assert len(set(draws().pairs(rows).lam.tolist())) == 20  # control: per example


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(23)), st.integers(1, 23), st.sampled_from([0.3, 1.0, 2.5]))
def test_draws_do_not_depend_on_the_batch(order, batch_size, ratio):
    everything = np.arange(23)
    expected = by_source(draws(23, mix_ratio=ratio).pairs(everything), everything)
    found, fresh = {}, draws(23, mix_ratio=ratio)
    for start in range(0, 23, batch_size):
        rows = np.array(order[start : start + batch_size])
        found |= by_source(fresh.pairs(rows), rows)
    assert found == expected


def test_draws_are_a_function_of_seed_and_epoch():
    rows = np.arange(50)
    first = draws(seed=3, epoch=2).pairs(rows)
    for again in (draws(seed=3, epoch=2).pairs(rows), first):
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (draws(seed=3, epoch=1), draws(seed=2, epoch=2), draws(seed=2, epoch=3)):
        pairs = other.pairs(rows)
        assert not np.array_equal(first.partner, pairs.partner) and not np.array_equal(first.lam, pairs.lam)


def test_one_example_has_no_partner():
    with pytest.raises(ValueError, match="at least 2"):
        draws(1)
