"""Figures: they draw numbers that `tables` estimated, beside those of the simulations, and compute none."""

import pandas as pd
import seaborn as sns

from reports import over_n_figures, simulation_figures, tables
from reports.claims import LIMITED_FRACTION, LIMITED_LAYERS, LIMITED_TASK
from reports.drawing import MARKERS, SERIES, Figure, panel
from reports.evidence import Evidence
from reports.wording import RECIPES, count, interval, number


def build(evidence: Evidence) -> list[Figure]:
    """Every figure that the evidence allows."""
    figures = [*over_n_figures.build(evidence), *simulation_figures.build(evidence)]
    seeds = tables.recipe_seeds(evidence)
    for measure in ("test_score", "generalization_gap"):
        if len(seeds):
            figures.append(_recipe_figure(seeds, measure))
    if len(models := tables.size_latency_score(evidence)):
        figures.append(_size_figure(models))
    return figures


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
        f"{LIMITED_TASK}, {LIMITED_FRACTION:.0%} of the training data, {LIMITED_LAYERS} layers. Grey: every seed, "
        f"joined across recipes. Coloured: mean with its 95 % t interval over "
        f"{count(int(summary['num_seeds'].max()), 'seed')}.",
        tuple(svgs),
        f"Dot chart of the {name} per recipe. {values}.",
        seeds[["recipe", "seed", measure]],
        "mixkd suite quick",
    )


def _size_figure(models: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    drawn = models.assign(latency_ms=models["p50_s"] * 1e3)
    with panel("size", svgs, width=5.6) as axes:
        for place, row in enumerate(drawn.to_dict("records")):
            k = place % len(SERIES)
            axes.scatter([row['latency_ms']], [row['test_score']], s=row['num_parameters'] / 1e5, marker=MARKERS[k],
                         color=SERIES[k], alpha=0.85)  # fmt: skip
            reach = [[row["test_score"] - row["score_low"]], [row["score_high"] - row["test_score"]]]
            axes.errorbar([row["latency_ms"]], [row["test_score"]], yerr=reach, color=SERIES[k], capsize=3)
            label = f"{row['model']}, {row['num_layers']} layers\n{row['num_parameters'] / 1e6:.1f} M parameters"
            axes.annotate(label, (row["latency_ms"], row["test_score"]), xytext=(12, 0), va="center",
                          textcoords="offset points", fontsize=8.5)  # fmt: skip
        axes.margins(0.35)
        axes.set(xlabel="median latency (ms)", ylabel="test score (share correct)")
    words = [
        f"the {row['num_layers']}-layer {row['model']} ({row['num_parameters'] / 1e6:.1f} M parameters) answers in "
        f"{number(row['latency_ms'])} ms and scores {number(row['test_score'])}"
        + (f" {interval(row['score_low'], row['score_high'])}" if row["score_low"] < row["score_high"] else "")
        for row in drawn.to_dict("records")
    ]
    title = "; ".join(words)
    first = models.iloc[0]
    return Figure(
        "size",
        title[0].upper() + title[1:],
        f"Batch of {first['batch_size']:g}, {first['sequence_length']:g} tokens; the area of a marker grows with the "
        f"number of parameters. Student's score: SM+TMKD on {LIMITED_TASK} at {LIMITED_FRACTION:.0%} of the data, with "
        "its 95 % t interval over seeds; one teacher has none. Latencies and their intervals are in the table below.",
        tuple(svgs),
        f"Scatter chart of test score against latency: {title}.",
        models,
        "mixkd bench",
    )
