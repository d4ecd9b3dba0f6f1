"""The numbers of the studies over the number of originals: estimates with their intervals, as data frames."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from reports.claims import DELTA, EPSILON
from reports.evidence import Evidence
from reports.sample_size import least_sample_sizes, sample_size_interval
from reports.statistics import coverage_estimate, mean_estimate, median_estimate, ratio_estimate, slope_estimate

GAP_STUDY = "gap_by_n"
GAP_MEASURES = ("sup_one_sided", "generalization_gap")
_ROLE = re.compile(r"(?:(?P<world>W\d) )?(?P<arm>S\d) n=(?P<num_samples>\d+)")


def _cells(evidence: Evidence, study: str) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The cells of a study whose roles are "WORLD ARM n=..." or "ARM n=...", with what their roles say."""
    for (own, role), cell in evidence.cells.items():
        found = _ROLE.fullmatch(role) if own == study else None
        if found:
            yield found.groupdict() | {"num_samples": int(found["num_samples"])}, cell


def gap_by_n(evidence: Evidence) -> pd.DataFrame:
    """Mean deviation and learned gap of every world, arm and n, and its difference from S0 on the same originals.

    Returns:
        One row per world, arm, num_samples and measure: mean, low, high (95 %); difference, difference_low,
        difference_high; for the deviation, which is positive, also ratio, ratio_low, ratio_high.
    """
    return pd.DataFrame(
        _gap_rows(evidence),
        columns=[
            "world", "arm", "num_samples", "measure", "num_replicates", "mean", "low", "high",
            "difference", "difference_low", "difference_high", "ratio", "ratio_low", "ratio_high",
        ],
    ).sort_values(["measure", "world", "arm", "num_samples"], ignore_index=True)  # fmt: skip


def _gap_rows(evidence: Evidence) -> Iterator[list[Any]]:
    for setting, cell in _cells(evidence, GAP_STUDY):
        world, arm, n = setting.values()
        baseline = evidence.cells.get((GAP_STUDY, f"{world} S0 n={n}"))
        for measure in GAP_MEASURES:
            if measure not in cell:
                continue
            row = [world, arm, n, measure, len(cell), *mean_estimate(cell[measure])[:3]]
            if arm == "S0" or baseline is None:
                yield [*row, *[None] * 6]
                continue
            pair = pd.DataFrame({"arm": cell[measure], "S0": baseline[measure]}).dropna()
            difference = mean_estimate(pair["arm"] - pair["S0"])[:3]
            ratio = ratio_estimate(pair["arm"], pair["S0"])[:3] if measure == "sup_one_sided" else [None] * 3
            yield [*row, *difference, *ratio]


def is_rounding(gaps: pd.DataFrame) -> pd.Series:
    """Whether a row belongs to a world and measure that is zero but for rounding.

    Where the learner finds the teacher exactly, as in W1, the learned gap is, and differences are no finding.
    """
    largest = gaps.groupby(["world", "measure"])["mean"].transform(lambda means: means.abs().max())
    return largest < 1e-12


def coverage(evidence: Evidence) -> pd.DataFrame:
    """The bound of every arm against the 95 % quantile of its deviation, and how often it holds."""
    rows = []
    for row, cell in _cells(evidence, GAP_STUDY):
        if "bound" not in cell:
            continue
        covered = (cell["sup_one_sided"] <= cell["bound"]).sum()
        share = coverage_estimate(int(covered), len(cell), 0.95)
        quantile = cell["sup_one_sided"].quantile(0.95)
        rows.append(
            row
            | {"bound": cell["bound"].mean(), "quantile": quantile, "slack": cell["bound"].mean() / quantile}
            | {"coverage": share.effect, "low": share.low, "high": share.high, "num_replicates": len(cell)}
        )
    return pd.DataFrame(rows)


def rates(evidence: Evidence) -> pd.DataFrame:
    """Slope of the log deviation over log n for every world and arm, with its HC3 interval, and the fitted line.

    Under mixup the deviation has a plateau, and no line is fitted through it.

    Returns:
        One row per world, arm and n: slope, low, high, num_values (of the fit), mean (geometric, of the deviation at
        this n) and fitted (on the line).
    """
    cells: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for row, cell in _cells(evidence, GAP_STUDY):
        values = pd.DataFrame({"n": row["num_samples"], "value": cell["sup_one_sided"]})
        cells.setdefault((row["world"], row["arm"]), []).append(values)
    rows = []
    for (world, arm), parts in cells.items():
        whole = pd.concat(parts)
        slope = low = high = np.nan
        if arm in ("S0", "S1"):
            slope, low, high, *_ = slope_estimate(whole["n"], whole["value"], -0.5)
        logs = whole.transform("log")
        for n, mean in logs.groupby("n")["value"].mean().items():
            fitted = logs["value"].mean() + slope * (float(str(n)) - logs["n"].mean())
            fit = {"slope": slope, "low": low, "high": high, "num_values": len(whole)}
            rows.append({"world": world, "arm": arm, "num_samples": n, **fit, "mean": mean, "fitted": fitted})
    frame = pd.DataFrame(rows)
    if len(frame):
        frame[["num_samples", "mean", "fitted"]] = np.exp(frame[["num_samples", "mean", "fitted"]])
        frame["num_samples"] = frame["num_samples"].round().astype(int)
    return frame


def sample_sizes(evidence: Evidence) -> pd.DataFrame:
    """n*(EPSILON, DELTA) of every world and arm with its bootstrap interval; missing where no size reaches EPSILON."""
    cells: dict[tuple[str, str], dict[int, pd.Series]] = {}
    for row, cell in _cells(evidence, GAP_STUDY):
        cells.setdefault((row["world"], row["arm"]), {})[row["num_samples"]] = cell["sup_one_sided"]
    rows = []
    for (world, arm), deviations in cells.items():
        found = sample_size_interval(least_sample_sizes(deviations, EPSILON, DELTA))
        largest = max(deviations)
        rows.append({"world": world, "arm": arm, **found._asdict(), "largest_size": largest})
    return pd.DataFrame(rows).replace([np.inf, -np.inf], np.nan)


def identification(evidence: Evidence) -> pd.DataFrame:
    """Median risk of students of a quadratic over the number of originals, with its interval."""
    rows = []
    for row, cell in _cells(evidence, "identification"):
        median = median_estimate(cell["population_risk"], 0.0)
        rows.append(row | {"median": median.effect, "low": median.low, "high": median.high})
    return pd.DataFrame(rows)
