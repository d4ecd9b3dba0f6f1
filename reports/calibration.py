"""Calibration of the judge: how often it supports what is false, and misses what is true.

Worlds are resampled from the pilots' evidence. In a null world every claim is false, as narrowly as can be: one of its
tests, another one in every world, is moved onto its threshold, and the others are taken to hold. That is the worst case
for false support. For false contradiction it is not quite (more tests of a claim could be at their thresholds, where
Bonferroni's correction holds the level without a check). In an effect world the replicates are drawn anew from the
pilots as they are. Every world is judged by the registered rule; claims are drawn independently.

Some evidence follows a law that fits its test by construction, and its worlds check the correction and the rule, not
the test: counts of coverage are binomial, n* is log-normal (resampling inside of resampling otherwise), and training
runs, of which pilots have none, are normal pairs (of all seeds, correlation 1/2). Of exact tests, which have no
sampling error, and of timings there are no null worlds; they count as not run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import joblib
import numpy as np
import pandas as pd

from mixkd.store import Store, atomic_path, content_id, now, provenance
from reports import statistics
from reports.claims import Claim, Test
from reports.evidence import Evidence, Study, load
from reports.ledger import LEDGER, ledger_sha256
from reports.results import estimate, holds
from reports.samples import Missing, Samples, samples
from reports.statistics import Estimate, Interval
from reports.verdicts import claim_p_values, decide, family_p_values
from theory.studies import CLAIM_STUDIES, PILOT_SEED, STUDIES, pilot_of

Kind = Literal["null", "effect"]

#: Null worlds are many, because Holm's procedure errs in nearly 5 % of them by construction.
NUM_WORLDS: Mapping[Kind, int] = {"null": 10_000, "effect": 1_000}


@dataclass(frozen=True)
class CalibrationCell:
    """What decides the numbers of the calibration: the ledger, its pilots' seed, and the kind of worlds."""

    kind: Kind
    ledger: str
    num_replicates: int
    master_seed: int = PILOT_SEED

    @property
    def identity(self) -> dict[str, Any]:
        """As it is stored."""
        return {"study": "calibration", **vars(self)}

    @property
    def cell_id(self) -> str:
        """Name of its files in the store."""
        return content_id(self.identity)


@dataclass(frozen=True)
class CalibrationStudy:
    """The cells of the calibration, as a study like those of `theory.studies`."""

    cells: Mapping[str, CalibrationCell]


def calibration_study(num_worlds: Mapping[Kind, int] = NUM_WORLDS) -> CalibrationStudy:
    """The calibration of the ledger as it is now."""
    return CalibrationStudy(
        {f"{kind} worlds": CalibrationCell(kind, ledger_sha256(), num) for kind, num in num_worlds.items()}
    )


def registered_studies() -> dict[str, Study]:
    """All studies that claims rest on."""
    return {**STUDIES, "calibration": calibration_study()}


def run_calibration(
    store: Store, force: bool = False, num_jobs: int = 1, num_worlds: Mapping[Kind, int] = NUM_WORLDS
) -> None:
    """Judge many null worlds and effect worlds, and save what came of each.

    Args:
        store: Holds the pilots' cells (`mixkd theory --pilot`); the result goes beside them.
        force: Whether to do it again.
        num_jobs: Worker processes; the numbers do not depend on it.
        num_worlds: Of each kind; claims read the registered numbers.
    """
    cells = calibration_study(num_worlds).cells.values()
    missing = [cell for cell in cells if force or store.load_cell(cell.cell_id) is None]
    if not missing:
        return
    pilots = load(store, {name: pilot_of(STUDIES[name]) for name in CLAIM_STUDIES})
    for cell in missing:
        started_at = now()
        chunks = np.array_split(np.arange(cell.num_replicates), min(cell.num_replicates, 8))
        jobs = (joblib.delayed(calibrate)(pilots, cell.kind, chunk) for chunk in chunks)
        frame = pd.concat(joblib.Parallel(n_jobs=num_jobs)(jobs), ignore_index=True)
        with atomic_path(store.cell_data_path(cell.cell_id)) as path:
            frame.to_parquet(path)
        seeds = {"master_seed": PILOT_SEED}
        store.save_cell(cell.identity, provenance(device="cpu", num_threads=1, seeds=seeds, started_at=started_at))


def calibrate(pilots: Evidence, kind: Kind, worlds: Iterable[int], ledger: tuple[Claim, ...] = LEDGER) -> pd.DataFrame:
    """What came of every world of a kind.

    Args:
        pilots: The pilots' evidence.
        kind: "null" or "effect".
        worlds: Numbers of the worlds; each is drawn from a stream of its own.
        ledger: The claims.

    Returns:
        One row per world, with `replicate`. Of null worlds: `nothing falsely supported (FAMILY)` and `nothing
        falsely contradicted (FAMILY)` and, for every claim that was drawn, `ID covered`: whether the interval holds
        the truth. Of effect worlds: `ID as expected`, for every claim that the pilots speak of. All are 0 or 1.
    """
    laws = {claim.id: _laws(pilots, claim) for claim in ledger if claim.family != "machinery"}
    claims = tuple(claim for claim in ledger if claim.id in laws)
    stream = {"null": 1, "effect": 2}[kind]
    judge_world = _effect_world
    if kind == "null":
        judge_world = _null_world
        laws = {key: [law.at_threshold() for law in of if law.test.statistic != "largest"] for key, of in laws.items()}
    rows = []
    for k in worlds:
        rng = np.random.default_rng([PILOT_SEED, stream, int(k)])
        rows.append({"replicate": k, **judge_world(claims, laws, rng)})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Law:
    """What the evidence of one test is drawn from: rows of a frame, with replacement.

    Attributes:
        frame: As in `reports.samples.Samples`; None for training runs.
        estimate: Of the whole frame; its effect is the truth under this law.
        num_seeds: Of training runs.
    """

    test: Test
    frame: pd.DataFrame | None
    estimate: Estimate
    num_seeds: int = 0

    def at_threshold(self) -> "_Law":
        """The law that is moved so that the truth is the test's threshold."""
        test, truth = self.test, self.estimate.effect
        moved = self.estimate._replace(effect=test.threshold)
        if self.frame is None or test.statistic in ("coverage", "share", "least sample size"):
            return replace(self, estimate=moved)
        frame = self.frame.copy()
        arm = frame.columns[0]
        match test.statistic:
            case "mean difference":
                frame[arm] += test.threshold - truth
            case "log-log slope":
                frame[arm] *= frame["n"] ** (test.threshold - truth)
            case _:
                frame[arm] *= test.threshold / truth
        return _Law(test, frame, moved)

    def draw(self, rng: np.random.Generator) -> Estimate:
        """The estimate of new evidence."""
        test, truth = self.test, self.estimate.effect
        if self.frame is None:
            reference = rng.normal(0.8, 0.02, self.num_seeds)
            scale = test.threshold if test.statistic == "ratio of means" else 1.0
            arm = scale * (0.8 + (reference - 0.8) / 2 + rng.normal(0, 0.02 * np.sqrt(3) / 2, self.num_seeds))
            arm += 0.0 if test.statistic == "ratio of means" else test.threshold
            return estimate(test, pd.DataFrame({"arm": arm, "reference": reference}))
        if test.statistic in ("coverage", "share"):
            num_covered = rng.binomial(len(self.frame), truth)
            return statistics.coverage_estimate(num_covered, len(self.frame), test.threshold)
        if test.statistic == "least sample size":  # resampling inside of resampling: its own log-normal law instead
            _, low, high, *_ = self.estimate
            error = np.log(high / low) / 2 / statistics.Z
            centre = truth * np.exp(error * rng.standard_normal())
            half_width = np.exp(statistics.Z * error)
            return statistics.interval_estimate(
                Interval(centre, centre / half_width, centre * half_width), test.threshold
            )
        return estimate(test, self.frame.iloc[rng.integers(len(self.frame), size=len(self.frame))])


def _laws(pilots: Evidence, claim: Claim) -> list[_Law]:
    """The laws of a claim's tests; none where nothing is known of one."""
    laws = []
    for test in claim.tests:
        if claim.evidence == "runs":
            laws.append(_Law(test, None, Estimate(test.threshold, 0.0, 0.0, 1.0, 1.0), claim.num_seeds))
            continue
        found: Samples | Missing = samples(pilots, claim, test)
        if isinstance(found, Missing) or test.statistic == "every cell":
            return []
        laws.append(_Law(test, found.frame, estimate(test, found.frame)))
    return laws


def _null_world(claims: tuple[Claim, ...], laws: Mapping[str, list[_Law]], rng: np.random.Generator) -> dict[str, Any]:
    """One test of every claim, whose laws are at their thresholds; the others are taken to hold."""
    drawn: dict[str, tuple[Test, Estimate]] = {}
    for claim in claims:
        if of := laws[claim.id]:
            law = of[rng.integers(len(of))]
            drawn[claim.id] = law.test, law.draw(rng)
    raw = {}
    for claim in claims:
        support, against = claim_p_values([drawn[claim.id]]) if claim.id in drawn else (1.0, 1.0)
        raw[claim.id] = support, min(1.0, against * len(claim.tests))
    outcomes = {
        claim.id: decide(*p_values, all_hold=holds(*drawn[claim.id]))
        for claim, p_values in family_p_values(claims, raw)
        if claim.id in drawn
    }
    flags = {
        f"nothing falsely {outcome} ({family})": float(
            not any(outcomes.get(claim.id) == outcome for claim in claims if claim.family == family)
        )
        for outcome in ("supported", "contradicted")
        for family in ("confirmatory", "control")
    }
    covered = {
        f"{key} covered": float(found.low <= test.threshold <= found.high) for key, (test, found) in drawn.items()
    }
    return flags | covered


def _effect_world(
    claims: tuple[Claim, ...], laws: Mapping[str, list[_Law]], rng: np.random.Generator
) -> dict[str, float]:
    """The pilots' evidence of every claim of the theory, drawn anew; the other claims count as not run.

    Tests of one claim that compare the same cells are given the same draw.
    """
    drawn: dict[str, list[tuple[Test, Estimate]]] = {}
    for claim in claims:
        if claim.evidence == "theory" and laws[claim.id]:
            seeds = {(law.test.arm, law.test.reference): rng.integers(2**63) for law in laws[claim.id]}
            drawn[claim.id] = [
                (law.test, law.draw(np.random.default_rng(seeds[law.test.arm, law.test.reference])))
                for law in laws[claim.id]
            ]
    raw = {claim.id: claim_p_values(drawn[claim.id]) if claim.id in drawn else (1.0, 1.0) for claim in claims}
    return {
        f"{claim.id} as expected": float(
            decide(*p_values, all_hold=all(holds(*pair) for pair in drawn[claim.id])) == claim.expected
        )
        for claim, p_values in family_p_values(claims, raw)
        if claim.id in drawn
    }
