import math

import numpy as np
import pytest
from datasets import Dataset

from mixkd.evaluate import add_gaps, example_frame, measure
from mixkd.store import UserError

STUDENT = np.array([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [-1.0, 3.0]], dtype=np.float32)
TEACHER = np.array([[1.0, 0.0], [0.0, 3.0], [0.0, 0.5], [0.0, 1.0]], dtype=np.float32)
LABELS = np.array([0, 1, 1, 0])


def naive_losses(logits, labels):
    return [math.log(sum(math.exp(z - row[label]) for z in row)) for row, label in zip(logits, labels, strict=True)]


def test_measure_by_hand():
    measured = measure(STUDENT, LABELS, "accuracy", TEACHER)
    assert set(measured) == {"score", "loss", "distillation_loss", "agreement"}
    assert measured["score"] == 0.5  # examples 1 and 2
    assert measured["loss"] == pytest.approx(sum(naive_losses(STUDENT, LABELS)) / 4, rel=1e-6)
    squares = [1 + 0, 0 + 4, 0.25 + 0.25, 1 + 4]
    assert measured["distillation_loss"] == pytest.approx(sum(squares) / (4 * 2))
    assert measured["agreement"] == 0.75  # all but example 3
    assert set(measure(STUDENT, LABELS, "accuracy")) == {"score", "loss"}
    assert all(type(value) is float for value in measured.values())


def test_examples_without_labels_cannot_be_measured():
    with pytest.raises(UserError, match="no labels"):
        measure(STUDENT, np.full(4, -1), "accuracy")


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
