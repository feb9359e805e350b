"""The cache of item vectors: memory-mapped arrays, each checked against its hash before it is used."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from recbole_r3vae.data.content.encoders import ItemEncoder, load_item_encoder, save_item_encoder
from recbole_r3vae.io import atomic_write, locked

logger = logging.getLogger(__name__)

_SCHEMA = 1


def hash_json(value: Any) -> str:
    """Hex sha256 of plain data; equal data gives equal hashes on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class CachedVectors:
    """What an entry holds: mapped vectors ``[n, d]``, plain data about them, their text encoder if any."""

    vectors: np.ndarray
    meta: dict[str, Any]
    item_encoder: ItemEncoder | None


class CacheEntry:
    """One entry: ``<key>.npy``, ``<key>.json``, and for text ``<key>.safetensors`` and ``<key>.vocab.json``.

    ``<key>.json`` is written last, with the hashes of the others. Until it is there, and whenever a hash
    differs, there is no entry: a killed run, a full disk or a damaged file costs one more encoding and
    nothing else.

    Args:
        folder: The cache; made when it is first written to.
        key: A hash of everything that the vectors depend on.
    """

    def __init__(self, folder: str | os.PathLike, key: str) -> None:
        self.folder, self.key = Path(folder), key
        self.vectors_path, self.json_path = self._path(".npy"), self._path(".json")
        self._encoder_paths = self._path(".safetensors"), self._path(".vocab.json")

    def _path(self, ending: str) -> Path:
        return self.folder / f"{self.key}{ending}"

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes from writing the same entry, waiting for one that does.

        Raises:
            UserError: the folder cannot be made or written to.
        """
        return locked(self._path(".lock"), "content_cache_dir")

    def read(self) -> CachedVectors | None:
        """The entry, or ``None`` when there is none or a file of it is not as it was written."""
        try:
            stored = json.loads(self.json_path.read_text(encoding="utf-8"))
            if stored["schema"] != _SCHEMA:
                return None
            if hash_json(stored["meta"]) != stored["sha256"]["meta"]:
                raise ValueError("its own data has changed")
            for path in self._files(stored["text"]):
                if _hash_file(path) != stored["sha256"][path.name]:
                    raise ValueError(f"{path.name} has changed")
            item_encoder = load_item_encoder(*self._encoder_paths) if stored["text"] else None
            return CachedVectors(self._map(), stored["meta"], item_encoder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.debug(f"no usable cache entry {self.json_path}: {error!r}")
            return None

    def write_vectors(self, n: int, blocks: Iterator[np.ndarray]) -> np.ndarray:
        """Write the vectors, never holding more than one block of them.

        Args:
            n: Number of rows.
            blocks: Arrays ``[m, d]`` of one type, together ``[n, d]``.

        Returns:
            The vectors as a read-only memory map ``[n, d]``.
        """
        first = next(blocks)
        header = {
            "descr": np.lib.format.dtype_to_descr(first.dtype),
            "fortran_order": False,
            "shape": (n, first.shape[1]),
        }
        with atomic_write(self.vectors_path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in chain([first], blocks):
                file.write(np.ascontiguousarray(block).data)
        return self._map()

    def commit(self, meta: dict[str, Any], item_encoder: ItemEncoder | None) -> None:
        """Store what belongs to the vectors, and thereby make the entry valid.

        Args:
            meta: Plain data about the vectors, given back by :meth:`read`.
            item_encoder: The fitted text encoder; ``None`` when the vectors came from a file.
        """
        text = item_encoder is not None
        if text:
            save_item_encoder(item_encoder, *self._encoder_paths)
        hashes = {"meta": hash_json(meta), **{path.name: _hash_file(path) for path in self._files(text)}}
        with atomic_write(self.json_path) as file:
            json.dump({"schema": _SCHEMA, "meta": meta, "text": text, "sha256": hashes}, file, indent=1)

    def _files(self, text: bool) -> tuple[Path, ...]:
        return (self.vectors_path, *self._encoder_paths) if text else (self.vectors_path,)

    def _map(self) -> np.ndarray:
        return np.lib.format.open_memmap(self.vectors_path, mode="r")


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
