"""Pairs against a search through all of them."""

import itertools

import numpy as np
import pandas as pd
import pytest

from reports.pairs import matched


def by_hand(runs):
    """Of all pairs of a seed: one machine before two, then fewest repeats, then the machine's name; never a repeat of
    another machine's pair.
    """
    found = {}
    for seed, own in runs.groupby("seed"):
        arms, references = (own[own["recipe"] == name].to_dict("records") for name in ("a", "b"))
        pairs = [
            (one["machine"] != other["machine"], "x" in (one["repeat"], other["repeat"]), one["machine"], one, other)
            for one, other in itertools.product(arms, references)
        ]
        pairs = [pair for pair in pairs if not (pair[0] and pair[1])]
        if pairs:
            apart, repeated, _, one, other = min(pairs, key=lambda pair: pair[:3])
            found[seed] = [one["score"], other["score"], float(apart), float(repeated)]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_pairs_are_of_one_machine_where_they_can_be(seed):
    rng = np.random.default_rng(seed)
    rows = []
    for number, recipe in itertools.product(range(12), ("a", "b", "c")):
        for repeat in ("", "x") if rng.random() < 0.5 else ("",):
            if repeat or rng.random() < 0.9:
                rows.append((number, recipe, "MN"[rng.integers(2)], repeat, rng.random()))
    runs = pd.DataFrame(rows, columns=["seed", "recipe", "machine", "repeat", "score"])
    runs = runs.drop_duplicates(["seed", "recipe", "machine"])  # the repeats of a machine's own runs are not read
    runs = runs.sample(frac=1, random_state=seed)
    found = matched(runs, ["seed"], "recipe", ("a", "b"), "score")
    assert {key: list(row) for key, row in zip(found.index, found.to_numpy(), strict=True)} == by_hand(runs)
    assert list(found.columns) == ["a", "b", "apart", "repeated"] and found.index.is_monotonic_increasing


def test_nothing_pairs_with_nothing():
    runs = pd.DataFrame({"seed": [1], "recipe": ["a"], "machine": ["M"], "repeat": [""], "score": [0.5]})
    assert matched(runs, ["seed"], "recipe", ("a", "b"), "score").empty
    assert matched(runs[:0], ["seed"], "recipe", ("a", "b"), "score").empty
