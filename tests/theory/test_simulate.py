"""Cells: what is refused, what is shared, and replicates against a reference that shares no code."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from cells import cell
from pydantic import ValidationError
from scipy.optimize import minimize

from mixkd.store import UserError, content_id
from theory.bounds import t0_bound
from theory.simulate import simulate
from theory.worlds import build_world


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


def test_defaults_are_those_of_the_registered_cells():
    assert (cell().beta_alpha, cell().pairing, cell().jitter_scale, cell().delta) == (1.0, "distinct", 0.3, 0.05)


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


def test_lam_has_the_law_of_the_cell():
    """In W3, q has covariance kappa I: with m >> n the supremum is 1 - kappa, .495 at a = 50 and .045 at a = .05."""
    halves, ends = (
        simulate(cell("W3", "S2", n=2, m=2000, num_replicates=2, beta_alpha=a))["sup_one_sided"] for a in (50.0, 0.05)
    )
    assert halves.min() > 0.4 and ends.max() < 0.25


def test_jitter_has_the_width_of_the_cell():
    """Without a width to speak of, m = n inputs are one copy of every original."""
    jittered = simulate(cell("W2", "jitter", m=20, jitter_scale=1e-9))
    np.testing.assert_allclose(jittered["sup_one_sided"], simulate(cell("W2"))["sup_one_sided"], rtol=1e-6)


def test_replicates_are_independent():
    frame = simulate(cell(num_replicates=400))
    lagged = np.corrcoef(frame["sup_one_sided"][:-1], frame["sup_one_sided"][1:])[0, 1]
    assert abs(lagged) < 4 / np.sqrt(400)
    assert frame["sup_one_sided"].is_unique


@pytest.mark.parametrize(
    "changes",
    [{"arm": "S3", "m": 30}, {"world": "W4", "arm": "S3", "n": 10, "m": 30}, {"world": "W5", "n": 7},
     {"world": "W3", "arm": "jitter", "n": 6, "m": 6}, {"world": "W6", "arm": "label-mixup", "n": 5, "m": 20},
     {"world": "phase manifold c=2 cosines", "n": 10}, {"world": "coin", "n": 8}],
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
