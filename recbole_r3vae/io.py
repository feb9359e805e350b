"""Files that are either absent or whole, and locks between processes."""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from recbole_r3vae.errors import UserError

try:
    import fcntl
except ModuleNotFoundError:  # not a POSIX system: there, what killed writers left stays
    fcntl = None


def beside(path: str | os.PathLike, ending: str) -> Path:
    """The file that belongs to another one: the same name with another ending, such as ``.ids``.

    Raises:
        UserError: ``path`` is none of a file.
    """
    path = Path(path)
    if not path.name or path.name == "..":
        raise UserError(f"{str(path)!r} names no file; give a file's path")
    return path.with_suffix(ending)


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
            if fcntl is not None:  # under the lock: without it, another writer would take the file for a leftover
                _put(temporary, path)
        if fcntl is None:  # where a file that is open cannot be renamed
            _put(temporary, path)
        temporary = None
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; check free space and permissions, or choose another folder"
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


@contextmanager
def temporary_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder beside ``path``, in which to make several files that are then renamed to their places. What is left in it goes at the end.

    Such folders that killed writers of ``path`` left are removed first.

    Args:
        path: What is to be written; its own folder is made if it does not exist.

    Yields:
        The temporary folder, which may be renamed too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    while True:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        lock = _locked(os.open(folder, os.O_RDONLY)) if fcntl else None
        if fcntl is None or lock is not None:
            break
    try:
        os.chmod(folder, 0o777 & ~_umask())
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _put(temporary: str, path: Path) -> None:
    os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files; artefacts follow the user's umask
    os.replace(temporary, path)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _locked(descriptor: int) -> int | None:
    """Lock what was just made, until its descriptor is closed or the process ends; ``None`` if another writer took it for a leftover."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    if os.fstat(descriptor).st_nlink:
        return descriptor
    os.close(descriptor)
    return None


def _locked_temporary(path: Path) -> tuple[int, str]:
    """A new file beside ``path``, open and locked: the lock, which ends with the process, says that it is being written."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        if fcntl is None or _locked(descriptor) is not None:
            return descriptor, name


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files and folders of ``path`` whose writers were killed."""
    if fcntl is None:
        return
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        try:
            descriptor = os.open(leftover, os.O_RDONLY)
        except OSError:  # another one has just removed it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        except OSError:  # someone writes it now, or removes it
            continue
        finally:
            os.close(descriptor)


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


def write_json(path: str | os.PathLike, values: dict[str, Any]) -> None:
    """Write plain data as indented JSON, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(values, file, indent=2, ensure_ascii=False, default=float)
        file.write("\n")
