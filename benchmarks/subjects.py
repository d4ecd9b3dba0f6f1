"""The models that are measured: those of the store's finished runs, else the same architectures built on the spot."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    set_seed,
)

from mixkd.experiment import Experiment
from mixkd.models import build_student, load_classifier
from mixkd.store import Record, Store, content_id

#: all-MiniLM-L6-v2, the embedded teacher.
MINILM = {
    "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "max_position_embeddings": 512, "num_labels": 2,
}  # fmt: skip

#: What can be built on the spot, by what stands before "teacher" and "student" in its name: the teacher's architecture
#: (BERT-base is the default of transformers) and the students' layers.
BUILT: dict[str, tuple[dict[str, int], tuple[int, ...]]] = {
    "": (MINILM, (3, 1)),
    "bert-base-": ({"num_labels": 2}, (6, 3)),
}

#: Of built weights and of the texts.
SEED = 0


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        model: "teacher" or "student", after a prefix of `BUILT`.
        num_layers: Its transformer layers.
        folder: Checkpoint of a finished run; None: to be built.
        task: What it was trained for; None: nothing.
        train_fraction: Share of the training data that it saw; None: nothing.
    """

    model: str
    num_layers: int
    folder: Path | None = None
    task: str | None = None
    train_fraction: float | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the other subjects."""
        return self.model, self.num_layers

    @property
    def origin(self) -> str:
        """Where it comes from: "store" or "built"."""
        return "built" if self.folder is None else "store"


def find_subjects(store: Store) -> list[Subject]:
    """What to measure: the teacher with most finished students and one student (of SM+TMKD) per number of layers.

    Beside a MiniLM, students of three layers and one are built where the store lacks them. Without a finished pair of
    teacher and student whose models are still there, MiniLM's architecture: a teacher and students of three layers and
    one.

    Raises:
        pydantic.ValidationError: If a record does not hold an experiment of this version.
    """
    records = [record for record in store.runs()[0] if (store.model_dir(record.run_id) / "config.json").exists()]
    finished = {record.run_id for record in records}
    students: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.experiment["student_layers"] is not None and (teacher := teacher_id(record)) in finished:
            students[teacher].append(record)
    if not students:
        return built_subjects("")
    teacher = max(sorted(students), key=lambda run_id: len(students[run_id]))
    # Of students with equally many layers, one of the paper's method, which saw most of the data.
    of_layers: dict[int, Record] = {}
    for record in sorted(students[teacher], key=lambda record: _rank(record.experiment)):
        of_layers[record.experiment["student_layers"]] = record
    folder, task = store.model_dir(teacher), students[teacher][0].experiment["task"]
    config = AutoConfig.from_pretrained(folder)
    is_minilm = all(getattr(config, name, None) == size for name, size in MINILM.items() if name != "num_labels")
    return [
        Subject("teacher", config.num_hidden_layers, folder, task, 1.0),
        *(
            Subject("student", layers, store.model_dir(run.run_id), task, run.experiment["train_fraction"])
            for layers, run in sorted(of_layers.items(), reverse=True)
        ),
        *(built for built in built_subjects("")[1:] if is_minilm and built.num_layers not in of_layers),
    ]


def _rank(experiment: Mapping[str, Any]) -> tuple[bool, float, int]:
    return experiment["recipe"] == "sm+tmkd", experiment["train_fraction"], -experiment["init_seed"]


def built_subjects(prefix: str) -> list[Subject]:
    """A teacher and students of `BUILT`."""
    config, students = BUILT[prefix]
    teacher = Subject(f"{prefix}teacher", BertConfig(**config).num_hidden_layers)
    return [teacher, *(Subject(f"{prefix}student", layers) for layers in students)]


def teacher_of(model: str, subjects: list[Subject]) -> Subject:
    """The teacher that a model is compared with; a teacher's is itself."""
    return next(subject for subject in subjects if subject.model == model.replace("student", "teacher"))


def teacher_id(student: Record) -> str:
    """Id of the run that made a student's teacher; data and pretrained weights are those of the student's run."""
    pinned = {name: student.experiment[name] for name in ("data_fingerprint", "teacher_fingerprint")}
    teacher = Experiment(**student.experiment).teacher_experiment().model_copy(update=pinned)
    return content_id(teacher.identity())


def build(folder: Path, prefix: str = "") -> dict[tuple[str, int], Path]:
    """Write checkpoints of `BUILT` with random weights below `folder`: by (model, number of layers)."""
    set_seed(SEED)
    first, *students = built_subjects(prefix)
    teacher = BertForSequenceClassification(BertConfig(**BUILT[prefix][0]))
    folders = {subject.key: folder / f"{subject.model}-{subject.num_layers}" for subject in (first, *students)}
    teacher.save_pretrained(folders[first.key])
    for student in students:
        build_student(teacher, student.num_layers).save_pretrained(folders[student.key])
    return folders


@dataclass(frozen=True)
class Loaded:
    """A subject in memory.

    Attributes:
        subject: Which.
        folder: Its checkpoint.
        model: What is measured, on the device.
        reference: What it must agree with: the same checkpoint as plain transformers loads it, in float64, on the CPU.
    """

    subject: Subject
    folder: Path
    model: PreTrainedModel
    reference: PreTrainedModel


def load(subject: Subject, folder: Path, device: torch.device) -> Loaded:
    """Load what is measured, as the project loads it, and its reference."""
    reference = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval()
    return Loaded(subject, folder, load_as_measured(folder).to(device), reference)


def load_as_measured(folder: Path) -> PreTrainedModel:
    """Load a checkpoint the way the project does: float32, eval mode."""
    return load_classifier(str(folder), list(AutoConfig.from_pretrained(folder).id2label.values()))


def max_length(model: PreTrainedModel) -> int:
    """Tokens of the longest text that a model takes."""
    return int(model.config.max_position_embeddings)


def texts(vocab_size: int, batch_size: int, sequence_length: int) -> dict[str, Tensor]:
    """A batch of random tokens without padding, the same at every call; shapes (batch_size, sequence_length)."""
    generator = torch.Generator().manual_seed(SEED)
    input_ids = torch.randint(vocab_size, (batch_size, sequence_length), generator=generator)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


@torch.inference_mode()
def check_logits(logits: Tensor, reference: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    """Check a float32 model's logits, shape (batch_size, num_classes), against those of its float64 reference.

    The reference answers up to four texts of the batch, spread over it: a text's logits do not depend on the others.

    Raises:
        AssertionError: If a logit is not finite or differs by more than float32 explains.
    """
    assert torch.isfinite(logits).all(), "the model's logits are not finite"
    rows = slice(None, None, max(1, len(logits) // 4))
    expected = reference(**{name: tensor[rows] for name, tensor in batch.items()}).logits
    torch.testing.assert_close(logits[rows].double().cpu(), expected, rtol=1e-4, atol=1e-5)
