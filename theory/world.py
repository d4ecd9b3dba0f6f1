"""A world: input law p, teacher f, student class and the population moments of their squared loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from theory.laws import Law
from theory.moments import Array, Moments

Learner = Literal["ball_erm", "min_norm", "ridge", "gradient_flow", "network"]

#: Entropy of the random teachers and features: they belong to the world, not to a cell.
WORLD_SEED = 20201106


@dataclass(frozen=True, eq=False)
class World:
    """Input law, teacher, students w'phi(x), and how a student is learned from a sample.

    Attributes:
        law: Law of the inputs.
        teacher: Labels of inputs, (..., d) -> (...).
        features: phi, (..., d) -> (..., D).
        population: Moments of (phi(x), f(x)) under the law, exact up to rounding (tanh teachers: quadrature, 1e-12).
            Networks have none of their own: their risk is that on `test_inputs`.
        learner: How a student is found: least squares over the ball, of least norm, with a ridge, along its
            gradient flow, or by gradient descent on a two-layer network.
        mixed_population: Moments under q, for a of lam ~ Beta(a, a), where they are known in closed form.
        radius: Students of the uniform deviation: ||w - center|| <= radius; None where there is no class.
        center: Centre of the ball, shape (D,); None is the origin.
        teacher_weights: The w with f = w'phi, shape (D,), where the teacher is inside the class.
        feature_bound: sup ||phi||, where finite.
        teacher_bound: sup |f|, where finite.
        ridge_penalty: Coefficient of ||w||^2 beside the mean squared loss.
        keep_weights: Whether the learned weights are part of the evidence.
        test_inputs: Inputs on which the risk of networks is measured, shape (K, d).
        num_units: Width of networks.
        num_steps: Steps of their gradient descent.

    Raises:
        ValueError: If radius or ridge_penalty is not positive.
    """

    law: Law
    teacher: Callable[[Array], Array]
    features: Callable[[Array], Array]
    population: Moments
    learner: Learner
    mixed_population: Callable[[float], Moments] | None = None
    radius: float | None = None
    center: Array | None = None
    teacher_weights: Array | None = None
    feature_bound: float | None = None
    teacher_bound: float | None = None
    ridge_penalty: float = 1e-3
    keep_weights: bool = False
    test_inputs: Array | None = None
    num_units: int = 32
    num_steps: int = 1500

    def __post_init__(self) -> None:
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"radius must be positive, got {self.radius}")
        if not self.ridge_penalty > 0:
            raise ValueError(f"ridge_penalty must be positive, got {self.ridge_penalty}")

    @property
    def dimension(self) -> int:
        """Number of coordinates d of an input."""
        return self.law.dimension

    def draw(self, generator: np.random.Generator, num_samples: int) -> Array:
        """Independent inputs from p, shape (num_samples, d)."""
        return self.law.draw(generator, num_samples)
