import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_config
from tiny_models import tiny_classifier
from transformers import BertConfig, BertForSequenceClassification, BertModel

from mixkd.models import (
    build_student,
    checkpoint_fingerprint,
    choose_layers,
    count_parameters,
    load_classifier,
    load_tokenizer,
    transformer_layers,
)
from mixkd.store import UserError

NAMES = ["negative", "positive"]


def classifier(num_layers=4, seed=0, **changes):
    torch.manual_seed(seed)
    return BertForSequenceClassification(tiny_config(num_hidden_layers=num_layers, **changes)).eval()


def equal(first, second):
    """Whether two modules hold the same weights."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of the tiny BERT to damage."""
    return shutil.copytree(tiny_bert, tmp_path / "copy")


# ---- layers ----


@pytest.mark.parametrize(
    ("total", "num_layers", "init", "expected"),
    [
        (12, 6, "skip", [0, 2, 4, 7, 9, 11]),  # DistilBERT
        (12, 3, "first", [0, 1, 2]),
        (12, 3, "last", [9, 10, 11]),
        (12, 12, "skip", list(range(12))),
        (6, 1, "skip", [0]),
        (6, 3, (5, 0, 0), [5, 0, 0]),
    ],
)
def test_choose_layers(total, num_layers, init, expected):
    assert choose_layers(total, num_layers, init) == expected


@given(st.integers(2, 48), st.data())
def test_skipped_layers_are_evenly_spaced(total, data):
    num_layers = data.draw(st.integers(2, total))
    chosen = choose_layers(total, num_layers, "skip")
    assert chosen[0] == 0 and chosen[-1] == total - 1 and len(chosen) == num_layers
    step = (total - 1) / (num_layers - 1)
    assert all(0 < b - a and abs(b - a - step) <= 1 for a, b in zip(chosen, chosen[1:], strict=False))


@pytest.mark.parametrize(
    ("num_layers", "init", "message"),
    [
        (0, "first", "1 to 4 layers, not 0"),
        (5, "last", "1 to 4 layers, not 5"),
        (2, "middle", "'middle'; choose one of first, last, skip, random"),
        (2, (0, 1, 2), r"\[0, 1, 2\] must name 2 layers between 0 and 3"),
        (2, (0, 4), r"\[0, 4\] must name 2"),
        (2, (-1, 0), r"\[-1, 0\] must name 2"),
    ],
)
def test_layers_that_do_not_exist(num_layers, init, message):
    with pytest.raises(ValueError, match=message):
        build_student(classifier(), num_layers, init)


@pytest.mark.parametrize(
    ("init", "expected"), [("first", [0, 1]), ("last", [2, 3]), ("skip", [0, 3]), ((2, 1), [2, 1]), ((3, 3), [3, 3])]
)
def test_student_starts_from_the_chosen_layers(init, expected):
    teacher = classifier(id2label=dict(enumerate(NAMES)))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = build_student(teacher, 2, init)
    assert student.config.num_hidden_layers == len(student.bert.encoder.layer) == 2
    for layer, source in zip(student.bert.encoder.layer, expected, strict=True):
        assert [equal(layer, other) for other in teacher.bert.encoder.layer] == [i == source for i in range(4)]
    assert equal(student.bert.embeddings, teacher.bert.embeddings)
    assert equal(student.bert.pooler, teacher.bert.pooler) and equal(student.classifier, teacher.classifier)
    assert student.config.id2label == dict(enumerate(NAMES)) and not student.training
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())  # nothing is shared
    assert teacher.config.num_hidden_layers == 4


@pytest.mark.parametrize("architecture", ["roberta", "distilbert"])
@pytest.mark.parametrize(("init", "expected"), [("first", [0, 1]), ("skip", [0, 3]), ((2, 1), [2, 1])])
def test_students_of_other_architectures(tmp_path, architecture, init, expected):
    """DistilBERT's configuration has other names for the number of layers; a saved student must agree with itself."""
    teacher = tiny_classifier(architecture, 4)
    student = build_student(teacher, 2, init)
    assert type(student) is type(teacher) and teacher.config.num_hidden_layers == 4
    assert student.config.num_hidden_layers == len(transformer_layers(student)) == 2
    for layer, source in zip(transformer_layers(student), expected, strict=True):
        assert [equal(layer, other) for other in transformer_layers(teacher)] == [i == source for i in range(4)]
    rest = {name: value for name, value in student.state_dict().items() if ".layer." not in name}
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in rest.items())
    student.save_pretrained(tmp_path)
    again = type(student).from_pretrained(tmp_path)
    assert equal(again, student) and len(transformer_layers(again)) == 2


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_distilbert_s_own_choice_of_layers(architecture):
    """Sanh et al. 2019 start the six layers from 0, 2, 4, 7, 9 and 11 of twelve."""
    teacher = tiny_classifier(architecture, 12)
    student = build_student(teacher, 6, "skip")
    for layer, source in zip(transformer_layers(student), [0, 2, 4, 7, 9, 11], strict=True):
        assert equal(layer, transformer_layers(teacher)[source])


def test_random_students_take_no_weight_and_follow_their_seed():
    teacher = classifier()
    students = [build_student(teacher, 2, "random", seed) for seed in (0, 0, 1)]
    assert equal(students[0], students[1]) and not equal(students[0], students[2])
    for name in ("embeddings.word_embeddings", "encoder.layer.0.attention.self.query", "pooler.dense"):
        assert not equal(students[2].bert.get_submodule(name), teacher.bert.get_submodule(name))


def test_a_student_as_deep_as_its_teacher_computes_the_same():
    teacher, inputs = classifier(), torch.tensor([[2, 7, 9, 3]])
    with torch.inference_mode():
        assert torch.equal(build_student(teacher, 4)(inputs).logits, teacher(inputs).logits)
        assert not torch.equal(build_student(teacher, 4, "random", seed=5)(inputs).logits, teacher(inputs).logits)


@pytest.mark.parametrize(("num_layers", "millions"), [(12, 109.48), (6, 66.96), (3, 45.69)])
def test_published_sizes_of_bert(num_layers, millions):
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig(num_hidden_layers=num_layers))
    total, embeddings = count_parameters(model)
    assert (round(total / 1e6, 2), round(embeddings / 1e6, 2)) == (millions, 23.84)


def test_counts_of_the_tiny_bert_by_hand():
    per_layer = 4 * (32 * 32 + 32) + 2 * 2 * 32 + (32 * 64 + 64) + (64 * 32 + 32)
    embeddings = (32 + 64 + 2) * 32 + 2 * 32
    head = 32 * 32 + 32 + 32 * 2 + 2
    assert count_parameters(classifier(3)) == (embeddings + 3 * per_layer + head, embeddings)


# ---- loading ----


def test_a_fresh_head_follows_its_seed_and_has_the_task_s_labels(tiny_bert):
    models = [load_classifier(str(tiny_bert), NAMES, seed) for seed in (0, 0, 1)]
    assert equal(models[0], models[1])
    assert equal(models[0].bert, models[2].bert) and not equal(models[0].classifier, models[2].classifier)
    assert equal(models[0].bert, BertModel.from_pretrained(tiny_bert))
    assert models[0].config.id2label == {0: "negative", 1: "positive"}
    assert models[0].config.label2id == {"negative": 0, "positive": 1}
    assert not models[0].training
    assert load_classifier(str(tiny_bert), ["a", "b", "c"]).config.num_labels == 3


def test_half_precision_checkpoints_are_loaded_in_float32(tmp_path):
    classifier().bfloat16().save_pretrained(tmp_path)
    assert {p.dtype for p in load_classifier(str(tmp_path), NAMES).parameters()} == {torch.float32}


def save_with_labels(folder, labels):
    classifier(id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
               num_labels=len(labels)).save_pretrained(folder)  # fmt: skip
    return str(folder)


@pytest.mark.parametrize("labels", [NAMES, ["NEGATIVE", "POSITIVE"], ["LABEL_0", "LABEL_1"]])
def test_a_head_for_the_same_labels_is_kept(tmp_path, labels):
    model = load_classifier(save_with_labels(tmp_path, labels), NAMES)
    assert equal(model, classifier()) and model.config.id2label == dict(enumerate(NAMES))


@pytest.mark.parametrize(
    "labels", [["entailment", "other"], ["negative", "neutral", "positive"], ["LABEL_0", "LABEL_1", "LABEL_2"]]
)
def test_a_head_for_other_labels_is_refused(tmp_path, labels):
    with pytest.raises(UserError, match=rf"fine-tuned for the labels.*{labels[0]}.*negative.*give a model"):
        load_classifier(save_with_labels(tmp_path, labels), NAMES)


def test_a_head_with_the_labels_in_another_order_is_not_relabelled(tmp_path):
    """Its class 0 means `positive`: calling it `negative` would turn every prediction round."""
    name = save_with_labels(tmp_path, NAMES[::-1])
    try:
        model = load_classifier(name, NAMES)
    except UserError as error:
        assert "positive" in str(error)
    else:
        assert torch.equal(model.classifier.weight, classifier().classifier.weight.flip(0))


def test_missing_models(tmp_path):
    for name in (str(tmp_path / "nowhere"), "./nowhere", "~/no/where"):
        with pytest.raises(UserError, match="There is no folder .*nowhere|There is no folder ~/no/where"):
            load_classifier(name, NAMES)
    with pytest.raises(UserError, match="config.json is missing"):
        load_classifier(str(tmp_path), NAMES)
    with pytest.raises(UserError, match="'nobody/no-such-model' is not in the local cache"):
        load_classifier("nobody/no-such-model", NAMES)


def test_a_pickle_is_not_opened(folder):
    """Not even a harmless one; opening this one would leave a trace."""
    trace = folder / "opened"

    class Trap:
        def __reduce__(self):
            return open, (str(trace), "w")

    (folder / "model.safetensors").unlink()
    torch.save({"weight": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_classifier(str(folder), NAMES)
    assert not trace.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "config"])
def test_damaged_checkpoints(folder, damage):
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "empty":
        weights.write_bytes(b"")
    elif damage == "foreign":
        weights.write_bytes(b"<html>not found</html>")
    else:
        (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="copy cannot be loaded"):
        load_classifier(str(folder), NAMES)


@pytest.mark.parametrize("changes", [{"hidden_size": 48, "intermediate_size": 96}, {"num_hidden_layers": 6}])
def test_weights_that_do_not_fit_or_are_missing_are_refused(folder, changes):
    """Above all, layers that the checkpoint lacks must not be drawn at random without a word."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=str(folder)):
        load_classifier(str(folder), NAMES)


def test_a_folder_without_a_tokenizer(folder):
    for path in [*folder.glob("token*"), *folder.glob("vocab*"), *folder.glob("special*")]:
        path.unlink()
    with pytest.raises(UserError):
        tokenizer = load_tokenizer(str(folder))
        raise AssertionError(f"made one up: {tokenizer}")


def test_fingerprint_covers_weights_configuration_and_tokenizer_and_not_the_folder(folder, tiny_bert):
    reference = checkpoint_fingerprint(str(tiny_bert))
    assert checkpoint_fingerprint(str(folder)) == reference
    assert checkpoint_fingerprint("minilm") == "minilm"
    seen = {reference}
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before.replace(b"good", b"doog") + b" ")
        seen.add(checkpoint_fingerprint(str(folder)))
        (folder / name).write_bytes(before)
    assert len(seen) == 4
    assert checkpoint_fingerprint(str(folder)) == reference


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_fingerprint_covers_the_files_of_a_byte_level_tokenizer(folder, name):
    """RoBERTa's, where no tokenizer.json was saved."""
    seen = {checkpoint_fingerprint(str(folder))}
    for content in ("one", "other"):
        (folder / name).write_text(content)
        seen.add(checkpoint_fingerprint(str(folder)))
    assert len(seen) == 3
