import threading
import time

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value

from mixkd.arrow_cache import Parsed, load_or_parse
from mixkd.store import UserError

FEATURES = Features({"text": Value("string"), "label": Value("int64"), "example_id": Value("string")})


def parsed(texts):
    table = pa.table({"text": texts, "label": range(len(texts)), "example_id": [str(i) for i in range(len(texts))]})
    return Parsed({"train": table, "test": table[:1]}, FEATURES, ["one line was left out"])


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXKD_HOME", str(tmp_path / "home"))
    (tmp_path / "train.csv").write_text("a,b")
    return {"train": tmp_path / "train.csv"}


def never():
    raise AssertionError("it was parsed already")


def test_what_comes_back_is_memory_mapped_and_the_same(source, tmp_path):
    first = load_or_parse("mine", source, lambda: parsed(["a", "b"] * 3000))
    again = load_or_parse("mine", source, never)
    assert first.dataset["train"]["text"][:] == again.dataset["train"]["text"][:] == ["a", "b"] * 3000
    assert (first.fingerprint, first.notes) == (again.fingerprint, ("one line was left out",)) == again[1:]
    for dataset in again.dataset.values():
        assert dataset.features == FEATURES
        assert str(tmp_path / "home/datasets/mine-") in dataset.cache_files[0]["filename"]
    assert max(batch.num_rows for batch in again.dataset["train"].data.table.to_batches()) == 1000


def test_content_and_name_count_and_the_folder_does_not(source, tmp_path):
    load_or_parse("mine", source, lambda: parsed(["a", "b"]))
    (tmp_path / "copy").write_text("a,b")
    load_or_parse("mine", {"train": tmp_path / "copy"}, never)
    for name, sources in [
        ("other", source),
        ("mine", {"test": source["train"]}),
        ("mine", source | {"test": source["train"]}),
    ]:
        assert load_or_parse(name, sources, lambda: parsed(["c", "d"])).dataset["test"]["text"][:] == ["c"]
    source["train"].write_text("a,c")
    assert load_or_parse("mine", source, lambda: parsed(["c", "d"])).dataset["test"]["text"][:] == ["c"]


def test_a_copy_that_ends_too_early_is_made_again(source, tmp_path):
    load_or_parse("mine", source, lambda: parsed(["a", "b"]))
    (folder,) = (tmp_path / "home/datasets").glob("mine-*")
    with pa.OSFile(str(folder / "train.arrow"), "wb") as file, pa.ipc.new_stream(file, FEATURES.arrow_schema):
        pass  # a whole file, but of no rows
    assert len(Dataset.from_file(str(folder / "train.arrow"))) == 0
    assert load_or_parse("mine", source, lambda: parsed(["a", "b"])).dataset["train"]["text"][:] == ["a", "b"]
    load_or_parse("mine", source, never)


def test_only_one_of_two_at_a_time_parses(source):
    calls, results = [], []

    def slowly():
        calls.append(1)
        time.sleep(0.3)
        return parsed(["a", "b"])

    threads = [
        threading.Thread(target=lambda: results.append(load_or_parse("mine", source, slowly).fingerprint))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(results) == 2 and len(set(results)) == 1


def test_an_error_of_the_parser_leaves_nothing(source, tmp_path):
    def fail():
        raise UserError("line 3 is broken")

    with pytest.raises(UserError, match="line 3"):
        load_or_parse("mine", source, fail)
    assert not list((tmp_path / "home/datasets").glob("mine-*"))
