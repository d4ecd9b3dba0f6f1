"""`pytest benchmarks` in a process of its own, with its JSON in the store."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mixkd.store import Store, UserError, atomic_path


def run_benchmarks(pytest_options: Sequence[str], store: Store) -> Path:
    """Run the benchmarks on the store's models, and keep their JSON beside that of earlier runs.

    Args:
        pytest_options: Further options of pytest.
        store: Where the models are, and the JSON goes.

    Returns:
        The JSON's path.

    Raises:
        UserError: If there are no benchmarks here, or pytest fails; nothing is stored then.
    """
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    if not folder.is_dir():
        raise UserError(
            "The benchmarks are part of the source tree, not of the installed package; run `mixkd bench` "
            "from a clone installed with `pip install -e .`."
        )
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "benchmark.json"
        options = [str(folder), f"--benchmark-json={path}", f"--store={store.root}", "-q", *pytest_options]
        status = subprocess.run([sys.executable, "-m", "pytest", *options], check=False).returncode
        if status == 5:  # pytest's code for this
            raise UserError("No benchmark was chosen; those of trainings need `--training SECONDS`.")
        if status != 0 or not path.exists() or not path.stat().st_size:
            raise UserError(f"The benchmarks ended with pytest's exit code {status}, see above; nothing was stored.")
        # A number first: that is what --benchmark-compare shows of a name.
        number = 1 + sum(1 for _ in store.benchmarks_dir.glob("*.json"))
        kept = store.benchmarks_dir / f"{number:04d}_{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.json"
        with atomic_path(kept) as target:
            target.write_bytes(path.read_bytes())
    return kept
