"""The cache of a teacher's answers: what it is keyed by, what becomes of damaged files, and who writes."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_classifier

from mixkd import teacher as teacher_module
from mixkd.evaluate import Part
from mixkd.prediction import predict_logits, predict_states
from mixkd.store import Store, UserError
from mixkd.teacher import CachedTeacher, tokens_sha256

NAMES = ["negative", "positive"]


def token_dataset(num_examples=8, seed=0, **columns):
    from datasets import Dataset

    rng = np.random.default_rng(seed)
    texts = [[2, *rng.integers(5, 29, rng.integers(1, 9)).tolist(), 3] for _ in range(num_examples)]
    return Dataset.from_dict(
        {"input_ids": texts, "attention_mask": [[1] * len(text) for text in texts],
         "example_id": [f"id {row}" for row in range(num_examples)]} | columns
    )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def folder(tmp_path):
    """A saved teacher of 3 layers."""
    tiny_classifier(
        "bert", seed=1, id2label=dict(enumerate(NAMES)), label2id={"negative": 0, "positive": 1}
    ).save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def asked(monkeypatch):
    """Notes what is computed, and not read."""
    calls = []

    def noting(name, function):
        def spy(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs)

        return spy

    monkeypatch.setattr(teacher_module, "predict_logits", noting("logits", predict_logits))
    monkeypatch.setattr(teacher_module, "predict_states", noting("states", predict_states))
    return calls


def cached_teacher(store, folder):
    return CachedTeacher(store, folder, NAMES, torch.device("cpu"))


def files_of(store):
    return sorted((store.root / "cache").rglob("*.npy"))


def test_answers_are_the_model_s_and_are_computed_once(store, folder, asked):
    dataset, layers = token_dataset(), (1, 2)
    teacher = cached_teacher(store, folder)
    expected = predict_logits(teacher.model, dataset), predict_states(teacher.model, dataset, layers)
    for again in (teacher, teacher, cached_teacher(store, folder)):
        for found, answer in zip((again.logits(dataset), again.states(dataset, layers)), expected, strict=True):
            np.testing.assert_array_equal(found, answer)
    assert asked == ["logits", "states"] and len(files_of(store)) == 2


def test_files_are_memory_mapped_and_of_the_documented_size(store, folder):
    """Also in the process that computed them: the states of a large data set must not stay in memory."""
    dataset, teacher = token_dataset(), cached_teacher(store, folder)
    for _ in range(2):
        assert isinstance(teacher.states(dataset, (1, 2)), np.memmap)
    [path] = files_of(store)
    assert path.stat().st_size == 4 * 8 * 2 * 32 + 128  # float32 x examples x layers x hidden, and NumPy's header


def test_other_weights_tokens_and_layers_have_files_of_their_own(store, folder, tmp_path, asked):
    dataset, teacher = token_dataset(), cached_teacher(store, folder)
    other_folder = tmp_path / "other"
    tiny_classifier("bert", seed=2).save_pretrained(other_folder)
    segments = [[int(place > 1) for place in range(len(text))] for text in dataset["input_ids"]]
    answers = [
        teacher.logits(dataset),
        cached_teacher(store, other_folder).logits(dataset),
        teacher.logits(dataset.select(range(7))),
        teacher.logits(dataset.select(reversed(range(8)))),
        teacher.logits(token_dataset(seed=1)),
        teacher.logits(dataset.add_column("token_type_ids", segments)),
    ]
    assert len({answer.tobytes() for answer in answers}) == len(answers) == len(asked) == len(files_of(store))
    for layers in ((1, 2), (2, 1), (1,), (1, 2)):
        states = teacher.states(dataset, layers)
        np.testing.assert_array_equal(states, predict_states(teacher.model, dataset, layers))
    assert asked.count("states") == 3


def test_names_and_labels_of_examples_are_no_part_of_the_key():
    dataset = token_dataset()
    renamed = dataset.remove_columns("example_id").add_column("label", [0] * 8)
    assert tokens_sha256(renamed) == tokens_sha256(dataset)
    joined = token_dataset(2, input_ids=[[5, 6], [7]], attention_mask=[[1, 1], [1]])
    shifted = token_dataset(2, input_ids=[[5], [6, 7]], attention_mask=[[1], [1, 1]])
    assert tokens_sha256(joined) != tokens_sha256(shifted)


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[:-4], lambda content: content[:60], lambda content: b"torn" * 99],
    ids=["empty", "cut", "header", "foreign"],
)
def test_a_torn_file_is_computed_again_and_replaced(store, folder, asked, damage):
    dataset, teacher = token_dataset(), cached_teacher(store, folder)
    expected = np.array(teacher.states(dataset, (2,)))
    [path] = files_of(store)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    np.testing.assert_array_equal(teacher.states(dataset, (2,)), expected)
    assert path.read_bytes() == whole and asked == ["states", "states"]


def test_other_processes_read_and_do_not_write(store, folder, asked, monkeypatch):
    dataset = token_dataset()
    monkeypatch.setenv("RANK", "1")
    teacher = cached_teacher(store, folder)
    answers = [teacher.logits(dataset), teacher.logits(dataset)]
    assert not store.root.exists() and asked == ["logits", "logits"]
    monkeypatch.setenv("RANK", "0")
    np.testing.assert_array_equal(cached_teacher(store, folder).logits(dataset), answers[0])
    monkeypatch.setenv("RANK", "1")
    np.testing.assert_array_equal(teacher.logits(dataset), answers[1])
    assert asked == ["logits"] * 3  # the fourth time it was there


def test_a_part_s_answers_are_those_of_its_examples(store, folder, asked):
    """A share of the training data finds the whole split's logits, by the examples' ids and in their order."""
    split, teacher = token_dataset(), cached_teacher(store, folder)
    whole = predict_logits(teacher.model, split)
    for rows in ([5, 1, 6], [0], range(8)):
        part = Part("train", None, split, split.select(rows))
        np.testing.assert_array_equal(teacher.of(part), whole[list(rows)])
    assert asked == ["logits"]


def test_a_teacher_that_is_gone(store, tmp_path):
    with pytest.raises(UserError, match="runs/abc/model is gone; delete .*runs/abc to have it trained again"):
        cached_teacher(store, tmp_path / "runs" / "abc" / "model")
