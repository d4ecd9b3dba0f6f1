"""Ways to run a model: which are held against each other, and what may be said of them."""

import itertools
import json
import random

import pytest
from statsmodels.stats.proportion import proportion_confint

from mixkd.store import Store
from reports import benchmark_figures, tables
from reports.benchmark_files import latest
from reports.evidence import load


def way(model, speed, score, variant="float32", **changes):
    """A case from texts to answers."""
    info = {
        "kind": "end-to-end", "model": model, "num_layers": 6 if model == "teacher" else 3, "variant": variant,
        "metric": "accuracy", "num_examples": 2000, "examples_per_s": speed, "score": score, "batch_size": 32,
        "device": "cpu", "num_threads": 2, "energy_not_told": "no meter",
    }  # fmt: skip
    if speed:
        info |= {"speedup_vs_teacher": speed / 200, "speedup_low": speed / 204, "speedup_high": speed / 196}
    name = f"test_end_to_end[{model}-{variant}]"
    return {"name": name, "stats": {"median": 0.1}, "extra_info": info | changes}


def evidence_of(folder, *files):
    """What a store says that holds these files, one after the other."""
    store = Store(folder)
    store.benchmarks_dir.mkdir(parents=True)
    for day, cases in enumerate(files, start=1):
        file = {"benchmarks": cases, "machine_info": {}, "commit_info": {}, "datetime": f"2025-01-{day:02d}T00:00:00"}
        (store.benchmarks_dir / f"{day}.json").write_text(json.dumps(file))
    return load(store, {})


def front(evidence):
    found = tables.end_to_end(evidence)
    found = found[found["on_front"]]
    return set(zip(found["task"].fillna(""), found["variant"], found["score"], strict=True))


@pytest.mark.parametrize(
    "other",
    [{"task": "sst2"}, {"task": "cola", "metric": "f1"}, {"task": "cola", "device": "a GPU"}],
)
def test_a_front_is_that_of_one_machine_task_and_metric(tmp_path, other):
    slow, fast = way("teacher", 200, 0.8, task="cola"), way("teacher", 900, 0.9, **{"task": "cola"} | other)
    assert len(front(evidence_of(tmp_path, [slow], [fast]))) == 2


def test_rows_that_tell_no_task_are_of_one_front(tmp_path):
    evidence = evidence_of(tmp_path, [way("teacher", 200, 0.8)], [way("teacher", 900, 0.9, "int8")])
    assert front(evidence) == {("", "int8", 0.9)}


def test_at_equal_speed_the_better_score_is_on_the_front_in_whatever_order(tmp_path):
    cases = [
        way("teacher", 200, 0.90, "slow"),
        way("teacher", 400, 0.85, "better"),
        way("teacher", 400, 0.80, "worse"),
        way("teacher", 600, 0.75, "equal"),
        way("teacher", 600, 0.75, "equal too"),
        way("teacher", 500, 0.75, "beaten by equals"),
    ]
    expected = {("", "slow", 0.9), ("", "better", 0.85), ("", "equal", 0.75), ("", "equal too", 0.75)}
    for seed in range(10):
        random.Random(seed).shuffle(cases)
        assert front(evidence_of(tmp_path / str(seed), cases)) == expected


def test_what_was_measured_stays_where_it_could_not_be_measured_again(tmp_path):
    measured, not_run = way("teacher", 200, 0.8), way("teacher", None, None, not_run="too little memory")
    not_run["extra_info"] |= {"num_examples": None, "metric": None}
    for number, files in enumerate(itertools.permutations([[measured], [not_run]])):
        assert list(latest(evidence_of(tmp_path / str(number), *files).benchmarks)["score"]) == [0.8]
    again = not_run | {"extra_info": not_run["extra_info"] | {"not_run": "no compiler"}}
    assert list(latest(evidence_of(tmp_path / "never", [not_run], [again]).benchmarks)["not_run"]) == ["no compiler"]


@pytest.mark.parametrize(
    ("later", "num_left"),
    [
        ({"task": "cola", "train_fraction": 0.1}, 1),
        ({"task": "sst2", "train_fraction": 0.1}, 2),
        ({"task": "cola", "train_fraction": 0.5}, 2),
        ({"task": "cola", "train_fraction": 0.1, "metric": "f1"}, 2),
        ({"task": "cola", "train_fraction": 0.1, "num_examples": 100}, 2),
        ({"not_run": "too little memory", "task": "cola", "train_fraction": 0.1, "metric": None}, 1),
    ],
)
def test_a_score_is_replaced_by_a_later_one_of_the_same_task_and_share_alone(tmp_path, later, num_left):
    first = way("student", 400, 0.8, task="cola", train_fraction=0.1)
    assert len(latest(evidence_of(tmp_path, [first], [way("student", 400, 0.7, **later)]).benchmarks)) == num_left


def test_what_an_older_file_does_not_tell_contradicts_nothing(tmp_path):
    """A file before the task was told, and one before the share of the data was."""
    files = [
        [way("student", 400, 0.5)],
        [way("student", 400, 0.6, train_fraction=0.1)],
        [way("student", 400, 0.7, train_fraction=0.1, task="cola")],
        [way("student", 400, 0.8, train_fraction=0.5, task="cola")],
    ]
    assert set(latest(evidence_of(tmp_path, *files).benchmarks)["score"]) == {0.7, 0.8}
    assert set(latest(evidence_of(tmp_path / "two", *files[:2]).benchmarks)["score"]) == {0.6}


def test_a_time_is_replaced_whatever_the_model_was_trained_on(tmp_path):
    cases = [way("student", 400, None, kind="latency", p50_s=0.1, train_fraction=share) for share in (0.1, None, 0.5)]
    assert len(latest(evidence_of(tmp_path, *([case] for case in cases)).benchmarks)) == 1


def told(folder, *cases):
    (figure,) = benchmark_figures.build(evidence_of(folder, list(cases)))
    return figure


CORRELATED = {"metric": "matthews", "task": "cola"}


def test_without_an_interval_of_the_scores_the_finding_is_that_nothing_was_judged(tmp_path):
    figure = told(tmp_path, way("teacher", 450, 0.6, "int8", **CORRELATED), way("student", 400, 0.3, **CORRELATED))
    assert figure.caption.endswith(
        "No interval of a score is known. On unknown processor (cola, matthews), whether the 6-layer teacher in int8 "
        "is faster than the 3-layer student in float32 and scores higher was not judged: not all intervals are known."
    )
    assert tables.better_teachers(figure.data) == []


@pytest.mark.parametrize(("low", "finding"), [(0.5, "and scores higher."), (0.35, "No way to run the teacher beats")])
def test_intervals_of_other_metrics_are_those_of_the_file(tmp_path, low, finding):
    teacher = way("teacher", 450, 0.6, "int8", score_low=low, score_high=0.7, **CORRELATED)
    student = way("student", 400, 0.3, score_low=0.2, score_high=0.4, **CORRELATED)
    figure = told(tmp_path, teacher, student)
    assert figure.data["score_low"].tolist() == [0.2, low] and figure.data["score_high"].tolist() == [0.4, 0.7]
    assert "Bars: the percentile bootstrap's (over texts) 95 % interval of the score. " in figure.caption
    assert finding in figure.caption and "not judged" not in figure.caption


def test_the_interval_of_an_accuracy_is_wilson_s(tmp_path):
    figure = told(tmp_path, way("teacher", 450, 0.9, "int8"), way("student", 400, 0.8, score_low=0.1, score_high=0.9))
    expected = proportion_confint(1600, 2000, method="wilson")
    assert tuple(figure.data.iloc[0][["score_low", "score_high"]]) == pytest.approx(expected)
    assert "Bars: Wilson's 95 % interval of the score. On unknown processor, the 6-layer teacher" in figure.caption


def test_a_teacher_that_is_not_faster_needs_no_interval_of_its_score(tmp_path):
    figure = told(tmp_path, way("teacher", 300, 0.6, "int8", **CORRELATED), way("student", 400, 0.3, **CORRELATED))
    assert "No way to run the teacher beats a student in float32" in figure.caption


def test_a_teacher_in_float32_is_as_fast_as_itself(tmp_path):
    none = dict.fromkeys(("speedup_vs_teacher", "speedup_low", "speedup_high"))
    for student_speed, num_better in ((100, 1), (199, 0), (400, 0)):
        cases = [way("teacher", 200, 0.9, **none), way("student", student_speed, 0.8)]
        ways = tables.end_to_end(evidence_of(tmp_path / str(student_speed), cases))
        assert len(tables.better_teachers(ways)) == num_better


def test_without_a_speed_of_the_teacher_in_float32_only_scores_decide(tmp_path):
    none = dict.fromkeys(("speedup_vs_teacher", "speedup_low", "speedup_high"))
    for score, is_open in ((0.9, True), (0.5, False)):
        cases = [way("teacher", 450, score, "int8", **none), way("student", 400, 0.8, **none)]
        ways = tables.end_to_end(evidence_of(tmp_path / str(score), cases))
        assert tables.better_teachers(ways) == [] and bool(tables.unjudged_teachers(ways)) == is_open


def test_models_of_two_runs_are_not_said_to_have_been_compared(tmp_path):
    evidence = evidence_of(tmp_path, [way("teacher", 450, 0.9, "int8")], [way("student", 400, 0.8)])
    (figure,) = benchmark_figures.build(evidence)
    assert figure.caption.endswith("was not judged: they were not measured in the same run.")


def test_students_that_saw_different_shares_are_told_apart(tmp_path):
    shares = [way("student", 400 + 100 * share, 0.8 - 0.1 * share, train_fraction=share) for share in (0.1, 0.5)]
    (figure,) = benchmark_figures.build(evidence_of(tmp_path, *([case] for case in shares)))
    names = [f"3-layer student trained on {share} of the data" for share in ("10%", "50%")]
    assert all(f"{name} in float32" in figure.title and name in figure.panels[0] for name in names)


def test_every_task_has_a_panel_of_its_own(tmp_path):
    cases = [
        [way(model, 300, 0.8, task=task, num_examples=num) for model in ("teacher", "student")]
        for task, num in (("cola", 1043), ("sst2", 872))
    ]
    (figure,) = benchmark_figures.build(evidence_of(tmp_path, *cases))
    assert ["(cola)" in panel for panel in figure.panels] == [True, False]
    assert ["(sst2)" in panel for panel in figure.panels] == [False, True]
    assert "over 872 or 1,043 test texts" in figure.caption
    rows = list(itertools.chain(*cases))
    assert len(figure.data) == len(rows)
