"""The figures of the bounds: they draw numbers that `over_n` and `simulation` estimated, and compute none."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from reports import over_n, simulation
from reports.drawing import INK, MARKERS, SERIES, Figure, log_sizes, log_values, mark, panel, panels
from reports.evidence import Evidence
from reports.over_n_figures import ARMS
from reports.wording import interval, number, replicates


def build(evidence: Evidence) -> Iterator[Figure]:
    """Every figure of the bounds that the evidence allows."""
    if len(data := over_n.coverage(evidence)):
        yield _coverage(data)
    if len(data := simulation.coverages(evidence)):
        yield _bounds(data)


def _coverage(data: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    for world, group in data.groupby("world"):
        with panel("coverage", svgs) as axes:
            for arm, rows in group.groupby("arm"):
                k = list(ARMS).index(str(arm))
                rows = rows.sort_values("num_samples")
                axes.plot(rows["num_samples"], rows["bound"], color=SERIES[k], marker=MARKERS[k], linestyle="--")
                axes.plot(rows["num_samples"], rows["quantile"], color=SERIES[k], marker=MARKERS[k], label=arm)
            log_sizes(axes, group["num_samples"])
            log_values(axes)
            axes.set(xlabel="originals n", ylabel="one-sided deviation (squared loss)", title=f"World {world}")
            axes.set_ylim(bottom=group["quantile"].min() / 5)
            title = "bound dashed, 95 % quantile solid"
            axes.legend(fontsize=8.5, loc="lower left", ncols=4, title=title, title_fontsize=8.5)
    held = (data["coverage"] == 1).sum()
    tightest = data.sort_values("slack").to_dict("records")[0]
    title = (
        f"The bounds hold in every replicate in {held} of {len(data)} settings; they are {number(data['slack'].min())} "
        f"to {number(data['slack'].max())} times the quantile they bound"
    )
    return Figure(
        "coverage",
        title,
        f"Bounds T0 to T3 and the 95 % quantile of what they bound, over {replicates(data)}. "
        f"The tightest: {tightest['world']} {tightest['arm']} at n = {tightest['num_samples']}, coverage "
        f"{number(tightest['coverage'])} {interval(tightest['low'], tightest['high'])} (Clopper and Pearson).",
        tuple(svgs),
        f"Line charts of bounds and quantiles. {title}.",
        data,
        "mixkd theory gap_by_n",
    )


def _bounds(data: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    bounds = list(dict.fromkeys(data["bound"]))
    constants = list(dict.fromkeys(data["constant"]))
    kinds = {1: "as derived", 3: "one constant wrong, and told", 0: "one constant wrong, not told"}
    with panels("bounds", svgs, len(bounds), width=2.4 * len(bounds) + 1.6) as grid:
        for axes, bound in zip(grid, bounds, strict=True):
            rows = data[data["bound"] == bound]
            worlds = list(dict.fromkeys(rows["world"]))
            for row in rows.to_dict("records"):
                k = 1 if not row["constant"] else 3 if row["told"] else 0
                place = worlds.index(row["world"]) + 0.12 * (
                    constants.index(row["constant"]) - (len(constants) - 1) / 2
                )
                mark(axes, place, (row["coverage"], row["low"], row["high"]), k)
            axes.axhline(0.95, color=INK, linewidth=0.8)
            axes.set_xticks(range(len(worlds)), [world.replace(" ", "\n") for world in worlds])
            axes.set(title=bound, xlabel="world", xlim=(-0.6, len(worlds) - 0.4))
            axes.grid(visible=False, axis="x")
        grid[0].set_ylabel("share of replicates that hold")
        for k, kind in kinds.items():
            grid[-1].plot([], [], MARKERS[k], color=SERIES[k], label=kind)
        grid[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    right, wrong = data[data["constant"] == ""], data[data["constant"] != ""]
    lowest = right.sort_values("coverage").to_dict("records")[0]
    title = (
        f"As derived, bounds hold in at least {lowest['coverage']:.1%} {_share_interval(lowest)} of all replicates; "
        f"coverage tells {wrong['told'].sum()} of {len(wrong)} bounds with a wrong constant from a right one"
    )
    of_each = "; ".join(f"{bound} {rows['told'].sum()} of {len(rows)}" for bound, rows in wrong.groupby("bound"))
    told = "; ".join(
        f"{row['bound']} {row['world']} {row['constant'] or 'as derived'} {row['coverage']:.1%} {_share_interval(row)}"
        for row in data[(data["constant"] == "") | data["told"]].to_dict("records")
    )
    return Figure(
        "bounds",
        title,
        f"One-sided bounds T0 to T3 over {replicates(data)}, with Clopper and Pearson's 95 % intervals; the line is "
        f"what the bounds promise. Wrong constants told: {of_each}. Where a bound is far above what it bounds, a wrong "
        "constant cannot be seen; in coin complexities and discrepancy vanish, so that only the largest loss M can be "
        "wrong there.",
        tuple(svgs),
        f"Dot chart of coverage. {told}.",
        data,
        "mixkd theory T01 T02 T03 T04",
        stacked=True,
    )


def _share_interval(row: Mapping[Any, Any]) -> str:
    return f"[{row['low']:.1%}, {row['high']:.1%}]"
