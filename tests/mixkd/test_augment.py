import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from fake_apertium import WORDS, FakeApertium

from mixkd import augment as module
from mixkd.augment import AugmentCounts, augment, back_translate, engine_fingerprint
from mixkd.store import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def apertium(tmp_path, monkeypatch):
    (tmp_path / "apertium").mkdir()
    fake = FakeApertium(tmp_path / "apertium")
    monkeypatch.setenv("PATH", f"{fake.bin}:/usr/bin:/bin")
    monkeypatch.delenv("APERTIUM_DATADIR", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    return fake


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "bt.sqlite3"


def singles(texts):
    """Single sentences with their ratings, as the VADER tasks have them."""
    features = Features(
        {
            "text": Value("string"), "label": ClassLabel(names=["negative", "positive"]),
            "example_id": Value("string"), "ratings": List(Value("int64")),
        }
    )  # fmt: skip
    rows = {
        "text": texts,
        "label": [n % 2 for n in range(len(texts))],
        "example_id": [f"m{n}" for n in range(len(texts))],
    }
    return Dataset.from_dict(rows | {"ratings": [[n, -n] for n in range(len(texts))]}, features=features, split="train")


def pairs(rows):
    first, second = zip(*rows, strict=True)
    ids = [f"p{n}" for n in range(len(rows))]
    return Dataset.from_dict(
        {"text": first, "text_pair": second, "label": [0.5 * n for n in range(len(rows))], "example_id": ids}
    )


def translated(dataset, cache, **options):
    columns = [column for column in ("text", "text_pair") if column in dataset.column_names]
    return augment(dataset, "back-translation", text_columns=columns, cache=cache, **options)


def test_new_examples_keep_label_features_and_all_other_columns(apertium, cache):
    data = singles(["a good film", "bad", "good", "so good"])
    examples, counts = translated(data, cache)
    assert list(examples["text"]) == ["a fine film", "fine", "so fine"]
    assert list(examples["label"]) == [0, 0, 1]
    assert list(examples["example_id"]) == ["m0~bt", "m2~bt", "m3~bt"]
    assert list(examples["ratings"]) == [[0, 0], [2, -2], [3, -3]]
    assert examples.features == data.features and examples.split == data.split
    assert counts == AugmentCounts(num_examples=4, num_new=3, num_copies=1, num_empty=0)
    assert list(data["text"])[0] == "a good film"  # the originals are not touched


def test_copies_and_empty_results_are_left_out_and_counted(apertium, cache):
    apertium.behave("loses", WORDS | {"spa-eng": {"Bad": "bad", "gap": "", "wide": "w i de"}})
    data = singles(["Bad", "bad", "  bad ", "gap", "LOST", "wide", "", "a gap"])
    examples, counts = translated(data, cache)
    assert list(examples["text"]) == ["bad", "a"]  # another case is no copy, other white space is
    assert counts == AugmentCounts(num_examples=8, num_new=2, num_copies=4, num_empty=2)


def test_nothing_new_is_an_empty_data_set_with_the_same_features(apertium, cache):
    data = singles(["bad"])
    examples, counts = translated(data, cache)
    assert len(examples) == 0 and examples.features == data.features
    assert counts == AugmentCounts(1, 0, 1, 0)


def test_both_sides_of_a_pair(apertium, cache):
    data = pairs([("good", "good film"), ("bad", "bad"), ("bad", "good"), ("good", ""), ("good", "gap")])
    apertium.behave(words=WORDS | {"spa-eng": {"bueno": "fine", "cine": "film", "gap": ""}})
    examples, counts = translated(data, cache)
    assert list(zip(examples["text"], examples["text_pair"], strict=True)) == [
        ("fine", "fine film"), ("bad", "fine"), ("fine", ""),
    ]  # fmt: skip
    assert list(examples["label"]) == [0.0, 1.0, 1.5] and examples.features == data.features
    assert counts == AugmentCounts(5, 3, 1, 1)


def test_one_side_of_a_pair_is_a_function_of_seed_and_id(apertium, cache):
    data = pairs([(f"good {n}", f"good film {n}") for n in range(60)])
    examples, counts = translated(data, cache, sides="one", seed=3)
    assert counts.num_new == 60
    sides = {}
    for row, new in zip(data, examples, strict=True):
        changed = (new["text"] != row["text"], new["text_pair"] != row["text_pair"])
        assert sum(changed) == 1
        assert new["text" if changed[0] else "text_pair"] == row["text" if changed[0] else "text_pair"].replace(
            "good", "fine"
        )
        sides[new["example_id"]] = changed.index(True)
    assert 15 < sum(sides.values()) < 45
    shown = [text for call in apertium.calls() for text in call]
    assert len(shown) == 60  # the side that stays is not translated

    part, _ = translated(data.select([50, 7, 20]), cache, sides="one", seed=3)
    assert part[:] == examples.select([50, 7, 20])[:]
    other, _ = translated(data, cache, sides="one", seed=4)
    assert other["text"][:] != examples["text"][:]
    single, _ = translated(singles(["good"] * 9), cache, sides="one")
    assert len(single) == 9  # a single text has no other side


def test_word_dropout_is_a_function_of_seed_and_id(tmp_path):
    data = singles([" ".join(f"w{k}" for k in range(12)) for _ in range(200)])

    def dropout(data, **options):
        return augment(data, "word-dropout", text_columns=["text"], **options)

    examples, counts = dropout(data, rate=0.2, seed=1)
    words = [set(text.split()) for text in examples["text"]]
    dropped = Counter(word for kept in words for word in {f"w{k}" for k in range(12)} - kept)
    assert counts.num_examples == 200 == counts.num_new + counts.num_copies and counts.num_empty == 0
    # 200 * 12 words at 0.2: 480 with a standard deviation of 19.6; a copy (0.8 ** 12 = 7 %) has dropped none.
    assert abs(sum(dropped.values()) - 480) < 5 * 19.6 and len(dropped) == 12
    assert 2 <= counts.num_copies <= 30
    assert list(examples["example_id"])[0].endswith("~wd") and len(set(examples["text"])) > 100
    part, _ = dropout(data.select([9, 3]), rate=0.2, seed=1)
    by_id = {row["example_id"]: row for row in examples}
    assert [by_id[row["example_id"]] for row in part] == list(part)
    assert dropout(data, rate=0.2, seed=2)[0]["text"][:] != examples["text"][:]
    alone, counts = dropout(singles(["one", "a b"]), rate=1.0)
    assert counts.num_copies == 1 and alone["text"][0] in {"a", "b"}


def test_both_texts_of_a_pair_lose_different_words():
    text = " ".join(f"w{k}" for k in range(30))
    (row,) = augment(pairs([(text, text)]), "word-dropout", text_columns=["text", "text_pair"], rate=0.5)[0]
    assert row["text"] != row["text_pair"]


def test_each_text_is_translated_once_whatever_its_white_space(apertium, cache):
    texts = ["good", "bad", " good\n", "", "good", " \t", "a\0good"]
    reports = []
    expected = ["fine", "bad", "fine", "", "fine", "", "a fine"]
    assert back_translate(texts, "apertium", "eng-spa", cache, reports.append) == expected
    assert apertium.calls() == [["bad.", "good.", "a good."]]
    assert reports == ["back-translation: 3 of 3 texts"]
    assert back_translate([*texts, "film"], "apertium", "eng-spa", cache) == [*expected, "film"]
    assert apertium.calls()[1:] == [["film."]]
    assert back_translate(texts[::-1], "apertium", "eng-spa", cache) == expected[::-1]
    assert back_translate([], "apertium", "eng-spa", cache) == []
    assert len(apertium.calls()) == 2


def test_another_version_or_pair_does_not_take_the_others_translations(apertium, cache):
    first = engine_fingerprint("apertium", "eng-spa")
    assert back_translate(["good"], "apertium", "eng-spa", cache) == ["fine"]
    assert back_translate(["good"], "apertium", "eng-spa,spa-eng_US", cache) == ["bueno"]
    apertium.behave(words=WORDS | {"spa-eng": {"bueno": "nice"}}, version="Apertium 3.9.0")
    assert back_translate(["good"], "apertium", "eng-spa", cache) == ["nice"]
    assert engine_fingerprint("apertium", "eng-spa") != first and first.startswith("apertium-")
    apertium.behave()
    assert back_translate(["good"], "apertium", "eng-spa", cache) == ["fine"]
    assert len(apertium.calls()) == 3


def test_batches_are_stored_one_by_one(apertium, cache, monkeypatch):
    monkeypatch.setattr(module, "BATCH_SIZE", 2)

    def fail_at_the_second(message):
        if message.startswith("back-translation: 4 of 5"):
            raise KeyboardInterrupt

    texts = ["good1", "good2", "good3", "good4", "good5"]
    with pytest.raises(KeyboardInterrupt):
        back_translate(texts, "apertium", "eng-spa", cache, fail_at_the_second)
    assert back_translate(texts, "apertium", "eng-spa", cache) == [text.replace("good", "fine") for text in texts]
    assert [len(call) for call in apertium.calls()] == [2, 2, 1]


CHILD = """
import sys
from mixkd import augment
augment.BATCH_SIZE = 3
texts = [f"good {n}" for n in range(12)]
print(augment.back_translate(texts, "apertium", "eng-spa", augment.Path(sys.argv[1]), lambda m: print(m, flush=True)))
"""


def child(cache):
    return subprocess.Popen([sys.executable, "-c", CHILD, cache], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_what_is_killed_goes_on_from_its_last_batch(apertium, cache):
    process = child(cache)
    assert process.stdout.readline() == "back-translation: 3 of 12 texts\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with sqlite3.connect(cache) as connection:
        (stored,) = connection.execute("SELECT count(*) FROM translations").fetchone()
    assert 3 <= stored < 12
    reports = []
    texts = [f"good {n}" for n in range(12)]
    assert back_translate(texts, "apertium", "eng-spa", cache, reports.append) == [f"fine {n}" for n in range(12)]
    assert reports[-1] == f"back-translation: {12 - stored} of {12 - stored} texts"


def test_several_processes_share_one_cache_and_translate_each_text_once(apertium, cache):
    processes = [child(cache) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert {output.splitlines()[-1] for output in outputs} == {str([f"fine {n}" for n in range(12)])}
    assert Counter(text for call in apertium.calls() for text in call) == {f"good {n}.": 1 for n in range(12)}


def test_a_damaged_cache_is_named_with_the_way_out(apertium, cache):
    back_translate([f"good {n} {'x' * 400}" for n in range(200)], "apertium", "eng-spa", cache)
    whole = cache.read_bytes()
    for content in (b"not a data base" * 100, whole[: len(whole) // 2 + 100], whole[:2000] + b"\xff" * 20_000):
        cache.write_bytes(content)
        with pytest.raises(UserError, match=r"bt\.sqlite3 is damaged .*: delete it"):
            back_translate([f"good {n} {'x' * 400}" for n in range(200)], "apertium", "eng-spa", cache)
    cache.unlink()
    cache.mkdir()
    with pytest.raises(UserError, match=r"bt\.sqlite3 cannot be used \(unable to open"):
        back_translate(["good"], "apertium", "eng-spa", cache)


def test_without_an_engine_nothing_is_begun(cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="apt-get install apertium apertium-eng-spa"):
        translated(singles(["good"]), cache)
    assert not cache.exists()


def test_the_cache_is_in_mixkds_folder_unless_told_otherwise(apertium, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXKD_HOME", str(tmp_path / "home"))
    translated(singles(["good"]), None)
    assert (tmp_path / "home" / "back-translation.sqlite3").is_file()


def test_importing_the_module_loads_no_heavy_library():
    code = "import sys, mixkd.augment; print(*sorted({'torch', 'transformers', 'datasets'} & {*sys.modules}), 'end')"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output == "end\n"
