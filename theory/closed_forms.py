"""What mixup does in worlds that can be solved by hand: the formulas behind the claims, with their derivations."""

import numpy as np


def kappa(beta_alpha: float) -> float:
    """E[lam^2 + (1 - lam)^2] = (a + 1) / (2 a + 1) for lam ~ Beta(a, a): how much of the variance mixup leaves.

    E lam = 1/2 and Var lam = 1 / (4 (2 a + 1)), so that E lam^2 = (a + 1) / (2 (2 a + 1)), twice.
    """
    return (beta_alpha + 1) / (2 * beta_alpha + 1)


def mixup_excess_risk(augmented_share: float, beta_alpha: float, half_trace: float) -> float:
    """Excess risk, as n -> inf, of an affine student of f = x'Hx / 2 + affine under in-sample mixup (claim T18b).

    On a segment the teacher lies below its chord by lam (1 - lam) (x_i - x_j)'H(x_i - x_j) / 2. With
    E lam (1 - lam) = (1 - kappa) / 2 and E (x_i - x_j)'H(x_i - x_j) = 2 tr(H Sigma), its mean under q is lower by
    (1 - kappa) tr(H Sigma) / 2. For symmetric p, p(x) = p(-x), the slopes stay unbiased, so the least
    squares student only has its intercept wrong, by alpha times that; the excess risk is its square.

    Args:
        augmented_share: alpha = m / (n + m).
        beta_alpha: a of lam ~ Beta(a, a).
        half_trace: tr(H Sigma) / 2.
    """
    return float((augmented_share * (1 - kappa(beta_alpha)) * half_trace) ** 2)


def two_sided_limits(
    dimension: int, num_samples: int, augmented_share: float, beta_alpha: float
) -> tuple[float, float]:
    """Two-sided sup of linear students in the unit ball around a linear teacher, p = N(0, I): S0 and S3 (claim T12).

    The deviation is v'(I - A) v for the error v = w - w_f, ||v|| <= 1, so its supremum is the largest
    |1 - eigenvalue| of A. Without mixup A is the sample covariance, whose spectrum fills [(1 - t)^2, (1 + t)^2],
    t = sqrt(d / n) <= 1 (Marchenko and Pastur), hence 2 t + t^2. With m -> inf, mixing leaves s = 1 - alpha (1 - kappa)
    of it (the mean, which it keeps, is one direction of size d / n), hence max(1 - s (1 - t)^2, s (1 + t)^2 - 1):
    smaller if and only if s > (1 - 2 t - t^2) / (1 - t)^2.

    Returns:
        The limits as d and n grow at a fixed t: without mixup, and with it.
    """
    t, s = np.sqrt(dimension / num_samples), 1 - augmented_share * (1 - kappa(beta_alpha))
    return float(2 * t + t**2), float(max(1 - s * (1 - t) ** 2, s * (1 + t) ** 2 - 1))


def sample_size_ratio(rho: float) -> float:
    """n*(S1) / n*(S0): how many originals are needed with rho fresh inputs for each (claim T07).

    T0 and the exact deviation depend on the number of independent inputs only, which S1 makes n (1 + rho).
    """
    return 1 / (1 + rho)
