"""The methods as data: which terms a loss has, and with which weights.

    L = mle_weight * CE(y, z_S(x)) + kd_weight * d(z_T(x), z_S(x)) + pkd_weight * PKD(h_T(x), h_S(x))
      + sm_weight * CE(y', z_S(x')) + tmkd_weight * d(z_T(x'), z_S(x'))

where x' is a mixed example, y' its mixed label, d the distance between logits and h the [CLS] states of mapped layers
(for a regression, squared error takes the place of CE). Terms on mixed examples are sums over them divided by
mix_ratio times the number of originals, which is their expected number: a batch's loss is then a sum over its
originals, and does not change when the batch is split.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

Distance = Literal["mse", "kl"]
Partner = Literal["uniform", "batch"]
LamPer = Literal["example", "batch"]
Level = Literal["embeddings"] | int
LayerMap = Literal["skip", "last"] | tuple[int, ...]
Reduction = Literal["sum", "mean"]


def _check_choice(name: str, value: str, choices: Any) -> None:
    names = [choice for part in get_args(choices) for choice in (get_args(part) or (part,)) if isinstance(choice, str)]
    if value not in names:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(names)}")


@dataclass(frozen=True)
class MixupSettings:
    """How mixed examples are drawn.

    Attributes:
        beta_alpha: Parameter a of lam ~ Beta(a, a); positive.
        mix_ratio: Mixed examples per original; not an integer: the expected number, exact over an epoch.
        partner: "uniform": any other training example, whatever the batch; "batch": a random permutation
            inside the batch (which may pair an example with itself).
        lam_per: "example": a coefficient per mixed example; "batch": one that the batch shares.
        level: What is mixed: "embeddings" of words (MixKD), or the states after this layer of the student, from 1
            (manifold mixup, Verma et al. 2019), and after the teacher's layer at the same relative depth.
    """

    beta_alpha: float = 1.0
    mix_ratio: float = 1.0
    partner: Partner = "uniform"
    lam_per: LamPer = "example"
    level: Level = "embeddings"

    def __post_init__(self) -> None:
        _check_choice("partner", self.partner, Partner)
        _check_choice("lam_per", self.lam_per, LamPer)
        if not self.beta_alpha > 0:
            raise ValueError(f"beta_alpha is {self.beta_alpha}; Beta(a, a) needs a > 0")
        if not self.mix_ratio > 0:
            raise ValueError(f"mix_ratio is {self.mix_ratio}; it must be above 0 (use recipe kd or ft for no mixup)")
        if self.level != "embeddings" and (isinstance(self.level, str) or self.level < 1):
            raise ValueError(f"level is {self.level!r}; give `embeddings` or the number of a layer, from 1")


@dataclass(frozen=True)
class PkdSettings:
    """How patient knowledge distillation (Sun et al. 2019) compares hidden states.

    Attributes:
        layers: Teacher layers, from 1, that the student's layers 1, 2, ... copy. "skip": every (T/S)-th layer below the
            last; "last": those just below the last; or the numbers themselves.
        normalize: Whether states are scaled to length 1 first, as in the paper.
        reduction: "sum" over layers and hidden units, as in the paper, or their "mean", as in the published code: the
            mean is smaller by a factor of layers times hidden size (BERT 12 -> 6: 3840).
    """

    layers: LayerMap = "skip"
    normalize: bool = True
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        if isinstance(self.layers, str):
            _check_choice("pkd_layers", self.layers, LayerMap)
        _check_choice("pkd_reduction", self.reduction, Reduction)

    def map_layers(self, teacher_layers: int, student_layers: int) -> tuple[int, ...]:
        """The teacher's layer, from 1, for each of the student's layers 1, 2, ...

        Raises:
            ValueError: If the map is empty or names a layer that is not there.
        """
        self.check(student_layers)
        inner = range(1, student_layers)
        if self.layers == "skip":  # 12 -> 6: 2, 4, 6, 8, 10
            chosen = tuple(round(layer * teacher_layers / student_layers) for layer in inner)
        elif self.layers == "last":  # 12 -> 6: 7, 8, 9, 10, 11
            chosen = tuple(teacher_layers - student_layers + layer for layer in inner)
        else:
            chosen = tuple(self.layers)
        if not all(1 <= layer <= teacher_layers for layer in chosen):
            raise ValueError(f"pkd_layers {list(chosen)} must name layers between 1 and the teacher's {teacher_layers}")
        return chosen

    def check(self, student_layers: int) -> None:
        """Refuse a student that has no layer for the map, or too few.

        Raises:
            ValueError: If so.
        """
        if isinstance(self.layers, str) and student_layers == 1:
            raise ValueError(
                f"pkd_layers={self.layers} maps the layers below the last, and a student of one layer has none; give "
                "the teacher's layer itself, such as [6]"
            )
        if not isinstance(self.layers, str) and not 1 <= len(self.layers) <= student_layers:
            raise ValueError(f"pkd_layers {list(self.layers)} must name 1 to {student_layers} of the teacher's layers")


@dataclass(frozen=True)
class Recipe:
    """Weights of the loss terms, how mixed examples are drawn, and which of the teacher's layers a student starts from.

    `init` is for those who build the student; `DistillationTrainer` takes it as it is.
    """

    mle_weight: float = 1.0
    kd_weight: float = 0.0
    pkd_weight: float = 0.0
    sm_weight: float = 0.0
    tmkd_weight: float = 0.0
    distance: Distance = "mse"
    temperature: float = 1.0
    mixup: MixupSettings = field(default_factory=MixupSettings)
    pkd: PkdSettings = field(default_factory=PkdSettings)
    init: Literal["first", "skip"] = "first"

    def __post_init__(self) -> None:
        _check_choice("distance", self.distance, Distance)
        weights = {name: value for name, value in vars(self).items() if name.endswith("_weight")}
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"{name} is {weight}; weights of losses are not negative")
        if not any(weights.values()):
            raise ValueError("every weight is 0; give the loss at least one term")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")

    @property
    def uses_mixup(self) -> bool:
        """Whether any term needs mixed examples."""
        return self.sm_weight > 0 or self.tmkd_weight > 0

    @property
    def uses_teacher(self) -> bool:
        """Whether any term needs the teacher."""
        return self.kd_weight > 0 or self.pkd_weight > 0 or self.tmkd_weight > 0


#: Every recipe. A term that is on has weight 1; `recipe` changes it. PKD's 0.1 weights a sum over layers and units: 384
#: in the published code's mean for BERT 12 -> 6, whose authors searched 10 to 1000.
RECIPES: dict[str, Recipe] = {
    "ft": Recipe(),
    "kd": Recipe(kd_weight=1.0),
    "pkd": Recipe(kd_weight=1.0, pkd_weight=0.1),
    "distilbert": Recipe(kd_weight=1.0, init="skip"),
    "sm": Recipe(sm_weight=1.0),
    "tmkd": Recipe(tmkd_weight=1.0),
    "sm+tmkd": Recipe(sm_weight=1.0, tmkd_weight=1.0),
    "sm+tmkd+kd": Recipe(sm_weight=1.0, tmkd_weight=1.0, kd_weight=1.0),
}


def recipe(name: str, **changes: Any) -> Recipe:
    """A recipe by name, with some of its settings changed.

    Args:
        name: A key of `RECIPES`.
        changes: Fields of `Recipe` or of `MixupSettings`, e.g. ``tmkd_weight=2.0, beta_alpha=0.4``, or of `PkdSettings`
            with the prefix ``pkd_``, e.g. ``pkd_layers="last"``.

    Raises:
        ValueError: If the name is unknown, or a term's weight is set that the recipe does not have.
        TypeError: If there is no such setting.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    base = RECIPES[name]
    for key, value in changes.items():
        if key.endswith("_weight") and value and not getattr(base, key, 1):
            raise ValueError(f"recipe {name} has no {key.removesuffix('_weight')} term; leave {key} out")
    mixup = {key: changes.pop(key) for key in list(changes) if key in vars(base.mixup)}
    pkd = {key: changes.pop(f"pkd_{key}") for key in vars(base.pkd) if f"pkd_{key}" in changes}
    return replace(base, mixup=replace(base.mixup, **mixup), pkd=replace(base.pkd, **pkd), **changes)
