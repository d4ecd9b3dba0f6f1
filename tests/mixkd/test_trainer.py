"""One forward each of student and teacher, what is refused, and what makes it a Trainer."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from naive_step import logits_alone, make_dataset, make_model, make_trainer, train
from tiny import tiny_config
from transformers import BertForSequenceClassification, TrainingArguments

import mixkd
from mixkd.forward import mixed_inputs
from mixkd.mixup import EpochMixup
from mixkd.prediction import predict_logits
from mixkd.recipes import recipe
from mixkd.store import UserError


def test_mixed_rows_at_lam_one_are_the_originals_exactly(tmp_path, tokenizer, monkeypatch):
    """Every text mixed with a no longer one at lam = 1: the student sees each original twice, bit for bit."""
    dataset, student = make_dataset(is_pair=True), make_model()
    draw = EpochMixup.of_rows
    shortest = int(np.argmin(dataset["length"]))

    def pairs(self, rows):
        drawn = draw(self, rows)
        return drawn._replace(partner=np.full_like(drawn.partner, shortest), lam=np.ones_like(drawn.lam))

    monkeypatch.setattr(EpochMixup, "of_rows", pairs)
    seen = []
    student.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs), with_kwargs=True)
    student.register_forward_hook(lambda _, __, outputs: seen.append(outputs.logits))
    train(tmp_path, recipe("sm"), dataset, tokenizer, student)
    inputs, logits = seen
    for tensor in inputs.values():
        originals, mixed = tensor.chunk(2)
        assert torch.equal(originals, mixed)
    originals, mixed = logits.chunk(2)
    assert len(originals) == len(dataset)
    torch.testing.assert_close(originals, mixed, rtol=1e-5, atol=1e-6)  # a matrix product may round rows differently


def test_one_forward_of_student_and_teacher_per_micro_batch(tmp_path, tokenizer):
    dataset, student, teacher = make_dataset(8), make_model(), make_model(4, seed=1)
    calls = {"student": [], "teacher": []}

    def note(name):
        def hook(module, _, inputs, outputs):
            calls[name].append((inputs, outputs.logits, module.training))

        return hook

    trainer = make_trainer(tmp_path, recipe("sm+tmkd", mix_ratio=2), dataset, tokenizer, student, teacher,
                           per_device_train_batch_size=4)  # fmt: skip
    student.register_forward_hook(note("student"), with_kwargs=True)
    trainer.teacher.register_forward_hook(note("teacher"), with_kwargs=True)
    trainer.train()
    assert [len(logits) for _, logits, _ in calls["student"]] == [12, 12]  # 4 originals and 8 mixed
    assert [len(logits) for _, logits, _ in calls["teacher"]] == [8, 8]
    assert all(training for *_, training in calls["student"])
    for (inputs, logits, training), (student_inputs, *_) in zip(calls["teacher"], calls["student"], strict=True):
        assert not training and not logits.requires_grad
        assert torch.equal(inputs["attention_mask"], student_inputs["attention_mask"][4:])
        assert not torch.equal(inputs["inputs_embeds"], student_inputs["inputs_embeds"][4:])  # its own table


@pytest.mark.parametrize(
    ("layers", "teacher_layers", "level", "expected"),
    [(2, 4, 1, 2), (2, 4, 2, 4), (4, 4, 3, 3), (3, 6, 2, 4), (4, 2, 1, 1), (4, 2, 4, 2)],
)
def test_the_teacher_is_mixed_at_the_same_relative_depth(
    tmp_path, tokenizer, monkeypatch, layers, teacher_layers, level, expected
):
    levels = []

    def spy(network, level, *args):
        levels.append((network.config.num_hidden_layers, level))
        return mixed_inputs(network, level, *args)

    monkeypatch.setattr("mixkd.trainer.mixed_inputs", spy)
    trainer = make_trainer(tmp_path, recipe("sm+tmkd", level=level), make_dataset(), tokenizer, make_model(layers),
                           make_model(teacher_layers, seed=1))  # fmt: skip
    trainer.train()
    assert levels == [(teacher_layers, expected), (layers, level)]


def test_teacher_is_no_part_of_the_student_and_is_not_changed(tmp_path, tokenizer):
    dataset, student, teacher = make_dataset(), make_model(dropout=0.1), make_model(4, seed=1, dropout=0.1).train()
    before, keys = copy.deepcopy(teacher.state_dict()), set(student.state_dict())
    start = copy.deepcopy(student.state_dict())
    trainer = make_trainer(tmp_path, recipe("sm+tmkd+kd"), dataset, tokenizer, student, teacher,
                           learning_rate=1e-2, num_train_epochs=2)  # fmt: skip
    trainer.train()
    assert set(trainer.model.state_dict()) == keys
    assert not trainer.teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in student.parameters()}
    assert any(not torch.equal(value, start[name]) for name, value in student.state_dict().items())
    trainer.save_model(tmp_path / "saved")
    saved = BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert set(saved.state_dict()) == keys


# ---- what is refused ----


@pytest.mark.parametrize("name", ["kd", "tmkd", "sm+tmkd+kd"])
def test_missing_or_unsuitable_teacher(tmp_path, tokenizer, name):
    with pytest.raises(UserError, match="teacher"):
        make_trainer(tmp_path, recipe(name), make_dataset(), tokenizer, make_model())
    with pytest.raises(UserError, match="3 classes and the student 2"):
        make_trainer(tmp_path, recipe(name), make_dataset(), tokenizer, make_model(), make_model(4, 3))


def test_what_cannot_be_distilled_is_refused(tmp_path, tokenizer):
    def refused(message, name, dataset, *models, options=None, **changes):
        with pytest.raises(UserError, match=message):
            make_trainer(tmp_path, recipe(name, **changes), dataset, tokenizer, *models, options)

    plain = make_dataset()
    refused("level 3 is above the student's 2 layers", "sm", plain, make_model(2), level=3)
    numbers = make_dataset(num_labels=1), make_model(2, 1), make_model(2, 1)
    refused("regression has no class probabilities.*distance=mse", "kd", *numbers, distance="kl")
    narrow = BertForSequenceClassification(tiny_config(hidden_size=16, num_hidden_layers=2))
    refused("the teacher's is 32 and the student's 16; choose recipe kd", "pkd", plain, narrow, make_model(4))
    states = {"teacher_states": np.zeros((6, 1, 32), dtype=np.float32)}
    refused(
        r"teacher_states has shape \(6, 1, 32\).*\(7, 1, 32\)",
        "pkd",
        plain,
        make_model(2),
        make_model(4),
        options=states,
    )
    refused("distils from a teacher", "pkd", plain, make_model(2), None, options={"teacher_logits": np.zeros((7, 2))})


@pytest.mark.parametrize("shape", [(8, 2), (10, 2), (9, 3)])
def test_teacher_logits_of_another_shape_are_refused(tmp_path, tokenizer, shape):
    options = {"teacher_logits": np.zeros(shape, dtype=np.float32)}
    with pytest.raises((UserError, ValueError), match=str(shape[0])):
        make_trainer(tmp_path, recipe("kd"), make_dataset(9), tokenizer, make_model(), trainer_options=options)


def test_laws_of_the_whole_batch_need_one_process(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    for changes in ({"partner": "batch"}, {"lam_per": "batch"}):
        with pytest.raises(UserError, match="choose partner=uniform and lam_per=example"):
            make_trainer(tmp_path, recipe("sm", **changes), make_dataset(), tokenizer, make_model())
    make_trainer(tmp_path, recipe("kd"), make_dataset(), tokenizer, make_model(), make_model(seed=1))


def test_two_gpus_in_one_process_are_refused(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    with pytest.raises(UserError, match="sees 2 GPUs; start one process per GPU with `torchrun --nproc_per_node 2"):
        make_trainer(tmp_path, recipe("ft"), make_dataset(), tokenizer, make_model())


# ---- as a Trainer ----


def test_public_api_as_documented(tmp_path, tiny_bert, tokenizer):
    """The Python example of ARCHITECTURE.md, with an evaluation per epoch."""
    from mixkd.models import load_classifier

    dataset = make_dataset(32)
    teacher = load_classifier(str(tiny_bert), ["negative", "positive"])
    student = mixkd.build_student(teacher, 2)
    training_arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=2, eval_strategy="epoch", report_to="none", use_cpu=True, save_strategy="no",
        learning_rate=1e-3, disable_tqdm=True,
    )  # fmt: skip
    trainer = mixkd.DistillationTrainer(
        model=student,
        teacher=teacher,
        recipe=mixkd.recipe("sm+tmkd"),
        args=training_arguments,
        train_dataset=dataset,
        eval_dataset=dataset,
    )
    trainer.train()
    assert trainer.state.global_step == 8
    losses = [float(entry["eval_loss"]) for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 2
    logits = torch.tensor(predict_logits(student, dataset))
    assert losses[-1] == pytest.approx(F.cross_entropy(logits, torch.tensor(dataset["label"])).item(), rel=1e-5)


def test_evaluate_and_predict(tmp_path, tokenizer):
    """Evaluation is cross-entropy in eval mode, whatever the recipe and the batch size; logits keep their order."""
    dataset, other = make_dataset(11), make_dataset(10, seed=1)
    student = make_model(dropout=0.3)
    trainer = make_trainer(tmp_path, recipe("sm+tmkd+kd"), dataset, tokenizer, student, make_model(4, seed=1),
                           trainer_options={"eval_dataset": other}, per_device_eval_batch_size=4)  # fmt: skip
    alone = torch.stack([logits_alone(copy.deepcopy(student).eval(), example) for example in other]).detach()
    expected = F.cross_entropy(alone, torch.tensor(other["label"])).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(trainer.predict(other).predictions, alone, rtol=1e-4, atol=1e-5)


def test_a_model_without_token_types(tmp_path, tokenizer):
    """DistilBERT takes no segment ids; texts alone decide."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=32, dim=32, n_layers=4, n_heads=2, hidden_dim=64, max_position_embeddings=64,
                              dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)  # fmt: skip
    teacher = DistilBertForSequenceClassification(config)
    student = mixkd.build_student(teacher, 2, "skip")
    dataset = make_dataset().remove_columns("token_type_ids")
    chosen = recipe("sm+tmkd+kd")
    gradients, _ = train(tmp_path, chosen, dataset, tokenizer, student, teacher)
    assert sum(gradient.abs().sum() for gradient in gradients[0].values()) > 0
