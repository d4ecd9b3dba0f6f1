"""Figures: they draw numbers that `tables` estimated, beside those of the simulations, and compute none."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import seaborn as sns

from reports import bound_figures, over_n_figures, simulation_figures, tables
from reports.drawing import GRID, INK, MARKERS, SERIES, Figure, log_sizes, panel
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
    if len(ways := tables.end_to_end(evidence)):
        figures.append(_pareto_figure(ways))
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
        f"{SETTING['task']}, {LIMITED:.0%} of the training data, {SETTING['student_layers']} layers. Grey: every seed, "
        f"joined across recipes. Coloured: mean with its 95 % t interval over "
        f"{count(int(summary['num_seeds'].max()), 'seed')}.",
        tuple(svgs),
        f"Dot chart of the {name} per recipe. {values}.",
        seeds[["recipe", "seed", measure]],
        "mixkd suite quick",
    )


def _pareto_figure(ways: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    models = list(dict.fromkeys(zip(ways["model"], ways["num_layers"], strict=True)))
    variants = sorted(set(ways["variant"]))
    with panel("pareto", svgs, width=7.0, height=4.2) as axes:
        front = ways[ways["on_front"]]
        axes.plot(front["examples_per_s"], front["score"], color=GRID, linewidth=4, zorder=0)
        for row in ways.to_dict("records"):
            marker = MARKERS[models.index((row["model"], row["num_layers"])) % len(MARKERS)]
            color = SERIES[variants.index(row["variant"]) % len(SERIES)]
            reach = [[row["score"] - row["score_low"]], [row["score_high"] - row["score"]]]
            axes.errorbar([row["examples_per_s"]], [row["score"]], yerr=reach, fmt=marker, color=color, capsize=2)
        for k, (model, layers) in enumerate(models):
            axes.plot([], [], MARKERS[k % len(MARKERS)], color=INK, label=f"{layers:g}-layer {model}")
        for k, variant in enumerate(variants):
            axes.plot([], [], "-", color=SERIES[k % len(SERIES)], linewidth=4, label=variant)
        log_sizes(axes, ways["examples_per_s"].round().astype(int).iloc[[0, len(ways) // 2, -1]])
        axes.set(xlabel="texts per second, tokenisation included", ylabel="test score")
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    told = "; ".join(f"{_way(row)} ({_speed_and_score(row)})" for row in front.to_dict("records"))
    plain = ways[(ways["model"] == "student") & (ways["variant"] == "float32")]
    beaten = [
        f"{_way(teacher)} is faster than {_way(student)} and scores higher ({_speed_and_score(teacher)} against "
        f"{_speed_and_score(student)})"
        for student in plain.to_dict("records")
        for teacher in ways[ways["model"] == "teacher"].to_dict("records")
        if teacher["examples_per_s"] > student["examples_per_s"] and teacher["score"] > student["score"]
    ]
    lesson = "; ".join(beaten) or "no way to run the teacher is both faster and better than a student in float32"
    return Figure(
        "pareto",
        f"Nothing is both faster and better than {told}",
        f"Every model in every way to run it, over {ways['num_examples'].max():,.0f} test texts in batches of "
        f"{ways['batch_size'].max():g}, padded to the longest. Bars: Wilson's 95 % interval of the score. "
        f"{lesson[0].upper()}{lesson[1:]}.",
        tuple(svgs),
        f"Scatter chart of score against texts per second. {told}.",
        ways,
        "mixkd bench -k end_to_end",
    )


def _way(row: Mapping[Any, Any]) -> str:
    return f"the {row['num_layers']:g}-layer {row['model']} in {row['variant']}"


def _speed_and_score(row: Mapping[Any, Any]) -> str:
    return f"{number(row['examples_per_s'])} texts/s, {number(row['score'])}"


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
            label = f"{row['model']}, {row['num_layers']:g} layers\n{row['num_parameters'] / 1e6:.1f} M parameters"
            axes.annotate(label, (row["latency_ms"], row["test_score"]), xytext=(12, 0), va="center",
                          textcoords="offset points", fontsize=8.5)  # fmt: skip
        axes.margins(0.35)
        axes.set(xlabel="median latency (ms)", ylabel="test score (share correct)")
    words = [
        f"the {row['num_layers']:g}-layer {row['model']} ({row['num_parameters'] / 1e6:.1f} M parameters) answers in "
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
        f"number of parameters. Student's score: SM+TMKD on {SETTING['task']} at {LIMITED:.0%} of the data, with "
        "its 95 % t interval over seeds; one teacher has none. Latencies and their intervals are in the table below.",
        tuple(svgs),
        f"Scatter chart of test score against latency: {title}.",
        models,
        "mixkd bench",
    )
