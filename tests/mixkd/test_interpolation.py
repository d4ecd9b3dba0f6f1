from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from tiny import tiny_config
from transformers import (
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from mixkd.interpolation import (
    LAMS,
    choose_pairs,
    distance_to_nearest,
    distance_to_segment,
    interpolation,
    walk,
)

DISTANCES = ("distance_to_segment", "distance_to_nearest", "prediction_deviation")


def make_model(architecture, num_labels=2, num_layers=2):
    torch.manual_seed(0)
    if architecture == "distilbert":
        config = DistilBertConfig(
            vocab_size=32, dim=32, n_layers=num_layers, n_heads=2, hidden_dim=64, num_labels=num_labels,
            initializer_range=0.3,
        )  # fmt: skip
        return DistilBertForSequenceClassification(config)
    shape = {"num_labels": num_labels, "num_hidden_layers": num_layers, "initializer_range": 0.3}
    config = tiny_config(**shape)
    if architecture == "bert":
        return BertForSequenceClassification(config)
    return RobertaForSequenceClassification(
        RobertaConfig(**{**config.to_dict(), "pad_token_id": 1, "type_vocab_size": 1})
    )


def make_dataset(num_examples=12, is_pair=False, labels=None, lengths=None):
    generator = np.random.default_rng(1)
    lengths = generator.integers(4, 12, num_examples) if lengths is None else lengths
    ids = [generator.integers(5, 32, length).tolist() for length in lengths]
    columns = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
    if is_pair:
        columns["token_type_ids"] = [[0] * (len(row) // 2) + [1] * (len(row) - len(row) // 2) for row in ids]
    columns["label"] = generator.integers(0, 2, len(ids)).tolist() if labels is None else labels
    return Dataset.from_dict(columns)


class Linear(torch.nn.Module):
    """A model whose [CLS] state and logits are linear in the sum of the word embeddings."""

    def __init__(self, num_labels):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(pad_token_id=0, num_labels=num_labels)
        self.device = torch.device("cpu")
        self.words, self.head = torch.nn.Embedding(32, 8), torch.nn.Linear(8, num_labels)

    def get_input_embeddings(self):
        return self.words

    def forward(self, inputs_embeds, attention_mask, output_hidden_states):
        assert not self.training
        states = inputs_embeds.sum(1, keepdim=True)
        return SimpleNamespace(hidden_states=(inputs_embeds, states), logits=self.head(states[:, 0]))


@given(arrays(np.float64, (4, 3), elements=st.floats(-3, 3).map(lambda x: round(x, 3))))
def test_distance_to_segment_against_a_numerical_minimum(vectors):
    start, end, *points = vectors
    end = end + 10  # never equal to start
    measured = distance_to_segment(np.array(points)[None], start[None], end[None])[0]
    for point, distance in zip(points, measured, strict=True):
        found = minimize_scalar(
            lambda share: np.linalg.norm(start + share * (end - start) - point),  # noqa: B023
            bounds=(0, 1), method="bounded", options={"xatol": 1e-10},
        )  # fmt: skip
        assert distance * np.linalg.norm(end - start) == pytest.approx(found.fun, abs=1e-6)


def test_distance_to_segment_beyond_its_ends():
    points = np.array([[[-3.0, 4.0], [0.0, 0.0], [1.0, 2.0], [2.0, 0.0], [2.0, 2.0], [5.0, -4.0]]])
    measured = distance_to_segment(points, np.zeros((1, 2)), np.array([[2.0, 0.0]]))
    np.testing.assert_allclose(measured, np.array([[5, 0, 2, 0, 2, 5]]) / 2)


def test_distance_to_nearest_against_brute_force():
    generator = np.random.default_rng(0)
    points, references = generator.normal(size=(3, 5, 4)), generator.normal(size=(9, 4))
    pairs = np.array([[0, 1], [4, 2], [8, 7]])
    points[0, 0], points[1, 0], points[2, 0] = references[1], references[4], references[3]
    scale = np.mean(
        [min(np.linalg.norm(a - b) for j, b in enumerate(references) if j != i) for i, a in enumerate(references)]
    )
    measured = distance_to_nearest(points, references, pairs)
    for pair, excluded in enumerate(pairs):
        for position in range(5):
            others = [reference for row, reference in enumerate(references) if row not in excluded]
            nearest = min(np.linalg.norm(points[pair, position] - other) for other in others)
            assert measured[pair, position] == pytest.approx(nearest / scale)
    assert measured[2, 0] == 0 and measured[0, 0] > 0 and measured[1, 0] > 0  # one's own ends do not count


@given(st.lists(st.integers(0, 3), min_size=4, max_size=30), st.integers(1, 20), st.integers(0, 5))
def test_pairs_differ_in_label_as_far_as_possible(labels, num_pairs, seed):
    labels = np.array(labels)
    pairs = choose_pairs(labels, num_pairs, seed)
    source, partner = labels[pairs].T
    assert len(pairs) == min(num_pairs, len(labels) // 2) and len(set(pairs.ravel())) == pairs.size
    commonest = np.bincount(labels).max()
    assert (source != partner).sum() == min(num_pairs, len(labels) // 2, len(labels) - commonest)
    assert (source >= partner).all()


def test_pairs_are_fixed_by_the_seed():
    labels = np.arange(40) % 3
    first = choose_pairs(labels, 10, 0)
    assert (first == choose_pairs(labels, 10, 0)).all() and (first != choose_pairs(labels, 10, 1)).any()
    three_ways = labels[choose_pairs(labels[:39], 19, 0)]
    assert {tuple(pair) for pair in three_ways} == {(1, 0), (2, 0), (2, 1)}


@pytest.mark.parametrize(
    ("architecture", "is_pair"), [("bert", False), ("bert", True), ("distilbert", False), ("roberta", False)]
)
def test_walk_asks_about_what_training_mixes(architecture, is_pair):
    model = make_model(architecture).train()
    dataset = make_dataset(is_pair=is_pair)
    pairs = np.array([[0, 1], [2, 5], [7, 3]])
    answers = walk(model, dataset, pairs, batch_size=7)
    assert model.training and answers.shape == (12 + 3 * 9, 32 + 2) and answers.dtype == np.float32

    model.eval()

    def ask(**inputs):
        with torch.inference_mode():
            outputs = model(**inputs, output_hidden_states=True)
        return np.concatenate([outputs.hidden_states[-1][0, 0].numpy(), outputs.logits[0].numpy()])

    types = {"token_type_ids": dataset["token_type_ids"]} if "token_type_ids" in dataset.column_names else {}
    for row, ids in enumerate(dataset["input_ids"]):  # real inputs: one at a time, as ids, without padding
        real = ask(input_ids=torch.tensor([ids]), **{name: torch.tensor([rows[row]]) for name, rows in types.items()})
        np.testing.assert_allclose(answers[row], real, atol=2e-5)

    table, pad = model.get_input_embeddings().weight.detach(), model.config.pad_token_id
    for number, (source, partner) in enumerate(pairs):
        texts = [dataset["input_ids"][row] for row in (source, partner)]
        length = max(map(len, texts))
        longer = (source, partner)[int(len(texts[1]) > len(texts[0]))]
        more = {name: torch.tensor([rows[longer]]) for name, rows in types.items()}
        embedded = [table[torch.tensor(text + [pad] * (length - len(text)))] for text in texts]
        for position, lam in enumerate(np.arange(1, 10) / 10):
            mixed = float(lam) * embedded[0] + (1 - float(lam)) * embedded[1]
            expected = ask(inputs_embeds=mixed[None], attention_mask=torch.ones(1, length, dtype=torch.long), **more)
            np.testing.assert_allclose(answers[12 + 9 * number + position], expected, atol=2e-5)


@pytest.mark.parametrize("num_labels", [1, 3])
def test_a_linear_model_stays_on_the_segment(num_labels):
    model = Linear(num_labels)
    dataset = make_dataset(lengths=[6] * 20, labels=(np.arange(20) / 4).tolist() if num_labels == 1 else None)
    measured, frame = interpolation(model, partial(walk, model), dataset, num_pairs=6)
    paths = frame.dropna(subset=["pair"])
    assert paths["distance_to_segment"].max() < 1e-6
    assert measured["path/distillation_loss"] == 0
    if num_labels == 1:  # linear predictions, too
        assert paths["prediction_deviation"].max() < 1e-5
    else:
        assert 1e-3 < paths["prediction_deviation"].max() <= 1


def test_interpolation_of_student_and_teacher():
    student, teacher = make_model("distilbert", num_layers=1), make_model("bert")
    dataset = make_dataset(30, is_pair=True)
    asked = []

    def teacher_walk(references, pairs):
        asked.append((references, pairs))
        return walk(teacher, references, pairs)

    measured, frame = interpolation(student, teacher_walk, dataset, num_pairs=5, num_references=20)
    (references, pairs), (answers,) = asked[0], [walk(student, *asked[0])]
    assert len(references) == 20 and len(asked) == 1
    names = [f"path/{model}_{distance}{at}" for model in ("student", "teacher") for distance in DISTANCES
             for at in ("", "_at_half")]  # fmt: skip
    assert set(measured) == {*names, "path/distillation_loss"}
    assert all(type(value) is float and value >= 0 for value in measured.values())

    paths = frame.dropna(subset=["pair"])
    assert len(paths) == 2 * 5 * 11 and len(frame) == len(paths) + 2 * 20
    assert (paths["label_source"] > paths["label_partner"]).all()
    ends = paths[paths["lam"].isin([0.0, 1.0])]
    assert ends["distance_to_segment"].max() < 1e-6 and ends["prediction_deviation"].max() < 1e-6
    assert (paths[paths["lam"] == 0.5]["distance_to_segment"] > 1e-3).all()
    means = paths[paths["model"] == "student"].groupby("lam")[list(DISTANCES)].mean()
    for distance in DISTANCES:
        at_half = means.loc[0.5, distance]
        assert measured[f"path/student_{distance}_at_half"] == pytest.approx(at_half)
        area = (means[distance].sum() - means[distance].iloc[[0, -1]].mean()) / 10  # of ten trapezia
        assert measured[f"path/student_{distance}"] == pytest.approx(area)

    # The path of the first pair, from its own states and probabilities.
    source, partner = pairs[0]
    middle = answers[20 + 4]
    along = paths[(paths["model"] == "student") & (paths["pair"] == 0)].set_index("lam")
    softmaxes = [torch.tensor(answer[-2:]).softmax(0).numpy() for answer in (answers[source], answers[partner], middle)]
    deviation = abs(softmaxes[2] - (softmaxes[0] + softmaxes[1]) / 2)[0]  # of two classes, both deviate the same
    assert along.loc[0.5, "prediction_deviation"] == pytest.approx(deviation, abs=1e-6)
    states = answers[[source, partner], :-2]
    at_start = distance_to_nearest(states[:1][None], answers[:20, :-2], pairs[:1])[0, 0]
    assert along.loc[1.0, "distance_to_nearest"] == pytest.approx(at_start, rel=1e-5)
    assert along.loc[1.0, "label_source"] == references["label"][int(source)]


@pytest.mark.parametrize("ends", [(0, 5), (5, 0)])  # an axis that need not be turned in one case must be in the other
def test_axes_are_the_plane_of_the_real_states_and_grow_with_the_label(ends):
    student = make_model("bert", num_labels=1)
    dataset = make_dataset(40, labels=np.linspace(*ends, 40).tolist())
    _, frame = interpolation(student, partial(walk, student), dataset, num_pairs=4)
    for model in ("student", "teacher"):
        of_model = frame[frame["model"] == model]
        real, path = of_model[of_model["pair"].isna()], of_model[of_model["pair"].notna()]
        assert real["lam"].isna().all() and len(real) == 40
        for axis in ("x", "y"):
            assert np.cov(real[axis], real["label_source"])[0, 1] >= 0 and abs(real[axis].mean()) < 1e-6
        assert abs(np.corrcoef(real["x"], real["y"])[0, 1]) < 1e-5 and real["x"].var() > real["y"].var() > 0
        for lam, label in ((1.0, "label_source"), (0.0, "label_partner")):
            at_end = path[path["lam"] == lam].merge(real, on=label)
            assert len(at_end) == 4
            np.testing.assert_allclose(at_end[["x_x", "y_x"]], at_end[["x_y", "y_y"]], atol=1e-6)


def test_interpolation_is_the_same_every_time():
    model, dataset = make_model("bert"), make_dataset(20)
    first, second = (interpolation(model, partial(walk, model), dataset, num_pairs=3) for _ in range(2))
    assert first[0] == second[0] and first[1].equals(second[1])


def test_equal_texts_are_one_reference_and_too_few_give_nothing():
    model, dataset = make_model("bert"), make_dataset(6)
    doubled = dataset.select([0, 1, 2, 3, 4, 5, 0, 1, 2, 3])
    _, frame = interpolation(model, partial(walk, model), doubled)
    assert frame["pair"].isna().sum() == 2 * 6 and np.isfinite(frame["distance_to_nearest"].dropna()).all()
    few, empty = interpolation(model, partial(walk, model), doubled.select([0, 1, 2, 6, 7]))
    assert few == {} and empty.empty
    assert LAMS[5] == 0.5 and len(LAMS) == 11
