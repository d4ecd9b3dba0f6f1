import json
import shlex
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard
from sklearn.metrics import matthews_corrcoef
from statsmodels.stats.proportion import proportion_confint

from mixkd.card import command, measured_latency, model_card, score_interval
from mixkd.commands import COMMANDS
from mixkd.experiment import Experiment
from mixkd.parser import build_parser, with_experiment
from mixkd.store import Provenance, Record, content_id
from mixkd.tasks import Task

PROVENANCE = Provenance(
    commit="abc123", dirty=True, versions={"torch": "2.9"}, python="3.11.7", platform="Linux", processor="A `chip`",
    device="cpu", num_threads=1, seeds={}, command="mixkd train", wall_time_s=1,
    started_at=datetime.now(UTC).isoformat(),
)  # fmt: skip
MEASURED = {"num_parameters": 17_360_000, "num_embedding_parameters": 11_920_000, "num_train_examples": 702}


def make_task(name="vader-movie", label_names=("negative", "positive"), metrics=("accuracy",), notes=(), test=(0, 1)):
    labels = {"train": [0, 1], "validation": [0, 1], "test": list(test)}
    splits = {
        split: Dataset.from_dict({"text": ["a", "b"], "label": of_split, "example_id": ["0", "1"]})
        for split, of_split in labels.items()
    }
    return Task(name, DatasetDict(splits), label_names, metrics, (), "0", notes)


def make_record(experiment, **measured):
    identity = experiment.identity()
    return Record(
        run_id=content_id(identity), experiment=identity, provenance=PROVENANCE, measurements=MEASURED | measured,
        history=[],
    )  # fmt: skip


def make_examples(split="test", right=80, teacher_right=90, total=100):
    def answers(number):
        return [1] * number + [0] * (total - number)

    frame = pd.DataFrame({"split": split, "label": 1, "prediction": answers(right)})
    return frame.assign(teacher_prediction=pd.array(answers(teacher_right), dtype="Int64"))


def student(**changes):
    return Experiment(**({"recipe": "sm+tmkd", "student_layers": 3, "teacher_fingerprint": "minilm"} | changes))


def test_the_head_is_metadata_that_the_hub_reads():
    card = ModelCard(model_card(make_record(student()), make_task(), make_examples()), ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["mixkd", "knowledge-distillation"],
        "metrics": ["accuracy"],
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
    }
    assert "license" not in card.content.lower() and "licence" not in card.content.lower()


def test_metadata_of_glue_from_a_hub_model():
    experiment = student(task="cola", teacher="bert-base-uncased", teacher_fingerprint="bert-base-uncased")
    task = make_task("cola", ("unacceptable", "acceptable"), ("matthews",), test=(-1, -1))
    text = model_card(make_record(experiment), task, make_examples("validation"))
    data = ModelCard(text).data
    assert data.base_model == "bert-base-uncased" and data.datasets == ["nyu-mll/glue"]
    assert data.metrics == ["matthews_correlation"]
    assert "The labels of test are not public: scores are of validation." in text
    chosen = model_card(
        make_record(experiment.model_copy(update={"best_epoch": True})), task, make_examples("validation")
    )
    assert "optimistic" in chosen and "optimistic" not in text
    checkpoint = student(student="distilbert-base-uncased", student_layers=None, student_fingerprint="d")
    assert ModelCard(model_card(make_record(checkpoint), make_task(), make_examples())).data.base_model == (
        "distilbert-base-uncased"
    )


def test_a_folder_is_no_base_model():
    for experiment in (
        student(teacher="my-bert", teacher_fingerprint="sha256:0"),
        student(student="mine", student_layers=None, student_fingerprint="sha256:0"),
    ):
        text = model_card(make_record(experiment), make_task(), make_examples())
        assert "base_model" not in ModelCard(text).data.to_dict()


def test_a_students_card_says_what_was_done():
    experiment = student(
        train_fraction=0.1, tmkd_weight=2.5, recipe="sm+tmkd+bt", beta_alpha=0.4, init="skip", init_from="teacher"
    )
    record = make_record(experiment, num_augmented_kept=650, human_single_score=0.9427, human_panel_score=0.9961)
    examples = pd.concat(
        [
            make_examples("train", 100),
            make_examples("validation", 70),
            make_examples("test"),
            make_examples("noise/typos"),
        ]
    )
    text = model_card(record, make_task(notes=("3 rows of `train` have no text",)), examples, latency="2.0 ms.")
    for part in (
        "# vader-movie: student, sm+tmkd",
        "1 x loss against the labels, original examples; "
        "1 x loss against mixed labels, mixed examples (student mixup); "
        "2.5 x distance to the teacher (squared difference of logits), mixed examples (teacher mixup).",
        "lam ~ Beta(0.4, 0.4) per example",
        "3 layers (the teacher's, skip, as they were after its fine-tuning)",
        "Training examples: 702 (share: 0.1)",
        "Augmentation: back-translation (kept 650)",
        "`` 3 rows of `train` have no text ``",
        "Parameters: 17.36M, of which embeddings 11.92M.",
        "Latency: 2.0 ms.",
        "one rater scores 0.943 against them, a second panel of raters 0.996",
        "abc123 with local changes",
        "`` A `chip` ``",
        "One seed",
        f"Run `{record.run_id}`",
        f"    {command(experiment)}\n",
    ):
        assert part in text
    table = [line for line in text.splitlines() if line.startswith("| ")][2:]
    low, high = proportion_confint(80, 100, method="wilson")
    assert table[0] == f"| test | 100 | accuracy | 0.800 ({low:.3f} to {high:.3f}) | 0.900 (0.826 to 0.945) |"
    assert [line.split(" | ")[0] for line in table] == ["| test", "| validation", "| noise/typos"]


def test_a_teachers_card():
    examples = make_examples().assign(teacher_prediction=pd.array([None] * 100, dtype="Int64"))
    text = model_card(make_record(Experiment(teacher_fingerprint="minilm")), make_task(), examples)
    assert "# vader-movie: teacher, ft" in text and "All layers of `minilm`, fine-tuned." in text
    assert "Loss: 1 x loss against the labels, original examples." in text and "not measured" in text
    assert "knowledge-distillation" not in ModelCard(text).data.tags
    row = next(line for line in text.splitlines() if line.startswith("| test"))
    assert row.endswith("(0.711 to 0.867) |  |")  # nothing beside it


def test_a_regressions_card():
    generator = np.random.default_rng(0)
    labels = generator.random(60) * 5
    frame = pd.DataFrame({"split": "validation", "label": labels, "prediction": labels + generator.normal(size=60)})
    frame["teacher_prediction"] = pd.array(labels, dtype="Float64")
    task = make_task("stsb", ("similarity",), ("pearson", "spearman"), test=(-1.0, -1.0))
    text = model_card(make_record(student(task="stsb")), task, frame)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| validation")]
    assert [row[2] for row in rows] == ["pearsonr", "spearmanr"] and "Task: stsb; number: `similarity`." in text
    assert float(rows[0][3][:5]) == pytest.approx(np.corrcoef(labels, frame["prediction"])[0, 1], abs=6e-4)
    assert rows[0][4] == "1.000 (1.000 to 1.000) |"


NASTY = ("a: b\n---\nlicense: evil", "`|` <script> [x](y) **z**", "``` --- #", "\u2028{{ x }}")


def test_names_from_the_data_are_no_markup():
    experiment = student(task="custom", teacher="x: [y\n---", teacher_fingerprint="hub")
    text = model_card(make_record(experiment), make_task("custom", NASTY), make_examples())
    card = ModelCard(text)
    assert card.data.base_model == "x: [y\n---" and "license" not in card.data.to_dict()
    line = next(line for line in text.splitlines() if line.startswith("- Task"))
    assert "``` `|` <script>" not in line and "`` `|` <script> [x](y) **z** ``" in line
    assert "```` ``` --- # ````" in line and "`a: b --- license: evil`" in line
    body = text.split("\n---\n", 1)[1]
    assert "\n---" not in body and "\nlicense" not in body


@pytest.mark.parametrize(
    "experiment",
    [
        Experiment(),
        student(seed=3, train_fraction=0.02),
        student(recipe="pkd", pkd_layers=(2, 4), pkd_weight=10.0, pkd_normalize=False, learning_rate=1e-4),
        student(recipe="distilbert", best_epoch=True, patience=2),
        student(recipe="sm+tmkd+kd+bt", bt_sides="one", beta_alpha=0.4, level=2, init=(0, 2, 5), kd_weight=0.5),
        student(recipe="kd", distance="kl", temperature=2.0, student="a b/c'd", student_layers=None),
        student(task="mnli", teacher="bert-base-uncased", teacher_num_epochs=0),
    ],
)
def test_the_command_does_the_same_experiment(experiment):
    words = shlex.split(command(experiment))
    parsed = build_parser(COMMANDS).parse_args(words[1:])
    options = {key: value for key, value in vars(parsed.train).items() if key != "config"}
    again = with_experiment(options)["experiment"]
    plain = {"teacher_fingerprint": None, "student_fingerprint": None}
    assert again == experiment.model_copy(update=plain)
    assert command(again) == command(experiment)


def test_the_command_is_short():
    assert command(Experiment()) == "mixkd train"
    assert command(student(seed=1)) == "mixkd train --student_layers 3 --recipe sm+tmkd --init_seed 1 --data_seed 1"


def test_intervals_against_their_known_size():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 400)
    predictions = np.where(generator.random(400) < 0.85, labels, 1 - labels)
    assert score_interval("accuracy", labels, predictions) == pytest.approx(
        proportion_confint((labels == predictions).sum(), 400, method="wilson")
    )
    low, high = score_interval("matthews", labels, predictions)
    score = matthews_corrcoef(labels, predictions)
    # With balanced classes Matthews' correlation is 2 accuracy - 1, whose standard error is known.
    error = 2 * np.sqrt(0.85 * 0.15 / 400)
    assert low < score < high and (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.15)
    numbers = generator.normal(size=(2, 400))
    x, y = numbers[0], 0.6 * numbers[0] + 0.8 * numbers[1]
    low, high = np.arctanh(score_interval("pearson", x, y))  # Fisher's z has standard error 1 / sqrt(n - 3)
    assert (high - low) * np.sqrt(397) / (2 * 1.96) == pytest.approx(1, abs=0.15)
    assert score_interval("pearson", x, y) == score_interval("pearson", x, y)


def test_measured_latency(tmp_path):
    assert measured_latency(tmp_path, 100) is None

    def case(batch_size, num_parameters=100, kind="latency", **more):
        return {"extra_info": {
            "kind": kind, "num_parameters": num_parameters, "batch_size": batch_size, "sequence_length": 32,
            "p50_s": 0.004 * batch_size, "dtype": "float32", "device": "cpu", "num_threads": 1,
            "speedup_vs_teacher": 1.944,
        } | more}  # fmt: skip

    cases = [case(8), case(1, 99), case(1, kind="size"), case(1, p50_s=None), case(2)]
    (tmp_path / "b.json").write_text(json.dumps({"benchmarks": cases}))
    assert measured_latency(tmp_path, 100) == (
        "8.0 ms per batch of 2 with 32 tokens, median, float32, on `cpu`, threads: 1, 1.94 times as fast as "
        "the teacher; measured on a model of the same architecture."
    )
    assert measured_latency(tmp_path, 7) is None
    for name, text in (
        ("torn", "{"),
        ("foreign", '{"benchmarks": [{"extra_info": {"kind": "latency"}}]}'),
        ("old", "{}"),
    ):
        (tmp_path / f"{name}.json").write_text(text)
    assert "batch of 2" in measured_latency(tmp_path, 100)  # the report names the others
    (tmp_path / "b.json").write_text(json.dumps({"benchmarks": [case(1, device="A GPU", speedup_vs_teacher=None)]}))
    assert "on `A GPU`; measured" in measured_latency(tmp_path, 100)
