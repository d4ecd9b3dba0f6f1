"""Worlds made of points: the phase diagram's, and sentence embeddings from a file."""

import numpy as np
import pytest
from cells import cell
from safetensors.numpy import save_file

from mixkd.store import UserError
from theory.empirical import phase_world
from theory.functions import tanh_teacher
from theory.simulate import simulate
from theory.world import WORLD_SEED
from theory.worlds import build_world


@pytest.mark.parametrize("curvature", [0.25, 4.0])
def test_teachers_of_the_phase_diagram_are_w4s_with_a_curvature(curvature):
    world = phase_world("isotropic", curvature, "affine")
    w4 = tanh_teacher(np.random.default_rng([WORLD_SEED, 4]), 10)
    labels = np.tanh(curvature * world.law.points @ w4.directions) @ w4.amplitudes
    np.testing.assert_allclose(world.teacher(world.law.points), labels / labels.std())
    assert (world.learner, world.ridge_penalty) == ("ridge", 1e-3)
    assert np.unique(world.test_inputs, axis=0).shape == (4000, 10)


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
    if student == "cosines":  # their length scale is the root of the total variance, here of 16 in 4 dimensions
        assert world.features.frequencies.var() * inputs.var(axis=0).sum() == pytest.approx(1, rel=0.2)
    drawn = world.draw(np.random.default_rng(1), 200)
    assert {tuple(row) for row in drawn} <= {tuple(row) for row in inputs}
    assert sorted(map(tuple, world.test_inputs)) == sorted(map(tuple, inputs))  # each once
    frame = simulate(cell(f"real {student}", "S3", n=4, m=4, num_replicates=2), embeddings=tmp_path / "embeddings")
    assert np.isfinite(frame.to_numpy()).all()
