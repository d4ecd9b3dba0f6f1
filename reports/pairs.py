"""Pairs of runs, of one machine where they can be (machines do not compute alike), and the contrasts between them."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from reports.statistics import mean_estimate
from reports.wording import RECIPES

#: Columns of a contrast, after its keys.
CONTRAST = ["effect", "low", "high", "num_seeds", "seeds", "num_apart"]

#: Machine and side -> of every such run its value, whether it is a repeat, and its teacher's test score.
_Kinds = dict[tuple[str, Any], list[tuple[float, bool, float]]]


def matched(
    runs: pd.DataFrame, keys: Sequence[str], compared: str, names: tuple[str, str], measure: str
) -> pd.DataFrame:
    """Pairs of runs that differ in one column.

    A pair is of one machine if there is such a one among runs and repeats: of those, the one with fewest repeats, and
    then of the first machine by name. Otherwise its runs are the first ones, wherever they are from. A run and a repeat
    that have different teachers are no pair: the repeat's was trained anew.

    Args:
        runs: Runs and repeats, see `Evidence.all_runs`.
        keys: Columns in which the runs of a pair agree; the index of the pairs.
        compared: Column in which they differ.
        names: Its values for arm and reference.
        measure: Column of the values; several runs of one kind count by their mean.

    Returns:
        One row per pair: the columns `names`, `apart` (1 where its runs are from different machines) and `repeats` (how
        many of the two are repeats).
    """
    runs = runs.loc[runs[compared].isin(names), _columns([*keys, compared], measure)].dropna(subset=[*keys, measure])
    runs = runs.assign(is_repeat=runs["repeat"] != "")
    columns = [runs[name].tolist() for name in (*keys, "machine", compared, measure, "is_repeat", "teacher_test_score")]
    kinds: dict[tuple[Any, ...], _Kinds] = {}  # pandas takes twice as long, and the report asks sixty times
    for *key, machine, side, value, is_repeat, teacher in zip(*columns, strict=True):
        of_kind = kinds.setdefault(tuple(key), {}).setdefault((machine, side), [])
        of_kind.append((value, is_repeat, teacher))
    pairs = {key: pair for key, of_key in kinds.items() if (pair := _pair(of_key, names))}
    rows = [(*key, *pair) for key, pair in pairs.items()]
    return pd.DataFrame(rows, columns=[*keys, *names, "apart", "repeats"]).set_index([*keys]).sort_index()


def _pair(kinds: _Kinds, names: tuple[str, str]) -> tuple[float, ...] | None:
    """Of the runs of one key, the values of arm and reference, `apart` and `repeats`, as `matched` has them."""
    alike = []
    for machine in sorted({machine for machine, _ in kinds}):
        arm, reference = (kinds.get((machine, name)) for name in names)
        if arm and reference:
            (value, is_repeat, teacher), (other_value, is_other_repeat, other_teacher) = _mean(arm), _mean(reference)
            repeats = is_repeat + is_other_repeat
            if repeats != 1 or not abs(teacher - other_teacher) > 0:
                alike.append((value, other_value, 0.0, repeats))
    if alike:
        return min(alike, key=lambda pair: pair[-1])
    firsts = [
        [value for (_, side), runs in kinds.items() if side == name for value, is_repeat, _ in runs if not is_repeat]
        for name in names
    ]
    return (*map(fmean, firsts), 1.0, 0.0) if all(firsts) else None


def _mean(runs: list[tuple[float, bool, float]]) -> list[float]:
    return [sum(values) / len(runs) for values in zip(*runs, strict=True)]


def against(arms: pd.DataFrame, references: pd.DataFrame, by: str, keys: Sequence[str], measure: str) -> pd.DataFrame:
    """Pairs of arms, of which there are several by one column, with references, which are the same for all of them.

    Returns:
        As `matched`, with `by` and then `keys` as the index.
    """
    columns = _columns([by, *keys], measure)
    arms, references = arms[columns].assign(side="arm"), references[columns].assign(side="reference")
    both = pd.concat([arms, *(references.assign(**{by: value}) for value in dict.fromkeys(arms[by]))])
    return matched(both, [by, *keys], "side", ("arm", "reference"), measure)


def _columns(keys: list[str], measure: str) -> list[str]:
    return [*dict.fromkeys([*keys, "machine", "repeat", "teacher_test_score", measure])]


def contrasts(pairs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean of paired differences with its t interval for every combination of keys; the seeds are what is left.

    Args:
        pairs: As `matched` has them; `keys` and the seed are the index.
        keys: At least one.

    Returns:
        One row per combination: keys, effect, low, high, num_seeds, seeds (what every seed gave), num_apart (how many
        pairs are of two machines); recipes in their usual order.
    """
    rows = []
    for key, group in pairs.groupby(keys):
        differences = group.iloc[:, 0] - group.iloc[:, 1]
        names = key if isinstance(key, tuple) else (key,)
        estimate = mean_estimate(differences)[:3]
        rows.append([*names, *estimate, len(group), list(differences), int(group["apart"].sum())])
    frame = pd.DataFrame(rows, columns=[*keys, *CONTRAST])
    frame = frame.astype(dict.fromkeys(["effect", "low", "high"], float)).replace([np.inf, -np.inf], np.nan)
    others = [name for name in keys if name != "recipe"]
    return in_order(frame, *others) if "recipe" in keys else frame


def in_order(frame: pd.DataFrame, *then: str) -> pd.DataFrame:
    """Rows sorted by the usual order of the recipes, and then by other columns."""
    order = {recipe: rank for rank, recipe in enumerate(RECIPES)}
    rank = frame["recipe"].map(order).fillna(len(order))
    ranked: pd.DataFrame = frame.assign(rank=rank).sort_values(["rank", *then], ignore_index=True)
    return ranked.drop(columns="rank")


def by_seed(table: pd.DataFrame) -> pd.DataFrame:
    """A table with a row per seed, what it gave as `of_seed`, in place of the lists."""
    return table.explode("seeds").rename(columns={"seeds": "of_seed"}).astype({"of_seed": float})
