"""Files that are either absent or whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from recbole_r3vae.errors import UserError


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside ``path`` and rename it over ``path`` when the block ends without an error.

    A reader, or a run that resumes after a crash, therefore sees the old file or the new one, never a part of it.

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
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
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
