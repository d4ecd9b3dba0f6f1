"""The numbers behind the figures of trained students whose setting is not the registered one, as data frames.

Pairs are runs of one seed and share of the data; the seed is what is replicated. The column `seeds` is the list of what
every seed gave, in their order.
"""

import itertools

import pandas as pd

from reports.evidence import Evidence, longer_runs, registered_runs
from reports.pairs import CONTRAST, against, contrasts, matched
from reports.setting import SETTING, WEIGHTS

#: Fields in which a run on another task or with another depth may differ from the registered setting.
_PLACES = {"task", "student_layers", "num_epochs"}


def back_translation(evidence: Evidence) -> pd.DataFrame:
    """What back-translated examples add: score with them minus without, per recipe and share of the data.

    Returns:
        One row per reference, recipe and train_fraction: see `contrasts`. Translations double the examples of an epoch;
        without them, the reference is trained for as many "epochs", or twice as many, for as many "steps".
    """
    runs = _in_bf16(evidence)
    added = runs[(runs["changed"] == "augmentation") & runs["recipe"].str.endswith("+bt")]
    added = added.assign(recipe=added["recipe"].str.removesuffix("+bt"), side="with")
    plain = {"epochs": runs[runs["changed"] == ""], "steps": longer_runs(runs)}
    keys, found = ["train_fraction", "recipe"], []
    for reference, others in plain.items():
        both = pd.concat([added, others.assign(side="without")])
        pairs = matched(both, [*keys, "seed"], "side", ("with", "without"), "test_score")
        found.append(contrasts(pairs, keys).assign(reference=reference))
    return pd.concat(found, ignore_index=True)


def epochs(evidence: Evidence) -> pd.DataFrame:
    """Mixup against KD with twice the epochs, and what twice the epochs change; on the seeds of KD with them.

    Returns:
        One row per recipe and its epochs ("once", "twice"), reference and its reference_epochs, and train_fraction: see
        `contrasts`.
    """
    runs = _in_bf16(evidence)
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
        found.append(contrasts(pairs, ["train_fraction"]).assign(**dict(zip(keys, names, strict=True))))
    return pd.concat(found, ignore_index=True)


def elsewhere(evidence: Evidence, measure: str) -> pd.DataFrame:
    """SM+TMKD against KD and FT on all tasks and shares of the data, with all depths and numbers of epochs.

    Returns:
        One row per task, student_layers (0: all), train_fraction, num_epochs and reference ("kd", "ft"): see
        `contrasts`.
    """
    runs = _in_bf16(evidence)
    is_near = [isinstance(names, str) and set(filter(None, names.split(", "))) <= _PLACES for names in runs["changed"]]
    runs = runs.loc[is_near]
    keys = ["task", "student_layers", "train_fraction", "num_epochs"]
    runs = runs.fillna({"student_layers": 0, "num_epochs": 0})
    found = [
        contrasts(matched(runs, [*keys, "seed"], "recipe", ("sm+tmkd", reference), measure), keys).assign(
            reference=reference
        )
        for reference in ("kd", "ft")
    ]
    return pd.concat(found, ignore_index=True)


def sensitivity(evidence: Evidence) -> pd.DataFrame:
    """SM+TMKD with one setting changed, against its default and against KD, per setting and value.

    Returns:
        One row per setting, value and reference ("sm+tmkd", "kd"): see `contrasts`. KD has the same learning rate; the
        other settings are none of its own.
    """
    runs = _in_bf16(evidence)
    defaults: dict[str, object] = {**SETTING, **WEIGHTS["sm+tmkd"]}
    found = []
    for name in ("beta_alpha", "mix_ratio", "sm_weight", "tmkd_weight", "learning_rate"):
        shares = set(runs.loc[runs["changed"] == name, "train_fraction"])
        near = runs[runs["changed"].isin(["", name]) & runs["train_fraction"].isin(shares)]
        if near.empty:
            continue
        ours, kd = (near[near["recipe"] == recipe] for recipe in ("sm+tmkd", "kd"))
        pairs = {"sm+tmkd": against(ours, ours[ours[name] == defaults[name]], name, ["seed"], "test_score")}
        if name == "learning_rate":
            pairs["kd"] = matched(near, [name, "seed"], "recipe", ("sm+tmkd", "kd"), "test_score")
        else:
            pairs["kd"] = against(ours, kd, name, ["seed"], "test_score")
        for reference, of_reference in pairs.items():
            contrast = contrasts(of_reference, [name]).rename(columns={name: "value"})
            found.append(contrast.assign(setting=name, reference=reference, train_fraction=min(shares)))
    found = [contrast for contrast in found if len(contrast)]
    columns = ["setting", "value", "reference", "train_fraction", *CONTRAST]
    return pd.concat(found)[columns].reset_index(drop=True) if found else pd.DataFrame(columns=columns)


def machines(evidence: Evidence) -> pd.DataFrame:
    """Score of the same students, in the registered setting, on one machine minus that on another.

    Returns:
        One row per machine, other machine (the names in their order), train_fraction and recipe: see `contrasts`, and
        the standard deviation sd of the differences.
    """
    found = []
    for fraction in sorted(set(evidence.repeats["train_fraction"])):
        runs = registered_runs(evidence.all_runs, fraction)
        scores = runs.groupby(["recipe", "seed", "machine"])["test_score"].mean().unstack("machine")
        for one, other in itertools.combinations(scores.columns, 2):
            contrast = contrasts(scores[[one, other]].dropna().assign(apart=1.0), ["recipe"])
            sd = [pd.Series(seeds, dtype=float).std() for seeds in contrast["seeds"]]
            found.append(contrast.assign(machine=one, other=other, train_fraction=fraction, sd=sd))
    found = [contrast for contrast in found if len(contrast)]
    columns = ["machine", "other", "train_fraction", "recipe", *CONTRAST, "sd"]
    return pd.concat(found)[columns].reset_index(drop=True) if found else pd.DataFrame(columns=columns)


def again(evidence: Evidence) -> pd.DataFrame:
    """Score of SM+TMKD, without and with KD, minus KD's in the registered setting, on each machine over the same seeds.

    Returns:
        One row per train_fraction, recipe and machine: see `contrasts`.
    """
    found = []
    for fraction in sorted(set(evidence.repeats["train_fraction"])):
        runs = registered_runs(evidence.all_runs, fraction)
        pairs = {}
        for machine, own in runs.groupby("machine"):
            ours, kd = own["recipe"].isin(["sm+tmkd", "sm+tmkd+kd"]), own["recipe"] == "kd"
            pairs[machine] = against(own[ours], own[kd], "recipe", ["seed"], "test_score")
        if len(pairs) < 2:
            continue
        shared = set.intersection(*(set(of_machine.index) for of_machine in pairs.values()))
        for machine, of_machine in pairs.items():
            contrast = contrasts(of_machine[of_machine.index.isin(shared)], ["recipe"])
            found.append(contrast.assign(machine=machine, train_fraction=fraction))
    found = [contrast for contrast in found if len(contrast)]
    columns = ["train_fraction", "recipe", "machine", *CONTRAST]
    return pd.concat(found)[columns].reset_index(drop=True) if found else pd.DataFrame(columns=columns)


def _in_bf16(evidence: Evidence) -> pd.DataFrame:
    runs = evidence.all_runs
    return runs[runs["precision"] == "bf16"]
