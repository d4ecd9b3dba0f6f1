import json
import math
import subprocess
import sys
import textwrap
import threading

import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st

from mixkd import store as evidence
from mixkd.store import Record, Store, UserError, atomic_path, canonical_json, content_id

EXPERIMENT = {"task": "vader-movie", "recipe": "kd", "learning_rate": 3e-4, "init": [0, 2]}
CELL = {"world": "W1", "arm": "S0", "num_samples": 20}


def provenance():
    return evidence.provenance(device="cpu", num_threads=1, seeds={"init_seed": 0}, started_at=evidence.now())


def record(experiment=EXPERIMENT, **changes):
    settings = {
        "run_id": content_id(experiment), "experiment": experiment, "provenance": provenance(),
        "measurements": {"test_score": 0.75}, "history": [{"loss": 0.5, "epoch": 1.0}],
    }  # fmt: skip
    return Record(**(settings | changes))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


# ---- identity ----

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=5), st.randoms())
def test_ids_do_not_depend_on_the_order_of_keys_and_survive_json(identity, rng):
    keys = list(identity)
    rng.shuffle(keys)
    assert content_id({key: identity[key] for key in keys}) == content_id(identity)
    assert content_id(json.loads(canonical_json(identity))) == content_id(identity)
    assert content_id({**identity, "another key": 1}) != content_id(identity) or "another key" in identity


def test_id_is_pinned():
    """A change here gives every record on disk another id."""
    assert canonical_json({"b": 3e-4, "a": [None, "é"]}) == '{"a":[null,"\\u00e9"],"b":0.0003}'
    assert content_id(EXPERIMENT) == "e3f02e964928e052"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_json_does_not_know_have_no_id(value):
    with pytest.raises(ValueError, match="JSON"):
        content_id({"learning_rate": value})


# ---- records ----


def test_nothing_is_touched_before_there_is_something_to_write(store):
    assert store.load_run("0" * 16) is None and store.load_cell("0" * 16) is None
    assert store.runs() == ([], []) and store.cells() == ([], [])
    assert not store.root.exists()


def test_records_survive_the_disk(store):
    saved = [record(), record(EXPERIMENT | {"recipe": "ft"})]
    for one in saved:
        store.save_run(one)
    assert store.load_run(saved[0].run_id) == saved[0]
    assert store.runs() == (sorted(saved, key=lambda one: one.run_id), [])
    (store.run_dir("unfinished") / "model").mkdir(parents=True)
    assert len(store.runs()[0]) == 2


def damage(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGES = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-20]), "(Invalid JSON"),
    "empty": (lambda path: path.write_bytes(b""), "(Invalid JSON"),
    "binary": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "(Invalid JSON"),
    "list": (lambda path: path.write_text("[]"), "Input should be an object"),
    "null": (lambda path: path.write_text("null"), "Input should be an object"),
    "schema": (lambda path: damage(path, lambda r: r.update(schema_version=2)), "schema_version"),
    "unknown key": (lambda path: damage(path, lambda r: r.update(extra=1)), "extra: Extra inputs"),
    "missing": (lambda path: damage(path, lambda r: r.pop("measurements")), "measurements: Field required"),
    "text": (lambda path: damage(path, lambda r: r["measurements"].update(test_score="high")), "measurements.test_sc"),
    "nan": (lambda path: damage(path, lambda r: r["measurements"].update(test_score=math.nan)), "measurements.test_sc"),
    "provenance": (lambda path: damage(path, lambda r: r["provenance"].pop("device")), "provenance.device"),
    "edited": (lambda path: damage(path, lambda r: r["experiment"].update(recipe="sm")), "does not match its exp"),
    "nan setting": (lambda path: damage(path, lambda r: r["experiment"].update(x=math.nan)), "not JSON compliant"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_records_are_named_and_kept(store, name):
    good, bad = record(EXPERIMENT | {"recipe": "ft"}), record()
    store.save_run(good)
    store.save_run(bad)
    path = store.run_dir(bad.run_id) / "record.json"
    break_it, reason = DAMAGES[name]
    break_it(path)
    content = path.read_bytes()
    with pytest.raises(UserError) as raised:
        store.load_run(bad.run_id)
    message = str(raised.value)
    assert str(path) in message and reason in message and f"Delete {path.name}" in message and "\n" not in message
    records, [problem] = store.runs()
    assert records == [good] and problem.path == path and problem.reason == message
    assert path.read_bytes() == content


def test_a_record_in_the_wrong_folder(store):
    one = record()
    store.save_run(one)
    store.run_dir(one.run_id).rename(store.run_dir("0" * 16))
    with pytest.raises(UserError, match=f"record.json holds {one.run_id}, not {'0' * 16}"):
        store.load_run("0" * 16)
    assert len(store.runs()[1]) == 1


def test_a_folder_in_the_record_s_place(store):
    (store.run_dir("0" * 16) / "record.json").mkdir(parents=True)
    with pytest.raises(UserError, match="record.json cannot be read: Is a directory"):
        store.load_run("0" * 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_id": "0" * 16}, "does not match its experiment"),
        ({"measurements": {"loss": math.nan}}, "finite"),
        ({"history": [{"loss": math.inf}]}, "finite"),
    ],
)
def test_wrong_records_cannot_be_made(changes, message):
    with pytest.raises(ValueError, match=message):
        record(**changes)


# ---- cells ----


def save_cell(store, cell=CELL, content=b"PAR1 data"):
    path = store.cell_data_path(content_id(cell))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return store.save_cell(cell, provenance())


def test_cells_survive_the_disk(store):
    saved = save_cell(store)
    assert store.load_cell(saved.cell_id) == saved
    assert store.cells() == ([saved], [])


def test_a_cell_needs_its_data_first(store):
    with pytest.raises(FileNotFoundError):
        store.save_cell(CELL, provenance())
    store.cell_data_path("unfinished").parent.mkdir(parents=True, exist_ok=True)
    store.cell_data_path("unfinished").write_bytes(b"")
    assert store.cells() == ([], [])


@pytest.mark.parametrize("content", [None, b"PAR1 date", b""])
def test_missing_or_altered_data_of_a_cell(store, content):
    other, cell = save_cell(store, CELL | {"arm": "S3"}), save_cell(store)
    path = store.cell_data_path(cell.cell_id)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{cell.cell_id}\.parquet is missing or is not the file that"):
        store.load_cell(cell.cell_id)
    records, [problem] = store.cells()
    assert records == [other] and problem.path == path.with_suffix(".json")


def test_a_cell_under_another_name_or_edited(store):
    cell = save_cell(store)
    path = store.cell_data_path(cell.cell_id).with_suffix(".json")
    damage(path, lambda r: r["cell"].update(arm="S1"))
    with pytest.raises(UserError, match="does not match its cell"):
        store.load_cell(cell.cell_id)
    path.unlink()
    path.with_name("0" * 16 + ".json").write_text(save_cell(store).model_dump_json())
    assert [problem.path.stem for problem in store.cells()[1]] == ["0" * 16]


# ---- locks ----

HOLD = """
    import sys, time
    from mixkd.store import Store
    with Store(sys.argv[1]).lock("run"):
        print("held", flush=True)
        time.sleep(60)
"""


def test_locks_exclude_other_processes_until_they_die(store):
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), store.root], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Timeout), FileLock(store.root / ".locks" / "run.lock", timeout=0):
            pass
        with store.lock("another run"):
            pass
        holder.kill()
        holder.wait()
        with store.lock("run"):
            pass


def test_locks_wait_and_are_released_by_errors(store):
    entered, order = threading.Event(), []

    def second():
        entered.wait()
        with store.lock("run"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with pytest.raises(KeyError), store.lock("run"):
        entered.set()
        thread.join(0.1)
        order.append("first")
        raise KeyError
    thread.join(10)
    assert order == ["first", "second"]
