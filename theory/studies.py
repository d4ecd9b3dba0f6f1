"""The registered simulations: which cells each claim is judged by, and how the missing ones are run."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mixkd.store import Store, UserError, atomic_path, now, provenance
from theory.arms import Arm, Pairing
from theory.simulate import Cell, simulate

#: Seed of the ledger's evidence (arXiv 2011.00593). Pilots use another one.
MASTER_SEED = 201100593

COVERAGE_REPLICATES = 600
REPLICATES = 2000

Report = Callable[[int, int, str], None]


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
    )


STUDIES: Mapping[str, Study] = {
    "T01": Study(
        "The bound T0 against the deviation", {"S0": _cell("W1", "S0", 80, num_replicates=COVERAGE_REPLICATES)}
    ),
    "T05": Study("Fresh inputs, labelled by the teacher", {arm: _cell("W1", arm, 80) for arm in ("S0", "S1")}),
    "T11": Study("In-sample mixup, teacher and students affine", {arm: _cell("W1", arm, 80) for arm in ("S0", "S3")}),
    "T14": Study("Duplicated originals", {arm: _cell("W1", arm, 80) for arm in ("S0", "random", "balanced")}),
    "T16": Study(
        "Identifying a quadratic from d + 1 originals",
        {"S0": _cell("W5", "S0", 7), "S3": _cell("W5", "S3", 7, 21, pairing="every")},
    ),
    "T17": Study(
        "Fewer originals than dimensions, linear teacher",
        {arm: _cell("W3", arm, 6) for arm in ("S0", "S1", "S3", "jitter")},
    ),
    "T22": Study(
        "Over-parameterised students, nonlinear teacher, few originals",
        {f"{arm} n={n}": _cell("W4", arm, n, 4 * n) for n in (20, 50) for arm in ("S0", "S3")},
    ),
    "T23": Study(
        "Affine students, nonlinear teacher, many originals",
        {arm: _cell("W4 affine", arm, 400, 1600) for arm in ("S0", "S3")},
    ),
    "gap_by_n": Study(
        "Gaps of all arms over the number of originals",
        {
            f"{world} {arm} n={n}": _cell(world, arm, n)
            for world in ("W1", "W2")
            for arm in ("S0", "S1", "S2", "S3")
            for n in (20, 40, 80, 160, 320)
        },
    ),
}


def run_studies(
    names: Iterable[str], store: Store, num_jobs: int = 1, force: bool = False, report: Report | None = None
) -> int:
    """Simulate the cells of some studies that the store lacks; cells that studies share are run once.

    Each cell is saved when it finishes, so a killed run resumes where it was, and locked while it runs,
    so several processes may work on one store. Inside ``joblib.parallel_config`` another backend than loky can
    be chosen; the numbers do not depend on it.

    Args:
        names: Keys of `STUDIES`; none means all.
        store: Where the cells are kept.
        num_jobs: Worker processes; -1 for one per core.
        force: Whether to simulate finished cells again.
        report: Called as ``report(done, total, label)`` after every cell, and once before the first.

    Returns:
        Number of cells that were missing (or, with `force`, of all cells).

    Raises:
        UserError: If a study does not exist, or the store holds a damaged cell.
    """
    import joblib

    names = list(names) or list(STUDIES)
    unknown = [name for name in names if name not in STUDIES]
    if unknown:
        raise UserError(f"There is no study {', '.join(unknown)}; choose from {', '.join(STUDIES)}.")
    labels: dict[Cell, str] = {}  # equal cells are run once, under the name of the first study that asks for them
    for name in names:
        for role, cell in STUDIES[name].cells.items():
            labels.setdefault(cell, f"{name} {role}")
    missing = [cell for cell in labels if force or store.load_cell(cell.cell_id) is None]
    tell = report or (lambda done, total, label: None)
    tell(0, len(missing), "")
    jobs = (joblib.delayed(run_cell)(cell, store, force) for cell in missing)
    parallel = joblib.Parallel(n_jobs=num_jobs, return_as="generator_unordered")
    for done, cell in enumerate(parallel(jobs), start=1):
        tell(done, len(missing), labels[cell])
    return len(missing)


def run_cell(cell: Cell, store: Store, force: bool = False) -> Cell:
    """Simulate one cell and save it, unless another process has done so meanwhile.

    One thread per cell: the matrices are small, and the bits do not depend on the number of cores.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    identity = cell.model_dump(mode="json")
    with store.lock(cell.cell_id), threadpool_limits(1):
        if force or store.load_cell(cell.cell_id) is None:
            started_at = now()
            frame = simulate(cell)
            path = store.cell_data_path(cell.cell_id)
            path.with_suffix(".json").unlink(missing_ok=True)  # from here on unfinished, however this ends
            with atomic_path(path) as temporary:
                frame.to_parquet(temporary)
            seeds = {"master_seed": cell.master_seed}
            store.save_cell(identity, provenance(device="cpu", num_threads=1, seeds=seeds, started_at=started_at))
    return cell
