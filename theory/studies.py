"""The registered simulations: which cells each claim is judged by."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from theory.arms import Arm, Pairing
from theory.cell import Cell
from theory.closed_forms import mixup_excess_risk, sample_size_ratio
from theory.laws import Shape
from theory.worlds import CURVATURES, SHAPES, phase_name

#: Seed of the ledger's evidence (arXiv 2011.00593), and of the pilots that its thresholds come from.
MASTER_SEED = 201100593
PILOT_SEED = 77001

REPLICATES = 2000
COVERAGE_REPLICATES = 600
QUANTILE_REPLICATES = 4000  # least sample sizes rest on 95 % quantiles
WIDE_REPLICATES = 200  # cells of many thousand points
TRAINED_REPLICATES = 200

#: Numbers of originals along which deviations and gaps are followed.
SIZES = (20, 40, 80, 160, 320, 640, 1280)

#: Excess risk of affine students on W2 (H = diag(0, 0, 2.4), Sigma = I / 3) under S3 with m = n, as n grows.
CURVATURE_EXCESS = mixup_excess_risk(augmented_share=0.5, beta_alpha=1.0, half_trace=2.4 / 3 / 2)
#: n*(S1) / n*(S0) with m = n.
SAMPLE_SIZE_RATIO = sample_size_ratio(rho=1.0)


@dataclass(frozen=True)
class Study:
    """The cells behind one claim or figure.

    Attributes:
        title: What is compared.
        cells: Role -> cell; cells of one study with equal num_samples share their originals.
    """

    title: str
    cells: Mapping[str, Cell]


def _cell(
    world: str,
    arm: Arm,
    num_samples: int,
    num_augmented: int | None = None,
    num_replicates: int = REPLICATES,
    pairing: Pairing = "distinct",
    beta_alpha: float = 1.0,
) -> Cell:
    """A cell of the ledger; m = n by default, and 0 for S0."""
    return Cell(
        world=world,
        arm=arm,
        num_samples=num_samples,
        num_augmented=0 if arm == "S0" else num_augmented or num_samples,
        num_replicates=num_replicates,
        master_seed=MASTER_SEED,
        pairing=pairing,
        beta_alpha=beta_alpha if arm in ("S2", "S3", "label-mixup") else 1.0,
    )


def _coverage(arm: Arm) -> dict[str, Cell]:
    return {world: _cell(world, arm, 80, num_replicates=COVERAGE_REPLICATES) for world in ("W1", "W2", "coin")}


_MANY_MIXUPS = {
    f"rho={rho}": _cell("W1", "S3", 80, 80 * rho, num_replicates=COVERAGE_REPLICATES) for rho in (1, 5, 20, 100)
}
_CURVES = {
    f"{name} {arm}": _cell(world, arm, 20, 200, TRAINED_REPLICATES)
    for name, world in {
        "realisable": "W6",
        "misspecified": "W6 misspecified",
        "network": "W6 network",
        "small network": "W6 small network",
    }.items()
    for arm in ("label-mixup", "S3")
}

STUDIES: dict[str, Study] = {
    "T01": Study("The bound T0 against the deviation", _coverage("S0")),
    "T02": Study("The bound T1 against the deviation", _coverage("S1")),
    "T03": Study(
        "The bound T2 against the deviation",
        # With so many originals only the discrepancy is left.
        {**_coverage("S2"), "W1 n=100000": _cell("W1", "S2", 100_000, num_replicates=100)},
    ),
    "T04": Study("The bound T3 against the deviation", _coverage("S3")),
    "gap_by_n": Study(
        "Deviations, gaps and risks of all arms over the number of originals",
        {
            f"{world} {arm} n={n}": _cell(world, arm, n, num_replicates=QUANTILE_REPLICATES)
            for world in ("W1", "W2")
            for arm in ("S0", "S1", "S2", "S3")
            for n in SIZES
        },
    ),
    "T05": Study("Fresh inputs, labelled by the teacher", {arm: _cell("W1", arm, 80) for arm in ("S0", "S1")}),
    "T08": Study("Independent mixup, few originals", {arm: _cell("W1", arm, 20) for arm in ("S0", "S2")}),
    "T09": Study("Independent mixup, many originals", {arm: _cell("W1", arm, 320) for arm in ("S0", "S2")}),
    "T10": Study("Independent mixup in the limit", {"S2": _cell("W1", "S2", 5120, num_replicates=COVERAGE_REPLICATES)}),
    "T11": Study("In-sample mixup, teacher and students affine", {arm: _cell("W1", arm, 80) for arm in ("S0", "S3")}),
    "T12": Study(
        "The two-sided deviation under in-sample mixup",
        {
            f"d={d} {arm}": _cell(f"W3 d={d}", arm, n, 20 * n, WIDE_REPLICATES)
            for d, n in ((60, 400), (20, 2000))
            for arm in ("S0", "S3")
        },
    ),
    "T13": Study("More and more mixups of the same originals", _MANY_MIXUPS),
    "T14": Study("Duplicated originals", {arm: _cell("W1", arm, 80) for arm in ("S0", "random", "balanced")}),
    "T16": Study(
        "Identifying a quadratic from d + 1 originals",
        {"S0": _cell("W5", "S0", 7), "S3": _cell("W5", "S3", 7, 21, pairing="every")},
    ),
    "identification": Study(
        "Identifying a quadratic: risk over the number of originals",
        {
            **{f"S0 n={n}": _cell("W5", "S0", n, None, WIDE_REPLICATES) for n in (3, 5, 7, 10, 14, 20, 27, 28, 29, 32)},
            **{
                f"S3 n={n}": _cell("W5", "S3", n, n * (n - 1) // 2, WIDE_REPLICATES, "every")
                for n in (3, 4, 5, 6, 7, 8, 10, 14)
            },
        },
    ),
    "T17": Study(
        "Fewer originals than dimensions, linear teacher",
        {arm: _cell("W3", arm, 6) for arm in ("S0", "S1", "S3", "jitter")},
    ),
    "T18": Study(
        "Affine students, quadratic teacher, many originals",
        {arm: _cell("W2", arm, 5120, num_replicates=COVERAGE_REPLICATES) for arm in ("S0", "S3")},
    ),
    "T19": Study("A smaller gap and the risk", {arm: _cell("W2", arm, 320) for arm in ("S0", "jitter")}),
    "T20": Study("Over-training on labels of mixup and on the teacher's answers", _CURVES),
    "T22": Study(
        "Over-parameterised students, nonlinear teacher, few originals",
        {f"{arm} n={n}": _cell("W4", arm, n, 4 * n) for n in (20, 50) for arm in ("S0", "S3")},
    ),
    "T23": Study(
        "Affine students, nonlinear teacher, many originals",
        {arm: _cell("W4 affine", arm, 400, 1600) for arm in ("S0", "S3")},
    ),
    "T24": Study(
        "Sentence embeddings as inputs, a trained head as teacher",
        {
            f"{student} {arm} n={n}": _cell(f"real {student}", arm, n, 4 * n, num_replicates)
            for student, num_replicates in (("cosines", 500), ("affine", 200), ("network", TRAINED_REPLICATES))
            for n in (20, 50)
            for arm in ("S0", "S3")
        },
    ),
}


def _phase_cells(
    shapes: Iterable[Shape],
    curvatures: Iterable[float],
    beta_alphas: Iterable[float],
    ratios: Iterable[int],
    sizes: Mapping[Literal["cosines", "affine"], Iterable[int]],
    num_replicates: int = 100,
) -> dict[str, Cell]:
    """S3 at every combination, and S0 once for all of one world and size."""
    cells = {}
    for shape, curvature, (student, numbers) in product(shapes, curvatures, sizes.items()):
        world = phase_name(shape, curvature, student)
        for n in numbers:
            cells[f"{world} n={n} S0"] = _cell(world, "S0", n, None, num_replicates)
            for a, rho in product(beta_alphas, ratios):
                key = f"{world} n={n} S3 a={a:g} rho={rho}"
                cells[key] = _cell(world, "S3", n, rho * n, num_replicates, beta_alpha=a)
    return cells


_PHASE_SIZES: dict[Literal["cosines", "affine"], tuple[int, ...]] = {
    "cosines": (10, 20, 50, 100, 200, 400),
    "affine": (6, 11, 22, 44, 110, 440),
}
STUDIES["phase"] = Study(
    "Where in-sample mixup shrinks the learned gap, and whether the risk follows",
    {
        **_phase_cells(SHAPES, CURVATURES, (1.0,), (4,), _PHASE_SIZES),
        **_phase_cells(("isotropic",), (2.0,), (0.2, 1.0, 5.0), (1, 4, 16), _PHASE_SIZES),
    },
)
STUDIES["phase_full"] = Study(
    "The same at full resolution, whose cells those of phase are among",
    _phase_cells(
        SHAPES,
        CURVATURES,
        (0.2, 0.5, 1.0, 2.0, 5.0),
        (1, 4, 16),
        {"cosines": (10, 14, 20, 28, 50, 70, 100, 140, 200, 280, 400, 800), "affine": (6, 8, 11, 16, 22, 44, 110, 440)},
    ),
)

#: The studies that claims rest on, and not only figures.
CLAIM_STUDIES = tuple(name for name in STUDIES if name not in ("identification", "phase", "phase_full"))
#: What `mixkd theory` runs if nothing is named; the calibration of the judge is not simulated here.
DEFAULT_STUDIES = (*(name for name in STUDIES if name != "phase_full"), "calibration")


def pilot_of(study: Study) -> Study:
    """The same study on the pilots' seed."""
    cells = {role: cell.model_copy(update={"master_seed": PILOT_SEED}) for role, cell in study.cells.items()}
    return Study(study.title, cells)


def needs_embeddings(names: Iterable[str]) -> bool:
    """Whether a study of these draws from sentence embeddings."""
    chosen = list(names) or list(DEFAULT_STUDIES)
    return any(
        cell.world.startswith("real ") for name in chosen if name in STUDIES for cell in STUDIES[name].cells.values()
    )
