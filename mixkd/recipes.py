"""The methods as data: which terms a loss has, and with which weights.

    L = mle_weight * CE(y, z_S(x)) + kd_weight * d(z_T(x), z_S(x))
      + sm_weight * CE(y', z_S(x')) + tmkd_weight * d(z_T(x'), z_S(x'))

where x' is a mixed example, y' its mixed label and d the distance between logits. Terms on mixed examples are sums
over them divided by mix_ratio times the number of originals, which is their expected number: a batch's loss is
then a sum over its originals, and does not change when the batch is split.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

Distance = Literal["mse", "kl"]
Partner = Literal["uniform", "batch"]
LamPer = Literal["example", "batch"]


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(get_args(choices))}")


@dataclass(frozen=True)
class MixupSettings:
    """How mixed examples are drawn.

    Attributes:
        beta_alpha: Parameter a of lam ~ Beta(a, a); positive.
        mix_ratio: Mixed examples per original; not an integer: the expected number, exact over an epoch.
        partner: "uniform": any other training example, whatever the batch; "batch": a random permutation
            inside the batch (which may pair an example with itself).
        lam_per: "example": a coefficient per mixed example; "batch": one that the batch shares.
    """

    beta_alpha: float = 1.0
    mix_ratio: float = 1.0
    partner: Partner = "uniform"
    lam_per: LamPer = "example"

    def __post_init__(self) -> None:
        _check_choice("partner", self.partner, Partner)
        _check_choice("lam_per", self.lam_per, LamPer)
        if not self.beta_alpha > 0:
            raise ValueError(f"beta_alpha is {self.beta_alpha}; Beta(a, a) needs a > 0")
        if not self.mix_ratio > 0:
            raise ValueError(f"mix_ratio is {self.mix_ratio}; it must be above 0 (use recipe kd or ft for no mixup)")


@dataclass(frozen=True)
class Recipe:
    """Weights of the loss terms, and how mixed examples are drawn."""

    mle_weight: float = 1.0
    kd_weight: float = 0.0
    sm_weight: float = 0.0
    tmkd_weight: float = 0.0
    distance: Distance = "mse"
    temperature: float = 1.0
    mixup: MixupSettings = field(default_factory=MixupSettings)

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
        return self.kd_weight > 0 or self.tmkd_weight > 0


#: Every recipe by the name of its terms. A term that is on has weight 1; `recipe` changes it.
RECIPES: dict[str, Recipe] = {
    "ft": Recipe(),
    "kd": Recipe(kd_weight=1.0),
    "sm": Recipe(sm_weight=1.0),
    "tmkd": Recipe(tmkd_weight=1.0),
    "sm+tmkd": Recipe(sm_weight=1.0, tmkd_weight=1.0),
    "sm+tmkd+kd": Recipe(sm_weight=1.0, tmkd_weight=1.0, kd_weight=1.0),
}


def recipe(name: str, **changes: Any) -> Recipe:
    """A recipe by name, with some of its settings changed.

    Args:
        name: A key of `RECIPES`.
        changes: Fields of `Recipe` or of `MixupSettings`, e.g. ``tmkd_weight=2.0, beta_alpha=0.4``.

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
    return replace(base, mixup=replace(base.mixup, **mixup), **changes)
