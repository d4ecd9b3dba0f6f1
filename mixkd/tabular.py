"""Tables of text in CSV, TSV, JSON lines and parquet files: columns in, clear errors out."""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixkd.store import UserError

if TYPE_CHECKING:
    import pyarrow as pa


def columns_of(path: Path) -> list[str]:
    """Names of a file's columns, by its suffix .csv, .tsv, .jsonl or .parquet.

    Raises:
        UserError: If it cannot be read.
    """
    from pyarrow import parquet

    if path.suffix == ".jsonl":
        return list(dict.fromkeys(key for row in _json_lines(path) for key in row))
    if path.suffix == ".parquet":
        with _explaining(path):
            return list(parquet.read_schema(path).names)
    line = header_of(path)
    return line.split("\t") if path.suffix == ".tsv" else next(csv.reader([line]), [])


def read_columns(path: Path, columns: Sequence[str]) -> "pa.Table":
    """Columns of a file, by its suffix .csv (quoted), .tsv (quotes are characters), .jsonl or .parquet.

    Returns:
        Strings from CSV and TSV, and what the file holds from the others; null for a key that an object lacks.

    Raises:
        UserError: If the file cannot be read or a row has not as many fields as the header.
    """
    import pyarrow as pa

    if path.suffix == ".parquet":
        return read_parquet(path, columns)
    if path.suffix == ".jsonl":
        rows = _json_lines(path)
        with _explaining(path):
            return pa.table({column: pa.array([row.get(column) for row in rows]) for column in columns})
    table, _, broken = read_delimited(path, "\t" if path.suffix == ".tsv" else ",", path.suffix == ".csv", columns)
    for row, num_fields in broken[:1]:
        raise UserError(
            f"{path}, row {row + 1} has {num_fields} fields, unlike the header: repair it (in CSV, a text with a "
            "comma, a quote or a line end stands in double quotes)."
        )
    return table


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """A parquet file, or some columns of it.

    Raises:
        UserError: If it cannot be read.
    """
    from pyarrow import parquet

    with _explaining(path):
        return parquet.read_table(path, columns=columns)


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({str(error).strip().splitlines()[0]}): repair the file.") from error


def _json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line.decode()))
            if not isinstance(rows[-1], dict):
                raise ValueError("it is something else")
        except ValueError as error:
            raise UserError(f"{path}, line {number} is not a JSON object in UTF-8 ({error}): repair it.") from error
    return rows


class Delimited(NamedTuple):
    """What a file holds.

    Attributes:
        table: The columns asked for, as strings, without the broken lines.
        rows: Which row of the file each one is, from 0; header and empty lines do not count, broken lines do.
        broken: The rows with too few or too many fields: (row, number of fields).
    """

    table: "pa.Table"
    rows: NDArray[np.int64]
    broken: list[tuple[int, int]]


def read_delimited(
    path: Path, delimiter: str, quoted: bool, columns: Sequence[str], names: Sequence[str] | None = None
) -> Delimited:
    """Read columns of a file in UTF-8, a byte-order mark and CRLF included.

    Args:
        path: The file.
        delimiter: What stands between two fields.
        quoted: Whether a double quote encloses a field, which may then hold line ends; else it is a character.
        columns: Columns to read; the file may have more.
        names: Names of all columns, if the file has no header.

    Raises:
        UserError: If the file cannot be read, is empty or not UTF-8, or lacks a column.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    broken: list[tuple[int, int]] = []
    first = 1 if names else 2  # Arrow counts the header as row 1

    def skip(row: arrow_csv.InvalidRow) -> str:
        broken.append((row.number - first, row.actual_columns))
        return "skip"

    try:
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(
                use_threads=False, column_names=names
            ),  # only one thread knows row numbers
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                invalid_row_handler=skip,
            ),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=False,  # "NA" is a text
            ),
        )
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except pa.ArrowKeyError as error:
        header = header_of(path)
        missing = next(column for column in columns if column not in header.split(delimiter))
        raise UserError(f"{path} has no column {missing!r}, but {header!r}: it is another file.") from error
    except pa.ArrowInvalid as error:
        raise UserError(_explain(path, str(error))) from error
    if not len(table) and not broken:
        raise UserError(f"{path} holds no examples; give a file that does.")
    rows = np.setdiff1d(np.arange(len(table) + len(broken)), [row for row, _ in broken])
    return Delimited(table, rows, broken)


def header_of(path: Path) -> str:
    """The first line of a file."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline().rstrip("\n")


def line_of(path: Path, row: int, has_header: bool) -> int:
    """The line, from 1, of a row of a file without quoted line ends."""
    with path.open("rb") as file:
        lines = (number for number, line in enumerate(file, start=1) if line.strip())
        return next(itertools.islice(lines, row + has_header, None))


def _explain(path: Path, reason: str) -> str:
    if "UTF8" in reason:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    return f"{path}, line {number} is not UTF-8: save the file in that encoding."
    if "Empty CSV" in reason:
        return f"{path} is empty; give a file with examples."
    return f"{path} cannot be read as a table ({reason}): repair the file."
