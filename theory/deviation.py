"""Exact suprema over a norm ball: uniform deviation and empirical Rademacher complexity.

For students h_w(x) = w'phi(x) and squared loss, the difference of any two (signed) averages of the loss
is a quadratic function of w, so its supremum over ``||w|| <= radius`` is a trust-region problem, which has
no duality gap although the quadratic form is indefinite. Arrays may be numpy's or torch's, on any device.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from theory.moments import Array, sample_moments


def sup_deviation(
    delta_a: npt.ArrayLike, delta_b: npt.ArrayLike, delta_c: npt.ArrayLike, radius: npt.ArrayLike
) -> tuple[Array, Array]:
    """Maximise D(w) = delta_c - 2 delta_b'w + w' delta_a w over the ball ||w|| <= radius.

    Derivation. Let delta_a = Q diag(lam) Q', c = Q' delta_b, u = Q'w. For every multiplier mu >= lam_max
    with mu >= 0, maximising D(w) + mu (radius^2 - ||w||^2) over all w gives the upper bound

        delta_c + mu radius^2 + sum_i c_i^2 / (mu - lam_i),     reached at u_i = -c_i / (mu - lam_i).

    It is convex in mu, with derivative radius^2 - ||u(mu)||^2. With edge = max(0, lam_max), either

    * ||u(edge)|| <= radius (0/0 = 0): mu = edge. If edge = 0 this u is an interior maximum. Otherwise it
      is the hard case: c vanishes on the top eigenspace, and a step along it up to the sphere adds
      lam_max (radius^2 - ||u||^2) to D, which closes the gap; or
    * ||u(mu)|| = radius has one root with max_i(|c_i| / radius - (edge - lam_i)) <= mu - edge <= ||c|| / radius,
      found by bisection in t = mu - edge, so that mu - lam_i = t + (edge - lam_i) never cancels.

    In each case u is feasible and reaches the bound, so both are optimal.

    Args:
        delta_a: Symmetric difference of second moments, shape (..., D, D); only the lower triangle is read.
        delta_b: Difference of cross moments E y phi, shape (..., D).
        delta_c: Difference of E y^2, shape (...).
        radius: Radius of the ball, shape (...) or a scalar.

    Returns:
        Supremum, shape (...), in units of the loss, and a maximiser, shape (..., D).

    Raises:
        ValueError: If a radius is not positive.
    """
    xp, (a, b, c, limit) = _arrays(delta_a, delta_b, delta_c, radius)
    if not bool(xp.all(limit > 0)):
        raise ValueError(f"radius must be positive, got {radius!r}")
    lam, basis = xp.linalg.eigh(a)
    rotated = (b[..., None, :] @ basis)[..., 0, :]
    # Components below the rounding error of c are zero: this decides the hard case exactly.
    rounding = np.finfo(float).eps * xp.linalg.vector_norm(rotated, axis=-1, keepdims=True)
    rotated = xp.where(xp.abs(rotated) <= rounding, 0.0, rotated)
    edge = xp.clip(lam[..., -1:], min=0.0)
    gaps = edge - lam
    t = _secular_root(rotated, gaps, limit[..., None])
    u = -_ratio(rotated, gaps + t)
    hard = (t[..., 0] == 0) & (lam[..., -1] > 0)
    step = xp.sqrt(xp.where(hard, xp.clip(limit**2 - xp.sum(u * u, axis=-1), min=0.0), 0.0))
    u[..., -1] += step
    value = c + xp.sum(u * (lam * u - 2.0 * rotated), axis=-1)
    return value, (basis @ u[..., None])[..., 0]


def sup_absolute_deviation(
    delta_a: npt.ArrayLike, delta_b: npt.ArrayLike, delta_c: npt.ArrayLike, radius: npt.ArrayLike
) -> Array:
    """Maximise |D(w)| over the ball: the larger of the suprema of D and of -D; see `sup_deviation`."""
    xp, (a, b, c, radius) = _arrays(delta_a, delta_b, delta_c, radius)
    larger: Array = xp.maximum(sup_deviation(a, b, c, radius)[0], sup_deviation(-a, -b, -c, radius)[0])
    return larger


def empirical_rademacher(features: Array, targets: Array, radius: float, signs: npt.ArrayLike) -> Array:
    """Exact sup_w (1/n) sum_i signs_i (targets_i - w'features_i)^2 over the ball, one per sign vector.

    The mean over all 2^n sign vectors is the empirical Rademacher complexity of the loss class; the mean
    over random ones estimates it without bias. Signed sums of squared losses are quadratic in w, so
    each supremum is exact.

    Args:
        features: phi(x_i), shape (n, D).
        targets: Labels, shape (n,).
        radius: Radius of the ball.
        signs: +1 or -1, shape (K, n).

    Returns:
        Suprema in units of the loss, shape (K,).
    """
    value, _ = sup_deviation(*sample_moments(features, targets, np.asarray(signs, dtype=np.float64)), radius)
    return value


def _arrays(*values: npt.ArrayLike | Array) -> tuple[Any, list[Any]]:
    """The array library of the first array (numpy or torch; numpy if there is none), and all values as its float64s."""
    first = next((value for value in values if hasattr(value, "ndim")), np.empty(0))
    xp: Any = array_namespace(first)
    return xp, [xp.asarray(value, dtype=xp.float64, device=first.device) for value in values]  # type: ignore[union-attr]


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Quotient with 0/0 = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):  # c / 0 is infinite
        quotient: Array = array_namespace(numerator).where(numerator != 0, numerator / denominator, 0.0)
        return quotient


def _secular_root(c: Array, gaps: Array, radius: Array) -> Array:
    """Smallest t >= 0 with ||c / (gaps + t)|| <= radius, shape (..., 1), to the last bits, by bisection."""
    xp: Any = array_namespace(c)

    def is_feasible(t: Any) -> Any:
        return xp.linalg.vector_norm(_ratio(c, gaps + t), axis=-1, keepdims=True) <= radius

    low = xp.clip(xp.max(xp.abs(c) / radius - gaps, axis=-1, keepdims=True), min=0.0)
    high = xp.maximum(xp.linalg.vector_norm(c, axis=-1, keepdims=True) / radius, low)
    high = xp.where(is_feasible(0.0), 0.0, high)
    for _ in range(128):
        open_ = high - low > 4 * np.finfo(float).eps * high
        if not bool(xp.any(open_)):
            break
        middle = 0.5 * (low + high)
        feasible = is_feasible(middle)
        # A closed bracket stays as it is, so that no problem's bits depend on its neighbours in the batch.
        low, high = xp.where(open_ & ~feasible, middle, low), xp.where(open_ & feasible, middle, high)
    root: Array = high
    return root
