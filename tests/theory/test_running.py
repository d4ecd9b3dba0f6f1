"""That what is missing, and only that, is run."""

import subprocess
import sys

import pandas as pd
import pytest

import theory
from mixkd.backends import open_backend
from mixkd.store import Store, UserError
from theory import running, studies
from theory.cell import Cell
from theory.running import run_cell, run_studies
from theory.simulate import simulate
from theory.studies import Study


def small(arm, num_augmented, **others):
    fields = {"world": "W1", "num_samples": 6, "num_replicates": 3, "master_seed": 1, **others}
    return Cell(arm=arm, num_augmented=num_augmented, **fields)


@pytest.fixture
def few(monkeypatch):
    """Two studies that share one cell: three cells in all."""
    shared = small("S0", 0)
    cells = {
        "A": Study("first", {"S0": shared, "S1": small("S1", 6)}),
        "B": Study("second", {"S0": shared, "S3": small("S3", 6)}),
    }
    monkeypatch.setattr(studies, "STUDIES", cells)
    monkeypatch.setattr(studies, "DEFAULT_STUDIES", tuple(cells))
    return cells


@pytest.mark.cluster
@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_cluster_gives_the_same_numbers(few, tmp_path, backend):
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    run_studies([], here)
    told = []
    with open_backend(backend, 2):
        assert run_studies([], there, num_jobs=2, report=lambda *progress: told.append(progress[:2])) == 3
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    for cell in {cell for study in few.values() for cell in study.cells.values()}:
        frames = [pd.read_parquet(store.cell_data_path(cell.cell_id)) for store in (here, there)]
        pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_missing_cells_are_run_once_and_finished_ones_are_kept(few, tmp_path):
    store, told = Store(tmp_path), []
    assert run_studies(["A"], store, report=lambda *progress: told.append(progress)) == 2
    assert told == [(0, 2, ""), (1, 2, "A S0"), (2, 2, "A S1")]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "theory").iterdir()}
    assert run_studies([], store) == 1
    assert run_studies(["A", "B"], store) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    records, problems = store.cells()
    assert not problems
    assert {record.cell_id for record in records} == {c.cell_id for study in few.values() for c in study.cells.values()}
    for record in records:
        cell = Cell.model_validate(record.cell)
        pd.testing.assert_frame_equal(pd.read_parquet(store.cell_data_path(cell.cell_id)), simulate(cell))
        assert record.provenance.seeds == {"master_seed": 1}


def test_a_killed_run_resumes_with_the_unfinished_cell(few, tmp_path, monkeypatch):
    store, cells = Store(tmp_path), few["A"].cells

    def killed(cell, **_):
        if cell == cells["S1"]:
            raise KeyboardInterrupt
        return simulate(cell)

    monkeypatch.setattr(running, "simulate", killed)
    with pytest.raises(KeyboardInterrupt):
        run_studies(["A"], store)
    assert store.load_cell(cells["S0"].cell_id) is not None
    assert store.load_cell(cells["S1"].cell_id) is None
    monkeypatch.setattr(running, "simulate", simulate)
    assert run_studies(["A"], store) == 1


def test_force_runs_everything_again_and_repairs_damage(few, tmp_path):
    store = Store(tmp_path)
    run_studies(["A"], store)
    damaged = store.cell_data_path(few["A"].cells["S0"].cell_id)
    intact = damaged.read_bytes()
    damaged.write_bytes(b"torn")
    with pytest.raises(UserError, match=r"Delete \w+\.json"):
        run_studies(["A"], store)
    assert run_studies(["A"], store, force=True) == 2
    assert damaged.read_bytes() == intact


def test_a_killed_second_run_leaves_the_cell_unfinished(few, tmp_path, monkeypatch):
    store, cell = Store(tmp_path), few["A"].cells["S0"]
    run_cell(cell, store)

    def killed(*_):
        raise KeyboardInterrupt

    # Other numbers, as another library version may give, and no time left to write the record.
    monkeypatch.setattr(running, "simulate", lambda cell, **_: simulate(cell) + 1)
    monkeypatch.setattr(store, "save_cell", killed)
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, store, force=True)
    assert store.load_cell(cell.cell_id) is None


def test_a_cell_that_another_process_finished_meanwhile_is_kept(few, tmp_path, monkeypatch):
    store, cell = Store(tmp_path), few["A"].cells["S0"]
    run_cell(cell, store)
    monkeypatch.setattr(running, "simulate", lambda cell, **_: pytest.fail("simulated twice"))
    assert run_cell(cell, store) == cell


def test_an_unknown_study_is_named_with_the_valid_ones(few, tmp_path):
    with pytest.raises(UserError, match="no study T99, T98; choose from A, B"):
        run_studies(["T99", "A", "T98"], Store(tmp_path))
    assert not any(tmp_path.iterdir())


def test_workers_give_the_same_files(few, tmp_path):
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    run_studies([], one)
    assert run_studies([], two, num_jobs=2) == 3
    for path in (one.root / "theory").glob("*.parquet"):
        assert path.read_bytes() == (two.root / "theory" / path.name).read_bytes()


def test_importing_is_light():
    heavy = "[m for m in ('torch', 'transformers', 'pandas', 'scipy', 'joblib') if m in sys.modules]"
    script = f"import sys, theory; assert 'numpy' not in sys.modules; import theory.running; print({heavy})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_found_where_they_live():
    for name in theory.__all__:
        assert getattr(theory, name).__class__ is not type(theory), name
    assert set(dir(theory)) == set(theory.__all__)
    assert theory.STUDIES is studies.STUDIES
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = theory.no_such_name
