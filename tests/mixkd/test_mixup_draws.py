"""Which examples are mixed with which, by how much, and in which step."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mixkd.mixup import (
    EpochMixup,
    epoch_order,
)
from mixkd.recipes import MixupSettings


def draws(num_examples=50, seed=0, epoch=0, **changes):
    return EpochMixup(num_examples, seed, epoch, MixupSettings(**changes))


def triples(*parts):
    """Every (source, partner, lam) of some pairs, sorted: what is drawn, whatever the order and the batches."""
    return sorted(triple for pairs in parts for triple in zip(*(column.tolist() for column in pairs), strict=True))


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
