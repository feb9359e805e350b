"""Item content of a dataset: each modality from its texts or its file, all in one matrix, cached on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from recbole_r3vae.data.content.cache import CacheEntry, hash_json
from recbole_r3vae.data.content.encoders import ItemEncoder, ModalityEncoders, load_item_encoder, save_item_encoder
from recbole_r3vae.data.content.item_content import ItemContent, PartSource, content_of, encoder_of, hash_of, row_blocks
from recbole_r3vae.data.content.modalities import CONTENT_KEYS, Modality, modalities
from recbole_r3vae.data.content.text import item_texts, text_fields, text_template
from recbole_r3vae.data.content.vectors import UnitVectors, VectorFile
from recbole_r3vae.errors import UserError

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.dataset import Dataset

logger = logging.getLogger(__name__)

PADDING = "[PAD]"
_TEXTS_PER_BLOCK = 1024
_BLOCKS_PER_VISIT = 64  # of a vector file, until its pages are handed back
HELD_BYTES = 2**29
"""Unit vectors from a file that are held in memory where no cache is given."""


class ContentLoader:
    """Item content of one dataset, made once for all stages of a run that ask with the same settings, with and without a cache folder.

    Args:
        dataset: A loaded RecBole dataset, before or after ``build()``, whose items stay as they are.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._contents: dict[str, ItemContent] = {}

    def load(self, config: Config, names: Iterable[str] = ()) -> ItemContent:
        """The content that a stage's settings ask for.

        Args:
            config: The stage's, see :func:`load_content`.
            names: Modalities to take of it; none means all.

        Returns:
            The content, in the dataset's internal item order.

        Raises:
            UserError: as :func:`load_content`, or there is no such modality.
        """
        settings = repr([config[key] for key in CONTENT_KEYS])
        if settings not in self._contents:
            self._contents[settings] = load_content(self._dataset, config)
        return self._contents[settings].take(names)


def load_content(dataset: Dataset, config: Config, learn: Callable[[Modality], ItemContent] | None = None) -> ItemContent:
    """The vectors of a RecBole dataset's items, encoded once and then read from the cache.

    Interactions are never looked at here. The keys of ``config`` that are read:

    * ``content_encoder``, and the keys that it falls back on: see :func:`~recbole_r3vae.data.content.modalities.modalities`;
    * ``content_cache_dir``: a folder; without one the vectors are held in memory and made anew each time. Each modality has an entry in it,
      and several have one more for all of them side by side;
    * for ``sentence-transformers``, ``device``; ``show_progress`` for a bar.

    Args:
        dataset: A loaded RecBole dataset, before or after ``build()``.
        config: A RecBole ``Config``, or anything that gives ``None`` for a key it does not have.
        learn: Makes the content, of one part, of a modality that is learned from the training split, as
            :func:`recbole_r3vae.quick_start.collaborative.item_content` has it; ``None`` refuses such modalities.

    Returns:
        The content, in the dataset's internal item order.

    Raises:
        UserError: ``content_encoder`` is unusable, there is no usable text, a vector file does not fit the dataset, or an item has no
            vector in any modality.
    """
    chosen = modalities(config)
    item_ids = [str(item) for item in dataset.field2id_token[dataset.iid_field]]
    cache_dir = config["content_cache_dir"]
    if len(item_ids) < 2:
        raise UserError(f"dataset '{dataset.dataset_name}' has no items left; loosen its filters")
    contents = {}
    for modality in chosen:
        if modality.learned is not None:
            if learn is None:
                raise UserError(
                    f"content_encoder: {modality.learned} learns item vectors from the training split, and no other training gives the same "
                    "again; take an encoder of texts, such as tfidf-svd, or a file of vectors"
                )
            contents[modality.name] = learn(modality)
        elif modality.vectors is None:
            contents[modality.name] = _text_content(modality, dataset, item_ids, cache_dir, bool(config["show_progress"]))
        else:
            contents[modality.name] = _file_content(modality.vectors, cache_dir, item_ids, modality.optional)
    sources = {name: PartSource.of(content) for name, content in contents.items()}
    embeddings = [content.embeddings for content in contents.values()]
    if len(embeddings) > 1:

        def side_by_side() -> _Source:
            return _Source(row_blocks(embeddings, start=1), encoder_of(sources), content_hash=hash_of(sources))

        embeddings = [_load_or_make(cache_dir, hash_of(sources), item_ids, side_by_side).embeddings]
    content = content_of(sources, embeddings[0], item_ids)
    if all(modality.optional for modality in chosen):
        _refuse_items_without_vectors(content)
    return content


def content_from_vectors(
    vectors_path: str | os.PathLike,
    ids_path: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> ItemContent:
    """Item content from vectors and ids alone, without any RecBole dataset; items keep the order of the file.

    Args:
        vectors_path: ``.npy``, ``.safetensors``, ``.npz`` or ``.pt``, see :class:`~recbole_r3vae.data.content.vectors.VectorFile`.
        ids_path: One item id per line. Default: the same name with the ending ``.ids``.
        cache_dir: Where a unit-norm copy is kept, written block by block and memory-mapped. Without one, vectors of up to
            :data:`HELD_BYTES` are held in memory, and more of them stay in their file: their rows are scaled whenever they are read.

    Returns:
        The content; the file's first item is row 1, after the padding row.

    Raises:
        UserError: the files are missing, damaged, or do not fit together.
    """
    vectors = VectorFile(vectors_path, ids_path)
    return _file_content(vectors, cache_dir) if cache_dir or vectors.nbytes <= HELD_BYTES else _content_in_file(vectors)


def save_encoder(folder: str | os.PathLike, content: ItemContent) -> None:
    """Put the content's text encoders into a folder: ``item_encoder.safetensors`` and ``item_encoder.json``.

    Args:
        folder: For instance a checkpoint's; made if it does not exist.
        content: What :func:`load_content` returned.

    Raises:
        UserError: all vectors came from files, so there is no encoder; or the folder cannot be written.
    """
    if content.item_encoder is None:
        raise UserError("these item vectors came from a file, so there is no text encoder to save; encode texts instead")
    save_item_encoder(content.item_encoder, *_encoder_files(Path(folder)))


def load_encoder(folder: str | os.PathLike) -> ItemEncoder | ModalityEncoders:
    """The text encoders that :func:`save_encoder` put into a folder, to encode new items as the old ones were.

    Args:
        folder: As given to :func:`save_encoder`.

    Returns:
        The encoder, of several modalities one each, with the item fields that are read.

    Raises:
        UserError: it is not there, or damaged.
    """
    return load_item_encoder(*_encoder_files(Path(folder)))


def _encoder_files(folder: Path) -> tuple[Path, Path]:
    return folder / "item_encoder.safetensors", folder / "item_encoder.json"


def _text_content(modality: Modality, dataset: Dataset, item_ids: list[str], cache_dir, show_progress: bool) -> ItemContent:
    """Vectors of the items' texts."""
    encoder, fields = modality.encoder, text_fields(dataset, modality.fields, modality.template)
    template = None if modality.template is None else text_template(dataset, modality.template)
    texts = item_texts(dataset, fields, template)[1:]
    # Two templates may give these items the same texts and new ones others, so it counts by itself.
    form = {} if template is None else {"template": str(template)}
    content_hash = hash_json([encoder.settings(), fields, *form.values(), item_ids, texts])

    def encode() -> _Source:
        empty = sum(not text for text in texts)
        if empty:
            logger.warning(f"item content: {empty} of {len(texts)} items have no text in {fields}")
        encoder.fit(texts)
        starts = range(0, len(texts), _TEXTS_PER_BLOCK)
        starts = tqdm(starts, desc="Encode item text", ncols=100, disable=not show_progress)
        blocks = (encoder.transform(texts[start : start + _TEXTS_PER_BLOCK]) for start in starts)
        item_encoder = ItemEncoder(encoder, tuple(fields), template)
        return _Source(blocks, {**encoder.settings(), "fields": fields, **form}, item_encoder, content_hash)

    return _load_or_make(cache_dir, content_hash, item_ids, encode)


def _file_content(vectors: VectorFile, cache_dir, item_ids: list[str] | None = None, optional: bool = False) -> ItemContent:
    """Vectors from a file for the given items (``[PAD]`` first), or for all of the file's own."""
    if item_ids is None:
        item_ids, rows = [PADDING, *vectors.ids], np.arange(len(vectors.ids))
    else:
        rows = vectors.rows_of(item_ids[1:], optional)
        missing = int((rows < 0).sum())
        if missing:
            logger.info(f"item content: {missing} of {len(rows)} items have no vector in {vectors.path} and get zeros")
    # A file larger than memory should not be read only to know whether it was read before: its name, size and
    # time stand for it in the cache's key. The content hash is taken from the vectors themselves.
    stat = vectors.path.stat()
    rows_hash = hashlib.sha256(rows.tobytes()).hexdigest()
    key = hash_json([str(vectors.path.resolve()), stat.st_size, stat.st_mtime_ns, item_ids, rows_hash])

    def read() -> _Source:
        return _Source(vectors.unit_blocks(rows), {"kind": "file", "file": vectors.path.name})

    return _load_or_make(cache_dir, key, item_ids, read)


def _content_in_file(vectors: VectorFile) -> ItemContent:
    """All vectors of a file, which stay there; they are read once, for their hash."""
    start, digest = time.perf_counter(), hashlib.sha256()
    blocks = vectors.unit_blocks(np.arange(len(vectors.ids)))
    for number, _ in enumerate(_padded_and_hashed(blocks, digest), start=1):
        if number % _BLOCKS_PER_VISIT == 0:
            vectors.let_go()
    vectors.let_go()
    item_ids = [PADDING, *vectors.ids]
    content_hash = hash_json([item_ids, str(vectors.dtype), digest.hexdigest()])
    content = ItemContent(UnitVectors(vectors), item_ids, {"kind": "file", "file": vectors.path.name}, content_hash)
    logger.info(f"item content: {_summary(content)}, left in {vectors.path}, read in {time.perf_counter() - start:.1f} s")
    return content


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
    described = content.encoder
    if "parts" in described:
        origin = [f"{name} {part['width']}" for name, part in described["parts"].items()]
    else:
        origin = described.get("fields") or [described.get("file", "training split")]
    return f"{n_items - 1} items x {dim} ({described['kind']}: {', '.join(origin)})"


def _refuse_items_without_vectors(content: ItemContent) -> None:
    row = 1
    for block in row_blocks([content.embeddings], start=1):
        empty = ~block.any(axis=1)
        if empty.any():
            item = content.item_ids[row + int(empty.argmax())]
            raise UserError(
                f"item {item!r} has no vector in any modality of content_encoder ({', '.join(content.parts)}); add one, add a modality "
                "that every item has, such as its text, or filter such items out of the dataset"
            )
        row += len(block)
