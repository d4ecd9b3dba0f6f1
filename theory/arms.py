"""How the augmented inputs of one replicate are drawn, and who labels them.

========================  ====================================================================
S0                        none
S1                        fresh inputs from p
S2                        lam x + (1 - lam) x~ with x, x~ fresh from p: independent of the sample
S3                        lam x_i + (1 - lam) x_j within the sample: MixKD
label-mixup               S3's inputs with the label lam f(x_i) + (1 - lam) f(x_j)
random, balanced          copies of originals: drawn with replacement, or each equally often
jitter, jitter-copied     x_i + N(0, scale^2 I), i in turn, labelled by the teacher or with f(x_i)
========================  ====================================================================

Pairings of S3 and label-mixup: ``distinct`` (i != j uniform), ``any`` (i, j independent),
``permutation`` (i in turn, j a random permutation, as inside a batch), ``every`` (each pair i < j once).

What the claims say of the arms rests on these arguments, R_a being the pooled empirical risk of student h:

N1 (T11). If the loss of every h is convex on every segment [x_i, x_j] (affine teacher and students, convex loss), then
   by Jensen U_n(h) = E[R'_m(h) | S] <= R_n(h) for every sample, so that R - E[R_a | S] >= R - R_n for all h. A supremum
   of means is at most the mean of suprema: E sup+ under S3 is at least that without augmentation.
N2 (T14). Copies drawn at random have E[R'_m | S] = R_n, so by the same step E sup+ is at least that of S0; equally
   often copied, R_a = R_n, and nothing changes.
N4 (T19). sup+ and the learned gap hold R(h; p) against R_a. Where the augmented inputs are harder than p, so that R_a
   is larger for every student, sup+ shrinks whatever there is to learn; so may the learned gap, while the risk rises.
Case (i) (T16, T17). A min-norm student knows the teacher on the span of its features. Mixing keeps affine features
   within the span of the originals', so nothing is learned; of quadratic features each pair adds one direction,
   and d + 1 originals with their d (d + 1) / 2 pairs span all (d + 1)(d + 2) / 2.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Draw = Callable[[np.random.Generator, int], Array]

Arm = Literal["S0", "S1", "S2", "S3", "label-mixup", "random", "balanced", "jitter", "jitter-copied"]
Pairing = Literal["distinct", "any", "permutation", "every"]


def draw_pairs(
    generator: np.random.Generator, num_samples: int, num_pairs: int, pairing: Pairing
) -> tuple[IntArray, IntArray]:
    """Indices (i, j) of the originals that are mixed, each of shape (num_pairs,).

    Args:
        generator: Source of randomness.
        num_samples: n; at least 2 where i != j.
        num_pairs: m; n (n - 1) / 2 for ``every``.
        pairing: The law of the pairs.
    """
    in_turn = np.arange(num_pairs) % num_samples
    if pairing == "every":
        return np.triu_indices(num_samples, k=1)
    if pairing == "permutation":
        num_passes = -(-num_pairs // num_samples)
        partners = [generator.permutation(num_samples) for _ in range(num_passes)]
        return in_turn, np.concatenate(partners)[:num_pairs]
    first = generator.integers(num_samples, size=num_pairs)
    if pairing == "any":
        return first, generator.integers(num_samples, size=num_pairs)
    return first, (first + generator.integers(1, num_samples, size=num_pairs)) % num_samples


def mix(values: Array, first: IntArray, second: IntArray, lam: Array) -> Array:
    """Convex combinations along the first axis: inputs (n, d) -> (m, d), labels (n,) -> (m,)."""
    weights = lam.reshape(-1, *(1,) * (values.ndim - 1))
    return weights * values[first] + (1.0 - weights) * values[second]


def augment(
    arm: Arm,
    generator: np.random.Generator,
    draw: Draw,
    originals: Array,
    labels: Array,
    num_augmented: int,
    *,
    beta_alpha: float = 1.0,
    pairing: Pairing = "distinct",
    jitter_scale: float = 0.3,
) -> tuple[Array, Array | None]:
    """Augmented inputs of one replicate and their labels.

    Args:
        arm: Any arm but S0.
        generator: Source of randomness.
        draw: Draws independent inputs from p.
        originals: x_1..x_n, shape (n, d).
        labels: f(x_1)..f(x_n), shape (n,).
        num_augmented: m.
        beta_alpha: a of lam ~ Beta(a, a).
        pairing: Law of the mixed pairs.
        jitter_scale: Standard deviation of the jitter.

    Returns:
        Inputs, shape (m, d), and labels, shape (m,), or None where the teacher is to be asked.
    """
    num_samples = len(originals)
    match arm:
        case "S1":
            return draw(generator, num_augmented), None
        case "S2":
            pair = draw(generator, 2 * num_augmented)
            indices = np.arange(num_augmented)
            lam = generator.beta(beta_alpha, beta_alpha, size=num_augmented)
            return mix(pair, indices, indices + num_augmented, lam), None
        case "S3" | "label-mixup":
            first, second = draw_pairs(generator, num_samples, num_augmented, pairing)
            lam = generator.beta(beta_alpha, beta_alpha, size=num_augmented)
            mixed = mix(originals, first, second, lam)
            return mixed, mix(labels, first, second, lam) if arm == "label-mixup" else None
        case "random":
            return originals[generator.integers(num_samples, size=num_augmented)], None
        case "balanced":
            return originals[np.arange(num_augmented) % num_samples], None
        case "jitter" | "jitter-copied":
            copied = np.arange(num_augmented) % num_samples
            noise = jitter_scale * generator.standard_normal((num_augmented, originals.shape[1]))
            return originals[copied] + noise, labels[copied] if arm == "jitter-copied" else None
        case _:
            raise ValueError(f"arm {arm} adds no inputs")
