import pytest

from mixkd.cost import SHAPES, SIZES, Shape, disk_bytes, flops, is_known, shape, trained_shape
from mixkd.experiment import Experiment
from mixkd.tasks import TASK_NAMES


def test_every_task_has_its_sizes():
    assert set(SIZES) == set(TASK_NAMES) - {"custom"}  # which is taken to be as large as SST-2


@pytest.mark.assets
@pytest.mark.parametrize("name", [name for name in SIZES if name.startswith("vader-")])
def test_sizes_are_those_of_the_data(name):
    import numpy as np

    from mixkd.models import load_tokenizer
    from mixkd.tasks import load_task, tokenize

    task, size = load_task(name), SIZES[name]
    shifted = sum(len(load_task(other).dataset["test"]) for other in task.shifted)
    splits = {split: len(rows) for split, rows in task.dataset.items()}
    assert size[:3] == (splits["train"], splits[task.heldout], splits["validation"] + shifted)
    lengths = np.array(tokenize(task.dataset["train"], load_tokenizer("minilm"), 128, task.is_pair)["length"])
    assert size.num_tokens == pytest.approx(lengths.mean(), abs=0.1)
    assert size.sd_tokens == pytest.approx(lengths.std(), abs=0.1)


# ---- shapes ----


@pytest.mark.parametrize(("name", "millions"), [("minilm", 22.713), ("bert-base-uncased", 109.482)])
def test_parameters_of_known_models(name, millions):
    """As published; the head is not counted."""
    assert SHAPES[name].num_parameters() / 1e6 == pytest.approx(millions, abs=5e-4)


def test_parameters_are_those_of_transformers(tiny_bert):
    from transformers import BertModel

    counted = sum(p.numel() for p in BertModel.from_pretrained(tiny_bert).parameters())
    assert shape(str(tiny_bert)).num_parameters() == counted


def test_forward_and_training_against_counted_operations(tiny_bert):
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import BertModel

    model = BertModel.from_pretrained(tiny_bert, attn_implementation="eager", add_pooling_layer=False)
    ids = torch.zeros(5, 24, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        states = model(ids).last_hidden_state
    assert 5 * shape(str(tiny_bert)).forward(24) == forward.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        states.sum().backward()
    assert 2 * forward.get_total_flops() == pytest.approx(backward.get_total_flops(), rel=0.03)


def test_shape_of_a_folder_or_an_unknown_name(tiny_bert, tmp_path):
    from transformers import AutoConfig, DistilBertConfig

    config = AutoConfig.from_pretrained(tiny_bert)
    assert shape(str(tiny_bert))[:3] == (config.num_hidden_layers, config.hidden_size, config.intermediate_size)
    DistilBertConfig(n_layers=4, dim=48, hidden_dim=96, n_heads=4).save_pretrained(tmp_path / "distilbert")
    assert shape(str(tmp_path / "distilbert"))[:3] == (4, 48, 96)
    assert shape("google-bert/bert-base-uncased") == shape("somebody/bert") == SHAPES["bert-base-uncased"]
    known = [str(tiny_bert), "minilm", "google-bert/bert-base-uncased", "distilbert-base-uncased"]
    assert all(map(is_known, known)) and not is_known("somebody/bert") and not is_known(str(tmp_path))


def test_what_is_trained(tiny_bert):
    assert trained_shape(Experiment(student_layers=2, recipe="kd")) == Shape(2, 384, 1536)
    assert trained_shape(Experiment()) == Shape(6, 384, 1536)
    assert trained_shape(Experiment(student=str(tiny_bert), recipe="kd")) == shape(str(tiny_bert))


# ---- runs ----

#: MiniLM on sst2: operations of one layer's forward over 13 tokens, or over the longer of two texts.
LAYER = 13 * (24 * 384**2 + 4 * 384 * 13)
MIXED_LENGTH = 13 + 9 / 3.14159265**0.5
MIXED_LAYER = MIXED_LENGTH * (24 * 384**2 + 4 * 384 * MIXED_LENGTH)
EVALUATED = 3 * 872  # validation, and twice with noise
THREE_LAYERS = 22_713_216 - 3 * 1_774_464  # parameters of a three-layer MiniLM without its head


def sst2(**settings):
    base = {"task": "sst2", "train_fraction": 0.01, "num_epochs": 4, "student_layers": 3, "batch_size": 32}
    return Experiment(**(base | settings))


def test_plain_training():
    rows = 673.49
    steps = 4 * 22 * 400 * THREE_LAYERS
    expected = 4 * rows * 3 * 3 * LAYER + (rows + EVALUATED) * 3 * LAYER + steps
    assert flops(sst2(recipe="ft")) == pytest.approx(expected, rel=1e-6)
    assert flops(sst2(recipe="kd")) == flops(sst2(recipe="ft"))  # the teacher's answers are kept


def test_mixup_doubles_the_rows_and_asks_the_teacher():
    rows = 673.49
    steps = 4 * 22 * 400 * THREE_LAYERS
    evaluation = (rows + EVALUATED) * 3 * LAYER
    sm = 4 * rows * 2 * 3 * 3 * MIXED_LAYER + evaluation + steps
    assert flops(sst2(recipe="sm")) == pytest.approx(sm, rel=1e-6)
    tmkd = sm + 4 * rows * 6 * MIXED_LAYER
    assert flops(sst2(recipe="sm+tmkd")) == flops(sst2(recipe="tmkd")) == pytest.approx(tmkd, rel=1e-6)
    more = tmkd + 4 * rows * (3 * 3 + 6) * MIXED_LAYER
    assert flops(sst2(recipe="sm+tmkd", mix_ratio=2.0)) == pytest.approx(more, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        ({"num_epochs": 8}, 1.5, 2.0),
        ({"train_fraction": 0.1}, 6, 10),
        ({"student_layers": 6}, 1.5, 2.0),
        ({"recipe": "ft+bt"}, 1.5, 2.0),
        ({"augmentation": "word-dropout"}, 1.5, 2.0),
        ({"task": "qqp"}, 20, 40),
        ({"length_grouping": False}, 1.2, 3.0),
        ({"max_length": 8}, 0.5, 0.99),
        ({"best_epoch": True}, 1.1, 3.0),
        ({"batch_size": 8}, 1.01, 2.0),
        ({"teacher": "bert-base-uncased"}, 3.5, 4.1),
        ({"num_epochs": 0}, 0.05, 0.5),
    ],
)
def test_what_makes_a_run_longer(settings, low, high):
    assert low < flops(sst2(**settings)) / flops(sst2()) < high


def test_disk_of_a_run():
    """A three-layer MiniLM's folder on vader-movie takes 70.4 MB, nearly all of it weights."""
    student = Experiment(task="vader-movie", train_fraction=0.1, student_layers=3, recipe="kd")
    assert disk_bytes(student) / 1e6 == pytest.approx(70.4, abs=0.3)
    assert disk_bytes(Experiment(task="vader-movie")) - disk_bytes(student) == pytest.approx(
        4 * 3 * 1_774_464, rel=0.01
    )
