"""The numbers behind the figures of trained students: paired estimates with their intervals, as data frames.

Runs are those in the registered setting; of others, see `setting_tables`. Pairs are runs of one seed and share of the
data; the seed is what is replicated. The column `seeds` is the list of what every seed gave, in their order.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from reports.evidence import PATH_RECIPES, Evidence, registered_runs
from reports.pairs import CONTRAST, against, contrasts, in_order
from reports.setting import LEAST, LIMITED
from reports.statistics import mean_estimate, median_estimate

#: What one person alone would score, and other texts than those trained on: measurement -> words.
TARGETS = {
    "test_score": "test texts",
    "noise/typos/score": "with typing errors",
    "noise/case/score": "with wrong case",
    "shift/vader-amazon/score": "product reviews",
    "shift/vader-nyt/score": "newspaper",
    "shift/vader-tweets/score": "tweets",
}
PATHS = {
    "distance_to_segment_at_half": "from the straight line",
    "distance_to_nearest_at_half": "from the nearest real text",
    "prediction_deviation_at_half": "of the answer from a straight line",
}


def recipe_seeds(evidence: Evidence, fraction: float = LIMITED) -> pd.DataFrame:
    """Score and gap of every recipe and seed in the registered setting, recipes in their usual order."""
    runs = registered_runs(evidence.runs, fraction)
    means = runs.groupby(["recipe", "seed"], as_index=False)[["test_score", "generalization_gap"]].mean()
    return in_order(means, "seed")


def recipe_summary(seeds: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean of a measure per recipe with its interval over seeds, in the order of `seeds`."""
    rows = [
        [recipe, len(group), *mean_estimate(group[measure])[:3], list(group[measure])]
        for recipe, group in seeds.groupby("recipe", sort=False)
    ]
    return pd.DataFrame(rows, columns=["recipe", "num_seeds", "mean", "low", "high", "seeds"])


def by_share(evidence: Evidence) -> pd.DataFrame:
    """Mean score of every recipe at every share of the data: train_fraction, and the columns of `recipe_summary`."""
    runs = evidence.runs[(evidence.runs["changed"] == "") & (evidence.runs["precision"] == "bf16")]
    parts = [
        recipe_summary(recipe_seeds(evidence, float(fraction)), "test_score").assign(train_fraction=fraction)
        for fraction in sorted(set(runs["train_fraction"]))
    ]
    columns = ["train_fraction", "recipe", "num_seeds", "mean", "low", "high", "seeds"]
    return pd.concat(parts)[columns].reset_index(drop=True) if parts else pd.DataFrame(columns=columns)


def differences(evidence: Evidence) -> pd.DataFrame:
    """Score of every recipe in the registered setting minus FT's and KD's, paired, at both registered shares.

    Returns:
        One row per train_fraction, reference ("ft", "kd") and recipe: effect, low, high, num_seeds.
    """
    found = [
        _against(evidence, {"test_score": ""}, reference, fraction)
        .drop(columns=["target", "seeds"])
        .assign(reference=reference, train_fraction=fraction)
        for fraction in (LIMITED, LEAST)
        for reference in ("ft", "kd")
    ]
    return pd.concat(found, ignore_index=True)


def robustness(evidence: Evidence) -> pd.DataFrame:
    """Score of every recipe minus KD's on the test texts, on noisy ones and on those of other domains, paired."""
    return _against(evidence, TARGETS, "kd")


def paths(evidence: Evidence) -> pd.DataFrame:
    """Half-way between two texts: distances of every student's states and answers minus those of FT, paired."""
    return _against(evidence, {f"path/student_{name}": words for name, words in PATHS.items()}, "ft")


def path_means(evidence: Evidence) -> pd.DataFrame:
    """The distances themselves, of every recipe's students and of their teacher.

    Returns:
        One row per target and recipe: num_seeds, mean, low, high, seeds.
    """
    runs = registered_runs(evidence.runs)
    rows = []
    for name, words in PATHS.items():
        columns = {f"path/{model}_{name}": model for model in ("student", "teacher")}
        if not columns.keys() <= set(runs.columns):
            continue
        for recipe, group in in_order(runs, "seed").groupby("recipe", sort=False):
            values = group[f"path/student_{name}"].dropna()
            if len(values):
                rows.append([words, recipe, len(values), *mean_estimate(values)[:3], list(values)])
        teacher = runs[f"path/teacher_{name}"].dropna()
        if len(teacher):
            rows.append([words, "teacher", 1, teacher.iloc[0], np.nan, np.nan, []])
    frame = pd.DataFrame(rows, columns=["target", "recipe", "num_seeds", "mean", "low", "high", "seeds"])
    return frame.replace([np.inf, -np.inf], np.nan)


def halves(evidence: Evidence) -> pd.DataFrame:
    """Half-way between two texts, the median over pairs of the distance to the straight line, of the drawn students.

    Returns:
        One row per recipe, the teacher first: recipe, median, low, high (order statistics), num_pairs.
    """
    middle = evidence.paths[np.isclose(evidence.paths["lam"], 0.5)]
    rows = []
    for recipe in ("teacher", *PATH_RECIPES):
        values = middle.loc[middle["recipe"] == recipe, "distance_to_segment"]
        if len(values):
            rows.append([recipe, *median_estimate(values, 0.0)[:3], len(values)])
    return pd.DataFrame(rows, columns=["recipe", "median", "low", "high", "num_pairs"])


def _against(evidence: Evidence, targets: Mapping[str, str], reference: str, fraction: float = LIMITED) -> pd.DataFrame:
    """Paired differences of measurements to a reference recipe: target (in words), recipe, effect, low, high."""
    runs = registered_runs(evidence.all_runs, fraction)
    arms, references = runs[runs["recipe"] != reference], runs[runs["recipe"] == reference]
    found = [
        contrasts(against(arms, references, "recipe", ["seed"], column), ["recipe"]).assign(target=words)
        for column, words in targets.items()
        if column in runs
    ]
    found = [contrast for contrast in found if len(contrast)]
    columns = ["target", "recipe", *CONTRAST]
    return pd.concat(found)[columns].reset_index(drop=True) if found else pd.DataFrame(columns=columns)
