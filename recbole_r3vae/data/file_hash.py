"""The hash of a file, by what it holds."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from recbole_r3vae.errors import UserError


def sha256_of(path: Path) -> str:
    """Of a file's content, read once however many cells ask.

    Raises:
        UserError: it cannot be read.
    """
    try:
        status = path.stat()
        return _sha256_of(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error


@functools.cache
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    """Read once for all cells; across invocations and machines only the content counts, never when it was written."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
