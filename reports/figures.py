"""Figures: they draw numbers that `tables` estimated, beside those of the simulations, and compute none."""

import pandas as pd
import seaborn as sns

from reports import benchmark_figures, bound_figures, over_n_figures, simulation_figures, tables
from reports.drawing import MARKERS, SERIES, Figure, panel
from reports.evidence import Evidence
from reports.setting import LIMITED, SETTING
from reports.wording import RECIPES, count, interval, number


def build(evidence: Evidence) -> list[Figure]:
    """Every figure that the evidence allows."""
    figures = [*over_n_figures.build(evidence), *bound_figures.build(evidence), *simulation_figures.build(evidence)]
    seeds = tables.recipe_seeds(evidence)
    for measure in ("test_score", "generalization_gap"):
        if len(seeds):
            figures.append(_recipe_figure(seeds, measure))
    return [*figures, *benchmark_figures.build(evidence)]


def _recipe_figure(seeds: pd.DataFrame, measure: str) -> Figure:
    key, name, unit, best = {
        "test_score": ("score", "test score", "share correct", "highest"),
        "generalization_gap": ("gap", "generalization gap", "nats", "smallest"),
    }[measure]
    summary = tables.recipe_summary(seeds, measure)
    recipes = list(summary["recipe"])
    svgs: list[str] = []
    with panel(key, svgs, width=5.6) as axes:
        sns.lineplot(seeds, x="recipe", y=measure, units="seed", estimator=None, color=SERIES[0], alpha=0.45,
                     linewidth=0.8, ax=axes)  # fmt: skip
        sns.stripplot(seeds, x="recipe", y=measure, color=SERIES[0], jitter=False, size=4, ax=axes)
        for place, row in enumerate(summary.to_dict("records")):
            k = place % (len(SERIES) - 1) + 1
            reach = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]] if row["high"] < float("inf") else None
            axes.errorbar([place + 0.18], [row["mean"]], yerr=reach, fmt=MARKERS[k], color=SERIES[k], capsize=3)
        axes.set_xticks(range(len(recipes)), [RECIPES.get(recipe, recipe) for recipe in recipes])
        axes.set(xlabel="recipe", ylabel=f"{name} ({unit})")
        axes.grid(visible=False, axis="x")
    ranked = summary.sort_values("mean", ascending=best == "smallest")
    winner = ranked.to_dict("records")[0]
    values = "; ".join(
        f"{RECIPES.get(str(row['recipe']), row['recipe'])} {number(row['mean'])} {interval(row['low'], row['high'])}"
        for row in summary.to_dict("records")
    )
    return Figure(
        key,
        f"{RECIPES.get(winner['recipe'], winner['recipe'])} has the {best} mean {name}, {number(winner['mean'])}, "
        f"of {count(len(summary), 'recipe')}",
        f"{SETTING['task']}, {LIMITED:.0%} of the training data, {SETTING['student_layers']} layers. Grey: every seed, "
        f"joined across recipes. Coloured: mean with its 95 % t interval over "
        f"{count(int(summary['num_seeds'].max()), 'seed')}.",
        tuple(svgs),
        f"Dot chart of the {name} per recipe. {values}.",
        seeds[["recipe", "seed", measure]],
        "mixkd suite quick",
    )
