"""What is measured of every replicate: suprema over a ball, the inequalities about them, and risks of students.

Columns are arrays of shape (R,) or numbers that all replicates share, in units of the loss.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from theory.bounds import norm_ball_rademacher, t0_bound, t1_bound, t2_bound, t3_bound
from theory.cell import Cell
from theory.closed_forms import kappa
from theory.deviation import sup_absolute_deviation, sup_deviation
from theory.learners import ball_erm, gradient_flow, initial_networks, min_norm, ridge, train_networks
from theory.moments import Array, Moments, like
from theory.world import World
from theory.worlds import build_world

#: Times at which a gradient flow is looked at (a step of size 1 is time 1), and numbers of steps for networks.
FLOW_TIMES = np.logspace(-1, 6, 36)
NUM_LOOKS = 25


class Sample(NamedTuple):
    """Inputs (R, k, d), features (R, k, D) and labels (R, k) of originals or of augmented inputs."""

    inputs: Array
    features: Array
    labels: Array


def to_numpy(column: Any) -> npt.NDArray[np.float64]:
    """An array of numpy or torch, or a number, as a numpy array."""
    return np.asarray(column.cpu() if hasattr(column, "cpu") else column)


def uniform_columns(cell: Cell, world: World, moments: Moments, originals: Array) -> dict[str, Any]:
    """Suprema over the ball, and the inequalities about them where they speak of this arm and world."""
    assert world.radius is not None
    center = like(np.zeros(world.population.b.size) if world.center is None else world.center, moments.b)
    population, sample = world.population.like(moments.b).shifted(center), moments.shifted(center)
    difference = Moments(*(p - s for p, s in zip(population, sample, strict=True)))
    columns: dict[str, Any] = {
        "sup_one_sided": sup_deviation(*difference, world.radius)[0],
        "sup_two_sided": sup_absolute_deviation(*difference, world.radius),
    }
    augmented_share = cell.num_augmented / (cell.num_samples + cell.num_augmented)
    if cell.arm in ("S2", "S3") and world.mixed_population is not None:
        columns["limit"] = augmented_share * discrepancy(cell.world, cell.beta_alpha)
    if world.feature_bound is not None and world.teacher_bound is not None:
        columns |= _bound_columns(cell, world, originals)
    return columns


@cache
def discrepancy(world_name: str, beta_alpha: float) -> float:
    """disc+ = sup_h [R(h; p) - R(h; q)] over a world's ball, exactly.

    Args:
        world_name: Key of `theory.worlds.WORLDS`, of a world with a ball and a known mixed law.
        beta_alpha: a of lam ~ Beta(a, a).
    """
    world = build_world(world_name)
    assert world.mixed_population is not None and world.radius is not None
    center = np.zeros(world.population.b.size) if world.center is None else world.center
    population, mixed = (law.shifted(center) for law in (world.population, world.mixed_population(beta_alpha)))
    difference = Moments(*(p - q for p, q in zip(population, mixed, strict=True)))
    return float(sup_deviation(*difference, world.radius)[0])


def _bound_columns(cell: Cell, world: World, originals: Array) -> dict[str, Any]:
    """T0 to T3 in a bounded world with affine features, with the closed bound on every Rademacher complexity.

    Beside `bound` stand versions with one wrong constant, `mutant_...`: half of a complexity or of M, no discrepancy.
    """
    assert world.radius is not None and world.feature_bound is not None and world.teacher_bound is not None
    feature_bound, teacher_bound, radius = world.feature_bound, world.teacher_bound, world.radius
    n, m, delta, arm = cell.num_samples, cell.num_augmented, cell.delta, cell.arm
    self_pairs = cell.pairing == "any"

    def rademacher(feature_square: Any, num_samples: int) -> Array:
        return norm_ball_rademacher(feature_square, feature_bound, teacher_bound, radius, num_samples)

    square = np.trace(world.population.a)
    inputs: dict[str, Any] = {"loss": (teacher_bound + radius * feature_bound) ** 2}
    if arm in ("S0", "S1"):
        inputs["complexity"] = rademacher(square, n + m)
    elif arm in ("S2", "S3") and world.mixed_population is not None:
        mixed_square = np.trace(world.mixed_population(cell.beta_alpha).a)
        inputs["complexity"] = rademacher(square, n)
        inputs["mixed"] = rademacher(mixed_square, m if arm == "S2" else n // 2)
        inputs["discrepancy"] = discrepancy(cell.world, cell.beta_alpha)
    else:
        return {}
    if arm == "S3":
        if cell.pairing not in ("distinct", "any"):  # T3 needs pairs that are independent, given the sample
            return {}
        inputs["conditional"] = rademacher(_mixed_square_given(to_numpy(originals), cell.beta_alpha, self_pairs), m)

    def bound(complexity: Any, loss: float, mixed: Any = 0.0, discrepancy: float = 0.0, conditional: Any = 0.0) -> Any:
        match arm:
            case "S0":
                return t0_bound(complexity, loss, n, delta)
            case "S1":
                return t1_bound(complexity, loss, n, m, delta)
            case "S2":
                return t2_bound(complexity, mixed, discrepancy, loss, n, m, delta)
            case _:
                return t3_bound(complexity, mixed, conditional, discrepancy, loss, n, m, delta, self_pairs)

    columns = {"bound": bound(**inputs)}
    for name, value in inputs.items():
        wrong = inputs | {name: 0.0 if name == "discrepancy" else value / 2}
        columns[f"mutant_{name}"] = bound(**wrong)
    if arm in ("S2", "S3"):
        columns["iid_bound"] = t1_bound(rademacher(square, n + m), inputs["loss"], n, m, delta)
    return columns


def _mixed_square_given(features: Array, beta_alpha: float, self_pairs: bool) -> Array:
    """E[||phi(lam x_i + (1 - lam) x_j)||^2 | sample] for affine features, which commute with mixing, shape (R,).

    kappa mean ||phi_i||^2 + (1 - kappa) mean phi_i'phi_j, the latter over the pairs (i, j) that may be drawn.
    """
    share = kappa(beta_alpha)
    n = features.shape[1]
    squares = np.sum(features**2, axis=(1, 2))
    products = np.sum(np.sum(features, axis=1) ** 2, axis=1)  # of all pairs, i = j included
    cross = products / n**2 if self_pairs else (products - squares) / (n * (n - 1))
    return np.asarray(share * squares / n + (1 - share) * cross)


def learned_columns(world: World, moments: Moments, sample: Sample) -> dict[str, Any]:
    """Risks of the learned student; R_a weighs every point 1/N, whether original or augmented."""
    xp = array_namespace(sample.features)
    path = None
    match world.learner:
        case "ball_erm":
            assert world.radius is not None
            weights = ball_erm(moments, world.radius)
        case "min_norm":
            weights = min_norm(sample.features, sample.labels)
        case "gradient_flow":
            path = gradient_flow(moments, FLOW_TIMES)  # (R, T, D)
            weights = path[:, -1, :]
        case _:
            weights = ridge(sample.features, sample.labels, world.ridge_penalty)
    residuals = sample.labels - (sample.features @ weights[..., None])[..., 0]
    empirical_risk = xp.mean(residuals**2, axis=-1)
    # Around the teacher's weights the risk is a pure quadratic form: nothing cancels where it is tiny.
    center = like(np.zeros(weights.shape[-1]) if world.teacher_weights is None else world.teacher_weights, weights)
    population = world.population.like(weights).shifted(center)
    error = weights - center
    population_risk = population.risk(error)
    columns: dict[str, Any] = {
        "generalization_gap": population_risk - empirical_risk,
        "population_risk": population_risk,
        "empirical_risk": empirical_risk,
    }
    if path is not None:
        columns |= _path_columns([population.risk(path[:, k, :] - center) for k in range(path.shape[1])])
    if world.teacher_weights is not None:
        columns["parameter_error"] = xp.linalg.vector_norm(error, axis=-1)
    if world.keep_weights:
        columns |= {f"coefficient_{j}": weights[:, j] for j in range(weights.shape[-1])}
    return columns


def network_columns(world: World, sample: Sample, generators: list[np.random.Generator]) -> dict[str, Any]:
    """Risks of trained networks, on the world's test inputs."""
    assert world.test_inputs is not None
    xp = array_namespace(sample.inputs)
    start = initial_networks(generators, world.dimension, world.num_units)
    start = type(start)(*(like(part, sample.inputs) for part in start))
    steps = sorted({round(step) for step in np.geomspace(1, world.num_steps, NUM_LOOKS)})
    trained = train_networks(start, sample.inputs, sample.labels, steps)
    test_inputs = like(world.test_inputs, sample.inputs)
    truth = world.teacher(test_inputs)
    path = [xp.mean((networks(test_inputs) - truth) ** 2, axis=-1) for networks in trained]
    empirical_risk = xp.mean((trained[-1](sample.inputs) - sample.labels) ** 2, axis=-1)
    return {
        "generalization_gap": path[-1] - empirical_risk,
        "population_risk": path[-1],
        "empirical_risk": empirical_risk,
        **_path_columns(path),
    }


def _path_columns(risks: list[Array]) -> dict[str, Any]:
    """Risks along a training, each of shape (R,), and how much the last exceeds the least."""
    xp = array_namespace(risks[0])
    return {
        "overtraining": risks[-1] / xp.min(xp.stack(risks), axis=0),
        **{f"risk_{k}": risk for k, risk in enumerate(risks)},
    }
