"""A file is whole or absent, whatever happens to its writer, and nothing of a dead writer stays."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from recbole_r3vae import io
from recbole_r3vae.cli import main
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write, locked


def in_a_fork(action) -> int:
    """Run a function in a process of its own; how that process ended, as ``subprocess`` counts."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_and_die():
    with atomic_write("a.txt") as file:
        file.write("half of it")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def names() -> list[str]:
    return sorted(path.name for path in Path(".").iterdir())


def test_what_a_killed_writer_left_goes_with_the_next_write():
    Path("a.txt").write_text("old")
    Path(".b.txt.x.tmp").write_text("of another file")
    assert in_a_fork(write_and_die) == -signal.SIGKILL
    assert Path("a.txt").read_text() == "old" and len(names()) == 3
    with atomic_write("a.txt") as file:
        file.write("new")
    assert Path("a.txt").read_text() == "new" and names() == [".b.txt.x.tmp", "a.txt"]


def test_a_living_writers_temporary_file_is_left_alone():
    with atomic_write("a.txt") as file:
        file.write("first")
        with atomic_write("a.txt") as other:
            other.write("second")
        assert Path("a.txt").read_text() == "second"
    assert Path("a.txt").read_text() == "first" and names() == ["a.txt"]


@pytest.mark.skipif(io.fcntl is None, reason="locks of temporary files are POSIX's")
def test_a_finished_temporary_file_is_no_leftover_until_it_is_in_its_place(monkeypatch):
    replace = os.replace

    def another_writer_first(temporary, path):
        io._remove_leftovers(Path(path))
        replace(temporary, path)

    monkeypatch.setattr(io.os, "replace", another_writer_first)
    with atomic_write("a.txt") as file:
        file.write("whole")
    assert Path("a.txt").read_text() == "whole" and names() == ["a.txt"]


def no_space(*given, **named):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_one_line(monkeypatch, where):
    Path("a.txt").write_text("old")
    monkeypatch.setattr(io.os, where, no_space)
    with pytest.raises(UserError, match="cannot write a.txt: No space left on device; check free space"):
        with atomic_write("a.txt") as file:
            file.write("new")
    assert Path("a.txt").read_text() == "old" and names() == ["a.txt"]


def test_a_folder_that_refuses_files_is_one_line(monkeypatch):
    def refuse(*given, **named):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(io.tempfile, "mkstemp", refuse)
    with pytest.raises(UserError, match="cannot write a.txt: Permission denied; check free space and permissions"):
        with atomic_write("a.txt"):
            pass
    monkeypatch.setattr(io.FileLock, "acquire", refuse)
    with pytest.raises(UserError, match="checkpoint_dir: cannot write to .*saved: Permission denied; choose another folder"):
        with locked("saved/x.lock", "checkpoint_dir"):
            pass


def test_a_system_error_without_a_message_of_ours_is_one_line_too(monkeypatch, capfd):
    import recbole_r3vae.quick_start.launch as module

    monkeypatch.setattr(module, "run_recbole_r3vae", no_space)
    assert main(["run", "--model=R3GR", "--dataset=tiny"]) == 2
    assert capfd.readouterr().err == "recbole-r3vae: No space left on device; check the path, its permissions and the free space\n"


def test_a_lock_ends_with_its_process():
    def hold_and_die():
        with locked("x.lock", "checkpoint_dir"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_fork(hold_and_die) == -signal.SIGKILL
    with locked("x.lock", "checkpoint_dir"):
        pass


def test_what_a_killed_writer_left_of_a_folder_goes_with_the_next_one():
    def write_and_die():
        with io.temporary_folder("out/data") as folder:
            (folder / "half.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_fork(write_and_die) == -signal.SIGKILL
    assert len(list(Path("out").iterdir())) == 1
    with io.temporary_folder("out/data") as folder, io.temporary_folder("out/data") as another:
        assert folder.is_dir() and another.is_dir()  # a living writer's stays
        (folder / "a.txt").write_text("whole")
        folder.rename("out/data")
    assert [path.name for path in Path("out").iterdir()] == ["data"] and Path("out/data/a.txt").read_text() == "whole"
