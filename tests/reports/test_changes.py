"""What changed since a baseline, on synthetic stores."""

import json
import re

import pytest
import synthetic

from mixkd.cli import main
from mixkd.store import Store, UserError
from reports.changes import changes
from reports.evidence import load
from reports.page import build
from reports.verdicts import judge_all


def between(store, baseline):
    now, then = (load(one, synthetic.STUDIES) for one in (store, baseline))
    return changes(now, judge_all(now), then, judge_all(then))


def save(folder, effect, speed=1.0):
    store = Store(folder)
    synthetic.save_study(store, "T05", effect)
    store.benchmarks_dir.mkdir()
    file = synthetic.benchmark_file()
    for case in file["benchmarks"]:
        for name in ("speedup_vs_teacher", "speedup_low", "speedup_high"):
            if case["extra_info"].get(name) and case["name"] == "test_latency[student-1-32]":
                case["extra_info"][name] *= speed
    (store.benchmarks_dir / "a.json").write_text(json.dumps(file))
    return store


def test_a_store_has_not_changed_since_itself(tmp_path):
    store = save(tmp_path, "good")
    assert between(store, store) == []


def test_verdicts_effects_and_speeds_that_moved_are_listed(tmp_path):
    then, now = save(tmp_path / "then", "good"), save(tmp_path / "now", "bad", speed=1.5)
    found = between(now, then)
    assert (found[0].what, found[0].before, found[0].after) == ("Verdict on T05", "supported", "contradicted")
    assert found[1].what.startswith("T05: ratio of mean one-sided uniform deviation")
    assert re.match(r"0\.\d+ \[0\.\d+, 0\.\d+\]$", found[1].before) and found[1].after.startswith("1.")
    (speed,) = [change for change in found if "fast" in change.what]
    assert speed.what == "Times as fast as the teacher: test_latency[student-1-32]"
    assert (speed.before, speed.after) == ("1.92 [1.88, 1.96]", "2.88 [2.83, 2.94]")


def test_speeds_of_another_task_are_not_compared(tmp_path):
    found = []
    for place, task in enumerate(("cola", "sst2")):
        stores = []
        for name, of, speed in (("then", "cola", 1.0), ("now", task, 2.0)):
            store = save(tmp_path / f"{name}-{place}", "good")
            file = synthetic.benchmark_file()
            file["benchmarks"] = [case for case in file["benchmarks"] if case["extra_info"]["kind"] == "end-to-end"]
            for case in file["benchmarks"]:
                case["extra_info"]["task"] = of
                for ratio in ("speedup_vs_teacher", "speedup_low", "speedup_high"):
                    case["extra_info"][ratio] *= speed
            (store.benchmarks_dir / "a.json").write_text(json.dumps(file))
            stores.append(store)
        found.append(len(between(stores[1], stores[0])))
    assert found == [5, 0]


def test_intervals_that_meet_are_no_change(tmp_path):
    then, now = save(tmp_path / "then", "good"), save(tmp_path / "now", "good", speed=1.02)
    assert between(now, then) == []


def test_they_stand_at_the_top_of_the_page(tmp_path):
    then, now = save(tmp_path / "then", "good"), save(tmp_path / "now", "bad")
    page = build(now, tmp_path / "page", synthetic.STUDIES, baseline=then).report.read_text()
    assert "Verdict on T05" in page and page.index('id="changes"') < page.index('id="verdicts"')
    assert 'id="changes"' not in build(now, tmp_path / "page", synthetic.STUDIES).report.read_text()


def test_a_baseline_that_is_not_there(tmp_path, capsys):
    with pytest.raises(UserError, match="no store .*nowhere"):
        build(Store(tmp_path), tmp_path, synthetic.STUDIES, baseline=Store(tmp_path / "nowhere"))
    assert main(["report", "--output", str(tmp_path), "--baseline", str(tmp_path / "nowhere")]) == 2
    assert "earlier --output" in capsys.readouterr().err
