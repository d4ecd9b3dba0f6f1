"""Tables of time: which rows of the benchmarks they show, and with which intervals; and what was not tested."""

import json
from collections import Counter

import numpy as np
import pandas as pd
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


def test_runs_are_grouped_by_the_values_of_what_is_not_as_registered(tmp_path):
    store = Store(tmp_path)
    for seed in (0, 1):
        for rate, score in ((3e-4, 0.7), (1e-3, 0.6), (1e-4, 0.5)):
            of = synthetic.experiment("kd", seed, learning_rate=rate, task="vader-nyt", num_epochs=18)
            store.save_run(synthetic.record(of, {"test_score": score + 0.01 * seed, "generalization_gap": 0.1}))
    groups = tables.run_groups(load(store, {})).set_index("others")
    assert groups["test_score"].to_dict() == pytest.approx(
        {
            "num_epochs 18": 0.705,
            "learning_rate 0.001, num_epochs 18": 0.605,
            "learning_rate 0.0001, num_epochs 18": 0.505,
        }
    )
    assert groups["num_runs"].eq(2).all() and groups["task"].eq("vader-nyt").all()


def test_what_no_evidence_speaks_of_is_listed_with_its_command(tmp_path):
    store = Store(tmp_path)

    def commands():
        return Counter(command for _, command in tables.not_tested(load(store, {})))

    assert commands() == {"mixkd suite glue": 1, "mixkd suite breadth": 2, "mixkd bench": 1}
    synthetic.save_runs(store, {"kd": (0.7, 0.3)}, num_seeds=1)  # in the registered setting, which changes nothing
    assert commands() == {"mixkd suite glue": 1, "mixkd suite breadth": 2, "mixkd bench": 1}
    run = synthetic.experiment("kd", teacher="bert-base-uncased", augmentation="back-translation")
    store.save_run(synthetic.record(run, {"test_score": 0.6, "generalization_gap": 0.1}))
    assert commands() == {"mixkd suite glue": 1, "mixkd suite breadth": 1, "mixkd bench": 1}
    run = synthetic.experiment("kd", task="rte", teacher="bert-base-uncased")
    store.save_run(synthetic.record(run, {"test_score": 0.6, "generalization_gap": 0.1}))
    assert commands() == {"mixkd bench": 1}
    bench = synthetic.benchmark_file()
    case = bench["benchmarks"][0]["extra_info"]
    store.benchmarks_dir.mkdir()
    for device, not_run, is_tested in (
        ("cuda", "no such device", False), ("cpu", None, False), ("NVIDIA H200", None, True),
    ):  # fmt: skip
        case |= {"device": device, "not_run": not_run}
        (store.benchmarks_dir / "bench.json").write_text(json.dumps(bench))
        assert bool(commands()) != is_tested


def ways(**changes):
    row = {"num_layers": 3, "train_fraction": None, "file": "a.json", "variant": "float32"}
    row |= {"task": None, "metric": "accuracy"}
    row |= {"device": "cpu", "processor": "A Processor"}
    teacher = {"model": "teacher", "variant": "onnx", "num_layers": 6, "examples_per_s": 450.0, "score": 0.86}
    teacher |= {"speedup_low": 2.2, "speedup_high": 2.3, "score_low": 0.84, "score_high": 0.88}
    student = {"model": "student", "examples_per_s": 400.0, "score": 0.8}
    student |= {"speedup_low": 1.9, "speedup_high": 2.1, "score_low": 0.78, "score_high": 0.82}
    return pd.DataFrame([row | teacher | changes, row | student])


def test_a_teacher_beats_a_student_only_in_one_run_and_beyond_both_intervals():
    (beaten,) = tables.better_teachers(ways())
    assert beaten == (
        "on A Processor, the 6-layer teacher is faster in onnx (450 texts/s, score 0.860 [0.840, 0.880]) than the "
        "3-layer student in float32 (400 texts/s, score 0.800 [0.780, 0.820]), and scores higher"
    )
    for lacking in ({"file": "b.json"}, {"speedup_low": 2.0}, {"score_low": 0.81}, {"score_low": np.nan}):
        assert tables.better_teachers(ways(**lacking)) == []


def test_a_student_is_named_with_what_it_saw_and_a_score_without_interval_has_none():
    row = ways().to_dict("records")[1] | {"train_fraction": 0.1, "score_low": np.nan}
    assert tables.subject(row) == "the 3-layer student trained on 10% of the data"
    assert tables.speed_and_score(row) == "400 texts/s, score 0.800"


def test_fronts_are_those_of_one_machine(tmp_path):
    store = Store(tmp_path)
    store.benchmarks_dir.mkdir()
    for number, device in enumerate(("cpu", "NVIDIA H200")):
        bench = synthetic.benchmark_file()
        for case in bench["benchmarks"]:
            case["extra_info"] |= {"device": device}
            if "examples_per_s" in case["extra_info"]:
                case["extra_info"]["examples_per_s"] *= 1 + 99 * number
        (store.benchmarks_dir / f"{number}.json").write_text(json.dumps(bench))
    found = tables.end_to_end(load(store, {}))
    front = found[found["on_front"]].groupby("device")["variant"].apply(list)
    assert front["cpu"] == front["NVIDIA H200"] == ["float32", "onnx-int8", "onnx-int8"]


def test_speed_ups_are_those_of_the_machine_with_most_of_them(tmp_path):
    store = Store(tmp_path)
    store.benchmarks_dir.mkdir()
    for number, (processor, lengths) in enumerate((("one", (32, 128)), ("other", (32,)))):
        bench = synthetic.benchmark_file()
        bench["machine_info"]["cpu"]["brand_raw"] = processor
        bench["benchmarks"] = [
            case for case in bench["benchmarks"] if case["extra_info"].get("sequence_length") in lengths
        ]
        (store.benchmarks_dir / f"{number}.json").write_text(json.dumps(bench))
    found = tables.speedups(load(store, {}))
    assert set(found["processor"]) == {"one"} and sorted(found["sequence_length"]) == [32, 32, 128, 128]
    assert tables.speedups(load(Store(tmp_path / "empty"), {})).empty


def test_peak_memory_is_that_of_the_same_machine(tmp_path):
    store = Store(tmp_path)
    store.benchmarks_dir.mkdir()
    for number, (processor, peak) in enumerate((("one", 1e9), ("other", 2e9), ("third", None))):
        bench = synthetic.benchmark_file()
        bench["machine_info"]["cpu"]["brand_raw"] = processor
        for case in bench["benchmarks"]:
            if case["name"].startswith("test_training_memory"):
                case["extra_info"]["peak_memory_bytes"] = peak
        (store.benchmarks_dir / f"{number}.json").write_text(json.dumps(bench))
    found = tables.trainings(load(store, {})).groupby("processor")["peak_memory_bytes"]
    assert found.size().to_dict() == {"one": 4, "other": 4, "third": 4}
    for peaks in (found.min(), found.max()):
        assert peaks.to_dict() == pytest.approx({"one": 1e9, "other": 2e9, "third": np.nan}, nan_ok=True)
