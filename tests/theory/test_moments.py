"""Closed-form population moments against Monte Carlo and generic integration."""

import numpy as np
import pytest
from scipy import integrate, stats

from theory.arms import augment
from theory.functions import affine_features
from theory.laws import Normal, Uniform
from theory.moments import Moments, mixed_raw_moments, population_of_points, sample_moments, tanh_gram
from theory.worlds import WORLDS, build_world, monomial_moments


def standard_errors(exact, features, targets):
    """How far sample averages lie from the exact moments, in their standard errors."""
    columns = np.column_stack([features, targets])
    num_samples = len(columns)
    means = columns.T @ columns / num_samples
    squares = (columns**2).T @ (columns**2) / num_samples
    error = np.sqrt(np.maximum(squares - means**2, 0) / (num_samples - 1))
    truth = np.block([[exact.a, exact.b[:, None]], [exact.b[None], np.reshape(exact.c, (1, 1))]])
    assert np.all(np.abs(means - truth)[error < 1e-12] < 1e-9)  # constants
    return np.abs(means - truth)[error >= 1e-12] / error[error >= 1e-12]


@pytest.mark.parametrize("name", [name for name in WORLDS if name.startswith("W")])
def test_population_moments_agree_with_monte_carlo(name):
    world = build_world(name)
    inputs = world.draw(np.random.default_rng([7, 1]), 60_000)
    scores = standard_errors(world.population, world.features(inputs), world.teacher(inputs))
    assert scores.max() < 5.5  # up to 20,000 entries
    wrong = Moments(world.population.a, world.population.b, 1.2 * world.population.c)
    assert standard_errors(wrong, world.features(inputs), world.teacher(inputs)).max() > 5.5


@pytest.mark.parametrize("beta_alpha", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("name", ["W1", "W2", "W3", "W5"])
def test_moments_of_the_mixed_law_agree_with_monte_carlo(name, beta_alpha):
    world = build_world(name)
    exact = monomial_moments(world.features, world.teacher, world.law, beta_alpha)
    nobody = np.empty((1, world.dimension))
    rng = np.random.default_rng([7, 2])
    inputs, _ = augment("S2", rng, world.draw, nobody, np.empty(1), 60_000, beta_alpha=beta_alpha)
    assert standard_errors(exact, world.features(inputs), world.teacher(inputs)).max() < 5.5
    assert standard_errors(world.population, world.features(inputs), world.teacher(inputs)).max() > 5.5


@pytest.mark.parametrize("law", [Uniform, Normal])
@pytest.mark.parametrize("a", [0.1, 1.0, 3.0])
def test_mixed_coordinate_has_the_moments_of_beta(law, a):
    _, _, second, _, fourth = law.raw_moments
    moments, probabilities = mixed_raw_moments(law.raw_moments, a)
    kappa, lam_1, lam_2 = (a + 1) / (2 * a + 1), a / (2 * (2 * a + 1)), a * (a + 1) / (4 * (2 * a + 1) * (2 * a + 3))
    mixed_fourth = (1 - 4 * lam_1 + 2 * lam_2) * fourth + 6 * lam_2 * second**2
    assert probabilities @ moments == pytest.approx([1, 0, kappa * second, 0, mixed_fourth], abs=1e-13)
    beta = stats.beta(a, a)
    assert lam_1 == pytest.approx(beta.expect(lambda t: t * (1 - t)))
    assert lam_2 == pytest.approx(beta.expect(lambda t: t**2 * (1 - t) ** 2))


def test_tanh_gram_agrees_with_adaptive_integration():
    directions = np.array([[0.6, 1.1], [0.2, -0.9]])
    density = stats.norm.pdf

    def integrand(y, x):
        u, v = np.array([x, y]) @ directions
        return np.tanh(2 * u) * np.tanh(2 * v) * density(x) * density(y)

    expected, _ = integrate.dblquad(integrand, -7, 7, -7, 7, epsabs=1e-8)
    assert tanh_gram(directions)[0, 1] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("feature", [0, 3, 199])
def test_w4_cross_moments_agree_with_another_quadrature(feature):
    """Two orthonormal coordinates carry everything: the one along w_k, and the rest of the frequency."""
    world = build_world("W4")
    frequency, phase = world.features.frequencies[:, feature], world.features.phases[feature]
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    expected = 0.0
    for direction, amplitude in zip(world.teacher.directions.T, world.teacher.amplitudes, strict=True):
        scale = np.linalg.norm(direction)
        along = frequency @ direction / scale
        rest = np.sqrt(frequency @ frequency - along**2)
        cosine = np.cos(along * nodes[:, None] + rest * nodes + phase) @ weights
        expected += 2 * amplitude * (weights * np.tanh(2 * scale * nodes)) @ cosine / (2 * np.pi)
    assert world.population.b[feature] == pytest.approx(world.features.scale * expected, abs=1e-6)


def test_risk_is_the_mean_squared_residual_in_any_coordinates():
    rng = np.random.default_rng(0)
    features, targets, w, center = (rng.standard_normal(shape) for shape in [(4, 9, 3), (4, 9), (4, 3), 3])
    moments = sample_moments(features, targets)
    expected = np.mean((targets - np.einsum("rnd,rd->rn", features, w)) ** 2, axis=1)
    assert moments.risk(w) == pytest.approx(expected)
    assert moments.shifted(center).risk(w - center) == pytest.approx(expected)
    halves = [sample_moments(features[:, s], targets[:, s]) for s in (slice(0, 3), slice(3, 9))]
    assert halves[0].combined(halves[1], 6 / 9).risk(w) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["W1", "W3", "W5"])
def test_around_the_teacher_nothing_but_the_quadratic_form_is_left(name):
    world = build_world(name)
    _, b, c = world.population.shifted(world.teacher_weights)
    assert not b.any()
    assert c == 0


def test_chunks_of_points_weigh_what_they_hold():
    points = np.random.default_rng(0).standard_normal((17, 2)) ** 2
    whole, parts = (
        population_of_points(affine_features(2), lambda x: x[..., 0] ** 3, points, chunk) for chunk in (100, 5)
    )
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other)
