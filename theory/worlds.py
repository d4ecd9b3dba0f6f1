"""Worlds: input law p, teacher f, student class and the exact population moments of their squared loss.

W1 to W5 are those of the theory document; "W4 affine" is W4's teacher with an affine student.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations_with_replacement
from typing import Literal

import numpy as np
import numpy.typing as npt

from theory.moments import (
    Moments,
    cosine_gram,
    mixed_raw_moments,
    polynomial_moments,
    tanh_cosine,
    tanh_gram,
    tanh_linear,
)

Array = npt.NDArray[np.float64]
Law = Literal["uniform", "normal"]
Learner = Literal["ball_erm", "min_norm", "ridge"]

#: E x^k, k = 0..4, of one coordinate under U[-1, 1] and N(0, 1).
RAW_MOMENTS: Mapping[Law, Array] = {
    "uniform": np.array([1.0, 0.0, 1 / 3, 0.0, 1 / 5]),
    "normal": np.array([1.0, 0.0, 1.0, 0.0, 3.0]),
}

#: Entropy of the random teachers and features: they belong to the world, not to a cell.
WORLD_SEED = 20201106


@dataclass(frozen=True, eq=False)
class Monomials:
    """All features (1, x)_i (1, x)_j of the given index pairs, so of degree at most 2.

    Attributes:
        left: Index i of each feature into (1, x), shape (D,).
        right: Index j, shape (D,).
        dimension: d.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    dimension: int

    def __call__(self, inputs: Array) -> Array:
        """Features of inputs, shape (..., d) -> (..., D)."""
        with_one = np.concatenate([np.ones((*inputs.shape[:-1], 1)), inputs], axis=-1)
        right = with_one[..., self.right]
        return right * with_one[..., self.left] if any(self.left) else right

    @property
    def exponents(self) -> npt.NDArray[np.intp]:
        """Exponent of each coordinate in each feature, shape (D, d)."""
        identity = np.eye(self.dimension + 1, dtype=np.intp)
        return (identity[list(self.left)] + identity[list(self.right)])[:, 1:]


def linear_features(dimension: int) -> Monomials:
    """phi(x) = x."""
    return Monomials((0,) * dimension, tuple(range(1, dimension + 1)), dimension)


def affine_features(dimension: int) -> Monomials:
    """phi(x) = (1, x)."""
    return Monomials((0,) * (dimension + 1), tuple(range(dimension + 1)), dimension)


def quadratic_features(dimension: int) -> Monomials:
    """All (d + 1)(d + 2) / 2 monomials up to degree 2: 1, x_1, .., x_d, x_1^2, x_1 x_2, .., x_d^2."""
    left, right = zip(*combinations_with_replacement(range(dimension + 1), 2), strict=True)
    return Monomials(left, right, dimension)


@dataclass(frozen=True, eq=False)
class Cosines:
    """phi_j(x) = sqrt(2 / D) cos(u_j'x + b_j): random Fourier features (Rahimi & Recht 2007).

    Attributes:
        frequencies: Columns u_j, shape (d, D).
        phases: b_j, shape (D,).
    """

    frequencies: Array
    phases: Array

    def __call__(self, inputs: Array) -> Array:
        """Features of inputs, shape (..., d) -> (..., D)."""
        return self.scale * np.cos(inputs @ self.frequencies + self.phases)

    @property
    def scale(self) -> float:
        """The factor sqrt(2 / D)."""
        return float(np.sqrt(2.0 / len(self.phases)))


@dataclass(frozen=True, eq=False)
class PolynomialTeacher:
    """f(x) = coefficients' monomials(x)."""

    monomials: Monomials
    coefficients: Array

    def __call__(self, inputs: Array) -> Array:
        """Labels of inputs, shape (..., d) -> (...)."""
        return self.monomials(inputs) @ self.coefficients


@dataclass(frozen=True, eq=False)
class TanhTeacher:
    """f(x) = 2 sum_k v_k tanh(2 w_k'x).

    Attributes:
        directions: Columns w_k, shape (d, T).
        amplitudes: v_k, shape (T,).
    """

    directions: Array
    amplitudes: Array

    def __call__(self, inputs: Array) -> Array:
        """Labels of inputs, shape (..., d) -> (...)."""
        return 2.0 * np.tanh(2.0 * (inputs @ self.directions)) @ self.amplitudes


@dataclass(frozen=True, eq=False)
class World:
    """Input law, teacher, students w'phi(x), and how a student is learned from a sample.

    Attributes:
        law: Law of each independent coordinate: U[-1, 1] or N(0, 1).
        dimension: d.
        teacher: Labels of inputs, (..., d) -> (...).
        features: phi, (..., d) -> (..., D).
        population: Moments of (phi(x), f(x)) under the law, exact up to rounding (W4: quadrature, 1e-12).
        learner: How w is found: least squares over the ball, of least norm, or with a ridge.
        radius: Students of the uniform deviation: ||w - center|| <= radius; None where there is no class.
        center: Centre of the ball, shape (D,); None is the origin.
        teacher_weights: The w with f = w'phi, shape (D,), where the teacher is inside the class.
        feature_bound: sup ||phi||, where finite.
        teacher_bound: sup |f|, where finite.
        ridge_penalty: Coefficient of ||w||^2 beside the mean squared loss.
        keep_weights: Whether the learned weights are part of the evidence.

    Raises:
        ValueError: If radius or ridge_penalty is not positive.
    """

    law: Law
    dimension: int
    teacher: Callable[[Array], Array]
    features: Callable[[Array], Array]
    population: Moments
    learner: Learner
    radius: float | None = None
    center: Array | None = None
    teacher_weights: Array | None = None
    feature_bound: float | None = None
    teacher_bound: float | None = None
    ridge_penalty: float = 1e-3
    keep_weights: bool = False

    def __post_init__(self) -> None:
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"radius must be positive, got {self.radius}")
        if not self.ridge_penalty > 0:
            raise ValueError(f"ridge_penalty must be positive, got {self.ridge_penalty}")

    def draw(self, generator: np.random.Generator, num_samples: int) -> Array:
        """Independent inputs from p, shape (num_samples, d)."""
        if self.law == "uniform":
            return generator.uniform(-1.0, 1.0, size=(num_samples, self.dimension))
        return generator.standard_normal((num_samples, self.dimension))


def monomial_moments(
    features: Monomials, teacher: PolynomialTeacher, law: Law, beta_alpha: float | None = None
) -> Moments:
    """Exact moments under p or, given beta_alpha, under q: the law of lam x + (1 - lam) x~.

    Args:
        features: phi.
        teacher: f, of degree at most 2.
        law: Law of each coordinate.
        beta_alpha: a of lam ~ Beta(a, a); None for p itself.
    """
    raw = RAW_MOMENTS[law]
    components = (raw[None], np.ones(1)) if beta_alpha is None else mixed_raw_moments(raw, beta_alpha)
    return polynomial_moments(features.exponents, teacher.monomials.exponents, teacher.coefficients, *components)


def bounded_world(curvature: float) -> World:
    """W1 (curvature 0) and W2 (curvature .8): U[-1, 1]^3, affine students, ||w|| <= 1.5.

    f = .6 x_1 - .4 x_2 + curvature (1.5 x_3^2 - .5); at most .6 + .4 + |curvature| in absolute value.
    """
    features = affine_features(3)
    monomials = quadratic_features(3)  # 1, x_1, x_2, x_3, ..., x_3^2
    coefficients = np.zeros(10)
    coefficients[[0, 1, 2, 9]] = -0.5 * curvature, 0.6, -0.4, 1.5 * curvature
    teacher = PolynomialTeacher(monomials, coefficients) if curvature else PolynomialTeacher(features, coefficients[:4])
    return World(
        law="uniform",
        dimension=3,
        teacher=teacher,
        features=features,
        population=monomial_moments(features, teacher, "uniform"),
        learner="ball_erm",
        radius=1.5,
        teacher_weights=None if curvature else coefficients[:4],
        feature_bound=2.0,
        teacher_bound=1.0 + abs(curvature),
    )


def linear_world(dimension: int) -> World:
    """W3: N(0, I_d), phi(x) = x, f = (x_1 + .. + x_d) / sqrt(d), unit ball around the teacher, min-norm students."""
    features = linear_features(dimension)
    coefficients = np.full(dimension, dimension**-0.5)
    teacher = PolynomialTeacher(features, coefficients)
    return World(
        law="normal",
        dimension=dimension,
        teacher=teacher,
        features=features,
        population=monomial_moments(features, teacher, "normal"),
        learner="min_norm",
        radius=1.0,
        center=coefficients,
        teacher_weights=coefficients,
        keep_weights=True,
    )


def tanh_world(student: Literal["cosines", "affine"]) -> World:
    """W4: N(0, I_10), f = 2 v'tanh(2 W'x), ridge 1e-3; students on 200 random cosines, or affine ones.

    Fixed by convention, not tuned: entries of W ~ N(0, 1/10), of v ~ N(0, 1/20), of the frequencies
    ~ N(0, 1/10) (the kernel exp(-||x - x'||^2 / 20)), phases uniform.
    """
    dimension, num_units, num_cosines = 10, 20, 200
    generator = np.random.default_rng([WORLD_SEED, 4])
    teacher = TanhTeacher(
        generator.standard_normal((dimension, num_units)) / np.sqrt(dimension),
        generator.standard_normal(num_units) / np.sqrt(num_units),
    )
    doubled = 2.0 * teacher.amplitudes
    square = doubled @ tanh_gram(teacher.directions) @ doubled
    features: Monomials | Cosines
    if student == "affine":
        features = affine_features(dimension)
        cross = np.concatenate([[0.0], doubled @ tanh_linear(teacher.directions)])
        population = Moments(np.eye(dimension + 1), cross, square)
    else:
        features = Cosines(
            generator.standard_normal((dimension, num_cosines)) / np.sqrt(dimension),
            generator.uniform(0.0, 2.0 * np.pi, num_cosines),
        )
        cross = doubled @ tanh_cosine(teacher.directions, features.frequencies, features.phases)
        gram = cosine_gram(features.frequencies, features.phases)
        population = Moments(features.scale**2 * gram, features.scale * cross, square)
    return World(
        law="normal",
        dimension=dimension,
        teacher=teacher,
        features=features,
        population=population,
        learner="ridge",
    )


def quadratic_world(dimension: int) -> World:
    """W5: N(0, I_d), f a quadratic with N(0, 1) coefficients, min-norm students on its (d+1)(d+2)/2 monomials."""
    features = quadratic_features(dimension)
    coefficients = np.random.default_rng([WORLD_SEED, 5]).standard_normal(len(features.left))
    teacher = PolynomialTeacher(features, coefficients)
    return World(
        law="normal",
        dimension=dimension,
        teacher=teacher,
        features=features,
        population=monomial_moments(features, teacher, "normal"),
        learner="min_norm",
        teacher_weights=coefficients,
    )


WORLDS: Mapping[str, Callable[[], World]] = {
    "W1": partial(bounded_world, 0.0),
    "W2": partial(bounded_world, 0.8),
    "W3": partial(linear_world, 10),
    "W4": partial(tanh_world, "cosines"),
    "W4 affine": partial(tanh_world, "affine"),
    "W5": partial(quadratic_world, 6),
}


@cache
def build_world(name: str) -> World:
    """The world of that name, built once per process."""
    return WORLDS[name]()
