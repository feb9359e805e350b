"""Item content: one unit vector per item, from its text or from a file, cached on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from recbole_r3vae.data.content.cache import CacheEntry, hash_json
from recbole_r3vae.data.content.encoders import ItemEncoder, SentenceTransformerEncoder, TextEncoder, TfidfSvdEncoder
from recbole_r3vae.data.content.text import item_texts, text_fields
from recbole_r3vae.data.content.vectors import VectorFile
from recbole_r3vae.errors import UserError, nearest

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.dataset import Dataset

logger = logging.getLogger(__name__)

PADDING = "[PAD]"
_TEXTS_PER_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class ItemContent:
    """One vector per item, and where the vectors come from.

    Attributes:
        embeddings: float32 or float16 ``[n_items, d]``, in memory or a read-only memory map; unit rows, but
            row 0 (padding) is zero.
        item_ids: External item id of each row; ``item_ids[0]`` is ``"[PAD]"``.
        encoder: Where the vectors come from, as plain JSON: ``kind`` and its settings.
        content_hash: Identifies the vectors: hex sha256 over items, texts and encoder settings, or over items
            and the vectors of a file.
        item_encoder: Encodes new items alike; ``None`` when the vectors came from a file.
    """

    embeddings: np.ndarray = field(repr=False)
    item_ids: list[str] = field(repr=False)
    encoder: dict[str, Any]
    content_hash: str
    item_encoder: ItemEncoder | None = field(default=None, repr=False)


def load_content(dataset: Dataset, config: Config) -> ItemContent:
    """The vectors of a RecBole dataset's items, encoded once and then read from the cache.

    Interactions are never looked at. The keys of ``config`` that are read:

    * ``content_encoder``: ``tfidf-svd`` (default), ``sentence-transformers/<name>`` or ``file``;
    * ``content_cache_dir``: a folder; without one the vectors are held in memory and made anew each time;
    * for text, ``item_text_fields``: the fields to join, in order; those that the dataset lacks are skipped;
    * for ``tfidf-svd``, ``content_dim``: the length of the vectors (default 256);
    * for ``file``, ``content_file`` and ``content_ids``: see :class:`~recbole_r3vae.data.content.vectors.VectorFile`;
    * for ``sentence-transformers``, ``device``; ``show_progress`` for a bar.

    Args:
        dataset: A loaded RecBole dataset, before or after ``build()``.
        config: A RecBole ``Config``, or anything that gives ``None`` for a key it does not have.

    Returns:
        The content, in the dataset's internal item order.

    Raises:
        UserError: unknown encoder, no usable text, or a vector file that does not fit the dataset.
    """
    item_ids = [str(item) for item in dataset.field2id_token[dataset.iid_field]]
    cache_dir = config["content_cache_dir"]
    if len(item_ids) < 2:
        raise UserError(f"dataset '{dataset.dataset_name}' has no items left; loosen its filters")
    if config["content_encoder"] == "file":
        if not config["content_file"]:
            raise UserError("content_encoder: file needs content_file; give content_file: <vectors.npy or .safetensors>")
        return _file_content(config["content_file"], config["content_ids"], cache_dir, item_ids)

    encoder = _text_encoder(config)
    asked = config["item_text_fields"] or []
    fields = text_fields(dataset, [asked] if isinstance(asked, str) else asked)
    texts = item_texts(dataset, fields)[1:]
    content_hash = hash_json([encoder.settings(), fields, item_ids, texts])

    def encode() -> _Source:
        empty = sum(not text for text in texts)
        if empty:
            logger.warning(f"item content: {empty} of {len(texts)} items have no text in {fields}")
        encoder.fit(texts)
        starts = range(0, len(texts), _TEXTS_PER_BLOCK)
        starts = tqdm(starts, desc="Encode item text", ncols=100, disable=not config["show_progress"])
        blocks = (encoder.transform(texts[start : start + _TEXTS_PER_BLOCK]) for start in starts)
        item_encoder = ItemEncoder(encoder, tuple(fields))
        return _Source(blocks, {**encoder.settings(), "fields": fields}, item_encoder, content_hash)

    return _load_or_make(cache_dir, content_hash, item_ids, encode)


def content_from_vectors(
    vectors_path: str | os.PathLike,
    ids_path: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> ItemContent:
    """Item content from vectors and ids alone, without any RecBole dataset; items keep the order of the file.

    Args:
        vectors_path: ``.npy`` or ``.safetensors``, see :class:`~recbole_r3vae.data.content.vectors.VectorFile`.
        ids_path: One item id per line. Default: the same name with the ending ``.ids``.
        cache_dir: Where a unit-norm copy is kept, written block by block and memory-mapped: give one for
            vectors larger than memory. Without one the vectors are held in memory.

    Returns:
        The content; the file's first item is row 1, after the padding row.

    Raises:
        UserError: the files are missing, damaged, or do not fit together.
    """
    return _file_content(vectors_path, ids_path, cache_dir, None)


def save_encoder(folder: str | os.PathLike, content: ItemContent) -> None:
    """Put the content's text encoder into a folder: ``item_encoder.safetensors`` and ``item_encoder.json``.

    Args:
        folder: For instance a checkpoint's; made if it does not exist.
        content: What :func:`load_content` returned.

    Raises:
        UserError: the vectors came from a file, so there is no encoder; or the folder cannot be written.
    """
    if content.item_encoder is None:
        raise UserError("these item vectors came from a file, so there is no text encoder to save; encode texts instead")
    content.item_encoder.save(*_encoder_files(Path(folder)))


def load_encoder(folder: str | os.PathLike) -> ItemEncoder:
    """The text encoder that :func:`save_encoder` put into a folder, to encode new items as the old ones were.

    Args:
        folder: As given to :func:`save_encoder`.

    Returns:
        The encoder with the item fields it reads.

    Raises:
        UserError: it is not there, or damaged.
    """
    return ItemEncoder.load(*_encoder_files(Path(folder)))


def _encoder_files(folder: Path) -> tuple[Path, Path]:
    return folder / "item_encoder.safetensors", folder / "item_encoder.json"


def _text_encoder(config: Config) -> TextEncoder:
    name = str(config["content_encoder"] or TfidfSvdEncoder.kind)
    if name == TfidfSvdEncoder.kind:
        dim = config["content_dim"]
        return TfidfSvdEncoder() if dim is None else TfidfSvdEncoder(dim)
    if name.startswith(f"{SentenceTransformerEncoder.kind}/"):
        return SentenceTransformerEncoder(name, device=str(config["device"]) if config["device"] else None)
    choices = [TfidfSvdEncoder.kind, "file", f"{SentenceTransformerEncoder.kind}/<name>"]
    raise UserError(f"unknown content_encoder '{name}'; choose {', '.join(choices)}{nearest(name, choices)}")


def _file_content(path, ids_path, cache_dir, item_ids: list[str] | None) -> ItemContent:
    """Vectors from a file for the given items (``[PAD]`` first), or for all of the file's own."""
    vectors = VectorFile(path, ids_path)
    if item_ids is None:
        item_ids, rows = [PADDING, *vectors.ids], np.arange(len(vectors.ids))
    else:
        rows = vectors.rows_of(item_ids[1:])
    # A file larger than memory should not be read only to know whether it was read before: its name, size and
    # time stand for it in the cache's key. The content hash is taken from the vectors themselves.
    stat = vectors.path.stat()
    rows_hash = hashlib.sha256(rows.tobytes()).hexdigest()
    key = hash_json([str(vectors.path.resolve()), stat.st_size, stat.st_mtime_ns, item_ids, rows_hash])

    def read() -> _Source:
        return _Source(vectors.unit_blocks(rows), {"kind": "file", "file": vectors.path.name})

    return _load_or_make(cache_dir, key, item_ids, read)


@dataclass(frozen=True)
class _Source:
    """Vectors about to be made."""

    blocks: Iterator[np.ndarray]  # [m, d] each, together all items but the padding one
    encoder: dict[str, Any]
    item_encoder: ItemEncoder | None = None
    content_hash: str | None = None  # None: to be taken from the vectors


def _load_or_make(cache_dir, key: str, item_ids: list[str], make: Callable[[], _Source]) -> ItemContent:
    """The cache's entry, or a new one; of several processes one makes it and the others wait for it."""
    if not cache_dir:
        return _make(None, item_ids, make)
    entry = CacheEntry(cache_dir, key)
    content = _read(entry, item_ids)
    if content is None:
        with entry.lock():
            content = _read(entry, item_ids)
            if content is None:
                if entry.json_path.is_file():
                    logger.warning(f"item content: {entry.json_path} is damaged or outdated; it is made anew")
                content = _make(entry, item_ids, make)
    return content


def _read(entry: CacheEntry, item_ids: list[str]) -> ItemContent | None:
    cached = entry.read()
    if cached is None:
        return None
    encoder, content_hash = cached.meta["encoder"], cached.meta["content_hash"]
    content = ItemContent(cached.vectors, item_ids, encoder, content_hash, cached.item_encoder)
    logger.info(f"item content: {_summary(content)}, from the cache {entry.vectors_path}")
    return content


def _make(entry: CacheEntry | None, item_ids: list[str], make: Callable[[], _Source]) -> ItemContent:
    start = time.perf_counter()
    source, digest = make(), hashlib.sha256()
    blocks = _padded_and_hashed(source.blocks, digest)
    if entry is None:
        embeddings = np.concatenate(list(blocks))
    else:
        embeddings = entry.write_vectors(len(item_ids), blocks)
    content_hash = source.content_hash or hash_json([item_ids, str(embeddings.dtype), digest.hexdigest()])
    if entry is not None:
        entry.commit({"encoder": source.encoder, "content_hash": content_hash}, source.item_encoder)
    content = ItemContent(embeddings, item_ids, source.encoder, content_hash, source.item_encoder)
    logger.info(f"item content: {_summary(content)}, made in {time.perf_counter() - start:.1f} s")
    return content


def _padded_and_hashed(blocks: Iterator[np.ndarray], digest) -> Iterator[np.ndarray]:
    """The blocks with the padding item's zero row in front; ``digest`` sees all of them pass."""
    first = next(blocks)
    for block in chain([np.zeros_like(first[:1]), first], blocks):
        digest.update(np.ascontiguousarray(block).data)
        yield block


def _summary(content: ItemContent) -> str:
    n_items, dim = content.embeddings.shape
    origin = content.encoder.get("fields") or [content.encoder["file"]]
    return f"{n_items - 1} items x {dim} ({content.encoder['kind']}: {', '.join(origin)})"
