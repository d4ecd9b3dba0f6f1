"""The model card of a trained model: the README.md, in the hub's format, that travels with its weights."""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import ArrayLike
from pydantic import ValidationError
from statsmodels.stats.proportion import proportion_confint

from mixkd.experiment import Experiment
from mixkd.metrics import CLASS_METRICS, METRICS, REGRESSION_METRICS
from mixkd.store import Record
from mixkd.tasks import GLUE_TASKS, Task

#: Names of the metrics on the hub, where they differ.
_HUB_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}

_MINILM = "sentence-transformers/all-MiniLM-L6-v2"  # what the embedded weights are a copy of


def model_card(record: Record, task: Task, examples: pd.DataFrame, latency: str | None = None) -> str:
    """The card's text: Markdown with a head of YAML. It names no licence: that is the business of who publishes it.

    Args:
        record: The finished run.
        task: What was learned.
        examples: The rows of examples.parquet.
        latency: What `measured_latency` found.
    """
    experiment, measured = Experiment(**record.experiment), record.measurements
    role = "student" if experiment.is_student else "teacher"
    parameters, embedding_parameters = (
        f"{measured[name] / 1e6:.2f}M" for name in ("num_parameters", "num_embedding_parameters")
    )
    latency = latency or "not measured for a model of this size; `mixkd bench` does it."
    source = record.provenance
    versions = ", ".join(f"{name} {version}" for name, version in source.versions.items())
    commit = "unknown" if source.commit is None else source.commit + (" with local changes" if source.dirty else "")
    body = f"""
# {experiment.task}: {role}, {experiment.recipe}

A text classifier made with mixkd, which distils BERT-like models on mixed-up inputs (MixKD, arXiv 2011.00593).

## Method

{_list(_method(experiment))}

## Data

{_list(_data(experiment, task, measured))}

## Scores

{_score_table(task, examples)}

Intervals are of 95 % over the examples: Wilson's for accuracy, else bootstrap percentiles.

## Size and speed

- Parameters: {parameters}, of which embeddings {embedding_parameters}.
- Latency: {latency}

## Limits

{_list(_limits(experiment, task, measured))}

## Reproduce

Given the same data (`--data_dir`, if it is one's own) and models:

{_indented(command(experiment))}

Run `{record.run_id}`, commit {commit}, on {_code(source.processor)}, device {_code(source.device)}, with Python \
{source.python}, {versions}.
"""
    head = yaml.safe_dump(_metadata(experiment, task), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n{body}"


def _metadata(experiment: Experiment, task: Task) -> dict[str, Any]:
    role = "student" if experiment.student is not None else "teacher"
    base, fingerprint = getattr(experiment, role), getattr(experiment, f"{role}_fingerprint")
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["mixkd", *(["knowledge-distillation"] if experiment.recipe_object().uses_teacher else [])],
        "metrics": [_HUB_METRICS.get(metric, metric) for metric in task.metrics],
    }
    if not str(fingerprint).startswith("sha256:"):  # that of a folder: no hub id
        metadata["base_model"] = _MINILM if base == "minilm" else base
    if task.name in GLUE_TASKS:
        metadata["datasets"] = ["nyu-mll/glue"]
    return metadata


def _method(experiment: Experiment) -> Iterator[str]:
    """The recipe in words, with its weights."""
    recipe = experiment.recipe_object()
    if experiment.student is not None:
        yield f"Student: starts from {_code(experiment.student)}; teacher: {_code(experiment.teacher)}, fine-tuned."
    elif experiment.student_layers is None:
        yield f"All layers of {_code(experiment.teacher)}, fine-tuned."
    else:
        chosen = experiment.init if isinstance(experiment.init, str) else list(experiment.init or ())
        when = {"pretrained": "before", "teacher": "after"}[experiment.init_from]
        start = "new weights" if chosen == "random" else f"the teacher's, {chosen}, as they were {when} its fine-tuning"
        layers = f"{experiment.student_layers} layers ({start})"
        yield f"Student: {layers}; teacher: {_code(experiment.teacher)}, fine-tuned."
    distance = "squared difference of logits" if recipe.distance == "mse" else f"KL, temperature {recipe.temperature:g}"
    terms = {
        "mle_weight": "loss against the labels, original examples",
        "kd_weight": f"distance to the teacher ({distance}), original examples",
        "pkd_weight": f"distance of hidden states to the teacher's (PKD, {recipe.pkd.reduction}), original examples",
        "sm_weight": "loss against mixed labels, mixed examples (student mixup)",
        "tmkd_weight": f"distance to the teacher ({distance}), mixed examples (teacher mixup)",
    }
    weights = {name: getattr(recipe, name) for name in terms}
    yield "Loss: " + "; ".join(f"{weights[name]:g} x {terms[name]}" for name in terms if weights[name]) + "."
    mixup = recipe.mixup
    if recipe.uses_mixup:
        level = "word embeddings" if mixup.level == "embeddings" else f"hidden states after layer {mixup.level}"
        yield (
            f"Mixup of {level}: lam ~ Beta({mixup.beta_alpha:g}, {mixup.beta_alpha:g}) per {mixup.lam_per}, "
            f"{mixup.mix_ratio:g} mixed per original, partners: {mixup.partner}."
        )
    yield (
        f"{experiment.num_epochs} epochs, batch {experiment.batch_size}, peak learning rate "
        f"{experiment.learning_rate:g}, {experiment.max_length} tokens at most, {experiment.precision}."
    )


def _data(experiment: Experiment, task: Task, measured: dict[str, float]) -> Iterator[str]:
    labels = ", ".join(map(_code, task.label_names))
    yield f"Task: {experiment.task}; {'number' if task.is_regression else 'labels'}: {labels}."
    share = f"{experiment.train_fraction:.4g}" if experiment.train_fraction < 1 else "all"
    yield f"Training examples: {measured['num_train_examples']:.0f} (share: {share})."
    if experiment.augmentation != "none":
        counts = {name: count for name, count in measured.items() if name.startswith("num_augmented_")}
        words = ", ".join(f"{name.removeprefix('num_augmented_')} {count:.0f}" for name, count in counts.items())
        yield f"Augmentation: {experiment.augmentation} ({words})."
    for note in task.notes:
        yield _code(note)
    yield f"Fingerprint of the data: {experiment.data_fingerprint}."


def _score_table(task: Task, examples: pd.DataFrame) -> str:
    """Every metric on every part but train, the held-out split first."""
    parts = {str(name): part for name, part in examples.groupby("split", sort=False) if name != "train"}
    lines = ["| examples | number | metric | this model | its teacher |", "| --- | --- | --- | --- | --- |"]
    for name in sorted(parts, key=lambda name: name != task.heldout):
        part = parts[name]
        for metric in task.metrics:
            columns = [name for name in ("prediction", "teacher_prediction") if part[name].notna().all()]
            own, teacher = ([_score(metric, part, column) for column in columns] + [""])[:2]
            lines.append(f"| {name} | {len(part)} | {_HUB_METRICS.get(metric, metric)} | {own} | {teacher} |")
    return "\n".join(lines)


def _score(metric: str, part: pd.DataFrame, column: str) -> str:
    dtype = "float64" if metric in REGRESSION_METRICS else "int64"
    labels, predictions = part["label"].to_numpy(dtype), part[column].to_numpy(dtype)
    low, high = score_interval(metric, labels, predictions)
    return f"{METRICS[metric](labels, predictions):.3f} ({low:.3f} to {high:.3f})"


def score_interval(
    metric: str, labels: ArrayLike, predictions: ArrayLike, num_resamples: int = 300
) -> tuple[float, float]:
    """95 % interval of a score over examples drawn like these: Wilson's for accuracy, else bootstrap percentiles.

    Args:
        metric: A key of `mixkd.metrics.METRICS`.
        labels: Shape (num_examples,).
        predictions: Shape (num_examples,).
        num_resamples: Of the bootstrap, from a fixed seed.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    num_examples = len(labels)
    if metric == "accuracy":
        low, high = proportion_confint(int((labels == predictions).sum()), num_examples, method="wilson")
    elif metric in CLASS_METRICS:  # only the counts of (label, prediction) matter: a bootstrap of millions is as cheap
        cells, counts = np.unique(np.stack([labels, predictions]), axis=1, return_counts=True)
        draws = np.random.default_rng(0).multinomial(num_examples, counts / num_examples, size=num_resamples)
        low, high = np.percentile([METRICS[metric](*cells, draw) for draw in draws], [2.5, 97.5])
    else:
        draws = np.random.default_rng(0).integers(num_examples, size=(num_resamples, num_examples))
        low, high = np.percentile([METRICS[metric](labels[draw], predictions[draw]) for draw in draws], [2.5, 97.5])
    return float(low), float(high)


def _limits(experiment: Experiment, task: Task, measured: dict[str, float]) -> Iterator[str]:
    yield "One seed: the intervals cover the choice of the examples only, not that of the seed."
    if task.heldout == "validation":
        chosen = ", and the epoch was chosen on it, so that its scores are optimistic" if experiment.best_epoch else ""
        yield f"The labels of test are not public: scores are of validation{chosen}."
    if "human_single_score" in measured:
        single, panel = measured["human_single_score"], measured["human_panel_score"]
        yield (
            f"The labels are people's mean ratings: one rater scores {single:.3f} against them, a second panel of "
            f"raters {panel:.3f}."
        )
    yield "Nothing was tested outside the examples named above, for other languages, or for bias."


def command(experiment: Experiment) -> str:
    """The shortest `mixkd train` that does this experiment, given the same data and models."""
    settings = {name: value for name, value in experiment.identity().items() if not name.endswith("_fingerprint")}
    wanted = Experiment(**settings)
    for name in list(settings):
        rest = {key: value for key, value in settings.items() if key != name}
        try:
            if Experiment(**rest) == wanted:
                settings = rest
        except ValidationError:  # the others need this one
            continue
    words = ["mixkd", "train"]
    for name, value in settings.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(words)


#: Fields of a benchmark that say how fast a model is.
_LATENCY = {
    "kind", "num_parameters", "p50_s", "batch_size", "sequence_length", "speedup_vs_teacher", "num_threads", "dtype",
    "device",
}  # fmt: skip


def measured_latency(benchmarks_dir: Path, num_parameters: int) -> str | None:
    """What the store's benchmarks say of a student of this size, whose weights do not matter for its speed.

    Args:
        benchmarks_dir: Folder of pytest-benchmark's JSON files.
        num_parameters: Size of the model; only the same architecture has the same.

    Returns:
        The median latency of the smallest measured batch, in words; None if there is none.
    """
    cases: list[dict[str, Any]] = []
    for path in sorted(benchmarks_dir.glob("*.json")):
        with suppress(ValueError, KeyError, TypeError):  # a file that cannot be used is named in the report
            found = [case["extra_info"] for case in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]]
            cases += [case for case in found if case.keys() >= _LATENCY and case["p50_s"] is not None]
    cases = [case for case in cases if case["kind"] == "latency" and case["num_parameters"] == num_parameters]
    if not cases:
        return None
    case = min(cases, key=lambda case: (case["batch_size"], case["sequence_length"]))
    speedup = case["speedup_vs_teacher"]
    faster = "" if speedup is None else f", {speedup:.2f} times as fast as the teacher"
    threads = f", threads: {case['num_threads']}" if case["device"] == "cpu" else ""
    batch = f"batch of {case['batch_size']} with {case['sequence_length']} tokens"
    return (
        f"{1e3 * case['p50_s']:.1f} ms per {batch}, median, {case['dtype']}, on {_code(case['device'])}{threads}"
        f"{faster}; measured on a model of the same architecture."
    )


def _list(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _code(text: str) -> str:
    """Text from elsewhere, such as names of labels, as inline code, in which nothing is markup."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"
