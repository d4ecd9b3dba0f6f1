"""What decides the numbers of a training run, and how it is run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixkd.recipes import RECIPES, Distance, LamPer, Partner, Recipe, recipe
from mixkd.store import Record, Store, UserError, content_id, explaining_full_disk

if TYPE_CHECKING:
    from mixkd.tasks import Task

#: Told how far a run is: share done in [0, 1], and what it is doing.
Report = Callable[[float, str], None]


class Experiment(BaseModel):
    """Everything that decides the numbers of one training run, and nothing else.

    A run without `student_layers` fine-tunes the whole model: that is how a teacher is made. Settings that a recipe
    does not use are put back to their defaults, so that one run has one id.

    Attributes:
        task: Name of a task, see `mixkd.tasks`.
        train_fraction: Share of the training examples, in (0, 1].
        teacher: "minilm", a folder or a hub id.
        teacher_fraction: Share of the training examples the teacher is fine-tuned on.
        teacher_learning_rate: Peak learning rate of the teacher's fine-tuning.
        teacher_num_epochs: Epochs of the teacher's fine-tuning; 0 takes a fine-tuned teacher as it is.
        teacher_batch_size: Examples per optimizer step of the teacher's fine-tuning.
        teacher_seed: Seed of the teacher's fine-tuning.
        student_layers: Number of layers of the student; None: all of them, which is the teacher itself.
        init: Layers the student starts from: first, last, skip, random, or their indices.
        init_from: Whose layers: those of the pretrained model or of the fine-tuned teacher.
        recipe: Name of a recipe, see `mixkd.recipes`.
        kd_weight: Weight of the distillation term on original examples; None: the recipe's.
        sm_weight: Weight of the student-mixup term; None: the recipe's.
        tmkd_weight: Weight of the teacher-mixup term; None: the recipe's.
        distance: Distance between logits: mse or kl.
        temperature: Temperature of the kl distance.
        beta_alpha: Parameter a of lam ~ Beta(a, a).
        mix_ratio: Mixed examples per original.
        partner: uniform: any other training example; batch: a permutation of the batch.
        lam_per: Whether each example or each batch has its own lam.
        learning_rate: Peak learning rate (linear warm-up and decay).
        num_epochs: Passes over the training examples.
        batch_size: Original examples per optimizer step, over all processes and accumulation steps.
        max_length: Tokens per text or pair; longer ones are cut.
        weight_decay: Of AdamW.
        warmup: Share of the steps over which the learning rate rises.
        length_grouping: Batch texts of similar length.
        precision: Of training: fp32 or bf16 (autocast). Evaluation is in fp32.
        teacher_precision: Of the teacher's forward over mixed examples.
        init_seed: Seed of new weights and of dropout.
        data_seed: Seed of the subset, of the order and of mixup.
        data_fingerprint: Hash of texts, labels and splits of the task and its shifted tasks; filled in by `run`.
        teacher_fingerprint: What identifies the teacher's pretrained weights; filled in by `run`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: str = "vader-movie"
    train_fraction: float = Field(1.0, gt=0, le=1)
    teacher: str = "minilm"
    teacher_fraction: float = Field(1.0, gt=0, le=1)
    teacher_learning_rate: float = Field(5e-5, gt=0)
    teacher_num_epochs: int = Field(3, ge=0)
    teacher_batch_size: int = Field(32, ge=1)
    teacher_seed: int = Field(0, ge=0)
    student_layers: int | None = Field(None, ge=1)
    init: Literal["first", "last", "skip", "random"] | tuple[int, ...] = "first"
    init_from: Literal["pretrained", "teacher"] = "pretrained"
    recipe: str = "ft"
    kd_weight: float | None = None
    sm_weight: float | None = None
    tmkd_weight: float | None = None
    distance: Distance = "mse"
    temperature: float = 1.0
    beta_alpha: float = 1.0
    mix_ratio: float = 1.0
    partner: Partner = "uniform"
    lam_per: LamPer = "example"
    learning_rate: float = Field(3e-4, gt=0)
    num_epochs: int = Field(10, ge=0)
    batch_size: int = Field(32, ge=1)
    max_length: int = Field(128, ge=4)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    length_grouping: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    teacher_precision: Literal["fp32", "bf16"] = "fp32"
    init_seed: int = Field(0, ge=0)
    data_seed: int = Field(0, ge=0)
    data_fingerprint: str | None = None
    teacher_fingerprint: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _canonical(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Expand `seed`, take weights from the recipe, and put what is not used back to its default."""
        values = dict(values)
        if "seed" in values:
            seed = values.pop("seed")
            values = {"init_seed": seed, "data_seed": seed, **values}
        name = values.get("recipe", "ft")
        if name not in RECIPES:
            raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
        base = RECIPES[name]
        for weight in ("kd_weight", "sm_weight", "tmkd_weight"):
            if values.get(weight) is None:
                values[weight] = getattr(base, weight)
            elif values[weight] and not getattr(base, weight):
                raise ValueError(f"recipe {name} has no {weight.removesuffix('_weight')} term; leave {weight} out")
        unused: list[str] = []
        if not (values["sm_weight"] or values["tmkd_weight"]):
            unused += ["beta_alpha", "mix_ratio", "partner", "lam_per"]
        if not (values["kd_weight"] or values["tmkd_weight"]):
            unused += ["distance", "temperature"]
        if not values["tmkd_weight"]:
            unused += ["teacher_precision"]
        if values.get("distance", "mse") == "mse":
            unused += ["temperature"]
        if values.get("student_layers") is None:
            unused += [key for key in cls.model_fields if key.startswith("teacher_") and key != "teacher_fingerprint"]
            unused += ["init", "init_from"]
        if values.get("init") == "random":
            unused += ["init_from"]
        return {key: value for key, value in values.items() if key not in unused}

    @model_validator(mode="after")
    def _recipe_is_valid(self) -> Experiment:
        uses_teacher = self.recipe_object().uses_teacher  # raises if a setting is not valid
        if self.student_layers is None and uses_teacher:
            raise ValueError(f"recipe {self.recipe} distils; give the student's student_layers")
        return self

    def recipe_object(self) -> Recipe:
        """The recipe with this experiment's settings."""
        names = ("kd_weight", "sm_weight", "tmkd_weight", "distance", "temperature")
        mixup = ("beta_alpha", "mix_ratio", "partner", "lam_per")
        return recipe(self.recipe, **{name: getattr(self, name) for name in (*names, *mixup)})

    def teacher_experiment(self) -> Experiment:
        """The run that makes this student's teacher."""
        return Experiment(
            task=self.task,
            train_fraction=self.teacher_fraction,
            teacher=self.teacher,
            recipe="ft",
            learning_rate=self.teacher_learning_rate,
            num_epochs=self.teacher_num_epochs,
            batch_size=self.teacher_batch_size,
            max_length=self.max_length,
            length_grouping=self.length_grouping,
            precision=self.precision,
            init_seed=self.teacher_seed,
            data_seed=self.teacher_seed,
        )

    def identity(self) -> dict[str, Any]:
        """The experiment as plain JSON, whose hash is the run id."""
        return self.model_dump(mode="json")

    def label(self) -> str:
        """A short name for people."""
        if self.student_layers is None:
            return f"{self.task} teacher {Path(self.teacher).name}"
        share = f"{self.train_fraction:.0%} of the data"
        return f"{self.task} {self.recipe}, {self.student_layers} layers, {share}, seed {self.init_seed}"


def pin(experiment: Experiment, data_dir: str | Path | None = None) -> Experiment:
    """The experiment with the content of its data and of its teacher in place of where they are read from."""
    from mixkd.models import checkpoint_fingerprint
    from mixkd.tasks import load_task

    task = load_task(experiment.task, data_dir)
    fingerprints = {name: load_task(name, data_dir).fingerprint for name in (task.name, *task.shifted)}
    folder = Path(experiment.teacher).expanduser()
    return experiment.model_copy(
        update={
            "data_fingerprint": content_id(fingerprints),
            "teacher_fingerprint": checkpoint_fingerprint(experiment.teacher),
            "teacher": folder.name if folder.is_dir() else experiment.teacher,
        }
    )


def run(
    experiment: Experiment,
    store: Store | str | Path = "results",
    *,
    data_dir: str | Path | None = None,
    device: str | None = None,
    gradient_accumulation_steps: int = 1,
    force: bool = False,
    report: Report | None = None,
) -> Record:
    """Train, evaluate and record one experiment; a finished one is read, an interrupted one resumed.

    A student's teacher is trained, or reused, first. Two processes never do the same run: the second waits.

    Args:
        experiment: What to run.
        store: Folder of the evidence.
        data_dir: Folder with the task's files, in place of the pinned asset.
        device: "cpu" or "cuda"; None: CUDA if there is one.
        gradient_accumulation_steps: Micro-batches per optimizer step; `batch_size` is what they add up to.
        force: Compute again, and overwrite, what is there.
        report: Told about progress.

    Raises:
        UserError: If data, teacher or record cannot be used, or the training diverges.
    """
    from mixkd.tasks import load_task

    if isinstance(store, str | Path):
        store = Store(store)
    pinned = pin(experiment, data_dir)
    run_id = content_id(pinned.identity())
    report = report or (lambda share, message: None)
    if not force and (record := store.load_run(run_id)):
        return record
    # Processes of one distributed run share the lock that their first one holds.
    with store.lock(run_id) if os.environ.get("RANK", "0") == "0" else nullcontext():
        if not force and (record := store.load_run(run_id)):  # finished while this process waited
            return record
        teacher_run, start = None, 0.0
        if experiment.student_layers is not None:

            def report_teacher(share: float, message: str) -> None:
                nonlocal start
                start = 0.5  # half the work, if it has to be trained
                report(start * share, f"teacher, {message}")

            teacher = run(
                experiment.teacher_experiment(), store, data_dir=data_dir, device=device, report=report_teacher
            )
            check_teacher(teacher, load_task(experiment.task, data_dir))
            teacher_run = teacher.run_id
        from mixkd.training import train_and_record

        with explaining_full_disk(store.root):
            return train_and_record(
                experiment,
                pinned,
                store,
                teacher_run,
                data_dir,
                device,
                gradient_accumulation_steps,
                report=lambda share, message: report(start + (1 - start) * share, message),
            )


def check_teacher(teacher: Record, task: Task) -> None:
    """Refuse to distil from a teacher that has learned nothing (or whose labels are in another order).

    Raises:
        UserError: If its validation score is not above that of the commonest class.
    """
    from collections import Counter

    labels = Counter(task.dataset["validation"]["label"])
    commonest = max(labels.values()) / sum(labels.values())
    score = teacher.measurements["validation_score"]
    if score <= commonest:
        raise UserError(
            f"The teacher (run {teacher.run_id}) scores {score:.3f} on validation, no better than always answering "
            f"the commonest class ({commonest:.3f}); check its labels, or train it longer or on more data."
        )
