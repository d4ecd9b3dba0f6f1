"""The laws of the augmented inputs, and the identities that they are known for."""

import numpy as np
import pytest
from scipy import stats

from theory.arms import augment, draw_pairs, mix
from theory.learners import min_norm, ridge
from theory.worlds import PolynomialTeacher, affine_features, build_world, quadratic_features


def draw(generator, num_samples):
    return generator.standard_normal((num_samples, 2))


def all_mixups(originals, labels, beta_alpha):
    """Every ordered pair, i = j included, with two equally likely lam of the right mean and variance.

    Exact in expectation for whatever is quadratic in lam.
    """
    n, spread = len(originals), np.sqrt(1 / (4 * (2 * beta_alpha + 1)))
    first, second = (np.tile(index.ravel(), 2) for index in np.indices((n, n)))
    lam = np.repeat([0.5 - spread, 0.5 + spread], n * n)
    return mix(originals, first, second, lam), mix(labels, first, second, lam)


def test_distinct_pairs_are_uniform():
    first, second = draw_pairs(np.random.default_rng(0), 5, 40_000, "distinct")
    counts = np.zeros((5, 5))
    np.add.at(counts, (first, second), 1)
    assert not np.diag(counts).any()
    assert stats.chisquare(counts[~np.eye(5, dtype=bool)]).pvalue > 1e-3


def test_any_pairs_are_uniform_with_the_diagonal():
    first, second = draw_pairs(np.random.default_rng(0), 5, 40_000, "any")
    counts = np.zeros((5, 5))
    np.add.at(counts, (first, second), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_permutation_pairs_use_every_original_once_per_pass():
    first, second = draw_pairs(np.random.default_rng(0), 6, 15, "permutation")
    assert first.tolist() == [*range(6), *range(6), *range(3)]
    assert sorted(second[:6]) == sorted(second[6:12]) == list(range(6))
    assert len(set(second[12:])) == 3
    assert second[:6].tolist() != second[6:12].tolist()


def test_every_pair_comes_once():
    first, second = draw_pairs(np.random.default_rng(0), 5, 10, "every")
    assert {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)} == {
        frozenset((i, j)) for i in range(5) for j in range(i)
    }


@pytest.mark.parametrize("a", [0.2, 1.0, 4.0])
def test_lam_has_the_moments_of_beta(a):
    originals = np.array([[0.0], [1.0]])  # so that a mixup is lam or 1 - lam itself
    inputs, _ = augment("S3", np.random.default_rng(1), draw, originals, originals[:, 0], 40_000, beta_alpha=a)
    spread = inputs[:, 0] * (1 - inputs[:, 0])
    for values, expected in [
        (1 - 2 * spread, (a + 1) / (2 * a + 1)),  # kappa
        (spread, a / (2 * (2 * a + 1))),
        (spread**2, a * (a + 1) / (4 * (2 * a + 1) * (2 * a + 3))),
    ]:
        assert abs(values.mean() - expected) < 4 * stats.sem(values)


@pytest.mark.parametrize("arm", ["S1", "S2"])
def test_fresh_arms_do_not_look_at_the_sample(arm):
    one, two = (
        augment(arm, np.random.default_rng(2), draw, scale * np.ones((4, 2)), np.ones(4), 50_000) for scale in (1, 9)
    )
    assert np.array_equal(one[0], two[0])
    assert one[1] is None
    kappa = 1.0 if arm == "S1" else 2 / 3  # E zz' = kappa Sigma
    squares = one[0] ** 2
    assert np.all(np.abs(squares.mean(axis=0) - kappa) < 4 * stats.sem(squares))


def test_mixups_of_the_sample_lie_on_its_segments():
    rng = np.random.default_rng(3)
    originals = draw(rng, 3)
    barycentric = np.linalg.inv(np.column_stack([originals, np.ones(3)]))
    inputs, labels = augment("S3", rng, draw, originals, np.arange(3.0), 200)
    shares = np.column_stack([inputs, np.ones(200)]) @ barycentric
    assert labels is None
    assert np.abs(shares).min(axis=1).max() < 1e-12  # one of the three takes no part
    assert shares.min() > -1e-12


def test_label_mixup_mixes_labels_like_inputs():
    rng = np.random.default_rng(3)
    originals = draw(rng, 5)
    inputs, labels = augment("label-mixup", rng, draw, originals, originals @ [2.0, -1.0], 100)
    assert labels == pytest.approx(inputs @ [2.0, -1.0])


@pytest.mark.parametrize("arm", ["random", "balanced", "jitter", "jitter-copied"])
def test_copies_and_jitter(arm):
    originals, labels = np.arange(8.0).reshape(4, 2), np.arange(4.0)
    inputs, given = augment(arm, np.random.default_rng(4), draw, originals, labels, 20_000, jitter_scale=0.3)
    if arm == "random":
        counts = np.unique(inputs[:, 0], return_counts=True)[1]
        assert stats.chisquare(counts).pvalue > 1e-3
        assert np.ptp(counts) > 0
    elif arm == "balanced":
        assert np.unique(inputs, axis=0, return_counts=True)[1].tolist() == [5000] * 4
    else:
        noise = inputs - np.tile(originals, (5000, 1))
        assert stats.kstest(noise.ravel() / 0.3, "norm").pvalue > 1e-3
    assert np.array_equal(given, np.tile(labels, 5000)) if arm == "jitter-copied" else given is None


def test_s0_adds_nothing():
    with pytest.raises(ValueError, match="S0"):
        augment("S0", np.random.default_rng(0), draw, np.ones((2, 2)), np.ones(2), 1)


def test_teacher_labels_are_mixed_labels_minus_curvature():
    rng = np.random.default_rng(5)
    hessian = rng.standard_normal((4, 4))
    hessian += hessian.T
    features = quadratic_features(4)
    # x'Hx / 2 on 1, x_1..x_4, then x_i x_j for i <= j.
    rows, columns = np.triu_indices(4)
    quadratic_part = np.where(rows == columns, 0.5, 1.0) * hessian[rows, columns]
    teacher = PolynomialTeacher(features, np.concatenate([rng.standard_normal(5), quadratic_part]))
    originals, first, second, lam = (
        rng.standard_normal((6, 4)), rng.integers(6, size=50), rng.integers(6, size=50), rng.uniform(size=50)
    )  # fmt: skip
    difference = originals[first] - originals[second]
    curvature = np.einsum("ni,ij,nj->n", difference, hessian, difference)
    expected = mix(teacher(originals), first, second, lam) - lam * (1 - lam) * curvature / 2
    assert teacher(mix(originals, first, second, lam)) == pytest.approx(expected)


@pytest.mark.parametrize("beta_alpha", [0.3, 1.0])
def test_label_mixup_is_ols_with_an_intercept_and_a_larger_ridge_with_a_penalty(beta_alpha):
    rng = np.random.default_rng(6)
    originals, labels = rng.standard_normal((12, 3)), rng.standard_normal(12)
    inputs, mixed_labels = all_mixups(originals, labels, beta_alpha)
    phi = affine_features(3)
    ols = np.linalg.lstsq(phi(originals), labels, rcond=None)[0]
    assert min_norm(phi(inputs)[None], mixed_labels[None])[0] == pytest.approx(ols)
    # Ridge on the slopes: all weight on mixups (alpha = 1), so s = kappa.
    tau, kappa = 0.2, (beta_alpha + 1) / (2 * beta_alpha + 1)
    stacked = np.vstack([phi(inputs), np.sqrt(tau * len(inputs)) * np.eye(4)[1:]])
    mixed_ridge = np.linalg.lstsq(stacked, np.concatenate([mixed_labels, np.zeros(3)]), rcond=None)[0]
    centred = originals - originals.mean(axis=0)
    plain_ridge = ridge(centred[None], (labels - labels.mean())[None], tau / kappa)[0]
    assert mixed_ridge[1:] == pytest.approx(plain_ridge)
    assert mixed_ridge[1:] != pytest.approx(ridge(centred[None], (labels - labels.mean())[None], tau)[0], rel=1e-3)


def test_label_mixup_loss_is_kappa_times_the_mean_square_and_the_rest_on_the_square_of_the_mean():
    world = build_world("W2")
    rng = np.random.default_rng(7)
    originals, w = world.draw(rng, 9), rng.standard_normal(4)
    labels = world.teacher(originals)
    inputs, mixed_labels = all_mixups(originals, labels, 1.0)
    errors = labels - world.features(originals) @ w
    expected = 2 / 3 * np.mean(errors**2) + 1 / 3 * errors.mean() ** 2
    assert np.mean((mixed_labels - world.features(inputs) @ w) ** 2) == pytest.approx(expected)


def test_label_copied_jitter_is_a_ridge():
    rng = np.random.default_rng(8)
    originals, labels, scale = rng.standard_normal((10, 3)), rng.standard_normal(10), 0.4
    # Points with the mean and covariance of the noise; exact for what is quadratic in it.
    noise = scale * np.sqrt(3) * np.vstack([np.eye(3), -np.eye(3)])
    inputs = (originals[:, None] + noise).reshape(-1, 3)
    jittered = min_norm(inputs[None], np.repeat(labels, 6)[None])[0]
    assert jittered == pytest.approx(ridge(originals[None], labels[None], scale**2)[0])
