"""The inequalities: their values, their relations, and that the complexities in them are upper bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.bounds import norm_ball_rademacher, t0_bound, t0_data_bound, t1_bound, t2_bound, t3_bound
from theory.deviation import empirical_rademacher
from theory.worlds import build_world

SIZES = st.integers(2, 10_000)
COMPLEXITY = st.floats(0, 10)


def test_values_by_hand():
    assert t0_bound(0.5, 2.0, 50, np.exp(-4)) == pytest.approx(1 + 2 * np.sqrt(4 / 100))
    assert t0_data_bound(0.5, 2.0, 50, 2 * np.exp(-4)) == pytest.approx(1 + 6 * np.sqrt(4 / 100))
    assert t1_bound(0.5, 2.0, 20, 30, np.exp(-4)) == pytest.approx(1 + 2 * np.sqrt(4 / 100))
    # alpha = 3/4, Neff = 40
    assert t2_bound(0.1, 0.2, 0.4, 2.0, 10, 30, np.exp(-5)) == pytest.approx(0.3 + 2 * 0.175 + 2 * np.sqrt(5 / 80))
    t3 = 0.3 + 0.05 + 0.3 + 1.75 * 2 * np.sqrt(5 / 20) + 0.75 * (0.6 + 2 * np.sqrt(5 / 60))
    assert t3_bound(0.1, 0.2, 0.3, 0.4, 2.0, 10, 30, 2 * np.exp(-5)) == pytest.approx(t3)
    share = 0.75 * 0.9
    any_pair = share * 0.4 + 2 * (1 - share) * 0.1 + 2 * share * 0.2 + (1 + share) * 2 * np.sqrt(5 / 20)
    any_pair += 0.75 * (0.6 + 2 * np.sqrt(5 / 60))
    assert t3_bound(0.1, 0.2, 0.3, 0.4, 2.0, 10, 30, 2 * np.exp(-5), self_pairs=True) == pytest.approx(any_pair)
    assert norm_ball_rademacher(2.0, 2.0, 1.0, 1.5, 50) == pytest.approx(2 * 4 * 1.5 * 0.2)


@given(SIZES, SIZES, COMPLEXITY, COMPLEXITY, st.floats(1e-6, 0.999))
def test_relations(n, m, rademacher, conditional, delta):
    t0 = t0_bound(rademacher, 1.0, n, delta)
    assert t1_bound(rademacher, 1.0, n, m, delta) < t0
    # With q = p, mixup of independent inputs is a larger sample ...
    assert t2_bound(rademacher, rademacher, 0.0, 1.0, n, m, delta) == pytest.approx(
        float(t1_bound(rademacher, 1.0, n, m, delta))
    )
    # ... while T3 stays above T0 whenever disc+ >= 0 and Rad_[n/2](q) >= Rad_n(p).
    assert t3_bound(rademacher, rademacher, conditional, 0.0, 1.0, n, m, delta) > t0


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 2.0, np.nan])
def test_delta_is_a_probability(delta):
    for call in (
        lambda: t0_bound(0.1, 1.0, 10, delta),
        lambda: t0_data_bound(0.1, 1.0, 10, delta),
        lambda: t1_bound(0.1, 1.0, 10, 10, delta),
        lambda: t2_bound(0.1, 0.1, 0.0, 1.0, 10, 10, delta),
        lambda: t3_bound(0.1, 0.1, 0.1, 0.0, 1.0, 10, 10, delta),
    ):
        with pytest.raises(ValueError, match="delta"):
            call()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: t0_bound(-0.1, 1.0, 10, 0.05), "rademacher"),
        (lambda: t0_bound(0.1, 0.0, 10, 0.05), "loss_bound"),
        (lambda: t0_bound(0.1, 1.0, 0, 0.05), "num_samples"),
        (lambda: t1_bound(0.1, 1.0, 10, 0, 0.05), "num_augmented"),
        (lambda: t2_bound(0.1, -1.0, 0.0, 1.0, 10, 10, 0.05), "rademacher_mixed"),
        (lambda: t3_bound(0.1, 0.1, 0.1, 0.0, 1.0, 1, 10, 0.05), "num_samples"),
        (lambda: norm_ball_rademacher(2.0, 2.0, 1.0, 0.0, 10), "radius"),
        (lambda: norm_ball_rademacher(2.0, 0.0, 1.0, 1.0, 10), "feature_bound"),
    ],
)
def test_arguments_out_of_range_are_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()


@pytest.mark.parametrize("name", ["W1", "W2"])
def test_complexity_of_the_ball_bounds_the_exact_one(name):
    world = build_world(name)
    rng = np.random.default_rng(9)
    inputs = world.draw(rng, 40)
    features, targets = world.features(inputs), world.teacher(inputs)
    signs = rng.choice([-1.0, 1.0], size=(2000, 40))
    exact = empirical_rademacher(features, targets, world.radius, signs)
    square = np.mean(np.sum(features**2, axis=1))
    bound = norm_ball_rademacher(square, world.feature_bound, world.teacher_bound, world.radius, 40)
    assert exact.mean() + 4 * exact.std() / np.sqrt(2000) < bound
    assert exact.mean() > bound / 10


@pytest.mark.parametrize("name", ["W1", "W2"])
def test_bounds_of_a_world_are_attained(name):
    world = build_world(name)
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T
    inputs = np.vstack([corners, world.draw(np.random.default_rng(0), 10_000)])
    assert np.linalg.norm(world.features(inputs), axis=1).max() == pytest.approx(world.feature_bound)
    assert np.abs(world.teacher(inputs)).max() == pytest.approx(world.teacher_bound)


def test_memorising_students_need_the_whole_complexity():
    """All {0, 1} functions on a continuum: sup+ = 1 for every sample, Rad_n = 1/2, so T0 and T1 need their factor 2."""
    for n in (10, 100, 10_000):
        assert t0_bound(0.5, 1.0, n, 0.05) >= 1 and t1_bound(0.5, 1.0, n, n, 0.05) >= 1
        assert t2_bound(0.5, 0.5, 0.0, 1.0, n, n, 0.05) >= 1
        assert t0_bound(0.25, 1.0, n, 0.05) < 1  # a factor 1 would be contradicted by every sample
