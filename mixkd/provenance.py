"""Where numbers come from: code, versions and machine; `mixkd.store` hands on what is here."""

import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

#: Packages whose version can change a number in a record.
VERSIONED_PACKAGES = (
    "mixkd", "torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy", "scipy", "scikit-learn",
)  # fmt: skip


def machine(device: str | None, processor: str) -> str:
    """What computes: the GPU, or the processor where there is none. No two kinds of them compute alike."""
    return processor if device in ("cpu", "", None) else device


class Frozen(BaseModel):
    """What is written once and never changed."""

    # Strict numbers are left to the producers; unknown keys mean another schema and are refused.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Provenance(Frozen):
    """Where numbers come from: all that can change bits without being part of the identity."""

    commit: str | None
    dirty: bool | None
    versions: dict[str, str]
    python: str
    platform: str
    processor: str
    device: str
    num_threads: int
    seeds: dict[str, int]
    command: str
    started_at: str
    wall_time_s: float

    @property
    def machine(self) -> str:
        """What computed the numbers, see `machine`."""
        return machine(self.device, self.processor)


@cache
def _git_state() -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the source tree; (None, None) outside a git checkout."""
    folder = Path(__file__).parent
    try:
        _, commit, status = (
            subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True, timeout=10).stdout
            for args in (
                ["ls-files", "--error-unmatch", Path(__file__).name],  # fails where the checkout is not ours
                ["rev-parse", "HEAD"],
                # Evidence is no source: publishing it makes no other program.
                ["status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)reports/published"],
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit.strip(), bool(status.strip())


@cache
def processor() -> str:
    """Name of the processor, as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def _versions() -> dict[str, str]:
    installed = {}
    for name in VERSIONED_PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def now() -> datetime:
    """The current time, in UTC."""
    return datetime.now(UTC)


def command_line() -> str:
    """The command this process was started with, without the folder it lives in."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name  # of `python -m mixkd`
    return shlex.join([name, *sys.argv[1:]])


@cache
def without_folders(command: str) -> str:
    """A command with the names alone of the files in it: where they lie is of this machine."""
    try:
        words = shlex.split(command)
    except ValueError:  # not of a shell
        words = command.split()
    path = r"""(?<![^\s=,\[{("'])/[^,\]})"']*"""
    return shlex.join(re.sub(path, lambda found: Path(found[0]).name, word) for word in words)


def provenance(*, device: str, num_threads: int, seeds: dict[str, int], started_at: datetime) -> Provenance:
    """Describe this process and machine; the wall time runs from `started_at` until now."""
    commit, dirty = _git_state()
    return Provenance(
        commit=commit,
        dirty=dirty,
        versions=_versions(),
        python=platform.python_version(),
        platform=platform.platform(),
        processor=processor(),
        device=device,
        num_threads=num_threads,
        seeds=seeds,
        command=command_line(),
        started_at=started_at.isoformat(timespec="seconds"),
        wall_time_s=(now() - started_at).total_seconds(),
    )
