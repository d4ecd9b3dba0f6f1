"""Input laws: what they promise, and that the shapes differ as their names say."""

from typing import get_args

import numpy as np
import pytest
from scipy import stats

from theory.laws import NUM_POINTS, Empirical, Normal, Shape, Uniform, points_of


@pytest.mark.parametrize("law", [Uniform(2), Normal(2)])
def test_raw_moments_are_those_of_the_draws(law):
    coordinate = law.draw(np.random.default_rng(0), 200_000)[:, 1]
    powers = coordinate[:, None] ** np.arange(5)
    assert np.all(np.abs(powers.mean(axis=0) - law.raw_moments) <= 5 * powers.std(axis=0) / np.sqrt(200_000))


@pytest.mark.parametrize("shape", get_args(Shape))
def test_shapes_are_centred_with_the_same_total_variance(shape):
    points = points_of(shape, 10, np.random.default_rng(3))
    assert points.shape == (NUM_POINTS, 10)
    assert np.abs(points.mean(axis=0)).max() < 1e-12
    assert np.mean(np.sum(points**2, axis=1)) == pytest.approx(10)
    again = points_of(shape, 10, np.random.default_rng(3))
    assert np.array_equal(points, again)


def test_shapes_are_what_their_names_say():
    points = {shape: points_of(shape, 10, np.random.default_rng(3)) for shape in get_args(Shape)}
    spectra = {shape: np.linalg.eigvalsh(np.cov(x.T))[::-1] for shape, x in points.items()}
    assert spectra["isotropic"][0] / spectra["isotropic"][-1] < 1.2
    np.testing.assert_allclose(spectra["anisotropic"] / spectra["anisotropic"][0], np.arange(1, 11) ** -2.0, rtol=0.1)
    norms = {shape: np.linalg.norm(x, axis=1) for shape, x in points.items()}
    assert norms["heavy-tailed"].max() / np.median(norms["heavy-tailed"]) > 3 * norms["isotropic"].max() / 3
    # Locally the torus is two-dimensional: neighbours of a point lie near a plane.
    for shape, is_flat in (("manifold", True), ("isotropic", False)):
        x = points[shape]
        nearest = x[np.argsort(np.linalg.norm(x - x[0], axis=1))[:30]]
        singular = np.linalg.svd(nearest - nearest.mean(axis=0), compute_uv=False)
        assert (np.sum(singular[:2] ** 2) / np.sum(singular**2) > 0.95) == is_flat
    # Clusters: most of the variance lies between four centres.
    centres = points["mixture"][:4]
    for _ in range(20):
        nearest = np.argmin(((points["mixture"][:, None] - centres) ** 2).sum(axis=2), axis=1)
        centres = np.stack([points["mixture"][nearest == k].mean(axis=0) for k in range(4)])
    within = np.mean(np.sum((points["mixture"] - centres[nearest]) ** 2, axis=1))
    assert within < 5


def test_heavy_tails_have_three_degrees_of_freedom():
    """t = z / sqrt(chi2_3 / 3) in R^10, so that ||t||^2 / 10 ~ F(10, 3), up to the common scale."""
    squares = np.sum(points_of("heavy-tailed", 10, np.random.default_rng(3)) ** 2, axis=1)
    law = stats.f(10, 3)
    assert stats.kstest(squares / np.median(squares) * law.median(), law.cdf).pvalue > 1e-3


def test_an_empirical_law_is_its_points():
    points = np.arange(6.0).reshape(3, 2)
    law = Empirical(points)
    drawn = law.draw(np.random.default_rng(0), 3000)
    assert law.dimension == 2
    counts = {tuple(row): int((drawn == row).all(axis=1).sum()) for row in points}
    assert sum(counts.values()) == 3000 and min(counts.values()) > 900
