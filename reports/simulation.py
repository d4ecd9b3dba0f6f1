"""The numbers behind the figures and tables of the simulations: estimates with their intervals, as data frames."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from reports import wording
from reports.evidence import Evidence, registered_runs
from reports.ledger import LEDGER
from reports.samples import Missing, samples
from reports.statistics import (
    Interval,
    coverage_estimate,
    mean_estimate,
    median_estimate,
    ratio_estimate,
)

#: The four quantities that are always reported together.
QUANTITIES = {
    "sup_one_sided": "one-sided deviation",
    "sup_two_sided": "two-sided deviation",
    "generalization_gap": "learned gap",
    "population_risk": "risk",
}
_PHASE_ROLE = re.compile(
    r"phase (?P<shape>\S+) c=(?P<curvature>\S+) (?P<student>\S+) n=(?P<n>\d+) S3 a=(?P<a>\S+) rho=(?P<rho>\d+)"
)


def quantities(evidence: Evidence) -> pd.DataFrame:
    """The four quantities of every cell that a study asks for: mean and 95 % interval, missing where there is none."""
    rows = []
    for (study, role), cell in evidence.cells.items():
        if study in ("phase", "phase_full", "calibration"):
            continue
        row: dict[str, Any] = {"study": study, "role": role, "num_replicates": len(cell)}
        for name in QUANTITIES:
            values = mean_estimate(cell[name])[:3] if name in cell else (np.nan,) * 3
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
        rows.append(row)
    return pd.DataFrame(rows).replace([np.inf, -np.inf], np.nan)


def coverages(evidence: Evidence) -> pd.DataFrame:
    """How often every bound holds, as derived and with one constant that is wrong, and whether coverage can tell.

    A constant of what vanishes in a world cannot be wrong there: none is listed that changes less than a millionth.

    Returns:
        One row per study, world and constant that is wrong ("" for none): coverage, low, high (Clopper and Pearson),
        slack (bound over the 95 % quantile of the deviation), told (whether the interval is below 95 %).
    """
    rows = []
    for (study, world), cell in evidence.cells.items():
        for column in cell.filter(regex="^(bound|mutant_.*)$") if study in ("T01", "T02", "T03", "T04") else ():
            if column != "bound" and "bound" in cell and np.allclose(cell[column], cell["bound"], rtol=1e-6):
                continue
            num_covered = int((cell["sup_one_sided"] <= cell[column]).sum())
            share = coverage_estimate(num_covered, len(cell), 0.95)
            rows.append(
                {"study": study, "bound": f"T{int(study[1:]) - 1}", "world": world}
                | {"constant": "" if column == "bound" else str(column).removeprefix("mutant_")}
                | {"coverage": share.effect, "low": share.low, "high": share.high, "told": share.high < 0.95}
                | {"slack": cell[column].mean() / cell["sup_one_sided"].quantile(0.95), "num_replicates": len(cell)}
            )
    return pd.DataFrame(rows)


def recovery(evidence: Evidence) -> pd.DataFrame:
    """Distance of a realisable student's coefficients to the teacher's, per arm of T17: median, low, high."""
    rows = []
    for (study, arm), cell in evidence.cells.items():
        if study == "T17" and "parameter_error" in cell:
            median = median_estimate(cell["parameter_error"], 1.0)
            rows.append({"arm": arm, "median": median.effect, "low": median.low, "high": median.high})
            rows[-1]["num_replicates"] = len(cell)
    return pd.DataFrame(rows)


def trainings(evidence: Evidence) -> pd.DataFrame:
    """Median risk along training, relative to each replicate's least, with its interval; by student and arm."""
    rows = []
    for (study, role), cell in evidence.cells.items():
        if study != "T20" or (path := cell.filter(regex=r"^risk_\d+$")).empty:
            continue
        student, arm = role.rsplit(" ", 1)
        relative = path.div(path.min(axis="columns"), axis="index")
        for column in path:
            median = median_estimate(relative[column], 1.0)
            share = int(str(column).removeprefix("risk_")) / (path.shape[1] - 1)
            rows.append(
                {"student": student, "arm": arm, "progress": share, "num_replicates": len(cell)}
                | {"median": median.effect, "low": median.low, "high": median.high}
            )
    return pd.DataFrame(rows)


def ratios(evidence: Evidence) -> pd.DataFrame:
    """Every claim of the simulations about a ratio of means: the ratio, its interval and its threshold.

    Returns:
        One row per claim and test: claim, quantity (in words), ratio, low, high, side, threshold, num_replicates.
    """
    rows = []
    for claim in LEDGER:
        for test in claim.tests:
            if claim.evidence != "theory" or claim.study == "calibration" or test.statistic != "ratio of means":
                continue
            found = samples(evidence, claim, test)
            if isinstance(found, Missing):
                continue
            ratio, low, high, *_ = ratio_estimate(found.arm, found.reference, test.threshold)
            row = {
                "claim": claim.id,
                "quantity": wording.quantity(claim, test),
                "ratio": ratio,
                "low": low,
                "high": high,
            }
            rows.append(row | {"side": test.side, "threshold": test.threshold, "num_replicates": len(found.frame)})
    return pd.DataFrame(rows)


def contrasts(evidence: Evidence) -> pd.DataFrame:
    """Learned gap and risk of mixup against none in every study of them: paired change over the risk without."""
    rows = []
    for study in ("T18", "T19", "T22", "T23", "T24"):
        for (own, role), cell in evidence.cells.items():
            baseline = evidence.cells.get((study, re.sub(r"\b(S3|jitter)\b", "S0", role)))
            if own == study and re.search(r"\b(S3|jitter)\b", role) and baseline is not None:
                setting = re.sub(r"\s*\bS3\b\s*", " ", role).strip()
                rows += [{"study": study, "setting": setting, **change} for change in _changes(cell, baseline)]
    return pd.DataFrame(rows)


def phase(evidence: Evidence) -> pd.DataFrame:
    """Change of learned gap and risk under S3 in every cell of the phase diagram, paired, with its 95 % interval.

    Returns:
        One row per world, n, a, rho and measure: study ("phase_full" where more of it was run than "phase", whose cells
        are among its own), shape, curvature, student, num_samples (n), a, rho, ratio (n / D), measure, change
        (difference over the risk without mixup), low, high, num_replicates.
    """
    num_cells = Counter(study for study, _ in evidence.cells)
    study = "phase_full" if num_cells["phase_full"] > num_cells["phase"] else "phase"
    dimensions = {"cosines": 200, "affine": 11}
    rows = []
    for (own, role), cell in evidence.cells.items():
        found = _PHASE_ROLE.fullmatch(role) if own == study else None
        if not found:
            continue
        baseline = evidence.cells.get((study, f"{role.split(' S3 ')[0]} S0"))
        if baseline is None:
            continue
        setting = {
            "study": study,
            "shape": found["shape"],
            "curvature": float(found["curvature"]),
            "student": found["student"],
            "num_samples": int(found["n"]),
            "a": float(found["a"]),
            "rho": int(found["rho"]),
            "ratio": int(found["n"]) / dimensions[found["student"]],
        }
        rows += [setting | change for change in _changes(cell, baseline)]
    return pd.DataFrame(rows)


def _changes(cell: pd.DataFrame, baseline: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Paired changes of gap and risk, both over the mean risk without mixup: a gap may be near zero."""
    scale = baseline["population_risk"].mean()
    if not baseline.index.equals(cell.index):
        baseline = baseline.reindex(cell.index)
    for measure in ("generalization_gap", "population_risk"):
        difference = cell[measure].to_numpy() - baseline[measure].to_numpy()  # in pandas six times as slow
        paired = difference[~np.isnan(difference)]
        change, low, high = (value / scale for value in mean_estimate(paired)[:3])
        yield {"measure": measure, "change": change, "low": low, "high": high, "num_replicates": len(paired)}


def bridge(evidence: Evidence) -> pd.DataFrame:
    """The four quantities of trained BERT students beside those of the simulated worlds: SM+TMKD (S3) against none.

    Returns:
        One row per quantity and source: quantity, source, effect, low, high (mixup minus none, in units of that
        source's loss), unit of replication and number; missing where it cannot be estimated, with the reason.
    """
    rows: list[dict[str, Any]] = []
    for study, setting, name in (
        ("T22", "n=20", "W4, 20 originals, random cosines"),
        ("T23", "", "W4, 400 originals, affine"),
        ("T24", "cosines n=20", "sentence embeddings, 20 originals, random cosines"),
    ):
        words = setting.split()
        arms = [" ".join([*words[:-1], arm, *words[-1:]]) for arm in ("S3", "S0")]
        cells = [evidence.cells.get((study, arm)) for arm in arms]
        for quantity, label in QUANTITIES.items():
            row = {"quantity": label, "source": name, "unit": "replicate"}
            if cells[0] is None or cells[1] is None:
                rows.append(row | {"reason": f"not run: mixkd theory {study}"})
            elif quantity not in cells[0]:
                rows.append(row | {"reason": "no ball of students, so no supremum"})
            else:
                rows.append(row | _difference(cells[0][quantity], cells[1][quantity]))
    runs = registered_runs(evidence.runs)
    for reference in ("ft", "kd"):
        name = f"BERT students, SM+TMKD minus {reference.upper()}"
        for quantity, label in QUANTITIES.items():
            column = {"generalization_gap": "generalization_gap", "population_risk": "test_loss"}.get(quantity)
            row = {"quantity": label, "source": name, "unit": "seed"}
            if column is None:
                rows.append(row | {"reason": "a supremum over networks cannot be computed"})
                continue
            if column not in runs:
                rows.append(row | {"reason": "not run: mixkd suite quick"})
                continue
            wide = runs.pivot_table(index=["seed", "pair"], columns="recipe", values=column)
            wide = wide.reindex(columns=["sm+tmkd", reference]).dropna().groupby("seed").mean()
            if wide.empty:
                rows.append(row | {"reason": "not run: mixkd suite quick"})
            else:
                rows.append(row | _difference(wide["sm+tmkd"], wide[reference]))
    columns = ["quantity", "source", "effect", "low", "high", "unit", "num", "reason"]
    return pd.DataFrame(rows).reindex(columns=columns).replace([np.inf, -np.inf], np.nan)


def _difference(arm: pd.Series, reference: pd.Series) -> dict[str, Any]:
    found = Interval(*mean_estimate((arm - reference).dropna())[:3])
    return {**found._asdict(), "num": len((arm - reference).dropna())}
