"""Pairs against a search through all of them, and what is told of them."""

import itertools

import numpy as np
import pandas as pd
import pytest

from reports.pairs import against, contrasts, matched

COLUMNS = ["seed", "recipe", "machine", "repeat", "score", "teacher_test_score"]


def runs_of(*rows):
    return pd.DataFrame(rows, columns=COLUMNS)


def by_hand(runs):
    """Of all pairs of a seed: one machine before two, then fewest repeats, then the machine's name; a repeat pairs with
    nothing on another machine, nor with a first run of another teacher.
    """
    found = {}
    for seed, own in runs.groupby("seed"):
        arms, references = (own[own["recipe"] == name].to_dict("records") for name in ("a", "b"))
        pairs = []
        for one, other in itertools.product(arms, references):
            num_repeats = (one["repeat"] != "") + (other["repeat"] != "")
            is_apart = one["machine"] != other["machine"]
            is_of_two_teachers = num_repeats == 1 and one["teacher_test_score"] != other["teacher_test_score"]
            if not (is_apart and num_repeats) and not is_of_two_teachers:
                pairs.append((is_apart, num_repeats, one["machine"], one, other))
        if pairs:
            is_apart, num_repeats, _, one, other = min(pairs, key=lambda pair: pair[:3])
            found[seed] = [one["score"], other["score"], float(is_apart), float(num_repeats)]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_pairs_are_of_one_machine_where_they_can_be(seed):
    rng = np.random.default_rng(seed)
    rows = []
    for number, recipe in itertools.product(range(20), ("a", "b", "c")):
        for repeat in ("", "x", "y"):
            if rng.random() < 0.7:
                row = (number, recipe, "MNO"[rng.integers(3)], repeat, rng.random(), 0.1 * rng.integers(8, 10))
                rows.append(row)
    runs = runs_of(*rows).drop_duplicates(["seed", "recipe", "machine"])  # the first run before its repeats
    found = matched(runs.sample(frac=1, random_state=seed), ["seed"], "recipe", ("a", "b"), "score")
    assert {key: list(row) for key, row in zip(found.index, found.to_numpy(), strict=True)} == by_hand(runs)
    assert list(found.columns) == ["a", "b", "apart", "repeats"] and found.index.is_monotonic_increasing
    assert {(0, 0), (1, 0), (0, 1), (0, 2)} >= set(zip(found["apart"], found["repeats"], strict=True))


def test_nothing_pairs_with_nothing():
    runs = runs_of((1, "a", "M", "", 0.5, 0.9))
    assert matched(runs, ["seed"], "recipe", ("a", "b"), "score").empty
    assert matched(runs[:0], ["seed"], "recipe", ("a", "b"), "score").empty
    nothing = contrasts(matched(runs, ["repeat", "seed"], "recipe", ("a", "b"), "score"), ["repeat"])
    assert nothing.empty and set(nothing.dtypes[["effect", "low", "high"]]) == {np.dtype(float)}


def test_every_arm_is_held_against_the_same_references():
    arms = runs_of(*((seed, recipe, "M", "", seed + gain, 0.9) for seed in (0, 1) for recipe, gain in RECIPES.items()))
    moved = arms.assign(machine=["M" if recipe == "sm" else "N" for recipe in arms["recipe"]])
    references = runs_of(*((seed, "kd", "M", "", float(seed), 0.9) for seed in (0, 1)))
    found = contrasts(against(moved, references, "recipe", ["seed"], "score"), ["recipe"]).set_index("recipe")
    assert list(found.index) == list(RECIPES)  # in their usual order, not the alphabet's
    assert found["effect"].to_dict() == pytest.approx(RECIPES)
    assert found["num_apart"].to_dict() == {"ft": 2, "sm": 0, "distilbert+bt": 2}
    assert found["seeds"].map(len).eq(2).all()


#: Recipe -> by how much its runs score more than the reference.
RECIPES = {"ft": 0.25, "sm": 0.5, "distilbert+bt": 1.0}
