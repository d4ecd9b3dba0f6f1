import errno
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from mixkd.store import Store, UserError, atomic_path, write_text


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_write_and_overwrite(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "first")
    write_text(path, "zweite Fassung, größer")
    assert path.read_text(encoding="utf-8") == "zweite Fassung, größer"
    assert files(tmp_path) == {"new/file.txt"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_in_the_middle_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        assert path.read_text() == "old" and temporary.parent.parent == tmp_path
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_replaced_as_a_whole(tmp_path):
    path = tmp_path / "model"
    for name in ("first", "second"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert files(tmp_path) == {"model/second"}
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "third").write_text("")
        raise RuntimeError
    assert files(tmp_path) == {"model/second"} and list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_disk_before_the_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "file.txt", []
    fsync = os.fsync

    def spy(descriptor):
        synced.append((os.fstat(descriptor).st_size, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write_text(path, "content")
    assert (7, False) in synced


def test_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"Cannot write .*file\.txt: No space left on device\. Free some space"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_outgrows_the_limit(tmp_path):
    """The operating system itself refuses to write on, in a process of its own."""
    path = tmp_path / "file.txt"
    write_text(path, "old")
    code = """
        import resource, sys
        from pathlib import Path
        from mixkd.store import UserError, write_text
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            write_text(Path(sys.argv[1]), "x" * 1000)
        except UserError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), path], capture_output=True, text=True)
    assert done.stdout.startswith(f"Cannot write {path}: File too large."), done.stderr
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write .*Not a directory|Cannot write .*File exists"):
        write_text(tmp_path / "file" / "child", "text")
    with pytest.raises(UserError, match="Cannot use .* as a store"), Store(tmp_path / "file").lock("a"):
        pass


def test_many_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "file.txt"
    texts = [str(number) * 20_000 for number in range(8)]
    threads = [threading.Thread(target=write_text, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts and list(tmp_path.iterdir()) == [path]
