"""Pairs of runs, which are of one machine where they can be (machines round differently), and their contrasts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reports.evidence import Evidence
from reports.statistics import mean_estimate
from reports.wording import RECIPES


def with_repeats(evidence: Evidence) -> pd.DataFrame:
    """Runs and their repeats on other machines."""
    return pd.concat([evidence.runs, evidence.repeats]) if len(evidence.repeats) else evidence.runs


def matched(
    runs: pd.DataFrame, keys: Sequence[str], compared: str, names: tuple[str, str], measure: str
) -> pd.DataFrame:
    """Pairs of runs that differ in one column.

    A pair is of one machine if the runs and repeats have such a one: of those, the one with fewest repeats. Otherwise
    its runs are the first ones, wherever they are from.

    Args:
        runs: See `with_repeats`.
        keys: Columns in which the runs of a pair agree; the index of the pairs.
        compared: Column in which they differ.
        names: Its values for arm and reference.
        measure: Column of the values; several runs of one kind count by their mean.

    Returns:
        One row per pair: the columns `names`, `apart` (1 where the runs are from different machines) and `repeated`
        (1 where one is a repeat, on the machine of the other).
    """
    runs = runs.loc[runs[compared].isin(names), [*keys, compared, "machine", "repeat", measure]]
    first = _wide(runs[runs["repeat"] == ""], [*keys], compared, names, measure)
    alike = _wide(runs, [*keys, "machine"], compared, names, measure)
    repeats = runs[runs["repeat"] != ""].set_index([*keys, "machine"]).index
    alike = alike.assign(apart=0.0, repeated=alike.index.isin(repeats).astype(float))
    best = alike.sort_values("repeated", kind="stable").droplevel("machine")
    best = best[~best.index.duplicated()]
    return pd.concat([best, first[~first.index.isin(best.index)].assign(apart=1.0, repeated=0.0)]).sort_index()


def _wide(runs: pd.DataFrame, index: list[str], compared: str, names: tuple[str, str], measure: str) -> pd.DataFrame:
    means = runs.groupby([*index, compared])[measure].mean().unstack(compared)
    return means.reindex(columns=list(names)).astype(float).dropna()


def contrasts(differences: "pd.Series[float]", keys: list[str]) -> pd.DataFrame:
    """Mean of paired differences with its t interval for every combination of keys; the seeds are what is left."""
    rows = []
    for key, group in differences.groupby(keys):
        names = key if isinstance(key, tuple) else (key,)
        rows.append([*names, *mean_estimate(group)[:3], len(group), list(group)])
    frame = pd.DataFrame(rows, columns=[*keys, "effect", "low", "high", "num_seeds", "seeds"])
    frame = frame.replace([np.inf, -np.inf], np.nan)
    others = [name for name in keys if name != "recipe"]
    return in_order(frame, *others) if "recipe" in keys else frame


def contrasts_of(pairs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """As `contrasts`, of pairs as `matched` has them; with how many of them are of two machines."""
    found = contrasts(pairs.iloc[:, 0] - pairs.iloc[:, 1], keys)
    return found.assign(num_apart=pairs.groupby(keys)["apart"].sum().to_numpy())


def in_order(frame: pd.DataFrame, *then: str) -> pd.DataFrame:
    """Rows sorted by the usual order of the recipes, and then by other columns."""
    order = {recipe: rank for rank, recipe in enumerate(RECIPES)}
    rank = frame["recipe"].map(order).fillna(len(order))
    ranked: pd.DataFrame = frame.assign(rank=rank).sort_values(["rank", *then], ignore_index=True)
    return ranked.drop(columns="rank")


def by_seed(table: pd.DataFrame) -> pd.DataFrame:
    """A table with a row per seed, what it gave as `of_seed`, in place of the lists."""
    return table.explode("seeds").rename(columns={"seeds": "of_seed"}).astype({"of_seed": float})
