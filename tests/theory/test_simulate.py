"""Cells: what is refused, what is shared, and replicates against a reference that shares no code."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file
from scipy import stats
from scipy.optimize import minimize
from scipy.special import roots_jacobi

from mixkd.store import UserError, content_id
from theory.bounds import t0_bound, t1_bound, t2_bound, t3_bound
from theory.deviation import sup_deviation
from theory.moments import sample_moments
from theory.simulate import Cell, simulate
from theory.worlds import build_world, monomial_moments


def cell(world="W1", arm="S0", n=20, m=0, num_replicates=8, **others):
    return Cell(
        world=world,
        arm=arm,
        num_samples=n,
        num_augmented=m,
        num_replicates=num_replicates,
        **{"master_seed": 5, **others},
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"world": "W9"}, "no world 'W9'; choose one of W1, W2"),
        ({"m": 5}, "S0 adds nothing"),
        ({"arm": "S1"}, "S1 needs augmented inputs"),
        ({"arm": "S3"}, "S3 needs augmented inputs"),
        ({"arm": "S3", "n": 1, "m": 1}, "two originals"),
        ({"arm": "label-mixup", "n": 1, "m": 1, "pairing": "permutation"}, "two originals"),
        ({"arm": "S3", "n": 4, "m": 5, "pairing": "every"}, "4 originals have 6 pairs"),
        ({"arm": "balanced", "n": 4, "m": 6}, "multiple of 4"),
        ({"arm": "S3", "m": 5, "beta_alpha": 0.0}, "set beta_alpha to a positive number, not 0"),
        ({"arm": "jitter", "m": 5, "jitter_scale": -1.0}, "set jitter_scale"),
        ({"delta": 1.0}, "set delta inside"),
    ],
)
def test_impossible_cells_are_refused_with_the_way_out(changes, words):
    with pytest.raises(UserError, match=words):
        cell(**changes)


@pytest.mark.parametrize("changes", [{"n": 0}, {"num_replicates": 0}, {"arm": "S9"}, {"delta": np.nan}, {"colour": 1}])
def test_malformed_cells_are_refused(changes):
    with pytest.raises(ValidationError):
        cell(**changes)


def test_identity_is_the_content():
    assert cell().cell_id == content_id(cell().model_dump(mode="json")) == cell().cell_id
    assert len({cell().cell_id, cell(master_seed=6).cell_id, cell(delta=0.1).cell_id, cell(world="W2").cell_id}) == 4


def reference(world, inputs, labels, radius, rng):
    """Suprema and norm-ball risks of one replicate by sampling the ball and a generic solver."""
    phi = world.features(inputs)

    def deviation(w):
        return world.population.risk(w) - np.mean((labels - w @ phi.T) ** 2, axis=-1)

    ball = rng.standard_normal((4000, phi.shape[1]))
    ball *= radius * rng.uniform(size=(4000, 1)) ** 0.25 / np.linalg.norm(ball, axis=1, keepdims=True)
    constraint = {"type": "ineq", "fun": lambda w: radius**2 - w @ w}

    def best(objective, starts):
        options = {"ftol": 1e-14, "maxiter": 500}
        found = [minimize(objective, w, method="SLSQP", constraints=constraint, options=options) for w in starts]
        return min(found, key=lambda result: result.fun)

    order = np.argsort(deviation(ball))
    above = -best(lambda w: -deviation(w), ball[order[-3:]]).fun
    below = -best(deviation, ball[order[:3]]).fun
    erm = best(lambda w: np.mean((labels - phi @ w) ** 2), [np.zeros(phi.shape[1])]).x
    return above, max(above, below), world.population.risk(erm), np.mean((labels - phi @ erm) ** 2)


@pytest.mark.parametrize(("name", "arm"), [("W1", "S0"), ("W2", "S0"), ("W2", "random")])
def test_replicates_agree_with_brute_force(name, arm):
    world, n = build_world(name), 12
    frame = simulate(cell(name, arm, n=n, m=0 if arm == "S0" else 9, num_replicates=4))
    for replicate, row in frame.iterrows():
        stream = np.random.SeedSequence([5, n], spawn_key=(replicate, 0))
        inputs = np.random.default_rng(stream).uniform(-1, 1, (n, 3))
        if arm == "random":
            stream = np.random.SeedSequence([5, n], spawn_key=(replicate, 1))
            inputs = np.vstack([inputs, inputs[np.random.default_rng(stream).integers(n, size=9)]])
        one, two, risk, empirical = reference(world, inputs, world.teacher(inputs), 1.5, np.random.default_rng(0))
        assert row["sup_one_sided"] == pytest.approx(one, abs=1e-5)
        assert row["sup_two_sided"] == pytest.approx(two, abs=1e-5)
        assert row["population_risk"] == pytest.approx(risk, abs=1e-5)
        assert row["empirical_risk"] == pytest.approx(empirical, abs=1e-5)
        assert row["generalization_gap"] == pytest.approx(risk - empirical, abs=1e-5)
        if arm == "S0":
            teacher_bound = 1.0 if name == "W1" else 1.8
            range_ = teacher_bound + 1.5 * 2
            rademacher = 2 * range_ * 1.5 * np.sqrt(2 / n)
            assert row["bound"] == pytest.approx(t0_bound(rademacher, range_**2, n, 0.05))


@pytest.mark.parametrize("changes", [{"arm": "S3", "m": 30}, {"world": "W4", "arm": "jitter", "n": 10, "m": 300}])
def test_numbers_do_not_depend_on_the_chunks_or_the_number_of_replicates(changes):
    whole = simulate(cell(**changes))
    pd.testing.assert_frame_equal(simulate(cell(**changes), chunk_bytes=1), whole, check_exact=True)
    pd.testing.assert_frame_equal(simulate(cell(**changes, num_replicates=3)), whole.head(3), check_exact=True)
    assert whole["replicate"].tolist() == list(range(8))


def test_memory_stays_below_the_limit():
    wide = cell("W4", "S3", n=200, m=800, num_replicates=150)
    build_world("W4")
    tracemalloc.start()
    simulate(wide, chunk_bytes=2**26)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * 2**26  # all at once would need 3 times as much for the features alone


def test_originals_are_shared_by_all_arms_and_by_nothing_else():
    plain, balanced, seed, other_n = (
        simulate(changed)["sup_one_sided"]
        for changed in (cell(), cell(arm="balanced", m=20), cell(master_seed=6), cell(n=21))
    )
    assert np.array_equal(plain, balanced)  # N2's case of equality, bit by bit at m = n; T14
    assert not np.isclose(plain, seed).any()
    assert not np.isclose(plain, other_n).any()
    np.testing.assert_allclose(simulate(cell(arm="balanced", m=60))["sup_one_sided"], plain, atol=1e-13)


def test_replicates_are_independent():
    frame = simulate(cell(num_replicates=400))
    lagged = np.corrcoef(frame["sup_one_sided"][:-1], frame["sup_one_sided"][1:])[0, 1]
    assert abs(lagged) < 4 / np.sqrt(400)
    assert frame["sup_one_sided"].is_unique


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
    stream = np.random.SeedSequence([5, 6], spawn_key=(0, 0))
    inputs = np.random.default_rng(stream).standard_normal((6, 10))
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
    n, m, a = 6, 9, 0.7
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
        stream = np.random.SeedSequence([5, n], spawn_key=(replicate, 0))
        inputs = np.random.default_rng(stream).uniform(-1, 1, (n, 3))
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
    fresh, independent = (simulate(cell("W2", arm, n=n, m=m, num_replicates=1, beta_alpha=a)) for arm in ("S1", "S2"))
    assert fresh["bound"][0] == pytest.approx(float(t0_bound(rademacher(2, n + m), reach**2, n + m, 0.05)))
    t2 = t2_bound(rademacher(2, n), rademacher(1 + kappa, m), disc, reach**2, n, m, 0.05)
    assert independent["bound"][0] == pytest.approx(float(t2), rel=1e-6)


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


def test_memorising_students_need_the_whole_complexity():
    """All {0, 1} functions on a continuum: sup+ = 1 for every sample, Rad_n = 1/2, so T0 and T1 need their factor 2."""
    for n in (10, 100, 10_000):
        assert t0_bound(0.5, 1.0, n, 0.05) >= 1 and t1_bound(0.5, 1.0, n, n, 0.05) >= 1
        assert t2_bound(0.5, 0.5, 0.0, 1.0, n, n, 0.05) >= 1
        assert t0_bound(0.25, 1.0, n, 0.05) < 1  # a factor 1 would be contradicted by every sample


@pytest.mark.parametrize(
    "changes",
    [{"arm": "S3", "m": 30}, {"world": "W4", "arm": "S3", "n": 10, "m": 30}, {"world": "W5", "n": 7},
     {"world": "W3", "arm": "jitter", "n": 6, "m": 6}, {"world": "W6", "arm": "label-mixup", "n": 5, "m": 20},
     {"world": "phase manifold c=2 cosines", "n": 10}],
    ids=str,
)  # fmt: skip
def test_torch_gives_the_numbers_of_numpy(changes):
    chosen = cell(**changes)
    in_numpy, in_torch = simulate(chosen), simulate(chosen, device="cpu")
    for name in in_numpy:
        np.testing.assert_allclose(in_torch[name], in_numpy[name], rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.gpu
def test_a_gpu_gives_the_numbers_of_numpy():
    chosen = cell("W4", "S3", n=10, m=30)
    pd.testing.assert_frame_equal(simulate(chosen, device="cuda"), simulate(chosen), rtol=1e-10, atol=1e-10)


def test_networks_are_trained_and_measured(monkeypatch):
    frame = simulate(cell("W6 small network", "S3", n=10, m=20, num_replicates=3))
    assert (frame["empirical_risk"] < 0.5).all() and (frame["overtraining"] >= 1).all()
    gap = frame["population_risk"] - frame["empirical_risk"]
    np.testing.assert_allclose(frame["generalization_gap"], gap)
    chunked = simulate(cell("W6 small network", "S3", n=10, m=20, num_replicates=3), chunk_bytes=1)
    np.testing.assert_allclose(chunked.to_numpy(), frame.to_numpy(), rtol=1e-9)


def test_real_worlds_say_how_to_get_their_inputs(tmp_path):
    chosen = cell("real affine", n=5)
    with pytest.raises(UserError, match="`mixkd theory` exports them"):
        simulate(chosen, embeddings=tmp_path / "absent")
    (tmp_path / "torn").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read as sentence embeddings"):
        simulate(chosen, embeddings=tmp_path / "torn")


@pytest.mark.parametrize("student", ["cosines", "affine", "network"])
def test_real_worlds_draw_from_the_file_and_ask_the_head(tmp_path, student):
    """The population risk is the plain average over all points."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((50, 4)).astype(np.float32)
    head = {"directions": rng.standard_normal((4, 3)), "biases": rng.standard_normal(3),
            "output": rng.standard_normal(3), "offset": np.array([0.3])}  # fmt: skip
    tensors = {"embeddings": points, **{name: value.astype(np.float32) for name, value in head.items()}}
    save_file(tensors, tmp_path / "embeddings")
    world = build_world(f"real {student}", tmp_path / "embeddings")
    inputs = 2.0 * points.astype(np.float64)  # sqrt(4)
    directions, biases, output, offset = (tensors[name].astype(np.float64) for name in list(head))
    truth = np.tanh(inputs @ directions + biases) @ output + offset[0]
    np.testing.assert_allclose(world.teacher(inputs), truth)
    weights = rng.standard_normal(world.population.b.size)
    risk = np.mean((truth - world.features(inputs) @ weights) ** 2)
    assert world.population.risk(weights) == pytest.approx(risk)
    drawn = world.draw(np.random.default_rng(1), 200)
    assert {tuple(row) for row in drawn} <= {tuple(row) for row in inputs}
    frame = simulate(cell(f"real {student}", "S3", n=4, m=4, num_replicates=2), embeddings=tmp_path / "embeddings")
    assert np.isfinite(frame.to_numpy()).all()
