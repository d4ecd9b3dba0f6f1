"""Worlds whose population is a set of points: the phase diagram's, and sentence embeddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from mixkd.store import UserError
from theory.functions import Cosines, Monomials, NetworkTeacher, TanhTeacher, affine_features, cosines, tanh_teacher
from theory.laws import Empirical, Shape, points_of
from theory.moments import Array, population_of_points
from theory.world import WORLD_SEED, World

Student = Literal["cosines", "affine", "network"]


def empirical_world(
    points: Array, teacher: Callable[[Array], Array], student: Student, generator: np.random.Generator
) -> World:
    """A world whose population is a set of points; students on 200 cosines or affine ones (ridge 1e-3), or networks."""
    features: Monomials | Cosines
    if student == "cosines":
        variance = float(np.sum(np.var(points, axis=0)))
        features = cosines(generator, variance, points.shape[1], 200)
    else:
        features = affine_features(points.shape[1])
    return World(
        law=Empirical(points),
        teacher=teacher,
        features=features,
        population=population_of_points(features, teacher, points),
        learner="network" if student == "network" else "ridge",
        test_inputs=points[generator.choice(len(points), min(4000, len(points)), replace=False)],
        num_units=16,
        num_steps=1000,
    )


def phase_world(shape: Shape, curvature: float, student: Literal["cosines", "affine"]) -> World:
    """A world of the phase diagram: f = 2 v'tanh(c W'x) with variance 1 under the law, in 10 dimensions.

    Args:
        shape: Law of the inputs.
        curvature: c; as c -> 0 the teacher becomes linear.
        student: Class of the students.
    """
    dimension = 10
    points = points_of(shape, dimension, np.random.default_rng([WORLD_SEED, 8]))
    raw = tanh_teacher(np.random.default_rng([WORLD_SEED, 4]), dimension)
    teacher = TanhTeacher(raw.directions * curvature / 2.0, raw.amplitudes)  # its tanh doubles
    teacher = TanhTeacher(teacher.directions, teacher.amplitudes / np.std(teacher(points)))
    return empirical_world(points, teacher, student, np.random.default_rng([WORLD_SEED, 9]))


def real_world(student: Student, embeddings: Path | None) -> World:
    """Sentence embeddings of the VADER corpora, scaled to ||x||^2 = d, and a head trained on their ratings.

    Args:
        student: Class of the students.
        embeddings: File of `mixkd.embeddings.export_embeddings`.

    Raises:
        UserError: If there is no such file, or it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if embeddings is None or not embeddings.is_file():
        raise UserError(
            "The sentence embeddings behind the real inputs are not there; `mixkd theory` exports them first."
        )
    try:
        tensors = {name: tensor.astype(np.float64) for name, tensor in load_file(embeddings).items()}
        points = tensors["embeddings"] * np.sqrt(tensors["embeddings"].shape[1])
        head = NetworkTeacher(tensors["directions"], tensors["biases"], tensors["output"], float(tensors["offset"][0]))
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(f"{embeddings} cannot be read as sentence embeddings ({error}); delete it.") from error
    return empirical_world(points, head, student, np.random.default_rng([WORLD_SEED, 10]))
