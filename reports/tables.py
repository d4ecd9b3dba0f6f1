"""The numbers behind the figures and tables of the report: estimates with their intervals, as data frames."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mixkd.store import machine as machine_of
from mixkd.store import without_folders
from reports.benchmark_files import latest
from reports.evidence import Evidence, registered_runs
from reports.setting import SETTING
from reports.statistics import Array, mean_estimate, share_interval
from reports.wording import enumeration, interval, number

#: What the cases of one machine have in common.
MACHINE = ["device", "processor", "num_threads"]
#: What ways to run a model have in common that are held against each other. Older files do not tell the task.
RIVALS = [*MACHINE, "task", "metric", "num_examples"]
_GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")


def run_groups(evidence: Evidence) -> pd.DataFrame:
    """All runs by task, share of the data, layers, recipe, precision and whatever else is not as registered.

    Number, mean score and mean gap with t intervals.

    An interval is missing where a single run says nothing about the spread.
    """
    keys = ["task", "train_fraction", "student_layers", "recipe", "precision"]
    others = [
        ", ".join(
            f"{name} {run[name]}"
            for name in str(run["changed"]).split(", ")
            if name not in keys and str(run.get(name, np.nan)) != "nan"  # a teacher has no such field
        )
        for run in evidence.runs.to_dict("records")
    ]
    keys.append("others")
    rows = []
    for group, runs in evidence.runs.assign(others=others).groupby(keys, dropna=False):
        row = dict(zip(keys, group, strict=True)) | {"num_runs": len(runs)}
        for measure in ("test_score", "generalization_gap"):
            estimate = mean_estimate(runs[measure])
            row |= {measure: estimate.effect, f"{measure}_low": estimate.low, f"{measure}_high": estimate.high}
        rows.append(row)
    return pd.DataFrame(rows).replace([np.inf, -np.inf], np.nan)


def _cases(evidence: Evidence, *kinds: str) -> pd.DataFrame:
    """What was measured, the latest of each case."""
    cases = latest(evidence.benchmarks)
    return cases[cases["kind"].isin(kinds) & cases["not_run"].isna()]


def latency(evidence: Evidence) -> pd.DataFrame:
    """Every timed case of teacher and student, the latest of each."""
    return _cases(evidence, "latency").sort_values(
        ["batch_size", "sequence_length", "num_layers", "num_threads"], ascending=False
    )


def speedups(evidence: Evidence) -> pd.DataFrame:
    """The timed cases of students beside their teachers, on the machine that has most of them."""
    cases = latency(evidence).dropna(subset="speedup_vs_teacher")
    return _of_one_machine(cases[cases["layer_ratio"] > 1])


def _of_one_machine(cases: pd.DataFrame) -> pd.DataFrame:
    """The cases of the machine that has most of them."""
    return max((group for _, group in cases.groupby(MACHINE, dropna=False)), key=len, default=cases)


def sizes(evidence: Evidence) -> pd.DataFrame:
    """Parameters, bytes, FLOPs and peak memory of every model that was measured, the latest of each."""
    cases = _cases(evidence, "size").drop_duplicates(["model", "num_layers"], keep="last")
    num_tokens = cases["batch_size"] * cases["sequence_length"]
    return cases.assign(flops_per_token=cases["flops"] / num_tokens).sort_values("num_layers", ascending=False)


def end_to_end(evidence: Evidence) -> pd.DataFrame:
    """Every model in every way to run it, from texts to answers: speed, score, agreement, the latest of each.

    Returns:
        The benchmark's columns with score_low, score_high (95 % interval over the texts: Wilson's of an accuracy, else
        what the file holds, a bootstrap's) and on_front: whether no other of its RIVALS is faster and at least as
        good, or better and at least as fast.
    """
    cases = _cases(evidence, "end-to-end").sort_values(["examples_per_s", "score"])
    cases = cases.astype({"speedup_low": float, "speedup_high": float})  # objects, where no case has one
    intervals = [
        share_interval(row["score"] * row["num_examples"], row["num_examples"])
        if row["metric"] == "accuracy"
        else (row["score_low"], row["score_high"])
        for row in cases.to_dict("records")
    ]
    cases[["score_low", "score_high"]] = pd.DataFrame(intervals, cases.index, ["low", "high"], dtype=float)
    cases["on_front"] = False
    for _, rivals in cases.groupby(RIVALS, dropna=False):
        cases.loc[rivals.index, "on_front"] = _unbeaten(rivals["examples_per_s"], rivals["score"])
    return cases


def _unbeaten(speeds: pd.Series, scores: pd.Series) -> Array:
    """Whether nothing is above in one and at least as high in the other; of equals, all or none."""
    speed, score = speeds.to_numpy(), scores.to_numpy()
    is_above = (speed > speed[:, None]) & (score >= score[:, None])
    is_above |= (speed >= speed[:, None]) & (score > score[:, None])
    return np.logical_not(is_above.any(axis=1))


def trainings(evidence: Evidence) -> pd.DataFrame:
    """Speed of every training that was timed, the latest of each.

    Returns:
        The benchmark's columns with `beside`, one row per training and other training that it was timed beside (or
        none): ratio, low, high of their speeds; and the peak memory of a training's own process, where it was measured
        on the same machine.
    """
    cases = _cases(evidence, "training")
    same = [*MACHINE, "model", "num_layers"]
    peaks = cases.dropna(subset="peak_memory_bytes").drop_duplicates(same, keep="last")
    timed = cases.dropna(subset="p50_s").drop(columns="peak_memory_bytes")
    timed = timed.merge(peaks[[*same, "peak_memory_bytes"]], on=same, how="left")
    rows: list[dict[Any, Any]] = [
        {**row, "beside": other, "ratio": ratio, "low": low, "high": high}
        for row in timed.to_dict("records")
        for other, (ratio, low, high) in (row["times_as_fast"] or {None: (np.nan,) * 3}).items()
    ]
    return pd.DataFrame(rows, columns=[*timed.columns, "beside", "ratio", "low", "high"])


def cost_curves(evidence: Evidence) -> pd.DataFrame:
    """Cost of whole simulated cells while one of n, features and replicates grows and the others stay.

    Returns:
        One row per curve and cell: axis (what grows), value, the benchmark's columns, and seconds per replicate with
        low and high (order-statistic 95 % interval of the median over rounds).
    """
    cells = simulation_costs(evidence)
    cells = cells[cells["kind"] == "cell"]
    axes = ["num_samples", "num_features", "num_replicates"]
    curves = []
    for axis in axes:
        others = [name for name in axes if name != axis]
        sizes = cells.groupby(others)[axis].transform("nunique")
        longest = cells[(sizes == sizes.max()) & (sizes > 2)].sort_values(axis)
        curves.append(longest.assign(axis=axis, value=longest[axis]))
    found: pd.DataFrame = pd.concat(curves, ignore_index=True)
    for name, seconds in (("low", "median_low_s"), ("high", "median_high_s")):
        found[name] = found[seconds] / found["num_replicates"]
    return found


def simulation_costs(evidence: Evidence) -> pd.DataFrame:
    """Cost of fits and of whole simulated cells against n, features and replicates, the latest of each."""
    cases = _cases(evidence, "simulation", "cell")
    return cases.sort_values(["kind", "num_features", "num_samples", "num_replicates"], ascending=[False, *[True] * 3])


def size_latency_score(evidence: Evidence) -> pd.DataFrame:
    """One row per model of the store that was timed and scored: layers, parameters, latency, mean score, t interval.

    The latency is that of the smallest batch and, for it, the longest texts, on one machine. The teacher's score is
    the one its students recorded; a student's is that of SM+TMKD with limited data.
    """
    timed = latency(evidence)
    timed = _of_one_machine(timed[timed["model"].isin(["teacher", "student"])])  # others have random weights
    timed = timed[timed["batch_size"] == timed["batch_size"].min()]
    timed = timed[timed["sequence_length"] == timed["sequence_length"].max()]
    timed = timed[["model", "num_layers", "batch_size", "sequence_length", "p50_s"]]
    chosen = registered_runs(evidence.runs)
    chosen = chosen[chosen["recipe"] == "sm+tmkd"]
    models = sizes(evidence)[["model", "num_layers", "num_parameters"]].merge(timed, on=["model", "num_layers"])
    scores = [
        chosen["teacher_test_score"]
        if model == "teacher"
        else chosen.loc[chosen["student_layers"] == layers, "test_score"]
        for model, layers in zip(models["model"], models["num_layers"], strict=True)
    ]
    models["num_runs"] = [score.count() for score in scores]
    # A single teacher has no interval: its students only repeat its score.
    columns = ["test_score", "score_low", "score_high"]
    estimates = [mean_estimate(score)[:3] if len(score) else (np.nan,) * 3 for score in scores]
    models[columns] = pd.DataFrame(estimates, columns=columns, index=models.index).replace([np.inf, -np.inf], np.nan)
    return models.dropna(subset=["test_score", "p50_s"]).sort_values("num_layers", ignore_index=True)


def better_teachers(ways: pd.DataFrame) -> list[str]:
    """The ways to run a teacher that are faster than a student in float32 and score higher, a sentence per student.

    Of one run of the benchmarks, and only where neither the speeds' nor the scores' intervals meet.
    """
    sentences = []
    for student, found, _ in _held_against_teachers(ways):
        if better := found.to_dict("records"):
            how = [f"in {row['variant']} ({speed_and_score(row)})" for row in better]
            sentences.append(
                f"on {where(student)}, {subject(better[0])} is faster {enumeration(how)} than {subject(student)} in "
                f"float32 ({speed_and_score(student)}), and scores higher"
            )
    return sentences


def unjudged_teachers(ways: pd.DataFrame) -> list[str]:
    """The ways to run a teacher that may be faster than a student and score higher, a sentence per student."""
    sentences = []
    for student, _, found in _held_against_teachers(ways):
        if unjudged := found.to_dict("records"):
            how = [f"in {row['variant']}" for row in unjudged]
            sentences.append(
                f"on {where(student)}, whether {subject(unjudged[0])} {enumeration(how)} is faster than "
                f"{subject(student)} in float32 and scores higher was not judged: not all intervals are known"
            )
    return sentences


def is_plain_student(ways: pd.DataFrame) -> pd.Series:
    """Which rows are a student in float32."""
    return (ways["model"] == "student") & (ways["variant"] == "float32")


def _held_against_teachers(ways: pd.DataFrame) -> Iterator[tuple[dict[Any, Any], pd.DataFrame, pd.DataFrame]]:
    """Every student in float32, the ways to run its teacher that beat it in the same run, and those not judged."""
    # The teacher in float32 has no speed-up: it is what all are compared with.
    speed, score = ways["speedup_low"].mask(ways["variant"] == "float32", 1.0), ways["score_low"]
    for student in ways[is_plain_student(ways)].to_dict("records"):
        of_run = (ways["model"] == "teacher") & (ways["file"] == student["file"])
        is_better = (speed > student["speedup_high"]) & (score > student["score_high"])
        is_not = (speed <= student["speedup_high"]) | (score <= student["score_high"])  # both fail where one is unknown
        yield student, ways[of_run & is_better], ways[of_run & ~is_better & ~is_not]


def where(row: Mapping[Any, Any]) -> str:
    """Where a case ran, and what was answered, where that is told; a score is an accuracy if nothing else is said."""
    what = [] if pd.isna(row["task"]) else [str(row["task"])]
    what += [] if row["metric"] == "accuracy" else [str(row["metric"])]
    return f"{machine(row)} ({', '.join(what)})" if what else machine(row)


def machine(row: Mapping[Any, Any]) -> str:
    """Where a case ran, in words: its GPU, or its processor."""
    return machine_of(None if pd.isna(row["device"]) else str(row["device"]), str(row["processor"]))


def subject(row: Mapping[Any, Any]) -> str:
    """A model, in words."""
    seen = "" if pd.isna(row["train_fraction"]) else f" trained on {row['train_fraction']:.0%} of the data"
    return f"the {row['num_layers']:g}-layer {row['model']}{seen}"


def speed_and_score(row: Mapping[Any, Any]) -> str:
    """What a way of running a model is worth, in words."""
    reach = "" if pd.isna(row["score_low"]) else f" {interval(row['score_low'], row['score_high'])}"
    return f"{number(row['examples_per_s'])} texts/s, score {number(row['score'])}{reach}"


def not_tested(evidence: Evidence) -> list[tuple[str, str]]:
    """What a reader may look for, and no evidence says anything about: in words, with the command that runs it."""
    runs, task = evidence.runs, SETTING["task"]
    on_gpu = evidence.benchmarks[~evidence.benchmarks["device"].fillna("cpu").isin(["cpu", ""])]
    glue = "The paper's own setting: GLUE, BERT-base and students of 6 and 3 layers. It needs a model hub and a GPU."
    tested = {
        (glue, "mixkd suite glue"): runs["task"].isin(_GLUE) & (runs.get("teacher", "") == "bert-base-uncased"),
        (f"Tasks other than {task}.", "mixkd suite breadth"): runs["task"] != task,
        ("Back-translated examples. They need Apertium or a translation model.", "mixkd suite breadth"): (
            runs["recipe"].str.endswith("+bt")
        ),
        ("Speed and memory on a GPU.", "mixkd bench"): on_gpu["not_run"].isna(),
    }
    return [case for case, found in tested.items() if not np.any(found)]


def provenance(evidence: Evidence) -> list[dict[str, Any]]:
    """Where the evidence comes from: one entry per producer, with every value that its records name."""
    entries = []
    for source, group in evidence.provenance.groupby("source", sort=False) if len(evidence.provenance) else ():
        entry: dict[str, Any] = {"source": source, "num_records": len(group)}
        group = group.assign(command=group["command"].map(without_folders))
        for name in ("commit", "dirty", "python", "platform", "processor", "device", "num_threads", "command"):
            entry[name] = sorted({_word(value) for value in group[name]})
        for name in ("versions", "seeds"):
            pairs = {(key, value) for values in group[name] for key, value in values.items()}
            entry[name] = {key: sorted(v for k, v in pairs if k == key) for key in sorted({k for k, _ in pairs})}
        entry["first_started_at"], entry["last_started_at"] = group["started_at"].min(), group["started_at"].max()
        entry["wall_time_s"] = round(float(group["wall_time_s"].sum()), 1)
        entries.append(entry)
    return entries


def _word(value: Any) -> str:
    if value is None:
        return "unknown"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
