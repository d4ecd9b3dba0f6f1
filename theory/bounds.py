"""Upper bounds on sup_h [R(h; p) - R_a(h)], one function per inequality; each holds with probability >= 1 - delta.

Notation: R_a = (1 - alpha) R_n + alpha R'_m, alpha = m / (n + m), losses in [0, M], L = ln(1 / delta);
Rad_n(p) = E sup_h (1/n) sum_i s_i g_h(x_i) over the loss class; disc+ = sup_h [R(h; p) - R(h; q)]. Source of
T0: McDiarmid's inequality and symmetrisation (Bartlett & Mendelson 2002); T1 to T3: our derivations.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def _confidence_term(delta: float, parts: float = 1.0) -> float:
    """sqrt(ln(parts / delta) / 2)."""
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1), got {delta}")
    return float(np.sqrt(np.log(parts / delta) / 2.0))


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def _non_negative(**complexities: npt.ArrayLike) -> list[Array]:
    arrays = [np.asarray(value, dtype=np.float64) for value in complexities.values()]
    for name, array in zip(complexities, arrays, strict=True):
        if not np.all(array >= 0):
            raise ValueError(f"{name} must not be negative, got {array}")
    return arrays


def norm_ball_rademacher(
    feature_square: npt.ArrayLike, feature_bound: float, teacher_bound: float, radius: float, num_samples: int
) -> Array:
    """Bound on Rad_n(p) of the squared loss of students w'phi, ||w|| <= B: 2 (F + B X) B sqrt(E||phi||^2 / n).

    On the range of the residuals the square is 2 (F + B X)-Lipschitz, so Talagrand's contraction leaves
    E sup_w (1/n) sum_i s_i w'phi(x_i) = B E||(1/n) sum_i s_i phi(x_i)|| <= B sqrt(E||phi||^2 / n), by Jensen.

    Args:
        feature_square: E ||phi||^2 (or its average over the sample, for Rad^_S).
        feature_bound: X >= ||phi||.
        teacher_bound: F >= |f|.
        radius: B.
        num_samples: n.

    Returns:
        Bound in units of the loss, of the shape of `feature_square`.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check_positive(feature_bound=feature_bound, teacher_bound=teacher_bound, radius=radius, num_samples=num_samples)
    (square,) = _non_negative(feature_square=feature_square)
    return np.asarray(2.0 * (teacher_bound + radius * feature_bound) * radius * np.sqrt(square / num_samples))


def t0_bound(rademacher: npt.ArrayLike, loss_bound: float, num_samples: int, delta: float) -> Array:
    """T0, no augmentation: 2 Rad_n(p) + M sqrt(L / 2n).

    The supremum moves by at most M/n when one x_i is replaced, so by McDiarmid it exceeds its mean by
    M sqrt(L / 2n) with probability at most delta; its mean is at most 2 Rad_n(p) (ghost sample and signs).

    Args:
        rademacher: Rad_n(p) of the loss class at num_samples.
        loss_bound: M; every loss lies in [0, M].
        num_samples: n.
        delta: Probability of failure.

    Returns:
        Bound in units of the loss, of the shape of `rademacher`.

    Raises:
        ValueError: If delta is not in (0, 1), or another argument is out of range.
    """
    confidence = _confidence_term(delta)
    _check_positive(loss_bound=loss_bound, num_samples=num_samples)
    (complexity,) = _non_negative(rademacher=rademacher)
    return np.asarray(2.0 * complexity + loss_bound * confidence / np.sqrt(num_samples))


def t0_data_bound(empirical_rademacher: npt.ArrayLike, loss_bound: float, num_samples: int, delta: float) -> Array:
    """T0 from the data: 2 Rad^_S + 3 M sqrt(ln(2 / delta) / 2n).

    T0 at delta / 2, and McDiarmid at delta / 2 for Rad^_S, which moves by at most M/n per point and enters
    twice: M + 2 M = 3 M.

    Args:
        empirical_rademacher: Rad^_S of the loss class on the sample.
        loss_bound: M.
        num_samples: n.
        delta: Probability of failure.

    Returns:
        Bound in units of the loss, of the shape of `empirical_rademacher`.

    Raises:
        ValueError: If delta is not in (0, 1), or another argument is out of range.
    """
    confidence = _confidence_term(delta, 2.0)
    _check_positive(loss_bound=loss_bound, num_samples=num_samples)
    (complexity,) = _non_negative(empirical_rademacher=empirical_rademacher)
    return np.asarray(2.0 * complexity + 3.0 * loss_bound * confidence / np.sqrt(num_samples))


def t1_bound(rademacher: npt.ArrayLike, loss_bound: float, num_samples: int, num_augmented: int, delta: float) -> Array:
    """T1, fresh inputs from p: T0 with N = n + m points, for the pooled sample is iid from p.

    Args:
        rademacher: Rad_N(p) of the loss class at N = num_samples + num_augmented.
        loss_bound: M.
        num_samples: n.
        num_augmented: m.
        delta: Probability of failure.

    Returns:
        Bound in units of the loss, of the shape of `rademacher`.

    Raises:
        ValueError: If delta is not in (0, 1), or another argument is out of range.
    """
    _check_positive(loss_bound=loss_bound, num_samples=num_samples, num_augmented=num_augmented)
    return t0_bound(rademacher, loss_bound, num_samples + num_augmented, delta)


def t2_bound(
    rademacher: npt.ArrayLike,
    rademacher_mixed: npt.ArrayLike,
    discrepancy: npt.ArrayLike,
    loss_bound: float,
    num_samples: int,
    num_augmented: int,
    delta: float,
) -> Array:
    """T2, mixup of inputs that are independent of the sample.

    alpha disc+ + 2 [(1 - alpha) Rad_n(p) + alpha Rad_m(q)] + M sqrt(L / 2 Neff).

    R_p - R_a = alpha [R_p - R_q] + {(1 - alpha)(R_p - R_n) + alpha (R_q - R'_m)}. The braces move by
    (1 - alpha) M/n per original and alpha M/m per mixup: McDiarmid with 1/Neff = (1-alpha)^2/n + alpha^2/m,
    which is 1 / (n + m) when pooled. Symmetrising both averages bounds their mean.

    Args:
        rademacher: Rad_n(p).
        rademacher_mixed: Rad_m(q).
        discrepancy: disc+; may be negative.
        loss_bound: M.
        num_samples: n.
        num_augmented: m.
        delta: Probability of failure.

    Returns:
        Bound in units of the loss, of the broadcast shape of the complexities.

    Raises:
        ValueError: If delta is not in (0, 1), or another argument is out of range.
    """
    confidence = _confidence_term(delta)
    _check_positive(loss_bound=loss_bound, num_samples=num_samples, num_augmented=num_augmented)
    original, mixed = _non_negative(rademacher=rademacher, rademacher_mixed=rademacher_mixed)
    alpha = num_augmented / (num_samples + num_augmented)
    complexity = (1.0 - alpha) * original + alpha * mixed
    spread = loss_bound * confidence / np.sqrt(num_samples + num_augmented)
    return np.asarray(alpha * np.asarray(discrepancy) + 2.0 * complexity + spread)


def t3_bound(
    rademacher: npt.ArrayLike,
    rademacher_mixed: npt.ArrayLike,
    rademacher_conditional: npt.ArrayLike,
    discrepancy: npt.ArrayLike,
    loss_bound: float,
    num_samples: int,
    num_augmented: int,
    delta: float,
    self_pairs: bool = False,
) -> Array:
    """T3, mixup within the sample (MixKD).

    alpha disc+ + 2 (1-alpha) Rad_n(p) + 2 alpha Rad_[n/2](q) + (1+alpha) M sqrt(ln(2/delta) / 2n)
    + alpha [2 Rad_m(q^_S) + M sqrt(ln(2/delta) / 2m)].

    U_n = E[R'_m | S] is a U-statistic of order 2 with mean R_q, and R_p - R_a = alpha [R_p - R_q]
    + {(1-alpha)(R_p - R_n) + alpha (R_q - U_n)} + alpha (U_n - R'_m). One x_i is in 2/n of the pairs, so
    the braces move by (1 - alpha + 2 alpha) M/n. By Hoeffding U_n averages, over orderings, means of
    [n/2] independent pairs, so E sup [R_q - U_n] <= 2 Rad_[n/2](q). The last term is iid given S. Each of the
    two holds at delta / 2. With i = j allowed, U_n becomes (1 - 1/n) U_n + R_n / n: alpha (1 - 1/n)
    replaces alpha in the terms before the last.

    Args:
        rademacher: Rad_n(p).
        rademacher_mixed: Rad_[n/2](q), at the integer part of n / 2.
        rademacher_conditional: Rad_m(q^_S), of mixups of this sample.
        discrepancy: disc+; may be negative.
        loss_bound: M.
        num_samples: n >= 2.
        num_augmented: m.
        delta: Probability of failure.
        self_pairs: Whether i = j is allowed.

    Returns:
        Bound in units of the loss, of the broadcast shape of the complexities.

    Raises:
        ValueError: If delta is not in (0, 1), or another argument is out of range.
    """
    confidence = _confidence_term(delta, 2.0)
    _check_positive(loss_bound=loss_bound, num_augmented=num_augmented)
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2 for a pair, got {num_samples}")
    original, mixed, conditional = _non_negative(
        rademacher=rademacher, rademacher_mixed=rademacher_mixed, rademacher_conditional=rademacher_conditional
    )
    alpha = num_augmented / (num_samples + num_augmented)
    mixed_share = alpha * (1.0 - 1.0 / num_samples) if self_pairs else alpha
    return np.asarray(
        mixed_share * np.asarray(discrepancy)
        + 2.0 * (1.0 - mixed_share) * original
        + 2.0 * mixed_share * mixed
        + (1.0 + mixed_share) * loss_bound * confidence / np.sqrt(num_samples)
        + alpha * (2.0 * conditional + loss_bound * confidence / np.sqrt(num_augmented))
    )
