"""What is learned: tasks as data sets with fixed splits, label names and a metric.

Source: the four corpora of Hutto & Gilbert (2014), one file each with lines ``id <tab> mean rating <tab>
text`` in UTF-8; each sentence was rated from -4 to 4 by 15 people or more, mostly 20. A text is cleaned by
undoing HTML escapes (some are escaped twice) and collapsing white space; all else stays as it is, also the
doubled apostrophes that stand for quotation marks.

Two texts count as the same if their letters and digits do: case, spacing and punctuation are ignored, because
the tweets hold variants of one sentence ("Anger is ugly." "Anger is UGLY!"). Of such texts the first is kept, or
none where their mean ratings do not all have one sign. SHA-256 of the letters and digits also decides the
split, 70 / 10 / 20 %, so no sentence is in train here and in test there, in any pair of tasks.

Examples per class, negative + positive; sentences with an absolute mean rating below 0.5 are left out:

    ============  ===========  ==========  ==========
    task                train  validation        test
    ============  ===========  ==========  ==========
    vader-movie   3495 + 3521   506 + 501  1074 + 973
    vader-amazon   850 + 1252   131 + 160   250 + 325
    vader-nyt      1238 + 793   172 + 133   346 + 248
    vader-tweets   718 + 1580    86 + 210   207 + 476
    ============  ===========  ==========  ==========

`vader-order` asks which of two movie sentences is more positive: their means differ by at least 1.0, or by at
most 0.25 ("no difference"). It takes all movie sentences, each once at most and in its own split. Examples of
first + second + no difference: train 1230 + 1230 + 1230, validation 177 + 177 + 176, test 358 + 358 + 358.
"""

import hashlib
import html
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mixkd import assets
from mixkd.store import UserError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

    AnyDataset = TypeVar("AnyDataset", Dataset, DatasetDict)

SPLITS = ("train", "validation", "test")

_POLAR = 0.5  # smallest absolute mean rating that counts as positive or negative
_CLEAR, _CLOSE = 1.0, 0.25  # differences of mean ratings that count as an order, and as none


@dataclass(frozen=True)
class Task:
    """A task ready to be learned.

    Attributes:
        name: Name that `load_task` takes.
        dataset: Splits train, validation and test with the columns text (and text_pair), label, example_id
            and, for single sentences, mean_rating in [-4, 4].
        label_names: Name of each class, by its index.
        metrics: Names that `compute_scores` takes; the first decides.
        shifted: Tasks with the same labels whose test splits come from another domain.
        fingerprint: SHA-256 of texts, labels and splits in their order; the folder is no part of it.
    """

    name: str
    dataset: "DatasetDict"
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    shifted: tuple[str, ...]
    fingerprint: str

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return len(self.label_names)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns that hold text, in the order the tokenizer takes them."""
        return tuple(c for c in ("text", "text_pair") if c in self.dataset["train"].column_names)

    @property
    def is_pair(self) -> bool:
        """Whether an example is two texts."""
        return len(self.text_columns) == 2


class _Sentence(NamedTuple):
    example_id: str
    text: str
    mean_rating: float
    digest: str  # of its letters and digits


Examples = list[dict[str, Any]]


def _by_sign(sentences: list[_Sentence]) -> Examples:
    """One example per sentence: is its mean rating positive?"""
    return [
        {"text": s.text, "label": int(s.mean_rating > 0), "example_id": s.example_id, "mean_rating": s.mean_rating}
        for s in sentences
        if abs(s.mean_rating) >= _POLAR
    ]


def _by_order(sentences: list[_Sentence]) -> Examples:
    """Pairs of sentences: which one has the higher mean rating?

    In the order of the digests, each sentence takes the next one that suits the class whose turn it is, so
    the classes differ by one example at most; a sentence that finds no partner is left out.
    """
    examples: Examples = []
    waiting = sorted(sentences, key=lambda s: s.digest)
    while waiting:
        sentence, label = waiting.pop(0), len(examples) % 3
        found = (i for i, other in enumerate(waiting) if _suits(abs(sentence.mean_rating - other.mean_rating), label))
        index = next(found, None)
        if index is None:
            continue
        first, second = sentence, waiting.pop(index)
        if label < 2 and (first.mean_rating > second.mean_rating) != (label == 0):
            first, second = second, first
        example_id = f"{first.example_id}+{second.example_id}"
        examples.append({"text": first.text, "text_pair": second.text, "label": label, "example_id": example_id})
    return examples


def _suits(difference: float, label: int) -> bool:
    return difference >= _CLEAR if label < 2 else difference <= _CLOSE


class _Spec(NamedTuple):
    corpus: str
    examples: Callable[[list[_Sentence]], Examples] = _by_sign
    label_names: tuple[str, ...] = ("negative", "positive")
    shifted: tuple[str, ...] = ()


_SPECS = {
    "vader-movie": _Spec("movieReviewSnippets", shifted=("vader-amazon", "vader-nyt", "vader-tweets")),
    "vader-amazon": _Spec("amazonReviewSnippets"),
    "vader-nyt": _Spec("nytEditorialSnippets"),
    "vader-tweets": _Spec("tweets"),
    "vader-order": _Spec("movieReviewSnippets", _by_order, ("first", "second", "no difference")),
}

TASK_NAMES = tuple(_SPECS)


def load_task(name: str, data_dir: str | Path | None = None) -> Task:
    """Load a task.

    Args:
        name: One of `TASK_NAMES`.
        data_dir: Folder with the corpora's ``*_GroundTruth.txt``; by default the pinned asset, downloaded on
            first use.

    Raises:
        UserError: If the name is unknown or the data is missing, damaged or too little.
    """
    if name not in _SPECS:
        raise UserError(f"There is no task {name!r}: choose one of {', '.join(TASK_NAMES)}.")
    folder = assets.fetch("vader") if data_dir is None else Path(data_dir)
    path = folder / f"{_SPECS[name].corpus}_GroundTruth.txt"
    return _load_task(name, path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=32)
def _load_task(name: str, path: Path, modified_ns: int) -> Task:
    """`load_task`, once per process as long as the file is not changed."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    spec = _SPECS[name]
    splits: dict[str, list[_Sentence]] = {split: [] for split in SPLITS}
    for sentence in _distinct(_read_sentences(path)):
        splits[_split_of(sentence)].append(sentence)

    fingerprint, dataset = hashlib.sha256(), DatasetDict()
    for split, sentences in splits.items():
        examples = spec.examples(sentences)
        if not examples:
            raise UserError(f"{path} leaves the {split} split of {name} empty: give it more sentences.")
        features = Features(
            {column: Value("float64" if column == "mean_rating" else "string") for column in examples[0]}
            | {"label": ClassLabel(names=list(spec.label_names))}
        )
        dataset[split] = Dataset.from_list(examples, features=features, split=split)
        for example in examples:
            content = [split, example["text"], example.get("text_pair"), example["label"]]
            fingerprint.update(json.dumps(content).encode())
    return Task(name, dataset, spec.label_names, ("accuracy",), spec.shifted, fingerprint.hexdigest())


def _read_sentences(path: Path) -> list[_Sentence]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): set --data_dir to a folder with the VADER corpora, or "
            "leave it out."
        ) from error
    sentences = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            example_id, rating, raw_text = line.decode().split("\t")
            mean_rating, text = float(rating), " ".join(html.unescape(html.unescape(raw_text)).split())
            if not (-4 <= mean_rating <= 4 and text):
                raise ValueError
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} is not 'id<tab>mean rating in [-4, 4]<tab>text' in UTF-8: repair or remove it."
            ) from error
        letters = "".join(filter(str.isalnum, text.casefold()))
        sentences.append(_Sentence(example_id, text, mean_rating, hashlib.sha256(letters.encode()).hexdigest()))
    return sentences


def _distinct(sentences: list[_Sentence]) -> list[_Sentence]:
    """The first of each group of equal texts, unless their ratings contradict each other."""
    groups = defaultdict(list)
    for sentence in sentences:
        groups[sentence.digest].append(sentence)
    return [group[0] for group in groups.values() if len({np.sign(s.mean_rating) for s in group}) == 1]


def _split_of(sentence: _Sentence) -> str:
    decile = int(sentence.digest, 16) % 10
    return "train" if decile < 7 else "validation" if decile < 8 else "test"


def subsample(dataset: "Dataset", fraction: float, seed: int) -> "Dataset":
    """Part of a labelled data set with the same class shares, in its order.

    For one seed a smaller part lies within every larger one. Every class keeps at least one example.

    Args:
        dataset: Data with a column `label`.
        fraction: Share of each class to keep, in (0, 1].
        seed: Decides which examples are kept.

    Raises:
        UserError: If the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"The training fraction must be in (0, 1], not {fraction}.")
    if fraction == 1:
        return dataset
    labels = np.asarray(dataset["label"])
    order = np.random.default_rng(seed).permutation(len(labels))
    kept = []
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        kept.append(of_class[: max(1, round(fraction * len(of_class)))])
    return dataset.select(np.sort(np.concatenate(kept)))


def tokenize(
    dataset: "AnyDataset", tokenizer: "PreTrainedTokenizerBase", max_length: int, is_pair: bool
) -> "AnyDataset":
    """Token ids for every example, without padding; nothing is written to disk.

    Args:
        dataset: Data with the columns text (and text_pair), label and example_id.
        tokenizer: The model's tokenizer.
        max_length: Longest number of tokens; the longer text of a pair is cut first.
        is_pair: Whether an example is two texts.

    Returns:
        The columns of the tokenizer (input_ids, attention_mask and, for BERT, token_type_ids), length in
        tokens, label and example_id.
    """
    columns: list[str] = ["text", "text_pair"][: 1 + is_pair]

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(*(batch[column] for column in columns), truncation=True, max_length=max_length)
        return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]]}

    needed = dataset.select_columns([*columns, "label", "example_id"])
    return needed.map(encode, batched=True, remove_columns=columns, keep_in_memory=True)


def _accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


#: Metric name -> function of (labels, predictions); every metric goes up.
METRICS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {"accuracy": _accuracy}


def compute_scores(metric: str, predictions: ArrayLike, labels: ArrayLike) -> float:
    """Score of predicted classes.

    Args:
        metric: A key of `METRICS`.
        predictions: Predicted classes, shape (num_examples,).
        labels: True classes, shape (num_examples,).

    Raises:
        UserError: If the examples have no labels, as in GLUE's test splits.
    """
    if np.any(np.asarray(labels) < 0):
        raise UserError("This split has no labels (-1) and cannot be scored: evaluate on validation instead.")
    return METRICS[metric](labels, predictions)
