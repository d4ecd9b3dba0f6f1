"""The embedded tasks: is a sentence positive or negative, and which of two is more positive?

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

The single ratings are in a second file, ``id <tab> mean <tab> standard deviation <tab> [list of ratings]``. In
movie, amazon and nyt the mean rating is the mean of this list; for 199 of the 4200 tweets the two files differ (by
1.1 at most, never in sign), and both are kept as published.
"""

import html
import json
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixkd import assets
from mixkd.store import UserError
from mixkd.tasks import SPLITS, Task, content_fingerprint, split_of, text_digest

_POLAR = 0.5  # smallest absolute mean rating that counts as positive or negative
_CLEAR, _CLOSE = 1.0, 0.25  # differences of mean ratings that count as an order, and as none


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


def load(name: str, data_dir: Path | None) -> Task:
    """Load one of the five tasks.

    Args:
        name: Name of the task.
        data_dir: Folder with the corpora's ``*_GroundTruth.txt`` and, if the single ratings are wanted,
            ``*_anonDataRatings.txt``; None: the pinned asset, downloaded on first use.

    Raises:
        UserError: If the data is missing, damaged or too little.
    """
    folder = assets.fetch("vader") if data_dir is None else data_dir
    corpus = _SPECS[name].corpus
    paths = (folder / f"{corpus}_GroundTruth.txt", folder / f"{corpus}_anonDataRatings.txt")
    return _load(name, *paths, tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths))


def rated_sentences(data_dir: Path | None = None) -> tuple[list[str], NDArray[np.float64]]:
    """All distinct sentences of the four corpora, corpus by corpus, and their mean ratings, shape (num_sentences,).

    Raises:
        UserError: If a corpus is missing or damaged.
    """
    folder = assets.fetch("vader") if data_dir is None else data_dir
    corpora = dict.fromkeys(spec.corpus for spec in _SPECS.values())
    sentences = [s for corpus in corpora for s in _distinct(_read_sentences(folder / f"{corpus}_GroundTruth.txt"))]
    return [s.text for s in sentences], np.array([s.mean_rating for s in sentences])


@lru_cache(maxsize=32)
def _load(name: str, path: Path, ratings_path: Path, modified_ns: tuple[int, ...]) -> Task:
    """`load`, once per process as long as the files are not changed."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

    spec = _SPECS[name]
    splits: dict[str, list[_Sentence]] = {split: [] for split in SPLITS}
    for sentence in _distinct(_read_sentences(path)):
        splits[split_of(sentence.digest)].append(sentence)
    ratings = _read_ratings(ratings_path) if spec.examples is _by_sign and ratings_path.exists() else None

    types = {"mean_rating": Value("float64"), "ratings": List(Value("int8"))}
    dataset = DatasetDict()
    for split, sentences in splits.items():
        examples = spec.examples(sentences)
        if not examples:
            raise UserError(f"{path} leaves the {split} split of {name} empty: give it more sentences.")
        if ratings is not None:
            for example in examples:
                example["ratings"] = _ratings_of(example["example_id"], ratings, ratings_path)
        label = ClassLabel(names=list(spec.label_names))
        features = {column: types.get(column, Value("string")) for column in examples[0]} | {"label": label}
        dataset[split] = Dataset.from_list(examples, features=Features(features), split=split)
    return Task(name, dataset, spec.label_names, ("accuracy",), spec.shifted, content_fingerprint(dataset))


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
        sentences.append(_Sentence(example_id, text, mean_rating, text_digest(text)))
    return sentences


def _read_ratings(path: Path) -> dict[str, list[int]]:
    """The single ratings of every sentence, by its id."""
    ratings: dict[str, list[int]] = {}
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            example_id, _, _, listed = line.decode().split("\t")
            ratings[example_id] = json.loads(listed)
            if not all(rating in range(-4, 5) for rating in ratings[example_id]):
                raise ValueError
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}, line {number} is not 'id<tab>mean<tab>deviation<tab>[whole ratings in [-4, 4]]': repair or "
                "remove the file."
            ) from error
    return ratings


def _ratings_of(example_id: str, ratings: dict[str, list[int]], path: Path) -> list[int]:
    if example_id not in ratings:
        raise UserError(f"{path} lacks the ratings of the sentence {example_id}: repair or remove the file.")
    return ratings[example_id]


def _distinct(sentences: list[_Sentence]) -> list[_Sentence]:
    """The first of each group of equal texts, unless their ratings contradict each other."""
    groups = defaultdict(list)
    for sentence in sentences:
        groups[sentence.digest].append(sentence)
    return [group[0] for group in groups.values() if len({np.sign(s.mean_rating) for s in group}) == 1]
