import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import BertForSequenceClassification

from mixkd.mixup import (
    EpochMixup,
    TokenTable,
    epoch_order,
    mix_embeddings,
    mix_labels,
    mix_masks,
    mix_token_types,
)
from mixkd.recipes import MixupSettings

PAD, CLS, SEP = 0, 2, 3


def draws(num_examples=50, seed=0, epoch=0, **changes):
    return EpochMixup(num_examples, seed, epoch, MixupSettings(**changes))


def triples(*parts):
    """Every (source, partner, lam) of some pairs, sorted: what is drawn, whatever the order and the batches."""
    return sorted(triple for pairs in parts for triple in zip(*(column.tolist() for column in pairs), strict=True))


def token_dataset(texts, types=None):
    """A tokenised data set of these ids."""
    columns = {"input_ids": texts, "attention_mask": [[1] * len(text) for text in texts]}
    return Dataset.from_dict(columns | ({} if types is None else {"token_type_ids": types}))


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
    table = TokenTable(token_dataset(texts, [TYPES[len(t)] for t in texts] if is_pair else None), PAD)
    batch = table.batch(np.arange(2), max(map(len, texts)))
    ids, mask, types = (batch[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
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


def test_mixed_numbers_of_a_regression():
    lam = torch.tensor([1.0, 0.0, 0.25])
    mixed = mix_labels(torch.tensor([0.0, 5.0, 2.0]), torch.tensor([3.0, 1.5, 4.0]), lam, 1)
    assert mixed.dtype == torch.float32 and mixed.tolist() == [0.0, 1.5, 3.5]
    assert mix_labels(torch.tensor([1]), torch.tensor([0]), torch.tensor([0.25]), 1).tolist() == [0.25]  # whole numbers


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=7), min_size=1, max_size=5), st.data())
def test_token_table_is_the_texts_padded(texts, data):
    types = [[int(i % 2) for i in text] for text in texts]
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=6))
    table = TokenTable(token_dataset(texts, types), PAD)
    length = max(len(texts[row]) for row in rows)
    batch = table.batch(np.array(rows), length)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert table.lengths.tolist() == [len(text) for text in texts]
    columns = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
    for row, ids, mask, type_ids in zip(rows, *columns, strict=True):
        missing = length - len(texts[row])
        assert ids.tolist() == texts[row] + [PAD] * missing
        assert mask.tolist() == [1] * len(texts[row]) + [0] * missing
        assert type_ids.tolist() == types[row] + [0] * missing
    assert not TokenTable(token_dataset(texts), PAD).token_type_ids.any()
    assert TokenTable(token_dataset([[7], [7, 7]]), 5).batch(np.array([0]), 2)["input_ids"].tolist() == [[7, 5]]


def test_token_table_of_a_subset_and_of_joined_data_sets():
    """Arrow keeps subsets as slices or row numbers, and joined data sets as chunks: none may shift a text."""
    from datasets import concatenate_datasets

    texts = [[7] * length + [row] for row, length in enumerate((3, 1, 4, 1, 5, 2))]
    types = [[row % 2] * len(text) for row, text in enumerate(texts)]
    whole = token_dataset(texts, types)
    for rows in ([1, 2, 3], [5, 0, 2], range(3, 6)):
        subset = whole.select(rows)
        for dataset, expected in [(subset, list(rows)), (concatenate_datasets([subset, whole]), [*rows, *range(6)])]:
            table = TokenTable(dataset, PAD)
            assert table.lengths.tolist() == [len(texts[row]) for row in expected]
            for position, row in enumerate(expected):
                batch = table.batch(np.array([position]), len(texts[row]))
                assert batch["input_ids"].tolist() == [texts[row]] and batch["token_type_ids"].tolist() == [types[row]]


# ---- the draws ----


@pytest.mark.parametrize("beta_alpha", [0.2, 0.4, 1.0, 2.0, 8.0])
def test_lam_has_beta_s_moments_and_law(beta_alpha):
    num = 20_000
    lam = draws(num, beta_alpha=beta_alpha).all.lam.astype(float)
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
        pairs = draws(num, epoch=epoch).of_rows(rows)
        counts.update(zip(pairs.source.tolist(), pairs.partner.tolist(), strict=True))
    assert set(counts) == set(itertools.permutations(range(num), 2))  # never itself
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_batch_partners_are_a_uniform_permutation_of_the_batch():
    rows, counts = np.array([41, 7, 19]), Counter()
    for epoch in range(1500):
        pairs = draws(epoch=epoch, partner="batch").of_rows(rows)
        assert pairs.source.tolist() == rows.tolist()
        counts[tuple(pairs.partner.tolist())] += 1
    assert set(counts) == set(itertools.permutations(rows.tolist()))
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_each_copy_has_its_own_batch_permutation():
    rows, different = np.arange(12), 0
    for epoch in range(20):
        pairs = draws(epoch=epoch, partner="batch", mix_ratio=2).of_rows(rows)
        partners = pairs.partner.reshape(12, 2).T  # the copies of a source follow each other
        assert np.array_equal(pairs.source, np.repeat(rows, 2))
        assert all(sorted(copy) == rows.tolist() for copy in partners)
        different += not np.array_equal(*partners)
    assert different == 20


@pytest.mark.parametrize(("ratio", "total"), [(0.3, 30), (1, 101), (1.0, 101), (2.5, 252), (0.004, 0), (3, 303)])
def test_ratio_gives_exact_counts_per_epoch(ratio, total):
    num, extra = 101, np.zeros(101)
    for epoch in range(40):
        pairs = draws(num, epoch=epoch, mix_ratio=ratio).of_rows(np.arange(num))
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
    pairs = draws(200, mix_ratio=2).of_rows(np.arange(200))
    partner, lam = pairs.partner.reshape(200, 2), pairs.lam.reshape(200, 2)
    assert (lam[:, 0] != lam[:, 1]).all() and (partner[:, 0] != partner[:, 1]).mean() > 0.9
    assert abs(np.corrcoef(lam.T)[0, 1]) < 4.5 / np.sqrt(200)


def test_lam_and_partner_are_independent():
    num = 20_000
    pairs = draws(num).of_rows(np.arange(num))
    offset = (pairs.partner - np.arange(num)) % num
    assert abs(stats.spearmanr(offset, pairs.lam).statistic) < 4.5 / np.sqrt(num)


@pytest.mark.parametrize("ratio", [0.3, 1, 2.5])
def test_lam_per_batch_is_shared_by_the_batch_and_has_beta_s_law(ratio):
    rows, seen = np.arange(10, 30), []
    for epoch in range(300):
        lam = draws(epoch=epoch, beta_alpha=0.4, lam_per="batch", mix_ratio=ratio).of_rows(rows).lam
        assert len(set(lam.tolist())) <= 1
        seen += lam[:1].tolist()
    assert len(set(seen)) > 0.9 * len(seen) > 200
    assert stats.kstest(seen, stats.beta(0.4, 0.4).cdf).pvalue > 1e-4
    assert len(set(draws().of_rows(rows).lam.tolist())) == 20  # control: per example


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(23)), st.integers(1, 23), st.sampled_from([0.3, 1.0, 2.5]))
def test_draws_do_not_depend_on_the_batch(order, batch_size, ratio):
    everything = draws(23, mix_ratio=ratio)
    fresh, parts = draws(23, mix_ratio=ratio), []
    for start in range(0, 23, batch_size):
        rows = np.array(order[start : start + batch_size])
        parts.append(fresh.of_rows(rows))
        position = {row: place for place, row in enumerate(rows.tolist())}
        places = [position[source] for source in parts[-1].source.tolist()]
        assert places == sorted(places)  # in the batch's order
    assert triples(*parts) == triples(everything.all) == triples(everything.of_rows(np.arange(23)))


def test_draws_are_a_function_of_seed_and_epoch():
    rows = np.arange(50)
    first = draws(seed=3, epoch=2).of_rows(rows)
    for again in (draws(seed=3, epoch=2).of_rows(rows), first):
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (draws(seed=3, epoch=1), draws(seed=2, epoch=2), draws(seed=2, epoch=3)):
        pairs = other.of_rows(rows)
        assert not np.array_equal(first.partner, pairs.partner) and not np.array_equal(first.lam, pairs.lam)


def test_one_example_has_no_partner():
    with pytest.raises(ValueError, match="at least 2"):
        draws(1)


# ---- mixed examples dealt to steps by length ----


def dealt(lengths, ratio=1.0, per_step=8, seed=0, epoch=0, grouped=True, **changes):
    """An epoch's draws, its order and its steps."""
    lengths = np.asarray(lengths)
    epoch_draws = draws(len(lengths), seed, epoch, mix_ratio=ratio, **changes)
    order = epoch_order(len(lengths), lengths if grouped else None, per_step, seed, epoch)
    return epoch_draws, order, epoch_draws.by_length(lengths, order, per_step)


def random_lengths(num, seed=0):
    return np.random.default_rng(seed).integers(3, 60, num)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=40),
    st.integers(1, 45),
    st.sampled_from([0.05, 0.3, 1.0, 1.5, 2.5]),
    st.integers(0, 3),
    st.booleans(),
)
def test_every_mixed_example_is_dealt_out_once_in_shares_of_the_ratio(lengths, per_step, ratio, epoch, grouped):
    """In any order of the originals, also where the longest are not in the last step, which may be a small one."""
    epoch_draws, order, steps = dealt(lengths, ratio, per_step, epoch=epoch, grouped=grouped)
    assert triples(*steps) == triples(epoch_draws.of_rows(np.arange(len(lengths))))
    originals = [len(order[start : start + per_step]) for start in range(0, len(order), per_step)]
    assert len(steps) == len(originals)
    exact = len(epoch_draws.all.source) / len(lengths)  # the ratio, up to a whole number of mixed examples
    for pairs, num_originals in zip(steps, originals, strict=True):
        assert len(pairs.source) == len(pairs.partner) == len(pairs.lam)
        assert abs(len(pairs.source) - exact * num_originals) < 1 + 1e-9


def test_the_last_step_s_share_is_as_small_as_the_step():
    """Wherever it comes in the order of lengths."""
    for epoch in range(20):
        steps = dealt(random_lengths(10), 1.0, 4, epoch=epoch, grouped=False)[2]
        assert [len(pairs.source) for pairs in steps] == [4, 4, 2]


def test_dealing_by_length_saves_padding():
    lengths = random_lengths(1003)
    epoch_draws, order, steps = dealt(lengths, per_step=16)

    def area(parts):
        """Tokens and padding of the originals, sources and partners of all steps."""
        total = 0
        for start, pairs in zip(range(0, 1003, 16), parts, strict=True):
            rows = order[start : start + 16]
            longest = lengths[np.concatenate([rows, pairs.source, pairs.partner])].max()
            total += longest * (len(rows) + len(pairs.source))
        return total

    of_rows = [epoch_draws.of_rows(order[start : start + 16]) for start in range(0, 1003, 16)]
    mixed_lengths = np.maximum(lengths[epoch_draws.all.source], lengths[epoch_draws.all.partner])
    least = lengths.sum() + mixed_lengths.sum()
    assert area(steps) < 1.2 * least < 1.5 * least < area(of_rows)
    # The longest mixed texts are where the longest originals are.
    originals = [lengths[order[start : start + 16]].max() for start in range(0, 1003, 16)]
    mixed = [np.maximum(lengths[pairs.source], lengths[pairs.partner]).mean() for pairs in steps]
    assert stats.spearmanr(originals, mixed).statistic > 0.99


def test_dealing_is_a_function_of_seed_and_epoch():
    lengths = random_lengths(60)

    def content(seed, epoch):
        return [triples(pairs) for pairs in dealt(lengths, 1.5, seed=seed, epoch=epoch)[2]]

    first = content(3, 2)
    assert content(3, 2) == first
    epoch_draws, order, steps = dealt(lengths, 1.5, seed=3, epoch=2)
    again = epoch_draws.by_length(lengths, order, 8)  # a second call, and one after other calls, deals the same
    assert [triples(pairs) for pairs in again] == [triples(pairs) for pairs in steps] == first
    assert all(content(*other) != first for other in [(3, 1), (2, 2), (2, 3)])


def test_only_length_decides_in_which_step_a_mixed_example_is_met():
    """Of texts of one length every mixed example is as likely in every step, whatever its row, partner or lam."""
    counts, firsts, slopes = Counter(), [], []
    for epoch in range(300):
        _, _, steps = dealt([5] * 24, per_step=8, epoch=epoch)
        place = {source: step for step, pairs in enumerate(steps) for source in pairs.source.tolist()}
        counts.update((source, place[source]) for source in (0, 11, 23))
        firsts.append(place[0] == place[1])
        step_of = np.repeat(np.arange(3), 8)
        slopes.append(stats.pearsonr(step_of, np.concatenate([pairs.lam for pairs in steps])).statistic)
    for source in (0, 11, 23):
        assert stats.chisquare([counts[source, step] for step in range(3)]).pvalue > 1e-4
    assert abs(np.mean(firsts) - 7 / 23) < 4.5 * np.sqrt(7 / 23 * 16 / 23 / 300)  # neighbours are not kept together
    assert abs(np.mean(slopes)) < 4.5 / np.sqrt(300 * 23)


@pytest.mark.parametrize("beta_alpha", [0.4, 1.0])
def test_dealing_leaves_the_law_of_lam_and_partner_as_it_is(beta_alpha):
    """Within a step, too: the coefficient knows nothing of the step."""
    lengths = random_lengths(4000)
    _, _, steps = dealt(lengths, per_step=800, beta_alpha=beta_alpha)
    for pairs in steps:
        quantiles = stats.beta(beta_alpha, beta_alpha).cdf(pairs.lam.astype(float))
        assert stats.kstest(quantiles, "uniform").pvalue > 1e-4
        assert len(pairs.lam) == 800
    everything = triples(*steps)
    offsets = [(partner - source) % 4000 for source, partner, _ in everything]
    assert stats.kstest(np.array(offsets) / 4000, "uniform").pvalue > 1e-4 and min(offsets) >= 1
