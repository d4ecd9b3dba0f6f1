"""Training runs whose truth is known, made up: of recipes in the registered setting and beside it."""

from typing import Any

import numpy as np
import pandas as pd

from mixkd.store import Provenance, Record, Store, content_id
from reports.evidence import PATH_RECIPES
from reports.setting import EPOCHS, LEAST, LIMITED, NUM_SEEDS, WEIGHTS, deviations

PROVENANCE = Provenance(
    commit="0123456789abcdef0123456789abcdef01234567",
    dirty=False,
    versions={"numpy": "2.4.6", "torch": "2.13.0"},
    python="3.11.2",
    platform="Linux-6.1-x86_64",
    processor="A Processor @ 2.0GHz",
    device="cpu",
    num_threads=2,
    seeds={"master": 7},
    command="mixkd reproduce",
    started_at="2025-01-02T03:04:05+00:00",
    wall_time_s=12.5,
)

#: Truth of the synthetic runs: mean score and mean gap of each recipe.
GOOD_RUNS = {
    "ft": (0.74, 0.60), "kd": (0.76, 0.50), "pkd": (0.765, 0.50), "distilbert": (0.75, 0.50),
    "sm": (0.78, 0.45), "tmkd": (0.79, 0.40), "sm+tmkd": (0.81, 0.30), "sm+tmkd+kd": (0.82, 0.35),
}  # fmt: skip
BAD_RUNS = {
    "ft": (0.79, 0.30), "kd": (0.78, 0.30), "pkd": (0.785, 0.30), "distilbert": (0.77, 0.30),
    "sm": (0.70, 0.40), "tmkd": (0.70, 0.45), "sm+tmkd": (0.69, 0.60), "sm+tmkd+kd": (0.68, 0.60),
}  # fmt: skip
NULL_RUNS = dict.fromkeys(GOOD_RUNS, (0.76, 0.40))


def experiment(recipe: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "task": "vader-movie",
        "train_fraction": 0.1,
        "teacher": "minilm",
        "student_layers": 3,
        "init": "skip" if recipe == "distilbert" else "first",
        "recipe": recipe,
        **WEIGHTS.get(recipe, {}),
        "precision": "bf16",
        "teacher_precision": "bf16" if "tmkd" in recipe else "fp32",
        "beta_alpha": 1.0,
        "learning_rate": 3e-4,
        "num_epochs": EPOCHS.get(changes.get("train_fraction", 0.1), 3),
        "batch_size": 32,
        "init_seed": seed,
        "data_seed": seed,
        **changes,
    }


def record(of: dict[str, Any], measurements: dict[str, float]) -> Record:
    return Record(run_id=content_id(of), experiment=of, provenance=PROVENANCE, measurements=measurements, history=[])


def save_runs(store: Store, truth: dict[str, tuple[float, float]], num_seeds: int = 8, seed: int = 0) -> None:
    """Runs at both registered shares of the data; with the least data, recipes differ by half as much again."""
    rng = np.random.default_rng(seed)
    for init_seed in range(num_seeds):
        for fraction, spread in ((LIMITED, 1.0), (LEAST, 1.5)):
            subset = rng.normal(0, 0.01)  # what the runs of one seed share
            for recipe, (score, gap) in truth.items():
                measurements = {
                    "test_score": 0.75 + spread * (score - 0.75) + subset + rng.normal(0, 0.004),
                    "generalization_gap": gap + subset + rng.normal(0, 0.01),
                    "teacher_test_score": 0.84,
                }
                measurements["noise/typos/score"] = measurements["test_score"] - 0.02
                measurements["shift/vader-nyt/score"] = measurements["test_score"] - 0.1
                for model in ("student", "teacher"):
                    distance = 0.3 if recipe == "ft" or model == "teacher" else 0.2
                    measurements[f"path/{model}_distance_to_segment_at_half"] = distance + 0.01 * init_seed
                store.save_run(record(experiment(recipe, init_seed, train_fraction=fraction), measurements))


def save_starts(store: Store, truth: dict[str, tuple[float, float]], num_seeds: int = 8) -> None:
    """Runs from every other layer, two points better, on seeds after those of `save_runs`."""
    rng = np.random.default_rng(3)
    for seed in range(NUM_SEEDS, NUM_SEEDS + num_seeds):
        subset = rng.normal(0, 0.01)
        for recipe in ("kd", "sm+tmkd", "sm+tmkd+kd"):
            score, gap = truth[recipe]
            measurements = {"test_score": score + 0.02 + subset + rng.normal(0, 0.004), "generalization_gap": gap}
            of = experiment(recipe, seed, init="skip")
            store.save_run(record(of, measurements | {"teacher_test_score": 0.84}))


def save_longer(store: Store) -> None:
    """KD's runs in the store once more, with twice the epochs, which change nothing but a little noise."""
    kd = [run for run in store.runs()[0] if run.experiment["recipe"] == "kd" and run.experiment["init"] == "first"]
    _save_again(store, [(run, {"num_epochs": 2 * run.experiment["num_epochs"]}) for run in kd], 0.0, seed=4)


def save_repeats(store: Store, num_seeds: int = 4) -> None:
    """KD's and SM+TMKD's first runs once more on another machine, where they score a point less and half a one more."""
    for run in store.runs()[0]:
        of = run.experiment
        if of["recipe"] in ("kd", "sm+tmkd") and deviations(of) == [] and of["init_seed"] < num_seeds:
            score = run.measurements["test_score"] + (-0.01 if of["recipe"] == "kd" else 0.005)
            repeat(store, of, {**run.measurements, "test_score": score + 1e-4 * of["init_seed"]})


def repeat(store: Store, of: dict[str, Any], measurements: dict[str, float], processor: str = "Other") -> None:
    """A run once more, on another machine."""
    there = PROVENANCE.model_copy(update={"processor": processor})
    again = record(of, measurements).model_copy(update={"provenance": there})
    Store(store.root / "repeats" / processor.lower()).save_run(again)


def save_paths(store: Store, **distances: float) -> None:
    """Paths between two texts of seed 0's students: half-way, each is as far from the straight line as is said."""
    rows: list[dict[str, Any]] = [{"x": x, "y": x * x, "label_source": int(x > 0)} for x in (-2.0, -1.0, 1.0, 2.0)]
    for recipe in PATH_RECIPES:
        frames = []
        for model, distance in (("student", distances.get(recipe, 0.2)), ("teacher", 0.5)):
            path = [
                {"pair": pair, "lam": lam, "x": lam, "y": 1.0}
                | {"distance_to_segment": distance * (lam == 0.5) + pair / 100}
                for pair in range(8)
                for lam in (0.0, 0.5, 1.0)
            ]
            frames.append(pd.DataFrame([*path, *rows]).assign(model=model))
        path = store.interpolation_path(content_id(experiment(recipe)))
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.concat(frames).astype({"pair": "Int64"}).to_parquet(path)


def save_studies_of_training(store: Store, num_seeds: int = 3) -> None:
    """Other shares, a task and a depth, and at 5 % back-translation and single settings changed; with a little noise.

    SM+TMKD scores 2 points above KD, which back-translation raises by 1 and SM+TMKD by 3, and twice the epochs by 2
    and 4; Beta(0.4, 0.4) costs half a point, a learning rate of 1e-3 costs both a point. On vader-nyt SM+TMKD gains 5
    points over KD and 3 over FT, with one layer it loses 5 and 7.
    """
    rng = np.random.default_rng(2)

    def save(recipe: str, seed: int, score: float, **changes: Any) -> None:
        measurements = {"test_score": score + 0.01 * seed + rng.normal(0, 1e-4), "generalization_gap": 0.3}
        store.save_run(record(experiment(recipe, seed, **changes), measurements | {"teacher_test_score": 0.84}))

    for seed in range(num_seeds):
        for fraction, score in ((0.05, 0.7), (0.2, 0.78)):
            save("kd", seed, score, train_fraction=fraction)
            save("sm+tmkd", seed, score + 0.02, train_fraction=fraction)
        for recipe, score in (("kd", 0.71), ("sm+tmkd", 0.75)):
            save(recipe, seed, score, train_fraction=0.05, augmentation="back-translation")
            save(recipe, seed, score + 0.01, train_fraction=0.05, num_epochs=24)
        for recipe, score in (("kd", 0.6), ("ft", 0.62), ("sm+tmkd", 0.65)):
            save(recipe, seed, score, task="vader-nyt", num_epochs=18)
            save(recipe, seed, score - 0.1 * (recipe == "sm+tmkd"), student_layers=1)
        save("sm+tmkd", seed, 0.715, train_fraction=0.05, beta_alpha=0.4)
        for recipe, score in (("kd", 0.69), ("sm+tmkd", 0.71)):
            save(recipe, seed, score, train_fraction=0.05, learning_rate=1e-3)


def save_twins(store: Store, fp32_gain: float) -> None:
    """The runs of sm+tmkd once more in fp32, whose mean score differs by `fp32_gain`."""
    ours = [run for run in store.runs()[0] if run.experiment["recipe"] == "sm+tmkd"]
    limited = [run for run in ours if run.experiment["train_fraction"] == LIMITED]
    _save_again(store, [(run, dict.fromkeys(("precision", "teacher_precision"), "fp32")) for run in limited], fp32_gain)


def _save_again(store: Store, changed: list[tuple[Record, dict[str, Any]]], gain: float, seed: int = 1) -> None:
    """Runs with some fields changed, whose score differs by a gain and a little noise."""
    rng = np.random.default_rng(seed)
    for run, changes in changed:
        score = run.measurements["test_score"] + gain + rng.normal(0, 0.004)
        store.save_run(record(run.experiment | changes, run.measurements | {"test_score": score}))
