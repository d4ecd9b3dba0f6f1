import math
from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from mixkd.store import UserError
from mixkd.tasks import SPLITS, TASK_NAMES, Task, content_fingerprint, labels_of, load_task, subsample, tokenize


def small(labels, regression=False, pair=False, split="test"):
    """A task with these labels in one split."""
    names = ["n", "y"]
    columns = {"text": [f"text {i}" for i in range(len(labels))], "label": labels}
    types = {"text": Value("string"), "label": Value("float32") if regression else ClassLabel(names=names)}
    if pair:
        columns["text_pair"], types["text_pair"] = columns["text"][::-1], Value("string")
    dataset = DatasetDict({split: Dataset.from_dict(columns, features=Features(types))})
    return Task("small", dataset, ("score",) if regression else tuple(names), ("accuracy",), (), "")


def test_task_properties():
    task = small([0, 1])
    assert (task.num_labels, task.is_regression, task.is_pair, task.heldout) == (2, False, False, "test")
    task = small([0.5, -1.0], regression=True, pair=True)
    assert (task.num_labels, task.is_regression, task.text_columns) == (1, True, ("text", "text_pair"))
    assert task.heldout == "test"
    assert small([-1, -1]).heldout == small([-1.0, -1.0], regression=True).heldout == "validation"


def test_labels_of_gives_an_array_of_the_selected_rows():
    dataset = small([0, 1, 1]).dataset["test"].select([2, 0])
    assert labels_of(dataset).tolist() == [1, 0] and labels_of(dataset).dtype == np.int64
    assert labels_of(small([0.5], regression=True).dataset["test"]).dtype == np.float32


def test_fingerprint_covers_texts_labels_splits_and_order():
    def fingerprint(dataset):
        return content_fingerprint(DatasetDict({"test": dataset}))

    reference = small([0, 1, 1], pair=True).dataset["test"]
    changed = [
        reference.select([1, 0, 2]),
        reference.select([0, 1]),
        reference.remove_columns("text_pair"),
        reference.rename_columns({"text": "text_pair", "text_pair": "text"}),
        small([0, 1, 0], pair=True).dataset["test"],
    ]
    values = [fingerprint(dataset) for dataset in (reference, *changed)]
    assert len({*values, content_fingerprint(DatasetDict({"train": reference}))}) == len(changed) + 2
    assert fingerprint(reference.add_column("example_id", ["a", "b", "c"])) == values[0]


def test_names_that_are_no_task():
    with pytest.raises(UserError, match="no task 'vader-films': choose one of vader-movie, .*cola, .*custom"):
        load_task("vader-films")
    with pytest.raises(UserError, match="train on mnli, and give ax to `mixkd predict`"):
        load_task("ax")
    assert len(TASK_NAMES) == len(set(TASK_NAMES)) == 15


LABELS = [0] * 130 + [1] * 60 + [2] * 3


@pytest.fixture(scope="module")
def labelled():
    order = np.random.default_rng(0).permutation(len(LABELS))
    return Dataset.from_dict({"label": [LABELS[i] for i in order], "example_id": list(range(len(LABELS)))})


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-9, 1), st.floats(1e-9, 1), st.integers(0, 2**32))
def test_subsample_is_stratified_and_nested(labelled, one, other, seed):
    small, large = (subsample(labelled, fraction, seed) for fraction in sorted([one, other]))
    assert set(small["example_id"]) <= set(large["example_id"])
    assert large["example_id"][:] == sorted(large["example_id"])
    for label, total in Counter(LABELS).items():
        kept = Counter(large["label"])[label]
        assert kept >= 1
        assert abs(kept - max(one, other) * total) <= 1


def test_subsample_follows_its_seed(labelled):
    kept = [list(subsample(labelled, 0.3, seed)["example_id"]) for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]
    assert list(subsample(labelled, 1, 0)["example_id"]) == list(labelled["example_id"])


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan")])
def test_subsample_refuses_what_is_no_share(labelled, fraction):
    with pytest.raises(UserError, match=rf"in \(0, 1\], not {fraction}"):
        subsample(labelled, fraction, 0)


def test_subsample_of_numbers_is_nested_and_of_the_asked_size():
    labels = [math.sin(i) for i in range(200)]
    dataset = Dataset.from_dict({"label": labels, "example_id": list(range(200))})
    small, large = (subsample(dataset, fraction, 0)["example_id"][:] for fraction in (0.01, 0.25))
    assert len(small) == 2 and len(large) == 50 and set(small) < set(large)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpora") / "movieReviewSnippets_GroundTruth.txt"
    path.write_text("\n".join(f"{i}\t{i % 7 - 3}\tSentence number {i}." for i in range(400)))
    return path.parent


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sentence", "number", "."]
    vocabulary = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    vocabulary.write_text("\n".join(words))
    return BertTokenizer(str(vocabulary))


def test_tokenize(tokenizer, folder):
    task = load_task("vader-movie", folder)
    encoded = tokenize(task.dataset, tokenizer, 128, task.is_pair)
    assert isinstance(encoded, DatasetDict)
    for split in SPLITS:
        assert list(encoded[split]["example_id"]) == list(task.dataset[split]["example_id"])
        assert list(encoded[split]["label"]) == list(task.dataset[split]["label"])
    row = encoded["train"][0]
    assert row["input_ids"] == [2, 5, 6, 1, 7, 3]  # [CLS] sentence number [UNK] . [SEP]
    assert row["length"] == 6 and row["attention_mask"] == [1] * 6
    assert set(row) == {"input_ids", "token_type_ids", "attention_mask", "length", "label", "example_id"}
    assert tokenize(task.dataset["train"], tokenizer, 4, task.is_pair)[0]["input_ids"] == [2, 5, 6, 3]


def test_tokenize_writes_nothing(tokenizer, folder, tmp_path):
    load_task("vader-movie", folder).dataset["test"].to_parquet(tmp_path / "test.parquet")
    on_disk = Dataset.from_parquet(str(tmp_path / "test.parquet"), cache_dir=str(tmp_path / "cache"))
    before = set(tmp_path.rglob("*"))
    assert tokenize(on_disk, tokenizer, 128, is_pair=False).num_rows == on_disk.num_rows
    assert on_disk.cache_files and set(tmp_path.rglob("*")) == before


def test_tokenize_pairs(tokenizer, folder):
    task = load_task("vader-order", folder)
    row = tokenize(task.dataset["test"], tokenizer, 128, task.is_pair)[0]
    assert row["input_ids"] == [2, 5, 6, 1, 7, 3, 5, 6, 1, 7, 3]
    assert row["token_type_ids"] == [0] * 6 + [1] * 5
    assert row["length"] == 11
