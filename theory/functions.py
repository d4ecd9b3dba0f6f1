"""Features phi and teachers f: functions of inputs, in numpy or torch, on any device."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from theory.moments import Array, like


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
        xp = array_namespace(inputs)
        with_one = xp.concat([xp.ones_like(inputs[..., :1]), inputs], axis=-1)
        right: Array = with_one[..., self.right]
        return right * with_one[..., self.left] if any(self.left) else right

    @property
    def exponents(self) -> npt.NDArray[np.intp]:
        """Exponent of each coordinate in each feature, shape (D, d)."""
        identity = np.eye(self.dimension + 1, dtype=np.intp)
        return (identity[list(self.left)] + identity[list(self.right)])[:, 1:]


def constant_feature(dimension: int) -> Monomials:
    """phi(x) = 1."""
    return Monomials((0,), (0,), dimension)


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
        angles = inputs @ like(self.frequencies, inputs) + like(self.phases, inputs)
        features: Array = self.scale * array_namespace(inputs).cos(angles)
        return features

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
        return self.monomials(inputs) @ like(self.coefficients, inputs)


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
        units = array_namespace(inputs).tanh(2.0 * (inputs @ like(self.directions, inputs)))
        labels: Array = 2.0 * units @ like(self.amplitudes, inputs)
        return labels


@dataclass(frozen=True, eq=False)
class StepTeacher:
    """f(x) = 1 where x_1 > 0, else 0."""

    def __call__(self, inputs: Array) -> Array:
        """Labels of inputs, shape (..., d) -> (...)."""
        labels: Array = array_namespace(inputs).astype(inputs[..., 0] > 0, inputs.dtype)
        return labels


def tanh_teacher(generator: np.random.Generator, dimension: int = 10, num_units: int = 20) -> TanhTeacher:
    """W4's teacher: 2 v'tanh(2 W'x), entries of W ~ N(0, 1/d), of v ~ N(0, 1/units)."""
    return TanhTeacher(
        generator.standard_normal((dimension, num_units)) / np.sqrt(dimension),
        generator.standard_normal(num_units) / np.sqrt(num_units),
    )


def cosines(generator: np.random.Generator, total_variance: float, dimension: int, num_cosines: int) -> Cosines:
    """Random cosines whose kernel exp(-||x - x'||^2 / 2 l^2) has l^2 = E||x - x'||^2 / 2 = tr Cov x, by convention."""
    return Cosines(
        generator.standard_normal((dimension, num_cosines)) / np.sqrt(total_variance),
        generator.uniform(0.0, 2.0 * np.pi, num_cosines),
    )


@dataclass(frozen=True, eq=False)
class FeatureTeacher:
    """f(x) = coefficients' features(x): a teacher inside the class of the students on these features."""

    features: Callable[[Array], Array]
    coefficients: Array

    def __call__(self, inputs: Array) -> Array:
        """Labels of inputs, shape (..., d) -> (...)."""
        labels: Array = self.features(inputs) @ like(self.coefficients, inputs)
        return labels


@dataclass(frozen=True, eq=False)
class NetworkTeacher:
    """f(x) = output'tanh(W'x + b) + offset.

    Attributes:
        directions: W, shape (d, T).
        biases: b, shape (T,).
        output: Shape (T,).
        offset: A number.
    """

    directions: Array
    biases: Array
    output: Array
    offset: float

    def __call__(self, inputs: Array) -> Array:
        """Labels of inputs, shape (..., d) -> (...)."""
        units = array_namespace(inputs).tanh(inputs @ like(self.directions, inputs) + like(self.biases, inputs))
        labels: Array = units @ like(self.output, inputs) + self.offset
        return labels
