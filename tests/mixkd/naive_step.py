"""A trainer on tiny models, and what its step must be: every example alone, one forward per term, sums in Python."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from tiny import tiny_config
from transformers import BertForSequenceClassification, TrainerCallback, TrainingArguments

from mixkd.mixup import EpochMixup
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
