"""Closed forms against exact moments, random matrices and the law of lam."""

import numpy as np
import pytest
from scipy import stats

from theory.cell import Cell
from theory.closed_forms import kappa, mixup_excess_risk, sample_size_ratio, two_sided_limits
from theory.deviation import sup_absolute_deviation
from theory.functions import PolynomialTeacher, affine_features, quadratic_features
from theory.laws import Normal
from theory.simulate import simulate
from theory.worlds import linear_world, monomial_moments


@pytest.mark.parametrize("a", [0.1, 1.0, 3.0])
def test_kappa_is_what_mixup_leaves_of_the_variance(a):
    assert kappa(a) == pytest.approx(2 * stats.beta(a, a).moment(2))  # lam and 1 - lam have one law


@pytest.mark.parametrize("beta_alpha", [0.4, 1.0])
def test_bias_of_the_affine_student_under_mixup(beta_alpha):
    """f = x'Hx / 2, centred Gaussian: slopes 0, intercept s tr(H Sigma) / 2, excess alpha^2 (1-kappa)^2 (..)^2."""
    dimension, alpha = 3, 0.7
    hessian = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, -0.6]])
    rows, columns = np.triu_indices(dimension)
    halved = np.where(rows == columns, 0.5, 1.0) * hessian[rows, columns]
    teacher = PolynomialTeacher(quadratic_features(dimension), np.concatenate([np.zeros(4), halved]))
    features = affine_features(dimension)
    original = monomial_moments(features, teacher, Normal(dimension))
    trained_on = original.combined(monomial_moments(features, teacher, Normal(dimension), beta_alpha), alpha)
    weights, best = (np.linalg.solve(moments.a, moments.b) for moments in (trained_on, original))
    half_trace = np.trace(hessian) / 2
    assert weights == pytest.approx([(1 - alpha * (1 - kappa(beta_alpha))) * half_trace, 0, 0, 0])
    excess = original.risk(weights) - original.risk(best)
    assert excess == pytest.approx(mixup_excess_risk(alpha, beta_alpha, half_trace))


@pytest.mark.parametrize(("dimension", "num_samples", "mixup_wins"), [(60, 400, True), (20, 2000, False)])
def test_two_sided_shrinkage_follows_its_threshold(dimension, num_samples, mixup_wins):
    """Case (ii): 2 t + t^2 without mixup, max(1 - s (1-t)^2, s (1+t)^2 - 1) with it; smaller iff s > threshold."""
    world, alpha = linear_world(dimension), 0.5
    t, s = np.sqrt(dimension / num_samples), 1 - alpha * (1 - kappa(1.0))
    without, with_mixup = two_sided_limits(dimension, num_samples, alpha, 1.0)
    assert (s > (1 - 2 * t - t**2) / (1 - t) ** 2) == mixup_wins == (with_mixup < without)
    rng = np.random.default_rng(5)
    plain, mixed = [], []
    for _ in range(20):
        inputs = world.draw(rng, num_samples)
        second = inputs.T @ inputs / num_samples
        mean = inputs.mean(axis=0)
        zero = np.zeros(dimension)
        plain.append(sup_absolute_deviation(np.eye(dimension) - second, zero, 0.0, world.radius))
        # m -> inf: kappa times the second moment plus the rest of the mean's square
        averaged = s * second + (1 - s) * np.outer(mean, mean)
        mixed.append(sup_absolute_deviation(np.eye(dimension) - averaged, zero, 0.0, world.radius))
    assert (np.mean(mixed) < np.mean(plain)) == mixup_wins
    # Edges of the spectrum lie inside their limits by O(d^(-2/3)).
    assert np.mean(plain) == pytest.approx(without, rel=0.1)
    assert np.mean(mixed) == pytest.approx(with_mixup, rel=0.1)


def test_fresh_inputs_save_originals():
    """n originals and rho n fresh inputs have the law of (1 + rho) n originals, whatever the quantity."""
    fields = {"world": "W1", "num_replicates": 400, "master_seed": 3}
    pooled = simulate(Cell(arm="S1", num_samples=20, num_augmented=60, **fields))["sup_one_sided"]
    larger = simulate(Cell(arm="S0", num_samples=round(20 / sample_size_ratio(3)), num_augmented=0, **fields))
    assert stats.ks_2samp(pooled, larger["sup_one_sided"]).pvalue > 0.001
