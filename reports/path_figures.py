"""Figures of what happens between two texts: they draw numbers that `training_tables` estimated, and compute none."""

from collections.abc import Iterator

import pandas as pd

from reports import training_tables
from reports.drawing import INK, MARKERS, SERIES, Figure, mark, panels
from reports.evidence import Evidence
from reports.pairs import by_seed
from reports.setting import LIMITED, PLACE
from reports.wording import count, effects, name_of, recipe_and_target

_NUM_DRAWN = 8


def build(evidence: Evidence) -> Iterator[Figure]:
    """Every figure of paths between texts that the evidence allows."""
    if len(evidence.paths):
        yield _path_figure(evidence.paths, training_tables.halves(evidence))
    if len(differences := training_tables.paths(evidence)):
        yield _distance_figure(differences, training_tables.path_means(evidence))


def _path_figure(paths: pd.DataFrame, halves: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    with panels("paths", svgs, len(halves), width=2.5 * len(halves) + 0.6, height=3.0) as grid:
        for axes, recipe in zip(grid, halves["recipe"], strict=True):
            points = paths[paths["recipe"] == recipe]
            texts = points[points["pair"].isna()]
            units = texts[["x", "y"]].std()
            for k, name in ((1, "negative"), (3, "positive")):
                of_label = texts.loc[texts["label_source"] == (k == 3), ["x", "y"]] / units
                axes.plot(of_label["x"], of_label["y"], MARKERS[k], color=SERIES[k], markersize=2.5, alpha=0.4,
                          linewidth=0, markeredgewidth=0, label=name)  # fmt: skip
            for _, path in points[points["pair"] < _NUM_DRAWN].groupby("pair"):
                line = path.sort_values("lam")[["x", "y"]] / units
                axes.plot(line["x"], line["y"], color=INK, marker=".", markersize=3, linewidth=0.9, alpha=0.8)
            axes.set(title=name_of(recipe), xlabel="first axis")
        grid[0].set_ylabel("second axis")
        grid[0].legend(fontsize=8, title="a text's label", title_fontsize=8, markerscale=2)
    told = effects(halves.rename(columns={"median": "effect"}), lambda row: name_of(row["recipe"]))
    return Figure(
        "paths",
        f"Half-way between two texts, how far [CLS] is off the straight line, in lengths of that line: {told}",
        f"{PLACE}, {LIMITED:.0%} of the training data, seed {paths['init_seed'].iloc[0]}. Points: the last state of "
        "[CLS] for real test texts, on the two principal axes of each model's own states, each axis in standard "
        f"deviations. Lines: where {count(_NUM_DRAWN, 'pair')} of texts go while their word embeddings are mixed, a "
        f"dot for each tenth. The distances are medians over {count(int(halves['num_pairs'].max()), 'pair')} with "
        "order-statistic 95 % intervals, in all dimensions; one student each, so nothing is said of other seeds.",
        tuple(svgs),
        f"Paths through the space of hidden states. Distances half-way: {told}.",
        paths,
        "mixkd suite full",
        stacked=True,
    )


def _distance_figure(differences: pd.DataFrame, means: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    targets = list(dict.fromkeys(means["target"]))
    recipes = list(dict.fromkeys(means["recipe"]))
    with panels("interpolation", svgs, len(targets), width=2.6 * len(targets) + 1.2) as grid:
        for axes, target in zip(grid, targets, strict=True):
            for row in means[means["target"] == target].to_dict("records"):
                k = 3 if row["recipe"] == "teacher" else 1
                estimate = (row["mean"], row["low"], row["high"])
                mark(axes, recipes.index(row["recipe"]), estimate, k, across=True, seeds=row["seeds"])
            axes.set(xlabel=target)
        grid[0].set_yticks(range(len(recipes)), [name_of(recipe) for recipe in recipes])
        grid[0].invert_yaxis()
    told = effects(differences[differences["recipe"] == "sm+tmkd"], lambda row: row["target"])
    return Figure(
        "interpolation",
        f"Half-way between two texts, SM+TMKD's distances minus FT's: {told}"
        if told
        else "How far students are half-way between two texts",
        f"{PLACE}, {LIMITED:.0%} of the training data. Word embeddings of two test texts are mixed half and half. "
        "Drawn is how far the last state of [CLS] is from the line between the states of the two (in lengths of that "
        "line) and from the nearest other text (in mean distances of a text to its nearest), and how far the predicted "
        "probabilities are from the mean of the two texts' (total variation). Means with 95 % t intervals over seeds; "
        "one teacher has none.",
        tuple(svgs),
        f"Dot charts of distances, minus FT's. {effects(differences, recipe_and_target)}.",
        by_seed(pd.concat([means.assign(minus=""), differences.rename(columns={"effect": "mean"}).assign(minus="ft")])),
        "mixkd suite full",
        stacked=True,
    )
