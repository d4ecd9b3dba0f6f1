"""The worlds are what the theory document defines, and the identities that hold in them."""

import numpy as np
import pytest

from theory.arms import augment
from theory.deviation import sup_deviation
from theory.functions import affine_features, cosines, linear_features, quadratic_features
from theory.moments import sample_moments
from theory.world import World
from theory.worlds import WORLDS, build_world, monomial_moments


def test_features_are_the_monomials_in_their_order():
    x = np.array([2.0, 3.0])
    assert linear_features(2)(x).tolist() == [2, 3]
    assert affine_features(2)(x).tolist() == [1, 2, 3]
    assert quadratic_features(2)(x).tolist() == [1, 2, 3, 4, 6, 9]
    assert quadratic_features(2).exponents.tolist() == [[0, 0], [1, 0], [0, 1], [2, 0], [1, 1], [0, 2]]


def test_cosines_have_their_kernel():
    """exp(-||x - x'||^2 / 2 l^2) with l^2 the total variance."""
    features = cosines(np.random.default_rng(0), 4.0, 3, 40_000)
    x = np.random.default_rng(1).standard_normal((5, 3))
    squares = np.sum((x[:, None] - x) ** 2, axis=2)
    np.testing.assert_allclose(features(x) @ features(x).T, np.exp(-squares / 8), atol=0.03)


def test_teachers_of_w1_to_w3():
    x = np.random.default_rng(0).uniform(-1, 1, (5, 3))
    linear = 0.6 * x[:, 0] - 0.4 * x[:, 1]
    assert build_world("W1").teacher(x) == pytest.approx(linear)
    assert build_world("W2").teacher(x) == pytest.approx(linear + 0.8 * (1.5 * x[:, 2] ** 2 - 0.5))
    assert build_world("W3").teacher(np.ones(10)) == pytest.approx(np.sqrt(10))


@pytest.mark.parametrize("name", [name for name in WORLDS if name.startswith("W")])
def test_teacher_weights_are_there_exactly_where_the_teacher_is_inside_the_class(name):
    world = build_world(name)
    inputs = world.draw(np.random.default_rng(1), 400)
    if world.teacher_weights is not None:
        assert world.features(inputs) @ world.teacher_weights == pytest.approx(world.teacher(inputs))
    else:
        best = np.linalg.lstsq(world.features(inputs), world.teacher(inputs), rcond=None)[0]
        residual = world.teacher(inputs) - world.features(inputs) @ best
        assert np.mean(residual**2) > 0.01 * world.population.c


def test_networks_of_w6_have_32_units_or_4():
    worlds = [build_world("W6 network"), build_world("W6 small network")]
    assert [(world.num_units, world.num_steps) for world in worlds] == [(32, 1500), (4, 1500)]


def test_ranges_are_checked():
    w1 = build_world("W1")
    fields = {name: getattr(w1, name) for name in ("law", "teacher", "features", "population", "learner")}
    with pytest.raises(ValueError, match="radius must be positive, got 0"):
        World(**fields, radius=0.0)
    with pytest.raises(ValueError, match="ridge_penalty must be positive"):
        World(**fields, ridge_penalty=-1.0)


@pytest.mark.parametrize("dimension", [1, 2, 3, 6])
def test_one_mixup_per_pair_completes_the_rank_of_quadratics(dimension):
    """n + n (n - 1) / 2 = (d + 1)(d + 2) / 2 at n = d + 1, and the rank is full; T16."""
    rng = np.random.default_rng(dimension)
    n, features = dimension + 1, quadratic_features(dimension)
    originals = rng.standard_normal((n, dimension))
    mixups, _ = augment("S3", rng, None, originals, np.zeros(n), n * (n - 1) // 2, pairing="every")
    full = (dimension + 1) * (dimension + 2) // 2
    assert np.linalg.matrix_rank(features(originals)) == n
    assert np.linalg.matrix_rank(features(np.vstack([originals, mixups]))) == full
    one_short = np.vstack([originals, mixups[1:]])
    assert np.linalg.matrix_rank(features(one_short)) == full - 1


@pytest.mark.parametrize("name", ["W1", "W2"])
def test_discrepancy_is_the_limit_of_mixup_with_independent_inputs(name):
    """T10: at fixed m/n the one-sided supremum under S2 tends to alpha disc+."""
    world = build_world(name)
    mixed_law = monomial_moments(world.features, world.teacher, world.law, 1.0)
    disc, _ = sup_deviation(*(p - q for p, q in zip(world.population, mixed_law, strict=True)), world.radius)
    rng, n = np.random.default_rng(6), 20_000
    originals = world.draw(rng, n)
    mixups, _ = augment("S2", rng, world.draw, originals, np.zeros(n), n)
    pooled = np.vstack([originals, mixups])
    sample = sample_moments(world.features(pooled), world.teacher(pooled))
    observed, _ = sup_deviation(*(p - s for p, s in zip(world.population, sample, strict=True)), world.radius)
    assert observed == pytest.approx(disc / 2, rel=0.05)
    assert disc > 0.1
