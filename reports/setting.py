"""The registered setting of the claims about training, which rest on runs in it; tests of another start say so."""

from collections.abc import Mapping
from typing import Any

#: Share of the training examples -> epochs: the same number of optimizer steps up to 20 %.
EPOCHS: Mapping[float, int] = {0.01: 60, 0.02: 30, 0.05: 12, 0.1: 6, 0.2: 3, 1.0: 3}

#: What "limited data" means, and what "least data" does.
LIMITED, LEAST = 0.1, 0.02

#: Seeds of a recipe at either share in `mixkd suite full`. Claims that they gave rise to rest on seeds after them.
NUM_SEEDS = 30

#: The command behind those claims.
TRAINING = "mixkd suite full"

#: All that decides a run, beside its share, epochs, recipe, precision, seeds and fingerprints.
SETTING: Mapping[str, Any] = {
    "task": "vader-movie",
    "teacher": "minilm",
    "teacher_fraction": 1.0,
    "teacher_learning_rate": 5e-5,
    "teacher_num_epochs": 3,
    "teacher_batch_size": 32,
    "teacher_seed": 0,
    "student": None,
    "student_layers": 3,
    "init_from": "pretrained",
    "augmentation": "none",
    "pkd_layers": "skip",
    "pkd_normalize": True,
    "pkd_reduction": "sum",
    "distance": "mse",
    "temperature": 1.0,
    "beta_alpha": 1.0,
    "mix_ratio": 1.0,
    "partner": "uniform",
    "lam_per": "example",
    "level": "embeddings",
    "learning_rate": 3e-4,
    "best_epoch": False,
    "patience": None,
    "batch_size": 32,
    "max_length": 128,
    "weight_decay": 0.01,
    "warmup": 0.1,
    "length_grouping": True,
    "data_fingerprint": "5e84b7aa60bea60c",
    "teacher_fingerprint": "minilm",
}

#: The place where registered runs are, in words.
PLACE = f"{SETTING['task']}, {SETTING['student_layers']} layers"

#: Recipe -> the weights of its terms on teacher and mixed examples; those not named are 0.
WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "ft": {},
    "kd": {"kd_weight": 1.0},
    "pkd": {"kd_weight": 1.0, "pkd_weight": 0.1},
    "distilbert": {"kd_weight": 1.0},
    "sm": {"sm_weight": 1.0},
    "tmkd": {"tmkd_weight": 1.0},
    "sm+tmkd": {"sm_weight": 1.0, "tmkd_weight": 1.0},
    "sm+tmkd+kd": {"sm_weight": 1.0, "tmkd_weight": 1.0, "kd_weight": 1.0},
}

_NO_WEIGHTS = dict.fromkeys(("kd_weight", "pkd_weight", "sm_weight", "tmkd_weight"), 0.0)


def deviations(experiment: Mapping[str, Any]) -> list[str] | None:
    """Names of the fields in which a run is not in the registered setting; None if it has no such recipe or precision.

    A field that an experiment does not have, or a fingerprint before it is run, is taken to be the registered one.
    Other tasks have other data, of which nothing is registered.
    """
    recipe, precision = str(experiment.get("recipe")), experiment.get("precision")
    if recipe not in WEIGHTS or precision not in ("bf16", "fp32"):
        return None
    demanded = {
        **SETTING,
        **_NO_WEIGHTS,
        **WEIGHTS[recipe],
        "num_epochs": EPOCHS.get(experiment.get("train_fraction", 0.0)),
        "init": "skip" if recipe == "distilbert" else "first",
        "teacher_precision": precision if "tmkd" in recipe else "fp32",  # where it is not used, it is put to fp32
    }
    unknown = {name for name in demanded if name.endswith("_fingerprint") and experiment.get(name) is None}
    if experiment.get("task", SETTING["task"]) != SETTING["task"]:
        unknown.add("data_fingerprint")
    return [name for name, value in demanded.items() if name not in unknown and experiment.get(name, value) != value]
