"""Mistakes that people make, put into texts: typing errors, wrong case, lost words.

Used to measure how a model stands noise, and by `mixkd.augment` for word dropout. A word is a run of characters
without white space; white space stays as it is. What becomes of a text depends on the text, the rate and one number
drawn from `rng` per call, never on the other texts: equal texts get equal noise, and a text gets the same noise in
every order and subset. Python guarantees the sequence of `random.Random.random`, which all choices are made with.
"""

import random
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

_Item = TypeVar("_Item")

#: Letter -> letters around it on a QWERTY keyboard: beside it, and above and below it in the shifted rows.
_KEYBOARD = dict(
    a="qwsz", b="vghn", c="xdfv", d="sercfx", e="wsdr", f="drtgvc", g="ftyhbv", h="gyujnb", i="ujko", j="huikmn",
    k="jiolm", l="kop", m="njk", n="bhjm", o="iklp", p="ol", q="wa", r="edft", s="awedxz", t="rfgy", u="yhji",
    v="cfgb", w="qase", x="zsdc", y="tghu", z="asx",
)  # fmt: skip


def typos(texts: Sequence[str], rate: float, rng: np.random.Generator) -> list[str]:
    """Texts in which each word of two letters or more is mistyped, once, with probability `rate`.

    A mistyped word has two neighbouring letters swapped, a letter missing, a letter doubled, or a letter replaced by a
    neighbour on the QWERTY keyboard (in the letter's case). The kind is drawn uniformly from those that can change
    the word (no swap in "aa", no replacement in "éé"), then the place. So rate 1 changes every such word, and the
    number of words never changes. Digits and punctuation stay.

    Args:
        texts: Texts, any number.
        rate: Probability in [0, 1].
        rng: One number is drawn from it.

    Raises:
        ValueError: If the rate is not in [0, 1].
    """
    return _each(lambda text, rate, draw: _each_word(_mistype, text, rate, draw), texts, rate, rng)


def case_noise(texts: Sequence[str], rate: float, rng: np.random.Generator) -> list[str]:
    """Texts in which each word has the wrong case with probability `rate`.

    Such a word is put in capitals, put in small letters, or has the case of its first letter flipped: drawn uniformly
    from those of the three that change it. So rate 1 changes every word that has a letter with two cases.

    Args:
        texts: Texts, any number.
        rate: Probability in [0, 1].
        rng: One number is drawn from it.

    Raises:
        ValueError: If the rate is not in [0, 1].
    """
    return _each(lambda text, rate, draw: _each_word(_change_case, text, rate, draw), texts, rate, rng)


def drop_words(text: str, rate: float, draw: random.Random) -> str:
    """The text without some of its words: each is dropped with probability `rate`, but one always stays.

    Where all would go, one of them, drawn uniformly, stays. What is left is joined by single spaces; a text that
    loses nothing is returned as it is.
    """
    words = text.split()
    kept = [word for word in words if draw.random() >= rate] or (words and [_pick(words, draw)])
    return text if len(kept) == len(words) else " ".join(kept)


def _each(
    spoil: Callable[[str, float, random.Random], str], texts: Sequence[str], rate: float, rng: np.random.Generator
) -> list[str]:
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate of noise must be in [0, 1], not {rate}")
    key = int(rng.integers(2**63))
    return [spoil(text, rate, random.Random(f"{key} {text}")) for text in texts]


def _each_word(change: Callable[[str, random.Random], str], text: str, rate: float, draw: random.Random) -> str:
    return re.sub(r"\S+", lambda word: change(word[0], draw) if draw.random() < rate else word[0], text)


def _pick(options: Sequence[_Item], draw: random.Random) -> _Item:
    return options[int(draw.random() * len(options))]


def _mistype(word: str, draw: random.Random) -> str:
    letters = [i for i, character in enumerate(word) if character.isalpha()]
    if len(letters) < 2:
        return word
    swaps = [i for i in letters if word[i + 1 : i + 2].isalpha() and word[i] != word[i + 1]]
    keys = [i for i in letters if word[i].lower() in _KEYBOARD]
    kind = _pick(["delete", "double", *["swap"] * bool(swaps), *["replace"] * bool(keys)], draw)
    i = _pick({"swap": swaps, "replace": keys}.get(kind, letters), draw)
    before, letter, after = word[:i], word[i], word[i + 1 :]
    if kind == "delete":
        return before + after
    if kind == "double":
        return before + letter + letter + after
    if kind == "swap":
        return before + after[0] + letter + after[1:]
    key = _pick(_KEYBOARD[letter.lower()], draw)
    return before + (key.upper() if letter.isupper() else key) + after


def _change_case(word: str, draw: random.Random) -> str:
    first = next((i for i, character in enumerate(word) if character.swapcase() != character), 0)
    flipped = word[:first] + word[first].swapcase() + word[first + 1 :]
    options = [option for option in (word.upper(), word.lower(), flipped) if option != word]
    return _pick(options, draw) if options else word
