"""`pytest benchmarks` in a process of its own, with its JSON in the store."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from mixkd.store import Store, UserError, atomic_path

#: How long an interrupted pytest may take to remove its models and end its processes.
GRACE_S = 10.0


def run_benchmarks(pytest_options: Sequence[str], store: Store) -> Path:
    """Run the benchmarks on the store's models, and keep their JSON beside that of earlier runs.

    Args:
        pytest_options: Further options of pytest.
        store: Where the models are, and the JSON goes.

    Returns:
        The JSON's path.

    Raises:
        UserError: If there are no benchmarks here, an option is wrong, the store cannot be written, or pytest fails;
            nothing is stored then but what did not fail.
        KeyboardInterrupt: If this process is told to end: with what to say then.
    """
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    if not folder.is_dir():
        raise UserError(
            "The benchmarks are part of the source tree, not of the installed package; run `mixkd bench` "
            "from a clone installed with `pip install -e .`."
        )
    _check(pytest_options, store)
    # A number first: that is what --benchmark-compare shows of a name.
    number = 1 + sum(1 for _ in store.benchmarks_dir.glob("*.json"))
    kept = store.benchmarks_dir / f"{number:04d}_{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.json"
    with atomic_path(kept) as path:  # around pytest: a store that cannot be written is found out before the hours
        options = [str(folder), f"--benchmark-json={path}", f"--store={store.root}", "-q", *pytest_options]
        status = _pytest(options)
        if status == 5:  # pytest's code for this
            raise UserError("No benchmark was chosen; those of trainings need `--training SECONDS`.")
        text = path.read_text() if status in (0, 1) and path.exists() else ""
        if not text or not json.loads(text).get("benchmarks"):
            raise UserError(f"The benchmarks ended with pytest's exit code {status}, see above; nothing was stored.")
    if status:
        raise UserError(f"Some benchmarks failed, see above; {kept} has the others.")
    return kept


def _check(pytest_options: Sequence[str], store: Store) -> None:
    """Refuse what pytest-benchmark would trip over, or write elsewhere."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--benchmark-json", "--benchmark-compare"):
        parser.add_argument(option, nargs="?", const="")
    given, _ = parser.parse_known_args(pytest_options)
    if given.benchmark_json is not None:
        raise UserError(f"The JSON goes to {store.benchmarks_dir}: leave --benchmark-json out.")
    earlier = Path(given.benchmark_compare or "")
    # Anything shorter is the beginning of names in --benchmark-storage, or in a folder of it.
    if (earlier.suffix == ".json" or len(earlier.parts) > 2) and not earlier.is_file():
        raise UserError(f"There is no file {earlier} to compare with; the store's are in {store.benchmarks_dir}.")


def _pytest(options: Sequence[str]) -> int:
    """Pytest's exit code; however this ends, pytest has ended too."""
    process = subprocess.Popen([sys.executable, "-m", "pytest", *options])
    try:
        return process.wait()
    except KeyboardInterrupt:
        if not os.isatty(0):  # a terminal's Ctrl-C has reached pytest too; a second one would end its clearing up
            process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        raise KeyboardInterrupt("The same command starts the benchmarks again; none was stored.") from None
    finally:
        process.kill()
        process.wait()
