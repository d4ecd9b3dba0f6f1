"""The numbers behind the figures of trained students whose setting is not the registered one, as data frames.

Pairs are runs of one seed and share of the data; the seed is what is replicated. The column `seeds` is the list of what
every seed gave, in their order.
"""

import itertools

import pandas as pd

from reports.evidence import Evidence, longer_runs, registered_runs
from reports.pairs import contrasts, contrasts_of, matched, with_repeats
from reports.setting import SETTING, WEIGHTS

#: Fields in which a run on another task or with another depth may differ from the registered setting.
_PLACES = {"task", "student_layers", "num_epochs"}


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
        found.append(contrasts(differences, ["train_fraction", "recipe"]).assign(reference=reference))
    return pd.concat(found, ignore_index=True)


def epochs(evidence: Evidence) -> pd.DataFrame:
    """Mixup against KD with twice the epochs, and what twice the epochs change; on the seeds of KD with them.

    Returns:
        One row per recipe and its epochs ("once", "twice"), reference and its reference_epochs, and train_fraction:
        effect, low, high, num_seeds, seeds, and num_apart, how many of the pairs are of two machines.
    """
    runs = with_repeats(evidence)
    runs = runs[runs["precision"] == "bf16"]
    once, twice = runs[runs["changed"] == ""].assign(epochs="once"), longer_runs(runs).assign(epochs="twice")
    runs = pd.concat([once, twice]).assign(trained=lambda found: found["recipe"] + " " + found["epochs"])
    keys, place = ["recipe", "epochs", "reference", "reference_epochs"], ["train_fraction", "seed"]
    asked = runs[runs["trained"] == "kd twice"].set_index(place).index
    found = []
    for names in (
        ("sm+tmkd", "once", "kd", "once"),
        ("sm+tmkd", "once", "kd", "twice"),
        ("sm+tmkd+kd", "once", "kd", "twice"),
        ("sm+tmkd", "twice", "kd", "twice"),
        ("kd", "twice", "kd", "once"),
        ("sm+tmkd", "twice", "sm+tmkd", "once"),
    ):
        pairs = matched(runs, place, "trained", (" ".join(names[:2]), " ".join(names[2:])), "test_score")
        pairs = pairs[pairs.index.isin(asked)]
        found.append(contrasts_of(pairs, ["train_fraction"]).assign(**dict(zip(keys, names, strict=True))))
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
        contrasts((wide["sm+tmkd"] - wide[reference]).dropna(), keys).assign(reference=reference)
        for reference in ("kd", "ft")
    ]
    return pd.concat(found, ignore_index=True)


def sensitivity(evidence: Evidence) -> pd.DataFrame:
    """SM+TMKD with one setting changed, against its default and against KD, per setting and value.

    Returns:
        One row per setting, value and reference ("sm+tmkd", "kd"): effect, low, high, num_seeds, seeds, num_apart. KD
        has the same learning rate; the other settings are none of its own.
    """
    runs = with_repeats(evidence)
    runs = runs[runs["precision"] == "bf16"]
    defaults: dict[str, object] = {**SETTING, **WEIGHTS["sm+tmkd"]}
    found = []
    for name in ("beta_alpha", "mix_ratio", "sm_weight", "tmkd_weight", "learning_rate"):
        shares = set(runs.loc[runs["changed"] == name, "train_fraction"])
        near = runs[runs["changed"].isin(["", name]) & runs["train_fraction"].isin(shares)]
        if near.empty:
            continue
        ours, kd = (near[near["recipe"] == recipe] for recipe in ("sm+tmkd", "kd"))
        for reference, others in (("sm+tmkd", ours[ours[name] == defaults[name]]), ("kd", kd)):
            arms = ours.assign(side="arm", value=ours[name])
            if (reference, name) == ("kd", "learning_rate"):
                sides = [arms, others.assign(side="reference", value=others[name])]
            else:
                sides = [arms, *(others.assign(side="reference", value=value) for value in set(ours[name]))]
            pairs = matched(pd.concat(sides), ["value", "seed"], "side", ("arm", "reference"), "test_score")
            told = {"setting": name, "reference": reference, "train_fraction": min(shares)}
            found.append(contrasts_of(pairs, ["value"]).assign(**told))
    columns = ["setting", "value", "reference", "train_fraction", "effect", "low", "high", "num_seeds", "seeds"]
    columns.append("num_apart")
    return pd.concat(found)[columns].reset_index(drop=True) if found else pd.DataFrame(columns=columns)


def machines(evidence: Evidence) -> pd.DataFrame:
    """Score of the same students, in the registered setting, on one machine minus that on another.

    Returns:
        One row per machine (in alphabetical order, the first of two), other machine, train_fraction and recipe: effect,
        low, high, num_seeds, seeds, and the standard deviation sd of the differences.
    """
    keys = ["machine", "other", "train_fraction", "recipe"]
    found = []
    for fraction in sorted(set(evidence.repeats["train_fraction"])):
        runs = registered_runs(with_repeats(evidence), fraction)
        scores = runs.groupby(["recipe", "seed", "machine"])["test_score"].mean().unstack("machine")
        for one, other in itertools.combinations(scores.columns, 2):
            differences = (scores[one] - scores[other]).dropna()
            if len(differences):
                sd = differences.groupby("recipe").std()
                contrast = contrasts(differences, ["recipe"])
                contrast["sd"] = contrast["recipe"].map(sd)
                found.append(contrast.assign(machine=one, other=other, train_fraction=fraction))
    columns = [*keys, "effect", "low", "high", "num_seeds", "seeds", "sd"]
    return pd.concat(found)[columns].reset_index(drop=True) if found else pd.DataFrame(columns=columns)


def _scores(runs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    return runs.groupby(keys)[["test_score"]].mean()
