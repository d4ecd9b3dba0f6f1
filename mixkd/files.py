"""Files that are whole or not there, and the one error that a user is told; `mixkd.store` hands on what is here."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

#: A disk with less than this left is full: a checkpoint no longer fits.
FULL_DISK_BYTES = 16 * 2**20


class UserError(Exception):
    """A mistake its user can put right: one sentence that says what to do (exit code 2, no traceback)."""


def first_error(error: ValidationError) -> str:
    """What is wrong with the content of a file, in words."""
    first = error.errors()[0]
    where = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
    return f"{where}{first['msg'].removeprefix('Value error, ')}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success fsync it and rename it to `path`.

    On an error the temporary file (or folder) is removed and `path` is left as it was.

    Raises:
        UserError: If the disk is full or the folder cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        yield temporary / path.name
        written = temporary / path.name
        for part in (written, *written.rglob("*")):
            if part.is_file():
                with part.open("rb") as file:
                    os.fsync(file.fileno())
        if path.is_dir():  # a folder cannot be renamed onto a full one
            path.rename(temporary / "replaced")
        written.replace(path)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. Free some space or choose another folder."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def explaining_full_disk(folder: Path) -> Iterator[None]:
    """Turn any error into one sentence if it was a full disk: libraries raise all sorts of them then.

    Raises:
        UserError: If the error says so, or the disk of `folder` has less than 16 MiB left.
    """
    try:
        yield
    except Exception as error:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if "No space left" in str(error) or shutil.disk_usage(existing).free < FULL_DISK_BYTES:
            raise UserError(
                f"The disk of {folder} is full. Free some space, or choose another --output; the same command goes on "
                "where it was."
            ) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
