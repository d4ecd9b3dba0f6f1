"""Every figure of the report: they draw numbers that were estimated elsewhere, and compute none."""

import gc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager

from reports import (
    benchmark_figures,
    bound_figures,
    over_n_figures,
    path_figures,
    setting_figures,
    simulation_figures,
    training_figures,
)
from reports.drawing import Figure
from reports.evidence import Evidence

_Room = Callable[[Evidence], Iterable[Figure]]

#: Two halves that take equally long.
_THEIRS = (setting_figures.build, simulation_figures.build)
_OURS = (
    over_n_figures.build, bound_figures.build, training_figures.build, path_figures.build, benchmark_figures.build,
)  # fmt: skip


def build(evidence: Evidence, helper: Executor | None = None) -> list[Figure]:
    """Every figure that the evidence allows.

    Args:
        evidence: What is drawn.
        helper: Another process, which draws half of them, see `reports.helper`.
    """
    if helper is None:
        return _draw(evidence, (*_OURS, *_THEIRS))
    try:
        theirs = helper.submit(_draw, evidence, _THEIRS)
        return [*_draw(evidence, _OURS), *theirs.result()]
    except BrokenExecutor:  # it was killed, as the system does when memory runs out
        return build(evidence)


def _draw(evidence: Evidence, rooms: Iterable[_Room]) -> list[Figure]:
    with without_collecting():
        return [figure for room in rooms for figure in room(evidence)]


@contextmanager
def without_collecting() -> Iterator[None]:
    """Garbage waits: drawing makes so many small objects that looking for it takes a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
