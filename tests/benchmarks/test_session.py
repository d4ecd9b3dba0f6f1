"""`pytest benchmarks` as users run it, on a tiny store and from another folder."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.conftest import pytest_addoption

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

EXTRA_INFO = {
    "kind", "model", "num_layers", "batch_size", "sequence_length", "num_parameters", "num_embedding_parameters",
    "size_bytes", "flops", "peak_memory_bytes", "num_threads", "dtype", "device", "p50_s", "p90_s", "p99_s",
    "examples_per_s", "tokens_per_s", "layer_ratio", "speedup_vs_teacher", "speedup_low", "speedup_high", "origin",
    "train_fraction",
}  # fmt: skip


def run_benchmarks(folder, store, *options):
    path = folder / "benchmark.json"
    command = [sys.executable, "-m", "pytest", str(BENCHMARKS), f"--benchmark-json={path}", "--store", str(store)]
    done = subprocess.run([*command, "--no-bert-base", *options], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(path.read_text()), done.stdout


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny_store):
    folder = tmp_path_factory.mktemp("elsewhere")
    return run_benchmarks(
        folder, tiny_store.root, "--budget=0.5", "--device=cpu", "-k", "latency or (size and student-1)"
    )


def by_name(output):
    return {benchmark["name"]: benchmark for benchmark in output["benchmarks"]}


def test_every_case_is_in_the_json_with_everything_the_reports_read(measured):
    cases = by_name(measured[0])
    latency = {
        f"test_latency[{m}-{b}-{n}]"
        for m in ("teacher-4", "student-2", "student-1")
        for b in (1, 32)
        for n in (32, 128)
    }
    assert set(cases) == latency | {"test_size[student-1]"}
    for case in cases.values():
        assert set(case["extra_info"]) - {"not_run"} == EXTRA_INFO
        assert case["extra_info"]["origin"] == "store"


def test_the_full_grid_has_all_sizes_and_compiled_models(tmp_path, tiny_store):
    command = [sys.executable, "-m", "pytest", str(BENCHMARKS), "--store", str(tiny_store.root), "--collect-only", "-q"]
    started = [
        subprocess.Popen([*command, "--grid", grid], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for grid in ("small", "full")
    ]
    small, full = (process.communicate()[0] for process in started)
    assert small.count("test_latency[student-2-") == 4 and full.count("test_latency[student-2-") == 24
    assert "test_latency[teacher-4-128-512]" in full and "test_end_to_end[student-2-compiled]" in full
    assert "compiled" not in small
    for output, num_cells in ((small, 2), (full, 24)):  # of BERT-base single texts only, in the small one
        for model in ("teacher-12", "student-6", "student-3"):
            assert output.count(f"test_latency[bert-base-{model}-") == num_cells
    assert "test_size[bert-base-student-6]" in small and "test_end_to_end[bert-base" not in full


def test_times_are_measured_rounds_and_the_ratio_is_that_of_the_medians(measured):
    cases = by_name(measured[0])
    teacher, student = cases["test_latency[teacher-4-32-32]"], cases["test_latency[student-1-32-32]"]
    for case in (teacher, student):
        assert len(case["stats"]["data"]) == case["stats"]["rounds"] >= 10
        assert len(set(case["stats"]["data"])) > 5  # a clock's ticks may coincide now and then
        assert case["extra_info"]["p50_s"] == pytest.approx(case["stats"]["median"])
    info = student["extra_info"]
    assert info["speedup_vs_teacher"] == pytest.approx(teacher["stats"]["median"] / student["stats"]["median"])
    assert info["speedup_low"] <= info["speedup_vs_teacher"] <= info["speedup_high"]
    assert teacher["extra_info"]["speedup_vs_teacher"] is None
    assert info["examples_per_s"] * info["p50_s"] == pytest.approx(32)
    assert info["tokens_per_s"] == pytest.approx(32 * info["examples_per_s"]) and info["layer_ratio"] == 4
    assert info["flops"] == 32 * cases["test_latency[student-1-1-32]"]["extra_info"]["flops"]


def test_a_case_that_cannot_run_is_in_the_json_with_its_reason(measured):
    output, text = measured
    case = by_name(output)["test_latency[student-1-1-128]"]
    assert case["extra_info"]["not_run"] == "the model takes at most 64 tokens"
    assert case["stats"]["rounds"] == 0 and math.isnan(case["stats"]["median"])
    assert "7 passed, 6 skipped" in text


def test_a_run_is_compared_with_another_one_that_is_stored(measured, tmp_path, tiny_store):
    stored = tmp_path / "0001_earlier.json"
    stored.write_text(json.dumps(measured[0]))  # with a case that was not run
    options = ("--budget=0.1", "--device=cpu", "-k", "latency and student-1", f"--benchmark-compare={stored}")
    _, text = run_benchmarks(tmp_path, tiny_store.root, *options)
    for name in ("test_latency[student-1-1-32]", "test_latency[student-1-1-128]"):
        assert f"{name} (NOW)" in text and len(re.findall(rf"{re.escape(name)} \(.*0001_e", text)) == 1
    (tmp_path / "0002_later.json").write_bytes((tmp_path / "benchmark.json").read_bytes())
    command = [sys.executable, "-m", "pytest_benchmark", "compare", str(stored), str(tmp_path / "0002_later.json")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(re.search(rf"student-1-32-32\] \(.*{name}", done.stdout) for name in ("0001_e", "0002_l"))


@pytest.mark.parametrize(
    ("option", "wrong", "right"),
    [("--budget", ("nan", "inf", "-1", "0", "soon"), "2.5"), ("--training", ("nan", "inf", "-3", "soon"), "0")],
)
def test_a_time_that_cannot_be_spent_is_a_usage_error(option, wrong, right):
    parser = pytest.Parser(_ispytest=True)
    pytest_addoption(parser)
    for value in wrong:
        with pytest.raises(pytest.UsageError, match=f"{option}: '{value}' is no positive, finite number of seconds"):
            parser.parse([option, value])
    assert getattr(parser.parse([option, right]), option[2:]) == float(right)


def test_size_is_measured(measured):
    info = by_name(measured[0])["test_size[student-1]"]["extra_info"]
    assert info["size_bytes"] < info["peak_memory_bytes"]
    assert 0 < info["num_embedding_parameters"] < info["num_parameters"]


def test_the_commit_is_that_of_the_code_not_of_the_folder_pytest_ran_in(measured):
    from mixkd.store import now, provenance

    here = provenance(device="cpu", num_threads=1, seeds={}, started_at=now())
    assert measured[0]["commit_info"]["id"] == here.commit
    assert measured[0]["machine_info"]["versions"] == here.versions
    assert "node" not in measured[0]["machine_info"]


def test_without_the_device_that_was_asked_for_nothing_is_measured_and_the_json_says_why(
    tmp_path, tiny_store, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    output, _ = run_benchmarks(tmp_path, tiny_store.root, "--device=cuda", "-k", "latency or size")
    assert len(output["benchmarks"]) == 15
    for case in output["benchmarks"]:
        assert case["extra_info"]["not_run"] == "this machine has no CUDA device that torch can use"
        assert case["extra_info"]["device"] == "cuda"
        assert set(case["extra_info"]) == EXTRA_INFO | {"not_run"}


@pytest.fixture(scope="module")
def without_models(tmp_path_factory):
    """Simulations, and a model in a store that has none."""
    folder = tmp_path_factory.mktemp("without-models")
    chosen = "(fits and 20-4) or (cells and W1-80-1) or (end_to_end and student-1-float32)"
    return run_benchmarks(folder, folder / "nothing", "--device=cpu", "-k", chosen)[0]["benchmarks"]


def of_kind(benchmarks, kind):
    return [benchmark for benchmark in benchmarks if benchmark["extra_info"]["kind"] == kind]


def test_fits_of_the_simulations_are_compared_with_scikit_learn(without_models):
    cases = of_kind(without_models, "simulation")
    assert {benchmark["params"]["learner"] for benchmark in cases} == {"min_norm", "ridge"}
    for case in (benchmark["extra_info"] for benchmark in cases):
        assert case["num_threads"] == 1
        assert 0 < case["speedup_low"] <= case["speedup_vs_sklearn"] <= case["speedup_high"]
        ratio = case["fits_per_s"] / case["sklearn_fits_per_s"]
        assert case["speedup_vs_sklearn"] == pytest.approx(ratio)


def test_cells_of_the_simulations_cost_little_memory(without_models):
    cases = of_kind(without_models, "cell")
    assert {benchmark["params"]["num_replicates"] for benchmark in cases} == {100, 1000}
    for case in (benchmark["extra_info"] for benchmark in cases):
        assert case["num_features"] == 4
        assert 0 < case["seconds_per_replicate"] < 1
        assert 1e6 < case["peak_memory_bytes"] < 1e9


def test_without_trained_models_nothing_is_scored(without_models):
    (case,) = of_kind(without_models, "end-to-end")
    assert "mixkd suite quick" in case["extra_info"]["not_run"]


#: Asks for another metric, and leaves the rest as it is.
ASKS_FOR_F1 = """
from dataclasses import replace
from benchmarks import end_to_end
load_texts = end_to_end.load_texts
end_to_end.load_texts = lambda *arguments: replace(load_texts(*arguments), metric="f1")
"""


@pytest.fixture(scope="module")
def answered(tmp_path_factory, tiny_store, vader_folder):
    folder = tmp_path_factory.mktemp("answered")
    (folder / "asks_for_f1.py").write_text(ASKS_FOR_F1)
    options = ("-p", "asks_for_f1", "--device=cpu", "--data-dir", str(vader_folder))
    options += ("-k", "end_to_end and not student-1")
    return by_name(run_benchmarks(folder, tiny_store.root, *options)[0])


def test_every_way_to_run_a_model_is_scored_and_held_against_the_teacher(answered):
    names = ("float32", "bfloat16", "int8", "onnx", "onnx-int8")
    assert set(answered) == {f"test_end_to_end[{m}-{v}]" for m in ("teacher-4", "student-2") for v in names}
    for case in answered.values():
        info = case["extra_info"]
        if "not_run" in info:
            assert "pip install 'mixkd[onnx]'" in info["not_run"] and info["variant"].startswith("onnx")
            continue
        assert 0 <= info["score"] <= 1 and 0.5 < info["agreement_float32"] <= 1
        assert (info["task"], info["metric"]) == ("vader-movie", "f1")
        assert info["score_low"] <= info["score"] <= info["score_high"]
        assert info["examples_per_s"] == pytest.approx(info["num_examples"] / sum(case["stats"]["data"]))
        assert info["tokens_per_s"] > 3 * info["examples_per_s"]  # a text has more than three tokens
        assert (info["joules_per_example"] is None) == bool(info["energy_not_told"])
    teacher, student = (answered[f"test_end_to_end[{m}-float32]"]["extra_info"] for m in ("teacher-4", "student-2"))
    assert teacher["agreement"] == teacher["agreement_float32"] == 1 and teacher["speedup_vs_teacher"] is None
    assert student["speedup_low"] <= student["speedup_vs_teacher"] <= student["speedup_high"]
    assert student["speedup_vs_teacher"] == pytest.approx(student["examples_per_s"] / teacher["examples_per_s"])
    half = answered["test_end_to_end[teacher-4-bfloat16]"]["extra_info"]
    assert half["size_bytes"] == teacher["size_bytes"] / 2


@pytest.mark.gpu
def test_on_a_gpu(tmp_path, tiny_store, vader_folder):
    options = ("--budget=1", "--device=cuda", f"--data-dir={vader_folder}")
    output, _ = run_benchmarks(tmp_path, tiny_store.root, *options)
    cases = by_name(output)
    assert cases["test_latency[student-2-32-32]"]["extra_info"]["p50_s"] > 0
    assert cases["test_size[teacher-4]"]["extra_info"]["peak_memory_bytes"] > 0
    assert cases["test_end_to_end[teacher-4-bfloat16]"]["extra_info"]["examples_per_s"] > 0
