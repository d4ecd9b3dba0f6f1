"""`mixkd reproduce` on a tiny BERT and a small corpus: every producer, the judge and the page."""

import json

import pytest

from mixkd.cli import main
from reports.setting import SETTING

SUITE = """
name: tiny
description: the quick suite on a tiny model
experiments:
  - task: vader-movie
    train_fraction: 0.1
    teacher: {teacher}
    teacher_learning_rate: 3.0e-3
    teacher_num_epochs: 4
    student_layers: [3, 2]
    recipe: [ft, kd, tmkd, sm, sm+tmkd]
    seed: [0, 1, 2]
    learning_rate: 3.0e-3
    num_epochs: 2
    batch_size: 8
    max_length: 32
    precision: bf16
    teacher_precision: bf16
"""


STUDIES = ("T01", "T05", "T11", "T16", "T17")


@pytest.fixture(scope="module")
def reproduce(tmp_path_factory, tiny_bert, vader_folder):
    folder = tmp_path_factory.mktemp("end-to-end")
    (folder / "tiny.yaml").write_text(SUITE.format(teacher=tiny_bert))
    options = ["--suite", str(folder / "tiny.yaml"), "--output", str(folder / "results")]
    command = ["reproduce", *options, "--data_dir", str(vader_folder), "--device", "cpu", "--jobs", "1"]
    with pytest.MonkeyPatch.context() as few:  # the others take minutes, and MiniLM
        few.setattr("theory.studies.DEFAULT_STUDIES", STUDIES)
        own = {"teacher": tiny_bert.name, "teacher_learning_rate": 3e-3, "teacher_num_epochs": 4}
        own |= {"learning_rate": 3e-3, "batch_size": 8, "max_length": 32}
        pinned = {name: value for name, value in SETTING.items() if not name.endswith("_fingerprint")}
        few.setattr("reports.setting.SETTING", pinned | own)
        few.setattr("reports.setting.EPOCHS", {0.1: 2})
        few.setenv("PYTEST_ADDOPTS", "--no-bert-base --budget=5 -k 'latency or size'")  # of the benchmarks
        assert main(command) == 0
        yield command, folder / "results"


def test_every_claim_is_judged_from_evidence(reproduce):
    _, results = reproduce
    verdicts = {v["claim"]: v for v in json.loads((results / "verdicts.json").read_text())["verdicts"]}
    theory = {claim: v for claim, v in verdicts.items() if claim[0] in "TMC"}
    assert {"T01", "T05", "T11", "T16", "T17", "M01-loss"} == {
        claim for claim, v in theory.items() if v["verdict"] != "not run"
    }
    assert all(v["verdict"] in (v["expected"], "not run") for v in theory.values())
    # Other suites are for these: more recipes, precisions, another start, more epochs.
    training = {claim for claim, v in verdicts.items() if v["verdict"] == "not run"} - theory.keys()
    assert training == {
        "E10",
        "E11",
        "E12",
        "E13",
        "E14",
        "E15",
        "E16",
        "E17",
        "E18",
        "E19",
        "E20",
        "E21",
        "E22",
        "E23",
    }
    assert all(verdicts[claim]["num_samples"] == 3 for claim in ("E01", "E06"))
    judged = [verdict for verdict in verdicts.values() if verdict["verdict"] != "not run"]
    assert all((results / verdict["evidence"]).exists() for verdict in judged)


def test_the_page_is_complete_and_self_contained(reproduce):
    _, results = reproduce
    page = (results / "report.html").read_text()
    for claim in ("T01", "T17", "E01", "E09"):
        assert f">{claim}<" in page
    assert "<svg" in page and "mixkd theory T05" in page
    assert "<link" not in page and 'src="http' not in page and "@import" not in page


def test_verdicts_follow_the_records(reproduce, tmp_path):
    """A control: the same store with its students' scores turned round must not give the same verdict."""
    import shutil

    _, results = reproduce
    store = tmp_path / "results"
    shutil.copytree(results / "runs", store / "runs", ignore=shutil.ignore_patterns("model"))
    for path in (store / "runs").glob("*/record.json"):
        record = json.loads(path.read_text())
        seed, recipe = record["experiment"]["init_seed"], record["experiment"]["recipe"]
        record["measurements"]["test_score"] = {"sm+tmkd": 0.9}.get(recipe, 0.5) + 0.001 * seed * (recipe == "kd")
        path.write_text(json.dumps(record))
    assert main(["report", "--output", str(store)]) == 0
    verdicts = {v["claim"]: v for v in json.loads((store / "verdicts.json").read_text())["verdicts"]}
    assert verdicts["E01"]["verdict"] == "supported"
    assert verdicts["E01"]["effect"] == pytest.approx(0.4 - 0.001)


def test_a_second_run_computes_nothing(reproduce, capsys):
    command, results = reproduce
    before = {path: path.stat().st_mtime_ns for folder in ("runs", "theory", "benchmarks") for path in
              (results / folder).rglob("*.*")}  # fmt: skip
    assert main(command) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "already in the store" in capsys.readouterr().err
