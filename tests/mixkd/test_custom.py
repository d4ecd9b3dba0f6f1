import hashlib
import json

import pandas as pd
import pytest
import yaml

from mixkd.store import UserError
from mixkd.tasks import SPLITS, load_task


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A cache folder of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXKD_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def rows(split, count=40, labels=("bad", "good")):
    return [{"text": f"{split} text, number {i}", "label": labels[i % len(labels)]} for i in range(count)]


def write(folder, suffix="csv", settings=None, **splits):
    """A folder to load: one file per split."""
    folder.mkdir(exist_ok=True)
    for split, examples in splits.items():
        frame, path = pd.DataFrame(examples), folder / f"{split}.{suffix}"
        if suffix == "csv":
            frame.to_csv(path, index=False)
        elif suffix == "tsv":
            lines = ["\t".join(map(str, row)) for row in [tuple(frame.columns), *frame.itertuples(index=False)]]
            path.write_text("\n".join(lines))
        elif suffix == "jsonl":
            path.write_text("\n".join(map(json.dumps, examples)))
        else:
            frame.to_parquet(path, index=False)
    if settings is not None:
        (folder / "task.yaml").write_text(yaml.safe_dump(settings))
    return folder


def three(count=40, **changes):
    return {split: rows(split, count, **changes) for split in SPLITS}


TEXTS = ['He said "no", twice', "NA", "caf\xe9 \u2018x\u2019", "null", ' "half', "1"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_task(tmp_path, suffix):
    splits = three()
    for text, row in zip(TEXTS, splits["train"], strict=False):
        row["text"] = text
    task = load_task("custom", write(tmp_path / "data", suffix, **splits))
    assert task.label_names == ("bad", "good") and task.metrics == ("accuracy",) and task.heldout == "test"
    for split in SPLITS:
        assert task.dataset[split]["text"][:] == [row["text"] for row in splits[split]]
        assert [task.label_names[label] for label in task.dataset[split]["label"]] == [
            r["label"] for r in splits[split]
        ]
        assert task.dataset[split]["example_id"][:] == [str(i) for i in range(40)]
        assert task.dataset[split].cache_files  # memory-mapped
    assert task.fingerprint == load_task("custom", write(tmp_path / "reference", **splits)).fingerprint
    assert load_task("custom", str(tmp_path / "data")) is task


def test_quotes_enclose_in_csv_and_are_characters_in_tsv(tmp_path):
    train = 'text,label\n"one, two\nthree ""four""",yes\nplain,no\n' + "".join(f"row {i},no\n" for i in range(60))
    write(tmp_path / "csv")
    (tmp_path / "csv/train.csv").write_bytes(b"\xef\xbb\xbf" + train.replace("\n", "\r\n").encode())
    texts = [text for split in load_task("custom", tmp_path / "csv").dataset.values() for text in split["text"]]
    assert any(text.replace("\r", "") == 'one, two\nthree "four"' for text in texts)
    write(tmp_path / "tsv")
    (tmp_path / "tsv/train.tsv").write_text(
        'text\tlabel\n"one" and "\tyes\n' + "".join(f'"{i}\tno\n' for i in range(60))
    )
    texts = [text for split in load_task("custom", tmp_path / "tsv").dataset.values() for text in split["text"]]
    assert '"one" and "' in texts and len(texts) == 61


def test_line_ends_in_a_large_csv(tmp_path):
    # Larger than what the reader takes at a time (1 MB): it must not cut within quotes.
    splits = {"train": [{"text": f"{i}\n" * 400, "label": "ab"[i % 2]} for i in range(1000, 2000)]}
    task = load_task("custom", write(tmp_path, **splits))
    assert (tmp_path / "train.csv").stat().st_size > 1_900_000
    assert sum(len(split) for split in task.dataset.values()) == 1000
    assert all(set(text.split("\n")[:-1]) == {text[:4]} for text in task.dataset["train"]["text"])


def test_settings(tmp_path):
    settings = {
        "text": "title", "text_pair": "body", "label": "stars", "label_names": ["good", "no", "bad"],
        "metrics": ["matthews", "accuracy"],
    }  # fmt: skip
    splits = {
        split: [
            {"stars": row["label"], "body": f"b {i}", "other": 1, "title": f"{split} {i}"}
            for i, row in enumerate(rows(split, labels=("no", "bad", "good")))
        ]
        for split in SPLITS
    }
    write(tmp_path, **splits)
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(settings).replace("'no'", "no"))  # which YAML takes for false
    task = load_task("custom", tmp_path)
    assert task.label_names == ("good", "no", "bad") and task.metrics == ("matthews", "accuracy") and task.is_pair
    assert task.dataset["test"]["label"][:3] == [1, 2, 0]
    assert task.dataset["test"][1]["text"] == "test 1" and task.dataset["test"][1]["text_pair"] == "b 1"
    before = task.fingerprint
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(settings | {"label_names": ["no", "good", "bad"]}))
    assert load_task("custom", tmp_path).fingerprint != before


def test_a_column_text_pair_makes_pairs(tmp_path):
    splits = {split: [row | {"text_pair": "second"} for row in part] for split, part in three().items()}
    assert load_task("custom", write(tmp_path / "all", **splits)).is_pair
    splits["test"] = rows("test")
    with pytest.raises(UserError, match="test.csv and .*train.csv do not both have the column text_pair"):
        load_task("custom", write(tmp_path / "some", **splits))


@pytest.mark.parametrize(
    ("labels", "suffix", "names"),
    [
        ((10, 9, 2), "csv", ("2", "9", "10")),
        ((10, 9, -2), "jsonl", ("-2", "9", "10")),
        ((2.0, 1.0), "parquet", ("1", "2")),
        (("b", "B", "a"), "csv", ("B", "a", "b")),
        (("1 star", "10 stars"), "csv", ("1 star", "10 stars")),
        ((True, False), "parquet", ("False", "True")),
    ],
)
def test_label_names_are_the_sorted_labels(tmp_path, labels, suffix, names):
    task = load_task("custom", write(tmp_path, suffix, **three(labels=labels)))
    assert task.label_names == names
    first = task.dataset["train"]["label"][: len(labels)]
    assert [names[label] for label in first] == [str(int(v)) if type(v) is float else str(v) for v in labels]


def test_numbers_may_stand_for_names(tmp_path):
    folder = write(tmp_path, settings={"label_names": ["1", "2"]}, **three(labels=("1", "0")))
    task = load_task("custom", folder)
    assert task.label_names == ("1", "2") and task.dataset["train"]["label"][:2] == [1, 0]
    # A split that has only one of the numbers reads it as the others do.
    write(tmp_path, test=rows("test", labels=("1",)))
    assert set(load_task("custom", folder).dataset["test"]["label"]) == {1}


def test_regression(tmp_path):
    task = load_task("custom", write(tmp_path, settings={"regression": True}, **three(labels=(-1, 0.5, 3))))
    assert task.is_regression and task.metrics == ("pearson", "spearman") and task.label_names == ("label",)
    assert task.dataset["test"]["label"][:3] == [-1.0, 0.5, 3.0] and task.heldout == "test"


def test_test_may_be_without_labels(tmp_path):
    splits = three() | {"test": [{"text": "a"}, {"text": "b"}]}
    for number, test in enumerate([splits["test"], [row | {"label": ""} for row in splits["test"]]]):
        task = load_task("custom", write(tmp_path / str(number), **(splits | {"test": test})))
        assert task.dataset["test"]["label"][:] == [-1, -1] and task.heldout == "validation"


def home_of(text):
    digest = hashlib.sha256("".join(filter(str.isalnum, text.casefold())).encode()).hexdigest()
    return (["train"] * 7 + ["validation"] + ["test"] * 2)[int(digest, 16) % 10]


@pytest.mark.parametrize("given", [(), ("validation",), ("test",)])
def test_missing_splits_are_taken_from_train_by_the_text(tmp_path, given):
    splits = {"train": rows("train", 200), **{split: rows(split) for split in given}}
    task = load_task("custom", write(tmp_path, **splits))
    for split in given:
        assert task.dataset[split]["text"][:] == [row["text"] for row in splits[split]]
    found = {text: split for split in SPLITS if split not in given for text in task.dataset[split]["text"]}
    expected = {row["text"]: home_of(row["text"]) for row in splits["train"]}
    assert found == {text: "train" if home in given else home for text, home in expected.items()}
    ids = [row for split in SPLITS if split not in given for row in task.dataset[split]["example_id"]]
    assert sorted(ids, key=int) == [str(i) for i in range(200)]
    rows_of = dict(zip(task.dataset["train"]["example_id"], task.dataset["train"]["text"], strict=True))
    assert all(splits["train"][int(row)]["text"] == text for row, text in rows_of.items())


def test_texts_in_two_splits(tmp_path):
    splits = three()
    splits["test"][5]["text"] = splits["train"][7]["text"]
    folder = write(tmp_path, **splits)
    with pytest.raises(UserError, match=r"test.csv, row 6 is also in train.csv: remove .* allow_duplicates: true"):
        load_task("custom", folder)
    write(folder, settings={"allow_duplicates": True})
    assert len(load_task("custom", folder).dataset["test"]) == 40
    # Within a split, and of a pair only one text, is no leak.
    pairs = {
        split: [row | {"text": "same", "text_pair": row["text"]} for row in part] for split, part in three().items()
    }
    pairs["train"][0]["text_pair"] = pairs["train"][2]["text_pair"]
    assert load_task("custom", write(tmp_path / "pairs", **pairs)).is_pair


def broken(**changes):
    """`three` with splits replaced."""
    return three() | changes


@pytest.mark.parametrize(
    ("splits", "settings", "message"),
    [
        ({"validation": rows("validation")}, None, "holds no train.csv, .tsv, .jsonl or .parquet"),
        (broken(train=[{"review": "a", "label": 1}]), None, r"'text' \(it has review, label\).*`text: review`"),
        (broken(train=[{"text": "a", "stars": 1}]), None, r"train.csv has no column 'label' \(it has text, stars\)"),
        (broken(validation=[{"text": "a"}]), None, "validation.csv has no column 'label'"),
        (three(), {"text_pair": "body"}, "train.csv has no column 'body'"),
        (broken(train=rows("train", 3) + [{"text": "x", "label": ""}]), None, "train.csv, row 4 has no label: give"),
        (broken(test=rows("test", 3) + [{"text": "x", "label": ""}]), None, "test.csv, row 4 has no label: empty the"),
        (three(labels=("",)), None, "train.csv, row 1 has no label: give"),
        (broken(validation=rows("v", labels=("",))), None, "validation.csv, row 1 has no label: give"),
        (broken(train=rows("train", 3) + [{"text": " ", "label": "bad"}]), None, "train.csv, row 4 has no text: fill"),
        (broken(validation=rows("v", labels=("bad", "ugly"))), None, "validation.csv has the label 'ugly', which"),
        (three(), {"label_names": ["bad", "fine"]}, "train.csv has the label 'good', which is not one of bad, fine"),
        (three(), {"label_names": ["bad", "bad"]}, "label_names are not two or more different ones"),
        (three(labels=("bad",)), None, "train.csv has one label only"),
        (three(labels=(1.5,)), {"regression": True}, "train.csv has one label only"),
        (three(), {"regression": True}, "train.csv, row 1 has the label 'bad', which is no number"),
        (three(labels=("nan", 1)), {"regression": True}, "row 1 has the label 'nan', which is no number"),
        (broken(train=rows("train", labels=[f"{i}.5" for i in range(40)])), None, "40 different labels.*regression"),
        (three(), {"metrics": ["bleu"]}, "task.yaml: the metric bleu is none for classes; choose of accuracy, f1"),
        (three(labels=(1, 2)), {"regression": True, "metrics": ["accuracy"]}, "accuracy is none for a regression"),
        (three(labels=(1, 2, 3)), {"metrics": ["f1"]}, "f1 is for two classes, not 3"),
        (three(), {"column": "x"}, r"task.yaml: column: Extra inputs.*its keys are text, text_pair, label"),
        (three(), {"metrics": "accuracy"}, "task.yaml: metrics: Input should be a valid"),
        (three(), ["text"], "task.yaml: Input should be a valid dictionary"),
        ({"train": rows("train", 2)}, None, "train.csv leaves the (validation|test) split empty"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, splits, settings, message):
    with pytest.raises(UserError, match=message):
        load_task("custom", write(tmp_path, settings=settings, **splits))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", b"", "train.csv has no column 'text' \\(it has \\)"),
        ("train.csv", b"text,label\n", "train.csv holds no examples"),
        ("train.csv", b"text,label\na,b,c\n", "train.csv, row 1 has 3 fields.*double quotes"),
        ("train.csv", b"text,label\na,b\nc\n", "train.csv, row 2 has 1 fields"),
        ("train.csv", b'text,label\na,b\n"c,d\ne,f\n', "train.csv, row 2 has 1 fields"),
        ("train.csv", b"text,label\ncaf\xe9,b\n", "train.csv, line 2 is not UTF-8"),
        ("train.tsv", b"text\tlabel\na\tb\n", "train.csv and train.tsv: keep one of them"),
        ("validation.csv", b"text;label\na;b\n", r"validation.csv has no column 'text' \(it has text;label\)"),
        ("task.yaml", b"text: [", "task.yaml cannot be read"),
        ("task.yaml", b"text: caf\xe9", "task.yaml cannot be read"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    folder = write(tmp_path, **three())
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_task("custom", folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", b'{"text": "a"\n', r"train.jsonl, line 1 is not a JSON object in UTF-8"),
        ("train.jsonl", b'{"text": "a", "label": 1}\n\n[1]\n', "train.jsonl, line 3 is not a JSON object"),
        ("train.jsonl", b'{"text": "\xff", "label": 1}', "train.jsonl, line 1 is not a JSON object in UTF-8"),
        ("train.jsonl", b"\n", "train.jsonl has no column 'text'"),
        ("train.jsonl", b'{"text": 1, "label": 1}', "train.jsonl has no texts in the column 'text', but int64"),
        ("train.jsonl", b'{"text": "a", "label": 1}\n{"text": "a", "label": "b"}', "train.jsonl cannot be read"),
        ("train.jsonl", b'{"text": "a", "label": 1}\n{"label": 2}', "train.jsonl, row 2 has no text"),
        ("train.parquet", b"PAR1", "train.parquet cannot be read"),
    ],
)
def test_damaged_json_and_parquet_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_task("custom", tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="custom needs --data_dir"):
        load_task("custom")
    with pytest.raises(UserError, match="nowhere holds no train.csv"):
        load_task("custom", tmp_path / "nowhere")
