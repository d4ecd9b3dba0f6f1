"""Data sets parsed once: an Arrow copy in the cache folder, memory-mapped from then on.

Layout of the cache (see `mixkd.assets.cache_dir`)::

    datasets/mnli-<id>/   train.arrow  validation.arrow ...  summary.json
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock

from mixkd.assets import cache_dir
from mixkd.store import UserError, atomic_path, content_id, file_sha256
from mixkd.tasks import content_fingerprint

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import DatasetDict, Features

_FORMAT = 1  # to be raised whenever the same files would be parsed to something else


class Parsed(NamedTuple):
    """The splits of a data set, the types of their columns, and what was left out of the files, in words."""

    tables: "dict[str, pa.Table]"
    features: "Features"
    notes: list[str]


class Cached(NamedTuple):
    """A memory-mapped data set with its fingerprint (see `mixkd.tasks`) and the notes of its parsing."""

    dataset: "DatasetDict"
    fingerprint: str
    notes: tuple[str, ...]


def load_or_parse(name: str, sources: Mapping[str, Path], parse: Callable[[], Parsed]) -> Cached:
    """The data set of some files, from the cache if files of this content were parsed before.

    Processes that ask at the same time wait for one of them. A damaged copy is made again.

    Args:
        name: What the files are: the same content means something else to another task.
        sources: The files that the data set is made of, by the part they play.
        parse: Makes the data set.

    Raises:
        UserError: If `parse` does, or the cache cannot be written.
    """
    content = {part: file_sha256(path) for part, path in sources.items()}
    folder = cache_dir() / "datasets" / f"{name}-{content_id({'format': _FORMAT, 'name': name, 'content': content})}"
    cached = _read(folder)
    if cached is not None:
        return cached
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            cached = _read(folder)
            if cached is None:
                _write(folder, parse())
                cached = _read(folder)
    except OSError as error:
        raise UserError(
            f"The data of {name} cannot be kept in {folder.parent} ({error.strerror or error}): make room there, or "
            "set MIXKD_HOME to another folder."
        ) from error
    assert cached is not None, f"{folder} cannot be read back"
    return cached


def _read(folder: Path) -> Cached | None:
    """What the cache holds; None if it is not there, or not as it was written."""
    from datasets import Dataset, DatasetDict

    try:
        summary = json.loads((folder / "summary.json").read_bytes())
        sizes = summary["size_bytes"]
        if any((folder / f"{split}.arrow").stat().st_size != size for split, size in sizes.items()):
            return None
        dataset = DatasetDict({split: Dataset.from_file(str(folder / f"{split}.arrow")) for split in sizes})
        return Cached(dataset, summary["fingerprint"], tuple(summary["notes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(folder: Path, parsed: Parsed) -> None:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict

    schema, dataset, sizes = parsed.features.arrow_schema, DatasetDict(), {}
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for split, table in parsed.tables.items():
            path = temporary / f"{split}.arrow"
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
                writer.write_table(table.cast(schema), max_chunksize=1000)
            dataset[split], sizes[split] = Dataset.from_file(str(path)), path.stat().st_size
        summary = {"fingerprint": content_fingerprint(dataset), "notes": parsed.notes, "size_bytes": sizes}
        (temporary / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
