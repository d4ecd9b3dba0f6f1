"""The exact suprema against brute force, optimality conditions and closed forms."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from theory.deviation import empirical_rademacher, sup_absolute_deviation, sup_deviation
from theory.moments import Moments, sample_moments
from theory.worlds import build_world


def quadratic(a, b, c, w):
    return c - 2 * w @ b + np.einsum("...i,ij,...j", w, a, w)


def brute_force(objective, dimension, radius, rng):
    """Dense sampling of the ball, its best points polished by a general solver that knows no eigenvalues."""
    points = rng.standard_normal((20000, dimension))
    points *= radius / np.linalg.norm(points, axis=1, keepdims=True)
    points[::2] *= rng.uniform(size=(10000, 1)) ** (1 / dimension)
    values = objective(points)
    constraint = {"type": "ineq", "fun": lambda w: radius**2 - w @ w}
    polished = [
        -minimize(
            lambda w: -objective(w), points[i], method="SLSQP", constraints=constraint, options={"ftol": 1e-13}
        ).fun
        for i in np.argsort(values)[-4:]
    ]
    return max(values.max(), *polished)


def random_problem(seed):
    """Indefinite, definite, interior, hard and boundary problems in turn."""
    rng = np.random.default_rng(seed)
    dimension = int(rng.integers(1, 5))
    basis = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0]
    lam = np.sort(rng.standard_normal(dimension))
    c = rng.standard_normal(dimension)
    kind = seed % 4
    if kind == 1:  # negative definite with a small gradient: interior
        lam, c = -1 - np.abs(lam), 0.1 * c
    if kind == 2:  # hard: no gradient along the top eigenvector, little elsewhere
        lam[-1] = abs(lam[-1]) + lam[:-1].max(initial=0.0) + 0.5
        c = 0.1 * c
        c[-1] = 0.0
    if kind == 3:  # a double top eigenvalue
        lam[-2:] = 1.0
    a = (basis * lam) @ basis.T
    return (a + a.T) / 2, basis @ c, float(rng.standard_normal()), float(rng.uniform(0.3, 2.0))


@pytest.mark.parametrize("seed", range(32))
def test_supremum_is_the_one_that_brute_force_finds(seed):
    a, b, c, radius = random_problem(seed)
    value, argmax = sup_deviation(a, b, c, radius)
    found = brute_force(lambda w: quadratic(a, b, c, w), len(b), radius, np.random.default_rng(seed))
    assert np.linalg.norm(argmax) <= radius * (1 + 1e-12)
    assert quadratic(a, b, c, argmax) == pytest.approx(value, abs=1e-11)
    assert found <= value + 1e-7  # the solver may leave the ball by its own tolerance
    assert found == pytest.approx(value, abs=1e-5)
    below = brute_force(lambda w: -quadratic(a, b, c, w), len(b), radius, np.random.default_rng(seed))
    assert sup_absolute_deviation(a, b, c, radius) == pytest.approx(max(found, below), abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.floats(-6, 6), st.floats(-8, 2))
def test_argmax_satisfies_the_sufficient_conditions(seed, dimension, log_radius, log_gradient):
    """(mu - A) w = -b, mu >= max(0, lam_max), mu (radius - ||w||) = 0: sufficient for a global maximum."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((dimension, dimension))
    a, b = a + a.T, 10.0**log_gradient * rng.standard_normal(dimension)
    radius = 10.0**log_radius
    w = sup_deviation(a, b, 0.0, radius)[1]
    mu = w @ (a @ w - b) / (w @ w)
    scale = np.linalg.norm(b) + np.linalg.norm(a) * radius
    top = max(0.0, np.linalg.eigvalsh(a)[-1])
    assert np.linalg.norm(mu * w - a @ w + b) <= 1e-9 * scale
    assert mu >= top - 1e-9 * scale / np.linalg.norm(w)
    assert mu <= 1e-9 * np.linalg.norm(a) or np.linalg.norm(w) == pytest.approx(radius, rel=1e-9)


@pytest.mark.parametrize(
    ("diagonal", "b", "radius", "expected"),
    [
        ([-1.0, -1.0], [0.1, 0.0], 1.0, 0.01),  # interior
        ([2.0, 0.0], [0.0, 1.0], 2.0, 8.5),  # hard: 2 * 4 + 1 / 2
        ([2.0, 0.0], [1e-13, 1.0], 2.0, 8.5),  # nearly hard
        ([2.0, 0.0], [1e-60, 1.0], 2.0, 8.5),  # hard up to rounding
        ([2.0, 2.0, 0.0], [0.0, 0.0, 1.0], 2.0, 8.5),  # hard, double eigenvalue
        ([3.0, 1.0], [0.0, 0.0], 2.0, 12.0),  # no gradient
        ([0.0, 0.0], [3.0, 4.0], 2.0, 20.0),  # linear: 2 radius ||b||
        ([0.0, 0.0], [0.0, 0.0], 2.0, 0.0),  # nothing
        ([0.0, -1.0], [0.0, 0.5], 2.0, 0.25),  # flat direction
        ([1.0], [1.0], 2.0, 8.0),  # 4 + 4, at w = -2
    ],
)
def test_closed_forms(diagonal, b, radius, expected):
    value, argmax = sup_deviation(np.diag(diagonal), b, 0.0, radius)
    assert value == pytest.approx(expected, abs=1e-11)
    assert quadratic(np.diag(diagonal), np.array(b), 0.0, argmax) == pytest.approx(expected, abs=1e-11)


def test_no_problem_depends_on_its_neighbours_in_the_batch():
    rng = np.random.default_rng(0)
    a, b, c, radius = (rng.standard_normal(shape) for shape in [(50, 3, 3), (50, 3), 50, 50])
    a, radius = a + np.swapaxes(a, 1, 2), np.exp(radius)
    values, argmaxes = sup_deviation(a, b, c, radius)
    for i in range(50):
        value, argmax = sup_deviation(a[i : i + 1], b[i : i + 1], c[i : i + 1], radius[i])
        assert value[0] == values[i]
        assert np.array_equal(argmax[0], argmaxes[i])
        assert sup_deviation(a[i], b[i], c[i], radius[i])[0] == pytest.approx(values[i], rel=1e-14)


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan])
def test_radius_must_be_positive(radius):
    with pytest.raises(ValueError, match="radius must be positive"):
        sup_deviation(np.eye(2), np.zeros(2), 0.0, radius)


def test_rademacher_complexity_is_the_mean_of_brute_force_suprema_over_all_signs():
    rng = np.random.default_rng(3)
    features, targets, radius = rng.standard_normal((5, 2)), rng.standard_normal(5), 1.2
    signs = np.array(list(product([-1.0, 1.0], repeat=5)))
    angles, radii = np.meshgrid(np.linspace(0, 2 * np.pi, 1441), np.linspace(0, radius, 241))
    ball = np.stack([(radii * np.cos(angles)).ravel(), (radii * np.sin(angles)).ravel()], axis=1)
    losses = (targets - ball @ features.T) ** 2  # (P, n): nothing but the definition
    suprema = (losses @ signs.T / 5).max(axis=0)
    exact = empirical_rademacher(features, targets, radius, signs)
    assert np.all(exact >= suprema - 1e-12)
    assert exact == pytest.approx(suprema, abs=2e-3)
    assert exact.mean() > 0.1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_deviation_of_a_sample_is_at_most_the_average_over_its_subsets(seed):
    """T1, sample by sample: R_N averages the risks of its n-subsets, and a supremum is convex."""
    world = build_world("W2")
    inputs = world.draw(np.random.default_rng(seed), 6)

    def deviation(points):
        sample = sample_moments(world.features(points), world.teacher(points))
        difference = Moments(*(p - s for p, s in zip(world.population, sample, strict=True)))
        return sup_deviation(*difference, world.radius)[0], -sup_deviation(*(-part for part in sample), world.radius)[0]

    subsets = np.array([deviation(inputs[list(chosen)]) for chosen in combinations(range(6), 4)])
    sup_full, min_full = deviation(inputs)
    assert sup_full <= subsets[:, 0].mean() + 1e-12
    assert min_full >= subsets[:, 1].mean() - 1e-12  # and the training risk of the minimiser can only grow
