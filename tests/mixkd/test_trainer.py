"""The step against a naive reference: every example alone, one forward per term, sums in Python."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from tiny import tiny_config
from transformers import BertForSequenceClassification, TrainerCallback, TrainingArguments

import mixkd
from mixkd.forward import mixed_inputs
from mixkd.mixup import EpochMixup, epoch_order
from mixkd.prediction import predict_logits
from mixkd.recipes import RECIPES, recipe
from mixkd.store import UserError
from mixkd.trainer import DistillationTrainer

CLS, SEP = 2, 3


def make_dataset(num_examples=7, is_pair=False, num_labels=2, seed=0):
    """Tokenised random texts of 3 to 14 tokens, with columns that no model takes; one label is a number in [0, 5]."""
    rng = np.random.default_rng(seed)
    columns = {name: [] for name in ("input_ids", "token_type_ids", "attention_mask", "label", "length", "example_id")}
    for number in range(num_examples):
        first, second = (rng.integers(5, 29, rng.integers(1, 6)).tolist() for _ in range(2))
        ids, types = [CLS, *first, SEP], [0] * (len(first) + 2)
        if is_pair:
            ids, types = [*ids, *second, SEP], types + [1] * (len(second) + 1)
        label = float(rng.uniform(0, 5)) if num_labels == 1 else int(rng.integers(num_labels))
        values = (ids, types, [1] * len(ids), label, len(ids), f"id {number}")
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    return Dataset.from_dict(columns)


def make_model(num_layers=2, num_labels=2, seed=0, dropout=0.0):
    torch.manual_seed(seed)
    config = tiny_config(num_hidden_layers=num_layers, num_labels=num_labels, hidden_dropout_prob=dropout,
                         attention_probs_dropout_prob=dropout, initializer_range=0.3)  # fmt: skip
    return BertForSequenceClassification(config)


class Spy(TrainerCallback):
    """Gradients and rows of every optimizer step."""

    def __init__(self):
        self.gradients = []

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        self.gradients.append({name: p.grad.cpu().clone() for name, p in model.named_parameters()})


def make_trainer(tmp_path, chosen, dataset, tokenizer, student, teacher=None, trainer_options=None, **arguments):
    settings = {
        "output_dir": str(tmp_path / "trainer"), "per_device_train_batch_size": len(dataset), "num_train_epochs": 1,
        "learning_rate": 0.0, "max_grad_norm": 0, "seed": 1, "data_seed": 5, "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    args = TrainingArguments(**(settings | arguments))
    return DistillationTrainer(
        student,
        chosen,
        args,
        dataset,
        teacher=teacher,
        processing_class=tokenizer,
        callbacks=[Spy()],
        **(trainer_options or {}),
    )


def spy_of(trainer):
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, Spy))


def train(*args, **kwargs):
    """Gradients and logged losses of every optimizer step."""
    trainer = make_trainer(*args, **kwargs)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return spy_of(trainer).gradients, [float(loss) for loss in losses]


# ---- the reference ----


def logits_alone(model, example, partner=None, lam=1.0):
    """Logits of one example, or of one mixed pair, computed without padding."""
    pad_to = max(len(e["input_ids"]) for e in (example, partner or example))
    longer = partner if partner and len(partner["input_ids"]) > len(example["input_ids"]) else example
    table = model.bert.embeddings.word_embeddings

    def embed(e):
        return table(torch.tensor([e["input_ids"] + [0] * (pad_to - len(e["input_ids"]))]))

    mixed = embed(example) if partner is None else lam * embed(example) + (1 - lam) * embed(partner)
    return model(inputs_embeds=mixed, token_type_ids=torch.tensor([longer["token_type_ids"]])).logits[0]


def distance(student, teacher, chosen):
    if chosen.distance == "mse":
        return ((student - teacher) ** 2).sum() / len(student)
    p, q = (torch.exp(z / chosen.temperature - torch.logsumexp(z / chosen.temperature, 0)) for z in (teacher, student))
    return chosen.temperature**2 * (p * (p.log() - q.log())).sum()


def pkd(student, teacher, example, chosen):
    """Sum over the inner layers of the squared distance of normalised [CLS] states: 4 -> 2 maps layer 2 onto 1."""
    inputs = {name: torch.tensor([example[name]]) for name in ("input_ids", "token_type_ids")}
    mapped = {"skip": {1: 2}, "last": {1: 3}, (3, 1): {1: 3, 2: 1}}[chosen.pkd.layers]
    own, others = (m(**inputs, output_hidden_states=True).hidden_states for m in (student, teacher))
    total, count = torch.zeros(()), 0
    for own_layer, other_layer in mapped.items():
        a, b = own[own_layer][0, 0], others[other_layer][0, 0].detach()
        if chosen.pkd.normalize:
            a, b = a / (a * a).sum().sqrt(), b / (b * b).sum().sqrt()
        for x, y in zip(a, b, strict=True):
            total, count = total + (x - y) ** 2, count + 1
    return total if chosen.pkd.reduction == "sum" else total / count


def label_term(logits, *shares):
    """Cross-entropy with a mixture of classes, or the squared error to a mixture of numbers: (share, label), ..."""
    if len(logits) == 1:
        return (logits[0] - sum(share * label for share, label in shares)) ** 2
    return -sum(share * F.log_softmax(logits, 0)[label] for share, label in shares)


def reference(student, teacher, dataset, chosen, rows, mixed):
    """METHOD's L over the originals `rows` and the `mixed` (row, partner, lam): its value and gradients."""
    student, teacher = copy.deepcopy(student).eval(), teacher and copy.deepcopy(teacher).eval()
    total = torch.zeros(())
    for row in rows:
        example = dataset[row]
        logits = logits_alone(student, example)
        total = total + chosen.mle_weight * label_term(logits, (1, example["label"]))
        if chosen.pkd_weight:
            total = total + chosen.pkd_weight * pkd(student, teacher, example, chosen)
        if chosen.kd_weight:
            target = teacher(input_ids=torch.tensor([example["input_ids"]]),
                             token_type_ids=torch.tensor([example["token_type_ids"]])).logits[0]  # fmt: skip
            total = total + chosen.kd_weight * distance(logits, target.detach(), chosen)
    for row, partner, lam in mixed:
        examples = dataset[row], dataset[partner]
        logits = logits_alone(student, *examples, lam)
        if chosen.sm_weight:
            labels = (lam, examples[0]["label"]), (1 - lam, examples[1]["label"])
            total = total + chosen.sm_weight / chosen.mixup.mix_ratio * label_term(logits, *labels)
        if chosen.tmkd_weight:
            target = logits_alone(teacher, *examples, lam).detach()
            total = total + chosen.tmkd_weight / chosen.mixup.mix_ratio * distance(logits, target, chosen)
    total = total / len(rows)
    total.backward()
    return total.item(), {name: p.grad for name, p in student.named_parameters()}


def mixed_examples(dataset, chosen, seed=5, epoch=0):
    """Every mixed example of an epoch: (row, partner, lam)."""
    if not chosen.uses_mixup:
        return []
    pairs = EpochMixup(len(dataset), seed, epoch, chosen.mixup).all
    return [(int(i), int(j), float(lam)) for i, j, lam in zip(*pairs, strict=True)]


def assert_same_gradients(found, expected, rtol=1e-4):
    """Equal up to a tolerance relative to the largest entry of all gradients."""
    assert found.keys() == expected.keys()
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= rtol * scale, name


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


def record_pairs(trainer):
    """Makes the trainer note every optimizer step's mixed examples: global step -> those of its micro-batches."""
    seen, mixup = {}, trainer._mixup

    def spy(rows):
        drawn = mixup(rows)
        seen[trainer.state.global_step] = [[column.tolist() for column in pairs] for pairs in drawn]
        return drawn

    trainer._mixup = spy
    return seen


@pytest.mark.parametrize(("strategy", "accumulation"), [("random", 1), ("group_by_length", 2)])
def test_a_resumed_run_meets_the_same_mixed_examples(tmp_path, tokenizer, strategy, accumulation):
    """Stopped within the first epoch, at its end, and within the second: 2 epochs of 4 steps, the last one shorter."""
    dataset, chosen = make_dataset(14), recipe("sm", mix_ratio=1.5)
    options = {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation,
               "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1, "save_only_model": False,
               "train_sampling_strategy": strategy}  # fmt: skip
    trainer = make_trainer(tmp_path, chosen, dataset, tokenizer, make_model(1), **options)
    expected = record_pairs(trainer)
    trainer.train()
    assert list(expected) == list(range(8))
    assert len({str(pairs) for pairs in expected.values()}) == 8
    for stopped_after in (2, 4, 7):
        resumed = make_trainer(tmp_path, chosen, dataset, tokenizer, make_model(1), **options)
        seen = record_pairs(resumed)
        resumed.train(resume_from_checkpoint=str(tmp_path / "trainer" / f"checkpoint-{stopped_after}"))
        assert seen == {step: pairs for step, pairs in expected.items() if step >= stopped_after}


@pytest.mark.parametrize("other", [{"per_device_train_batch_size": 2}, {"data_seed": 6}], ids=str)
def test_a_second_training_draws_by_its_own_arguments(tmp_path, tokenizer, other):
    """As a search over hyper-parameters does: one trainer, another seed or batch size."""
    dataset, options = make_dataset(8), {"train_sampling_strategy": "group_by_length"}
    first = {"per_device_train_batch_size": 4, "data_seed": 5}
    trainer = make_trainer(tmp_path, recipe("sm"), dataset, tokenizer, make_model(1), **first, **options)
    trainer.train()
    seen = record_pairs(trainer)
    for name, value in other.items():
        setattr(trainer.args, name, value)
    trainer._train_batch_size = trainer.args.train_batch_size  # what Trainer sets where it searches
    trainer.train()
    fresh = make_trainer(tmp_path, recipe("sm"), dataset, tokenizer, make_model(1), **(first | other), **options)
    expected = record_pairs(fresh)
    fresh.train()
    assert seen == expected and len(seen) in (2, 4)


@pytest.mark.parametrize(
    ("changes", "strategy"),
    [({"mix_ratio": 1.5}, "group_by_length"), ({"partner": "batch"}, "group_by_length"),
     ({"lam_per": "batch"}, "group_by_length"), ({"mix_ratio": 1.5}, "random")],
    ids=str,
)  # fmt: skip
def test_which_mixed_examples_a_step_meets(tmp_path, tokenizer, changes, strategy):
    """Those of its rows; with batches by length those of similar length, unless the law is one of the batch."""
    dataset, chosen = make_dataset(26), recipe("sm", **changes)
    trainer = make_trainer(tmp_path, chosen, dataset, tokenizer, make_model(1), num_train_epochs=2,
                           per_device_train_batch_size=2, gradient_accumulation_steps=2,
                           train_sampling_strategy=strategy)  # fmt: skip
    seen, lengths = record_pairs(trainer), np.array(dataset["length"])
    trainer.train()
    for epoch in range(2):
        order = epoch_order(26, lengths if strategy == "group_by_length" else None, 4, 5, epoch)
        draws = EpochMixup(26, 5, epoch, chosen.mixup)
        expected = [draws.of_rows(order[start : start + 4]) for start in range(0, 26, 4)]
        if strategy == "group_by_length" and "mix_ratio" in changes:
            expected = draws.by_length(lengths, order, 4)
        for step, pairs in enumerate(expected):
            found = [sum(column, []) for column in zip(*seen[7 * epoch + step], strict=True)]
            assert found == [column.tolist() for column in pairs]


def test_second_epoch_is_mixed_anew(tmp_path, tokenizer):
    dataset, student, chosen = make_dataset(), make_model(), recipe("sm")
    gradients, _ = train(tmp_path, chosen, dataset, tokenizer, student, num_train_epochs=3)
    for epoch, found in enumerate(gradients):
        mixed = mixed_examples(dataset, chosen, epoch=epoch)
        assert_same_gradients(found, reference(student, None, dataset, chosen, range(7), mixed)[1])


# ---- what the step reads ----


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


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "sequential"])
@pytest.mark.parametrize("name", ["kd", "sm"])
def test_every_example_once_per_epoch_with_its_own_row(tmp_path, tokenizer, strategy, name):
    dataset, seen = make_dataset(21, is_pair=True), []
    trainer = make_trainer(
        tmp_path, recipe(name), dataset, tokenizer, make_model(), make_model(4, seed=1), num_train_epochs=2,
        per_device_train_batch_size=2, gradient_accumulation_steps=2, train_sampling_strategy=strategy,
    )  # fmt: skip
    compute_loss = trainer.compute_loss

    def spy(model, inputs, *args, **kwargs):
        seen.append(inputs["rows"].tolist())
        for position, row in enumerate(inputs["rows"]):
            length = dataset[int(row)]["length"]
            for column in ("input_ids", "token_type_ids", "attention_mask"):
                values = inputs[column][position].tolist()
                assert values[:length] == dataset[int(row)][column]
                assert not any(values[length:])
            assert inputs["labels"][position] == dataset[int(row)]["label"]
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = spy
    trainer.train()
    epochs = [[row for batch in part for row in batch] for part in (seen[:11], seen[11:])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(21))] * 2
    assert (epochs[0] == epochs[1]) == (strategy == "sequential")


def sampler(lengths, batch_size=8, seed=0, epoch=0, grouped=True):
    lengths = np.asarray(lengths)
    return epoch_order(len(lengths), lengths if grouped else None, batch_size, seed, epoch).tolist()


def test_length_grouping_saves_padding():
    lengths = np.random.default_rng(0).integers(3, 60, size=1003)

    def padding(order):
        steps = [lengths[order[start : start + 8]] for start in range(0, len(order), 8)]
        return sum((step.max() - step).sum() for step in steps)

    grouped, plain = sampler(lengths), sampler(lengths, grouped=False)
    assert sorted(grouped) == sorted(plain) == list(range(1003))
    assert padding(grouped) < 0.1 * padding(plain)
    step_lengths = [lengths[grouped[start]] for start in range(0, 1000, 8)]
    assert abs(np.corrcoef(step_lengths, np.arange(125))[0, 1]) < 0.4  # and the steps are in no order of length


@pytest.mark.parametrize("grouped", [False, True])
def test_order_is_a_function_of_seed_and_epoch(grouped):
    lengths = np.random.default_rng(0).integers(3, 60, size=50)
    orders = [sampler(lengths, seed=s, epoch=e, grouped=grouped) for s, e in [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1)]]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 4


# ---- the teacher ----


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


@pytest.mark.parametrize("shape", [(8, 2), (10, 2), (9, 3)])
def test_teacher_logits_of_another_shape_are_refused(tmp_path, tokenizer, shape):
    options = {"teacher_logits": np.zeros(shape, dtype=np.float32)}
    with pytest.raises((UserError, ValueError), match=str(shape[0])):
        make_trainer(tmp_path, recipe("kd"), make_dataset(9), tokenizer, make_model(), trainer_options=options)


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


def test_the_callers_data_and_extra_columns_survive(tmp_path, tokenizer):
    dataset = make_dataset().add_column("note", [{"any": [number]} for number in range(7)])
    columns = list(dataset.column_names)
    gradients, _ = train(tmp_path, recipe("sm"), dataset, tokenizer, make_model())
    bare = dataset.select_columns(["input_ids", "attention_mask", "token_type_ids", "label"])
    assert_same_gradients(gradients[0], train(tmp_path, recipe("sm"), bare, tokenizer, make_model())[0][0], rtol=1e-6)
    assert dataset.column_names == columns and "row" not in columns


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
