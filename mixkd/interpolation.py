"""The interpolation path: where a model's hidden states go while one input is mixed into another.

For a pair of real inputs and lam from 0 to 1, word embeddings are mixed as in training, and the last layer's [CLS]
state is compared with the straight segment between the states of the two real inputs and with the states of other
real inputs: does a mixed input look like something between the two, and is it near anything real?
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import softmax
from sklearn.decomposition import PCA
from transformers import PreTrainedModel

from mixkd.forward import mixed_inputs
from mixkd.mixup import TokenTable
from mixkd.tasks import labels_of

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

LAMS = np.arange(11) / 10

#: What `walk` does with a model: the answers about some real inputs, and between pairs of them.
Walk = Callable[[Dataset, Rows], NDArray[np.float32]]


def interpolation(
    student: PreTrainedModel,
    teacher: Walk,
    dataset: Dataset,
    num_pairs: int = 32,
    num_references: int = 256,
    seed: int = 0,
) -> tuple[dict[str, float], pd.DataFrame]:
    """Paths between pairs of real inputs through the space of a student and that of its teacher.

    References are real inputs chosen at random, each text once. The pairs are among them, with different labels as far
    as possible; the source (lam = 1) has the higher one. At lam = 0 and 1 the inputs are the real ones; in between
    they are mixed as in training, where the shorter text lends its [PAD] embedding beyond its end.

    Args:
        student: The model in question, in float32.
        teacher: Its teacher's answers, `partial(walk, teacher)`; they are the same for every student of a teacher.
        dataset: Tokenised real inputs with the column label: the held-out split.
        num_pairs: Pairs at most.
        num_references: Real inputs at most. Fewer than 4 distinct ones give nothing.
        seed: Chooses references and pairs, the same for every run on a task.

    Returns:
        Measurements and the rows of interpolation.parquet. Measured are, for either model, `path/student_...` and
        `path/teacher_...`, each the mean over pairs, integrated over lam and, with the suffix `_at_half`, at lam = 0.5:

        - `distance_to_segment`, in lengths of the segment;
        - `distance_to_nearest` real input other than the two mixed ones, in mean distances of a real input to its
          nearest neighbour;
        - `prediction_deviation` of the predicted probabilities from the mixture of the two real inputs', by total
          variation, in [0, 1]; for a regression the absolute difference of the numbers.

        `path/distillation_loss` is the mean squared difference of the two models' logits where 0 < lam < 1.

        The rows are one per model, pair and lam, with these distances, the pair's labels, and x and y on the two
        principal axes of the model's real states, each turned so that it grows with the label. Real inputs have
        rows without pair, lam and distances.
    """
    references = _references(dataset, num_references, seed)
    if len(references) < 4:
        return {}, pd.DataFrame()
    labels = labels_of(references)
    pairs = choose_pairs(labels, num_pairs, seed)
    walks = {"student": walk(student, references, pairs), "teacher": teacher(references, pairs)}
    paths = {name: _path(answers, pairs, student.config.num_labels) for name, answers in walks.items()}
    frames, measurements = [], {}
    for name, path in paths.items():
        distances = path_distances(path, pairs)
        for what, values in distances.items():
            by_lam = values.mean(0)  # (num_lams,)
            measurements[f"path/{name}_{what}"] = float(np.trapezoid(by_lam, LAMS))
            measurements[f"path/{name}_{what}_at_half"] = float(by_lam[len(LAMS) // 2])
        frames.append(_frame(path, pairs, labels, distances).assign(model=name))
    difference = paths["student"].logits - paths["teacher"].logits
    measurements["path/distillation_loss"] = float(np.square(difference[:, 1:-1]).mean())
    return measurements, pd.concat(frames, ignore_index=True)


def _references(dataset: Dataset, num_references: int, seed: int) -> Dataset:
    """Examples chosen at random; of equal texts only one, for they are no neighbours and no ends of a segment."""
    chosen = dataset.select(np.random.default_rng(seed).permutation(len(dataset))[:num_references])
    row_of = {tuple(ids): row for row, ids in enumerate(chosen["input_ids"])}
    return chosen.select(sorted(row_of.values()))


def choose_pairs(labels: NDArray[np.generic], num_pairs: int, seed: int) -> Rows:
    """Disjoint pairs (source, partner) of rows, with different labels first, the source having the higher one.

    Of the rows sorted by label, the k-th is paired with the one half of the rows further on: unless one label has more
    than half of the rows, no pair has equal labels, and otherwise as few as possible.

    Args:
        labels: Classes or numbers, shape (num_examples,).
        num_pairs: Pairs at most; there are never more than half of the examples.
        seed: Shuffles the rows of a label.

    Returns:
        Rows, shape (num_pairs, 2).
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    half = len(labels) // 2
    pairs = generator.permutation(np.stack([order[-half:], order[:half]], axis=1))
    is_equal = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    return pairs[np.argsort(is_equal, kind="stable")][:num_pairs]


@torch.inference_mode()
def walk(model: PreTrainedModel, references: Dataset, pairs: Rows, batch_size: int = 64) -> NDArray[np.float32]:
    """What a model says, in eval mode, of real inputs and of the mixed ones between pairs of them.

    Args:
        model: The model to ask.
        references: Real inputs, tokenised.
        pairs: Rows (source, partner) of the references, shape (num_pairs, 2).
        batch_size: Inputs at a time; inputs of similar length share a batch.

    Returns:
        The last layer's [CLS] state and the logits of the references and of the mixed inputs, whose lam runs fastest:
        shape (num_references + num_pairs * (num_lams - 2), hidden + num_classes).
    """
    tokens = TokenTable(references, model.config.pad_token_id or 0)
    real, between = np.arange(len(references)), LAMS[1:-1]
    source, partner = (np.concatenate([real, np.repeat(side, len(between))]) for side in pairs.T)
    lam = np.concatenate([np.ones(len(real)), np.tile(between, len(pairs))])  # a real input is mixed with itself
    lengths = np.maximum(tokens.lengths[source], tokens.lengths[partner])
    order = np.argsort(lengths, kind="stable")
    was_training = model.training
    model.eval()
    answers = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        texts = tokens.batch(np.concatenate([source[rows], partner[rows]]), int(lengths[rows].max()))
        on_device = {name: tensor.to(model.device) for name, tensor in texts.items()}
        inputs, _ = mixed_inputs(model, "embeddings", on_device, torch.from_numpy(lam[rows]).to(model.device))
        outputs = model(**inputs, output_hidden_states=True)
        answers.append(torch.cat([outputs.hidden_states[-1][:, 0], outputs.logits], dim=1).cpu().numpy())
    model.train(was_training)
    return np.concatenate(answers)[np.argsort(order)]


class Path(NamedTuple):
    """A model's answers, along the paths from partner (lam = 0) to source (lam = 1).

    Attributes:
        references: [CLS] states of the real inputs, shape (num_references, hidden).
        states: [CLS] states along the paths, shape (num_pairs, num_lams, hidden).
        logits: Logits along the paths, shape (num_pairs, num_lams, num_classes).
    """

    references: Array
    states: Array
    logits: Array


def _path(answers: NDArray[np.float32], pairs: Rows, num_classes: int) -> Path:
    real, mixed = np.split(answers.astype(np.float64), [len(answers) - len(pairs) * (len(LAMS) - 2)])
    between = mixed.reshape(len(pairs), len(LAMS) - 2, -1)
    along = np.concatenate([real[pairs[:, 1:]], between, real[pairs[:, :1]]], axis=1)
    return Path(real[:, :-num_classes], along[..., :-num_classes], along[..., -num_classes:])


def path_distances(path: Path, pairs: Rows) -> dict[str, Array]:
    """The distances that `interpolation` describes, each of shape (num_pairs, num_lams)."""
    start, end = path.states[:, 0], path.states[:, -1]
    predictions = path.logits if path.logits.shape[-1] == 1 else softmax(path.logits, axis=-1)
    lam = LAMS[:, None]
    straight = (1 - lam) * predictions[:, :1] + lam * predictions[:, -1:]
    deviation = np.abs(predictions - straight).sum(-1)
    return {
        "distance_to_segment": distance_to_segment(path.states, start, end),
        "distance_to_nearest": distance_to_nearest(path.states, path.references, pairs),
        "prediction_deviation": deviation if predictions.shape[-1] == 1 else deviation / 2,
    }


def distance_to_segment(points: Array, start: Array, end: Array) -> Array:
    """Distance of points to the segment between two others, in lengths of the segment.

    Args:
        points: Shape (num_pairs, num_points, hidden).
        start: Shape (num_pairs, hidden).
        end: Shape (num_pairs, hidden), never equal to `start`.

    Returns:
        Shape (num_pairs, num_points).
    """
    chord, offset = (end - start)[:, None], points - start[:, None]
    length = np.linalg.norm(chord, axis=-1)  # (num_pairs, 1)
    share = np.clip((offset * chord).sum(-1) / length**2, 0, 1)  # where on the segment the nearest point is
    return np.linalg.norm(offset - share[..., None] * chord, axis=-1) / length


def distance_to_nearest(points: Array, references: Array, excluded: Rows) -> Array:
    """Distance of points to the nearest of some references, in mean nearest-neighbour distances of the references.

    Args:
        points: Shape (num_pairs, num_points, hidden).
        references: Shape (num_references, hidden), at least 3.
        excluded: Rows of the references that do not count for a pair's points, shape (num_pairs, 2).

    Returns:
        Shape (num_pairs, num_points).
    """
    among = cdist(references, references)
    np.fill_diagonal(among, np.inf)
    distances = np.stack([cdist(each, references) for each in points])  # (num_pairs, num_points, num_references)
    np.put_along_axis(distances, excluded[:, None], np.inf, axis=-1)
    return distances.min(-1) / among.min(1).mean()


def _frame(path: Path, pairs: Rows, labels: NDArray[np.generic], distances: dict[str, Array]) -> pd.DataFrame:
    """The rows of one model: its paths, then its real inputs."""
    centred = labels - labels.mean()
    plane = PCA(n_components=2, svd_solver="full").fit(path.references)
    real = plane.transform(path.references)
    turn = np.where(centred @ real < 0, -1, 1)
    x, y = (plane.transform(np.concatenate(path.states)) * turn).T
    num_pairs, num_lams = path.states.shape[:2]
    paths = pd.DataFrame(
        {
            "pair": np.repeat(np.arange(num_pairs), num_lams),
            "lam": np.tile(LAMS, num_pairs),
            "x": x,
            "y": y,
            "label_source": np.repeat(labels[pairs[:, 0]], num_lams),
            "label_partner": np.repeat(labels[pairs[:, 1]], num_lams),
            **{name: values.ravel() for name, values in distances.items()},
        }
    )
    x, y = (real * turn).T
    reals = pd.DataFrame({"x": x, "y": y, "label_source": labels, "label_partner": labels})
    return pd.concat([paths, reals], ignore_index=True).astype({"pair": "Int64"})
