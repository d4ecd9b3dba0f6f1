"""Run the cells of studies that a store lacks, in this process or in joblib's workers."""

from collections.abc import Callable, Iterable, Iterator

from mixkd.store import Store, UserError, atomic_path, now, provenance
from theory import studies
from theory.cell import Cell
from theory.simulate import simulate

#: Told how far it is: cells done, cells in all, and what was done last.
Report = Callable[[int, int, str], None]


def run_studies(
    names: Iterable[str],
    store: Store,
    num_jobs: int = 1,
    force: bool = False,
    report: Report | None = None,
    device: str | None = None,
    pilot: bool = False,
) -> int:
    """Simulate the cells of some studies that the store lacks; cells that studies share are run once.

    Each cell is saved when it finishes, so a killed run resumes where it was, and locked while it runs,
    so several processes may work on one store. Inside ``joblib.parallel_config`` another backend than loky can
    be chosen; the numbers do not depend on it.

    Args:
        names: Keys of `theory.studies.STUDIES`; none means `DEFAULT_STUDIES`.
        store: Where the cells are kept.
        num_jobs: Worker processes; -1 for one per core.
        force: Whether to simulate finished cells again.
        report: Called as ``report(done, total, label)`` after every cell, and once before the first.
        device: None for numpy; "cpu", "cuda" ... for torch there. The numbers agree to 1e-10.
        pilot: Whether to run the cells on the pilots' seed instead.

    Returns:
        Number of cells that were missing (or, with `force`, of all cells).

    Raises:
        UserError: If a study does not exist, or the store holds a damaged cell.
    """
    names = list(names) or [name for name in studies.DEFAULT_STUDIES if name in studies.STUDIES]
    unknown = [name for name in names if name not in studies.STUDIES]
    if unknown:
        raise UserError(
            f"There is no study {', '.join(unknown)}; choose from {', '.join(studies.STUDIES)}, calibration."
        )
    labels: dict[Cell, str] = {}  # equal cells are run once, under the name of the first study that asks for them
    for name in names:
        study = studies.pilot_of(studies.STUDIES[name]) if pilot else studies.STUDIES[name]
        for role, cell in study.cells.items():
            labels.setdefault(cell, f"{name} {role}")
    missing = [cell for cell in labels if force or store.load_cell(cell.cell_id) is None]
    tell = report or (lambda done, total, label: None)
    tell(0, len(missing), "")
    for done, cell in enumerate(_run_cells(missing, store, num_jobs, force, device), start=1):
        tell(done, len(missing), labels[cell])
    return len(missing)


def _run_cells(cells: list[Cell], store: Store, num_jobs: int, force: bool, device: str | None) -> Iterator[Cell]:
    """The cells in the order in which they are finished; a part at a time where the backend, as Ray's, gives lists."""
    import joblib

    is_stream = joblib.parallel.get_active_backend()[0].supports_return_generator
    parallel = joblib.Parallel(n_jobs=num_jobs, return_as="generator_unordered" if is_stream else "list")
    size = max(1, len(cells) if is_stream else 20 * joblib.effective_n_jobs(num_jobs))
    for start in range(0, len(cells), size):
        yield from parallel(
            joblib.delayed(run_cell)(cell, store, force, device) for cell in cells[start : start + size]
        )


def run_cell(cell: Cell, store: Store, force: bool = False, device: str | None = None) -> Cell:
    """Simulate one cell and save it, unless another process has done so meanwhile.

    One thread per cell: the matrices are small, and the bits do not depend on the number of cores.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    identity = cell.model_dump(mode="json")
    with store.lock(cell.cell_id), threadpool_limits(1):
        if force or store.load_cell(cell.cell_id) is None:
            started_at = now()
            frame = simulate(cell, embeddings=store.embeddings_path, device=device)
            path = store.cell_data_path(cell.cell_id)
            path.with_suffix(".json").unlink(missing_ok=True)  # from here on unfinished, however this ends
            with atomic_path(path) as temporary:
                frame.to_parquet(temporary)
            seeds = {"master_seed": cell.master_seed}
            told = provenance(device=_device_name(device), num_threads=1, seeds=seeds, started_at=started_at)
            store.save_cell(identity, told)
    return cell


def _device_name(device: str | None) -> str:
    if device is None or not device.startswith("cuda"):
        return device or "cpu"
    import torch

    return torch.cuda.get_device_name(device)
