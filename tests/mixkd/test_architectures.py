"""BERT-like encoders: RoBERTa counts positions its own way, DistilBERT has no segments and other names."""

import copy
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from by_hand import logits_by_hand
from datasets import Dataset
from tiny_models import ARCHITECTURES, BERT_SIZES, DISTILBERT_SIZES, ROBERTA_TOKENS, tiny_classifier
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizerFast,
    TrainingArguments,
    pipeline,
)

from mixkd import runs as runs_module
from mixkd.experiment import Experiment
from mixkd.mixup import EpochMixup
from mixkd.models import transformer_layers
from mixkd.recipes import recipe
from mixkd.runs import run
from mixkd.store import Store, UserError
from mixkd.tasks import load_task
from mixkd.trainer import DistillationTrainer

# ---- one step, against classifiers computed by hand ----


@pytest.mark.parametrize("level", ["embeddings", 1])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_step_of_every_architecture(tmp_path, architecture, level):
    """L_MLE, L_KD, L_SM and L_TMKD: one text or pair at a time, without padding, layer by layer."""
    rng = np.random.default_rng(0)
    texts = [[2, *rng.integers(5, 29, rng.integers(1, 9)).tolist(), 3] for _ in range(6)]
    labels = rng.integers(0, 2, 6).tolist()
    dataset = Dataset.from_dict({"input_ids": texts, "attention_mask": [[1] * len(t) for t in texts], "label": labels})
    student, teacher = tiny_classifier(architecture, 2), tiny_classifier(architecture, 4, seed=1)
    chosen = recipe("sm+tmkd+kd", level=level)
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=6, num_train_epochs=1, learning_rate=0.0, max_grad_norm=0,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, data_seed=5,
    )  # fmt: skip
    trainer = DistillationTrainer(copy.deepcopy(student), chosen, args, dataset, teacher=teacher)
    trainer.train()

    def logits(model, row, partner=None, lam=1.0):
        pair = [(texts[one], [0] * len(texts[one])) for one in (row, partner) if one is not None]
        depth = level if model is student or level == "embeddings" else 2 * level
        with torch.no_grad():
            return logits_by_hand(model, depth, *pair, **({} if partner is None else {"lam": lam}))

    expected = 0.0
    for row, label in enumerate(labels):
        own = logits(student, row)
        expected += -F.log_softmax(own, 0)[label] + ((own - logits(teacher, row)) ** 2).mean()
    for row, partner, lam in zip(*(c.tolist() for c in EpochMixup(6, 5, 0, chosen.mixup).all), strict=True):
        own = logits(student, row, partner, lam)
        soft = lam * F.log_softmax(own, 0)[labels[row]] + (1 - lam) * F.log_softmax(own, 0)[labels[partner]]
        expected += -soft + ((own - logits(teacher, row, partner, lam)) ** 2).mean()
    assert float(trainer.state.log_history[0]["loss"]) == pytest.approx(float(expected) / 6, rel=1e-4)


# ---- whole runs ----


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory, tokenizer):
    """Folder of a pretrained tiny DistilBERT with the tiny BERT's vocabulary."""
    folder = tmp_path_factory.mktemp("models") / "tiny-distilbert"
    torch.manual_seed(0)
    DistilBertModel(DistilBertConfig(**DISTILBERT_SIZES, n_layers=3)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def roberta(tmp_path_factory, vader_folder):
    """Folder of a pretrained tiny RoBERTa and its byte-level BPE tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-roberta"
    folder.mkdir()
    bpe = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    texts = load_task("vader-nyt", vader_folder).dataset["train"]["text"][:]
    bpe.train_from_iterator(texts, vocab_size=320, special_tokens=specials, show_progress=False)
    bpe.save_model(str(folder))
    names = str(folder / "vocab.json"), str(folder / "merges.txt")
    RobertaTokenizerFast.from_pretrained(folder, vocab_file=names[0], merges_file=names[1]).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = BERT_SIZES | ROBERTA_TOKENS | {"vocab_size": bpe.get_vocab_size()}
    RobertaModel(RobertaConfig(**sizes, num_hidden_layers=4)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    """A store where the second student of a teacher finds it."""
    return Store(tmp_path_factory.mktemp("architectures") / "results")


@pytest.fixture
def one_epoch(shared_store, vader_folder, monkeypatch):
    """Runs an experiment of one epoch, whatever the teacher has learned."""
    monkeypatch.setattr(runs_module, "check_teacher", lambda teacher, task: None)

    def record_of(**settings):
        one = Experiment(task="vader-nyt", num_epochs=1, teacher_num_epochs=1, batch_size=8, learning_rate=1e-3,
                         teacher_batch_size=8, **settings)  # fmt: skip
        return run(one, shared_store, data_dir=vader_folder)

    return record_of


def assert_classifies(store, record, vader_folder, kind, num_layers):
    """The saved student is plain transformers': it loads without mixkd and says what the record says."""
    folder = store.model_dir(record.run_id)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model).__name__ == kind and len(transformer_layers(model)) == num_layers
    assert record.measurements["num_parameters"] == model.num_parameters()
    texts = list(load_task("vader-nyt", vader_folder).dataset["test"]["text"])
    answers = pipeline("text-classification", str(folder))(texts)
    table = pd.read_parquet(store.run_dir(record.run_id) / "examples.parquet")
    test = table[table["split"] == "test"]
    assert [answer["label"] for answer in answers] == [("negative", "positive")[p] for p in test["prediction"]]
    losses = [-np.log(answer["score"] if p == label else 1 - answer["score"])
              for answer, p, label in zip(answers, test["prediction"], test["label"], strict=True)]  # fmt: skip
    np.testing.assert_allclose(losses, test["loss"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["sm+tmkd+kd", "pkd"])
@pytest.mark.parametrize("architecture", ["distilbert", "roberta"])
def test_layers_of_a_teacher(request, one_epoch, shared_store, vader_folder, architecture, name):
    folder = request.getfixturevalue(architecture)
    record = one_epoch(teacher=str(folder), recipe=name, student_layers=2)
    kind = {"distilbert": "DistilBertForSequenceClassification", "roberta": "RobertaForSequenceClassification"}
    assert_classifies(shared_store, record, vader_folder, kind[architecture], 2)


@pytest.mark.parametrize("name", ["sm+tmkd+kd", "pkd", "distilbert"])
def test_a_distilbert_checkpoint_learns_from_a_bert(one_epoch, shared_store, vader_folder, tiny_bert, distilbert, name):
    record = one_epoch(teacher=str(tiny_bert), student=str(distilbert), recipe=name)
    assert record.experiment["student"] == "tiny-distilbert" and record.experiment["student_layers"] is None
    assert_classifies(shared_store, record, vader_folder, "DistilBertForSequenceClassification", 3)
    model = AutoModelForSequenceClassification.from_pretrained(shared_store.model_dir(record.run_id))
    start = DistilBertModel.from_pretrained(distilbert)
    word = model.distilbert.embeddings.word_embeddings.weight - start.embeddings.word_embeddings.weight
    assert 0 < word.abs().max() < 0.05  # it started from the checkpoint, and was trained


def test_another_vocabulary_is_refused(one_epoch, tiny_bert, roberta, distilbert, tmp_path):
    with pytest.raises(UserError, match="tiny-roberta.*tiny-bert have different tokenizers"):
        one_epoch(teacher=str(tiny_bert), student=str(roberta), recipe="sm")
    swapped = shutil.copytree(distilbert, tmp_path / "swapped")  # the same words under other numbers
    file = swapped / "tokenizer.json"
    file.write_text(file.read_text().replace('"good"', '"#"').replace('"bad"', '"good"').replace('"#"', '"bad"'))
    with pytest.raises(UserError, match="different tokenizers"):
        one_epoch(teacher=str(tiny_bert), student=str(swapped), recipe="kd")
