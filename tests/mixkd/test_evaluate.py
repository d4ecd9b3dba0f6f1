import math

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import brier_score_loss

from mixkd.evaluate import (
    Part,
    add_gaps,
    brier_score,
    calibration_error,
    evaluate,
    example_frame,
    measure,
    noisy_texts,
)
from mixkd.store import UserError
from mixkd.tasks import Task

STUDENT = np.array([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [-1.0, 3.0]], dtype=np.float32)
TEACHER = np.array([[1.0, 0.0], [0.0, 3.0], [0.0, 0.5], [0.0, 1.0]], dtype=np.float32)
LABELS = np.array([0, 1, 1, 0])


def naive_losses(logits, labels):
    return [math.log(sum(math.exp(z - row[label]) for z in row)) for row, label in zip(logits, labels, strict=True)]


def test_measure_by_hand():
    measured = measure(STUDENT, LABELS, ["accuracy", "f1"], TEACHER)
    assert set(measured) == {"score", "f1", "loss", "ece", "brier", "distillation_loss", "agreement"}
    assert measured["score"] == 0.5  # examples 1 and 2
    assert measured["f1"] == 0.5  # one hit, one false alarm, one miss
    assert measured["loss"] == pytest.approx(sum(naive_losses(STUDENT, LABELS)) / 4, rel=1e-6)
    squares = [1 + 0, 0 + 4, 0.25 + 0.25, 1 + 4]
    assert measured["distillation_loss"] == pytest.approx(sum(squares) / (4 * 2))
    assert measured["agreement"] == 0.75  # all but example 3
    right = [math.exp(-loss) for loss in naive_losses(STUDENT, LABELS)]
    assert measured["brier"] == pytest.approx(sum(2 * (1 - p) ** 2 for p in right) / 4, rel=1e-6)
    # Every confidence is in a bin of its own: 0.62, 0.73, 0.88 and 0.98.
    assert measured["ece"] == pytest.approx((1 - right[0] + 1 - right[1] + 1 - right[2] + 1 - right[3]) / 4, rel=1e-6)
    assert set(measure(STUDENT, LABELS, ["accuracy"])) == {"score", "loss", "ece", "brier"}
    assert all(type(value) is float for value in measured.values())


def test_measure_of_a_regression_by_hand():
    student, teacher = np.array([[1.0], [2.0], [4.0]], np.float32), np.array([[1.5], [2.0], [1.0]], np.float32)
    labels = np.array([0.0, 3.0, 5.0], np.float32)
    measured = measure(student, labels, ["pearson", "spearman"], teacher)
    assert set(measured) == {"score", "spearman", "loss", "distillation_loss"}
    assert measured["score"] == pytest.approx(np.corrcoef(labels, [1, 2, 4])[0, 1])
    assert measured["spearman"] == pytest.approx(1.0)
    assert measured["loss"] == pytest.approx(1.0)  # (1 + 1 + 1) / 3
    assert measured["distillation_loss"] == pytest.approx((0.25 + 0 + 9) / 3)


def test_examples_without_labels_cannot_be_measured():
    with pytest.raises(UserError, match="no labels"):
        measure(STUDENT, np.full(4, -1), ["accuracy"])


def naive_calibration_error(probabilities, labels, num_bins):
    error = 0.0
    for low, high in ((m / num_bins, (m + 1) / num_bins) for m in range(num_bins)):
        inside = [i for i, row in enumerate(probabilities) if low < max(row) <= high]
        if inside:
            accuracy = sum(labels[i] == list(probabilities[i]).index(max(probabilities[i])) for i in inside)
            error += abs(accuracy - sum(max(probabilities[i]) for i in inside)) / len(labels)
    return error


def naive_brier_score(probabilities, labels):
    return sum(
        (p - (k == label)) ** 2 for row, label in zip(probabilities, labels, strict=True) for k, p in enumerate(row)
    ) / len(labels)


@given(
    arrays(np.float64, (7, 3), elements=st.floats(0, 5)),
    arrays(np.int64, 7, elements=st.integers(0, 2)),
    st.integers(1, 20),
)
def test_calibration_against_naive_loops(weights, labels, num_bins):
    probabilities = (weights + 1e-3) / (weights + 1e-3).sum(1, keepdims=True)
    expected = naive_calibration_error(probabilities, labels, num_bins)
    assert calibration_error(probabilities, labels, num_bins) == pytest.approx(expected, abs=1e-12)
    assert brier_score(probabilities, labels) == pytest.approx(naive_brier_score(probabilities, labels), abs=1e-12)


def test_calibration_at_the_edges():
    sure = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])  # p = 1 lies in the last bin, 13 bins are empty
    assert calibration_error(sure, np.array([1, 1, 0, 0])) == 0 == brier_score(sure, np.array([1, 1, 0, 0]))
    assert calibration_error(sure, np.array([1, 0, 0, 0])) == 0.25
    assert brier_score(sure, np.array([0, 0, 1, 1])) == 2
    undecided = np.full((2, 4), 0.25)
    assert calibration_error(undecided, np.array([0, 1])) == 0.25  # half are right, at a confidence of a quarter
    at_an_edge = np.array([[0.4, 0.6], [0.39, 0.61]])  # 0.6 belongs to the bin that it closes, 0.61 to the next one
    assert calibration_error(at_an_edge, np.array([1, 0])) == pytest.approx((0.4 + 0.61) / 2)


def test_brier_score_is_twice_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    positive, labels = generator.random(50), generator.integers(0, 2, 50)
    expected = 2 * brier_score_loss(labels, positive)
    assert brier_score(np.stack([1 - positive, positive], axis=1), labels) == pytest.approx(expected)


def test_a_calibrated_model_has_a_small_calibration_error():
    generator = np.random.default_rng(0)
    positive = generator.random(20_000)
    labels = (generator.random(20_000) < positive).astype(int)
    probabilities = np.stack([1 - positive, positive], axis=1)
    assert calibration_error(probabilities, labels) < 0.02
    assert calibration_error(probabilities**3 / (probabilities**3).sum(1, keepdims=True), labels) > 0.1


def test_gaps_grow_as_the_model_overfits():
    measurements = {"train_loss": 0.1, "test_loss": 0.5, "train_score": 0.9, "test_score": 0.7, "validation_loss": 9.0}
    gaps = add_gaps(measurements)
    assert gaps.pop("generalization_gap") == pytest.approx(0.4)
    assert gaps.pop("score_gap") == pytest.approx(0.2)
    assert gaps == measurements
    distances = {"train_distillation_loss": 0.25, "test_distillation_loss": 1.0}
    assert add_gaps(measurements | distances)["distillation_gap"] == 0.75


def test_example_frame():
    dataset = Dataset.from_dict({"label": LABELS, "example_id": ["d", "a", "c", "b"]})
    frame = example_frame("test", dataset, STUDENT, TEACHER)
    assert list(frame.columns) == ["split", "example_id", "loss", "prediction", "teacher_prediction", "label"]
    assert list(frame["example_id"]) == ["d", "a", "c", "b"]  # the dataset's own order
    assert list(frame["prediction"]) == [0, 1, 0, 1] and list(frame["teacher_prediction"]) == [0, 1, 1, 1]
    assert list(frame["label"]) == LABELS.tolist() and set(frame["split"]) == {"test"}
    np.testing.assert_allclose(frame["loss"], naive_losses(STUDENT, LABELS), rtol=1e-5)
    alone = example_frame("test", dataset, STUDENT, None)
    assert alone["teacher_prediction"].isna().all() and alone["teacher_prediction"].dtype == "Int64"


def test_example_frame_of_a_regression():
    dataset = Dataset.from_dict({"label": [0.5, 2.5], "example_id": ["a", "b"]})
    student, teacher = np.array([[1.5], [2.5]], np.float32), np.array([[1.25], [0.0]], np.float32)
    frame = example_frame("test", dataset, student, teacher)
    assert list(frame["prediction"]) == [1.5, 2.5] and list(frame["teacher_prediction"]) == [1.25, 0.0]
    assert list(frame["loss"]) == [1.0, 0.0] and list(frame["label"]) == [0.5, 2.5]
    assert example_frame("test", dataset, student, None)["teacher_prediction"].dtype == "Float64"


def make_parts(splits, metrics=("accuracy",), label_names=("no", "yes"), **columns):
    """Parts of a task whose splits have these labels."""
    dataset = DatasetDict(
        {
            name: Dataset.from_dict(
                {"text": [f"{name} {i}" for i in range(len(labels))], "label": labels}
                | {"example_id": [str(i) for i in range(len(labels))]}
                | columns
            )
            for name, labels in splits.items()
        }
    )
    task = Task("made-up", dataset, label_names, metrics, (), "0")
    return [Part(name, task, dataset[name], dataset[name]) for name in splits]


def test_evaluate_reads_gaps_on_test():
    parts = make_parts({"train": LABELS, "validation": LABELS, "test": 1 - LABELS})
    parts += [parts[2]._replace(name=name) for name in ("shift/elsewhere", "noise/typos")]
    measured, frame = evaluate(parts, lambda part: STUDENT, lambda part: TEACHER)
    assert list(dict.fromkeys(frame["split"])) == ["train", "validation", "test", "shift/elsewhere", "noise/typos"]
    assert measured["train_score"] == 0.5 and measured["teacher_test_score"] == 0.25
    assert measured["shift/elsewhere/loss"] == measured["noise/typos/loss"] == measured["test_loss"]
    assert measured["generalization_gap"] == measured["test_loss"] - measured["train_loss"] != 0
    assert measured["shift/elsewhere/agreement"] == measured["train_agreement"] == 0.75
    assert {"test_ece", "test_brier", "shift/elsewhere/ece"} <= set(measured)
    alone, _ = evaluate(parts, lambda part: STUDENT, None)
    assert not [name for name in alone if "teacher" in name or "distillation" in name or "agreement" in name]


def test_evaluate_without_test_labels_reads_gaps_on_validation():
    hidden = [-1] * 4
    parts = make_parts(
        {"train": LABELS, "validation": 1 - LABELS, "test": hidden, "validation_mismatched": LABELS},
        metrics=("accuracy", "f1"),
    )

    def logits_of(part):
        assert part.name != "test", "nobody needs these"
        return STUDENT

    measured, frame = evaluate(parts, logits_of, lambda part: TEACHER)
    assert "test" not in set(frame["split"]) and not [name for name in measured if name.startswith("test")]
    assert measured["generalization_gap"] == measured["validation_loss"] - measured["train_loss"] != 0
    assert measured["teacher_validation_score"] == 0.25 and measured["validation_f1"] == 0.5
    assert "validation_mismatched_score" in measured


def test_evaluate_a_regression():
    numbers = [0.0, 1.0, 2.0, 4.5]
    parts = make_parts(
        {"train": numbers, "validation": numbers, "test": [-1.0] * 4}, ("pearson", "spearman"), ("similarity",)
    )
    logits = np.array([[0.5], [1.0], [2.0], [4.0]], np.float32)
    measured, frame = evaluate(parts, lambda part: logits, lambda part: logits + 1)
    assert measured["validation_distillation_loss"] == measured["train_distillation_loss"] == 1
    assert measured["distillation_gap"] == 0 and measured["validation_spearman"] == pytest.approx(1)
    assert not [name for name in measured if "ece" in name or "brier" in name or "agreement" in name]
    assert set(frame["prediction"]) == {0.5, 1.0, 2.0, 4.0}


def test_evaluate_with_human_ratings():
    parts = make_parts({"train": LABELS, "validation": LABELS, "test": LABELS}, ratings=[[-2], [3], [1], [-1]])
    measured, _ = evaluate(parts, lambda part: STUDENT, None)
    assert measured["human_panel_score"] == measured["human_ceiling_score"] == 1
    assert measured["human_entropy"] == 0 and measured["human_loss"] == pytest.approx(measured["test_loss"])


def test_noisy_texts_change_texts_alone():
    words = "a lovely film with a superb cast and such an awful plot that nobody could like it".split()
    generator = np.random.default_rng(0)
    split = Dataset.from_dict(
        {
            "text": [" ".join(generator.permutation(words)) for _ in range(50)],
            "text_pair": [" ".join(generator.permutation(words)) for _ in range(50)],
            "label": list(range(50)),
            "example_id": [f"id {i}" for i in range(50)],
        }
    )
    noisy = noisy_texts(split, ("text", "text_pair"))
    assert set(noisy) == {"noise/typos", "noise/case"}
    for examples in noisy.values():
        assert set(examples.column_names) == set(split.column_names)
        assert list(examples["label"]) == list(split["label"])
        assert list(examples["example_id"]) == list(split["example_id"])
        for column in ("text", "text_pair"):
            pairs = [
                pair
                for row in range(50)
                for pair in zip(examples[column][row].split(), split[column][row].split(), strict=True)
            ]
            assert np.mean([new != old for new, old in pairs]) == pytest.approx(0.1, abs=0.04)
    assert [text.lower() for text in noisy["noise/case"]["text"]] == list(split["text"])
    assert [text.lower() for text in noisy["noise/typos"]["text"]] != list(split["text"])
    again = noisy_texts(split, ("text", "text_pair"))
    assert list(again["noise/typos"]["text"]) == list(noisy["noise/typos"]["text"])
    alone = noisy_texts(split.remove_columns("text_pair"), ("text",))
    assert list(alone["noise/case"]["text"]) == list(noisy["noise/case"]["text"])
