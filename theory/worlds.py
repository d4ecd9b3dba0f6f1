"""The worlds by name, and those of them whose population moments are known in closed form.

W1 to W6 are those of the theory document. Beside them: "coin", where bounds are nearly tight; "W3 d=60", W3 in as
many dimensions; "W4 affine", W4's teacher with an affine student; "W6 ..." with teachers outside the class and with
networks as students; "real ...", the empirical law of sentence embeddings; "phase SHAPE c=CURVATURE STUDENT".
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from theory.empirical import phase_world, real_world
from theory.functions import (
    Cosines,
    FeatureTeacher,
    Monomials,
    PolynomialTeacher,
    StepTeacher,
    TanhTeacher,
    affine_features,
    constant_feature,
    cosines,
    linear_features,
    quadratic_features,
    tanh_teacher,
)
from theory.laws import Normal, Shape, Uniform
from theory.moments import (
    Moments,
    cosine_gram,
    mixed_raw_moments,
    polynomial_moments,
    tanh_cosine,
    tanh_gram,
    tanh_linear,
)
from theory.world import WORLD_SEED, World


def monomial_moments(
    features: Monomials, teacher: PolynomialTeacher, law: Uniform | Normal, beta_alpha: float | None = None
) -> Moments:
    """Exact moments under p or, given beta_alpha, under q: the law of lam x + (1 - lam) x~.

    Args:
        features: phi.
        teacher: f, of degree at most 2.
        law: Law of the inputs.
        beta_alpha: a of lam ~ Beta(a, a); None for p itself.
    """
    raw = law.raw_moments
    components = (raw[None], np.ones(1)) if beta_alpha is None else mixed_raw_moments(raw, beta_alpha)
    return polynomial_moments(features.exponents, teacher.monomials.exponents, teacher.coefficients, *components)


def bounded_world(curvature: float) -> World:
    """W1 (curvature 0) and W2 (curvature .8): U[-1, 1]^3, affine students, ||w|| <= 1.5.

    f = .6 x_1 - .4 x_2 + curvature (1.5 x_3^2 - .5); at most .6 + .4 + |curvature| in absolute value.
    """
    features = affine_features(3)
    monomials = quadratic_features(3)  # 1, x_1, x_2, x_3, ..., x_3^2
    coefficients = np.zeros(10)
    coefficients[[0, 1, 2, 9]] = -0.5 * curvature, 0.6, -0.4, 1.5 * curvature
    teacher = PolynomialTeacher(monomials, coefficients) if curvature else PolynomialTeacher(features, coefficients[:4])
    law = Uniform(3)
    return World(
        law=law,
        teacher=teacher,
        features=features,
        population=monomial_moments(features, teacher, law),
        mixed_population=partial(monomial_moments, features, teacher, law),
        learner="ball_erm",
        radius=1.5,
        teacher_weights=None if curvature else coefficients[:4],
        feature_bound=2.0,
        teacher_bound=1.0 + abs(curvature),
    )


def coin_world() -> World:
    """A world in which the bounds' confidence terms are nearly tight: one student, whose losses are fair coins.

    U[-1, 1]^3, f = 1 where x_1 > 0, phi = 1, and a ball so small that every student is h = 0: losses are 0 or 1, M = 1,
    and the complexities vanish. The mixed law is symmetric, too, so that E f = 1/2 under it and disc+ = 0.
    """
    population = Moments(np.ones((1, 1)), np.full(1, 0.5), np.asarray(0.5))
    return World(
        law=Uniform(3),
        teacher=StepTeacher(),
        features=constant_feature(3),
        population=population,
        mixed_population=lambda beta_alpha: population,
        learner="ball_erm",
        radius=1e-9,
        feature_bound=1.0,
        teacher_bound=1.0,
    )


def linear_world(dimension: int) -> World:
    """W3: N(0, I_d), phi(x) = x, f = (x_1 + .. + x_d) / sqrt(d), unit ball around the teacher, min-norm students."""
    features = linear_features(dimension)
    coefficients = np.full(dimension, dimension**-0.5)
    teacher, law = PolynomialTeacher(features, coefficients), Normal(dimension)
    return World(
        law=law,
        teacher=teacher,
        features=features,
        population=monomial_moments(features, teacher, law),
        mixed_population=partial(monomial_moments, features, teacher, law),
        learner="min_norm",
        radius=1.0,
        center=coefficients,
        teacher_weights=coefficients,
        keep_weights=True,
    )


def tanh_cosine_moments(teacher: TanhTeacher, features: Cosines) -> Moments:
    """Exact moments of cosines and a tanh teacher under N(0, I)."""
    doubled = 2.0 * teacher.amplitudes
    cross = doubled @ tanh_cosine(teacher.directions, features.frequencies, features.phases)
    gram = cosine_gram(features.frequencies, features.phases)
    return Moments(features.scale**2 * gram, features.scale * cross, doubled @ tanh_gram(teacher.directions) @ doubled)


def tanh_world(student: Literal["cosines", "affine"]) -> World:
    """W4: N(0, I_10), f = 2 v'tanh(2 W'x), ridge 1e-3; students on 200 random cosines, or affine ones.

    Fixed by convention, not tuned: entries of W ~ N(0, 1/10), of v ~ N(0, 1/20), of the frequencies
    ~ N(0, 1/10) (the kernel exp(-||x - x'||^2 / 20)), phases uniform.
    """
    dimension = 10
    generator = np.random.default_rng([WORLD_SEED, 4])
    teacher = tanh_teacher(generator, dimension)
    features: Monomials | Cosines
    if student == "affine":
        features = affine_features(dimension)
        doubled = 2.0 * teacher.amplitudes
        cross = np.concatenate([[0.0], doubled @ tanh_linear(teacher.directions)])
        square = doubled @ tanh_gram(teacher.directions) @ doubled
        population = Moments(np.eye(dimension + 1), cross, square)
    else:
        features = cosines(generator, dimension, dimension, 200)
        population = tanh_cosine_moments(teacher, features)
    return World(law=Normal(dimension), teacher=teacher, features=features, population=population, learner="ridge")


def flow_world(realisable: bool) -> World:
    """W6: N(0, I_10), students on 300 random cosines, learned along the gradient flow from zero; no label noise.

    The teacher is inside the class, with coefficients ~ N(0, 1), or it is W4's.
    """
    dimension = 10
    generator = np.random.default_rng([WORLD_SEED, 6])
    features = cosines(generator, dimension, dimension, 300)
    if not realisable:
        teacher = tanh_teacher(np.random.default_rng([WORLD_SEED, 4]), dimension)
        population = tanh_cosine_moments(teacher, features)
        return World(
            law=Normal(dimension), teacher=teacher, features=features, population=population, learner="gradient_flow"
        )
    coefficients = generator.standard_normal(300)
    gram = features.scale**2 * cosine_gram(features.frequencies, features.phases)
    return World(
        law=Normal(dimension),
        teacher=FeatureTeacher(features, coefficients),
        features=features,
        population=Moments(gram, gram @ coefficients, np.asarray(coefficients @ gram @ coefficients)),
        learner="gradient_flow",
        teacher_weights=coefficients,
    )


def network_world(realisable: bool) -> World:
    """W6's laws and W4's teacher, which 32 tanh units can represent and 4 cannot; students are trained networks."""
    dimension = 10
    teacher = tanh_teacher(np.random.default_rng([WORLD_SEED, 4]), dimension)
    law = Normal(dimension)
    test_inputs = law.draw(np.random.default_rng([WORLD_SEED, 7]), 4000)
    return World(
        law=law,
        teacher=teacher,
        features=affine_features(dimension),
        population=tanh_world("affine").population,
        learner="network",
        test_inputs=test_inputs,
        num_units=32 if realisable else 4,
        num_steps=1500,
    )


def quadratic_world(dimension: int) -> World:
    """W5: N(0, I_d), f a quadratic with N(0, 1) coefficients, min-norm students on its (d+1)(d+2)/2 monomials."""
    features = quadratic_features(dimension)
    coefficients = np.random.default_rng([WORLD_SEED, 5]).standard_normal(len(features.left))
    teacher, law = PolynomialTeacher(features, coefficients), Normal(dimension)
    return World(
        law=law,
        teacher=teacher,
        features=features,
        population=monomial_moments(features, teacher, law),
        mixed_population=partial(monomial_moments, features, teacher, law),
        learner="min_norm",
        teacher_weights=coefficients,
    )


SHAPES: tuple[Shape, ...] = ("isotropic", "anisotropic", "mixture", "heavy-tailed", "manifold")
CURVATURES = (0.25, 1.0, 2.0, 4.0)
PHASE_STUDENTS: tuple[Literal["cosines", "affine"], ...] = ("cosines", "affine")


def phase_name(shape: Shape, curvature: float, student: str) -> str:
    """Name of a world of the phase diagram."""
    return f"phase {shape} c={curvature:g} {student}"


#: Worlds by name; those that need a file beside the code take its path.
WORLDS: Mapping[str, Callable[[], World] | Callable[[Path | None], World]] = {
    "W1": partial(bounded_world, 0.0),
    "W2": partial(bounded_world, 0.8),
    "coin": coin_world,
    "W3": partial(linear_world, 10),
    "W3 d=20": partial(linear_world, 20),
    "W3 d=60": partial(linear_world, 60),
    "W4": partial(tanh_world, "cosines"),
    "W4 affine": partial(tanh_world, "affine"),
    "W5": partial(quadratic_world, 6),
    "W6": partial(flow_world, True),
    "W6 misspecified": partial(flow_world, False),
    "W6 network": partial(network_world, True),
    "W6 small network": partial(network_world, False),
    **{f"real {student}": partial(real_world, student) for student in ("cosines", "affine", "network")},
    **{
        phase_name(shape, curvature, student): partial(phase_world, shape, curvature, student)
        for shape in SHAPES
        for curvature in CURVATURES
        for student in PHASE_STUDENTS
    },
}


@cache
def build_world(name: str, embeddings: Path | None = None) -> World:
    """The world of that name, built once per process.

    Args:
        name: Key of `WORLDS`.
        embeddings: Where the sentence embeddings are, for the real worlds.
    """
    build = WORLDS[name]
    return build(embeddings) if name.startswith("real ") else build()  # type: ignore[call-arg]
