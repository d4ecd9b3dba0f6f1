"""Evidence that took long, in small files for a repository: out of a store, and into one.

Two files hold one JSON object a line, compressed by xz: records of training runs as the store has them, and
pytest-benchmark's files with their names. A folder holds the few paths between texts that are drawn, another the runs
that were done again elsewhere. Models, per-example tables and simulations (minutes of work) stay behind.
"""

import json
import lzma
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from mixkd.store import REPEATS, Record, Store, UserError, atomic_path, first_error, without_folders, write_text

RUNS, BENCHMARKS, PATHS = "runs.jsonl.xz", "benchmarks.jsonl.xz", "interpolation"


class Counts(NamedTuple):
    """Runs, repeats among them, and files of benchmarks."""

    runs: int
    benchmarks: int


def publish(store: Store, folder: Path) -> Counts:
    """Add what a store holds to the published files; what is already there stays as it is.

    Args:
        store: The evidence.
        folder: Of the files; made if it is not there.

    Returns:
        How many runs and files of benchmarks are published now.

    Raises:
        UserError: If a record of the store or a line of a file is not valid: nothing is written then.
    """
    runs = {folder / RUNS: _all_runs(store, folder / RUNS)}
    for name, repeat in store.repeats().items():
        path = folder / REPEATS / f"{name}.jsonl.xz"
        runs[path] = _all_runs(repeat, path)
    benchmarks = {path.name: _text(path) for path in store.benchmarks_dir.glob("*.json")}
    benchmarks |= dict(_benchmarks(folder))
    for path, records in runs.items():
        _write(path, (record.model_dump_json() for record in records))
    _write(folder / BENCHMARKS, (json.dumps({"name": key, "text": benchmarks[key]}) for key in sorted(benchmarks)))
    return Counts(sum(map(len, runs.values())), len(benchmarks))


def check_verdicts(verdicts: Path, folder: Path) -> None:
    """See that a page to be published judges all that the published one does.

    Args:
        verdicts: The page's verdicts.json.
        folder: Of the published files, where there may be another.

    Raises:
        UserError: If evidence is lacking for a claim that was judged.
    """
    if not (published := folder / verdicts.name).exists():
        return
    judged, now = ({v["claim"]: v["verdict"] for v in json.loads(path.read_text(encoding="utf-8"))["verdicts"]}
                   for path in (published, verdicts))  # fmt: skip
    if lost := [claim for claim, verdict in judged.items() if verdict != "not run" and now.get(claim) == "not run"]:
        raise UserError(
            f"The store has no evidence for {', '.join(lost)}, which {folder} judges; run `mixkd theory`, or what else "
            "the report names for them. Nothing was published."
        )


def copy(paths: Iterable[Path], folder: Path) -> None:
    """Put files into the folder of the published ones."""
    for path in paths:
        _copy(path, folder / path.name)


def publish_paths(store: Store, folder: Path, run_ids: Collection[str]) -> None:
    """Add the paths between two texts of some runs to the published files."""
    for run_id in run_ids:
        if not (published := folder / PATHS / f"{run_id}.parquet").exists():
            _copy(store.interpolation_path(run_id), published)


def restore(folder: Path, store: Store) -> Counts:
    """Fill a store from the published files; what the store has stays as it is.

    Returns:
        How many runs and files of benchmarks were added.

    Raises:
        UserError: If there are no such files, or a line of one is not valid: nothing is written then.
    """
    if not (folder / RUNS).is_file():
        raise UserError(f"There is no {RUNS} in {folder}; give the folder that `mixkd publish` wrote.")
    runs = _missing_runs(store, folder / RUNS)
    for path in sorted((folder / REPEATS).glob("*.jsonl.xz")):
        runs += _missing_runs(Store(store.root / REPEATS / path.name.removesuffix(".jsonl.xz")), path)
    benchmarks = [(name, text) for name, text in _benchmarks(folder) if not (store.benchmarks_dir / name).exists()]
    for place, record in runs:
        place.save_run(record)
    for name, text in benchmarks:
        write_text(store.benchmarks_dir / name, text)
    for path in (folder / PATHS).glob("*.parquet"):
        of_run = store.interpolation_path(path.stem)
        if of_run.parent.is_dir() and not of_run.exists():
            _copy(path, of_run)
    return Counts(len(runs), len(benchmarks))


def _text(path: Path) -> str:
    """A file of benchmarks, if it is one."""
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)["benchmarks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no file of benchmarks ({error}); remove it. Nothing was published.") from error
    return text


def _without_folders(record: Record) -> Record:
    command = without_folders(record.provenance.command)
    return record.model_copy(update={"provenance": record.provenance.model_copy(update={"command": command})})


def _all_runs(store: Store, published: Path) -> list[Record]:
    """The runs that are published and those of a store, by id."""
    records, problems = store.runs()
    if problems:
        raise UserError(f"{problems[0].reason} Nothing was published.")
    runs = {record.run_id: record for record in (*map(_without_folders, records), *_runs(published))}
    return [runs[run_id] for run_id in sorted(runs)]


def _missing_runs(store: Store, published: Path) -> list[tuple[Store, Record]]:
    """The published runs that a store does not have, with the store."""
    return [(store, run) for run in _runs(published) if not (store.run_dir(run.run_id) / "record.json").exists()]


def _runs(path: Path) -> list[Record]:
    records = []
    for number, line in _lines(path):
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError as error:
            raise UserError(f"Line {number} of {path} is not a valid record: {first_error(error)}.") from error
    return records


def _benchmarks(folder: Path) -> list[tuple[str, str]]:
    found = []
    for number, line in _lines(folder / BENCHMARKS):
        try:
            entry = json.loads(line)
            name, text = str(entry["name"]), str(entry["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"Line {number} of {folder / BENCHMARKS} is not a name and its text.") from error
        if Path(name).name != name or not name.endswith(".json"):
            raise UserError(f"Line {number} of {folder / BENCHMARKS} names {name!r}, no file of benchmarks.")
        found.append((name, text))
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.exists():
        return
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            yield from enumerate(file, start=1)
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be read ({error}); take it from the repository again.") from error


def _copy(path: Path, to: Path) -> None:
    with atomic_path(to) as temporary:
        temporary.write_bytes(path.read_bytes())


def _write(path: Path, lines: Iterator[str]) -> None:
    with atomic_path(path) as temporary, lzma.open(temporary, "wt", preset=9, encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
