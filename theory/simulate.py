"""A cell (world x arm x sizes) becomes a table with one row per replicate.

Randomness comes from one stream per (replicate, role), so that cells which share world, num_samples and
master_seed share their originals replicate by replicate, whatever the arm, the number of replicates,
the chunking or the number of workers. Inputs are drawn by numpy; what follows runs in numpy, or in torch on any
device (the same to 1e-10).
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixkd.store import UserError, content_id
from theory.arms import Arm, Pairing, augment
from theory.bounds import norm_ball_rademacher, t0_bound, t1_bound, t2_bound, t3_bound
from theory.closed_forms import kappa
from theory.deviation import sup_absolute_deviation, sup_deviation
from theory.learners import ball_erm, gradient_flow, initial_networks, min_norm, ridge, train_networks
from theory.moments import Array, Moments, like, sample_moments
from theory.worlds import WORLDS, World, build_world

if TYPE_CHECKING:
    import pandas as pd

#: Memory that one chunk of replicates may take, as estimated by `_chunks`.
CHUNK_BYTES = 2**28

#: Times at which a gradient flow is looked at (a step of size 1 is time 1), and numbers of steps for networks.
FLOW_TIMES = np.logspace(-1, 6, 36)
NUM_LOOKS = 25

_ROLES: dict[Literal["originals", "augmented", "learner"], int] = {"originals": 0, "augmented": 1, "learner": 2}


class Cell(BaseModel):
    """Everything that decides the numbers of one simulation, and nothing else.

    Attributes:
        world: Key of `theory.worlds.WORLDS`.
        arm: How the augmented inputs are drawn (`theory.arms`).
        num_samples: n, originals per replicate.
        num_augmented: m, augmented inputs per replicate.
        num_replicates: Independent samples.
        master_seed: Entropy of all streams of the cell.
        beta_alpha: a of lam ~ Beta(a, a), for mixup.
        pairing: Law of the mixed pairs, for S3 and label-mixup.
        jitter_scale: Standard deviation of the jitter.
        delta: Probability of failure of the bound.

    Raises:
        UserError: If there is no such world, or nothing can be drawn from it as asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    world: str
    arm: Arm
    num_samples: int = Field(ge=1)
    num_augmented: int = Field(ge=0)
    num_replicates: int = Field(ge=1)
    master_seed: int = Field(ge=0)
    beta_alpha: float = 1.0
    pairing: Pairing = "distinct"
    jitter_scale: float = 0.3
    delta: float = 0.05

    @property
    def cell_id(self) -> str:
        """Name of the cell's files in the store."""
        return content_id(self.model_dump(mode="json"))

    @model_validator(mode="after")
    def _possible(self) -> Self:
        n, m = self.num_samples, self.num_augmented
        mixes = self.arm in ("S3", "label-mixup")
        if self.world not in WORLDS:
            raise UserError(f"There is no world {self.world!r}; choose one of {', '.join(WORLDS)}.")
        if self.arm == "S0" and m != 0:
            raise UserError(f"Arm S0 adds nothing; set num_augmented to 0, not {m}.")
        if self.arm != "S0" and m == 0:
            raise UserError(f"Arm {self.arm} needs augmented inputs; set num_augmented to 1 or more.")
        if self.beta_alpha <= 0:
            raise UserError(f"Beta(a, a) needs a > 0; set beta_alpha to a positive number, not {self.beta_alpha}.")
        if self.jitter_scale <= 0:
            raise UserError(f"Jitter needs a width; set jitter_scale to a positive number, not {self.jitter_scale}.")
        if not 0 < self.delta < 1:
            raise UserError(f"A bound holds with probability 1 - delta; set delta inside (0, 1), not {self.delta}.")
        if mixes and self.pairing != "any" and n < 2:
            raise UserError(f"Mixup needs two originals; set num_samples to 2 or more, not {n}.")
        if mixes and self.pairing == "every" and m != n * (n - 1) // 2:
            raise UserError(f"{n} originals have {n * (n - 1) // 2} pairs; set num_augmented to that, not {m}.")
        if self.arm == "balanced" and m % n:
            raise UserError(f"Balanced copies need a multiple of {n} as num_augmented, not {m}.")
        return self


def simulate(
    cell: Cell, chunk_bytes: int = CHUNK_BYTES, embeddings: Path | None = None, device: str | None = None
) -> "pd.DataFrame":
    """Simulate every replicate of a cell.

    Args:
        cell: What to simulate.
        chunk_bytes: Rough limit of working memory; it does not change the numbers.
        embeddings: File of the sentence embeddings, for the real worlds.
        device: None for numpy; "cpu", "cuda" ... for torch there.

    Returns:
        One row per replicate with the columns that the world knows:

        * replicate, generalization_gap, population_risk, empirical_risk: of the learned student;
        * sup_one_sided, sup_two_sided: where students are a ball;
        * bound: the inequality of the arm (T0 to T3), in bounded worlds; mutant_...: with one wrong constant;
          iid_bound: that for n + m independent points, which mixed ones are not; limit: alpha disc+, where q is known;
        * parameter_error, coefficient_0 ...: where the teacher is in the class;
        * risk_0, risk_1 ..., overtraining (last over least of them): along the training of flows and networks.

        Risks and deviations are in units of the loss.
    """
    import pandas as pd

    world = build_world(cell.world, embeddings)
    chunks = [
        pd.DataFrame({"replicate": replicates, **_measure(cell, world, replicates, device)})
        for replicates in _chunks(cell, world, chunk_bytes)
    ]
    return pd.concat(chunks, ignore_index=True)


def _chunks(cell: Cell, world: World, chunk_bytes: int) -> Iterator[npt.NDArray[np.int64]]:
    """Runs of replicates whose features, inputs and matrices fit the memory."""
    num_points, num_features = cell.num_samples + cell.num_augmented, world.population.b.size
    floats = num_points * (4 * num_features + 4 * world.dimension) + 8 * num_features**2
    if world.learner == "gradient_flow":
        floats += 4 * len(FLOW_TIMES) * num_features
    if world.learner == "network" and world.test_inputs is not None:
        floats += 3 * (num_points + len(world.test_inputs)) * world.num_units
    size = max(1, chunk_bytes // (8 * floats))
    for start in range(0, cell.num_replicates, size):
        yield np.arange(start, min(start + size, cell.num_replicates))


def _stream(cell: Cell, replicate: int, role: Literal["originals", "augmented", "learner"]) -> np.random.Generator:
    """The generator of one replicate and role; independent between sample sizes."""
    entropy = [cell.master_seed, cell.num_samples]
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(int(replicate), _ROLES[role])))


class _Sample(NamedTuple):
    """Inputs (R, k, d), features (R, k, D) and labels (R, k) of originals or of augmented inputs."""

    inputs: Array
    features: Array
    labels: Array


def _sample(cell: Cell, world: World, replicates: npt.NDArray[np.int64], device: str | None) -> list[_Sample]:
    """The originals and, unless the arm is S0, the augmented inputs."""
    inputs = np.stack([world.draw(_stream(cell, r, "originals"), cell.num_samples) for r in replicates])
    originals = _labelled(world, inputs, None, device)
    if cell.arm == "S0":
        return [originals]
    labels = world.teacher(inputs)
    drawn = [
        augment(
            cell.arm,
            _stream(cell, r, "augmented"),
            world.draw,
            own_inputs,
            own_labels,
            cell.num_augmented,
            beta_alpha=cell.beta_alpha,
            pairing=cell.pairing,
            jitter_scale=cell.jitter_scale,
        )
        for r, own_inputs, own_labels in zip(replicates, inputs, labels, strict=True)
    ]
    given = [own for _, own in drawn if own is not None]
    augmented = np.stack([own for own, _ in drawn])
    return [originals, _labelled(world, augmented, np.stack(given) if given else None, device)]


def _labelled(world: World, inputs: Array, labels: Array | None, device: str | None) -> _Sample:
    """Features and labels, the teacher's where none are given, in numpy or on a torch device."""
    if device is not None:
        import torch

        inputs = torch.as_tensor(inputs, device=device)  # type: ignore[assignment]
    return _Sample(inputs, world.features(inputs), world.teacher(inputs) if labels is None else like(labels, inputs))


def _measure(
    cell: Cell, world: World, replicates: npt.NDArray[np.int64], device: str | None
) -> dict[str, npt.NDArray[np.float64]]:
    """The columns of some replicates, each of shape (R,)."""
    parts = _sample(cell, world, replicates, device)
    moments = sample_moments(parts[0].features, parts[0].labels)
    if len(parts) == 2:  # by parts, so that equal parts give an equal average bit by bit
        augmented_share = cell.num_augmented / (cell.num_samples + cell.num_augmented)
        moments = moments.combined(sample_moments(parts[1].features, parts[1].labels), augmented_share)
    columns: dict[str, Any] = {}
    if world.radius is not None:
        columns = _uniform_columns(cell, world, moments, parts[0].features)
    xp = array_namespace(parts[0].features)
    whole = _Sample(*(xp.concat(arrays, axis=1) for arrays in zip(*parts, strict=True)))
    if world.learner == "network":
        columns |= _network_columns(world, whole, [_stream(cell, r, "learner") for r in replicates])
    else:
        columns |= _learned_columns(world, moments, whole)
    return {name: np.broadcast_to(_to_numpy(column), len(replicates)) for name, column in columns.items()}


def _to_numpy(column: Any) -> npt.NDArray[np.float64]:
    return np.asarray(column.cpu() if hasattr(column, "cpu") else column)


def _uniform_columns(cell: Cell, world: World, moments: Moments, originals: Array) -> dict[str, Any]:
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
        inputs["conditional"] = rademacher(_mixed_square_given(_to_numpy(originals), cell.beta_alpha, self_pairs), m)

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


def _learned_columns(world: World, moments: Moments, sample: _Sample) -> dict[str, Any]:
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


def _network_columns(world: World, sample: _Sample, generators: list[np.random.Generator]) -> dict[str, Any]:
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
