"""Evidence goes into small files and comes back as it was; what is broken is named, and nothing is lost."""

import json
import lzma

import pytest

from mixkd.archive import BENCHMARKS, RUNS, Counts, publish, publish_paths, restore
from mixkd.cli import main
from mixkd.store import Provenance, Record, Store, UserError, content_id

PROVENANCE = Provenance(
    commit="0" * 40, dirty=False, versions={}, python="3.11", platform="Linux", processor="A Processor", device="cpu",
    num_threads=1, seeds={}, command="mixkd suite", started_at="2026-01-01T00:00:00+00:00", wall_time_s=1.0,
)  # fmt: skip


def record(seed, score=0.5):
    experiment = {"init_seed": seed}
    return Record(
        run_id=content_id(experiment), experiment=experiment, provenance=PROVENANCE,
        measurements={"test_score": score}, history=[{"loss": 1.0}],
    )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "results")
    for seed in range(3):
        store.save_run(record(seed))
    store.benchmarks_dir.mkdir()
    (store.benchmarks_dir / "0001_a.json").write_text('{"benchmarks": [], "median": NaN, "unit": "µs"}')
    return store


def test_a_store_comes_back_as_it_was(store, tmp_path):
    assert publish(store, tmp_path / "published") == Counts(3, 1)
    other = Store(tmp_path / "other")
    assert restore(tmp_path / "published", other) == Counts(3, 1)
    assert other.runs() == store.runs()
    assert (other.benchmarks_dir / "0001_a.json").read_text() == '{"benchmarks": [], "median": NaN, "unit": "µs"}'
    assert restore(tmp_path / "published", other) == Counts(0, 0)


def test_the_paths_that_are_drawn_come_back(store, tmp_path):
    drawn, other = record(0).run_id, record(1).run_id
    for run_id in (drawn, other):
        store.interpolation_path(run_id).write_bytes(run_id.encode())
    publish(store, tmp_path / "published")
    publish_paths(store, tmp_path / "published", [drawn])
    restored = Store(tmp_path / "other")
    restore(tmp_path / "published", restored)
    assert restored.interpolation_path(drawn).read_bytes() == drawn.encode()
    assert not restored.interpolation_path(other).exists()


def test_repeats_come_back_to_their_places(store, tmp_path):
    again = Store(store.root / "repeats" / "another-2.7GHz")
    (store.root / "repeats" / ".hidden").mkdir(parents=True)
    for seed in (0, 1):
        again.save_run(record(seed, score=0.6))
    assert publish(store, tmp_path / "published") == Counts(5, 1)
    other = Store(tmp_path / "other")
    Store(other.root / "repeats" / "another-2.7GHz").save_run(record(1, score=0.7))
    assert restore(tmp_path / "published", other) == Counts(4, 1)
    (restored,) = other.repeats().values()
    assert restored.load_run(record(0).run_id) == record(0, score=0.6)
    assert restored.load_run(record(1).run_id) == record(1, score=0.7)
    (again.run_dir(record(0).run_id) / "record.json").write_text("{")
    with pytest.raises(UserError, match="not a valid record.*Nothing was published"):
        publish(store, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_evidence_accumulates_and_what_was_published_stays(store, tmp_path):
    publish(store, tmp_path / "published")
    before = (tmp_path / "published" / RUNS).read_bytes()
    publish(store, tmp_path / "published")
    assert (tmp_path / "published" / RUNS).read_bytes() == before
    other = Store(tmp_path / "other")
    for one in (record(0, score=0.9), record(7)):  # of another machine: one of these runs again, and a new one
        other.save_run(one)
    assert publish(other, tmp_path / "published") == Counts(4, 1)
    whole = Store(tmp_path / "whole")
    restore(tmp_path / "published", whole)
    assert whole.load_run(record(0).run_id) == record(0) and whole.load_run(record(7).run_id) == record(7)


def test_what_a_store_has_is_not_overwritten(store, tmp_path):
    publish(store, tmp_path / "published")
    other = Store(tmp_path / "other")
    other.save_run(record(0, score=0.9))
    assert restore(tmp_path / "published", other) == Counts(2, 1)
    assert other.load_run(record(0).run_id).measurements == {"test_score": 0.9}


@pytest.mark.parametrize(
    ("command", "published"),
    [
        ("mixkd suite full --output /home/me/results --jobs 2", "mixkd suite full --output results --jobs 2"),
        ("mixkd train --data_dir=/data/mine/", "mixkd train --data_dir=mine"),
        ("mixkd train --teacher org/bert", "mixkd train --teacher org/bert"),
        ("mixkd suite full --output '/home/jane doe/store'", "mixkd suite full --output store"),
        ("mixkd train '--data_dir=/home/jane doe/mine'", "mixkd train --data_dir=mine"),
        ("mixkd bench --store /a/b,/c/d '[/e/f]'", "mixkd bench --store b,d '[f]'"),
        ("mixkd theory --scheduler tcp://host:1", "mixkd theory --scheduler tcp://host:1"),
        ("mixkd it's broken /home/me", "mixkd 'it'\"'\"'s' broken me"),
    ],
)
def test_no_folder_of_the_machine_is_published(tmp_path, command, published):
    store, of = Store(tmp_path / "results"), record(0)
    store.save_run(of.model_copy(update={"provenance": PROVENANCE.model_copy(update={"command": command})}))
    publish(store, tmp_path / "published")
    other = Store(tmp_path / "other")
    restore(tmp_path / "published", other)
    assert other.load_run(of.run_id).provenance.command == published


def test_a_broken_record_stops_publishing(store, tmp_path):
    (store.run_dir(record(1).run_id) / "record.json").write_text("{")
    with pytest.raises(UserError, match="not a valid record.*Nothing was published"):
        publish(store, tmp_path / "published")
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (RUNS, b"no archive", "cannot be read"),
        (RUNS, lzma.compress(b'{"run_id": "x"}\n'), "Line 1 of .* is not a valid record"),
        (BENCHMARKS, lzma.compress(b'{"name": "a.json"}\n'), "Line 1 of .* is not a name and its text"),
        (BENCHMARKS, lzma.compress(json.dumps({"name": "../a.json", "text": ""}).encode()), "names '../a.json'"),
    ],
)
def test_a_broken_file_is_named_and_nothing_is_written(store, tmp_path, name, content, words):
    publish(store, tmp_path / "published")
    (tmp_path / "published" / name).write_bytes(content)
    other = Store(tmp_path / "other")
    with pytest.raises(UserError, match=words):
        restore(tmp_path / "published", other)
    assert not other.root.exists()


def test_a_torn_file_is_named(store, tmp_path):
    publish(store, tmp_path / "published")
    path = tmp_path / "published" / RUNS
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        restore(tmp_path / "published", Store(tmp_path / "other"))


def test_the_commands(store, tmp_path, capsys):
    folder = str(tmp_path / "published")
    assert main(["publish", "--output", str(store.root), "--folder", folder]) == 0
    assert {path.name for path in (tmp_path / "published").iterdir()} == {
        RUNS, BENCHMARKS, "report.html", "verdicts.json", "evidence.tar.xz",
    }  # fmt: skip
    for name in ("report.html", "verdicts.json"):
        assert str(tmp_path) not in (tmp_path / "published" / name).read_text()
    assert main(["restore", "--output", str(tmp_path / "other"), "--folder", folder]) == 0
    assert Store(tmp_path / "other").runs() == store.runs()
    assert main(["restore", "--output", str(tmp_path / "other"), "--folder", str(tmp_path)]) == 2
    assert "mixkd publish" in capsys.readouterr().err


def test_a_page_that_lacks_evidence_takes_no_other_s_place(store, tmp_path, capsys):
    folder = tmp_path / "published"
    publish(store, folder)
    (folder / "verdicts.json").write_text('{"verdicts": [{"claim": "T05", "verdict": "supported"}]}')
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = Store(tmp_path / "other")
    other.save_run(record(7))
    assert main(["publish", "--output", str(other.root), "--folder", str(folder)]) == 2
    assert "no evidence for T05" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_file_that_is_none_of_benchmarks_stops_publishing(store, tmp_path, text):
    (store.benchmarks_dir / "0002_b.json").write_text(text)
    with pytest.raises(UserError, match="0002_b.json is no file of benchmarks.*Nothing was published"):
        publish(store, tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_the_page_is_of_all_that_is_published(store, tmp_path):
    publish(store, tmp_path / "published")
    other = Store(tmp_path / "other")
    other.save_run(record(7))
    assert main(["publish", "--output", str(other.root), "--folder", str(tmp_path / "published")]) == 0
    assert len(other.runs()[0]) == 4
