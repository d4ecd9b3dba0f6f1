"""Figures of trained students: they draw numbers that `training_tables` estimated, and compute none."""

from collections.abc import Iterator

import pandas as pd
import seaborn as sns

from reports import training_tables
from reports.drawing import MARKERS, SERIES, Figure, dots, dots_told, effects_across, mark, name_rows, panel, panels
from reports.evidence import Evidence
from reports.pairs import by_seed
from reports.setting import LEAST, LIMITED, PLACE
from reports.wording import NOT_CORRECTED, apart_told, count, effects, name_of, number, recipe_and_target, seeds_told


def build(evidence: Evidence) -> Iterator[Figure]:
    """Every figure of trained students that the evidence allows."""
    for fraction in (LIMITED, LEAST):
        if len(seeds := training_tables.recipe_seeds(evidence, fraction)):
            for measure in ("test_score", "generalization_gap"):
                yield _recipe_figure(seeds, measure, fraction)
    if len(set((shares := training_tables.by_share(evidence))["train_fraction"])) > 1:
        yield _share_figure(shares)
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
        f"its 95 % t interval over {seeds_told(summary)}; recipes share their seeds, so "
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
        f"{PLACE}. Means with 95 % t intervals over {seeds_told(shares)}. {dots_told(shares)}Epochs are such "
        "that the number of steps is the same for all shares of at most 20 %. The order of the means is not tested.",
        tuple(svgs),
        f"Line chart of the test score over the share of the data. {told}.",
        by_seed(shares),
        "mixkd suite breadth",
    )


def _robustness_figure(moved: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    targets = list(dict.fromkeys(moved["target"]))
    recipes = list(dict.fromkeys(moved["recipe"]))
    with panels("robustness", svgs, len(targets), width=1.75 * len(targets) + 1.2) as grid:
        for axes, target in zip(grid, targets, strict=True):
            effects_across(axes, moved[moved["target"] == target], "recipe", recipes)
            axes.set(xlabel="score minus KD's", title=target)
        name_rows(grid[0], [name_of(recipe) for recipe in recipes])
    ours = moved[moved["recipe"] == "sm+tmkd"]
    told = effects(ours, lambda row: row["target"])
    return Figure(
        "robustness",
        f"SM+TMKD's score minus KD's: {told}" if told else "Scores minus KD's under noise and on other texts",
        f"{PLACE}, {LIMITED:.0%} of the training data; trained on movie sentences, tested on others and with noise. "
        f"Paired differences with 95 % t intervals over {seeds_told(moved)}; no registered claims. "
        f"{apart_told(moved)}{dots_told(moved)}{NOT_CORRECTED} "
        "Where the tokenizer ignores case, as BERT's uncased ones do, wrong case changes nothing.",
        tuple(svgs),
        f"Dot charts of differences in score. {effects(moved, recipe_and_target)}.",
        by_seed(moved),
        "mixkd suite full",
        stacked=True,
    )
