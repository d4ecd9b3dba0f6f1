"""Tables of time: which rows of the benchmarks they show, and with which intervals; and what was not tested."""

import json
from collections import Counter

import numpy as np
import pytest
import synthetic

from mixkd.store import Store
from reports import tables
from reports.evidence import load


def test_a_training_has_a_row_for_each_it_was_timed_beside(evidence):
    found = tables.trainings(evidence)
    pairs = list(zip(found["model"], found["beside"].fillna("nothing"), strict=True))
    assert pairs == [
        ("textbrewer", "nothing"),
        ("kd", "textbrewer"),
        ("kd-float32", "textbrewer"),
        ("kd-float32", "kd"),
    ]
    assert found["ratio"].tolist() == pytest.approx([np.nan, 6.0, 4.0, 0.66], nan_ok=True)
    assert (found["peak_memory_bytes"] == 1.2e9).all()  # measured in a process of its own
    # P(Bin(7, 1/2) = 0) = 0.8 %: the least and the largest of seven rounds.
    row = found[found["model"] == "kd"].iloc[0]
    assert [row["median_low_s"], row["median_s"], row["median_high_s"]] == pytest.approx([0.0776, 0.08, 0.0824])


def test_one_size_grows_in_each_cost_curve_and_the_others_stay(evidence):
    curves = {axis: rows for axis, rows in tables.cost_curves(evidence).groupby("axis")}
    assert {axis: rows["value"].tolist() for axis, rows in curves.items()} == {
        "num_samples": [20, 80, 320], "num_features": [4, 60, 200], "num_replicates": [100, 200, 1000, 4000],
    }  # fmt: skip
    for axis, rows in curves.items():
        others = {"num_samples", "num_features", "num_replicates"} - {axis}
        assert all(rows[name].nunique() == 1 for name in others)
        assert rows["low"].tolist() == pytest.approx([1.25e-4 * 0.97] * len(rows))
        assert rows["high"].tolist() == pytest.approx([1.25e-4 * 1.03] * len(rows))


def test_what_no_evidence_speaks_of_is_listed_with_its_command(tmp_path):
    store = Store(tmp_path)

    def commands():
        return Counter(command for _, command in tables.not_tested(load(store, {})))

    assert commands() == {"mixkd suite glue": 1, "mixkd suite breadth": 2, "mixkd bench": 1}
    synthetic.save_runs(store, {"kd": (0.7, 0.3)}, num_seeds=1)  # in the registered setting, which changes nothing
    assert commands() == {"mixkd suite glue": 1, "mixkd suite breadth": 2, "mixkd bench": 1}
    run = synthetic.experiment("kd", task="rte", teacher="bert-base-uncased", augmentation="back-translation")
    store.save_run(synthetic.record(run, {"test_score": 0.6, "generalization_gap": 0.1}))
    assert commands() == {"mixkd bench": 1}
    bench = synthetic.benchmark_file()
    bench["benchmarks"][0]["extra_info"]["device"] = "cuda:0"
    store.benchmarks_dir.mkdir()
    (store.benchmarks_dir / "bench.json").write_text(json.dumps(bench))
    assert not commands()
