"""Every figure of the report: they draw numbers that were estimated elsewhere, and compute none."""

import gc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from dataclasses import replace

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

#: Figures of runs and benchmarks, and those of cells. The former take somewhat longer, but have a head start.
_OF_RUNS = (training_figures.build, setting_figures.build, path_figures.build, benchmark_figures.build)
_OF_CELLS = (over_n_figures.build, bound_figures.build, simulation_figures.build)


def begin(evidence: Evidence, helper: Executor | None) -> Future[list[Figure]] | None:
    """Have another process draw the figures of runs and benchmarks; it is not sent the cells, which are thousands."""
    try:
        return None if helper is None else helper.submit(_draw, replace(evidence, cells={}), _OF_RUNS)
    except BrokenExecutor:
        return None


def build(evidence: Evidence, begun: Future[list[Figure]] | None = None) -> list[Figure]:
    """Every figure that the evidence allows.

    Args:
        evidence: What is drawn.
        begun: What `begin` gave, if another process draws some of them.
    """
    drawn = _draw(evidence, _OF_CELLS)
    try:
        return drawn + (begun.result() if begun else _draw(evidence, _OF_RUNS))
    except BrokenExecutor:  # it was killed, as the system does when memory runs out
        return drawn + _draw(evidence, _OF_RUNS)


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
