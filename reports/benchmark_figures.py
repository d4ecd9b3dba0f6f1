"""Figures of time and size: they draw numbers that `tables` estimated, and compute none."""

from collections.abc import Iterator

import pandas as pd

from reports import tables
from reports.benchmark_files import CONDITIONS
from reports.drawing import GRID, INK, MARKERS, SERIES, Figure, log_sizes, log_values, mark, panel, panels, side_of
from reports.evidence import Evidence
from reports.setting import LIMITED, SETTING
from reports.wording import NOT_CORRECTED, count, enumeration, interval, number

_SPEEDUP = ["speedup_vs_teacher", "speedup_low", "speedup_high"]


def build(evidence: Evidence) -> Iterator[Figure]:
    """Every figure of time and size that the evidence allows."""
    if len(ways := tables.end_to_end(evidence)):
        yield _pareto_figure(ways)
    if len(models := tables.size_latency_score(evidence)):
        yield _size_figure(models)
    if len(ratios := tables.speedups(evidence)):
        yield _speedup_figure(ratios)
    if len(ratios := tables.trainings(evidence).dropna(subset="ratio")):
        yield _training_figure(ratios)
    if len(curves := tables.cost_curves(evidence)):
        yield _cost_figure(curves)


def _pareto_figure(ways: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    ways = ways.assign(label=_labels(ways))
    models = list(dict.fromkeys(ways["label"]))
    variants = sorted(set(ways["variant"]))
    fronts, told = [], []
    for _, rivals in ways.groupby(tables.RIVALS, dropna=False):
        rows, front = rivals.to_dict("records"), rivals[rivals["on_front"]]
        where = tables.where(rows[0])
        with panel("pareto", svgs, width=7.0, height=4.2) as axes:
            axes.plot(front["examples_per_s"], front["score"], color=GRID, linewidth=4, zorder=0)
            for row in rows:
                marker = MARKERS[models.index(row["label"]) % len(MARKERS)]
                score = (row["score"], row["score_low"], row["score_high"])
                mark(axes, row["examples_per_s"], score, variants.index(row["variant"]) % len(SERIES), marker=marker)
            for k, model in enumerate(models):
                axes.plot([], [], MARKERS[k % len(MARKERS)], color=INK, label=model)
            for k, variant in enumerate(variants):
                axes.plot([], [], "-", color=SERIES[k % len(SERIES)], linewidth=4, label=variant)
            log_sizes(axes, rivals["examples_per_s"].round().astype(int).iloc[[0, len(rows) // 2, -1]])
            axes.set(xlabel="texts per second, tokenisation included", ylabel="test score")
            axes.set_title(where)
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        names = {f"{row['label']} in {row['variant']}": tables.speed_and_score(row) for row in front.to_dict("records")}
        fronts.append(f"{enumeration(list(names))} on {where}")
        told += [f"{name} on {where} ({speed})" for name, speed in names.items()]
    lesson = _lesson(ways)
    num_texts = [f"{num:,.0f}" for num in sorted(ways["num_examples"].unique())]
    return Figure(
        "pareto",
        f"By point estimates, nothing that was measured is both faster and better than {'; '.join(fronts)}",
        f"Every model in every way to run it, over {' or '.join(num_texts)} test texts in batches of "
        f"{ways['batch_size'].max():g}, padded to the longest; the student is SM+TMKD. Grey: what nothing beats. "
        f"{_bars(ways)} {lesson[0].upper()}{lesson[1:]}.",
        tuple(svgs),
        f"Scatter chart of score against texts per second. Nothing beats {'; '.join(told)}.",
        ways.drop(columns="label"),
        "mixkd bench -k end_to_end",
    )


def _lesson(ways: pd.DataFrame) -> str:
    """Whether a teacher beats a student, and what of it could not be judged."""
    told = [*tables.better_teachers(ways), *tables.unjudged_teachers(ways)]
    files = [ways.loc[is_one, "file"] for is_one in (ways["model"] == "teacher", tables.is_plain_student(ways))]
    if not set(files[0]) & set(files[1]):
        return "whether a teacher beats a student was not judged: they were not measured in the same run"
    return "; ".join(told) or "no way to run the teacher beats a student in float32 beyond both intervals"


def _labels(ways: pd.DataFrame) -> list[str]:
    """The model of every row in words, with what it saw where models of one name saw different shares of the data."""
    shares = ways.groupby(["model", "num_layers"])["train_fraction"].transform("nunique", dropna=False)
    return [
        tables.subject(row).removeprefix("the ") if num > 1 else f"{row['num_layers']:g}-layer {row['model']}"
        for row, num in zip(ways.to_dict("records"), shares, strict=True)
    ]


def _bars(ways: pd.DataFrame) -> str:
    """What the bars of the scores are."""
    measured = ways.dropna(subset="score_low")["metric"] == "accuracy"
    told = {"Wilson's": measured.any(), "the percentile bootstrap's (over texts)": not measured.all()}
    names = " or, where the score is no accuracy, ".join(name for name, is_there in told.items() if is_there)
    return f"Bars: {names} 95 % interval of the score." if names else "No interval of a score is known."


def _size_figure(models: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    drawn = models.assign(latency_ms=models["p50_s"] * 1e3)
    with panel("size", svgs, width=5.6) as axes:
        for place, row in enumerate(drawn.to_dict("records")):
            k = place % len(SERIES)
            axes.scatter([row['latency_ms']], [row['test_score']], s=row['num_parameters'] / 1e5, marker=MARKERS[k],
                         color=SERIES[k], alpha=0.85)  # fmt: skip
            mark(axes, row["latency_ms"], (row["test_score"], row["score_low"], row["score_high"]), k)
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


def _speedup_figure(ratios: pd.DataFrame) -> Figure:
    """Speed-up of every student over its teacher, as a share of the ratio of their layers."""
    svgs: list[str] = []
    students = ratios.sort_values(["layer_ratio", "model"]).groupby(["model", "num_layers"], sort=False)
    batches = sorted(set(ratios["batch_size"]))
    looks = {batch: (k + 1) % len(SERIES) for k, batch in enumerate(batches)}
    told = []
    with panels("speed-up", svgs, len(students), width=2.9 * len(students) + 1.3) as grid:
        for axes, ((model, layers), rows) in zip(grid, students, strict=True):
            for row in rows.to_dict("records"):
                beside = 1.12 ** (looks[row["batch_size"]] - (len(batches) + 1) / 2)  # batches of one length
                share, low, high = (row[name] / row["layer_ratio"] for name in _SPEEDUP)
                mark(axes, row["sequence_length"] * beside, (share, low, high), looks[row["batch_size"]])
            axes.axhline(1, color=INK, linewidth=0.8)
            log_sizes(axes, rows["sequence_length"].astype(int))
            axes.set(title=f"{layers:g}-layer {model}", xlabel="tokens per text")
            ends = rows.sort_values("speedup_vs_teacher").iloc[[0, -1]].to_dict("records")
            least, most = (f"{number(row[_SPEEDUP[0]])} {interval(*(row[k] for k in _SPEEDUP[1:]))}" for row in ends)
            told.append(f"{layers:g}-layer {model} {least} to {most} ({ends[0]['layer_ratio']:g} by its layers)")
        for batch, k in looks.items():
            grid[-1].plot([], [], MARKERS[k], color=SERIES[k], label=f"batch of {batch:g}")
        grid[0].set_ylabel("speed-up over the ratio of layers")
        grid[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    first, built = ratios.iloc[0], ratios[ratios["origin"] == "built"].drop_duplicates(["model", "num_layers"])
    names = [f"the {row['num_layers']:g}-layer {row['model']}" for row in built.to_dict("records")]
    weights = f"Of random weights, with which time is the same: {enumeration(names)}. " if names else ""
    return Figure(
        "speed-up",
        f"Times as fast as the teacher, from the least to the most over batches and lengths: {'; '.join(told)}",
        "The speed-up over the ratio of layers, which it would be if layers were all the work (1, black line); "
        f"in float32 on {first['device']} ({first['processor']}) with {count(int(first['num_threads']), 'thread')}, as "
        "ratios of medians over interleaved rounds with bootstrap 95 % intervals. "
        f"{NOT_CORRECTED} {weights}All times are in the table below.",
        tuple(svgs),
        f"Charts of speed-ups over the length of the texts. {'; '.join(told)}.",
        ratios[["file", "model", "num_layers", *CONDITIONS, "layer_ratio", *_SPEEDUP]],
        "mixkd bench --grid full -k latency",
        stacked=True,
    )


def _training_figure(ratios: pd.DataFrame) -> Figure:
    """Speed of every training beside the first peer that was timed, or beside the recipe that it is a change of."""
    svgs: list[str] = []
    recipes = [name for name in ("textbrewer", "torchdistill", "kd", "sm+tmkd") if name in set(ratios["beside"])]
    with panels("training-speed", svgs, len(recipes), width=2.6 * len(recipes) + 2.2, height=4.6) as grid:
        names = list(dict.fromkeys(ratios["model"]))
        for axes, beside in zip(grid, recipes, strict=True):
            rows = ratios[ratios["beside"] == beside]
            for row in rows.to_dict("records"):
                ratio = (row["ratio"], row["low"], row["high"])
                mark(axes, names.index(row["model"]), ratio, side_of(1, *ratio[1:]), across=True)
            axes.axvline(1, color=INK, linewidth=0.8)
            axes.set(xlabel=f"speed over that of\n{beside}", yticks=range(len(names)))
            axes.set_yticklabels(names, fontsize=8)
        grid[0].invert_yaxis()
    plain = ratios[ratios["model"].isin(["kd", "sm+tmkd"]) & ratios["beside"].isin(["textbrewer", "torchdistill"])]
    told = "; ".join(
        f"{row['model']} ({row['dtype']}) is {number(row['ratio'])} {interval(row['low'], row['high'])} times as fast "
        f"as KD by {row['beside']} (float32)"
        for row in plain.to_dict("records")
    )
    first = ratios.to_dict("records")[0]
    return Figure(
        "training-speed",
        f"Training, {told}" if told else "Training with one thing changed at a time",
        f"Steps of {first['batch_size']:g} texts of at most {first['sequence_length']:g} tokens, "
        f"{first['num_layers']:g} layers, on {first['device']} with {count(int(first['num_threads']), 'thread')}; "
        "ratios of medians over interleaved rounds with bootstrap 95 % intervals. A name with a dash is the "
        "training with one thing changed.",
        tuple(svgs),
        f"Dot chart of speeds. {told}.",
        ratios.drop(columns="times_as_fast"),
        "mixkd bench --training 900",
        stacked=True,
    )


def _cost_figure(curves: pd.DataFrame) -> Figure:
    svgs: list[str] = []
    words = {"num_samples": "originals n", "num_features": "features D", "num_replicates": "replicates"}
    drawn = curves.groupby("axis", sort=False)
    told = []
    with panels("cost", svgs, len(drawn), width=2.9 * len(drawn)) as grid:
        for k, (axes, (axis, rows)) in enumerate(zip(grid, drawn, strict=True), start=1):
            middle, low, high = (rows[name] * 1e6 for name in ("seconds_per_replicate", "low", "high"))
            axes.fill_between(rows["value"], low, high, color=SERIES[k], alpha=0.25, linewidth=0)
            axes.plot(rows["value"], middle, color=SERIES[k], marker=MARKERS[k])
            log_sizes(axes, rows["value"].astype(int))
            log_values(axes)
            axes.set(xlabel=words[str(axis)])
            ends = [
                f"{number(middle[k])} {interval(low[k], high[k])} µs at {number(rows['value'][k])}"
                for k in rows.index[[0, -1]]
            ]
            told.append(f"{ends[0]} {words[str(axis)]}, {ends[1]}")
        grid[0].set_ylabel("µs per replicate")
    return Figure(
        "cost",
        f"A simulated replicate costs {'; '.join(told)}",
        "Whole cells under in-sample mixup (draws, teacher, features, moments, bounds, fit and risks; as many mixed "
        "inputs as originals) on one thread, while one size grows; medians over rounds with order-statistic 95 % "
        "intervals.",
        tuple(svgs),
        f"Line charts of the cost per replicate. {'; '.join(told)}.",
        curves.drop(columns="times_as_fast"),
        "mixkd bench -k cells",
        stacked=True,
    )
