"""A cell (world x arm x sizes) becomes a table with one row per replicate.

Randomness comes from one stream per (replicate, role), so that cells which share world, num_samples and
master_seed share their originals replicate by replicate, whatever the arm, the number of replicates,
the chunking or the number of workers. Inputs are drawn by numpy; what follows runs in numpy, or in torch on any
device (the same to 1e-10).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from theory.arms import augment
from theory.cell import Cell
from theory.measures import FLOW_TIMES, Sample, learned_columns, network_columns, to_numpy, uniform_columns
from theory.moments import Array, like, sample_moments
from theory.world import World
from theory.worlds import build_world

if TYPE_CHECKING:
    import pandas as pd

#: Memory that one chunk of replicates may take, as estimated by `_chunks`.
CHUNK_BYTES = 2**26

_ROLES: dict[Literal["originals", "augmented", "learner"], int] = {"originals": 0, "augmented": 1, "learner": 2}


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


def _sample(cell: Cell, world: World, replicates: npt.NDArray[np.int64], device: str | None) -> list[Sample]:
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


def _labelled(world: World, inputs: Array, labels: Array | None, device: str | None) -> Sample:
    """Features and labels, the teacher's where none are given, in numpy or on a torch device."""
    if device is not None:
        import torch

        inputs = torch.as_tensor(inputs, device=device)  # type: ignore[assignment]
    return Sample(inputs, world.features(inputs), world.teacher(inputs) if labels is None else like(labels, inputs))


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
        columns = uniform_columns(cell, world, moments, parts[0].features)
    xp = array_namespace(parts[0].features)
    whole = Sample(*(xp.concat(arrays, axis=1) for arrays in zip(*parts, strict=True)))
    if world.learner == "network":
        columns |= network_columns(world, whole, [_stream(cell, r, "learner") for r in replicates])
    else:
        columns |= learned_columns(world, moments, whole)
    return {name: np.broadcast_to(to_numpy(column), len(replicates)) for name, column in columns.items()}
