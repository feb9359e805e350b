"""Item vectors from a file: an array and a text file of item ids, read through a memory map."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors

from recbole_r3vae.errors import UserError
from recbole_r3vae.io import beside

SAFETENSORS_KEY = "embeddings"
_BLOCK_BYTES = 16 << 20


class VectorFile:
    """One vector per row of a file, and the external item id of each row. Only rows asked for are ever read.

    Args:
        path: ``.npy``, or ``.safetensors`` with a tensor ``embeddings``; ``[n, d]`` float16, float32 or
            float64.
        ids_path: A UTF-8 text file without a header, one item id per line, in row order. Default: the same
            name with the ending ``.ids``.

    Attributes:
        ids: The item ids, one per row.
        dtype: What :meth:`unit_blocks` yields: float16 for a float16 file, else float32.

    Raises:
        UserError: a file is missing or damaged, or shape, type, number of ids or their uniqueness is wrong.
    """

    def __init__(self, path: str | os.PathLike, ids_path: str | os.PathLike | None = None) -> None:
        self.path = Path(path)
        self.ids_path = Path(ids_path) if ids_path else beside(self.path, ".ids")
        for file, key, content in (
            (self.path, "content_file", "a .npy or .safetensors file with a vector per item"),
            (self.ids_path, "content_ids", "a text file with the item id of each vector, one per line"),
        ):
            if not file.is_file():
                raise UserError(f"{key}: {file} does not exist; give {content}")
        self._array = _map_array(self.path)
        shape, dtype = self._array.shape, self._array.dtype
        if len(shape) != 2 or 0 in shape:
            raise UserError(f"{self.path} has shape {list(shape)}; item vectors must be [items, dimensions]")
        if dtype not in (np.float16, np.float32, np.float64):
            raise UserError(f"{self.path} holds {dtype}; item vectors must be float16 or float32")
        self.dtype = np.dtype(np.float16 if dtype == np.float16 else np.float32)
        self.ids = self._read_ids()

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.ids)}

    def rows_of(self, item_ids: Sequence[str]) -> np.ndarray:
        """The rows of given items.

        Args:
            item_ids: External item ids.

        Returns:
            int64 ``[len(item_ids)]``.

        Raises:
            UserError: some are not in the file; the message counts them and names three.
        """
        missing = [item for item in item_ids if item not in self._row_of]
        if missing:
            raise UserError(
                f"{self.ids_path} lacks {len(missing)} of the dataset's {len(item_ids)} items, e.g. "
                f"{', '.join(missing[:3])}; add their vectors, or filter these items out of the dataset"
            )
        return np.fromiter((self._row_of[item] for item in item_ids), dtype=np.int64, count=len(item_ids))

    def unit_blocks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The vectors of ``rows``, in that order, scaled to unit norm, a bounded number of bytes at a time.

        Args:
            rows: int64 ``[m]``.

        Yields:
            Arrays ``[block, d]`` of type :attr:`dtype`, together ``[m, d]``.

        Raises:
            UserError: a vector has a NaN or an infinity, or is zero; the message names its item.
        """
        step = max(1, _BLOCK_BYTES // (8 * self._array.shape[1]))
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            # float64, since the squares of large float32 values overflow
            block = np.asarray(self._array[chosen], dtype=np.float64)  # [block, d]
            norms = np.linalg.norm(block, axis=1, keepdims=True)  # [block, 1]
            self._refuse(~np.isfinite(norms[:, 0]), chosen, "has a NaN or an infinity")
            self._refuse(norms[:, 0] == 0, chosen, "is zero")
            yield (block / norms).astype(self.dtype)

    def _refuse(self, wrong: np.ndarray, rows: np.ndarray, problem: str) -> None:
        if wrong.any():
            row = int(rows[wrong.argmax()])
            raise UserError(
                f"{self.path}: the vector of item '{self.ids[row]}' (row {row}) {problem}; "
                "every item needs a finite vector with a direction"
            )

    def _read_ids(self) -> list[str]:
        try:
            with open(self.ids_path, encoding="utf-8-sig") as file:
                ids = [line.rstrip("\n") for line in file]
        except UnicodeDecodeError as error:
            raise UserError(f"{self.ids_path} is not UTF-8 text; write one item id per line") from error
        if len(ids) != len(self._array):
            raise UserError(
                f"{self.ids_path} has {len(ids)} lines for the {len(self._array)} rows of {self.path}; "
                "write one item id per row, without a header"
            )
        seen: set[str] = set()
        for line, item in enumerate(ids, start=1):
            if not item or item in seen:
                problem = f"names item '{item}' twice" if item else "has an empty item id"
                raise UserError(f"{self.ids_path}, line {line}: {problem}; every row needs its own item id")
            seen.add(item)
        return ids


def _map_array(path: Path) -> np.ndarray:
    """A read-only memory map of the array in ``path``."""
    try:
        if path.suffix == ".npy":
            return np.lib.format.open_memmap(path, mode="r")  # never unpickles: refuses arrays of objects
        if path.suffix == ".safetensors":
            return _map_safetensors(path)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged or not what its name says ({reason}); write it again") from error
    raise UserError(f"{path} ends in '{path.suffix}'; item vectors must be a .npy or .safetensors file")


def _map_safetensors(path: Path) -> np.ndarray:
    with safetensors.safe_open(path, framework="numpy") as file:  # checks header and length
        if SAFETENSORS_KEY not in file.keys():
            raise UserError(f"{path} has no tensor '{SAFETENSORS_KEY}'; it has {sorted(file.keys())}")
    # safe_open copies a whole tensor or one slice at a time, while gathering rows needs a map. The layout is:
    # the length of the header in 8 bytes, the header as JSON, the tensors.
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[SAFETENSORS_KEY]
    dtype = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}.get(entry["dtype"])
    if dtype is None:
        raise UserError(f"{path} holds {entry['dtype']}; item vectors must be float16 or float32")
    if 0 in entry["shape"]:
        return np.empty(entry["shape"], dtype)  # nothing to map
    offset = 8 + length + entry["data_offsets"][0]
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=tuple(entry["shape"]))
