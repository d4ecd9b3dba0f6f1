"""Figures of trained students: they draw numbers that `training_tables` estimated, and compute none."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from reports import training_tables
from reports.drawing import FEW, INK, MARKERS, SERIES, Figure, dots, mark, panel, panels, side_of
from reports.evidence import Evidence
from reports.setting import LEAST, LIMITED, PLACE
from reports.wording import count, effects, interval, name_of, number, recipe_and_target

_NOT_CORRECTED = "The intervals are not corrected for their number."
_SETTINGS = {
    "beta_alpha": "a of Beta(a, a)",
    "mix_ratio": "mixed per original",
    "sm_weight": "weight of SM",
    "tmkd_weight": "weight of TMKD",
    "learning_rate": "learning rate",
}


def build(evidence: Evidence) -> Iterator[Figure]:
    """Every figure of trained students that the evidence allows."""
    for fraction in (LIMITED, LEAST):
        if len(seeds := training_tables.recipe_seeds(evidence, fraction)):
            for measure in ("test_score", "generalization_gap"):
                yield _recipe_figure(seeds, measure, fraction)
    if len(longer := training_tables.epochs(evidence)):
        yield _epochs_figure(longer)
    if len(set((shares := training_tables.by_share(evidence))["train_fraction"])) > 1:
        yield _share_figure(shares)
    if len(added := training_tables.back_translation(evidence)):
        yield _back_translation_figure(added)
    if len(others := training_tables.elsewhere(evidence)):
        yield _elsewhere_figure(others)
    if len(changed := training_tables.sensitivity(evidence)):
        yield _sensitivity_figure(changed)
    if len(moved := training_tables.robustness(evidence)):
        yield _robustness_figure(moved)


def _recipe_figure(seeds: pd.DataFrame, measure: str, fraction: float) -> Figure:
    key, name, unit, best = {
        "test_score": ("score", "test score", "share correct", "highest"),
        "generalization_gap": ("gap", "generalization gap", "nats", "smallest"),
    }[measure]
    key += "" if fraction == LIMITED else "-least"
    summary = training_tables.recipe_summary(seeds, measure)
    recipes = list(summary["recipe"])
    svgs: list[str] = []
    with panel(key, svgs, width=5.6) as axes:
        sns.lineplot(seeds, x="recipe", y=measure, units="seed", estimator=None, color=SERIES[0], alpha=0.45,
                     linewidth=0.8, ax=axes)  # fmt: skip
        sns.stripplot(seeds, x="recipe", y=measure, color=SERIES[0], jitter=False, size=4, ax=axes)
        for place, row in enumerate(summary.to_dict("records")):
            mark(axes, place + 0.18, (row["mean"], row["low"], row["high"]), place % (len(SERIES) - 1) + 1)
        axes.set_xticks(range(len(recipes)), [name_of(recipe).replace("+", "\n+") for recipe in recipes])
        axes.set(xlabel="recipe", ylabel=f"{name} ({unit})")
        axes.grid(visible=False, axis="x")
    ranked = summary.sort_values("mean", ascending=best == "smallest")
    winner = ranked.to_dict("records")[0]
    values = effects(summary.rename(columns={"mean": "effect"}), lambda row: name_of(row["recipe"]))
    return Figure(
        key,
        f"With {fraction:.0%} of the data, {name_of(winner['recipe'])} has the {best} mean {name}, "
        f"{number(winner['mean'])}, of {count(len(summary), 'recipe')}",
        f"{PLACE}, {fraction:.0%} of the training data. Grey: every seed, joined across recipes. Coloured: mean with "
        f"its 95 % t interval over {_seeds(summary)}; recipes share their seeds, so "
        "intervals of means may meet where the paired difference is clear. The order of the means is not tested.",
        tuple(svgs),
        f"Dot chart of the {name} per recipe. {values}.",
        seeds[["recipe", "seed", measure]],
        "mixkd suite full",
    )


def _share_figure(shares: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    drawn = [recipe for recipe in ("ft", "kd", "tmkd", "sm", "sm+tmkd") if recipe in set(shares["recipe"])]
    with panel("amount", svgs, width=7.0, height=4.0) as axes:
        for k, recipe in enumerate(drawn):
            rows = shares[shares["recipe"] == recipe]
            known = rows["low"].notna() & (rows["high"] < float("inf"))
            axes.fill_between(rows["train_fraction"][known], rows["low"][known], rows["high"][known], color=SERIES[k],
                              alpha=0.2, linewidth=0)  # fmt: skip
            axes.plot(rows["train_fraction"], rows["mean"], color=SERIES[k], marker=MARKERS[k], label=name_of(recipe))
            for row in rows.to_dict("records"):
                dots(axes, row["train_fraction"], row["seeds"], k)
        axes.set_xscale("log")
        fractions = sorted(set(shares["train_fraction"]))
        axes.set_xticks(fractions, [f"{fraction:.0%}" for fraction in fractions])
        axes.xaxis.minorticks_off()
        axes.set(xlabel="share of the training data", ylabel="test score (share correct)")
        axes.legend(fontsize=8.5)
    among = shares[shares["recipe"].isin(drawn)]
    best = among.loc[among.groupby("train_fraction")["mean"].idxmax()].to_dict("records")
    title = "; ".join(f"{row['train_fraction']:.0%}: {name_of(row['recipe'])} {number(row['mean'])}" for row in best)
    means = shares.rename(columns={"mean": "effect"})
    told = effects(means, lambda row: f"{row['train_fraction']:.0%} {name_of(row['recipe'])}")
    return Figure(
        "amount",
        f"Of {', '.join(map(name_of, drawn))}, the highest mean score at each share of the data: {title}",
        f"{PLACE}. Means with 95 % t intervals over {_seeds(shares)}. {_dots(shares)}Epochs are such "
        "that the number of steps is the same for all shares of at most 20 %. The order of the means is not tested.",
        tuple(svgs),
        f"Line chart of the test score over the share of the data. {told}.",
        training_tables.by_seed(shares),
        "mixkd suite breadth",
    )


def _back_translation_figure(added: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    recipes, cases = list(dict.fromkeys(added["recipe"])), added.groupby(["train_fraction", "reference"])
    with panels("back-translation", svgs, len(cases), width=1.9 * len(cases) + 1.4) as grid:
        for axes, ((share, reference), rows) in zip(grid, cases, strict=True):
            if axes is not grid[0]:
                axes.sharex(grid[0])
            axes.locator_params(axis="x", nbins=4)
            _marks(axes, rows, "recipe", recipes)
            axes.set(xlabel=f"score minus that without,\nin as many {reference}", title=f"{share:.0%} of the data")
        _name_rows(grid[0], [name_of(recipe) for recipe in recipes])
    told = effects(
        added,
        lambda row: f"{name_of(row['recipe'])} at {row['train_fraction']:.0%}, in as many {row['reference']}",
    )
    raised = "; ".join(f"as many {name}, {_raised(rows)}" for name, rows in added.groupby("reference"))
    return Figure(
        "back-translation",
        f"Score with back-translated examples minus without, in {raised}",
        f"{PLACE}. Translations double the examples of an epoch, so that as many epochs are twice the steps. "
        f"Paired differences with 95 % t intervals over {_seeds(added)}. {_dots(added)}{_NOT_CORRECTED}",
        tuple(svgs),
        f"Dot chart of differences. {told}.",
        training_tables.by_seed(added),
        "mixkd suite breadth",
        stacked=True,
    )


def _elsewhere_figure(others: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    others = others.assign(place=[_place(row) for row in others.to_dict("records")])
    places = list(dict.fromkeys(others["place"]))
    references = list(dict.fromkeys(others["reference"]))
    with panels("elsewhere", svgs, len(references), width=8.0, height=1.2 + 0.3 * len(places)) as grid:
        for axes, reference in zip(grid, references, strict=True):
            _marks(axes, others[others["reference"] == reference], "place", places)
            axes.set(xlabel=f"score minus {name_of(reference)}'s")
        _name_rows(grid[0], places)
    told = "; ".join(
        f"minus {name_of(reference)} {_raised(others[others['reference'] == reference])}" for reference in references
    )
    return Figure(
        "elsewhere",
        f"SM+TMKD's score on other tasks and with other depths: {told}",
        f"Paired differences with 95 % t intervals over {_seeds(others)}; the setting is the "
        f"registered one but for what is named. {_dots(others)}{_NOT_CORRECTED} No registered claims.",
        tuple(svgs),
        f"Dot charts of differences. {effects(others, _place_and_reference)}.",
        training_tables.by_seed(others),
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
                label = "SM+TMKD's default" if reference == "sm+tmkd" else name_of(str(reference))
                axes.plot(line["value"], line["effect"], color=SERIES[k], marker=MARKERS[k], label=f"minus {label}")
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
    own = changed[changed["reference"] == "sm+tmkd"]
    best = own.dropna(subset="low").sort_values("effect").to_dict("records")  # the default has no difference to itself
    told = effects(
        changed, lambda row: f"{_SETTINGS[row['setting']]} {row['value']:g} minus {name_of(row['reference'])}"
    )
    return Figure(
        "sensitivity",
        f"Of all single changes to SM+TMKD, {_SETTINGS[best[-1]['setting']]} = {best[-1]['value']:g} does best: "
        f"{number(best[-1]['effect'])} {interval(best[-1]['low'], best[-1]['high'])} against its default"
        if best
        else "SM+TMKD with one setting changed at a time",
        f"{PLACE}, {changed['train_fraction'].min():.0%} of the training data. One setting is changed at a time. "
        f"Paired differences with 95 % t intervals over {_seeds(changed)}; KD has the same "
        f"learning rate. {_dots(changed)}The best of so many is not a test.",
        tuple(svgs),
        f"Line charts of differences in score. {told}.",
        training_tables.by_seed(changed),
        "mixkd suite sensitivity",
        stacked=True,
    )


def _epochs_figure(longer: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    longer = longer.assign(comparison=[_comparison(row) for row in longer.to_dict("records")])
    places, cases = list(dict.fromkeys(longer["comparison"])), longer.groupby("train_fraction")
    with panels("epochs", svgs, len(cases), width=8.0) as grid:
        for axes, (share, rows) in zip(grid, cases, strict=True):
            _marks(axes, rows, "comparison", places)
            axes.set(xlabel="difference in test score", title=f"{share:.0%} of the data")
        _name_rows(grid[0], places)
    fair = longer[(longer["epochs"] == "once") & (longer["reference_epochs"] == "twice")]
    told, shown = (effects(rows, _comparison_and_share) for rows in (fair, longer))
    return Figure(
        "epochs",
        f"At equal work in the student: {told}",
        f"{PLACE}. Once: the registered epochs. Mixup takes originals and mixed inputs through the student: as much "
        "work there as KD with twice the epochs. "
        f"Paired differences with 95 % t intervals over {_seeds(longer)}. {_dots(longer)}{_NOT_CORRECTED}",
        tuple(svgs),
        f"Dot chart of differences. {shown}.",
        training_tables.by_seed(longer),
        "mixkd suite longer",
        stacked=True,
    )


def _robustness_figure(moved: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    targets = list(dict.fromkeys(moved["target"]))
    recipes = list(dict.fromkeys(moved["recipe"]))
    with panels("robustness", svgs, len(targets), width=1.75 * len(targets) + 1.2) as grid:
        for axes, target in zip(grid, targets, strict=True):
            _marks(axes, moved[moved["target"] == target], "recipe", recipes)
            axes.set(xlabel="score minus KD's", title=target)
        _name_rows(grid[0], [name_of(recipe) for recipe in recipes])
    ours = moved[moved["recipe"] == "sm+tmkd"]
    told = effects(ours, lambda row: row["target"])
    return Figure(
        "robustness",
        f"SM+TMKD's score minus KD's: {told}" if told else "Scores minus KD's under noise and on other texts",
        f"{PLACE}, {LIMITED:.0%} of the training data; trained on movie sentences, tested on others and with noise. "
        f"Paired differences with 95 % t intervals over {_seeds(moved)}; no registered claims. "
        f"{_dots(moved)}{_NOT_CORRECTED} "
        "Where the tokenizer ignores case, as BERT's uncased ones do, wrong case changes nothing.",
        tuple(svgs),
        f"Dot charts of differences in score. {effects(moved, recipe_and_target)}.",
        training_tables.by_seed(moved),
        "mixkd suite full",
        stacked=True,
    )


def _marks(axes: Axes, rows: pd.DataFrame, column: str, places: list[str]) -> None:
    """Horizontal intervals of effects, coloured by the side of zero that they are on."""
    for row in rows.to_dict("records"):
        effect = (row["effect"], row["low"], row["high"])
        mark(axes, places.index(row[column]), effect, side_of(0, *effect[1:]), across=True, seeds=row["seeds"])
    axes.axvline(0, color=INK, linewidth=0.8)


def _name_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()


def _place(row: Mapping[Any, Any]) -> str:
    layers = count(int(row["student_layers"]), "layer") if row["student_layers"] else "all layers"
    return f"{row['task']}, {layers}, {row['train_fraction']:.0%}, {count(int(row['num_epochs']), 'epoch')}"


def _place_and_reference(row: Mapping[Any, Any]) -> str:
    return f"{row['place']}, minus {name_of(row['reference'])}"


def _comparison(row: Mapping[Any, Any]) -> str:
    return f"{name_of(row['recipe'])} {row['epochs']} minus {name_of(row['reference'])} {row['reference_epochs']}"


def _comparison_and_share(row: Mapping[Any, Any]) -> str:
    return f"{row['comparison']} at {row['train_fraction']:.0%}"


def _seeds(rows: pd.DataFrame) -> str:
    """How many seeds the rows of a table have."""
    least, most = int(rows["num_seeds"].min()), int(rows["num_seeds"].max())
    return count(most, "seed") if least == most else f"{least} to {count(most, 'seed')}"


def _dots(rows: pd.DataFrame) -> str:
    """What says that seeds are drawn, if they are."""
    return "Small dots: single seeds. " if rows["num_seeds"].min() <= FEW else ""


def _raised(rows: pd.DataFrame) -> str:
    above, below = (rows["low"] > 0).sum(), (rows["high"] < 0).sum()
    return f"above zero in {above} of {count(len(rows), 'case')}, below in {below}"
