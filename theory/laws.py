"""Input laws p: what originals are drawn from."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Shapes of inputs that the phase diagram compares.
Shape = Literal["isotropic", "anisotropic", "mixture", "heavy-tailed", "manifold"]

#: Number of points of an empirical law: hundreds of times what a replicate draws.
NUM_POINTS = 20_000


class Law(Protocol):
    """A law on R^d that can be drawn from."""

    @property
    def dimension(self) -> int:
        """Number of coordinates d."""
        ...

    def draw(self, generator: np.random.Generator, num_samples: int) -> Array:
        """Independent inputs, shape (num_samples, d)."""
        ...


@dataclass(frozen=True)
class Uniform:
    """U[-1, 1]^d."""

    dimension: int

    #: E x^k of a coordinate, k = 0..4.
    raw_moments = np.array([1.0, 0.0, 1 / 3, 0.0, 1 / 5])

    def draw(self, generator: np.random.Generator, num_samples: int) -> Array:
        """Independent inputs, shape (num_samples, d)."""
        return generator.uniform(-1.0, 1.0, size=(num_samples, self.dimension))


@dataclass(frozen=True)
class Normal:
    """N(0, I_d)."""

    dimension: int

    #: E x^k of a coordinate, k = 0..4.
    raw_moments = np.array([1.0, 0.0, 1.0, 0.0, 3.0])

    def draw(self, generator: np.random.Generator, num_samples: int) -> Array:
        """Independent inputs, shape (num_samples, d)."""
        return generator.standard_normal((num_samples, self.dimension))


@dataclass(frozen=True, eq=False)
class Empirical:
    """The uniform law on given points: every expectation under it is an average over them, exactly.

    Attributes:
        points: Shape (K, d).
    """

    points: Array

    @property
    def dimension(self) -> int:
        """Number of coordinates d."""
        return int(self.points.shape[1])

    def draw(self, generator: np.random.Generator, num_samples: int) -> Array:
        """Independent points (with replacement), shape (num_samples, d)."""
        return self.points[generator.integers(len(self.points), size=num_samples)]


def points_of(shape: Shape, dimension: int, generator: np.random.Generator) -> Array:
    """Points of an empirical law: centred, total variance d, shape (NUM_POINTS, d).

    ============  ==========================================================================================
    isotropic     N(0, I)
    anisotropic   N(0, diag(k^-2)) in a random basis: a power-law spectrum
    mixture       four Gaussian clusters of deviation 0.5 around random centres
    heavy-tailed  Student's t with 3 degrees of freedom, one scale for all coordinates
    manifold      harmonics of two angles: a two-dimensional torus in R^d, which no chord stays on
    ============  ==========================================================================================
    """
    normal = generator.standard_normal((NUM_POINTS, dimension))
    basis = np.linalg.qr(generator.standard_normal((dimension, dimension)))[0]
    match shape:
        case "isotropic":
            points = normal
        case "anisotropic":
            points = normal / np.arange(1, dimension + 1) @ basis
        case "mixture":
            centres = generator.standard_normal((4, dimension))
            points = centres[generator.integers(4, size=NUM_POINTS)] + 0.5 * normal
        case "heavy-tailed":
            points = normal / np.sqrt(generator.chisquare(3, size=(NUM_POINTS, 1)) / 3)
        case "manifold":
            angles = generator.uniform(0.0, 2 * np.pi, size=(NUM_POINTS, 2))
            harmonics = generator.integers(-2, 3, size=(2, dimension))
            harmonics[0, harmonics[1] == 0] = np.maximum(1, np.abs(harmonics[0, harmonics[1] == 0]))  # none constant
            points = np.cos(angles @ harmonics + generator.uniform(0.0, 2 * np.pi, dimension)) @ basis
    points = points - points.mean(axis=0)
    return np.asarray(points * np.sqrt(dimension / np.mean(np.sum(points**2, axis=1))))
