"""The figures over the number of originals: they draw numbers that `over_n` estimated, and compute none."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from reports import over_n
from reports.claims import DELTA, EPSILON
from reports.drawing import MARKERS, SERIES, Figure, log_sizes, log_values, mark, panel
from reports.evidence import Evidence
from reports.wording import interval, number, replicates

ARMS = {"S0": "S0 none", "S1": "S1 fresh inputs", "S2": "S2 independent mixup", "S3": "S3 in-sample mixup"}


def build(evidence: Evidence) -> Iterator[Figure]:
    """Every figure over n that the evidence allows."""
    gaps = over_n.gap_by_n(evidence)
    for measure in over_n.GAP_MEASURES:
        chosen = gaps[(gaps["measure"] == measure) & ~over_n.is_rounding(gaps)]
        exact = sorted(set(gaps["world"]) - set(chosen["world"]))
        if len(chosen):
            yield _gaps(chosen, measure, exact)
    if len(data := over_n.rates(evidence)):
        yield _rates(data)
        yield _sample_sizes(over_n.sample_sizes(evidence))
    if len(data := over_n.identification(evidence)):
        yield _identification(data)


def _gaps(data: pd.DataFrame, measure: str, exact: list[str]) -> Figure:
    key, name = {
        "sup_one_sided": ("deviation", "one-sided uniform deviation"),
        "generalization_gap": ("learned-gap", "learned generalization gap"),
    }[measure]
    svgs: list[str] = []
    for world, group in data.groupby("world"):
        with panel(key, svgs) as axes:
            _draw_arms(axes, group)
            axes.set(xlabel="originals n", ylabel=f"{name}\n(squared loss)", title=f"World {world}")
            if measure == "sup_one_sided":
                log_values(axes)
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
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
        f"{replicates(data)}; every arm adds as many inputs as there are "
        f"originals. The teacher is inside the student's class in W1 and outside in W2."
        + (f" Not drawn: {', '.join(exact)}, where it is zero but for rounding." if exact else ""),
        tuple(svgs),
        f"Line charts of the mean {name}. {alt}.",
        data,
        f"mixkd theory {over_n.GAP_STUDY}",
    )


def _effect(data: pd.DataFrame, arm: str, name: str, verbs: tuple[str, str]) -> str:
    """In how many settings an arm differs from none, by its paired interval."""
    rows = data[(data["arm"] == arm) & data["difference"].notna()]
    smaller, larger = (rows["difference_high"] < 0).sum(), (rows["difference_low"] > 0).sum()
    return f"{name} {verbs[0]} it in {smaller} of {len(rows)} settings and {verbs[1]} it in {larger}"


def _draw_arms(axes: Axes, group: pd.DataFrame) -> None:
    for k, (arm, label) in enumerate(ARMS.items()):
        rows = group[group["arm"] == arm].sort_values("num_samples")
        axes.fill_between(rows["num_samples"], rows["low"], rows["high"], color=SERIES[k], alpha=0.25, linewidth=0)
        axes.plot(rows["num_samples"], rows["mean"], color=SERIES[k], marker=MARKERS[k], label=label)
    log_sizes(axes, group["num_samples"])
    axes.legend(fontsize=8.5)


def _rates(data: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    for world, group in data.groupby("world"):
        with panel("rate", svgs) as axes:
            for arm, rows in group.groupby("arm"):
                k = list(ARMS).index(str(arm))
                rows = rows.sort_values("num_samples")
                slope, low, high = rows[["slope", "low", "high"]].to_numpy()[0]
                label = f"{arm}: slope {number(slope)} {interval(low, high)}" if slope < 0 else f"{arm}: no line"
                axes.plot(rows["num_samples"], rows["mean"], MARKERS[k], color=SERIES[k], label=label)
                axes.plot(rows["num_samples"], rows["fitted"], color=SERIES[k], linewidth=1)
            log_sizes(axes, group["num_samples"])
            log_values(axes)
            axes.set(xlabel="originals n", ylabel="one-sided deviation (squared loss)", title=f"World {world}")
            axes.legend(fontsize=8, loc="lower left")
    fits = data.drop_duplicates(["world", "arm"]).to_dict("records")
    told = "; ".join(
        f"{row['world']} {row['arm']} {number(row['slope'])} {interval(row['low'], row['high'])}"
        for row in fits
        if row["arm"] in ("S0", "S1")
    )
    return Figure(
        "rate",
        f"How the deviation falls without mixup, as a power of n: {told}",
        "Geometric mean of the one-sided deviation and the line fitted to all replicates in logs "
        f"({fits[0]['num_values']:,} of each arm), with HC3 intervals of the slope. Under mixup (S2, S3) the deviation "
        "does not fall to zero, and no line is fitted.",
        tuple(svgs),
        f"Line charts of the deviation over n. Slopes: {told}.",
        data,
        "mixkd theory gap_by_n",
    )


def _sample_sizes(data: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    drawn = data.dropna(subset="effect")
    with panel("sample-size", svgs, width=5.6) as axes:
        for place, row in enumerate(drawn.to_dict("records")):
            k = list(ARMS).index(row["arm"])
            mark(axes, place, (row["effect"], row["low"], row["high"]), k)
        axes.set_xticks(range(len(drawn)), [f"{row['world']}\n{row['arm']}" for row in drawn.to_dict("records")])
        axes.set(ylabel=f"originals for a deviation of {EPSILON:g}")
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
    never = [f"{row['world']} {row['arm']}" for row in data[data["effect"].isna()].to_dict("records")]
    sizes = "; ".join(
        f"{row['world']} {row['arm']}: {number(round(row['effect']))} {interval(row['low'], row['high'])}"
        for row in drawn.to_dict("records")
    )
    lacking = f"; not reached with {data['largest_size'].max():,} by {', '.join(never)}" if never else ""
    return Figure(
        "sample-size",
        f"Originals needed for a one-sided deviation of at most {EPSILON:g}: {sizes}{lacking}",
        f"The least n with P(deviation at most {EPSILON:g}) at least {1 - DELTA:g}, by a monotone search over the "
        "sizes simulated, with 95 % bootstrap intervals; every arm adds as many inputs as there are originals.",
        tuple(svgs),
        f"Chart of least sample sizes. {sizes}{lacking}.",
        data,
        "mixkd theory gap_by_n",
    )


def _identification(data: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    names = {"S0": "originals alone", "S3": "originals with one mixup per pair"}
    with panel("identification", svgs, width=5.6) as axes:
        for arm, rows in data.groupby("arm"):
            k = list(ARMS).index(str(arm))
            rows = rows.sort_values("num_samples")
            axes.fill_between(rows["num_samples"], rows["low"], rows["high"], color=SERIES[k], alpha=0.25, linewidth=0)
            axes.plot(rows["num_samples"], rows["median"], color=SERIES[k], marker=MARKERS[k], label=names[str(arm)])
        log_values(axes)
        axes.set(xlabel="originals n", ylabel="median risk (squared loss)")
        axes.legend(fontsize=8.5)
    found = {
        arm: int(rows.loc[rows["median"] < 1e-8, "num_samples"].min())
        for arm, rows in data.groupby("arm")
        if (rows["median"] < 1e-8).any()
    }
    told = ", ".join(f"{names[str(arm)]} from n = {n}" for arm, n in found.items())
    title = (
        f"A quadratic in six dimensions is found by {told}" if told else "No number of originals finds the quadratic"
    )
    return Figure(
        "identification",
        title,
        "Median risk of min-norm students on all 28 monomials up to degree 2 in world W5, with its 95 % interval. One "
        "mixup per pair asks the teacher at new points, so that by the rank argument d + 1 = 7 originals should do.",
        tuple(svgs),
        f"Line chart of the median risk over the number of originals. {title}.",
        data,
        "mixkd theory identification",
    )
