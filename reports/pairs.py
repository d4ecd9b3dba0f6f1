"""Pairs of runs, of one machine where they can be (machines do not compute alike), and the contrasts between them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reports.statistics import mean_estimate
from reports.wording import RECIPES

#: Columns of a contrast, after its keys.
CONTRAST = ["effect", "low", "high", "num_seeds", "seeds", "num_apart"]


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
    runs = runs.loc[runs[compared].isin(names), _columns([*keys, compared], measure)]
    runs = runs.assign(is_repeat=runs["repeat"] != "")
    values = runs.groupby([*keys, "machine", compared])[[measure, "is_repeat", "teacher_test_score"]].mean()
    repeats, teachers = (_wide(values[name], compared, names) for name in ("is_repeat", "teacher_test_score"))
    alike = _wide(values[measure], compared, names).assign(apart=0.0, repeats=repeats.sum(axis="columns"))
    is_mixed = (alike["repeats"] == 1) & ((teachers[names[0]] - teachers[names[1]]).abs() > 0)
    alike = alike[~is_mixed].dropna().sort_values(["repeats", "machine"]).droplevel("machine")
    alike = alike[~alike.index.duplicated()]
    first = runs[~runs["is_repeat"]].groupby([*keys, compared])[measure].mean()
    others = _wide(first, compared, names).dropna().assign(apart=1.0, repeats=0.0)
    return pd.concat([alike, others[~others.index.isin(alike.index)]]).sort_index()


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


def _wide(values: "pd.Series[float]", compared: str, names: tuple[str, str]) -> pd.DataFrame:
    return values.unstack(compared).reindex(columns=list(names)).astype(float)


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
