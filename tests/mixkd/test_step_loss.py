"""The loss and the gradients of a step are those of the naive one."""

import copy

import numpy as np
import pytest
import torch
from naive_step import (
    assert_same_gradients,
    logits_alone,
    make_dataset,
    make_model,
    make_trainer,
    mixed_examples,
    reference,
    spy_of,
    train,
)

from mixkd.recipes import RECIPES, recipe

CASES = [
    *((name, {}) for name in RECIPES),
    ("sm+tmkd+kd", {"kd_weight": 0.7, "sm_weight": 0.2, "tmkd_weight": 1.5, "mix_ratio": 2.5, "beta_alpha": 0.4}),
    ("sm+tmkd+kd", {"distance": "kl", "temperature": 3.0, "mix_ratio": 0.3}),
    ("pkd", {"pkd_weight": 3.0, "pkd_layers": "last", "pkd_reduction": "mean", "pkd_normalize": False}),
    ("pkd", {"pkd_weight": 3.0, "pkd_layers": (3, 1)}),
    ("kd", {"mle_weight": 0.0, "distance": "kl", "temperature": 2.0}),
]


@pytest.mark.parametrize(("is_pair", "num_labels"), [(False, 2), (True, 3)])
@pytest.mark.parametrize(("name", "changes"), CASES)
def test_one_step_is_method_s_loss(tmp_path, tokenizer, name, changes, is_pair, num_labels):
    dataset = make_dataset(is_pair=is_pair, num_labels=num_labels)
    student, teacher = make_model(2, num_labels), make_model(4, num_labels, seed=1)
    chosen = recipe(name, **changes)
    gradients, losses = train(tmp_path, chosen, dataset, tokenizer, student, teacher)
    mixed = mixed_examples(dataset, chosen)
    expected_loss, expected = reference(student, teacher, dataset, chosen, range(len(dataset)), mixed)
    assert len(gradients) == 1
    assert_same_gradients(gradients[0], expected)
    assert losses == pytest.approx([expected_loss], rel=1e-4)


@pytest.mark.parametrize("name", ["ft", "sm+tmkd+kd"])
def test_one_step_of_a_regression(tmp_path, tokenizer, name):
    """STS-B: numbers in place of classes, squared error in place of cross-entropy, also of mixed numbers."""
    dataset, student, teacher = make_dataset(num_labels=1), make_model(2, 1), make_model(4, 1, seed=1)
    chosen = recipe(name, mix_ratio=1.5)
    gradients, losses = train(tmp_path, chosen, dataset, tokenizer, student, teacher)
    mixed = mixed_examples(dataset, chosen)
    expected_loss, expected = reference(student, teacher, dataset, chosen, range(len(dataset)), mixed)
    assert_same_gradients(gradients[0], expected)
    assert losses == pytest.approx([expected_loss], rel=1e-4)


def test_the_reference_notices_a_wrong_partner_and_a_wrong_weight(tmp_path, tokenizer):
    dataset, student, teacher, chosen = make_dataset(), make_model(), make_model(4, seed=1), recipe("sm+tmkd")
    gradients, _ = train(tmp_path, chosen, dataset, tokenizer, student, teacher)
    mixed = mixed_examples(dataset, chosen)
    (row, partner, lam), *rest = mixed
    other = next(j for j in range(len(dataset)) if j not in (row, partner))
    for wrong_recipe, wrong_mixed in [
        (recipe("sm+tmkd", tmkd_weight=0.9), mixed),
        (chosen, [(row, other, lam), *rest]),
    ]:
        _, expected = reference(student, teacher, dataset, wrong_recipe, range(len(dataset)), wrong_mixed)
        with pytest.raises(AssertionError):
            assert_same_gradients(gradients[0], expected)


@pytest.mark.parametrize(
    ("changes", "strategy"),
    [({"mix_ratio": 0.3}, "random"), ({"partner": "batch", "mix_ratio": 2.5}, "random"),
     ({"lam_per": "batch"}, "group_by_length"), ({"mix_ratio": 1.5}, "group_by_length"),
     ({"level": 1, "mix_ratio": 0.3}, "group_by_length")],
    ids=str,
)  # fmt: skip
def test_accumulation_does_not_change_gradients(tmp_path, tokenizer, changes, strategy):
    """Steps of 8 and a last one of 5 examples, split into micro-batches of 8, 2 and 1."""
    dataset, student, teacher = make_dataset(13), make_model(1), make_model(2, seed=1)
    chosen = recipe("sm+tmkd+kd", **changes)
    results = {
        steps: train(tmp_path, chosen, dataset, tokenizer, student, teacher, num_train_epochs=2,
                     gradient_accumulation_steps=steps, per_device_train_batch_size=8 // steps,
                     train_sampling_strategy=strategy)
        for steps in (1, 4, 8)
    }  # fmt: skip
    gradients, losses = results[1]
    assert len(gradients) == len(losses) == 4
    for steps in (4, 8):
        assert len(results[steps][0]) == 4
        for found, expected in zip(results[steps][0], gradients, strict=True):
            assert_same_gradients(found, expected)
        assert results[steps][1] == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize(
    ("strategy", "ratio"), [("random", 0.2), ("group_by_length", 0.2), ("group_by_length", 1.5), ("sequential", 1.5)]
)
def test_steps_of_an_epoch_add_up_to_the_reference(tmp_path, tokenizer, strategy, ratio):
    """Also with a last partial step, with a ratio that leaves batches without any mixed example, and once more."""
    dataset, student, teacher = make_dataset(11), make_model(), make_model(4, seed=1)
    chosen = recipe("sm+tmkd+kd", mix_ratio=ratio)
    gradients, _ = train(tmp_path, chosen, dataset, tokenizer, student, teacher, num_train_epochs=2,
                         per_device_train_batch_size=2, gradient_accumulation_steps=2,
                         train_sampling_strategy=strategy)  # fmt: skip
    for epoch in range(2):
        mixed = mixed_examples(dataset, chosen, epoch=epoch)
        _, expected = reference(student, teacher, dataset, chosen, range(11), mixed)
        steps = gradients[3 * epoch : 3 * epoch + 3]
        total = {name: sum(w * step[name] for w, step in zip((4, 4, 3), steps, strict=True)) / 11 for name in expected}
        assert_same_gradients(total, expected)


def test_second_epoch_is_mixed_anew(tmp_path, tokenizer):
    dataset, student, chosen = make_dataset(), make_model(), recipe("sm")
    gradients, _ = train(tmp_path, chosen, dataset, tokenizer, student, num_train_epochs=3)
    for epoch, found in enumerate(gradients):
        mixed = mixed_examples(dataset, chosen, epoch=epoch)
        assert_same_gradients(found, reference(student, None, dataset, chosen, range(7), mixed)[1])


def test_dropout_of_the_teacher_is_off(tmp_path, tokenizer):
    """With dropout in the teacher alone, the step still equals the reference in eval mode."""
    dataset, student, teacher = make_dataset(), make_model(), make_model(4, seed=1, dropout=0.5)
    chosen = recipe("sm+tmkd+kd")
    gradients, _ = train(tmp_path, chosen, dataset, tokenizer, student, teacher.train())
    _, expected = reference(student, teacher, dataset, chosen, range(7), mixed_examples(dataset, chosen))
    assert_same_gradients(gradients[0], expected)


def test_given_teacher_logits_are_taken_row_by_row(tmp_path, tokenizer):
    """The kd term is fed logits that no model gives; shuffled and length-grouped steps must keep them aligned."""
    dataset, student = make_dataset(9), make_model()
    targets = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32) * 5
    chosen = recipe("kd", mle_weight=0.0)
    for strategy in ("random", "group_by_length"):
        gradients, _ = train(tmp_path, chosen, dataset, tokenizer, student, per_device_train_batch_size=3,
                             train_sampling_strategy=strategy, trainer_options={"teacher_logits": targets})  # fmt: skip
        copied = copy.deepcopy(student).eval()
        rows = (logits_alone(copied, dataset[row]) for row in range(9))
        loss = sum(((z - torch.tensor(t)) ** 2).mean() for z, t in zip(rows, targets, strict=True)) / 9
        loss.backward()
        expected = {name: p.grad for name, p in copied.named_parameters()}
        assert_same_gradients({name: sum(step[name] for step in gradients) / 3 for name in expected}, expected)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_given_teacher_states_are_taken_row_by_row(tmp_path, tokenizer, strategy):
    """The pkd term is fed states that no model gives, from a file; a step must fetch those of its own rows."""
    dataset, student = make_dataset(9), make_model(3)
    states = np.random.default_rng(0).normal(size=(9, 2, 32)).astype(np.float32)
    np.save(tmp_path / "states.npy", states)
    options = {"teacher_states": np.load(tmp_path / "states.npy", mmap_mode="r")}
    chosen = recipe("pkd", mle_weight=0.0, kd_weight=0.0, pkd_weight=2.0, pkd_normalize=False)
    gradients, _ = train(tmp_path, chosen, dataset, tokenizer, student, make_model(6, seed=1), options,
                         per_device_train_batch_size=3, train_sampling_strategy=strategy)  # fmt: skip
    copied, total = copy.deepcopy(student).eval(), 0.0
    for example, target in zip(dataset, states, strict=True):
        inputs = {name: torch.tensor([example[name]]) for name in ("input_ids", "token_type_ids")}
        hidden = copied.bert(**inputs, output_hidden_states=True).hidden_states
        total = total + sum(((hidden[layer][0, 0] - torch.tensor(target[layer - 1])) ** 2).sum() for layer in (1, 2))
    (2.0 * total / 9).backward()
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in copied.named_parameters()}
    assert_same_gradients({name: sum(step[name] for step in gradients) / 3 for name in grads}, grads)


# ---- precision ----


def test_teacher_in_bf16(tmp_path, tokenizer):
    dataset, student, teacher = make_dataset(), make_model(), make_model(4, seed=1)
    chosen, options = recipe("tmkd"), {"teacher_dtype": torch.bfloat16}
    trainer = make_trainer(tmp_path, chosen, dataset, tokenizer, student, teacher, options)
    assert trainer.teacher.dtype == torch.bfloat16 and teacher.dtype == student.dtype == torch.float32
    trainer.train()
    expected_loss, expected = reference(student, teacher, dataset, chosen, range(7), mixed_examples(dataset, chosen))
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    assert losses == pytest.approx([expected_loss], rel=0.05)
    assert_same_gradients(spy_of(trainer).gradients[0], expected, rtol=0.05)


@pytest.mark.parametrize("name", ["ft", "sm+tmkd+kd"])
def test_bf16_autocast_on_the_cpu(tmp_path, tokenizer, name):
    dataset, student, teacher = make_dataset(is_pair=True, num_labels=3), make_model(2, 3), make_model(4, 3, seed=1)
    chosen = recipe(name)
    seen = []
    trainer = make_trainer(tmp_path, chosen, dataset, tokenizer, student, teacher, bf16=True)
    student.bert.encoder.layer[0].attention.self.query.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    if trainer.teacher is not None:
        trainer.teacher.register_forward_hook(lambda _, __, out: seen.append(out.logits.dtype))
    trainer.train()
    assert set(seen) == ({torch.bfloat16} if name == "ft" else {torch.bfloat16, torch.float32})
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    expected_loss, expected = reference(student, teacher, dataset, chosen, range(7), mixed_examples(dataset, chosen))
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    assert losses == pytest.approx([expected_loss], rel=0.05)
    assert_same_gradients(spy_of(trainer).gradients[0], expected, rtol=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("is_pair", [False, True])
def test_cuda_equals_the_cpu(tmp_path, tokenizer, bf16, is_pair):
    """One step of the full recipe: fp32 within rounding, bf16 within its precision."""
    dataset = make_dataset(16, is_pair=is_pair)
    chosen = recipe("sm+tmkd+kd", mix_ratio=1.5)
    results = []
    for use_cpu in (True, False):
        student, teacher = make_model(), make_model(4, seed=1)
        options = {"teacher_dtype": torch.bfloat16 if bf16 and not use_cpu else torch.float32}
        results.append(train(tmp_path, chosen, dataset, tokenizer, student, teacher, options, use_cpu=use_cpu,
                             bf16=bf16 and not use_cpu, per_device_train_batch_size=4, gradient_accumulation_steps=2,
                             train_sampling_strategy="group_by_length"))  # fmt: skip
        assert next(student.parameters()).is_cuda != use_cpu
    (cpu, cpu_losses), (cuda, cuda_losses) = results
    assert len(cpu) == len(cuda) == 2
    for found, expected in zip(cuda, cpu, strict=True):
        assert_same_gradients(found, expected, rtol=0.1 if bf16 else 1e-3)
    assert cuda_losses == pytest.approx(cpu_losses, rel=0.05 if bf16 else 1e-4)
