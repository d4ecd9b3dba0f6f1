"""The figures of the simulations: they draw numbers that `simulation` estimated, and compute none."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import NullLocator

from reports import simulation
from reports.drawing import INK, MARKERS, SERIES, Figure, log_values, mark, panel, panels, side_of
from reports.evidence import Evidence
from reports.wording import count, interval, number, replicates

_SHAPES = ("isotropic", "anisotropic", "mixture", "heavy-tailed", "manifold")
_MEASURES = {"generalization_gap": "learned gap", "population_risk": "risk"}
_CELL_INK, _CELL_HATCH = "#131415", "#777879"  # on coloured cells, which are the same on every page


def build(evidence: Evidence) -> Iterator[Figure]:
    """Every figure of the simulations that the evidence allows, beside those over n."""
    if len(data := simulation.recovery(evidence)):
        yield _recovery(data)
    if len(data := simulation.trainings(evidence)):
        yield _trainings(data)
    if len(data := simulation.ratios(evidence)):
        yield _ratios(data)
    if len(data := simulation.contrasts(evidence)):
        yield _contrasts(data)
    data = simulation.phase(evidence)
    if len(data) and len(chosen := data[(data["a"] == 1) & (data["rho"] == 4)]):
        yield _phase(chosen)
    if len(data) and len(chosen := data[(data["shape"] == "isotropic") & (data["curvature"] == 2)]):
        yield _phase_mixup(chosen.copy(), data)


def _recovery(data: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    with panel("recovery", svgs, width=5.6) as axes:
        for place, row in enumerate(data.to_dict("records")):
            mark(axes, place, (row["median"], row["low"], row["high"]), place % len(SERIES))
        log_values(axes)
        axes.set_xticks(range(len(data)), data["arm"])
        axes.set(xlabel="augmentation", ylabel="distance to the teacher's coefficients")
        axes.grid(visible=False, axis="x")
    told = "; ".join(
        f"{row['arm']} {number(row['median'])} {interval(row['low'], row['high'])}" for row in data.to_dict("records")
    )
    return Figure(
        "recovery",
        f"How far an affine student ends from an affine teacher with fewer originals than coefficients: {told}",
        f"Median over {replicates(data)} with its order-statistic 95 % interval. S0: originals alone; S1: fresh "
        "inputs; S3: in-sample mixup, which stays in the affine span of the originals; jitter: originals moved.",
        tuple(svgs),
        f"Dot chart of distances. {told}.",
        data,
        "mixkd theory T17",
    )


def _trainings(data: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    students = list(dict.fromkeys(data["student"]))
    with panels("training", svgs, len(students), width=2.3 * len(students) + 0.8) as grid:
        for axes, student in zip(grid, students, strict=True):
            for k, (arm, label) in enumerate((("label-mixup", "mixed labels"), ("S3", "teacher's answers"))):
                rows = data[(data["student"] == student) & (data["arm"] == arm)].sort_values("progress")
                color = SERIES[3 - 2 * k]
                axes.fill_between(rows["progress"], rows["low"], rows["high"], color=color, alpha=0.25, linewidth=0)
                axes.plot(rows["progress"], rows["median"], color=color, marker=MARKERS[k], markevery=5, label=label)
            log_values(axes)
            axes.set(xlabel="log training time", title=student)
            axes.set_xticks([0, 1], ["start", "end"])
        grid[0].set_ylabel("risk over its least")
        grid[0].legend(fontsize=8.5)
    ends = data[data["progress"] == 1]
    title = "; ".join(
        f"{row['student']}, {'mixed labels' if row['arm'] == 'label-mixup' else 'teacher'}: {number(row['median'])} "
        f"{interval(row['low'], row['high'])}"
        for row in ends.to_dict("records")
    )
    return Figure(
        "training",
        f"Final risk over the least risk on the way: {title}",
        f"Median over {replicates(data)} of the risk along training (20 originals, "
        "200 mixed inputs) over each replicate's least, with 95 % intervals. Realisable and misspecified: gradient "
        "flow of 300 random cosines in closed form; networks: gradient descent of two tanh layers, 32 units (which "
        "can represent the teacher) and 4 (which cannot).",
        tuple(svgs),
        f"Line charts of relative risk along training. {title}.",
        data,
        "mixkd theory T20",
        stacked=True,
    )


def _ratios(data: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    drawn = data.groupby(["claim", "quantity"], sort=False)
    with panel("ratios", svgs, width=8.4, height=1.0 + 0.34 * len(drawn)) as axes:
        for place, (_, group) in enumerate(drawn):
            row = group.to_dict("records")[0]
            mark(axes, place, (row["ratio"], row["low"], row["high"]), 1, across=True)
            for test in group.to_dict("records"):
                axes.plot([test["threshold"]], [place], marker="<" if test["side"] == "below" else ">", color=SERIES[3])
        axes.axvline(1, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(drawn)), [": ".join(map(str, name)) for name, _ in drawn], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("ratio", fontsize=8)
    told = "; ".join(
        f"{row['claim']} {number(row['ratio'])} {interval(row['low'], row['high'])}"
        for row in data.drop_duplicates(["claim", "quantity"]).to_dict("records")
    )
    return Figure(
        "ratios",
        f"Mean uniform deviations against their references: {told}",
        f"Squares: ratio of means with Fieller's 95 % interval over up to {replicates(data)}, paired on the same "
        "originals. Triangles: registered thresholds, pointing to where the claim holds.",
        tuple(svgs),
        f"Chart of ratios. {told}.",
        data,
        "mixkd theory T05 T08 T09 T10 T11 T12 T13 T14",
        stacked=True,
    )


def _contrasts(data: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    settings = list(dict.fromkeys(zip(data["study"], data["setting"], strict=True)))
    by_setting = {(row["measure"], row["study"], row["setting"]): row for row in data.to_dict("records")}
    with panels("contrasts", svgs, 2, width=8.0, height=1.0 + 0.32 * len(settings)) as grid:
        for axes, (measure, name) in zip(grid, _MEASURES.items(), strict=True):
            for place, key in enumerate(settings):
                row = by_setting[measure, *key]
                change = (row["change"], row["low"], row["high"])
                mark(axes, place, change, side_of(0, -row["high"], -row["low"]), across=True)  # smaller is better
            axes.axvline(0, color=INK, linewidth=0.8)
            axes.set_yticks(range(len(settings)), [f"{study} {setting}".strip() for study, setting in settings])
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.0%}")
            axes.set(xlabel=f"change of the {name},\nover the risk without mixup")
        grid[0].invert_yaxis()
    mixups = data[data["study"] != "T19"].groupby("measure")  # T19 is jitter
    told = "; ".join(
        f"{name}: smaller in {(rows['high'] < 0).sum()} and larger in {(rows['low'] > 0).sum()} of {len(rows)} settings"
        for measure, name in _MEASURES.items()
        if measure in mixups.groups and len(rows := mixups.get_group(measure))
    )
    return Figure(
        "contrasts",
        f"In-sample mixup against none: {told}",
        "Paired change under in-sample mixup (T19: jitter, not counted), over the risk without it, with "
        "95 % intervals. T18: affine students of a "
        "quadratic (W2), and T19 under jitter labelled by the teacher; T22 and T23: students of W4's teacher; T24: "
        "sentence embeddings of the VADER corpora.",
        tuple(svgs),
        f"Chart of changes with intervals. {told}.",
        data,
        "mixkd theory T18 T19 T22 T23 T24",
        stacked=True,
    )


def _phase(data: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    for student in ("cosines", "affine"):
        for measure, name in _MEASURES.items():
            chosen = data[(data["student"] == student) & (data["measure"] == measure)]
            if chosen.empty:
                continue
            is_dense = chosen["num_samples"].nunique() > 6
            with panels("phase", svgs, len(_SHAPES), width=10.5, height=2.2) as grid:
                for axes, shape in zip(grid, _SHAPES, strict=True):
                    _draw_map(axes, chosen[chosen["shape"] == shape], "curvature", is_dense)
                    axes.set(title=shape)
                grid[0].set_ylabel(f"{student}: {name}\nteacher's curvature c")
                grid[2].set_xlabel("originals per dimension of the student, n / D")
    return Figure(
        "phase",
        _capital(_answer(data)),
        "Change of the learned gap and of the risk under in-sample mixup (a = 1, four mixups per original), in % of "
        "the risk without it: blue smaller, orange larger, hatched where the 95 % interval holds no change; paired, "
        f"{replicates(data)}. Columns are laws of the inputs in ten dimensions; the teacher is 2 v'tanh(c W'x) with "
        "variance 1, nearly linear at c = 0.25. Students: ridge regression on 200 random cosines, or affine. The "
        "intervals are not corrected for their number. Where numbers have no room they are in the table, and colours "
        "are full at 100 %.",
        tuple(svgs),
        f"Maps of the change over n / D and curvature. {_capital(_answer(data))}.",
        data,
        f"mixkd theory {data['study'].iloc[0]}",
        stacked=True,
    )


def _phase_mixup(drawn: pd.DataFrame, data: pd.DataFrame) -> Figure:
    drawn["mixup"] = [f"a = {a:g}, rho = {rho}" for a, rho in zip(drawn["a"], drawn["rho"], strict=True)]
    svgs: list[str] = []
    for student in ("cosines", "affine"):
        chosen = drawn[drawn["student"] == student].sort_values(["a", "rho"])
        if chosen.empty:
            continue
        with panels("phase-mixup", svgs, 2, width=8.4, height=0.9 + 0.28 * chosen["mixup"].nunique()) as grid:
            for axes, (measure, name) in zip(grid, _MEASURES.items(), strict=True):
                _draw_map(axes, chosen[chosen["measure"] == measure], "mixup")
                axes.set(title=name, xlabel="n / D")
            grid[0].set_ylabel(student)
    settings = count(drawn["mixup"].nunique(), "setting")
    whole = f"In all {len(data) // len(_MEASURES):,} settings of the table: {_answer(data)}."
    return Figure(
        "phase-mixup",
        f"For {settings} of mixup (Beta's a, mixups per original rho): {_answer(drawn)}",
        f"As above, for isotropic inputs and c = 2. {whole}",
        tuple(svgs),
        f"Maps of the change over n / D, a and rho. {_capital(_answer(drawn))}.",
        data,
        f"mixkd theory {data['study'].iloc[0]}",
        stacked=True,
    )


def _answer(data: pd.DataFrame) -> str:
    """In how many settings mixup shrinks the gap, and whether the risk follows, in words."""
    keys = ["shape", "curvature", "student", "num_samples", "a", "rho", "ratio"]
    wide = data.pivot_table(index=keys, columns="measure", values=["low", "high"])
    sentences = []
    few = wide.index.get_level_values("ratio") <= 1
    for name, rows in (("n at most D", wide[few]), ("n above D", wide[~few])):
        gap, risk = "generalization_gap", "population_risk"
        smaller, larger = rows["high"][gap] < 0, rows["low"][gap] > 0
        follows, rises = (rows["high"][risk] < 0) & smaller, rows["low"][risk] > 0
        sentences.append(
            f"with {name}, mixup shrinks the gap in {smaller.sum()} of {len(rows)} settings (the risk follows in "
            f"{follows.sum()}) and widens it in {larger.sum()}; the risk rises in {rises.sum()}"
        )
    return "; ".join(sentences)


def _capital(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}"


def _draw_map(axes: Axes, data: pd.DataFrame, row_name: str, is_dense: bool = False) -> None:
    """Cells coloured by the change, with its number in % where it fits, hatched where the interval holds zero."""
    if data.empty:
        return
    rows = list(dict.fromkeys(data.sort_values(["a", "rho", row_name])[row_name]))
    tables = data.pivot(index=row_name, columns="ratio", values=["change", "low", "high"]).loc[rows]
    change, columns = tables["change"], list(tables["change"].columns)
    is_undecided = (tables["low"] <= 0) & (tables["high"] >= 0)
    colors = sns.diverging_palette(245, 40, s=85, l=60, as_cmap=True)
    for is_drawn, hatch in ((~is_undecided, None), (is_undecided, "////")):
        axes.pcolor(range(len(columns)), range(len(rows)), change.where(is_drawn), cmap=colors, norm=Normalize(-1, 1),
                    hatch=hatch, edgecolor=_CELL_HATCH, linewidth=0)  # fmt: skip
    for (y, x), value in () if is_dense else np.ndenumerate(change):
        percent = f"{100 * value:+.0f}".replace("-", "\N{MINUS SIGN}")
        label = axes.text(x, y, percent, ha="center", va="center", fontsize=7.5, color=_CELL_INK)
        label.set_in_layout(False)  # it stays within its cell, and there are hundreds
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5))
    ticks = range(0, len(columns), 2 if is_dense else 1)
    axes.set_xticks(ticks, [f"{columns[place]:.2g}" for place in ticks], fontsize=8)
    names = [f"{value:g}" if isinstance(value, float) else value for value in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=False)
