"""More training examples from those there are: back-translation and, as its rival, word dropout.

Synonym replacement is left out. Of the libraries that offer it, nlpaug has had no release since 2022 and textattack
fetches its word lists on first use; those that are well kept (nltk, wn) fetch WordNet from elsewhere, too, and leave
the choice of a word's meaning to the caller.
"""

import hashlib
import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock

from mixkd import apertium, assets, marian
from mixkd.noise import drop_words
from mixkd.store import UserError, content_id

if TYPE_CHECKING:
    from datasets import Dataset

Engine = Literal["apertium", "marian"]
Method = Literal["back-translation", "word-dropout"]
Sides = Literal["both", "one"]
Report = Callable[[str], None]

#: What is appended to the id of an example that comes from another one.
SUFFIXES: dict[Method, str] = {"back-translation": "~bt", "word-dropout": "~wd"}

#: Texts translated between two writes to the cache.
BATCH_SIZE = 512

_PROTOCOL = 1  # to be raised when the way from text to translation changes


@dataclass(frozen=True)
class AugmentCounts:
    """What became of the examples: `num_examples` is the sum of the others.

    Attributes:
        num_examples: Examples given.
        num_new: New examples, one at most per example.
        num_copies: Left out because the texts are those of the original, white space aside.
        num_empty: Left out because a text came out empty.
    """

    num_examples: int
    num_new: int
    num_copies: int
    num_empty: int


def augment(
    dataset: "Dataset",
    method: Method,
    *,
    text_columns: Sequence[str],
    seed: int = 0,
    engine: Engine = "apertium",
    pair: str = "eng-spa",
    sides: Sides = "both",
    rate: float = 0.1,
    cache: Path | None = None,
    report: Report | None = None,
    device: str | None = None,
) -> tuple["Dataset", AugmentCounts]:
    """The new examples alone, each with the label and the other columns of the one it comes from.

    What is drawn for an example is a function of `seed` and its `example_id`, whatever other examples there are.

    Args:
        dataset: Examples with the columns `example_id` (strings) and `text_columns`.
        method: "back-translation", or "word-dropout": each word is missing with probability `rate`, never all words.
        text_columns: One column, or two for pairs of texts.
        seed: Seed of word dropout and of the choice of a side.
        engine: See `back_translate`.
        pair: See `back_translate`.
        sides: For pairs: change "both" texts, or "one", drawn for each example, and keep the other.
        rate: Probability of word dropout, in [0, 1].
        cache: Translations on disk; None: a file in mixkd's cache folder.
        report: Told how many texts are translated.
        device: Where Marian computes; None: the GPU if there is one.

    Returns:
        New examples, in the order of their originals, with the same features, and what became of the others. Their
        ids end in "~bt" or "~wd".

    Raises:
        UserError: See `back_translate`.
    """
    ids = list(dataset["example_id"][:])
    old = {column: list(dataset[column]) for column in text_columns}
    new = {column: list(texts) for column, texts in old.items()}
    for index, column in enumerate(text_columns):
        rows = [row for row, name in enumerate(ids) if sides == "both" or _side(seed, name, len(text_columns)) == index]
        texts = [old[column][row] for row in rows]
        if method == "back-translation":
            file = cache or assets.cache_dir() / "back-translation.sqlite3"
            changed = back_translate(texts, engine, pair, file, report, device)
        else:
            draws = (random.Random(f"{seed} {column} {ids[row]}") for row in rows)
            changed = [drop_words(text, rate, draw) for text, draw in zip(texts, draws, strict=True)]
        for row, text in zip(rows, changed, strict=True):
            new[column][row] = text
    copies, empty = _left_out(old, new)
    kept = [row for row in range(len(ids)) if row not in copies and row not in empty]
    columns = dataset.select(kept).to_dict()
    columns |= {column: [new[column][row] for row in kept] for column in text_columns}
    columns["example_id"] = [ids[row] + SUFFIXES[method] for row in kept]
    examples = type(dataset).from_dict(columns, features=dataset.features, split=dataset.split)
    return examples, AugmentCounts(len(ids), len(kept), len(copies), len(empty))


def _left_out(old: dict[str, list[str]], new: dict[str, list[str]]) -> tuple[set[int], set[int]]:
    """Rows whose texts are the old ones, white space aside, and rows with a text that came out empty."""
    columns = (zip(old[column], new[column], strict=True) for column in old)
    rows = list(enumerate(zip(*columns, strict=True)))  # each with (old, new) for every column
    copies = {row for row, texts in rows if all("".join(one.split()) == "".join(two.split()) for one, two in texts)}
    empty = {row for row, texts in rows if any(one.split() and not two.split() for one, two in texts)}
    return copies, empty


def _side(seed: int, example_id: str, num_sides: int) -> int:
    return hashlib.sha256(f"{seed} {example_id}".encode()).digest()[0] % num_sides


def back_translate(
    texts: Sequence[str],
    engine: Engine,
    pair: str,
    cache: Path,
    report: Report | None = None,
    device: str | None = None,
) -> list[str]:
    """Each text translated into another language and back, with white space collapsed.

    Each distinct text is translated once. Results are written to the cache batch by batch, under the text and
    `engine_fingerprint`: what is killed goes on from there.

    Args:
        texts: Texts in the first language.
        engine: "apertium" or "marian".
        pair: For Apertium the forward mode ("eng-spa"; the way back is "spa-eng", or another mode after a comma); for
            Marian two hub ids or folders, "FORWARD,BACK".
        cache: SQLite file, made if missing; safe for several processes at once, of which one translates at a time.
        report: Told how many texts are done, after every batch.
        device: Where Marian computes; None: the GPU if there is one.

    Returns:
        As many texts as were given, in their order; "" for one that the engine does not give back.

    Raises:
        UserError: If the engine or the pair is missing or does not work, or the cache is damaged.
    """
    version = engine_fingerprint(engine, pair)
    wanted = [" ".join(text.replace("\0", " ").split()) for text in texts]
    distinct = sorted(set(wanted) - {""}, key=lambda text: (len(text), text))
    with _open_cache(cache) as connection:
        known = {"": ""} | _look_up(connection, version, distinct)
        if len(known) <= len(distinct):
            with FileLock(f"{cache}.lock"):  # who had to wait here finds the other's results
                known |= _look_up(connection, version, [text for text in distinct if text not in known])
                missing = [text for text in distinct if text not in known]
                known |= _translate(missing, engine, pair, version, connection, report, device)
    return [known[text] for text in wanted]


def engine_fingerprint(engine: Engine, pair: str) -> str:
    """What decides a translation besides the text, as one short name: for a run's identity and the cache.

    It holds the versions and the content of the engine's data, not the folders they are in.

    Raises:
        UserError: If the engine or the pair is missing.
    """
    identity = apertium.identity(pair) if engine == "apertium" else marian.identity(pair)
    return f"{engine}-{content_id({'protocol': _PROTOCOL, **identity})}"


def _translate(
    texts: list[str],
    engine: Engine,
    pair: str,
    version: str,
    connection: sqlite3.Connection,
    report: Report | None,
    device: str | None,
) -> dict[str, str]:
    """Translations by text; each batch is in the cache before the next one starts."""
    if not texts:
        return {}
    translate = apertium.translator(pair) if engine == "apertium" else marian.translator(pair, device)
    translations: dict[str, str] = {}
    for start in range(0, len(texts), BATCH_SIZE):
        batch = texts[start : start + BATCH_SIZE]
        done = dict(zip(batch, translate(batch), strict=True))
        with connection:
            rows = [(version, text, translation) for text, translation in done.items()]
            connection.executemany("INSERT OR REPLACE INTO translations VALUES (?, ?, ?)", rows)
        translations |= done
        if report is not None:
            report(f"back-translation: {len(translations)} of {len(texts)} texts")
    return translations


@contextmanager
def _open_cache(path: Path) -> Iterator[sqlite3.Connection]:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS translations "
                "(version TEXT, text TEXT, translation TEXT NOT NULL, PRIMARY KEY (version, text)) WITHOUT ROWID"
            )
            yield connection
    except sqlite3.OperationalError as error:
        raise UserError(f"The cache {path} cannot be used ({error}): check the folder's rights and room.") from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"The cache {path} is damaged ({error}): delete it.") from error


def _look_up(connection: sqlite3.Connection, version: str, texts: list[str]) -> dict[str, str]:
    query = "SELECT translation FROM translations WHERE version = ? AND text = ?"
    rows = ((text, connection.execute(query, (version, text)).fetchone()) for text in texts)
    return {text: row[0] for text, row in rows if row}
