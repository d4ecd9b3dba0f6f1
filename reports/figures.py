"""Figures as inline SVG: they draw numbers that `tables` estimated, and compute none.

Colours are CSS variables, so that one drawing reads well on a light and on a dark page; arms and recipes also
differ by marker. Texts stay texts, in the page's font.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from reports import tables
from reports.claims import LIMITED_FRACTION, LIMITED_LAYERS, LIMITED_TASK
from reports.evidence import Evidence
from reports.wording import RECIPES, count, interval, number

#: Drawn colour -> CSS. The series are Okabe and Ito's, which colour-blind readers can tell apart.
_INK, _GRID = "#101112", "#d0d1d2"
_SERIES = ["#6f7071", "#0072b2", "#009e73", "#d55e00", "#aa4499"]
_CSS = {_INK: "currentColor", _GRID: "var(--rule)", **{c: f"var(--series-{k})" for k, c in enumerate(_SERIES)}}
_MARKERS = ["o", "s", "^", "D", "v"]
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "mixkd", "text.parse_math": False, "font.size": 10,
    "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.grid": True, "axes.axisbelow": True, "grid.color": _GRID,
    "grid.linewidth": 0.6, "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 5.5,
}  # fmt: skip

ARMS = {"S0": "S0 none", "S1": "S1 fresh inputs", "S2": "S2 independent mixup", "S3": "S3 in-sample mixup"}


@dataclass(frozen=True)
class Figure:
    """A drawing, what it shows in words, and the numbers in it.

    Attributes:
        title: The finding, generated from the numbers.
        panels: One SVG element each.
        alt: The numbers that matter, for those who do not see the drawing.
        command: What regenerates the evidence.
    """

    key: str
    title: str
    caption: str
    panels: tuple[str, ...]
    alt: str
    data: pd.DataFrame
    command: str


@contextmanager
def _panel(key: str, svgs: list[str], width: float = 4.6) -> Iterator[Axes]:
    """Axes to draw on; their SVG is appended to `svgs`, with ids that no other panel has."""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        canvas = Canvas(figsize=(width, 3.3), layout="constrained")
        FigureCanvasSVG(canvas)
        yield canvas.add_subplot()
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svgs.append(_inline(buffer.getvalue(), f"{key}-{len(svgs)}"))


def _inline(svg: str, prefix: str) -> str:
    """An SVG file's text as an element of an HTML page: no prolog, addresses, fixed size or common ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r"font(-family)?: [^;\"]*'[^;\"]*", _font, body)
    for drawn, css in _CSS.items():
        body = body.replace(drawn, css)
    return f'<svg {view_box[0]} aria-hidden="true" focusable="false">{body}'


def _font(match: re.Match[str]) -> str:
    """Keep a text's size, and leave its font to the page."""
    size = re.search(r"[\d.]+px", match[0])
    return f"font-size: {size[0]}" if size else "font-family: inherit"


def build(evidence: Evidence) -> list[Figure]:
    """Every figure that the evidence allows."""
    gaps = tables.gap_by_n(evidence)
    seeds = tables.recipe_seeds(evidence)
    figures = []
    for measure in tables.GAP_MEASURES:
        chosen = gaps[(gaps["measure"] == measure) & ~tables.is_rounding(gaps)]
        exact = sorted(set(gaps["world"]) - set(chosen["world"]))
        if len(chosen):
            figures.append(_gap_figure(chosen, measure, exact))
    for measure in ("test_score", "generalization_gap"):
        if len(seeds):
            figures.append(_recipe_figure(seeds, measure))
    if len(models := tables.size_latency_score(evidence)):
        figures.append(_size_figure(models))
    return figures


def _gap_figure(data: pd.DataFrame, measure: str, exact: list[str]) -> Figure:
    key, name = {
        "sup_one_sided": ("deviation", "one-sided uniform deviation"),
        "generalization_gap": ("learned-gap", "learned generalization gap"),
    }[measure]
    svgs: list[str] = []
    for world, group in data.groupby("world"):
        with _panel(key, svgs) as axes:
            _draw_arms(axes, group)
            axes.set(xlabel="originals n", ylabel=f"{name}\n(squared loss)", title=f"World {world}")
            if measure == "sup_one_sided":
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axes.yaxis.set_minor_locator(NullLocator())
    ends = data[data["num_samples"].isin([data["num_samples"].min(), data["num_samples"].max()])]
    alt = "; ".join(
        f"{row['world']}, {row['arm']}, n = {row['num_samples']}: "
        f"{number(row['mean'])} {interval(row['low'], row['high'])}"
        for row in ends.to_dict("records")
    )
    return Figure(
        key,
        f"{name[0].upper()}{name[1:]}: {_effect(data, 'S3', 'in-sample mixup (S3)', ('shrinks', 'enlarges'))}; "
        f"{_effect(data, 'S1', 'fresh inputs (S1)', ('shrink', 'enlarge'))}",
        f"Mean {name} by number of originals, with 95 % intervals over "
        f"{count(int(data['num_replicates'].max()), 'replicate')}; every arm adds as many inputs as there are "
        f"originals. The teacher is inside the student's class in W1 and outside in W2."
        + (f" Not drawn: {', '.join(exact)}, where it is zero but for rounding." if exact else ""),
        tuple(svgs),
        f"Line charts of the mean {name}. {alt}.",
        data,
        f"mixkd theory {tables.GAP_STUDY}",
    )


def _effect(data: pd.DataFrame, arm: str, name: str, verbs: tuple[str, str]) -> str:
    """In how many settings an arm differs from none, by its paired interval."""
    rows = data[(data["arm"] == arm) & data["difference"].notna()]
    smaller, larger = (rows["difference_high"] < 0).sum(), (rows["difference_low"] > 0).sum()
    return f"{name} {verbs[0]} it in {smaller} of {len(rows)} settings and {verbs[1]} it in {larger}"


def _draw_arms(axes: Axes, group: pd.DataFrame) -> None:
    for k, (arm, label) in enumerate(ARMS.items()):
        rows = group[group["arm"] == arm].sort_values("num_samples")
        axes.fill_between(rows["num_samples"], rows["low"], rows["high"], color=_SERIES[k], alpha=0.25, linewidth=0)
        sns.lineplot(rows, x="num_samples", y="mean", color=_SERIES[k], marker=_MARKERS[k], label=label, ax=axes,
                     errorbar=None, markeredgecolor="none")  # fmt: skip
    sizes = sorted(group["num_samples"].unique())
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=8.5)


def _recipe_figure(seeds: pd.DataFrame, measure: str) -> Figure:
    key, name, unit, best = {
        "test_score": ("score", "test score", "share correct", "highest"),
        "generalization_gap": ("gap", "generalization gap", "nats", "smallest"),
    }[measure]
    summary = tables.recipe_summary(seeds, measure)
    recipes = list(summary["recipe"])
    svgs: list[str] = []
    with _panel(key, svgs, width=5.6) as axes:
        sns.lineplot(seeds, x="recipe", y=measure, units="seed", estimator=None, color=_SERIES[0], alpha=0.45,
                     linewidth=0.8, ax=axes)  # fmt: skip
        sns.stripplot(seeds, x="recipe", y=measure, color=_SERIES[0], jitter=False, size=4, ax=axes)
        for place, row in enumerate(summary.to_dict("records")):
            k = place % (len(_SERIES) - 1) + 1
            reach = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]] if row["high"] < float("inf") else None
            axes.errorbar([place + 0.18], [row["mean"]], yerr=reach, fmt=_MARKERS[k], color=_SERIES[k], capsize=3)
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
    with _panel("size", svgs, width=5.6) as axes:
        for place, row in enumerate(drawn.to_dict("records")):
            k = place % len(_SERIES)
            axes.scatter([row['latency_ms']], [row['test_score']], s=row['num_parameters'] / 1e5, marker=_MARKERS[k],
                         color=_SERIES[k], alpha=0.85)  # fmt: skip
            reach = [[row["test_score"] - row["score_low"]], [row["score_high"] - row["test_score"]]]
            axes.errorbar([row["latency_ms"]], [row["test_score"]], yerr=reach, color=_SERIES[k], capsize=3)
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
