"""The nine GLUE tasks (Wang et al. 2019) and the diagnostic set `ax`, from a folder or from the hub.

Three sources give the same task with the same fingerprint:

- `data_dir` in the official layout, as the zips unpack: ``data_dir/CoLA/train.tsv``, or `data_dir` is that folder
  itself. Quotes are characters there; CoLA's train and dev have no header; MRPC begins with a byte-order mark; QQP's
  train has lines with missing fields, which are left out and counted; MNLI has two dev and two test files; rows with
  the gold label ``-`` (no majority) are left out and counted. Any other broken line is an error.
- `data_dir` with parquet files as the hub stores them: ``data_dir/cola/train-00000-of-00001.parquet``, or
  ``data_dir/train.parquet``.
- no `data_dir`: ``nyu-mll/glue`` on the hub.

Label names and their order are the hub's. Test labels are hidden: also those of MRPC, which the hub has, so that test
means the same in all tasks and from all sources. Equal texts are not removed; examples are in the file's order.
"""

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from mixkd.arrow_cache import Parsed, load_or_parse
from mixkd.glue_tables import GLUE_SPECS, from_hub_columns, read_tsv, typed
from mixkd.store import UserError
from mixkd.tabular import read_parquet
from mixkd.tasks import Task

log = logging.getLogger(__name__)

_HUB = "nyu-mll/glue"


class _Split(NamedTuple):
    tsv: tuple[str, ...]  # names of the official file, without .tsv
    hub: str


def _splits(name: str) -> dict[str, _Split]:
    if name == "ax":
        return {"test": _Split(("AX", "diagnostic"), "test")}
    if name == "mnli":
        return {
            "train": _Split(("train",), "train"),
            "validation": _Split(("dev_matched",), "validation_matched"),
            "test": _Split(("test_matched",), "test_matched"),
            "validation_mismatched": _Split(("dev_mismatched",), "validation_mismatched"),
            "test_mismatched": _Split(("test_mismatched",), "test_mismatched"),
        }
    return {"train": _Split(("train",), "train"), "validation": _Split(("dev",), "validation"),
            "test": _Split(("test",), "test")}  # fmt: skip


def load(name: str, data_dir: Path | None) -> Task:
    """Load a GLUE task, or `ax`, which has a test split only.

    Args:
        name: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli or ax.
        data_dir: Folder with the official files or parquet; None: the hub.

    Raises:
        UserError: If files are missing or broken, or the hub cannot be reached.
    """
    if data_dir is None:
        return _from_hub(name)
    files = _find(name, data_dir)
    state = tuple((split, path, path.stat().st_mtime_ns, path.stat().st_size) for split, path in files)
    return _from_files(name, state)


def _find(name: str, folder: Path) -> list[tuple[str, Path]]:
    """The files of every split, official ones or parquet, in the first folder that has those of the first split."""
    splits = _splits(name)
    first = next(iter(splits))
    places = [folder / GLUE_SPECS[name].folder, folder / name, folder]
    if name == "ax":
        places.insert(1, folder / "diagnostic")
    for place in places:
        for candidates in (_official, _parquet):
            found = {split: candidates(place, names) for split, names in splits.items()}
            missing = [split for split, paths in found.items() if not paths]
            if first in missing:
                continue
            if missing:
                tsv, hub = splits[missing[0]]
                raise UserError(f"{place} has train but no {tsv[0]}.tsv (or {hub}-*.parquet); add what is missing.")
            return [(split, path) for split, paths in found.items() for path in paths]
    raise UserError(
        f"{folder} holds no data of {name}: give the folder that has {GLUE_SPECS[name].folder}/"
        f"{splits[first].tsv[0]}.tsv (the official files) or {name}/{splits[first].hub}-00000-of-00001.parquet."
    )


def _official(folder: Path, names: _Split) -> list[Path]:
    return [path for path in (folder / f"{stem}.tsv" for stem in names.tsv) if path.is_file()][:1]


def _parquet(folder: Path, names: _Split) -> list[Path]:
    return sorted(folder.glob(f"{names.hub}-*.parquet")) or sorted(folder.glob(f"{names.hub}.parquet"))


@lru_cache(maxsize=32)
def _from_files(name: str, state: tuple[tuple[str, Path, int, int], ...]) -> Task:
    """The task, once per process as long as the files do not change."""
    files = [(split, path) for split, path, *_ in state]

    def parse() -> Parsed:
        import pyarrow as pa

        notes: list[str] = []
        tables: dict[str, pa.Table] = {}
        for split in dict(files):
            paths = [path for of_split, path in files if of_split == split]
            if paths[0].suffix == ".tsv":
                tables[split] = read_tsv(name, paths[0], split, notes)
            else:
                table = pa.concat_tables(map(read_parquet, paths))
                tables[split] = from_hub_columns(name, table, str(paths[0]), split, notes)
        return typed(name, tables, notes)

    return _task(name, {f"{split}/{path.name}": path for split, path in files}, parse)


@lru_cache(maxsize=32)
def _from_hub(name: str) -> Task:
    """The task from the hub, or from the copy that an earlier download left."""
    from datasets import load_dataset

    try:
        dataset = load_dataset(_HUB, name)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{name} could not be fetched from {_HUB} on the hub ({str(error).strip().splitlines()[0]}): check the "
            "connection, or give --data_dir a folder with the official GLUE files or the hub's parquet files."
        ) from error

    def parse() -> Parsed:
        notes: list[str] = []
        tables = {
            split: from_hub_columns(name, dataset[names.hub].data.table, f"{_HUB} {names.hub}", split, notes)
            for split, names in _splits(name).items()
        }
        return typed(name, tables, notes)

    sources = {
        f"{names.hub}/{number}": Path(file["filename"])
        for names in _splits(name).values()
        for number, file in enumerate(dataset[names.hub].cache_files)
    }
    return _task(name, sources, parse)


def _task(name: str, sources: dict[str, Path], parse: Callable[[], Parsed]) -> Task:
    spec = GLUE_SPECS[name]
    cached = load_or_parse(name, sources, parse)
    for note in cached.notes:
        log.warning("%s", note)
    return Task(name, cached.dataset, spec.label_names, spec.metrics, (), cached.fingerprint, cached.notes)
