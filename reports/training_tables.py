"""The numbers behind the figures of trained students: paired estimates with their intervals, as data frames.

Runs are those in the registered setting, or that differ from it in one thing. Pairs are runs of one seed and share of
the data; the seed is what is replicated. The column `seeds` is the list of what every seed gave, in their order.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from reports.evidence import PATH_RECIPES, Evidence, longer_runs, registered_runs
from reports.setting import LEAST, LIMITED, SETTING, WEIGHTS
from reports.statistics import mean_estimate, median_estimate
from reports.wording import RECIPES

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


#: Fields in which a run on another task or with another depth may differ from the registered setting.
_PLACES = {"task", "student_layers", "num_epochs"}


def recipe_seeds(evidence: Evidence, fraction: float = LIMITED) -> pd.DataFrame:
    """Score and gap of every recipe and seed in the registered setting, recipes in their usual order."""
    runs = registered_runs(evidence.runs, fraction)
    means = runs.groupby(["recipe", "seed"], as_index=False)[["test_score", "generalization_gap"]].mean()
    return _in_order(means, "seed")


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


def back_translation(evidence: Evidence) -> pd.DataFrame:
    """What back-translated examples add: score with them minus without, per recipe and share of the data.

    Returns:
        One row per reference, recipe and train_fraction: effect, low, high, num_seeds, seeds. Translations double the
        examples of an epoch; without them, the reference is trained for as many "epochs", or twice as many, for as many
        "steps".
    """
    runs = evidence.runs[evidence.runs["precision"] == "bf16"]
    added = runs[(runs["changed"] == "augmentation") & runs["recipe"].str.endswith("+bt")]
    added = added.assign(recipe=added["recipe"].str.removesuffix("+bt"))
    plain = {"epochs": runs[runs["changed"] == ""], "steps": longer_runs(runs)}
    keys, found = ["train_fraction", "recipe", "seed"], []
    for reference, others in plain.items():
        differences = (_scores(added, keys) - _scores(others, keys))["test_score"].dropna()
        found.append(_contrasts(differences, ["train_fraction", "recipe"]).assign(reference=reference))
    return pd.concat(found, ignore_index=True)


def epochs(evidence: Evidence) -> pd.DataFrame:
    """Mixup against KD with twice the epochs, and what twice the epochs change; on the seeds of KD with them.

    Returns:
        One row per recipe and its epochs ("once", "twice"), reference and its reference_epochs, and train_fraction:
        effect, low, high, num_seeds, seeds.
    """
    runs = evidence.runs[evidence.runs["precision"] == "bf16"]
    once, twice = runs[runs["changed"] == ""].assign(epochs="once"), longer_runs(runs).assign(epochs="twice")
    wide = pd.concat([once, twice]).pivot_table(
        index=["train_fraction", "seed"], columns=["recipe", "epochs"], values="test_score"
    )
    wide = wide.reindex(columns=pd.MultiIndex.from_product([["kd", "sm+tmkd", "sm+tmkd+kd"], ["once", "twice"]]))
    wide = wide[wide["kd", "twice"].notna()]
    keys = ["recipe", "epochs", "reference", "reference_epochs"]
    found = []
    for names in (
        ("sm+tmkd", "once", "kd", "once"),
        ("sm+tmkd", "once", "kd", "twice"),
        ("sm+tmkd+kd", "once", "kd", "twice"),
        ("sm+tmkd", "twice", "kd", "twice"),
        ("kd", "twice", "kd", "once"),
        ("sm+tmkd", "twice", "sm+tmkd", "once"),
    ):
        contrast = _contrasts((wide[names[:2]] - wide[names[2:]]).dropna(), ["train_fraction"])
        found.append(contrast.assign(**dict(zip(keys, names, strict=True))))
    return pd.concat(found, ignore_index=True)


def elsewhere(evidence: Evidence, measure: str) -> pd.DataFrame:
    """SM+TMKD against KD and FT on all tasks and shares of the data, with all depths and numbers of epochs.

    Returns:
        One row per task, student_layers (0: all), train_fraction, num_epochs and reference ("kd", "ft"): effect, low,
        high of the paired difference in the measure, num_seeds, seeds.
    """
    runs = evidence.runs[evidence.runs["precision"] == "bf16"]
    changed = runs["changed"]
    runs = runs[[isinstance(names, str) and set(filter(None, names.split(", "))) <= _PLACES for names in changed]]
    keys = ["task", "student_layers", "train_fraction", "num_epochs"]
    runs = runs.reindex(columns=[*keys, "seed", "recipe", measure]).fillna({"student_layers": 0, "num_epochs": 0})
    wide = runs.pivot_table(index=[*keys, "seed"], columns="recipe", values=measure)
    wide = wide.reindex(columns=["sm+tmkd", "kd", "ft"])
    found = [
        _contrasts((wide["sm+tmkd"] - wide[reference]).dropna(), keys).assign(reference=reference)
        for reference in ("kd", "ft")
    ]
    return pd.concat(found, ignore_index=True)


def sensitivity(evidence: Evidence) -> pd.DataFrame:
    """SM+TMKD with one setting changed, against its default and against KD, per setting and value.

    Returns:
        One row per setting, value and reference ("sm+tmkd", "kd"): effect, low, high, num_seeds, seeds. KD has the
        same learning rate; the other settings are none of its own.
    """
    runs = evidence.runs[evidence.runs["precision"] == "bf16"]
    defaults: dict[str, object] = {**SETTING, **WEIGHTS["sm+tmkd"]}
    found = []
    for name in ("beta_alpha", "mix_ratio", "sm_weight", "tmkd_weight", "learning_rate"):
        shares = set(runs.loc[runs["changed"] == name, "train_fraction"])
        near = runs[runs["changed"].isin(["", name]) & runs["train_fraction"].isin(shares)]
        if near.empty:
            continue
        arm = _scores(near[near["recipe"] == "sm+tmkd"], [name, "seed"])["test_score"]
        own = arm.xs(defaults[name], level=name) if defaults[name] in arm.index.get_level_values(name) else arm[:0]
        kd = near[near["recipe"] == "kd"]
        references = {
            "sm+tmkd": own,
            "kd": _scores(kd, [name, "seed"] if name == "learning_rate" else ["seed"])["test_score"],
        }
        for reference, scores in references.items():
            if len(scores):
                contrast = _contrasts((arm - scores).dropna(), [name]).rename(columns={name: "value"})
                found.append(contrast.assign(setting=name, reference=reference, train_fraction=min(shares)))
    columns = ["setting", "value", "reference", "train_fraction", "effect", "low", "high", "num_seeds", "seeds"]
    return pd.concat(found)[columns].reset_index(drop=True) if found else pd.DataFrame(columns=columns)


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
        for recipe, group in _in_order(runs, "seed").groupby("recipe", sort=False):
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
    runs = registered_runs(evidence.runs, fraction)
    found = []
    for column, words in targets.items():
        if column not in runs:
            continue
        wide = runs.pivot_table(index="seed", columns="recipe", values=column)
        if reference in wide:
            others = wide.drop(columns=reference).sub(wide[reference], axis="index").stack().dropna()
            differences = pd.Series(others, dtype=float).rename_axis(["seed", "recipe"])
            found.append(_contrasts(differences, ["recipe"]).assign(target=words))
    columns = ["target", "recipe", "effect", "low", "high", "num_seeds", "seeds"]
    return pd.concat(found)[columns].reset_index(drop=True) if found else pd.DataFrame(columns=columns)


def by_seed(table: pd.DataFrame) -> pd.DataFrame:
    """A table with a row per seed, what it gave as `of_seed`, in place of the lists."""
    return table.explode("seeds").rename(columns={"seeds": "of_seed"}).astype({"of_seed": float})


def _scores(runs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    return runs.groupby(keys)[["test_score"]].mean()


def _contrasts(differences: "pd.Series[float]", keys: list[str]) -> pd.DataFrame:
    """Mean of paired differences with its t interval for every combination of keys; the seeds are what is left."""
    rows = []
    for key, group in differences.groupby(keys):
        names = key if isinstance(key, tuple) else (key,)
        rows.append([*names, *mean_estimate(group)[:3], len(group), list(group)])
    frame = pd.DataFrame(rows, columns=[*keys, "effect", "low", "high", "num_seeds", "seeds"])
    frame = frame.replace([np.inf, -np.inf], np.nan)
    others = [name for name in keys if name != "recipe"]
    return _in_order(frame, *others) if "recipe" in keys else frame


def _in_order(frame: pd.DataFrame, *then: str) -> pd.DataFrame:
    """Rows sorted by the usual order of the recipes, and then by other columns."""
    order = {recipe: rank for rank, recipe in enumerate(RECIPES)}
    rank = frame["recipe"].map(order).fillna(len(order))
    ranked: pd.DataFrame = frame.assign(rank=rank).sort_values(["rank", *then], ignore_index=True)
    return ranked.drop(columns="rank")
