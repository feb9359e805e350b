"""Files that are either absent or whole, and locks between processes."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock

from recbole_r3vae.errors import UserError

try:
    import fcntl
except ModuleNotFoundError:  # not a POSIX system: there, what killed writers left stays
    fcntl = None


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside ``path`` and rename it over ``path`` when the block ends without an error.

    A reader, or a run that resumes after a crash, therefore sees the old file or the new one, never a part of it. Temporary files that
    killed writers of ``path`` left are removed.

    Args:
        path: The file to write; its folder is made if it does not exist.
        mode: ``"w"`` (UTF-8 text with ``\\n`` line ends) or ``"wb"``.

    Yields:
        The open temporary file.

    Raises:
        UserError: the folder cannot be written to, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        descriptor, temporary = _locked_temporary(path)
        with os.fdopen(descriptor, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; artefacts follow the user's umask
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; check free space and permissions, or choose another folder"
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _locked_temporary(path: Path) -> tuple[int, str]:
    """A new file beside ``path``, open and locked: the lock, which ends with the process, says that it is being written."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        if fcntl is None:
            return descriptor, name
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, name
        os.close(descriptor)  # another writer took it for a leftover before it was locked


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of ``path`` whose writers were killed."""
    if fcntl is None:
        return
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        try:
            with open(leftover, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()
        except OSError:  # someone writes it now, or has just removed it
            continue


@contextmanager
def locked(path: str | os.PathLike, key: str) -> Iterator[None]:
    """Keep other processes out of a block that is guarded by the same file, waiting for one that is in it.

    Args:
        path: The lock file; its folder is made if it does not exist. It stays, empty; a killed process no longer holds it.
        key: The setting that names the folder, for the message.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    path = Path(path)
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(f"{key}: cannot write to {path.parent}: {error.strerror or error}; choose another folder") from error
    try:
        yield
    finally:
        lock.release()
