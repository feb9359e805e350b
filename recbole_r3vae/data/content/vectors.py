"""Item vectors from a file: an array and a text file of item ids, read through a memory map where the format has one."""

from __future__ import annotations

import json
import logging
import mmap
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch

from recbole_r3vae.errors import UserError, did_you_mean
from recbole_r3vae.io import beside

logger = logging.getLogger(__name__)

ARRAY_KEY = "embeddings"
"""What the item vectors are called in a file that holds several arrays."""

_BLOCK_BYTES = 1 << 20  # of float64: what a processor's cache holds


class VectorFile:
    """One vector per row of a file, and the external item id of each row.

    Of a ``.npy``, ``.safetensors`` or ``.pt`` file only rows asked for are ever read; a ``.npz`` is read whole. Nothing is unpickled beyond
    what ``torch.load(weights_only=True)`` allows.

    Args:
        path: ``[n, d]`` float16, float32 or float64, as ``.npy``; ``.npz`` or ``.pt`` (written by ``torch.save``) with one array or an
            array called ``embeddings`` among others; or ``.safetensors`` with a tensor ``embeddings``.
        ids_path: A UTF-8 text file without a header, one item id per line, in row order. Default: the same
            name with the ending ``.ids``.

    Attributes:
        ids: The item ids, one per row.
        dim: d.
        dtype: What :meth:`unit_blocks` yields: float16 for a float16 file, else float32.

    Raises:
        UserError: a file is missing or damaged, or shape, type, number of ids or their uniqueness is wrong.
    """

    def __init__(self, path: str | os.PathLike, ids_path: str | os.PathLike | None = None) -> None:
        self.path = Path(path)
        self.ids_path = Path(ids_path) if ids_path else beside(self.path, ".ids")
        if not self.path.is_file():
            raise UserError(f"content_file: {self.path} does not exist; give a file ({', '.join(ENDINGS)}) with a vector per item")
        self._array = _map_array(self.path)  # before the ids are asked for, which other formats keep elsewhere
        if not self.ids_path.is_file():
            raise UserError(
                f"content_ids: {self.ids_path} does not exist; give a text file with the item id of each vector, one per line"
            )
        shape, dtype = self._array.shape, self._array.dtype
        if len(shape) != 2 or 0 in shape:
            raise UserError(f"{self.path} has shape {list(shape)}; item vectors must be [items, dimensions]")
        if dtype not in (np.float16, np.float32, np.float64):
            raise UserError(f"{self.path} holds {dtype}; item vectors must be float16, float32 or float64")
        if dtype == np.float64:
            logger.info(f"item vectors: {self.path} holds float64, which is read as float32")
        self.dim = shape[1]
        self.dtype = np.dtype(np.float16 if dtype == np.float16 else np.float32)
        self.ids = self._read_ids()

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.ids)}

    def rows_of(self, item_ids: Sequence[str], optional: bool = False) -> np.ndarray:
        """The rows of given items.

        Args:
            item_ids: External item ids.
            optional: Whether items may be missing, though not all of them.

        Returns:
            int64 ``[len(item_ids)]``, -1 for a missing item.

        Raises:
            UserError: some are not in the file; the message counts them and names three.
        """
        missing = [item for item in item_ids if item not in self._row_of]
        if missing and not (optional and len(missing) < len(item_ids)):
            raise UserError(
                f"{self.ids_path} lacks {len(missing)} of the dataset's {len(item_ids)} items, e.g. "
                f"{', '.join(missing[:3])}; add their vectors, or filter these items out of the dataset"
            )
        return np.fromiter((self._row_of.get(item, -1) for item in item_ids), dtype=np.int64, count=len(item_ids))

    def unit_blocks(self, rows: np.ndarray, parts: Mapping[str, slice] | None = None) -> Iterator[np.ndarray]:
        """The vectors of ``rows``, in that order, scaled to unit norm, a bounded number of bytes at a time.

        Args:
            rows: int64 ``[m]``; -1 gives zeros.
            parts: Where the columns are those of several modalities, the name of each to its columns, from 0 to d. Each is scaled by
                itself; an item may lack some, which are zero then.

        Yields:
            Arrays ``[block, d]`` of type :attr:`dtype`, together ``[m, d]``.

        Raises:
            UserError: a vector has a NaN or an infinity, or is zero; the message names its item.
            ValueError: the parts do not cover the columns.
        """
        if parts and max(columns.stop for columns in parts.values()) != self.dim:
            raise ValueError(f"parts {dict(parts)} do not cover {self.dim} columns")
        step = max(1, _BLOCK_BYTES // (8 * self.dim))
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            there = chosen >= 0
            # float64, since the squares of large float32 values overflow
            block = np.zeros((len(chosen), self.dim), dtype=np.float64)  # [block, d]
            block[there] = _rows(self._array, chosen[there])
            unit_rows(block, parts, lambda row, chosen=chosen: self._named(int(chosen[row])), there)
            yield _half(block) if self.dtype == np.float16 else block.astype(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors at unit norm."""
        return len(self.ids) * self.dim * self.dtype.itemsize

    def let_go(self) -> None:
        """Hand back the pages of a memory map that were read; the system may keep them, this process does not hold them any more."""
        if isinstance(self._array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._array.base.madvise(mmap.MADV_DONTNEED)

    def _named(self, row: int) -> str:
        return f"{self.path}: the vector of item '{self.ids[row]}' (row {row})"

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


def _rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of an array, without a copy where they follow one another."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return array[rows[0] : rows[-1] + 1]
    return array[rows]


def _half(x: np.ndarray) -> np.ndarray:
    """``x.astype(float16)`` of float64, several times faster: through float32, rounded to odd there so that nothing is rounded twice."""
    exact = torch.from_numpy(x)
    single = exact.float()
    back = single.double()
    bits = single.view(torch.int32)  # one less is the next value towards zero
    bits -= (back.abs() > exact.abs()).int()
    bits |= (back != exact).int()
    return single.half().numpy()


class UnitVectors:
    """The vectors of a file at unit norm, below a padding row of zeros: an array ``[1 + n, d]`` of which nothing is held.

    A row is scaled whenever it is read, with the same bits each time. Pages of the file that were read are handed back, so that they do
    not count as this process's memory.

    ``x[10:20]`` and ``x[2:][5:]`` are such arrays again and read nothing; ``x[rows]`` with int64 ``[m]`` and ``numpy.asarray(x)`` read.

    Args:
        file: The vectors.
        rows: Rows of the padded array that this one consists of; default: all.

    Attributes:
        shape: ``(rows, d)``.
        dtype: As :attr:`VectorFile.dtype`.

    Raises:
        UserError: while reading, as :meth:`VectorFile.unit_blocks`.
    """

    ndim = 2

    def __init__(self, file: VectorFile, rows: range | None = None) -> None:
        self.file, self._rows = file, range(1 + len(file.ids)) if rows is None else rows
        self.shape, self.dtype = (len(self._rows), file.dim), file.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: slice | np.ndarray | Sequence[int]) -> UnitVectors | np.ndarray:
        if isinstance(key, slice):
            return UnitVectors(self.file, self._rows[key])
        rows = np.asarray(key)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise TypeError(f"rows of vectors in a file are a slice or whole numbers [m], got {rows.dtype} {list(rows.shape)}")
        if len(rows) and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        return self._read(self._rows.start + self._rows.step * np.where(rows < 0, rows + len(self), rows))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._read(np.arange(self._rows.start, self._rows.stop, self._rows.step)).astype(dtype or self.dtype, copy=False)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """``[m, d]`` of rows of the padded array."""
        x, start = np.empty((len(rows), self.file.dim), self.dtype), 0
        for block in self.file.unit_blocks(rows.astype(np.int64) - 1):  # -1, the padding row, is zeros
            x[start : start + len(block)] = block
            start += len(block)
        self.file.let_go()
        return x


def unit_rows(
    block: np.ndarray, parts: Mapping[str, slice] | None, name: Callable[[int], str], there: np.ndarray | None = None
) -> np.ndarray:
    """Vectors scaled to unit norm.

    Args:
        block: float64 ``[m, d]``, changed in place.
        parts: Columns of each modality, see :meth:`VectorFile.unit_blocks`.
        name: Maps a row to what a message calls its vector.
        there: bool ``[m]``, which rows have a vector; others may be zero. Default: all.

    Returns:
        ``block``.

    Raises:
        UserError: a vector has a NaN or an infinity, or is zero.
    """
    columns = list(parts.values()) if parts else [slice(None)]
    norms = np.stack([np.linalg.norm(block[:, part], axis=1) for part in columns], axis=1)  # [m, parts]
    zero = (norms == 0).all(axis=1)
    for wrong, problem in ((~np.isfinite(norms).all(axis=1), "has a NaN or an infinity"), (zero if there is None else zero & there, "is zero")):
        if wrong.any():
            raise UserError(f"{name(int(wrong.argmax()))} {problem}; every item needs a finite vector with a direction")
    for part, norm in zip(columns, np.where(norms > 0, norms, 1).T):
        block[:, part] /= norm[:, None]
    return block


def _map_array(path: Path) -> np.ndarray:
    """The array in ``path``, a read-only memory map where the format has one."""
    if path.suffix in (".parquet", ".pq"):
        raise UserError(
            f"{path} is Parquet, which is not read; convert it, with the names of your columns for item_id and vector: python -c "
            f"\"import numpy, pandas; t = pandas.read_parquet('{path}'); numpy.save('{path.with_suffix('.npy')}', "
            f"numpy.stack(t['vector']).astype('float32')); print(*t['item_id'], sep='\\n', file=open('{path.with_suffix('.ids')}', 'w'))\""
        )
    if path.suffix not in _READERS:
        raise UserError(f"{path} ends in '{path.suffix}'; item vectors must be a file that ends in {', '.join(ENDINGS)}")
    try:
        return _READERS[path.suffix](path)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each format, zip and pickle among them, has its own for a damaged file
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged or not what its name says ({reason}); write it again") from error


def _map_npy(path: Path) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="r")  # never unpickles: refuses arrays of objects


def _map_safetensors(path: Path) -> np.ndarray:
    with safetensors.safe_open(path, framework="numpy") as file:  # checks header and length
        if ARRAY_KEY not in file.keys():
            raise UserError(f"{path} has no tensor '{ARRAY_KEY}'; it has {sorted(file.keys())}")
    # safe_open copies a whole tensor or one slice at a time, while gathering rows needs a map. The layout is:
    # the length of the header in 8 bytes, the header as JSON, the tensors.
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[ARRAY_KEY]
    dtype = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}.get(entry["dtype"])
    if dtype is None:
        raise UserError(f"{path} holds {entry['dtype']}; item vectors must be float16, float32 or float64")
    if 0 in entry["shape"]:
        return np.empty(entry["shape"], dtype)  # nothing to map
    offset = 8 + length + entry["data_offsets"][0]
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=tuple(entry["shape"]))


def _read_npz(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        return file[_only_key(path, file.files)]


def _map_torch(path: Path) -> np.ndarray:
    # mmap also refuses files from before torch 1.6, whose reader had faults that weights_only does not cover
    stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if isinstance(stored, Mapping):
        stored = stored[_only_key(path, stored)]
    if not isinstance(stored, torch.Tensor) or stored.layout != torch.strided:
        kind = str(stored.layout) if isinstance(stored, torch.Tensor) else type(stored).__name__
        raise UserError(f"{path} holds a {kind}; write one dense tensor, or a dictionary with a tensor '{ARRAY_KEY}'")
    stored = stored.detach()
    array = (stored.float() if stored.dtype == torch.bfloat16 else stored).numpy()
    array.flags.writeable = False
    return array


def _only_key(path: Path, keys: Collection[str]) -> str:
    """The name of the vectors among the arrays of a file."""
    if ARRAY_KEY in keys:
        return ARRAY_KEY
    if len(keys) != 1:
        hint = did_you_mean(ARRAY_KEY, map(str, keys))
        raise UserError(f"{path} holds {sorted(map(str, keys))}; write one array, or call one of them '{ARRAY_KEY}'{hint}")
    return next(iter(keys))


_READERS = {".npy": _map_npy, ".safetensors": _map_safetensors, ".npz": _read_npz, ".pt": _map_torch}
ENDINGS = tuple(_READERS)
"""Endings of files that item vectors are read from."""
