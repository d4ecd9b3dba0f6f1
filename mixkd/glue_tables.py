"""GLUE's file formats: official TSV and the hub's columns, as tables of text (and text_pair), label and example_id."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixkd.arrow_cache import Parsed
from mixkd.store import UserError
from mixkd.tabular import header_of, line_of, read_delimited

if TYPE_CHECKING:
    import pyarrow as pa


class GlueSpec(NamedTuple):
    """What the files of a task look like.

    Attributes:
        folder: Name of the official folder.
        texts: Columns of the hub's files that hold text.
        label: Column of the official train and dev files that holds the label.
        label_names: The hub's, in its order.
        metrics: The official ones, see `mixkd.metrics`.
        words: How the official files write the classes, in the order of `label_names`; empty for numbers.
        official_texts: Columns of the official files that hold text, where they have other names.
    """

    folder: str
    texts: tuple[str, ...]
    label: str
    label_names: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    words: tuple[str, ...] = ("0", "1")
    official_texts: tuple[str, ...] = ()


_PAIR = ("sentence1", "sentence2")
_PREMISE = ("premise", "hypothesis")
_NLI = ("entailment", "neutral", "contradiction")
_TWO_WAY = ("entailment", "not_entailment")
_EQUAL = ("accuracy", "f1")

GLUE_SPECS = {
    "cola": GlueSpec("CoLA", ("sentence",), "is_acceptable", ("unacceptable", "acceptable"), ("matthews",)),
    "sst2": GlueSpec("SST-2", ("sentence",), "label", ("negative", "positive")),
    "mrpc": GlueSpec("MRPC", _PAIR, "Quality", ("not_equivalent", "equivalent"), _EQUAL,
                     official_texts=("#1 String", "#2 String")),
    "stsb": GlueSpec("STS-B", _PAIR, "score", ("similarity",), ("pearson", "spearman"), words=()),
    "qqp": GlueSpec("QQP", ("question1", "question2"), "is_duplicate", ("not_duplicate", "duplicate"), _EQUAL),
    "mnli": GlueSpec("MNLI", _PREMISE, "gold_label", _NLI, words=_NLI, official_texts=_PAIR),
    "qnli": GlueSpec("QNLI", ("question", "sentence"), "label", _TWO_WAY, words=_TWO_WAY),
    "rte": GlueSpec("RTE", _PAIR, "label", _TWO_WAY, words=_TWO_WAY),
    "wnli": GlueSpec("WNLI", _PAIR, "label", ("not_entailment", "entailment")),
    "ax": GlueSpec("AX", _PREMISE, "label", _NLI, words=_NLI, official_texts=_PAIR),
}  # fmt: skip

_COLA_COLUMNS = ("source", "is_acceptable", "original_label", "sentence")


def read_tsv(name: str, path: Path, split: str, notes: list[str]) -> "pa.Table":
    """One official file as a table of text (and text_pair), label and example_id.

    Args:
        name: Name of the task.
        path: The file.
        split: A label of test, which has none, is -1.
        notes: Is told what was left out.

    Raises:
        UserError: If the file is not this task's, or is broken.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    spec, is_test = GLUE_SPECS[name], split.startswith("test")
    texts, has_header = spec.official_texts or spec.texts, name != "cola" or is_test
    index = ["index"] if has_header and "index" in header_of(path).split("\t") else []
    columns = [*texts, *index, *([] if is_test else [spec.label])]
    table, rows, broken = read_delimited(path, "\t", False, columns, None if has_header else _COLA_COLUMNS)

    def line(row: int) -> int:
        return line_of(path, row, has_header)

    if broken and (name, split) != ("qqp", "train"):
        row, num_fields = broken[0]
        raise UserError(
            f"{path}, line {line(row)} has {num_fields} fields, not as many as the first: repair it, or take the "
            "official file."
        )
    if broken:
        notes.append(f"{name}: {len(broken)} lines of {path.name} have missing or too many fields and were left out.")
    written = pa.array(["-1"] * len(table)) if is_test else table[spec.label]
    if spec.words:
        labels = pc.fill_null(pc.index_in(written, pa.array(spec.words)), -1).to_numpy()
    else:
        labels = np.array([_number(text) for text in written.to_pylist()])
    examples = {
        **dict(zip(("text", "text_pair"), (table[column] for column in texts), strict=False)),
        "label": labels,
        "example_id": table["index"] if index else pa.array(rows).cast(pa.string()),
    }
    is_open = pc.equal(written, "-").to_numpy(zero_copy_only=False)
    return _labelled(name, split, examples, is_open, lambda row: f"{path}, line {line(rows[row])}", notes)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def from_hub_columns(name: str, table: "pa.Table", source: str, split: str, notes: list[str]) -> "pa.Table":
    """The hub's columns as a table of text (and text_pair), label and example_id.

    Args:
        name: Name of the task.
        table: A split as it is on the hub.
        source: Where it comes from, for errors.
        split: All labels of test become -1.
        notes: Is told what was left out.

    Raises:
        UserError: If columns, label names or labels are not the task's.
    """
    import pyarrow as pa
    from datasets import ClassLabel, Features

    spec = GLUE_SPECS[name]
    missing = {*spec.texts, "label"} - set(table.column_names)
    if missing:
        raise UserError(f"{source} lacks the column {', '.join(sorted(missing))} of {name} on the hub; fetch it again.")
    feature = Features.from_arrow_schema(table.schema)["label"]
    if isinstance(feature, ClassLabel) and tuple(feature.names) != spec.label_names:
        raise UserError(
            f"{source} has the labels {feature.names}, not {list(spec.label_names)} in this order; take the hub's file."
        )
    ids = table["idx"] if "idx" in table.column_names else pa.array(np.arange(len(table)))
    examples = {
        **dict(zip(("text", "text_pair"), (table[column] for column in spec.texts), strict=False)),
        "label": np.full(len(table), -1) if split.startswith("test") else table["label"].to_numpy(),
        "example_id": ids.cast(pa.string()),
    }
    return _labelled(name, split, examples, examples["label"] == -1, lambda row: f"{source}, row {row}", notes)


def _labelled(
    name: str,
    split: str,
    examples: dict[str, Any],
    is_open: NDArray[np.bool_],
    where: Callable[[int], str],
    notes: list[str],
) -> "pa.Table":
    """The columns as a table, without the examples of MNLI that no majority gave a label."""
    import pyarrow as pa

    table = pa.table(examples)
    if split.startswith("test"):
        return table
    largest = len(GLUE_SPECS[name].label_names) - 1 or 5
    has_label = (examples["label"] >= 0) & (examples["label"] <= largest)
    for row in np.flatnonzero(~has_label & ~(is_open & (name == "mnli")))[:1]:
        raise UserError(f"{where(row)} has no label of {name}: repair it, or take the official file.")
    if not has_label.all():
        notes.append(f"{name}: {(~has_label).sum()} examples of {split} have no gold label (-) and were left out.")
    return table.filter(pa.array(has_label))


def typed(name: str, tables: "dict[str, pa.Table]", notes: list[str]) -> Parsed:
    """The splits of a task, checked, with the types of `mixkd.tasks.Task`.

    Raises:
        UserError: If an index is there twice, or something is missing.
    """
    from datasets import ClassLabel, Features, Value

    for split, table in tables.items():
        if len(table["example_id"].unique()) < len(table):
            raise UserError(f"The {split} split of {name} has an index more than once; take the official file.")
        for column in (column for column in table.column_names if table[column].null_count):
            raise UserError(f"The {split} split of {name} has an empty {column}; take the official file.")
    names = GLUE_SPECS[name].label_names
    label = ClassLabel(names=list(names)) if len(names) > 1 else Value("float32")
    features = Features({column: Value("string") for column in tables["test"].column_names} | {"label": label})
    return Parsed(tables, features, notes)
