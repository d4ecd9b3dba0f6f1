"""What is measured of every replicate: inequalities, suprema and students, against references of their own."""

import numpy as np
import pytest
from cells import cell
from scipy import stats
from scipy.optimize import minimize
from scipy.special import roots_jacobi

from theory.bounds import t0_bound, t2_bound, t3_bound
from theory.deviation import sup_deviation
from theory.learners import gradient_flow, initial_networks, train_networks
from theory.measures import discrepancy
from theory.moments import sample_moments
from theory.simulate import simulate
from theory.worlds import build_world, monomial_moments


def stream(n, replicate, role=0):
    """The generator of one replicate of a `cell`: of its originals (0), augmented inputs (1) or learner (2)."""
    return np.random.default_rng(np.random.SeedSequence([5, n], spawn_key=(replicate, role)))


def test_in_sample_mixup_never_shrinks_the_one_sided_supremum_of_affine_students():
    """N1, replicate by replicate, through U_n = E[R'_m | S]; and on average through the cells."""
    world, n = build_world("W1"), 10
    first, second = (index.ravel() for index in np.nonzero(~np.eye(n, dtype=bool)))
    spread = np.sqrt(1 / 12)  # two equally likely lam with uniform's mean and variance: exact for quadratics
    for replicate in range(50):
        inputs = world.draw(np.random.default_rng(replicate), n)
        mixups = np.vstack([lam * inputs[first] + (1 - lam) * inputs[second] for lam in (0.5 - spread, 0.5 + spread)])
        plain, averaged = (sample_moments(world.features(x), world.teacher(x)) for x in (inputs, mixups))
        students = np.random.default_rng(replicate).standard_normal((100, 4))
        assert np.all(averaged.risk(students) <= plain.risk(students) + 1e-12)
        sups = [
            sup_deviation(*(p - s for p, s in zip(world.population, moments, strict=True)), world.radius)[0]
            for moments in (plain, averaged)
        ]
        assert sups[1] >= sups[0] - 1e-12
    difference = (
        simulate(cell(arm="S3", m=20, num_replicates=300))["sup_one_sided"]
        - simulate(cell(num_replicates=300))["sup_one_sided"]
    )
    assert difference.mean() > 4 * difference.sem()


def test_fresh_inputs_shrink_the_suprema_like_a_larger_sample():
    """T1: S1 with m = n has the law of S0 with 2 n."""
    columns = ["sup_one_sided", "sup_two_sided", "generalization_gap", "population_risk"]
    pooled = simulate(cell("W2", "S1", n=20, m=20, num_replicates=500))[columns]
    larger = simulate(cell("W2", "S0", n=40, num_replicates=500))[columns]
    assert ((pooled.mean() - larger.mean()).abs() < 4 * np.hypot(pooled.sem(), larger.sem())).all()
    smaller = simulate(cell("W2", "S0", n=20, num_replicates=500))[columns]
    assert (smaller.mean() - pooled.mean() > 4 * np.hypot(pooled.sem(), smaller.sem())).all()


def test_identities_of_min_norm_students_with_a_linear_teacher():
    """T17: in-sample mixup leaves the span of the originals as it is; fresh inputs and jitter complete it."""
    arms = {arm: simulate(cell("W3", arm, n=6, m=0 if arm == "S0" else 6)) for arm in ("S0", "S1", "S3", "jitter")}
    weights = {arm: frame.filter(like="coefficient_").to_numpy() for arm, frame in arms.items()}
    assert weights["S0"].shape == (8, 10)
    np.testing.assert_allclose(weights["S3"], weights["S0"], rtol=0, atol=1e-8)
    inputs = stream(6, 0).standard_normal((6, 10))
    truth = np.full(10, 10**-0.5)
    assert weights["S0"][0] == pytest.approx(np.linalg.pinv(inputs) @ inputs @ truth)
    assert arms["S0"]["parameter_error"].to_numpy() == pytest.approx(np.linalg.norm(weights["S0"] - truth, axis=1))
    assert arms["S0"]["population_risk"].to_numpy() == pytest.approx(arms["S0"]["parameter_error"].to_numpy() ** 2)
    assert arms["S0"]["parameter_error"].min() > 0.1
    for arm in ("S1", "jitter"):
        assert arms[arm]["parameter_error"].max() < 1e-8
        np.testing.assert_allclose(weights[arm], np.tile(truth, (8, 1)), atol=1e-8)
    short = simulate(cell("W3", "S1", n=6, m=3))
    assert short["parameter_error"].min() > 1e-3  # n + m < d


def test_suprema_around_the_teacher_are_eigenvalues():
    """W3's ball is the unit ball around f, where R - R_n = v'(I - S)v, S = X'X / n; under q, I becomes kappa I."""
    frame = simulate(cell("W3", n=15, num_replicates=3))
    for replicate, row in frame.iterrows():
        inputs = stream(15, replicate).standard_normal((15, 10))
        eigenvalues = 1 - np.linalg.eigvalsh(inputs.T @ inputs / 15)
        assert row["sup_one_sided"] == pytest.approx(eigenvalues.max())
        assert row["sup_two_sided"] == pytest.approx(np.abs(eigenvalues).max())
    assert discrepancy("W3", 1.0) == pytest.approx(1 / 3)  # 1 - kappa


def test_one_mixup_per_pair_identifies_a_quadratic_teacher():
    plain = simulate(cell("W5", n=7))
    mixed = simulate(cell("W5", "S3", n=7, m=21, pairing="every"))
    labels = simulate(cell("W5", "label-mixup", n=7, m=21, pairing="every"))
    assert mixed["population_risk"].median() < 1e-8
    assert (mixed["population_risk"] / plain["population_risk"]).median() < 1e-6
    assert mixed["population_risk"].min() >= 0
    assert labels["population_risk"].min() > 0.1  # it is the teacher's answer that carries the information


def test_columns_are_those_that_apply():
    uniform = {"sup_one_sided", "sup_two_sided"}
    learned = {"replicate", "generalization_gap", "population_risk", "empirical_risk"}
    bounds = {"bound", "mutant_loss", "mutant_complexity"}
    mixed = bounds | {"mutant_mixed", "mutant_discrepancy", "iid_bound", "limit"}
    assert set(simulate(cell())) == uniform | learned | bounds | {"parameter_error"}
    assert set(simulate(cell("W2", "S1", m=5))) == uniform | learned | bounds
    assert set(simulate(cell("W2", "S2", m=5))) == uniform | learned | mixed
    assert set(simulate(cell("W2", "S3", m=5))) == uniform | learned | mixed | {"mutant_conditional"}
    assert set(simulate(cell("W2", "S3", m=5, pairing="permutation"))) == uniform | learned | {"limit"}
    assert set(simulate(cell("W2", "S3", n=4, m=6, pairing="every"))) == uniform | learned | {"limit"}
    assert set(simulate(cell("W2", "jitter", m=5))) == uniform | learned
    assert set(simulate(cell("W4", n=5))) == learned
    assert set(simulate(cell("W4 affine"))) == learned
    assert set(simulate(cell("W5", n=7))) == learned | {"parameter_error"}
    flow = simulate(cell("W6", n=5, num_replicates=2))
    assert {"overtraining", "risk_0", "risk_35", "parameter_error"} <= set(flow)
    assert np.allclose(flow["overtraining"], flow["risk_35"] / flow.filter(regex=r"^risk_\d").min(axis=1))


@pytest.mark.parametrize("pairing", ["distinct", "any"])
def test_bounds_of_mixed_samples_by_brute_force(pairing):
    """T1 to T3 from their parts: complexities from enumerated pairs and lam, discrepancy from a generic solver."""
    n, m, a = 7, 9, 0.7  # of an odd sample, T3's blocks leave one out
    world = build_world("W2")
    frame = simulate(cell("W2", "S3", n=n, m=m, num_replicates=2, beta_alpha=a, pairing=pairing))
    radius, reach = 1.5, 1.8 + 1.5 * 2.0
    # E z = 0 and E z^2 = kappa / 3 for coordinates of q; Gauss-Jacobi nodes integrate lam.
    kappa = (a + 1) / (2 * a + 1)
    lam, weights = roots_jacobi(20, a - 1, a - 1)
    lam, weights = (1 + lam) / 2, weights / weights.sum()

    def rademacher(square, size):
        return 2 * reach * radius * np.sqrt(square / size)

    difference = [
        p - q
        for p, q in zip(world.population, monomial_moments(world.features, world.teacher, world.law, a), strict=True)
    ]
    constraint = {"type": "ineq", "fun": lambda w: radius**2 - w @ w}
    starts = np.random.default_rng(0).standard_normal((6, 4)) / 2
    disc = -min(
        minimize(lambda w: -(difference[2] - 2 * difference[1] @ w + w @ difference[0] @ w), start, method="SLSQP",
                 constraints=constraint, options={"ftol": 1e-14}).fun
        for start in starts
    )  # fmt: skip
    for replicate, row in frame.iterrows():
        inputs = stream(n, replicate).uniform(-1, 1, (n, 3))
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j or pairing == "any"]
        squares = [
            weight * (1 + np.sum((t * inputs[i] + (1 - t) * inputs[j]) ** 2))
            for i, j in pairs
            for t, weight in zip(lam, weights, strict=True)
        ]
        conditional = np.sum(squares) / len(pairs)
        parts = rademacher(2, n), rademacher(1 + kappa, n // 2), rademacher(conditional, m)
        expected = t3_bound(*parts, disc, reach**2, n, m, 0.05, self_pairs=pairing == "any")
        assert row["bound"] == pytest.approx(float(expected), rel=1e-6)
        assert row["iid_bound"] == pytest.approx(float(t0_bound(rademacher(2, n + m), reach**2, n + m, 0.05)))
        assert row["limit"] == pytest.approx(m / (n + m) * disc, rel=1e-6)
        halved = t3_bound(*parts, disc, reach**2 / 2, n, m, 0.05, self_pairs=pairing == "any")
        assert row["mutant_loss"] == pytest.approx(float(halved), rel=1e-6)
        without = t3_bound(*parts, 0.0, reach**2, n, m, 0.05, self_pairs=pairing == "any")
        assert row["mutant_discrepancy"] == pytest.approx(float(without), rel=1e-6)
    fresh, independent = (simulate(cell("W2", arm, n=n, m=m, num_replicates=1, beta_alpha=a)) for arm in ("S1", "S2"))
    assert fresh["bound"][0] == pytest.approx(float(t0_bound(rademacher(2, n + m), reach**2, n + m, 0.05)))
    t2 = t2_bound(rademacher(2, n), rademacher(1 + kappa, m), disc, reach**2, n, m, 0.05)
    assert independent["bound"][0] == pytest.approx(float(t2), rel=1e-6)
    lost = independent["bound"] - independent["mutant_discrepancy"]
    assert lost[0] == pytest.approx(m / (n + m) * disc, rel=1e-6)


def test_a_wrong_constant_is_found_where_the_world_is_tight():
    """In the coin world losses are fair coins: coverage is a binomial probability, of the bound and of its mutant."""
    n = 80
    frame = simulate(cell("coin", n=n, num_replicates=2000))
    shortfall = 0.5 - np.arange(n + 1) / n
    chance = stats.binom(n, 0.5).pmf(np.arange(n + 1))
    for column, limit in (("bound", np.sqrt(np.log(20) / (2 * n))), ("mutant_loss", np.sqrt(np.log(20) / (8 * n)))):
        assert frame[column][0] == pytest.approx(limit, rel=1e-6)
        exact = chance[shortfall <= limit].sum()
        covered = (frame["sup_one_sided"] <= frame[column]).mean()
        assert covered == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 2000))
    assert exact < 0.93


def test_flows_are_looked_at_from_time_a_tenth_to_a_million():
    world, inputs = build_world("W6"), stream(5, 0).standard_normal((5, 10))
    moments = sample_moments(world.features(inputs)[None], world.teacher(inputs)[None])
    risks = world.population.risk(gradient_flow(moments, 10.0 ** np.linspace(-1, 6, 36))[0])
    frame = simulate(cell("W6", n=5, num_replicates=1))
    assert frame.filter(regex=r"^risk_\d").to_numpy()[0] == pytest.approx(risks)


def test_networks_are_trained_and_measured():
    frame = simulate(cell("W6 small network", "S3", n=10, m=20, num_replicates=3))
    assert (frame["empirical_risk"] < 0.5).all() and (frame["overtraining"] >= 1).all()
    gap = frame["population_risk"] - frame["empirical_risk"]
    np.testing.assert_allclose(frame["generalization_gap"], gap)
    chunked = simulate(cell("W6 small network", "S3", n=10, m=20, num_replicates=3), chunk_bytes=1)
    np.testing.assert_allclose(chunked.to_numpy(), frame.to_numpy(), rtol=1e-9)


def test_networks_start_from_streams_of_their_own():
    """The risk is the mean square on the test inputs after the last step."""
    world = build_world("W6 small network")
    frame = simulate(cell("W6 small network", n=10, num_replicates=2))
    inputs = np.stack([stream(10, replicate).standard_normal((10, 10)) for replicate in range(2)])
    start = initial_networks([stream(10, replicate, role=2) for replicate in range(2)], 10, world.num_units)
    (end,) = train_networks(start, inputs, world.teacher(inputs), [world.num_steps])
    risks = np.mean((end(world.test_inputs) - world.teacher(world.test_inputs)) ** 2, axis=1)
    np.testing.assert_allclose(frame["population_risk"], risks, rtol=1e-6)
