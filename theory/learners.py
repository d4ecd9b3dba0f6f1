"""Batched students: least squares of least norm, with a ridge, over a norm ball, by gradient flow; small networks.

Stacked normal equations are an order of magnitude faster than a loop of least-squares calls, but they square the
condition number. Systems for which that would cost more than six digits are found beforehand and solved by
a singular value decomposition of the features themselves. Arrays may be numpy's or torch's, on any device.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from theory.deviation import sup_deviation
from theory.moments import Array, Moments, like

BoolArray = npt.NDArray[np.bool_]

#: Largest condition number of a Gram matrix that is solved as it stands.
MAX_CONDITION = 1e6


def min_norm(features: Array, targets: Array) -> Array:
    """The least-squares solution of least norm.

    Singular values below eps max(N, D) times the largest count as zero, as in `numpy.linalg.matrix_rank`.

    Args:
        features: Shape (R, N, D).
        targets: Shape (R, N).

    Returns:
        Weights, shape (R, D).
    """
    gram = _gram(features)
    eigenvalues = array_namespace(features).linalg.eigvalsh(gram)
    # Written so that NaN or a zero matrix counts as ill-conditioned.
    ill = ~(eigenvalues[:, 0] * MAX_CONDITION > eigenvalues[:, -1])
    return _least_squares(features, targets, gram, 0.0, ill)


def ridge(features: Array, targets: Array, penalty: float) -> Array:
    """The minimiser of mean squared loss + penalty ||w||^2.

    The condition number of Gram / N + penalty is at most 1 + trace(Gram) / (N penalty).

    Args:
        features: Shape (R, N, D).
        targets: Shape (R, N).
        penalty: Positive.

    Returns:
        Weights, shape (R, D).

    Raises:
        ValueError: If the penalty is not positive.
    """
    if not penalty > 0:
        raise ValueError(f"penalty must be positive, got {penalty}")
    gram, total_penalty = _gram(features), penalty * features.shape[1]
    trace = array_namespace(features).linalg.trace(gram)
    return _least_squares(features, targets, gram, total_penalty, ~(1.0 + trace / total_penalty <= MAX_CONDITION))


def ball_erm(moments: Moments, radius: float) -> Array:
    """A minimiser of the empirical risk over ||w|| <= radius: the risk's negative has its supremum there.

    The trust-region solver works on an eigendecomposition; where the risk is flat any minimiser may come out.

    Args:
        moments: Of the sample, batched: a (R, D, D), b (R, D), c (R,).
        radius: Of the ball.

    Returns:
        Weights, shape (R, D).
    """
    return sup_deviation(-moments.a, -moments.b, -moments.c, radius)[1]


def gradient_flow(moments: Moments, times: Array) -> Array:
    """Weights along dw/dt = -(A w - b) from w = 0, the gradient flow of half the empirical risk, in closed form.

    With A = Q diag(lam) Q', w(t) = Q diag((1 - exp(-lam t)) / lam) Q'b, and t for the factor where lam = 0: as
    t -> inf the least-squares solution of least norm.

    Args:
        moments: Of the sample, batched: a (R, D, D), b (R, D).
        times: Shape (T,), positive.

    Returns:
        Weights, shape (R, T, D).
    """
    xp = array_namespace(moments.a)
    lam, basis = xp.linalg.eigh(moments.a)
    lam = xp.clip(lam, min=0.0)[:, None, :]
    time = like(times, lam)[:, None]
    is_flat = lam * time < 1e-12  # (1 - exp(-x)) / x = 1 up to rounding
    factor = xp.where(is_flat, time, -xp.expm1(-lam * time) / xp.where(is_flat, 1.0, lam))
    projected = (moments.b[:, None, :] @ basis)[:, 0, :]
    weights: Array = (factor * projected[:, None, :]) @ xp.matrix_transpose(basis)
    return weights


class Networks(NamedTuple):
    """Two-layer tanh networks h(x) = output'tanh(W'x + biases) + offset, one per replicate.

    Attributes:
        hidden: W, shape (R, d, width).
        biases: Shape (R, 1, width).
        output: Shape (R, width, 1).
        offset: Shape (R, 1, 1).
    """

    hidden: Array
    biases: Array
    output: Array
    offset: Array

    def __call__(self, inputs: Array) -> Array:
        """Predictions, shape (R, N, d) or (N, d) -> (R, N)."""
        xp = array_namespace(self.hidden)
        predictions: Array = (xp.tanh(inputs @ self.hidden + self.biases) @ self.output + self.offset)[..., 0]
        return predictions

    def gradient(self, inputs: Array, targets: Array) -> tuple["Networks", Array]:
        """Gradient of the mean squared loss in every parameter, and the residuals, shape (R, N)."""
        xp = array_namespace(self.hidden)
        units = xp.tanh(inputs @ self.hidden + self.biases)  # (R, N, width)
        residuals = (units @ self.output + self.offset)[..., 0] - targets
        slope = (2.0 / targets.shape[1]) * residuals[..., None]  # (R, N, 1)
        back = slope * xp.matrix_transpose(self.output) * (1.0 - units * units)
        gradient = Networks(
            xp.matrix_transpose(inputs) @ back,
            xp.sum(back, axis=1, keepdims=True),
            xp.matrix_transpose(units) @ slope,
            xp.sum(slope, axis=1, keepdims=True),
        )
        return gradient, residuals


def initial_networks(generators: list[np.random.Generator], dimension: int, num_units: int) -> Networks:
    """Random networks, one per generator: W ~ N(0, 1/d), output ~ N(0, 1/width), no biases."""
    hidden = np.stack([g.standard_normal((dimension, num_units)) for g in generators]) / np.sqrt(dimension)
    output = np.stack([g.standard_normal((num_units, 1)) for g in generators]) / np.sqrt(num_units)
    shape = (len(generators), 1)
    return Networks(hidden, np.zeros((*shape, num_units)), output, np.zeros((*shape, 1)))


def train_networks(
    networks: Networks, inputs: Array, targets: Array, steps: list[int], rate: float = 0.05, momentum: float = 0.9
) -> list[Networks]:
    """Full-batch gradient descent with heavy-ball momentum on the mean squared loss.

    Args:
        networks: Where to start.
        inputs: Shape (R, N, d).
        targets: Shape (R, N).
        steps: Numbers of steps after which the networks are kept, increasing.
        rate: Step size.
        momentum: Share of the last step that is repeated.

    Returns:
        The networks after each of `steps`.
    """
    kept, velocity = [], [0.0 * part for part in networks]
    for step in range(1, steps[-1] + 1):
        gradient, _ = networks.gradient(inputs, targets)
        velocity = [momentum * v - rate * g for v, g in zip(velocity, gradient, strict=True)]
        networks = Networks(*(part + v for part, v in zip(networks, velocity, strict=True)))
        if step in steps:
            kept.append(networks)
    return kept


def _gram(features: Array) -> Array:
    """The smaller of phi'phi and phi phi', shape (R, k, k), k = min(N, D)."""
    transposed = array_namespace(features).matrix_transpose(features)
    gram: Array = features @ transposed if features.shape[1] < features.shape[2] else transposed @ features
    return gram


def _least_squares(features: Array, targets: Array, gram: Array, penalty: float, ill: BoolArray) -> Array:
    """Minimiser of ||targets - features w||^2 + penalty ||w||^2, for penalty 0 the one of least norm."""
    xp = array_namespace(features)
    if not bool(xp.any(ill)):  # without the copies below
        return _normal_equations(features, targets, gram, penalty)
    weights: Array = xp.empty_like(features[:, 0, :])
    if not bool(xp.all(ill)):
        weights[~ill] = _normal_equations(features[~ill], targets[~ill], gram[~ill], penalty)
    weights[ill] = _svd_solution(features[ill], targets[ill], penalty)
    return weights


def _normal_equations(features: Array, targets: Array, gram: Array, penalty: float) -> Array:
    """(phi'phi + penalty)^-1 phi'y = phi'(phi phi' + penalty)^-1 y: in the smaller of the two spaces."""
    xp = array_namespace(features)
    if penalty:
        gram = gram + penalty * like(np.eye(gram.shape[-1]), gram)
    transposed = xp.matrix_transpose(features)
    if features.shape[1] < features.shape[2]:
        solution: Array = transposed @ xp.linalg.solve(gram, targets[..., None])
    else:
        solution = xp.linalg.solve(gram, transposed @ targets[..., None])
    return solution[..., 0]


def _svd_solution(features: Array, targets: Array, penalty: float) -> Array:
    """V diag(s / (s^2 + penalty)) U'y, without the directions that are zero up to rounding."""
    xp = array_namespace(features)
    left, singular, right = xp.linalg.svd(features, full_matrices=False)
    cutoff = np.finfo(float).eps * max(features.shape[1:]) * singular[:, :1]
    with np.errstate(divide="ignore", invalid="ignore"):
        filtered = xp.where(singular > cutoff, singular / (singular**2 + penalty), 0.0)
    projected = xp.matrix_transpose(left) @ targets[..., None]
    solution: Array = xp.matrix_transpose(right) @ (filtered[..., None] * projected)
    return solution[..., 0]
