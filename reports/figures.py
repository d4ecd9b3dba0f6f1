"""Every figure of the report: they draw numbers that were estimated elsewhere, and compute none."""

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


def build(evidence: Evidence) -> list[Figure]:
    """Every figure that the evidence allows."""
    rooms = (
        over_n_figures, bound_figures, simulation_figures, training_figures, setting_figures, path_figures,
        benchmark_figures,
    )  # fmt: skip
    return [figure for room in rooms for figure in room.build(evidence)]
