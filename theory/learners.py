"""Batched students: least squares of least norm, with a ridge, and over a norm ball.

Stacked normal equations are an order of magnitude faster than a loop of least-squares calls, but they square the
condition number. Systems for which that would cost more than six digits are found beforehand and solved by
a singular value decomposition of the features themselves.
"""

import numpy as np
import numpy.typing as npt

from theory.deviation import sup_deviation
from theory.moments import Moments

Array = npt.NDArray[np.float64]
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
    eigenvalues = np.linalg.eigvalsh(_gram(features))
    # Written so that NaN or a zero matrix counts as ill-conditioned.
    ill = ~(eigenvalues[:, 0] * MAX_CONDITION > eigenvalues[:, -1])
    return _least_squares(features, targets, 0.0, ill)


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
    trace = np.sum(features * features, axis=(1, 2))
    total_penalty = penalty * features.shape[1]
    return _least_squares(features, targets, total_penalty, ~(1.0 + trace / total_penalty <= MAX_CONDITION))


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


def _gram(features: Array) -> Array:
    """The smaller of phi'phi and phi phi', shape (R, k, k), k = min(N, D)."""
    transposed = np.swapaxes(features, 1, 2)
    return features @ transposed if features.shape[1] < features.shape[2] else transposed @ features


def _least_squares(features: Array, targets: Array, penalty: float, ill: BoolArray) -> Array:
    """Minimiser of ||targets - features w||^2 + penalty ||w||^2, for penalty 0 the one of least norm."""
    weights = np.empty((features.shape[0], features.shape[2]))
    weights[~ill] = _normal_equations(features[~ill], targets[~ill], penalty)
    weights[ill] = _svd_solution(features[ill], targets[ill], penalty)
    return weights


def _normal_equations(features: Array, targets: Array, penalty: float) -> Array:
    """(phi'phi + penalty)^-1 phi'y = phi'(phi phi' + penalty)^-1 y: in the smaller of the two spaces."""
    gram = _gram(features)
    gram += penalty * np.eye(gram.shape[-1])
    transposed = np.swapaxes(features, 1, 2)
    if features.shape[1] < features.shape[2]:
        solution: Array = transposed @ np.linalg.solve(gram, targets[..., None])
        return solution[..., 0]
    return np.linalg.solve(gram, transposed @ targets[..., None])[..., 0].astype(np.float64, copy=False)


def _svd_solution(features: Array, targets: Array, penalty: float) -> Array:
    """V diag(s / (s^2 + penalty)) U'y, without the directions that are zero up to rounding."""
    left, singular, right = np.linalg.svd(features, full_matrices=False)
    cutoff = np.finfo(float).eps * max(features.shape[1:]) * singular[:, :1]
    filtered = np.divide(singular, singular**2 + penalty, out=np.zeros_like(singular), where=singular > cutoff)
    projected = np.swapaxes(left, 1, 2) @ targets[..., None]
    solution: Array = np.swapaxes(right, 1, 2) @ (filtered[..., None] * projected)
    return solution[..., 0]
