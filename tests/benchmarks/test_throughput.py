"""Losses and bookkeeping of the trainings that are compared, on the tiny BERT."""

import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.contestants import Ours, UncachedTrainer, start
from benchmarks.peers import missing
from benchmarks.timing import NotRun
from benchmarks.training import (
    BATCH_SIZE,
    LOGIT_SIZE,
    MIN_ROUNDS,
    VARIANTS,
    WARM_UP_STEPS,
    Data,
    Variant,
    block_seconds,
    load_data,
    naive_loss,
    time_blocks,
)

ROWS = range(0, 60, 10)
OURS_IN_FLOAT32 = {name: replace(variant, bf16=False) for name, variant in VARIANTS.items() if not variant.peer}


@pytest.fixture(scope="module")
def data(tiny_bert, vader_folder):
    from mixkd.models import load_classifier, load_tokenizer
    from mixkd.prediction import predict_logits
    from mixkd.tasks import load_task, tokenize

    task, tokenizer = load_task("vader-movie", vader_folder), load_tokenizer(str(tiny_bert))
    train = tokenize(task.dataset["train"], tokenizer, 64, task.is_pair)
    teacher = load_classifier(str(tiny_bert), task.label_names)
    return Data(train, tokenizer, teacher, predict_logits(teacher, train))


def weights(training):
    return training.student.classifier.weight.detach().clone()


@pytest.mark.parametrize("name", OURS_IN_FLOAT32)
def test_the_loss_is_the_one_computed_text_by_text(name, data, tmp_path):
    training = start(OURS_IN_FLOAT32[name], data, tmp_path)
    for seed in (0, 1):
        expected = naive_loss(OURS_IN_FLOAT32[name], data, training.student, ROWS, seed)
        assert training.loss(ROWS, seed) == pytest.approx(expected, rel=1e-5)


def test_the_naive_loss_is_that_of_the_recipe(data, tmp_path):
    """Each recipe has terms that the other lacks, and mixed examples depend on the seed."""
    student = start(Variant(bf16=False), data, tmp_path).student
    losses = {
        (name, seed): naive_loss(Variant(name), data, student, ROWS, seed)
        for name in ("ft", "kd", "sm+tmkd")
        for seed in (0, 1)
    }
    assert losses["ft", 0] == losses["ft", 1] < losses["kd", 0] == losses["kd", 1]
    assert losses["ft", 0] < losses["sm+tmkd", 0] != losses["sm+tmkd", 1]
    assert naive_loss(VARIANTS["textbrewer"], data, student, ROWS, 0) == losses["kd", 0]
    assert student.training, "the student is left as the training had it"


def test_a_training_runs_the_steps_that_were_asked_for_and_goes_on(data, tmp_path):
    training = start(Variant(bf16=False), data, tmp_path)
    before = weights(training)
    for seed in (0, 1):
        ends = training.run(3, seed)
        assert len(ends) == 3 and ends == sorted(ends)
        assert not weights(training).equal(before)
        before = weights(training)


def test_the_seed_decides_the_order(data, tmp_path):
    def batches(variant, seed):
        training, met = start(variant, data, tmp_path), []
        compute_loss = training.trainer.compute_loss
        training.trainer.compute_loss = lambda model, inputs, **options: (
            met.append(inputs["rows"].tolist()) or compute_loss(model, inputs, **options)
        )
        training.run(2, seed)
        return met

    kd = Variant(bf16=False)
    assert batches(kd, 0) == batches(kd, 0) != batches(kd, 1)
    lengths = np.array([len(ids) for ids in data.train["input_ids"]])
    grouped, random = (np.ptp(lengths[batches(replace(kd, groups_lengths=on), 0)[0]]) for on in (True, False))
    assert grouped < random


def test_settings_reach_the_trainer(data, tmp_path):
    training = Ours(Variant("sm+tmkd", bf16=True, optim="adamw_torch", max_grad_norm=0.0), data, tmp_path)
    args = training.trainer.args
    assert (args.bf16, args.optim, args.max_grad_norm) == (True, "adamw_torch", 0.0)
    assert args.per_device_train_batch_size == BATCH_SIZE
    assert str(training.trainer.teacher.dtype) == "torch.bfloat16"


@pytest.mark.parametrize("on", [True, False])
def test_settings_reach_the_student_and_leave_the_shared_teacher_alone(on, data, tmp_path):
    from mixkd.cpu import CheapDropout
    from mixkd.vocabulary import UsedEmbedding

    before = data.teacher.config._attn_implementation
    training = start(Variant("sm+tmkd", bf16=False, cheap_dropout=on, used_words=on), data, tmp_path)
    assert isinstance(training.student.get_input_embeddings(), UsedEmbedding) is on
    assert any(isinstance(module, CheapDropout) for module in training.student.modules()) is on
    assert (training.trainer.teacher.config._attn_implementation == "eager") is on
    assert data.teacher.config._attn_implementation == before != "eager"


def test_without_the_cache_the_teacher_is_asked_in_every_step(data, tmp_path):
    no_cache = replace(data, teacher_logits=np.full_like(data.teacher_logits, 100.0))
    asking = start(Variant(bf16=False, caches_logits=False), no_cache, tmp_path)
    assert isinstance(asking.trainer, UncachedTrainer)
    assert asking.loss(ROWS, 0) < 10 < start(Variant(bf16=False), no_cache, tmp_path).loss(ROWS, 0)


def test_two_forwards_are_two_each_as_long_as_its_longest_text(data, tmp_path):
    masks = {}
    for one_forward in (True, False):
        training = start(Variant("sm+tmkd", bf16=False, one_forward=one_forward), data, tmp_path)
        seen = masks[one_forward] = []
        training.student.base_model.register_forward_pre_hook(
            lambda _, __, inputs, seen=seen: seen.append(inputs["attention_mask"]), with_kwargs=True
        )
        training.run(4, 0)
    assert [len(mask) for mask in masks[True]] == [2 * BATCH_SIZE] * 4
    assert [len(mask) for mask in masks[False]] == [BATCH_SIZE] * 8
    for whole, originals, mixed in zip(masks[True], masks[False][::2], masks[False][1::2], strict=True):
        for rows, part in ((whole[:BATCH_SIZE], originals), (whole[BATCH_SIZE:], mixed)):
            assert part.shape[1] == rows.sum(1).max() and part.equal(rows[:, : part.shape[1]])
    assert any(mask.shape[1] < whole.shape[1] for whole, mask in zip(masks[True], masks[False][::2], strict=True))


@pytest.mark.parametrize("name", ["textbrewer", "textbrewer-padded-to-64", "torchdistill"])
def test_a_peer_computes_the_same_loss_and_pads_as_told(name, data, tmp_path):
    if reason := missing(VARIANTS[name].peer):
        pytest.skip(reason)
    training = start(VARIANTS[name], data, tmp_path)
    assert training.loss(ROWS, 0) == pytest.approx(
        naive_loss(VARIANTS[name], data, training.student, ROWS, 0), rel=1e-5
    )
    seen, before = [], weights(training)
    training.student.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"].shape), with_kwargs=True
    )
    assert len(training.run(3, 0)) == 3
    assert not weights(training).equal(before)
    assert [rows for rows, _ in seen] == [BATCH_SIZE] * 3
    assert {length == 64 for _, length in seen} == {name == "textbrewer-padded-to-64"}
    assert list(tmp_path.iterdir()) == [], "no checkpoint is written"


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("textbrewer", "textbrewer", "peers"), ("torchdistill", "torchdistill.core", "torchdistill")],
)
def test_without_a_peer_its_cases_say_why_they_are_not_run(name, module, extra, monkeypatch, data, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"{module}.distillation", raising=False)
    outcome = start(VARIANTS[name], data, tmp_path)
    assert isinstance(outcome, NotRun) and f"pip install 'mixkd[{extra}]'" in outcome.reason


def test_without_the_assets_nothing_is_run(monkeypatch):
    from mixkd.store import UserError

    def fail(name):
        raise UserError("the index cannot be reached")

    monkeypatch.setattr("benchmarks.training.load_task", fail)
    assert load_data() == NotRun("the index cannot be reached")


def test_the_loss_would_be_another_without_its_distillation(monkeypatch, tiny_bert, vader_folder, tmp_path):
    from mixkd.tasks import load_task

    for name, value in {"load_task": lambda name: load_task(name, vader_folder), "TEACHER": str(tiny_bert)}.items():
        monkeypatch.setattr(f"benchmarks.training.{name}", value)
    data = load_data()
    assert np.square(data.teacher_logits).mean() == pytest.approx(LOGIT_SIZE**2, rel=1e-4)
    student = start(Variant(bf16=False), data, tmp_path).student
    with_it, without = (naive_loss(Variant(name), data, student, ROWS, 0) for name in ("kd", "ft"))
    assert with_it > 1.05 * without


class Steady:
    """A training whose steps take `step_s`, and the first of every block ten times as long."""

    block_steps = 4

    def __init__(self, name, step_s, log):
        self.name, self.step_s, self.log = name, step_s, log

    def run(self, num_steps, seed):
        self.log.append((self.name, seed))
        return [100.0 + 10 * self.step_s + self.step_s * step for step in range(num_steps)]


def test_the_first_step_of_a_block_is_not_timed():
    class Slow(Steady):
        def run(self, num_steps, seed):
            assert num_steps == WARM_UP_STEPS + 4
            return [7.0 + 2.0 * step for step in range(num_steps)]

    assert block_seconds(Slow("slow", 0, []), 0) == pytest.approx(2.0)
    assert WARM_UP_STEPS > 0


def test_every_round_times_all_trainings_in_changing_order_with_the_same_seed():
    log = []
    trainings = {name: Steady(name, step_s, log) for name, step_s in (("a", 1.0), ("b", 0.25))}
    shares = []
    seconds = time_blocks(trainings, 0.02, seed=3, report=shares.append)
    warm_up, timed = log[:2], log[2:]
    assert [name for name, _ in warm_up] == ["a", "b"]
    rounds = list(zip(timed[::2], timed[1::2], strict=True))
    assert len(rounds) >= MIN_ROUNDS and len(seconds["a"]) == len(seconds["b"]) == len(rounds)
    assert all({name for name, _ in both} == {"a", "b"} and both[0][1] == both[1][1] for both in rounds)
    assert len({both[0][1] for both in rounds}) == len(rounds), "every round has its own seed"
    assert set(Counter(both[0][0] for both in rounds)) == {"a", "b"}
    assert seconds["a"] == pytest.approx(1.0) and seconds["b"] == pytest.approx(0.25)
    assert shares == sorted(shares) and shares[-1] == 1.0


@pytest.mark.parametrize("enough_for", [0, 3], ids=["warm-up", "later"])
def test_a_training_without_enough_memory_is_left_out_and_the_others_go_on(enough_for):
    class Large(Steady):
        def run(self, num_steps, seed):
            if len(self.log) == enough_for:
                raise MemoryError
            return super().run(num_steps, seed)

    trainings = {"large": Large("large", 1.0, []), "small": Steady("small", 1.0, [])}
    seconds = time_blocks(trainings, 1e-9, seed=0, report=lambda share: None)
    assert seconds["large"] == NotRun("too little memory: MemoryError") and len(seconds["small"]) == MIN_ROUNDS
    alone = {"large": Large("large", 1.0, [("large", 0)] * enough_for)}
    assert set(time_blocks(alone, 1e9, seed=0, report=lambda share: None)) == {"large"}  # and at once


def test_at_least_some_rounds_are_run_however_short_the_time():
    seconds = time_blocks({"a": Steady("a", 1.0, [])}, 1e-9, seed=0, report=lambda share: None)
    assert len(seconds["a"]) == MIN_ROUNDS


def test_peers_train_kd_in_float32_without_what_makes_a_step_cheap():
    for name in ("textbrewer", "textbrewer-padded-to-64", "torchdistill"):
        variant = VARIANTS[name]
        assert (variant.recipe, variant.bf16, variant.groups_lengths, variant.caches_logits) == ("kd",) + (False,) * 3
