"""Figures of trained students where the setting is not the registered one, and of KD with twice the epochs."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from reports import setting_tables
from reports.drawing import INK, MARKERS, SERIES, Figure, dots, dots_told, effects_across, name_rows, panels
from reports.evidence import Evidence
from reports.pairs import by_seed, in_order
from reports.setting import PLACE
from reports.wording import NOT_CORRECTED, apart_told, count, effects, name_of, number, seeds_told

_SETTINGS = {
    "beta_alpha": "a of Beta(a, a)",
    "mix_ratio": "mixed per original",
    "sm_weight": "weight of SM",
    "tmkd_weight": "weight of TMKD",
    "learning_rate": "learning rate",
}


def build(evidence: Evidence) -> Iterator[Figure]:
    """Every such figure that the evidence allows."""
    if len(longer := setting_tables.epochs(evidence)):
        yield _epochs_figure(longer)
    if len(added := setting_tables.back_translation(evidence)):
        yield _back_translation_figure(added)
    for measure in ("test_score", "generalization_gap"):
        if len(others := setting_tables.elsewhere(evidence, measure)):
            yield _elsewhere_figure(others, measure)
    if len(changed := setting_tables.sensitivity(evidence)):
        yield _sensitivity_figure(changed)
    if len(alike := setting_tables.machines(evidence)):
        yield _machines_figure(alike)
    if len(again := setting_tables.again(evidence)):
        yield _again_figure(again)


def _epochs_figure(longer: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    longer = longer.assign(comparison=[_comparison(row) for row in longer.to_dict("records")])
    places, cases = list(dict.fromkeys(longer["comparison"])), longer.groupby("train_fraction")
    with panels("epochs", svgs, len(cases), width=8.0) as grid:
        for axes, (share, rows) in zip(grid, cases, strict=True):
            effects_across(axes, rows, "comparison", places)
            axes.set(xlabel="difference in test score", title=f"{share:.0%} of the data")
        name_rows(grid[0], places)
    fair = longer[(longer["epochs"] == "once") & (longer["reference_epochs"] == "twice")]
    told, shown = (effects(rows, _comparison_and_share) for rows in (fair, longer))
    return Figure(
        "epochs",
        f"At equal work in the student: {told}",
        f"{PLACE}. Once: the registered epochs. Mixup takes originals and mixed inputs through the student: as much "
        "work there as KD with twice the epochs. "
        f"Paired differences with 95 % t intervals over {seeds_told(longer)}. {apart_told(longer)}{dots_told(longer)}"
        f"{NOT_CORRECTED}",
        tuple(svgs),
        f"Dot chart of differences. {shown}.",
        by_seed(longer),
        "mixkd suite longer",
        stacked=True,
    )


def _back_translation_figure(added: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    recipes, cases = list(dict.fromkeys(added["recipe"])), added.groupby(["train_fraction", "reference"])
    with panels("back-translation", svgs, len(cases), width=1.9 * len(cases) + 1.4) as grid:
        for axes, ((share, reference), rows) in zip(grid, cases, strict=True):
            if axes is not grid[0]:
                axes.sharex(grid[0])
            axes.locator_params(axis="x", nbins=4)
            effects_across(axes, rows, "recipe", recipes)
            axes.set(xlabel=f"score minus that without,\nin as many {reference}", title=f"{share:.0%} of the data")
        name_rows(grid[0], [name_of(recipe) for recipe in recipes])
    told = effects(
        added,
        lambda row: f"{name_of(row['recipe'])} at {row['train_fraction']:.0%}, in as many {row['reference']}",
    )
    raised = "; ".join(f"as many {name}, {_raised(rows)}" for name, rows in added.groupby("reference"))
    return Figure(
        "back-translation",
        f"Score with back-translated examples minus without, in {raised}",
        f"{PLACE}. Translations double the examples of an epoch, so that as many epochs are twice the steps. "
        f"Paired differences with 95 % t intervals over {seeds_told(added)}. {apart_told(added)}{dots_told(added)}"
        f"{NOT_CORRECTED}",
        tuple(svgs),
        f"Dot chart of differences. {told}.",
        by_seed(added),
        "mixkd suite breadth",
        stacked=True,
    )


def _elsewhere_figure(others: pd.DataFrame, measure: str) -> Figure:
    key, name, label = {
        "test_score": ("elsewhere", "score", "score minus {}'s"),
        "generalization_gap": ("elsewhere-gap", "generalization gap", "gap minus {}'s (nats)"),
    }[measure]
    svgs: list[str] = []
    others = others.assign(place=[_place(row) for row in others.to_dict("records")])
    places = list(dict.fromkeys(others["place"]))
    references = {name_of(str(reference)): rows for reference, rows in others.groupby("reference", sort=False)}
    with panels(key, svgs, len(references), width=8.0, height=1.2 + 0.3 * len(places)) as grid:
        for axes, (reference, rows) in zip(grid, references.items(), strict=True):
            effects_across(axes, rows, "place", places)
            axes.set(xlabel=label.format(reference))
        name_rows(grid[0], places)
    told = "; ".join(f"minus {reference} {_raised(rows)}" for reference, rows in references.items())
    return Figure(
        key,
        f"SM+TMKD's {name} on all tasks, shares and depths: {told}",
        f"Paired differences with 95 % t intervals over {seeds_told(others)}; the setting is the registered one but "
        f"for what is named. {apart_told(others)}{dots_told(others)}{NOT_CORRECTED}",
        tuple(svgs),
        f"Dot charts of differences. {effects(others, _place_and_reference)}.",
        by_seed(others),
        "mixkd suite breadth",
        stacked=True,
    )


def _sensitivity_figure(changed: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    names = [name for name in _SETTINGS if name in set(changed["setting"])]
    with panels("sensitivity", svgs, len(names), width=2.1 * len(names) + 1.2) as grid:
        for axes, name in zip(grid, names, strict=True):
            rows = changed[changed["setting"] == name]
            for k, (reference, line) in enumerate(rows.groupby("reference", sort=False), start=1):
                axes.fill_between(line["value"], line["low"], line["high"], color=SERIES[k], alpha=0.2, linewidth=0)
                label = f"minus {_reference(str(reference))}"
                axes.plot(line["value"], line["effect"], color=SERIES[k], marker=MARKERS[k], label=label)
                for row in line.to_dict("records"):
                    dots(axes, row["value"], row["seeds"], k)
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.set_xscale("log")
            values = sorted(set(rows["value"].astype(float)))
            axes.set_xticks(values, [f"{value:g}" for value in values], rotation=60)
            axes.xaxis.minorticks_off()
            axes.set(xlabel=_SETTINGS[name])
        grid[0].set_ylabel("difference in test score")
        grid[-1].legend(fontsize=8.5)
    own = changed[changed["reference"] == "sm+tmkd"].dropna(subset="low")  # the default has no difference to itself
    title = "SM+TMKD with one setting changed at a time"
    if len(own):
        best = own.sort_values("effect").to_dict("records")[-1]
        same = changed[(changed["setting"] == best["setting"]) & (changed["value"] == best["value"])]
        title = f"Of all single changes to SM+TMKD, {_SETTINGS[best['setting']]} = {best['value']:g} does best: "
        title += effects(same, lambda row: f"minus {_reference(row['reference'])}")
    told = effects(
        changed, lambda row: f"{_SETTINGS[row['setting']]} {row['value']:g} minus {name_of(row['reference'])}"
    )
    return Figure(
        "sensitivity",
        title,
        f"{PLACE}, {changed['train_fraction'].min():.0%} of the training data. One setting is changed at a time. "
        f"Paired differences with 95 % t intervals over {seeds_told(changed)}; KD has the same "
        f"learning rate. {apart_told(changed)}{dots_told(changed)}The best of so many is not a test, and more mixed "
        "inputs are more work.",
        tuple(svgs),
        f"Line charts of differences in score. {told}.",
        by_seed(changed),
        "mixkd suite sensitivity",
        stacked=True,
    )


def _machines_figure(alike: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    recipes = list(dict.fromkeys(in_order(alike)["recipe"]))
    cases = alike.groupby(["machine", "other", "train_fraction"])
    with panels("machines", svgs, len(cases), width=2.6 * len(cases) + 2.8) as grid:
        for axes, ((machine, other, share), rows) in zip(grid, cases, strict=True):
            axes.locator_params(axis="x", nbins=4)
            effects_across(axes, rows, "recipe", recipes)
            axes.set(xlabel=f"score on {machine}\nminus on {other}", title=f"{share:.0%} of the data")
        name_rows(grid[0], [name_of(recipe) for recipe in recipes])
    told = effects(alike, _recipe_and_machines)
    differ = ((alike["low"] > 0) | (alike["high"] < 0)).sum()
    spread = f"{number(alike['sd'].min())} to {number(alike['sd'].max())}"
    return Figure(
        "machines",
        f"The same experiments on two machines: of {count(len(alike), 'mean difference')} in score, {differ} "
        f"{'has' if differ == 1 else 'have'} an interval without zero",
        f"{PLACE}. Equal seeds and data; each machine trained its own teacher. Paired differences with 95 % t "
        f"intervals over {seeds_told(alike)}; single ones have standard deviations of {spread}. {dots_told(alike)}"
        f"{NOT_CORRECTED}",
        tuple(svgs),
        f"Dot chart of differences. {told}.",
        by_seed(alike),
        "mixkd suite longer --output results/repeats/NAME",
        stacked=True,
    )


def _again_figure(again: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    again = again.assign(case=[_recipe_on_machine(row) for row in again.to_dict("records")])
    cases, shares = list(dict.fromkeys(in_order(again, "machine")["case"])), again.groupby("train_fraction")
    with panels("again", svgs, len(shares), width=8.0, height=1.2 + 0.3 * len(cases)) as grid:
        for axes, (share, rows) in zip(grid, shares, strict=True):
            effects_across(axes, rows, "case", cases)
            axes.set(xlabel="score minus KD's", title=f"{share:.0%} of the data")
        name_rows(grid[0], cases)
    told = "; ".join(f"{share:.0%} of the data {effects(rows, _recipe_on_machine)}" for share, rows in shares)
    where = effects(
        again[again["recipe"] == "sm+tmkd"],
        lambda row: f"with {row['train_fraction']:.0%} of the data on {row['machine']}",
    )
    return Figure(
        "again",
        f"SM+TMKD minus KD, the same seeds on each machine: {where or 'not known'}",
        f"{PLACE}. In as many epochs; each machine trained its own teacher. Paired differences with 95 % t intervals "
        f"over {seeds_told(again)}. {dots_told(again)}{NOT_CORRECTED}",
        tuple(svgs),
        f"Dot chart of differences. {told}.",
        by_seed(again),
        "mixkd suite longer --output results/repeats/NAME",
        stacked=True,
    )


def _recipe_on_machine(row: Mapping[Any, Any]) -> str:
    return f"{name_of(row['recipe'])}, {row['machine']}"


def _recipe_and_machines(row: Mapping[Any, Any]) -> str:
    return f"{name_of(row['recipe'])} at {row['train_fraction']:.0%}, {row['machine']} minus {row['other']}"


def _reference(recipe: str) -> str:
    return "SM+TMKD's default" if recipe == "sm+tmkd" else name_of(recipe)


def _place(row: Mapping[Any, Any]) -> str:
    layers = count(int(row["student_layers"]), "layer") if row["student_layers"] else "all layers"
    return f"{row['task']}, {layers}, {row['train_fraction']:.0%}, {count(int(row['num_epochs']), 'epoch')}"


def _place_and_reference(row: Mapping[Any, Any]) -> str:
    return f"{row['place']}, minus {name_of(row['reference'])}"


def _comparison(row: Mapping[Any, Any]) -> str:
    return f"{name_of(row['recipe'])} {row['epochs']} minus {name_of(row['reference'])} {row['reference_epochs']}"


def _comparison_and_share(row: Mapping[Any, Any]) -> str:
    return f"{row['comparison']} at {row['train_fraction']:.0%}"


def _raised(rows: pd.DataFrame) -> str:
    above, below = (rows["low"] > 0).sum(), (rows["high"] < 0).sum()
    return f"above zero in {above} of {count(len(rows), 'case')}, below in {below}"
