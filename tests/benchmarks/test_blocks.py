"""Texts are answered block by block, all of them by all models, in the order of the texts."""

import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import end_to_end
from benchmarks.end_to_end import NUM_BLOCKS, Answers, load_texts, time_blocks
from benchmarks.energy import EnergyMeter
from benchmarks.timing import NotRun
from benchmarks.variants import Runnable

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def texts(tiny_store, vader_folder):
    return load_texts("vader-movie", tiny_store.store.model_dir(tiny_store.teacher), str(vader_folder), 16)


def length_of(batch):
    """A model whose logits are a text's number of tokens, and minus that."""
    lengths = batch["attention_mask"].sum(dim=1, keepdim=True).double()
    return torch.cat([lengths, -lengths], dim=1)


def test_all_texts_are_answered_once_in_their_order(texts, tmp_path):
    order = []
    models = {
        name: Answers(texts, Runnable(lambda batch, name=name: order.append(name) or length_of(batch), None), CPU)
        for name in "ab"
    }
    told = []
    time_blocks(models, len(texts.labels), EnergyMeter(CPU, tmp_path), 0, told.append)
    encoded = texts.tokenizer(list(texts.dataset["text"]), truncation=True, max_length=16)
    expected = [len(ids) for ids in encoded["input_ids"]]
    for model in models.values():
        assert model.logits[:, 0].tolist() == expected and texts.num_tokens == sum(expected)
        assert len(model.seconds) == NUM_BLOCKS and not model.energy_j and (model.predictions == 0).all()
    assert told == pytest.approx(np.arange(1, NUM_BLOCKS + 1) / NUM_BLOCKS)
    firsts = Counter(order[-2 * NUM_BLOCKS :: 2])
    assert len(firsts) == 2  # neither is always the first


@pytest.mark.parametrize(("tick_s", "num_times"), [(1.0, 1), (0.5, 1), (0.25, 3), (0.125, 7)])
def test_a_block_is_answered_until_its_energy_can_be_read(texts, tick_s, num_times, monkeypatch):
    """By a clock that goes on by a tick whenever it is looked at: twice for the time, then once for every answer."""
    monkeypatch.setattr(end_to_end, "time", SimpleNamespace(perf_counter=itertools.count(0, tick_s).__next__))

    class Meter:
        total = 0.0

        def read_j(self):
            self.total += 1.5
            return self.total

    asked = []
    model = Answers(texts, Runnable(lambda batch: asked.append(batch) or length_of(batch), None), CPU)
    model.answer_block([0, 1, 2], Meter())
    assert len(asked) == num_times and model.energy_j == [1.5 / num_times]
    assert model.seconds == [tick_s] and len(model.logits) == 3


def test_a_regression_answers_with_its_number(texts):
    model = Answers(texts, Runnable(lambda batch: length_of(batch)[:, :1], None), CPU)
    model.answer_block([0, 1], EnergyMeter(CPU))
    assert model.predictions.tolist() == model.logits[:, 0].tolist()


def test_a_missing_task_is_said(tiny_store, tmp_path):
    found = load_texts("vader-movie", tiny_store.store.model_dir(tiny_store.teacher), str(tmp_path), 16)
    assert isinstance(found, NotRun) and found.reason


@pytest.mark.parametrize("enough_for", [0, 5], ids=["warm-up", "later"])
def test_a_model_without_enough_memory_is_left_out_and_the_others_go_on(texts, tmp_path, enough_for):
    asked = []

    def too_large(batch):
        asked.append(batch)
        if len(asked) <= enough_for:
            return length_of(batch)
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")

    models = {
        name: Answers(texts, Runnable(predict, None), CPU) for name, predict in (("a", too_large), ("b", length_of))
    }
    failed = time_blocks(models, len(texts.labels), EnergyMeter(CPU, tmp_path), 0, lambda share: None)
    assert list(failed) == ["a"] and failed["a"].reason.startswith("too little memory: [enforce fail]")
    assert len(models["b"].seconds) == NUM_BLOCKS > len(models["a"].seconds) and len(asked) == enough_for + 1
