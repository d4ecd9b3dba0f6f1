"""Training with the used rows of the word embeddings against training the whole table."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import tiny_config
from transformers import (
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    TrainingArguments,
)

from mixkd.models import load_classifier
from mixkd.recipes import recipe
from mixkd.trainer import DistillationTrainer
from mixkd.vocabulary import UsedEmbedding, use_tokens_of, use_whole_table

USED = (2, 3, 7, 9, 11, 20, 31)  # of 32 tokens


def make_dataset(num_examples=12):
    rng = np.random.default_rng(0)
    texts = [[2, *rng.choice(USED[2:], rng.integers(1, 7)).tolist(), 3] for _ in range(num_examples)]
    columns = {"input_ids": texts, "attention_mask": [[1] * len(text) for text in texts]}
    return Dataset.from_dict(columns | {"label": rng.integers(2, size=num_examples).tolist()})


def make_model(seed=0):
    torch.manual_seed(seed)
    config = tiny_config(num_hidden_layers=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return BertForSequenceClassification(config)


def train(model, dataset, folder, compact, weight_decay=0.5, steps=9, resume_at=None):
    if compact:
        use_tokens_of(model, [dataset])
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=4, max_steps=steps, learning_rate=1e-2, weight_decay=weight_decay,
        max_grad_norm=0.3, report_to="none", disable_tqdm=True, use_cpu=True, save_steps=4, data_seed=1,
    )  # fmt: skip
    trainer = DistillationTrainer(model, recipe("sm+tmkd"), args, dataset, teacher=make_model(seed=1))
    trainer.train(resume_from_checkpoint=resume_at)
    if compact:
        use_whole_table(model)
    return model.state_dict()


@pytest.mark.parametrize("weight_decay", [0.5, 0.0])
def test_the_whole_table_is_as_if_it_had_been_trained(tmp_path, weight_decay):
    dataset, model = make_dataset(), make_model()
    before = copy.deepcopy(model.state_dict())
    expected = train(copy.deepcopy(model), dataset, tmp_path / "a", compact=False, weight_decay=weight_decay)
    found = train(model, dataset, tmp_path / "b", compact=True, weight_decay=weight_decay)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=2e-4, atol=2e-6, msg=name)
    name = "bert.embeddings.word_embeddings.weight"
    unused = sorted(set(range(1, 32)) - set(USED))
    decayed = not torch.allclose(expected[name][unused], before[name][unused], rtol=1e-3)
    assert decayed == (weight_decay > 0)  # control: there is something to be made up for
    assert not torch.allclose(expected[name][list(USED)], before[name][list(USED)], rtol=1e-3)


def test_resumed_training_keeps_the_witness(tmp_path):
    dataset, model = make_dataset(), make_model()
    expected = train(copy.deepcopy(model), dataset, tmp_path / "a", compact=True)
    found = train(model, dataset, tmp_path / "b", compact=True, resume_at=str(tmp_path / "a" / "checkpoint-4"))
    assert all(torch.equal(found[name], values) for name, values in expected.items())


def test_answers_are_those_of_the_whole_table_and_other_tokens_are_an_error():
    model, dataset = make_model().eval(), make_dataset()
    ids = torch.tensor([[2, 7, 9, 3, 0], [2, 31, 20, 11, 3]])
    expected = model(input_ids=ids).logits
    use_tokens_of(model, [dataset])
    assert isinstance(model.get_input_embeddings(), UsedEmbedding)
    assert len(model.get_input_embeddings().weight) == len(USED) + 2  # [PAD] and the witness
    assert torch.equal(model(input_ids=ids).logits, expected)
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[2, 8, 3]]))
    use_whole_table(model)
    assert torch.equal(model(input_ids=ids).logits, expected)
    assert model.get_input_embeddings().weight.shape == (32, 32)


def test_another_padding_id_and_the_saved_model(tmp_path):
    """RoBERTa counts positions from its padding id, 1."""
    torch.manual_seed(0)
    settings = tiny_config().to_dict() | {"pad_token_id": 1, "num_hidden_layers": 1}
    model = RobertaForSequenceClassification(RobertaConfig(**{k: v for k, v in settings.items() if k != "model_type"}))
    model.eval()
    ids = torch.tensor([[2, 7, 9, 3, 1, 1]])
    expected = model(input_ids=ids, attention_mask=(ids != 1).long()).logits
    use_tokens_of(model, [make_dataset()])
    assert torch.equal(model(input_ids=ids, attention_mask=(ids != 1).long()).logits, expected)
    use_whole_table(model)
    model.save_pretrained(tmp_path)
    saved = load_classifier(str(tmp_path), ["LABEL_0", "LABEL_1"])
    assert torch.equal(saved(input_ids=ids, attention_mask=(ids != 1).long()).logits, expected)
