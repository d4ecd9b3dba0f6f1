"""The task `custom`: one's own texts, from a folder.

The folder holds ``train``, and where they exist ``validation`` and ``test``, each as one file: ``.csv`` (quoted as
usual), ``.tsv`` (quotes are characters, a field holds no tab and no line end), ``.jsonl`` (an object per line) or
``.parquet``. An optional ``task.yaml`` says what is in them; without it, these are the settings::

    text: text              # column of the text
    text_pair: text_pair    # column of the second text, if there is one
    label: label            # column of the label
    label_names: [...]      # by default the labels that occur, sorted; 0, 1, ... may stand for names
    metrics: [accuracy]     # accuracy, f1, matthews; the first decides
    regression: false       # if true, labels are numbers and the metrics [pearson, spearman]
    allow_duplicates: false # whether a text may be in two splits

A missing split is taken from train by the SHA-256 of the text's letters and digits, as in `mixkd.vader`: 10 % for
validation, 20 % for test. No seed is involved, and texts that differ in case or punctuation only stay together.

Test may be without labels (no such column, or all empty); then validation is what final scores are read on. A text
that is in two of the given splits, to the letter, is an error: the score on one would show what was learned by heart
on the other. Dropping it would change data whose splits somebody chose, so that is left to them.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mixkd.arrow_cache import Parsed, load_or_parse
from mixkd.metrics import CLASS_METRICS, REGRESSION_METRICS
from mixkd.store import UserError, content_id, first_error
from mixkd.tabular import columns_of, read_columns
from mixkd.tasks import SPLITS, Task, split_of, text_digest

if TYPE_CHECKING:
    import pyarrow as pa

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


class Settings(BaseModel):
    """The content of task.yaml; see the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    label_names: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ()
    regression: bool = False
    allow_duplicates: bool = False


def load(data_dir: Path | None) -> Task:
    """Load the task of a folder.

    Raises:
        UserError: If the folder, a file, a setting or an example is not as it must be.
    """
    if data_dir is None:
        raise UserError("The task custom needs --data_dir: a folder with train.csv, .tsv, .jsonl or .parquet.")
    files = {split: path for split in SPLITS for path in _file_of(data_dir, split)}
    if "train" not in files:
        raise UserError(f"{data_dir} holds no train.csv, .tsv, .jsonl or .parquet; give the folder that does.")
    if (data_dir / "task.yaml").exists():
        files["settings"] = data_dir / "task.yaml"
    state = tuple((part, path, path.stat().st_mtime_ns, path.stat().st_size) for part, path in files.items())
    return _load(state)


def _file_of(folder: Path, split: str) -> list[Path]:
    found = [path for path in (folder / f"{split}{suffix}" for suffix in _SUFFIXES) if path.is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UserError(f"{folder} holds {names}: keep one of them.")
    return found


@lru_cache(maxsize=32)
def _load(state: tuple[tuple[str, Path, int, int], ...]) -> Task:
    """The task, once per process as long as the files do not change."""
    files = {part: path for part, path, *_ in state}
    settings = _settings(files.pop("settings", None))
    # How a file is read depends on its suffix, and what is made of it on the settings.
    reading = {"settings": settings.model_dump(mode="json"), "files": {s: path.suffix for s, path in files.items()}}
    cached = load_or_parse(f"custom-{content_id(reading)}", files, lambda: _parse(files, settings))
    label = cached.dataset["train"].features["label"]
    label_names = (settings.label,) if settings.regression else tuple(label.names)
    return Task("custom", cached.dataset, label_names, settings.metrics, (), cached.fingerprint, cached.notes)


def _settings(path: Path | None) -> Settings:
    """The settings with their metrics, checked."""
    source = path or "task.yaml"
    try:
        # BaseLoader: `no` is a label, not a truth value.
        content = {} if path is None else yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader) or {}
        settings = Settings.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{source}: {first_error(error)}; its keys are {', '.join(Settings.model_fields)}.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{source} cannot be read: {' '.join(str(error).split())}.") from error
    names = settings.label_names
    if names is not None and len(set(names)) < max(2, len(names)):
        raise UserError(
            f"{source}: the label_names are not two or more different ones: {', '.join(names)}; correct them."
        )
    known = REGRESSION_METRICS if settings.regression else CLASS_METRICS
    metrics = settings.metrics or (tuple(known) if settings.regression else ("accuracy",))
    wrong = [metric for metric in metrics if metric not in known]
    if wrong:
        kind = "a regression" if settings.regression else "classes"
        raise UserError(f"{source}: the metric {wrong[0]} is none for {kind}; choose of {', '.join(known)}.")
    return settings.model_copy(update={"metrics": metrics})


def _parse(files: dict[str, Path], settings: Settings) -> Parsed:
    import pyarrow as pa
    from datasets import ClassLabel, Features, Value

    tables = {split: _read(path, split, settings) for split, path in files.items()}
    texts = ["text", "text_pair"][: len(tables["train"].column_names) - 2]
    for split in tables:
        if tables[split].column_names != tables["train"].column_names:
            raise UserError(
                f"{files[split]} and {files['train']} do not both have the column text_pair: give both one."
            )
    if not settings.allow_duplicates:
        _refuse_duplicates(tables, texts, files)
    written = {split: _written_labels(table["label"], split, files[split]) for split, table in tables.items()}
    names, classes = ((), {}) if settings.regression else _classes(written, settings, files)
    for split, table in tables.items():
        words = written[split]
        if words is None:
            labels = [-1.0] * len(table)
        elif settings.regression:
            labels = [_number(word, row, files[split]) for row, word in enumerate(words)]
        else:
            labels = [float(classes[word]) for word in words]
        tables[split] = table.set_column(len(texts), "label", pa.array(labels))
    tables = _split_off(tables, texts, files["train"])
    if len(tables["train"]["label"].unique()) == 1:
        raise UserError(f"{files['train']} has one label only, so there is nothing to learn: add others.")
    if "f1" in settings.metrics and len(names) != 2:
        raise UserError(f"The metric f1 is for two classes, not {len(names)}: leave it out of task.yaml.")
    label = Value("float32") if settings.regression else ClassLabel(names=list(names))
    types = dict.fromkeys([*texts, "label", "example_id"], Value("string")) | {"label": label}
    return Parsed(tables, Features(types), [])


def _read(path: Path, split: str, settings: Settings) -> "pa.Table":
    """A file as a table of text (and text_pair), label, as written or null, and example_id, the number of the row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    available = columns_of(path)
    pair = settings.text_pair or ("text_pair" if "text_pair" in available else None)
    columns = {"text": settings.text} | ({"text_pair": pair} if pair else {})
    if settings.label in available or split != "test":
        columns["label"] = settings.label
    for key, column in columns.items():
        if column not in available:
            raise UserError(
                f"{path} has no column {column!r} (it has {', '.join(available)}): name the right one in task.yaml, as "
                f"in `{key}: {(available or ['review'])[0]}`."
            )
    table = read_columns(path, list(columns.values()))
    table = pa.table({key: table[column] for key, column in columns.items()})
    for key in [key for key in columns if key != "label"]:
        if not (pa.types.is_string(table[key].type) or pa.types.is_large_string(table[key].type)):
            raise UserError(f"{path} has no texts in the column {columns[key]!r}, but {table[key].type}: name another.")
        blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(table[key], "")), "").to_numpy()
        for row in np.flatnonzero(blank)[:1]:
            raise UserError(f"{path}, row {row + 1} has no {columns[key]}: fill it in, or remove the row.")
    if "label" not in columns:
        table = table.append_column("label", pa.nulls(len(table)))
    return table.append_column("example_id", pa.array(map(str, range(len(table)))))


def _refuse_duplicates(tables: "dict[str, pa.Table]", texts: list[str], files: dict[str, Path]) -> None:
    """Raise if a text is in two of the given splits."""
    split_of_text: dict[tuple[str, ...], str] = {}
    for split, table in tables.items():
        for row, example in enumerate(zip(*(table[column].to_pylist() for column in texts), strict=True)):
            other = split_of_text.setdefault(example, split)
            if other != split:
                raise UserError(
                    f"{files[split]}, row {row + 1} is also in {files[other].name}: remove such rows from one of the "
                    "files, or set allow_duplicates: true in task.yaml."
                )


def _written_labels(column: "pa.ChunkedArray", split: str, path: Path) -> list[str] | None:
    """The labels as words, whole numbers without a fraction; None for a test split without labels."""
    values = column.to_pylist()
    is_missing = [value is None or value != value or value == "" for value in values]
    if split == "test" and all(is_missing):
        return None
    if any(is_missing):
        way_out = "empty the whole column" if split == "test" else "give it one, or remove the row"
        raise UserError(f"{path}, row {is_missing.index(True) + 1} has no label: {way_out}.")
    return [str(int(v) if isinstance(v, float) and v.is_integer() else v).strip() for v in values]


def _classes(
    written: dict[str, list[str] | None], settings: Settings, files: dict[str, Path]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the classes, those of task.yaml or those that occur in train, and the class of each label as written."""
    words = {split: dict.fromkeys(labels or []) for split, labels in written.items()}
    names = settings.label_names
    if names is None:
        is_number = all(word.removeprefix("-").isdecimal() for word in words["train"])
        names = tuple(sorted(words["train"], key=int if is_number else str))
        if len(names) > max(2, len(written["train"] or []) / 2):
            raise UserError(
                f"{files['train']} has {len(names)} different labels, nearly one per example: set regression: true in "
                "task.yaml, or name another column."
            )
    for known in (names, [str(index) for index in range(len(names))]):  # 0, 1, ... may stand for the names
        if all(word in known for split in words for word in words[split]):
            return names, {word: index for index, word in enumerate(known)}
    split, word = next((split, word) for split in words for word in words[split] if word not in names)
    raise UserError(
        f"{files[split]} has the label {word!r}, which is not one of {', '.join(names)}: correct it, or list all of "
        "them as label_names in task.yaml."
    )


def _number(label: str, row: int, path: Path) -> float:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{path}, row {row + 1} has the label {label!r}, which is no number: correct it.")
    return number


def _split_off(tables: "dict[str, pa.Table]", texts: list[str], path: Path) -> "dict[str, pa.Table]":
    """All three splits; those that are missing are parts of train."""
    import pyarrow as pa

    train = tables["train"]
    pairs = zip(*(train[column].to_pylist() for column in texts), strict=True)
    homes = [home if (home := split_of(text_digest(*pair))) not in tables else "train" for pair in pairs]
    complete = {}
    for split in SPLITS:
        is_given = split in tables and split != "train"
        complete[split] = tables[split] if is_given else train.filter(pa.array([home == split for home in homes]))
        if not len(complete[split]):
            raise UserError(f"{path} leaves the {split} split empty: give it more rows, or a file for {split}.")
    return complete
