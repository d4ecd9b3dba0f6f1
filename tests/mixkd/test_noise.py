import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkd.noise import case_noise, drop_words, typos

KINDS = [typos, case_noise]
# Letters with and without neighbours on a QWERTY keyboard, marks, digits, and white space of several kinds.
TEXTS = st.text(st.sampled_from("abcxyzABZéÉßñ日1.'-# \t\n\xa0"), max_size=40)
SENTENCE = "The quick brown fox doesn't jump over 13 lazy dogs, does it?"


def noisy(kind, texts, rate, seed=0):
    return kind(texts, rate, np.random.default_rng(seed))


def num_letters(word):
    return sum(character.isalpha() for character in word)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(TEXTS), seed=st.integers(0, 9))
def test_rate_zero_is_the_identity(kind, texts, seed):
    assert noisy(kind, texts, 0, seed) == texts


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(TEXTS, min_size=1), rate=st.sampled_from([0.1, 0.5, 1.0]), seed=st.integers(0, 9))
def test_a_texts_noise_does_not_depend_on_the_other_texts(kind, texts, rate, seed):
    together = noisy(kind, texts, rate, seed)
    assert together == [noisy(kind, [text], rate, seed)[0] for text in texts]
    assert noisy(kind, texts[::-1], rate, seed) == together[::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_or_text_gives_other_noise(kind):
    texts = [f"{SENTENCE} {n}" for n in range(50)]
    first = noisy(kind, texts, 0.3)
    assert first == noisy(kind, texts, 0.3)
    assert sum(a == b for a, b in zip(first, noisy(kind, texts, 0.3, seed=1), strict=True)) < 10
    assert len({text.rpartition(" ")[0] for text in first}) > 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_is_a_probability(kind, rate):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        noisy(kind, ["a"], rate)


@pytest.mark.parametrize("kind", KINDS)
def test_no_texts_and_empty_texts(kind):
    assert noisy(kind, [], 1) == []
    assert noisy(kind, ["", " \n", "!? 12", "日"], 1)[:2] == ["", " \n"]


@given(text=TEXTS, seed=st.integers(0, 9))
def test_typos_at_rate_one_change_every_word_of_two_letters_and_nothing_else(text, seed):
    (changed,) = noisy(typos, [text], 1, seed)
    words, new_words = text.split(), changed.split()
    assert len(words) == len(new_words)
    assert [c for c in changed if c.isspace()] == [c for c in text if c.isspace()]
    for old, new in zip(words, new_words, strict=True):
        assert (old != new) == (num_letters(old) >= 2)
        assert abs(len(old) - len(new)) <= 1
        assert [c for c in old if not c.isalpha()] == [c for c in new if not c.isalpha()]


# The rows of a QWERTY keyboard; each is shifted by about half a key against the one above it.
ROWS = ["qwertyuiop", "asdfghjkl", "zxcvbnm"]
PLACES = {
    key: (x + shift, y)
    for y, (row, shift) in enumerate(zip(ROWS, (0, 0.25, 0.75), strict=True))
    for x, key in enumerate(row)
}


def kinds_of_typo(old, new):
    """What may have made `new` of `old`, by brute force."""
    kinds = set()
    for i, letter in enumerate(old):
        before, after = old[:i], old[i + 1 :]
        if new == before + after:
            kinds.add("delete")
        if new == before + letter * 2 + after:
            kinds.add("double")
        if after and new == before + after[0] + letter + after[1:]:
            kinds.add("swap")
        if len(new) == len(old) and new[:i] == before and new[i + 1 :] == after:
            (x, y), (u, v) = PLACES[letter.lower()], PLACES[new[i].lower()]
            if 0 < (x - u) ** 2 + (y - v) ** 2 < 2.3 and new[i].isupper() == letter.isupper():
                kinds.add("replace")
    return kinds


def test_each_typo_is_one_of_four_equally_frequent_mistakes():
    words = ["planet", "QWERTY", "mixup", "Zebra", "oak"]
    counts = Counter()
    for seed in range(400):
        for old, new in zip(words, noisy(typos, words, 1, seed), strict=True):
            (kind,) = kinds_of_typo(old, new)
            counts[kind] += 1
    # 2000 words: 500 of each kind with a standard deviation of 19.4.
    assert len(counts) == 4 and all(abs(count - 500) < 5 * 19.4 for count in counts.values()), counts


def test_every_letter_is_replaced_by_each_of_its_neighbours_on_the_keyboard():
    for letter, (x, y) in PLACES.items():
        typed = {noisy(typos, [f"{letter}日"], 1, seed)[0] for seed in range(300)}
        found = {new[0] for new in typed if len(new) == 2 and new[1] == "日"}
        assert found == {key for key, (u, v) in PLACES.items() if abs(y - v) <= 1 and 0 < abs(x - u) <= 1}, letter


def test_typos_hit_words_at_their_rate():
    words = " ".join(["letters"] * 10_000)
    changed = sum(word != "letters" for word in noisy(typos, [words], 0.1)[0].split())
    assert abs(changed - 1000) < 5 * 30  # the standard deviation is 30


def test_a_long_word_takes_no_long_time():
    assert len(noisy(typos, ["ab" * 200_000], 1)[0]) in range(399_999, 400_002)


@given(text=TEXTS, seed=st.integers(0, 9))
def test_case_noise_at_rate_one_changes_the_case_of_every_word_and_nothing_else(text, seed):
    (changed,) = noisy(case_noise, [text], 1, seed)
    assert changed.casefold() == text.casefold()
    assert [c for c in changed if c.isspace()] == [c for c in text if c.isspace()]
    for old, new in zip(text.split(), changed.split(), strict=True):
        assert (old != new) == (old.upper() != old.lower())


def test_case_noise_draws_from_what_changes_the_word():
    outcomes = Counter(new for seed in range(600) for new in noisy(case_noise, ["'Fox"], 1, seed))
    assert set(outcomes) == {"'FOX", "'fox"}  # to flip the first letter is to put it in small letters
    assert abs(outcomes["'FOX"] - 200) < 5 * 11.5
    outcomes = Counter(new for seed in range(600) for new in noisy(case_noise, ["foX"], 1, seed))
    assert set(outcomes) == {"FOX", "fox", "FoX"} and min(outcomes.values()) > 200 - 5 * 11.5


@given(text=TEXTS, rate=st.floats(0, 1), seed=st.integers(0, 9))
def test_word_dropout_keeps_some_words_in_their_order(text, rate, seed):
    kept, words = drop_words(text, rate, random.Random(seed)), text.split()
    rest = iter(words)
    assert all(word in rest for word in kept.split())
    assert bool(kept.split()) == bool(words)
    assert kept == text or (kept == " ".join(kept.split()) and len(kept.split()) < len(words))
    if rate == 1 and words:
        assert len(kept.split()) == 1


def test_word_dropout_drops_each_word_at_its_rate_and_leaves_each_alone_as_often():
    words = [str(n) for n in range(10_000)]
    kept = drop_words(" ".join(words), 0.3, random.Random(0)).split()
    assert abs(len(kept) - 7000) < 5 * 46
    alone = Counter(drop_words("a b c", 1, random.Random(seed)) for seed in range(900))
    assert set(alone) == set("abc") and all(abs(count - 300) < 5 * 14.1 for count in alone.values())
