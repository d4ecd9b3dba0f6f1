import json

import numpy as np
import pandas as pd
import pytest
import synthetic

from mixkd.store import Store, content_id
from reports.evidence import load
from reports.page import build
from theory.studies import PILOT_SEED


def problems(store: Store) -> dict[str, str]:
    return {problem.path.as_posix(): problem.reason for problem in load(store, synthetic.STUDIES).problems}


def test_a_sound_store_has_no_problems(tmp_path):
    store = Store(tmp_path)
    synthetic.save_all(store)
    evidence = load(store, synthetic.STUDIES)
    assert evidence.problems == []
    # Seeds, recipes and shares; twins in fp32, other starts, twice the epochs, further studies.
    assert len(evidence.runs) == 12 * 8 * 2 + 12 + 12 * 3 + 12 * 2 + 51
    assert len(evidence.cells) == sum(len(study.cells) for study in synthetic.STUDIES.values())


def test_a_repeat_is_of_a_run_that_is_there_and_of_another_machine(tmp_path):
    store = Store(tmp_path)
    of, measurements = synthetic.experiment("kd"), {"test_score": 0.7, "generalization_gap": 0.1}
    store.save_run(synthetic.record(of, measurements))
    synthetic.repeat(store, of, {**measurements, "test_score": 0.8})
    Store(tmp_path / "repeats" / "same").save_run(synthetic.record(of, measurements))
    Store(tmp_path / "repeats" / "odd").save_run(synthetic.record(of, {**measurements, "test_score": 0.6}))
    synthetic.repeat(store, synthetic.experiment("ft"), measurements)
    torn = tmp_path / "repeats" / "other" / "runs" / "torn" / "record.json"
    torn.parent.mkdir()
    torn.write_text("{")
    evidence = load(store, synthetic.STUDIES)
    assert len(evidence.runs) == 1
    assert evidence.repeats[["repeat", "machine", "test_score"]].to_numpy().tolist() == [["other", "Other", 0.8]]
    assert set(evidence.provenance["processor"]) == {"A Processor @ 2.0GHz", "Other"}
    reasons = problems(store)
    alone = "repeats/other/runs/" + synthetic.record(synthetic.experiment("ft"), measurements).run_id + "/record.json"
    assert reasons.pop(alone) == "repeats no run that could be read from the store around it"
    odd = f"repeats/odd/runs/{content_id(of)}/record.json"
    assert reasons.pop(odd) == "differs from the first run on the same machine"
    assert list(reasons) == ["repeats/other/runs/torn/record.json"]


def test_every_broken_run_is_listed(tmp_path):
    store = Store(tmp_path)
    good = {"test_score": 0.7, "generalization_gap": 0.1}
    torn = store.run_dir("torn") / "record.json"
    torn.parent.mkdir(parents=True)
    torn.write_text('{"run_id": ')
    no_task = synthetic.experiment("ft")
    del no_task["task"]
    lists = synthetic.experiment("ft", task=["a", "list"])
    lacking = synthetic.experiment("kd")
    for experiment, measurements in ((no_task, good), (lists, good), (lacking, {"test_score": 0.7})):
        store.save_run(synthetic.record(experiment, measurements))
    moved = store.run_dir("moved")
    store.save_run(synthetic.record(synthetic.experiment("sm"), good))
    store.run_dir(synthetic.record(synthetic.experiment("sm"), good).run_id).rename(moved)
    found = problems(store)
    assert len(found) == 5
    assert "task" in found[f"runs/{synthetic.record(no_task, good).run_id}/record.json"]
    assert "generalization_gap" in found[f"runs/{synthetic.record(lacking, good).run_id}/record.json"]
    assert "not moved" in found["runs/moved/record.json"]
    assert not any(str(tmp_path) in reason for reason in found.values())


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"replicate": range(10), "sup_one_sided": np.ones(10)}, "10 rows for 200 replicates"),
        ({"replicate": [0] * 200, "sup_one_sided": np.ones(200)}, "200 rows"),
        ({"replicate": range(200), "sup_one_sided": np.r_[np.ones(199), np.inf]}, "not finite"),
        ({"sup_one_sided": np.ones(200)}, "replicate"),
    ],
)
def test_every_broken_cell_is_listed(tmp_path, columns, reason):
    import pandas as pd

    store = Store(tmp_path)
    cell = synthetic.STUDIES["T05"].cells["S0"]
    path = store.cell_data_path(cell.cell_id)
    path.parent.mkdir(parents=True)
    pd.DataFrame(columns).to_parquet(path)
    store.save_cell(cell.identity, synthetic.PROVENANCE)
    assert reason in problems(store)[f"theory/{cell.cell_id}.parquet"]
    assert ("T05", "S0") not in load(store, synthetic.STUDIES).cells


def test_a_run_of_another_start_that_lacks_what_claims_read_is_listed(tmp_path):
    store = Store(tmp_path)
    for changes in ({"init": "skip"}, {"beta_alpha": 0.4}):
        store.save_run(synthetic.record(synthetic.experiment("kd", 30, **changes), {"test_loss": 0.5}))
    evidence = load(store, synthetic.STUDIES)
    assert [problem.reason for problem in evidence.problems] == [
        "lacks the measurements generalization_gap, test_score"
    ]
    assert evidence.runs["changed"].tolist() == ["beta_alpha"]  # no claim rests on it


def test_a_file_that_is_not_parquet_is_listed(tmp_path):
    store = Store(tmp_path)
    cell = synthetic.STUDIES["T05"].cells["S0"]
    path = store.cell_data_path(cell.cell_id)
    path.parent.mkdir(parents=True)
    path.write_text("not parquet")
    store.save_cell(cell.identity, synthetic.PROVENANCE)
    assert list(problems(store)) == [f"theory/{cell.cell_id}.parquet"]


@pytest.mark.parametrize("text", ["", "[]", '{"benchmarks": 3}', '{"benchmarks": [{"name": "a"}]}'])
def test_every_broken_benchmark_is_listed(tmp_path, text):
    store = Store(tmp_path)
    store.benchmarks_dir.mkdir()
    (store.benchmarks_dir / "bench.json").write_text(text)
    assert list(problems(store)) == ["benchmarks/bench.json"]


def test_benchmarks_of_other_kinds_are_kept_as_such(tmp_path):
    store = Store(tmp_path)
    file = synthetic.benchmark_file()
    file["benchmarks"] = [{"name": "test_training", "stats": {"median": 1.0}, "extra_info": {}}]
    store.benchmarks_dir.mkdir()
    (store.benchmarks_dir / "bench.json").write_text(json.dumps(file))
    evidence = load(store, synthetic.STUDIES)
    assert (evidence.problems, list(evidence.benchmarks["kind"])) == ([], ["other"])


def test_cells_of_no_study_are_counted_not_used(tmp_path):
    store = Store(tmp_path)
    synthetic.save_cell(store, synthetic.Cell("foreign", "S0", 5), {"sup_one_sided": np.ones(5)})
    evidence = load(store, synthetic.STUDIES)
    assert (evidence.cells, evidence.num_unregistered, evidence.problems) == ({}, 1, [])


def test_the_page_lists_what_cannot_be_used(tmp_path):
    store = Store(tmp_path)
    store.benchmarks_dir.mkdir()
    (store.benchmarks_dir / "broken.json").write_text("{")
    built = build(store, studies=synthetic.STUDIES)
    assert len(built.problems) == 1
    assert "benchmarks/broken.json" in built.report.read_text()
    assert "broken.json" in built.verdicts.read_text()


def test_pilots_are_not_counted_as_left_over(tmp_path):
    store = Store(tmp_path)
    identity = {"world": "W1", "num_replicates": 1, "master_seed": PILOT_SEED}
    path = store.cell_data_path(content_id(identity))
    path.parent.mkdir()
    pd.DataFrame({"replicate": [0]}).to_parquet(path)
    store.save_cell(identity, synthetic.PROVENANCE)
    assert load(store, synthetic.STUDIES).num_unregistered == 0


@pytest.mark.parametrize("content", ["torn", "other columns", "texts", "no half", "no number"])
def test_paths_between_texts_that_cannot_be_read_are_named(tmp_path, content):
    store = Store(tmp_path)
    synthetic.save_runs(store, synthetic.GOOD_RUNS, num_seeds=1)
    synthetic.save_paths(store)
    path = store.interpolation_path(synthetic.content_id(synthetic.experiment("kd")))
    if content == "torn":
        path.write_bytes(path.read_bytes()[:100])
    elif content == "other columns":
        pd.DataFrame({"lam": [0.5]}).to_parquet(path)
    else:
        frame = pd.read_parquet(path)
        column, value = {"texts": ("x", "a"), "no half": ("lam", 0.4), "no number": ("distance_to_segment", None)}[
            content
        ]
        frame.assign(**{column: value}).to_parquet(path)
    evidence = load(store, synthetic.STUDIES)
    assert [problem.path for problem in evidence.problems] == [path.relative_to(store.root)]
    assert set(evidence.paths["recipe"]) == {"ft", "sm+tmkd", "teacher"}
