"""What people agree on: the best score that rated sentences allow.

The label of a VADER sentence is the sign of the mean of about 20 ratings from -4 to 4, so the label itself is noisy: a
model can be right and its label wrong. The single ratings say how often.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, log_softmax

Array = NDArray[np.float64]

RATINGS = np.arange(-4, 5)


def human_reference(
    ratings: Sequence[Sequence[int]], labels: NDArray[np.int64], logits: NDArray[np.float32], num_draws: int = 200
) -> dict[str, float]:
    """How people, and the model, fare against labels that people's mean ratings decide.

    An answer 0 has no sign; it counts as half right and half positive, as if a coin had decided. Every example weighs
    the same, however many people rated it. What follows on bias was simulated with the four corpora's own rating
    distributions as the truth and 15 raters or more.

    `human_single_score`: one rater against the mean of the others. With |mean| >= 0.5 and more than 8 raters, which is
        what the tasks keep, that mean has the label's sign. Too high by 0.003 to 0.012: a rater who disagrees can
        push a sentence below 0.5 and out of the task.
    `human_panel_score`: a second panel of as many raters against the label. A second mean near 0 counts, too: a model
        has to answer every sentence that the first panel kept. The noise of both panels counts: what all people
        would say is drawn from the Bayesian bootstrap (weights ~ Dirichlet(1, ..., 1) over the ratings, Rubin 1981),
        and the second panel from that. Right to 0.0013; a panel drawn from the ratings themselves would be centred
        on the first one's mean, as if that had no error, and score up to 0.0033 too high.
    `human_ceiling_score`: the sign of all people's mean, from the same bootstrap, against the label: what a model that
        knows that sign would score, and about the most a model can expect. Right to 0.0004.
    `human_loss`: the model's cross-entropy, nats, against the share of positive ratings. It is linear in the share,
        hence unbiased for the loss against the share among all people.
    `human_entropy`: the entropy of that share, the least `human_loss` that any model can have on these ratings. As an
        estimate of the entropy among all people it is too low, by at most 0.04 nats with 15 raters.

    Args:
        ratings: The single ratings of every sentence, integers from -4 to 4.
        labels: 1 if the mean rating is positive, else 0, shape (num_examples,).
        logits: The model's, shape (num_examples, 2).
        num_draws: Draws of the bootstrap, from a fixed seed.
    """
    counts = np.stack([np.bincount(np.asarray(each, dtype=np.int64) + 4, minlength=9) for each in ratings])
    num_raters, total = counts.sum(1), counts @ RATINGS  # counts: (num_examples, 9)
    single = (counts * _agreement(RATINGS, total[:, None] - RATINGS)).sum(1) / num_raters

    generator = np.random.default_rng(0)
    weights = generator.standard_gamma(counts, size=(num_draws, *counts.shape))  # a Dirichlet's, up to their sum
    weights /= weights.sum(-1, keepdims=True)
    panels = generator.multinomial(num_raters, weights)  # (num_draws, num_examples, 9)

    positive = counts @ _agreement(RATINGS, np.ones(9)) / num_raters
    log_probability = log_softmax(logits.astype(np.float64), axis=1)
    loss = -(positive * log_probability[:, 1] + (1 - positive) * log_probability[:, 0])
    label_sign = 2 * labels - 1
    return {
        "human_single_score": float(single.mean()),
        "human_panel_score": float(_agreement(panels @ RATINGS, label_sign).mean()),
        "human_ceiling_score": float(_agreement(weights @ RATINGS, label_sign).mean()),
        "human_loss": float(loss.mean()),
        "human_entropy": float((entr(positive) + entr(1 - positive)).mean()),
    }


def _agreement(answer: NDArray[np.generic], reference: NDArray[np.generic]) -> Array:
    """1 where the signs are the same, 0 where they differ, 0.5 where one is zero."""
    agreement: Array = (1 + np.sign(answer) * np.sign(reference)) / 2
    return agreement
