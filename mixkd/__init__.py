"""Distil BERT on mixed-up inputs (MixKD), and check every claim about it.

The public names are loaded when they are first used: ``import mixkd`` is fast and does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixkd.experiment import Experiment
    from mixkd.models import build_student
    from mixkd.recipes import RECIPES, Recipe, recipe
    from mixkd.runs import run
    from mixkd.store import Record, Store, UserError
    from mixkd.suite import run_suite
    from mixkd.tasks import load_task
    from mixkd.trainer import DistillationTrainer

_HOMES = {
    "Experiment": "experiment",
    "run": "runs",
    "build_student": "models",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "recipe": "recipes",
    "Record": "store",
    "Store": "store",
    "UserError": "store",
    "run_suite": "suite",
    "load_task": "tasks",
    "DistillationTrainer": "trainer",
}

__all__ = [
    "RECIPES", "DistillationTrainer", "Experiment", "Recipe", "Record", "Store", "UserError", "build_student",
    "load_task", "recipe", "run", "run_suite",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mixkd' has no attribute {name!r}")
    return getattr(import_module(f"mixkd.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
