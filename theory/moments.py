"""The risk as a quadratic form of the student's weights, and its population value in closed form.

Moments may be numpy's or torch's arrays; closed forms are computed in numpy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

#: Trapezoidal nodes and weights for expectations under N(0, 1). The integrands here are analytic in the strip
#: |Im z| < pi / (4 s), s the scale inside tanh(2 s z); with this step and s <= 2.5 the error is below 1e-12.
_NODES = np.linspace(-8.5, 8.5, 241)
_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.sum(np.exp(-0.5 * _NODES**2))


class Moments(NamedTuple):
    """Moments of (phi, y) that make up the squared loss: E (y - w'phi)^2 = c - 2 b'w + w'a w.

    Attributes:
        a: E phi phi', shape (..., D, D).
        b: E y phi, shape (..., D).
        c: E y^2, shape (...).
    """

    a: Array
    b: Array
    c: Array

    def risk(self, weights: Array) -> Array:
        """Squared loss of the weights, shape (..., D) -> (...)."""
        curved = (self.a @ weights[..., None])[..., 0]
        risk: Array = self.c + array_namespace(weights).sum(weights * (curved - 2.0 * self.b), axis=-1)
        return risk

    def shifted(self, center: Array) -> Self:
        """Moments in the coordinates v = w - center; where y = center'phi, b and c become exactly zero."""
        b = self.b - self.a @ center
        return type(self)(self.a, b, self.c - array_namespace(b).sum((self.b + b) * center, axis=-1))

    def combined(self, other: "Moments", weight: float) -> Self:
        """The average (1 - weight) self + weight other."""
        parts = ((1.0 - weight) * p + weight * q for p, q in zip(self, other, strict=True))
        return type(self)(*parts)

    def like(self, array: Array) -> Self:
        """The same in the library and on the device of an array."""
        return type(self)(*(like(part, array) for part in self))


def like(constant: Array | float, array: Array) -> Array:
    """A numpy array in the library and on the device of another array."""
    if isinstance(array, np.ndarray):
        return np.asarray(constant)
    xp: Any = array_namespace(array)
    converted: Array = xp.asarray(constant, device=array.device)
    return converted


def sample_moments(features: Array, targets: Array, weights: Array | None = None) -> Moments:
    """Averages over a sample, each term multiplied by its weight (default 1).

    Args:
        features: Shape (..., n, D).
        targets: Shape (..., n).
        weights: Shape (..., n); may be negative.
    """
    xp = array_namespace(features)
    weighted = features if weights is None else weights[..., None] * features
    num_samples = features.shape[-2]
    squares = targets * targets if weights is None else weights * targets * targets
    return Moments(
        xp.matrix_transpose(weighted) @ features / num_samples,
        (targets[..., None, :] @ weighted)[..., 0, :] / num_samples,
        xp.sum(squares, axis=-1) / num_samples,
    )


def population_of_points(
    features: Callable[[Array], Array], teacher: Callable[[Array], Array], points: Array, chunk: int = 2000
) -> Moments:
    """Averages over all points of an empirical law, shape (K, d), a chunk at a time.

    Args:
        features: phi, (..., d) -> (..., D).
        teacher: f, (..., d) -> (...).
        points: Shape (K, d).
        chunk: Points at a time.
    """
    parts = [points[start : start + chunk] for start in range(0, len(points), chunk)]
    moments = [sample_moments(features(part), teacher(part)) for part in parts]
    return Moments(
        *(sum(len(p) * m for p, m in zip(parts, column, strict=True)) / len(points)
          for column in zip(*moments, strict=True))
    )  # fmt: skip


def polynomial_moments(
    exponents: IntArray,
    teacher_exponents: IntArray,
    coefficients: Array,
    raw_moments: Array,
    probabilities: Array,
) -> Moments:
    """Moments of monomial features and a polynomial teacher under a mixture of product laws.

    Args:
        exponents: Exponent of each coordinate in each feature, shape (D, d).
        teacher_exponents: The same for the teacher's monomials, shape (T, d).
        coefficients: The teacher's coefficients, shape (T,).
        raw_moments: E x^k of every coordinate under the j-th component, k = 0..4, shape (J, 5).
        probabilities: Weight of each component, shape (J,).
    """

    def expectation(left: IntArray, right: IntArray) -> Array:
        total = left[:, None] + right  # (P, Q, d)
        products = [raw[total].prod(axis=-1) for raw in raw_moments]
        return np.tensordot(probabilities, products, axes=1)

    teacher_cross = expectation(teacher_exponents, teacher_exponents) @ coefficients
    return Moments(
        expectation(exponents, exponents),
        expectation(exponents, teacher_exponents) @ coefficients,
        np.asarray(np.sum(coefficients * teacher_cross)),
    )


def mixed_raw_moments(raw: Array, beta_alpha: float) -> tuple[Array, Array]:
    """Moments of one coordinate of z = lam x + (1 - lam) x~, given lam, at nodes that integrate lam exactly.

    E[z^k | lam] = sum_j C(k, j) lam^j (1 - lam)^(k-j) E x^j E x^(k-j). Products over coordinates have degree
    at most 4 in lam, so Gauss-Jacobi quadrature with 3 nodes is exact for lam ~ Beta(a, a).

    Args:
        raw: E x^k, k = 0..4, shape (5,).
        beta_alpha: a > 0.

    Returns:
        Conditional moments, shape (3, 5), and the probabilities of the nodes, shape (3,).
    """
    from scipy.special import comb, roots_jacobi

    nodes, weights = roots_jacobi(3, beta_alpha - 1.0, beta_alpha - 1.0)
    lam = (1.0 + nodes) / 2.0
    moments = [
        sum(comb(k, j) * lam**j * (1.0 - lam) ** (k - j) * raw[j] * raw[k - j] for j in range(k + 1))
        for k in range(len(raw))
    ]
    return np.stack(moments, axis=-1), weights / weights.sum()


def cosine_gram(frequencies: Array, phases: Array) -> Array:
    """E cos(u_i'x + b_i) cos(u_j'x + b_j) under N(0, I), shape (D, D).

    By cos s cos t = (cos(s - t) + cos(s + t)) / 2 and E cos(u'x + b) = exp(-||u||^2 / 2) cos b.

    Args:
        frequencies: Columns u_i, shape (d, D).
        phases: b_i, shape (D,).
    """
    inner = frequencies.T @ frequencies
    squares = 0.5 * (np.diag(inner)[:, None] + np.diag(inner))
    minus = np.exp(inner - squares) * np.cos(phases[:, None] - phases)
    plus = np.exp(-inner - squares) * np.cos(phases[:, None] + phases)
    gram: Array = 0.5 * (minus + plus)
    return gram


def tanh_cosine(directions: Array, frequencies: Array, phases: Array) -> Array:
    """E tanh(2 w_k'x) cos(u_j'x + b_j) under N(0, I), shape (T, D).

    With w'x = s z and u'x = r z + e, e independent of z, the conditional mean of the cosine given z is
    exp(-(||u||^2 - r^2) / 2) cos(r z + b); its even part meets an odd function. One integral is left.

    Args:
        directions: Columns w_k, shape (d, T).
        frequencies: Columns u_j, shape (d, D).
        phases: b_j, shape (D,).
    """
    scales = np.linalg.norm(directions, axis=0)
    slopes = directions.T @ frequencies / scales[:, None]  # r, (T, D)
    odd = np.tanh(2.0 * scales[:, None] * _NODES) * _WEIGHTS  # (T, Q)
    integrals = np.stack([np.sin(r[:, None] * _NODES) @ o for r, o in zip(slopes, odd, strict=True)])
    damping = np.exp(-0.5 * (np.sum(frequencies**2, axis=0) - slopes**2))
    means: Array = -np.sin(phases) * damping * integrals
    return means


def tanh_linear(directions: Array) -> Array:
    """E tanh(2 w_k'x) x under N(0, I), shape (T, d): along w_k, by symmetry."""
    scales = np.linalg.norm(directions, axis=0)
    along = np.tanh(2.0 * scales[:, None] * _NODES) @ (_WEIGHTS * _NODES)
    means: Array = (directions * (along / scales)).T
    return means


def tanh_gram(directions: Array) -> Array:
    """E tanh(2 w_k'x) tanh(2 w_j'x) under N(0, I), shape (T, T): w_j'x = s_j (r z + sqrt(1 - r^2) z~)."""
    scales = np.linalg.norm(directions, axis=0)
    correlations = np.clip(directions.T @ directions / np.outer(scales, scales), -1.0, 1.0)
    outer = np.tanh(2.0 * scales[:, None] * _NODES) * _WEIGHTS  # (T, Q)
    gram = np.empty_like(correlations)
    for k, j in np.ndindex(gram.shape):
        r = correlations[k, j]
        second = r * _NODES[:, None] + np.sqrt(1.0 - r * r) * _NODES  # (Q, Q)
        gram[k, j] = outer[k] @ np.tanh(2.0 * scales[j] * second) @ _WEIGHTS
    return 0.5 * (gram + gram.T)
