"""A cell (world x arm x sizes) becomes a table with one row per replicate.

Randomness comes from one stream per (replicate, role), so that cells which share world, num_samples and
master_seed share their originals replicate by replicate, whatever the arm, the number of replicates,
the chunking or the number of workers.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixkd.store import UserError, content_id
from theory.arms import Arm, Pairing, augment
from theory.bounds import norm_ball_rademacher, t0_bound
from theory.deviation import sup_absolute_deviation, sup_deviation
from theory.learners import ball_erm, min_norm, ridge
from theory.moments import Moments, sample_moments
from theory.worlds import WORLDS, World, build_world

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]

#: Memory that one chunk of replicates may take, as estimated by `_chunks`.
CHUNK_BYTES = 2**28

_ROLES: dict[Literal["originals", "augmented"], int] = {"originals": 0, "augmented": 1}


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


def simulate(cell: Cell, chunk_bytes: int = CHUNK_BYTES) -> "pd.DataFrame":
    """Simulate every replicate of a cell.

    Args:
        cell: What to simulate.
        chunk_bytes: Rough limit of working memory; it does not change the numbers.

    Returns:
        One row per replicate with the columns that the world knows: replicate, sup_one_sided, sup_two_sided,
        bound (units of the loss; S0 in bounded worlds), generalization_gap, population_risk, empirical_risk,
        parameter_error and coefficient_0 onwards.
    """
    import pandas as pd

    world = build_world(cell.world)
    chunks = [
        pd.DataFrame({"replicate": replicates, **_measure(cell, world, replicates)})
        for replicates in _chunks(cell, world, chunk_bytes)
    ]
    return pd.concat(chunks, ignore_index=True)


def _chunks(cell: Cell, world: World, chunk_bytes: int) -> Iterator[npt.NDArray[np.int64]]:
    """Runs of replicates whose features, inputs and matrices fit the memory."""
    num_points, num_features = cell.num_samples + cell.num_augmented, world.population.b.size
    floats = num_points * (4 * num_features + 4 * world.dimension) + 8 * num_features**2
    size = max(1, chunk_bytes // (8 * floats))
    for start in range(0, cell.num_replicates, size):
        yield np.arange(start, min(start + size, cell.num_replicates))


def _stream(cell: Cell, replicate: int, role: Literal["originals", "augmented"]) -> np.random.Generator:
    """The generator of one replicate and role; independent between sample sizes."""
    entropy = [cell.master_seed, cell.num_samples]
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(int(replicate), _ROLES[role])))


def _sample(cell: Cell, world: World, replicates: npt.NDArray[np.int64]) -> list[tuple[Array, Array]]:
    """Features (R, k, D) and labels (R, k) of the originals and, unless the arm is S0, of the augmented inputs."""
    originals = np.stack([world.draw(_stream(cell, r, "originals"), cell.num_samples) for r in replicates])
    labels = world.teacher(originals)
    parts = [(world.features(originals), labels)]
    if cell.arm != "S0":
        drawn = [
            augment(
                cell.arm,
                _stream(cell, r, "augmented"),
                world.draw,
                inputs,
                teacher_labels,
                cell.num_augmented,
                beta_alpha=cell.beta_alpha,
                pairing=cell.pairing,
                jitter_scale=cell.jitter_scale,
            )
            for r, inputs, teacher_labels in zip(replicates, originals, labels, strict=True)
        ]
        augmented = np.stack([inputs for inputs, _ in drawn])
        given = [own for _, own in drawn if own is not None]
        parts.append((world.features(augmented), np.stack(given) if given else world.teacher(augmented)))
    return parts


def _measure(cell: Cell, world: World, replicates: npt.NDArray[np.int64]) -> dict[str, Array]:
    """The columns of some replicates, each of shape (R,)."""
    parts = _sample(cell, world, replicates)
    moments = sample_moments(*parts[0])
    if len(parts) == 2:  # by parts, so that equal parts give an equal average bit by bit
        augmented_share = cell.num_augmented / (cell.num_samples + cell.num_augmented)
        moments = moments.combined(sample_moments(*parts[1]), augmented_share)
    columns = _uniform_columns(cell, world, moments) if world.radius is not None else {}
    features, targets = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return columns | _learned_columns(world, moments, features, targets)


def _uniform_columns(cell: Cell, world: World, moments: Moments) -> dict[str, Array]:
    """Suprema over the ball and, where T0 speaks of this arm and world, its bound."""
    assert world.radius is not None
    center = np.zeros(world.population.b.size) if world.center is None else world.center
    population, sample = world.population.shifted(center), moments.shifted(center)
    difference = Moments(*(p - s for p, s in zip(population, sample, strict=True)))
    columns = {
        "sup_one_sided": sup_deviation(*difference, world.radius)[0],
        "sup_two_sided": sup_absolute_deviation(*difference, world.radius),
    }
    if cell.arm == "S0" and world.feature_bound is not None and world.teacher_bound is not None:
        loss_bound = (world.teacher_bound + world.radius * world.feature_bound) ** 2
        complexity = norm_ball_rademacher(
            np.trace(world.population.a), world.feature_bound, world.teacher_bound, world.radius, cell.num_samples
        )
        bound = t0_bound(complexity, loss_bound, cell.num_samples, cell.delta)
        columns["bound"] = np.full(len(moments.c), float(bound))
    return columns


def _learned_columns(world: World, moments: Moments, features: Array, targets: Array) -> dict[str, Array]:
    """Risks of the learned student; R_a weighs every point 1/N, whether original or augmented."""
    match world.learner:
        case "ball_erm":
            assert world.radius is not None
            weights = ball_erm(moments, world.radius)
        case "min_norm":
            weights = min_norm(features, targets)
        case "ridge":
            weights = ridge(features, targets, world.ridge_penalty)
    residuals = targets - (features @ weights[..., None])[..., 0]
    empirical_risk = np.mean(residuals**2, axis=-1)
    # Around the teacher's weights the risk is a pure quadratic form: nothing cancels where it is tiny.
    center = np.zeros(weights.shape[-1]) if world.teacher_weights is None else world.teacher_weights
    error = weights - center
    population_risk = world.population.shifted(center).risk(error)
    columns = {
        "generalization_gap": population_risk - empirical_risk,
        "population_risk": population_risk,
        "empirical_risk": empirical_risk,
    }
    if world.teacher_weights is not None:
        columns["parameter_error"] = np.linalg.norm(error, axis=-1)
    if world.keep_weights:
        columns |= {f"coefficient_{j}": column for j, column in enumerate(weights.T)}
    return columns
