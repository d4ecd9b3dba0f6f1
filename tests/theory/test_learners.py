"""Batched students against generic solvers, well- and ill-conditioned."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from theory.learners import (
    MAX_CONDITION,
    ball_erm,
    gradient_flow,
    initial_networks,
    min_norm,
    ridge,
    train_networks,
)
from theory.moments import Moments, sample_moments


def problem(num_samples, num_features, singular=None, seed=0, batch=3):
    """Random features, or ones with the given singular values, and targets that they do not fit."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((batch, num_samples, num_features))
    if singular is not None:
        left, _, right = np.linalg.svd(features, full_matrices=False)
        features = (left * singular) @ right
    return features, rng.standard_normal((batch, num_samples))


@pytest.mark.parametrize(("num_samples", "num_features"), [(20, 4), (4, 20), (5, 5)])
def test_min_norm_is_the_pseudo_inverse(num_samples, num_features):
    features, targets = problem(num_samples, num_features)
    for w, phi, y in zip(min_norm(features, targets), features, targets, strict=True):
        assert w == pytest.approx(np.linalg.pinv(phi) @ y)


@pytest.mark.parametrize(("num_samples", "num_features"), [(8, 4), (4, 8)])
def test_ill_conditioned_systems_keep_their_digits(num_samples, num_features):
    singular = np.array([1.0, 1e-2, 1e-4, 1e-7])  # the Gram matrix's condition number is 1e14
    features, _ = problem(num_samples, num_features, singular)
    truth = np.linalg.svd(features, full_matrices=False)[2].sum(axis=1)[..., None]  # weak directions count too
    targets = (features @ truth)[..., 0]
    error = np.linalg.norm(min_norm(features, targets) - truth[..., 0], axis=1)
    transposed = features.swapaxes(1, 2)
    gram = transposed @ features if num_samples > num_features else features @ transposed
    if num_samples > num_features:
        careless = np.linalg.solve(gram, transposed @ targets[..., None])[..., 0]
    else:
        careless = (transposed @ np.linalg.solve(gram, targets[..., None]))[..., 0]
    assert np.linalg.cond(gram).min() > MAX_CONDITION
    assert error.max() < 1e-7
    assert np.linalg.norm(careless - truth[..., 0], axis=1).max() > 1e-5  # what the fallback prevents


def test_rank_deficient_systems_get_the_least_norm():
    features, targets = problem(6, 4)
    doubled = np.concatenate([features, features], axis=2)  # each feature twice: the weight is split
    w = min_norm(doubled, targets)
    plain = min_norm(features, targets)
    assert w == pytest.approx(np.concatenate([plain, plain], axis=1) / 2)
    assert min_norm(np.zeros((1, 3, 2)), np.ones((1, 3))) == pytest.approx(np.zeros((1, 2)))


def test_batches_may_hold_both_kinds():
    good, targets = problem(8, 4)
    bad, _ = problem(8, 4, np.array([1.0, 1e-2, 1e-4, 1e-7]))
    mixed = np.stack([good[0], bad[1], good[2]])
    together = min_norm(mixed, targets)
    for i in range(3):
        assert np.array_equal(together[i], min_norm(mixed[i : i + 1], targets[i : i + 1])[0])


@pytest.mark.parametrize("singular", [None, np.array([1e3, 1.0, 1e-3, 1e-6])])
@pytest.mark.parametrize("penalty", [1e-9, 1e-3, 10.0])
@pytest.mark.parametrize(("num_samples", "num_features"), [(20, 4), (4, 20)])
def test_ridge_is_least_squares_on_stacked_features(num_samples, num_features, penalty, singular):
    features, targets = problem(num_samples, num_features, singular)
    for w, phi, y in zip(ridge(features, targets, penalty), features, targets, strict=True):
        stacked = np.vstack([phi, np.sqrt(num_samples * penalty) * np.eye(num_features)])
        expected = np.linalg.lstsq(stacked, np.concatenate([y, np.zeros(num_features)]), rcond=None)[0]
        assert w == pytest.approx(expected, rel=1e-5, abs=1e-8 * np.linalg.norm(expected))


@pytest.mark.parametrize("penalty", [0.0, -1.0])
def test_ridge_needs_a_positive_penalty(penalty):
    with pytest.raises(ValueError, match="penalty"):
        ridge(*problem(4, 2), penalty)


@pytest.mark.parametrize("radius", [0.05, 0.3, 50.0])
def test_ball_erm_agrees_with_a_generic_solver(radius):
    features, targets = problem(12, 3)
    weights = ball_erm(sample_moments(features, targets), radius)
    for w, phi, y in zip(weights, features, targets, strict=True):
        constraint = {"type": "ineq", "fun": lambda v: radius**2 - v @ v}
        found = minimize(
            lambda v, phi=phi, y=y: np.mean((y - phi @ v) ** 2),
            np.zeros(3),
            method="SLSQP",
            constraints=constraint,
            options={"ftol": 1e-14, "maxiter": 300},
        )
        assert w == pytest.approx(found.x, abs=1e-5)
        assert np.linalg.norm(w) <= radius * (1 + 1e-12)
    ols = min_norm(features, targets)
    if radius == 50.0:
        assert weights == pytest.approx(ols)
    else:
        assert np.linalg.norm(weights, axis=1) == pytest.approx(np.full(3, radius))


@pytest.mark.parametrize(("num_samples", "num_features"), [(20, 4), (4, 7)])
def test_gradient_flow_solves_its_differential_equation(num_samples, num_features):
    features, targets = problem(num_samples, num_features)
    moments = sample_moments(features, targets)
    times = np.array([0.1, 1.0, 5.0])
    flow = gradient_flow(moments, times)
    for a, b, path in zip(moments.a, moments.b, flow, strict=True):
        solved = solve_ivp(
            lambda _, w, a=a, b=b: b - a @ w, (0, 5), np.zeros(num_features), t_eval=times, rtol=1e-10, atol=1e-12
        )
        np.testing.assert_allclose(path, solved.y.T, atol=1e-8)
    np.testing.assert_allclose(gradient_flow(moments, np.array([1e9]))[:, 0], min_norm(features, targets), atol=1e-6)
    np.testing.assert_allclose(gradient_flow(moments, np.array([1e-9]))[:, 0], 1e-9 * moments.b, rtol=1e-6)


def test_slow_directions_of_the_flow_keep_their_digits():
    """(1 - exp(-x)) / x = 1 - x/2 + ..: for small x, too, the second term counts."""
    rates = np.array([5e-4, 1e-9])
    flow = gradient_flow(Moments(rates[:, None, None], np.ones((2, 1)), np.ones(2)), np.array([1.0]))
    assert flow[:, 0, 0] == pytest.approx(1 - rates / 2 + rates**2 / 6, rel=1e-10)


def test_networks_start_with_units_of_order_one():
    """Weights ~ N(0, 1 / inputs) in both layers, no biases."""
    start = initial_networks([np.random.default_rng(k) for k in range(200)], 25, 16)
    assert np.sqrt(25) * start.hidden.std() == pytest.approx(1, rel=0.02)
    assert np.sqrt(16) * start.output.std() == pytest.approx(1, rel=0.05)
    assert not start.biases.any() and not start.offset.any()


def test_networks_train_as_in_torch():
    """Gradients and momentum against autograd and `torch.optim.SGD`, replicate by replicate."""
    inputs, targets = problem(12, 3)
    start = initial_networks([np.random.default_rng(k) for k in range(3)], 3, 5)
    after = train_networks(start, inputs, targets, [1, 40])
    for k in range(3):
        parts = [torch.tensor(part[k], requires_grad=True) for part in start]
        optimizer = torch.optim.SGD(parts, lr=0.05, momentum=0.9)
        x, y = torch.tensor(inputs[k]), torch.tensor(targets[k])
        for step in range(1, 41):
            hidden, biases, output, offset = parts
            loss = (((torch.tanh(x @ hidden + biases) @ output + offset)[:, 0] - y) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step in (1, 40):
                for mine, its in zip(after[(1, 40).index(step)], parts, strict=True):
                    np.testing.assert_allclose(mine[k], its.detach().numpy(), rtol=1e-9, atol=1e-12)
    predictions = after[1](inputs)
    assert predictions.shape == (3, 12)
    np.testing.assert_allclose(after[1](inputs[0])[0], predictions[0])
