import logging
import shutil

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from glue_files import (
    BROKEN,
    BROKEN_AT,
    MNLI_SPLITS,
    QUIRKS,
    SIZES,
    TASKS,
    examples,
    write_glue,
    write_official,
    write_parquet,
)

from mixkd import glue, glue_tables
from mixkd.store import UserError
from mixkd.tasks import GLUE_TASKS, SPLITS, load_task

METRICS = {
    "cola": ("matthews",), "sst2": ("accuracy",), "mrpc": ("accuracy", "f1"), "stsb": ("pearson", "spearman"),
    "qqp": ("accuracy", "f1"), "mnli": ("accuracy",), "qnli": ("accuracy",), "rte": ("accuracy",),
    "wnli": ("accuracy",),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A cache folder of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("MIXKD_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("official"), write_official)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("parquet"), write_parquet)


def our_name(split):
    return split.removesuffix("_matched")


def content(task):
    return {split: dataset.to_dict() for split, dataset in task.dataset.items()}


@pytest.mark.parametrize("name", [*GLUE_TASKS, "ax"])
def test_both_layouts_hold_what_was_written(official, parquet, name):
    task = glue.load(name, official)
    for split, rows in examples(name).items():
        dataset = task.dataset[our_name(split)]
        assert [list(texts) for texts in zip(*(dataset[c] for c in task.text_columns), strict=True)] == [
            texts for texts, _ in rows
        ]
        assert dataset["label"][:] == pytest.approx([label for _, label in rows])
        assert QUIRKS[0] in dataset["text"][:]
        assert len(set(dataset["example_id"])) == len(dataset)
    assert list(task.dataset) == [our_name(split) for split in examples(name)] or name == "mnli"
    other = glue.load(name, parquet)
    assert content(other) == content(task) and other.fingerprint == task.fingerprint
    assert other is not task and glue.load(name, parquet) is other


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_names_metrics_and_types_are_the_official_ones(official, name):
    task = load_task(name, str(official))
    label_names = TASKS[name][2]
    assert task.metrics == METRICS[name] and task.shifted == () and task.heldout == "validation"
    assert task.is_pair == (len(TASKS[name][1]) == 2) and task.is_regression == (name == "stsb")
    assert set(SPLITS) <= set(task.dataset)
    for dataset in task.dataset.values():
        if label_names:
            assert dataset.features["label"].names == label_names == list(task.label_names)
        else:
            assert dataset.features["label"] == datasets.Value("float32") and task.num_labels == 1
        assert dataset.cache_files  # memory-mapped
    assert list(load_task("mnli", official).dataset) == [
        "train", "validation", "test", "validation_mismatched", "test_mismatched",
    ]  # fmt: skip


def test_what_is_left_out_is_counted_and_said(official, parquet, home, caplog, tmp_path):
    task = load_task("qqp", official)
    assert task.notes == ("qqp: 2 lines of train.tsv have missing or too many fields and were left out.",)
    numbers = [number for number in range(SIZES["train"] + 2) if number not in (BROKEN_AT, BROKEN_AT + 1)]
    assert task.dataset["train"]["example_id"][:] == list(map(str, numbers))  # what is left out keeps its number
    for folder in (official, parquet):
        task = load_task("mnli", folder)
        assert task.notes == ("mnli: 1 examples of validation have no gold label (-) and were left out.",)
        texts = task.dataset["validation"]["text"][:]
        assert len(texts) == SIZES["validation"] and "no" not in texts
    shutil.copytree(official / "QQP", tmp_path / "QQP")
    with caplog.at_level(logging.WARNING):
        assert load_task("qqp", tmp_path).notes  # from the cache
    assert "2 lines of train.tsv" in caplog.text


def test_a_folder_may_be_the_tasks_own(official, parquet, tmp_path):
    for name in ("cola", "mnli"):
        reference = load_task(name, official)
        assert load_task(name, official / TASKS[name][0]).fingerprint == reference.fingerprint
        assert load_task(name, parquet / name).fingerprint == reference.fingerprint
    for part in ("train", "validation", "test"):
        (path,) = (parquet / "rte").glob(f"{part}-*")
        shutil.copy(path, tmp_path / f"{part}.parquet")
    assert load_task("rte", tmp_path).fingerprint == load_task("rte", official).fingerprint
    (official / "diagnostic").mkdir()
    shutil.copy(official / "AX/AX.tsv", official / "diagnostic/diagnostic.tsv")
    ax = glue.load("ax", official)
    (official / "AX/AX.tsv").rename(official / "AX/hidden")
    assert glue.load("ax", official).fingerprint == ax.fingerprint
    (official / "AX/hidden").rename(official / "AX/AX.tsv")


def edited(official, folder, task, name, change):
    """A copy of a task's official folder in which one file is changed."""
    shutil.copytree(official / TASKS[task][0], folder)
    path = folder / f"{name}.tsv"
    path.write_bytes(change(path.read_bytes()))
    return folder


def line(number, new):
    """Replaces a line, from 1."""

    def change(content):
        lines = content.split(b"\n")
        lines[number - 1] = new
        return b"\n".join(lines)

    return change


@pytest.mark.parametrize(
    ("task", "name", "change", "message"),
    [
        ("rte", "train", line(4, b"2\tone\tentailment"), r"train.tsv, line 4 has 3 fields"),
        ("rte", "dev", line(5, b"3\ta\tb\tc\tentailment"), r"dev.tsv, line 5 has 5 fields"),
        ("qqp", "dev", line(5, b"3\t1\t1\ta"), r"dev.tsv, line 5 has 4 fields"),
        ("qqp", "test", line(5, b"3"), r"test.tsv, line 5 has 1 fields"),
        ("cola", "train", line(1, b"sentence\tlabel"), r"train.tsv, line \d+ has \d fields"),
        ("rte", "dev", line(6, b"4\ta\tb\tneutral"), r"dev.tsv, line 6 has no label of rte"),
        ("rte", "dev", line(6, b"4\ta\tb\t0"), r"dev.tsv, line 6 has no label of rte"),  # WNLI writes 0 and 1
        ("rte", "dev", line(6, b"4\ta\tb\t-"), r"dev.tsv, line 6 has no label of rte"),
        ("cola", "train", line(2, b"gj04\t2\t*\ta"), r"train.tsv, line 2 has no label of cola"),
        ("stsb", "dev", line(3, b"1\tg\tf\ty\t1\tn\tn\ta\tb\t5.2"), r"dev.tsv, line 3 has no label of stsb"),
        ("stsb", "dev", line(3, b"1\tg\tf\ty\t1\tn\tn\ta\tb\tnan"), r"dev.tsv, line 3 has no label of stsb"),
        ("stsb", "dev", line(3, b"1\tg\tf\ty\t1\tn\tn\ta\tb\tx"), r"dev.tsv, line 3 has no label of stsb"),
        ("qqp", "train", line(14, b"1\t1\t1\ta\tb\t7"), r"train.tsv, line 14 has no label of qqp"),  # after broken ones
        ("rte", "dev", lambda b: line(5, b"5\ta")(b).replace(b"\n2\t", b"\n\n\n2\t"), r"dev.tsv, line 7 has 2 fields"),
        ("sst2", "train", line(7, b"caf\xe9\t1"), r"train.tsv, line 7 is not UTF-8"),
        ("sst2", "train", line(1, b"text\tlabel"), r"train.tsv has no column 'sentence', but 'text"),
        ("sst2", "dev", lambda _: b"", r"dev.tsv is empty"),
        ("sst2", "dev", lambda _: b"sentence\tlabel\n", r"dev.tsv holds no examples"),
        ("wnli", "test", line(4, b"1\ta\tb"), r"The test split of wnli has an index more than once"),
    ],
)  # fmt: skip
def test_a_broken_official_file_is_named_with_its_line(official, tmp_path, task, name, change, message):
    with pytest.raises(UserError, match=message):
        load_task(task, edited(official, tmp_path / "copy", task, name, change))


def test_blank_lines_and_lf_do_not_matter(official, tmp_path):
    folder = edited(official, tmp_path / "copy", "mrpc", "train", lambda b: b.replace(b"\r\n", b"\n\n") + b"\r\n\n")
    assert load_task("mrpc", folder).fingerprint == load_task("mrpc", official).fingerprint


def test_missing_files(official, tmp_path):
    with pytest.raises(UserError, match=r"nowhere holds no data of cola: .*CoLA/train.tsv .*cola/train-00000-of-00001"):
        load_task("cola", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"AX/AX.tsv"):
        glue.load("ax", tmp_path)
    shutil.copytree(official / "MNLI", tmp_path / "MNLI")
    (tmp_path / "MNLI/dev_mismatched.tsv").unlink()
    with pytest.raises(UserError, match=r"MNLI has train but no dev_mismatched.tsv \(or validation_mismatched-"):
        load_task("mnli", tmp_path)
    with pytest.raises(UserError, match=r"RTE/train.tsv has no column 'sentence', but 'index"):
        load_task("sst2", official / "RTE")


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("rte", lambda t: t.drop_columns("sentence2"), "lacks the column sentence2 of rte"),
        ("rte", lambda t: t.set_column(2, "label", pa.array([7] * len(t))), "row 0 has no label of rte"),
        ("rte", lambda t: t.set_column(2, "label", pa.array([0] * 9 + [-1] * (len(t) - 9))), "row 9 has no label"),
        ("rte", lambda t: t.set_column(0, "sentence1", pa.array([None] * len(t), pa.string())), "train .* empty text"),
        ("rte", lambda t: t.set_column(3, "idx", pa.array([3] * len(t))), "train .* index more than once"),
    ],
)  # fmt: skip
def test_a_broken_parquet_file_is_named(parquet, tmp_path, task, change, message):
    shutil.copytree(parquet / task, tmp_path / task)
    (path,) = (tmp_path / task).glob("train-*")
    pq.write_table(change(pq.read_table(path).replace_schema_metadata()), path)
    with pytest.raises(UserError, match=message):
        load_task(task, tmp_path)
    path.write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match="train-00000-of-00001.parquet cannot be read"):
        load_task(task, tmp_path)


def test_other_label_names_are_refused(parquet, tmp_path):
    shutil.copytree(parquet / "rte", tmp_path / "rte")
    (path,) = (tmp_path / "rte").glob("train-*")
    table = pq.read_table(path)
    features = datasets.Features.from_arrow_schema(table.schema)
    features["label"] = datasets.ClassLabel(names=["not_entailment", "entailment"])
    pq.write_table(table.cast(features.arrow_schema), path)
    with pytest.raises(UserError, match=r"\['not_entailment', 'entailment'\], not \['entailment', 'not_entailment'\]"):
        load_task("rte", tmp_path)


def test_parsed_once_and_again_only_if_damaged(official, tmp_path, monkeypatch):
    def load(folder):  # as a new process would: the files are others, their content is not
        shutil.copytree(official / "RTE", tmp_path / folder / "RTE")
        return load_task("rte", tmp_path / folder)

    monkeypatch.setenv("MIXKD_HOME", str(tmp_path / "home"))
    reference, parsed = load("reference"), []
    monkeypatch.setattr(glue, "read_tsv", lambda *args: parsed.append(args[1].name) or glue_tables.read_tsv(*args))
    assert content(load("a")) == content(reference) and not parsed
    (cached,) = (tmp_path / "home/datasets").glob("rte-*")
    arrow = cached / "test.arrow"
    for number, damage in enumerate([
        lambda: arrow.write_bytes(arrow.read_bytes()[:-9]),
        arrow.unlink,
        (cached / "summary.json").unlink,
        lambda: (cached / "summary.json").write_text("{"),
    ]):  # fmt: skip
        damage()
        again = load(f"damaged{number}")
        assert content(again) == content(reference) and again.fingerprint == reference.fingerprint
        assert parsed == ["train.tsv", "dev.tsv", "test.tsv"]
        parsed.clear()
    assert list((tmp_path / "home/datasets").glob("rte-*")) == [cached]
    path = tmp_path / "a/RTE/dev.tsv"
    path.write_bytes(path.read_bytes().replace(b"\tnot_entailment", b"\tentailment"))
    assert load_task("rte", tmp_path / "a").fingerprint != reference.fingerprint


def test_a_cache_that_cannot_be_written(official, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIXKD_HOME", str(tmp_path / "file"))
    shutil.copytree(official / "RTE", tmp_path / "RTE")
    with pytest.raises(UserError, match=r"rte cannot be kept in .*MIXKD_HOME"):
        load_task("rte", tmp_path)


def test_the_hub(parquet, monkeypatch):
    asked = []

    def load_dataset(*args):
        asked.append(args)
        files = {split: [str(p) for p in sorted((parquet / args[1]).glob(f"{split}-*"))] for split in splits(args[1])}
        return datasets.DatasetDict({split: datasets.Dataset.from_parquet(paths) for split, paths in files.items()})

    def splits(name):
        return MNLI_SPLITS if name == "mnli" else SPLITS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name in ("cola", "stsb", "mnli"):
        task = load_task(name)
        assert load_task(name) is task and asked.pop() == ("nyu-mll/glue", name) and not asked
        assert content(task) == content(load_task(name, parquet))
        assert task.fingerprint == load_task(name, parquet).fingerprint


def test_test_labels_of_the_hub_are_hidden(parquet, tmp_path):
    shutil.copytree(parquet / "mrpc", tmp_path / "mrpc")
    (path,) = (tmp_path / "mrpc").glob("test-*")
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, table.schema.field("label"), pa.array([1] * len(table))), path)
    task = load_task("mrpc", tmp_path)
    assert set(task.dataset["test"]["label"]) == {-1} and task.heldout == "validation"
    assert task.fingerprint == load_task("mrpc", parquet).fingerprint


def test_no_hub_and_no_folder():
    with pytest.raises(
        UserError, match=r"rte could not be fetched from nyu-mll/glue .*--data_dir a folder with the off"
    ):
        load_task("rte")


def test_the_broken_lines_are_like_the_real_ones():
    assert [text.count("\t") for text in BROKEN] == [3, 2]  # of 5 in a whole line
