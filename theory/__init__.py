"""Simulated worlds in which the generalization gap of distillation with mixup is known exactly.

The names below are imported on first use, so that ``import theory`` costs nothing. ``theory.simulate``
is the module; the function that turns a cell into replicates is ``theory.simulate.simulate``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theory.bounds import norm_ball_rademacher, t0_bound, t0_data_bound, t1_bound, t2_bound, t3_bound
    from theory.cell import Cell
    from theory.deviation import empirical_rademacher, sup_absolute_deviation, sup_deviation
    from theory.learners import ball_erm, min_norm, ridge
    from theory.moments import Moments
    from theory.running import run_studies
    from theory.studies import MASTER_SEED, STUDIES, Study
    from theory.world import World
    from theory.worlds import WORLDS, build_world

_MODULE_OF = {
    "norm_ball_rademacher": "bounds",
    "t0_bound": "bounds",
    "t0_data_bound": "bounds",
    "t1_bound": "bounds",
    "t2_bound": "bounds",
    "t3_bound": "bounds",
    "empirical_rademacher": "deviation",
    "sup_absolute_deviation": "deviation",
    "sup_deviation": "deviation",
    "ball_erm": "learners",
    "min_norm": "learners",
    "ridge": "learners",
    "Moments": "moments",
    "Cell": "cell",
    "MASTER_SEED": "studies",
    "STUDIES": "studies",
    "Study": "studies",
    "run_studies": "running",
    "WORLDS": "worlds",
    "World": "world",
    "build_world": "worlds",
}

__all__ = [
    "MASTER_SEED", "STUDIES", "WORLDS", "Cell", "Moments", "Study", "World", "ball_erm", "build_world",
    "empirical_rademacher", "min_norm", "norm_ball_rademacher", "ridge", "run_studies",
    "sup_absolute_deviation", "sup_deviation", "t0_bound", "t0_data_bound", "t1_bound", "t2_bound", "t3_bound",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'theory' has no attribute {name!r}")
    return getattr(import_module(f"theory.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
