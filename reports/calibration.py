"""Calibration of the judge: how often it supports what is false, and misses what is true.

Worlds are resampled from the pilots' evidence. In a null world every claim is false, as narrowly as can be: one of its
tests, another one in every world, is moved onto its threshold, and the others are taken to hold. In an effect world
the replicates are drawn anew from the pilots as they are. Every world is judged by the registered rule.

Evidence of training runs, of which pilots have none, is drawn as normal pairs: thirty seeds, correlation 1/2. Of exact
tests, which have no sampling error, and of timings there are no null worlds; they count as not run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import pandas as pd

from mixkd.store import Store, atomic_path, content_id, now, provenance
from reports import statistics
from reports.claims import CONFIDENCE, LEDGER, Claim, Test, ledger_sha256
from reports.evidence import Evidence, Study, load
from reports.samples import Missing, Samples, samples
from reports.statistics import Estimate, Interval
from reports.verdicts import claim_p_values, decide, estimate, family_p_values, holds
from theory.studies import PILOT_SEED, STUDIES, pilot_of

NUM_WORLDS = 2000  # of each kind
NUM_SEEDS = 30


@dataclass(frozen=True)
class CalibrationCell:
    """What decides the numbers of the calibration: the ledger and its pilots' seed."""

    ledger: str
    num_replicates: int = NUM_WORLDS
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
    """The one cell of the calibration, as a study like those of `theory.studies`."""

    cells: Mapping[str, CalibrationCell]


def registered_studies() -> dict[str, Study]:
    """All studies that claims rest on."""
    return {**STUDIES, "calibration": CalibrationStudy({"worlds": CalibrationCell(ledger_sha256())})}


def run_calibration(store: Store, force: bool = False, num_jobs: int = 1, num_worlds: int = NUM_WORLDS) -> str:
    """Judge many null worlds and as many effect worlds, and save what came of each.

    Args:
        store: Holds the pilots' cells (`mixkd theory --pilot`); the result goes beside them.
        force: Whether to do it again.
        num_jobs: Worker processes; the numbers do not depend on it.
        num_worlds: Of each kind; claims read the registered number.

    Returns:
        Name of the result's files in the store.
    """
    cell = CalibrationCell(ledger_sha256(), num_worlds)
    if not force and store.load_cell(cell.cell_id) is not None:
        return cell.cell_id
    started_at = now()
    pilots = load(store, {name: pilot_of(study) for name, study in STUDIES.items() if name != "phase_full"})
    chunks = np.array_split(np.arange(num_worlds), min(num_worlds, 20))
    jobs = (joblib.delayed(calibrate)(pilots, chunk) for chunk in chunks)
    frame = pd.concat(joblib.Parallel(n_jobs=num_jobs)(jobs), ignore_index=True)
    with atomic_path(store.cell_data_path(cell.cell_id)) as path:
        frame.to_parquet(path)
    seeds = {"master_seed": PILOT_SEED}
    store.save_cell(cell.identity, provenance(device="cpu", num_threads=1, seeds=seeds, started_at=started_at))
    return cell.cell_id


def calibrate(pilots: Evidence, worlds: Iterable[int], ledger: tuple[Claim, ...] = LEDGER) -> pd.DataFrame:
    """What came of every world.

    Args:
        pilots: The pilots' evidence.
        worlds: Numbers of the worlds; each is drawn from a stream of its own.
        ledger: The claims.

    Returns:
        One row per world: `replicate`; `nothing falsely supported (FAMILY)` and `nothing falsely contradicted
        (FAMILY)`, in a null world; `ID as expected`, for every claim that the pilots speak of, in an effect world;
        `STATISTIC covered`, the share of that statistic's intervals that hold the truth, in a null world, and what
        is `promised` of it. The others are 0 or 1.
    """
    laws = {claim.id: _laws(pilots, claim) for claim in ledger if claim.family != "machinery"}
    claims = tuple(claim for claim in ledger if claim.id in laws)
    rows = []
    for k in worlds:
        rng = np.random.default_rng([PILOT_SEED, int(k)])
        rows.append({"replicate": k, **_null_world(claims, laws, rng), **_effect_world(claims, laws, rng)})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Law:
    """What the evidence of one test is drawn from: rows of a frame, with replacement.

    Attributes:
        frame: As in `reports.samples.Samples`; None for training runs.
        estimate: Of the whole frame; its effect is the truth under this law.
    """

    test: Test
    frame: pd.DataFrame | None
    estimate: Estimate

    def at_threshold(self) -> "_Law":
        """The law that is moved so that the truth is the test's threshold."""
        test, truth = self.test, self.estimate.effect
        moved = self.estimate._replace(effect=test.threshold)
        if self.frame is None or test.statistic in ("coverage", "share", "least sample size"):
            return _Law(test, self.frame, moved)
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
            reference = rng.normal(0.8, 0.02, NUM_SEEDS)
            scale = test.threshold if test.statistic == "ratio of means" else 1.0
            arm = scale * (0.8 + (reference - 0.8) / 2 + rng.normal(0, 0.02 * np.sqrt(3) / 2, NUM_SEEDS))
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
            laws.append(_Law(test, None, Estimate(test.threshold, 0.0, 0.0, 1.0, 1.0)))
            continue
        found: Samples | Missing = samples(pilots, claim, test)
        if isinstance(found, Missing) or test.statistic == "every cell":
            return []
        laws.append(_Law(test, found.frame, estimate(test, found.frame)))
    return laws


def _null_world(claims: tuple[Claim, ...], laws: Mapping[str, list[_Law]], rng: np.random.Generator) -> dict[str, Any]:
    """One test of every claim at its threshold, the others taken to hold."""
    drawn: dict[str, tuple[Test, Estimate]] = {}
    for claim in claims:
        free = [law for law in laws[claim.id] if law.test.statistic != "largest"]
        if free:
            law = free[rng.integers(len(free))]
            drawn[claim.id] = law.test, law.at_threshold().draw(rng)
    raw = {}
    for claim in claims:
        support, against = claim_p_values([drawn[claim.id]]) if claim.id in drawn else (1.0, 1.0)
        raw[claim.id] = support, min(1.0, against * len(claim.tests))
    outcomes = {
        claim.id: decide(*p_values, all_hold=holds(*drawn[claim.id]))
        for claim, p_values in family_p_values(claims, raw)
        if claim.id in drawn
    }
    covered: dict[str, list[bool]] = {}
    for test, found in drawn.values():
        covered.setdefault(test.statistic, []).append(found.low <= test.threshold <= found.high)
    flags = {
        f"nothing falsely {outcome} ({family})": float(
            not any(outcomes.get(claim.id) == outcome for claim in claims if claim.family == family)
        )
        for outcome in ("supported", "contradicted")
        for family in ("confirmatory", "control")
    }
    shares = {f"{statistic} covered": float(np.mean(each)) for statistic, each in covered.items()}
    return flags | shares | {"promised": CONFIDENCE}


def _effect_world(
    claims: tuple[Claim, ...], laws: Mapping[str, list[_Law]], rng: np.random.Generator
) -> dict[str, float]:
    """The pilots' evidence of every claim of the theory, drawn anew; the other claims count as not run."""
    drawn = {
        claim.id: [(law.test, law.draw(rng)) for law in laws[claim.id]]
        for claim in claims
        if claim.evidence == "theory" and laws[claim.id]
    }
    raw = {claim.id: claim_p_values(drawn[claim.id]) if claim.id in drawn else (1.0, 1.0) for claim in claims}
    return {
        f"{claim.id} as expected": float(
            decide(*p_values, all_hold=all(holds(*pair) for pair in drawn[claim.id])) == claim.expected
        )
        for claim, p_values in family_p_values(claims, raw)
        if claim.id in drawn
    }
