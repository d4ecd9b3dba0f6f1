"""Synthetic stores: evidence whose truth the test chooses."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from synthetic_benchmarks import benchmark_file
from synthetic_runs import BAD_RUNS as BAD_RUNS
from synthetic_runs import GOOD_RUNS as GOOD_RUNS
from synthetic_runs import NULL_RUNS as NULL_RUNS
from synthetic_runs import PROVENANCE as PROVENANCE
from synthetic_runs import experiment as experiment
from synthetic_runs import record as record
from synthetic_runs import repeat as repeat
from synthetic_runs import save_longer as save_longer
from synthetic_runs import save_paths as save_paths
from synthetic_runs import save_repeats as save_repeats
from synthetic_runs import save_runs as save_runs
from synthetic_runs import save_starts as save_starts
from synthetic_runs import save_studies_of_training as save_studies_of_training
from synthetic_runs import save_twins as save_twins

from mixkd.store import Store, content_id
from reports.evidence import Evidence, load
from reports.ledger import LEDGER
from theory import studies

SIZES = (20, 80, 320)
ROLES = {
    **{name: list(studies.STUDIES[name].cells) for name in studies.CLAIM_STUDIES if name != "gap_by_n"},
    "gap_by_n": [f"{world} {arm} n={n}" for world in ("W1", "W2") for arm in ("S0", "S1", "S2", "S3") for n in SIZES],
    "identification": [f"{arm} n={n}" for arm in ("S0", "S3") for n in (5, 7, 28)],
    "phase": [
        f"phase {shape} c=2 {student} n={n} {arm}"
        for shape in ("isotropic", "manifold")
        for student in ("cosines", "affine")
        for n in (22, 440)
        for arm in ("S0", "S3 a=1 rho=4", "S3 a=0.2 rho=16")
    ],
    "calibration": ["null worlds", "effect worlds"],
}


@dataclass(frozen=True)
class Cell:
    study: str
    role: str
    num_replicates: int

    @property
    def identity(self) -> dict[str, Any]:
        return {"study": self.study, "role": self.role, "num_replicates": self.num_replicates}

    @property
    def cell_id(self) -> str:
        return content_id(self.identity)


@dataclass(frozen=True)
class Study:
    title: str
    cells: dict[str, Cell] = field(default_factory=dict)


STUDIES = {key: Study(key, {role: Cell(key, role, 200) for role in roles}) for key, roles in ROLES.items()}


def save_cell(store: Store, cell: Cell, columns: dict[str, Any]) -> None:
    path = store.cell_data_path(cell.cell_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"replicate": range(cell.num_replicates), **columns}).to_parquet(path)
    store.save_cell(cell.identity, PROVENANCE)


def save_study(store: Store, key: str, effect: str = "good", seed: int = 0) -> None:
    """One study; effect "good": every claim on it is true, "bad": every one is false, "null": arms are alike."""
    for place, (role, cell) in enumerate(STUDIES[key].cells.items()):
        save_cell(store, cell, _replicates(key, role, effect, np.random.default_rng([seed, 1, place]), seed))


def _replicates(key: str, role: str, effect: str, own: np.random.Generator, seed: int) -> dict[str, Any]:
    n, good = STUDIES[key].cells[role].num_replicates, effect == "good"
    # What all arms share (the originals), and what is this arm's own.
    shared = np.exp(np.random.default_rng([seed, 0]).normal(0, 0.2, n))
    noise = np.exp(own.normal(0, 0.05, n))
    reference = "S0" in role.split()
    factor = 1.0 if reference else {"good": 0.6, "bad": 1.3, "null": 1.0}[effect]
    base = shared * noise * factor
    columns: dict[str, Any] = {
        "sup_one_sided": base * 0.3,
        "sup_two_sided": base * 0.4,
        "generalization_gap": base * 0.2,
        "population_risk": base * 0.5,
    }
    match key:
        case "T01" | "T02" | "T03" | "T04":
            bound = np.full(n, 5.0 if good else 0.25)
            columns |= {"bound": bound, "mutant_loss": bound / 2, "mutant_discrepancy": bound / 2}
        case "gap_by_n":
            factor = 0.5**0.5 / 0.6 if good and " S1 " in role else 1.0  # half the originals for the same deviation
            rate = {"good": 0.5, "bad": 0.4, "null": 0.5}[effect]
            fall = (20 / int(role.split("n=")[1])) ** rate * factor
            columns = {name: values * fall * 1.2 for name, values in columns.items()}
            columns["bound"] = columns["sup_one_sided"] * 3
        case "T10":
            columns["limit"] = np.full(n, columns["sup_one_sided"].mean() * (1.0 if good else 0.7))
        case "T12" if "d=20" in role and not reference:
            columns["sup_two_sided"] = shared * noise * 0.4 * {"good": 1.5, "bad": 0.7, "null": 1.0}[effect]
        case "T13":
            size = 0.5 if effect == "bad" and role == "rho=20" else 1.0
            columns = {name: values * size for name, values in columns.items()}
            columns["iid_bound"] = np.full(n, 5.0 if good else 0.1)
        case "T14" if reference or role == "balanced":
            columns["sup_one_sided"] = shared * 0.3 + (0 if good or reference else 1e-3)
        case "T16" if good:
            columns["population_risk"] = base * (50 if reference else 1e-14)
        case "identification" if not reference:
            columns["population_risk"] = base * 1e-14
        case "T17":
            error = 0.3 if role in ("S0", "S3") or not good else 1e-12
            columns = {"parameter_error": np.full(n, error)} | {
                f"coefficient_{k}": shared + (0.1 if role == "S3" and not good else 0) for k in range(3)
            }
        case "T18":
            excess = 0.0 if reference else {"good": 1.0, "bad": 2.0, "null": 0.0}[effect] * studies.CURVATURE_EXCESS
            columns["population_risk"] = 0.1 + 0.01 * shared + 1e-5 * noise + excess
        case "T20":
            mixed, answers = {"good": (2.0, 1.01), "bad": (1.1, 1.4), "null": (1.2, 1.2)}[effect]
            least = np.full(n, 0.5)
            last = least * (mixed if "label-mixup" in role else answers) * np.exp(own.normal(0, 0.01, n))
            columns |= {"overtraining": last / least, "risk_0": last * 2, "risk_1": least, "risk_2": last}
        case "calibration":
            flags = {test.measure for claim in LEDGER if claim.study == key for test in claim.tests}
            columns = {flag: np.ones(n) if good else (np.arange(n) % 2).astype(float) for flag in flags}
    return columns


def save_benchmarks(store: Store, **changes: Any) -> None:
    store.benchmarks_dir.mkdir(parents=True, exist_ok=True)
    (store.benchmarks_dir / "bench.json").write_text(json.dumps(benchmark_file(**changes)))


def read(store: Store) -> Evidence:
    """What a store of such evidence holds."""
    return load(store, STUDIES)


def save_all(store: Store, effect: str = "good", num_seeds: int = 12) -> None:
    for key in STUDIES:
        save_study(store, key, effect)
    truth = {"good": GOOD_RUNS, "bad": BAD_RUNS, "null": NULL_RUNS}[effect]
    save_runs(store, truth, num_seeds)
    save_twins(store, fp32_gain=0.05 if effect == "bad" else 0.0)
    save_starts(store, truth, num_seeds)
    save_longer(store)
    save_repeats(store)
    save_paths(store)
    save_studies_of_training(store)
    save_benchmarks(store, **({} if effect == "good" else {"time_ratio": 0.9, "student_parameters": 22_000_000}))
