import errno
import hashlib
import io
import os
import socket
import sys
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mixkd import assets
from mixkd.assets import ASSETS, Asset, File, fetch, status
from mixkd.store import UserError

CONTENT = {"a.txt": b"first\n" * 50, "b.bin": bytes(range(256))}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def wheel(members):
    buffer = io.BytesIO()
    info = "tinywheel-1.0.dist-info"
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinywheel\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The only place pip looks at: a local folder."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("MIXKD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def add(index, monkeypatch):
    """Put an archive into the index and pin it as the only asset."""

    def add(asset_name, archive_name, content, inner_archive, prefix, **changes):
        (index / archive_name).write_bytes(content)
        record = {
            "name": asset_name, "project": asset_name, "version": "1.0", "sha256": sha256(content),
            "size_bytes": len(content), "inner_archive": inner_archive, "prefix": prefix,
            "files": tuple(File(name, len(data), sha256(data)) for name, data in CONTENT.items()),
        }  # fmt: skip
        monkeypatch.setattr(assets, "ASSETS", {asset_name: Asset(**record | changes)})

    return add


@pytest.fixture
def add_wheel(add):
    def add_wheel(members=None, **changes):
        members = CONTENT if members is None else members
        files = {f"tinywheel/model/{name}": content for name, content in members.items()}
        content = wheel(files | {"tinywheel/__init__.py": b"raise SystemExit"})
        add("tinywheel", "tinywheel-1.0-py3-none-any.whl", content, "", "tinywheel/model", **changes)

    return add_wheel


def cached(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def visible(home):
    """What the cache shows: everything but lock files."""
    return [path.name for path in home.iterdir() if path.suffix != ".lock"] if home.exists() else []


def test_wheel_is_fetched_once_and_then_needs_no_index(index, add_wheel, tmp_path):
    add_wheel()
    lines = []
    folder = fetch("tinywheel", report=lines.append)
    assert folder == tmp_path / "home" / "tinywheel-1.0"
    assert cached(folder) == CONTENT  # and not the package's code
    assert lines == ["tinywheel: downloading 0 MB", "tinywheel: checking", "tinywheel: ready"]
    assert visible(folder.parent) == [folder.name]
    next(index.iterdir()).unlink()
    assert fetch("tinywheel", report=lines.append, verify=True) == folder
    assert len(lines) == 3


def test_sdist_is_read_without_running_its_setup(add, tmp_path):
    marker = tmp_path / "setup_ran"
    inner = tar({f"corpora/{name}": content for name, content in CONTENT.items()} | {"corpora/code.py": b"1"})
    root = "TinySdist-1.0"
    content = tar({
        f"{root}/setup.py": f"open({str(marker)!r}, 'w').close()\n".encode(),
        f"{root}/setup.cfg": b"",
        f"{root}/PKG-INFO": b"Metadata-Version: 1.1\nName: TinySdist\nVersion: 1.0\n",
        f"{root}/more/corpora.tar.gz": inner,
    })  # fmt: skip
    add("TinySdist", f"{root}.tar.gz", content, f"{root}/more/corpora.tar.gz", "corpora")
    assert cached(fetch("TinySdist", report=lambda _: None)) == CONTENT
    assert not marker.exists()

    # The control: pip left alone does run it.
    assets.subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", "TinySdist",
         "-d", str(tmp_path / "elsewhere")],
        capture_output=True,
    )  # fmt: skip
    assert marker.exists()


@pytest.mark.parametrize("verify", [False, True])
def test_damaged_cache_is_fetched_again(add_wheel, verify):
    add_wheel()
    assert [entry.state for entry in status()] == ["not fetched"]
    folder = fetch("tinywheel", report=lambda _: None)
    damaged = CONTENT["a.txt"].swapcase() if verify else CONTENT["a.txt"][:-1]
    (folder / "a.txt").write_bytes(damaged)
    assert [entry.state for entry in status(verify)] == ["damaged"]
    fetch("tinywheel", report=lambda _: None, verify=verify)
    assert cached(folder) == CONTENT
    assert [entry.state for entry in status(verify=True)] == ["ready"]
    assert visible(folder.parent) == [folder.name]


def test_simultaneous_requests_share_one_download(add_wheel, monkeypatch):
    add_wheel()
    downloads, together = [], threading.Barrier(2)
    real_download, real_status = assets._download, assets._status
    seen = threading.local()

    def status_together(asset, verify):
        state = real_status(asset, verify)
        if not hasattr(seen, "first"):  # both have found the cache empty before either goes on
            seen.first = state
            together.wait(timeout=30)
        return state

    monkeypatch.setattr(assets, "_status", status_together)
    monkeypatch.setattr(assets, "_download", lambda *args: downloads.append(1) or real_download(*args))
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: fetch("tinywheel", report=lambda _: None), range(2)))
    assert folders[0] == folders[1]
    assert cached(folders[0]) == CONTENT
    assert downloads == [1]


def test_wrong_archive_hash(add_wheel, tmp_path):
    add_wheel(sha256="0" * 64)
    with pytest.raises(UserError, match="has not the pinned hash and was not used: check which index"):
        fetch("tinywheel", report=lambda _: None)
    assert visible(tmp_path / "home") == []


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (CONTENT | {"b.bin": b"other"}, r"b\.bin in tinywheel.* is not the pinned file: try again"),
        (CONTENT | {"b.bin": CONTENT["b.bin"] * 9}, r"b\.bin in tinywheel.* is not the pinned file"),
        ({"a.txt": CONTENT["a.txt"]}, r"lacks a file .*tinywheel/model/b\.bin.*: try again"),
    ],
    ids=["other bytes", "too long", "missing"],
)
def test_wrong_member(add_wheel, tmp_path, members, message):
    add_wheel(members)
    with pytest.raises(UserError, match=message):
        fetch("tinywheel", report=lambda _: None)
    assert visible(tmp_path / "home") == []


@pytest.mark.parametrize("kept", [0.3, 0.97])
def test_truncated_archive(add, tmp_path, kept):
    # Incompressible, so that the cut falls into the second file.
    noise = {"a.txt": os.urandom(40_000), "b.bin": os.urandom(40_000)}
    inner = tar({f"corpora/{name}": content for name, content in noise.items()})
    content = tar({
        "cut-1.0/setup.py": b"",
        "cut-1.0/PKG-INFO": b"Metadata-Version: 1.1\nName: cut\nVersion: 1.0\n",
        "cut-1.0/corpora.tar.gz": inner[: int(kept * len(inner))],
    })  # fmt: skip
    files = tuple(File(name, len(data), sha256(data)) for name, data in noise.items())
    add("cut", "cut-1.0.tar.gz", content, "cut-1.0/corpora.tar.gz", "corpora", files=files)
    with pytest.raises(UserError, match=r"cut-1\.0\.tar\.gz (cannot be unpacked|lacks a file) .*: try again"):
        fetch("cut", report=lambda _: None)
    assert visible(tmp_path / "home") == []


def test_full_disk_leaves_the_old_cache(add_wheel, monkeypatch):
    add_wheel()
    folder = fetch("tinywheel", report=lambda _: None)
    (folder / "a.txt").unlink()
    write_bytes = Path.write_bytes

    def full(path, content):
        if path.name == "b.bin":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device.*make room there, or set MIXKD_HOME"):
        fetch("tinywheel", report=lambda _: None)
    assert list(cached(folder)) == ["b.bin"]
    assert visible(folder.parent) == [folder.name]


def test_disk_full_while_pip_writes(add_wheel, monkeypatch):
    add_wheel()
    failed = assets.subprocess.CompletedProcess([], 1, stderr="ERROR: [Errno 28] No space left on device\n")
    monkeypatch.setattr(assets.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(UserError, match="No space left on device.*make room there"):
        fetch("tinywheel", report=lambda _: None)


def test_home_that_cannot_be_a_folder(add_wheel, tmp_path, monkeypatch):
    add_wheel()
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIXKD_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(UserError, match="Not a directory.*set MIXKD_HOME"):
        fetch("tinywheel", report=lambda _: None)


def test_unreachable_index(add_wheel, index, monkeypatch, tmp_path):
    add_wheel()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refuses connections
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
        with pytest.raises(UserError, match=r"cannot be downloaded \(pip: .*tinywheel.*\): check the connection"):
            fetch("tinywheel", report=lambda _: None)
    assert visible(tmp_path / "home") == []


def test_missing_pip(add_wheel, monkeypatch):
    add_wheel()
    monkeypatch.setattr(assets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="run `.*python.* -m ensurepip`, or set MIXKD_HOME"):
        fetch("tinywheel", report=lambda _: None)


def test_default_report_and_cache_folder(add_wheel, monkeypatch, tmp_path, capfd):
    add_wheel()
    monkeypatch.delenv("MIXKD_HOME")
    monkeypatch.setattr(assets.platformdirs, "user_cache_path", lambda name, **_: tmp_path / "cache" / name)
    assert fetch("tinywheel") == tmp_path / "cache" / "mixkd" / "tinywheel-1.0"
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == ["tinywheel: downloading 0 MB", "tinywheel: checking", "tinywheel: ready"]


def test_import_is_light():
    code = "import sys, mixkd.assets; print({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules))"
    run = assets.subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.assets
@pytest.mark.parametrize("name", ["minilm", "vader"])
def test_real_asset(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXKD_HOME", str(tmp_path))
    folder = fetch(name)
    assert {entry.name: entry.state for entry in status(verify=True)}[name] == "ready"
    assert {path.name for path in folder.iterdir()} == {file.name for file in ASSETS[name].files}
    if name == "minilm":
        from transformers import AutoModel, AutoTokenizer

        assert sum(p.numel() for p in AutoModel.from_pretrained(folder).parameters()) == 22_713_216
        assert AutoTokenizer.from_pretrained(folder)("Good").input_ids == [101, 2204, 102]
