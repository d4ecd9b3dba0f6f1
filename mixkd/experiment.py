"""What decides the numbers of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mixkd.recipes import RECIPES, Distance, LamPer, LayerMap, Level, Partner, Recipe, Reduction, recipe


class Experiment(BaseModel):
    """Everything that decides the numbers of one training run, and nothing else.

    A run without `student_layers` fine-tunes the whole model: that is how a teacher is made. Settings that a recipe
    does not use are put back to their defaults, so that one run has one id.

    Attributes:
        task: Name of a task, see `mixkd.tasks`.
        train_fraction: Share of the training examples, in (0, 1].
        augmentation: Rows added to the training examples: none, back-translation or word-dropout.
        bt_engine: What translates: apertium (a command) or marian (models run by transformers).
        bt_pair: Apertium's mode out of English, such as eng-spa; for marian two models, `FORWARD,BACK`.
        bt_sides: For pairs of texts: whether both are translated, or one that is drawn.
        word_dropout_rate: Share of the words that word-dropout leaves out.
        teacher: "minilm", a folder or a hub id.
        teacher_fraction: Share of the training examples the teacher is fine-tuned on.
        teacher_learning_rate: Peak learning rate of the teacher's fine-tuning.
        teacher_num_epochs: Epochs of the teacher's fine-tuning; 0 takes a fine-tuned teacher as it is.
        teacher_batch_size: Examples per optimizer step of the teacher's fine-tuning.
        teacher_seed: Seed of the teacher's fine-tuning.
        student: A pretrained model to start the student from, such as distilbert-base-uncased: a hub id or a folder.
            None: some of the teacher's layers.
        student_layers: Number of the teacher's layers in the student. Without it and `student`, the run fine-tunes
            the teacher itself.
        init: Layers the student starts from: first, last, skip, random, or their indices; None: the recipe's.
        init_from: Whose layers: those of the pretrained model or of the fine-tuned teacher.
        recipe: Name of a recipe, see `mixkd.recipes`; with `+bt` at its end, on back-translated examples too.
        kd_weight: Weight of the distillation term on original examples; None: the recipe's.
        pkd_weight: Weight of the term on hidden states; None: the recipe's.
        pkd_layers: The teacher's layers, from 1, that the student's first ones copy: skip, last, or their numbers.
        pkd_normalize: Whether hidden states are scaled to length 1 first.
        pkd_reduction: Whether squared differences are summed over layers and units, or averaged.
        sm_weight: Weight of the student-mixup term; None: the recipe's.
        tmkd_weight: Weight of the teacher-mixup term; None: the recipe's.
        distance: Distance between logits: mse or kl.
        temperature: Temperature of the kl distance.
        beta_alpha: Parameter a of lam ~ Beta(a, a).
        mix_ratio: Mixed examples per original.
        partner: uniform: any other training example; batch: a permutation of the batch.
        lam_per: Whether each example or each batch has its own lam.
        level: What is mixed: embeddings, or the states after this layer of the student.
        learning_rate: Peak learning rate (linear warm-up and decay).
        num_epochs: Passes over the training examples, augmented ones included.
        best_epoch: Whether the model of the epoch with the best validation score is kept, in place of the last one.
        patience: With best_epoch: stop after this many epochs without a better validation score.
        batch_size: Original examples per optimizer step, over all processes and accumulation steps.
        max_length: Tokens per text or pair; longer ones are cut.
        weight_decay: Of AdamW.
        warmup: Share of the steps over which the learning rate rises.
        length_grouping: Batch texts of similar length, and deal mixed examples to steps by length.
        precision: Of training: fp32 or bf16 (autocast). Evaluation is in fp32.
        teacher_precision: Of the teacher's forward over mixed examples.
        init_seed: Seed of new weights and of dropout.
        data_seed: Seed of the subset, of the order and of mixup.
        data_fingerprint: Hash of texts, labels and splits of the task and its shifted tasks; filled in by `run`.
        teacher_fingerprint: What identifies the teacher's pretrained weights; filled in by `run`.
        student_fingerprint: The same of `student`; filled in by `run`.
        augmentation_fingerprint: Engine and version that translated; filled in by `run`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: str = "vader-movie"
    train_fraction: float = Field(1.0, gt=0, le=1)
    augmentation: Literal["none", "back-translation", "word-dropout"] = "none"
    bt_engine: Literal["apertium", "marian"] = "apertium"
    bt_pair: str = "eng-spa"
    bt_sides: Literal["both", "one"] = "both"
    word_dropout_rate: float = Field(0.1, gt=0, lt=1)
    teacher: str = "minilm"
    teacher_fraction: float = Field(1.0, gt=0, le=1)
    teacher_learning_rate: float = Field(5e-5, gt=0)
    teacher_num_epochs: int = Field(3, ge=0)
    teacher_batch_size: int = Field(32, ge=1)
    teacher_seed: int = Field(0, ge=0)
    student: str | None = None
    student_layers: int | None = Field(None, ge=1)
    init: Literal["first", "last", "skip", "random"] | tuple[int, ...] | None = None
    init_from: Literal["pretrained", "teacher"] = "pretrained"
    recipe: str = "ft"
    kd_weight: float | None = None
    pkd_weight: float | None = None
    pkd_layers: LayerMap = "skip"
    pkd_normalize: bool = True
    pkd_reduction: Reduction = "sum"
    sm_weight: float | None = None
    tmkd_weight: float | None = None
    distance: Distance = "mse"
    temperature: float = 1.0
    beta_alpha: float = 1.0
    mix_ratio: float = 1.0
    partner: Partner = "uniform"
    lam_per: LamPer = "example"
    level: Level = "embeddings"
    learning_rate: float = Field(3e-4, gt=0)
    num_epochs: int = Field(10, ge=0)
    best_epoch: bool = False
    patience: int | None = Field(None, ge=1)
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
    student_fingerprint: str | None = None
    augmentation_fingerprint: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _canonical(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Expand `seed` and `+bt`, take from the recipe what is not given, put what is not used back to its default."""
        values = dict(values)
        if "seed" in values:
            seed = values.pop("seed")
            values = {"init_seed": seed, "data_seed": seed, **values}
        name = str(values.get("recipe", "ft"))
        if name.endswith("+bt"):
            if values.get("augmentation", "none") not in ("none", "back-translation"):
                raise ValueError(f"recipe {name} is back-translation; leave augmentation={values['augmentation']} out")
            name = name.removesuffix("+bt")
            values |= {"recipe": name, "augmentation": "back-translation"}
        if name not in RECIPES:
            raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}, each also with +bt")
        base = RECIPES[name]
        for weight in ("kd_weight", "pkd_weight", "sm_weight", "tmkd_weight"):
            if values.get(weight) is None:
                values[weight] = getattr(base, weight)
            elif values[weight] and not getattr(base, weight):
                raise ValueError(f"recipe {name} has no {weight.removesuffix('_weight')} term; leave {weight} out")
        if values.get("init") is None:
            values["init"] = base.init
        return {key: value for key, value in values.items() if key not in cls._unused(values)}

    @classmethod
    def _unused(cls, values: dict[str, Any]) -> set[str]:
        """Settings that the others leave without a use."""
        unused: set[str] = set()
        if not (values["sm_weight"] or values["tmkd_weight"]):
            unused |= {"beta_alpha", "mix_ratio", "partner", "lam_per", "level"}
        if not (values["kd_weight"] or values["tmkd_weight"]):
            unused |= {"distance", "temperature"}
        if not values["pkd_weight"]:
            unused |= {"pkd_layers", "pkd_normalize", "pkd_reduction"}
        if not values["tmkd_weight"]:
            unused |= {"teacher_precision"}
        if values.get("distance", "mse") == "mse":
            unused |= {"temperature"}
        if values.get("augmentation", "none") != "back-translation":
            unused |= {"bt_engine", "bt_pair", "bt_sides", "augmentation_fingerprint"}
        if values.get("augmentation", "none") != "word-dropout":
            unused |= {"word_dropout_rate"}
        if values.get("student") is not None:
            unused |= {"init", "init_from"}
        elif values.get("student_layers") is None:
            unused |= {key for key in cls.model_fields if key.startswith("teacher_") and key != "teacher_fingerprint"}
            unused |= {"init", "init_from"}
        if values.get("init") == "random":
            unused |= {"init_from"}
        return unused

    @field_validator("task")
    @classmethod
    def _is_known(cls, task: str) -> str:
        from mixkd.cost import SIZES  # not from `tasks`, which takes a second

        if task not in (*SIZES, "custom", "ax"):  # of ax there is more to say, see `mixkd.tasks.load_task`
            raise ValueError(f"there is no task {task!r}: choose one of {', '.join(SIZES)}, custom")
        return task

    @model_validator(mode="after")
    def _is_consistent(self) -> Experiment:
        recipe = self.recipe_object()  # raises if a setting is not valid
        if not self.is_student and recipe.uses_teacher:
            raise ValueError(f"recipe {self.recipe} distils; give the student's student_layers")
        if self.student is not None and self.student_layers is not None:
            raise ValueError("student is a model with layers of its own; leave student_layers out")
        if self.student_layers is not None and recipe.pkd_weight:
            recipe.pkd.check(self.student_layers)
        if self.patience is not None and not self.best_epoch:
            raise ValueError("patience stops at the best epoch; set best_epoch too")
        if self.student_layers is not None and isinstance(self.level, int) and self.level > self.student_layers:
            raise ValueError(f"level {self.level} is above the student's {self.student_layers} layers")
        return self

    @property
    def is_student(self) -> bool:
        """Whether the run distils into another model, in place of fine-tuning the teacher."""
        return self.student is not None or self.student_layers is not None

    def recipe_object(self) -> Recipe:
        """The recipe with this experiment's settings."""
        names = ("kd_weight", "pkd_weight", "sm_weight", "tmkd_weight", "distance", "temperature")
        pkd = ("pkd_layers", "pkd_normalize", "pkd_reduction")
        mixup = ("beta_alpha", "mix_ratio", "partner", "lam_per", "level")
        return recipe(self.recipe, **{name: getattr(self, name) for name in (*names, *pkd, *mixup)})

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
        if not self.is_student:
            return f"{self.task} teacher {Path(self.teacher).name}"
        kind = {"none": "", "back-translation": "+bt", "word-dropout": "+word-dropout"}[self.augmentation]
        model = f"{self.student_layers} layers" if self.student is None else Path(self.student).name
        share = f"{self.train_fraction:.0%} of the data"
        return f"{self.task} {self.recipe}{kind}, {model}, {share}, seed {self.init_seed}"
