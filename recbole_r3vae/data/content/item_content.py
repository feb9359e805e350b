"""One vector per item: the columns of one matrix, in named parts, one for each modality."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_r3vae.data.content.cache import hash_json
from recbole_r3vae.data.content.encoders import ItemEncoder, ModalityEncoders
from recbole_r3vae.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from recbole_r3vae.data.content.vectors import UnitVectors

TEXT = "text"
"""What the only part is called where no name is given."""

_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class ItemContent:
    """One vector per item, and where the vectors come from.

    Attributes:
        embeddings: float32 or float16 ``[n_items, d]``, in memory, a read-only memory map, or left in a file
            (:class:`~recbole_r3vae.data.content.vectors.UnitVectors`). Within each part a row has unit norm, or is
            zero where the item lacks that modality; in a part that is learned from interactions rows have lengths of their own, in the mean
            square 1. Row 0 (padding) is zero.
        item_ids: External item id of each row; ``item_ids[0]`` is ``"[PAD]"``.
        encoder: Where the vectors come from, as plain JSON: ``kind`` and its settings. Unless the only part is called ``text``, ``parts``
            holds them for each part by name, with its ``width`` and ``content_hash``.
        content_hash: Identifies the vectors. Of one part: hex sha256 over items, texts and encoder settings, or over items and the vectors
            of a file. Of several: over their names, widths and hashes.
        item_encoder: Encodes new items alike; ``None`` when all vectors came from files.
        parts: Name of each modality to its columns, which follow one another from 0 to d. Default: one part ``text`` of all columns.

    Raises:
        ValueError: the parts do not cover the columns in order.
    """

    embeddings: np.ndarray | UnitVectors = field(repr=False)
    item_ids: list[str] = field(repr=False)
    encoder: dict[str, Any]
    content_hash: str
    item_encoder: ItemEncoder | ModalityEncoders | None = field(default=None, repr=False)
    parts: dict[str, slice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dim = self.embeddings.shape[1]
        if not self.parts:
            object.__setattr__(self, "parts", {TEXT: slice(0, dim)})
        bounds = [0, *(columns.stop for columns in self.parts.values())]
        if [columns.start for columns in self.parts.values()] != bounds[:-1] or bounds[-1] != dim or sorted(set(bounds)) != bounds:
            raise ValueError(f"parts {self.parts} do not cover {dim} columns in order")

    def part(self, name: str) -> np.ndarray:
        """The vectors of one modality.

        Args:
            name: One of :attr:`parts`.

        Returns:
            ``[n_items, width]``, a view: nothing is read or copied.

        Raises:
            UserError: there is no such modality.
        """
        self._refuse_unknown([name])
        return self.embeddings if len(self.parts) == 1 else self.embeddings[:, self.parts[name]]

    def take(self, names: Iterable[str] = ()) -> ItemContent:
        """The content of some modalities only, in the order in which they stand here.

        Args:
            names: Some of :attr:`parts`; none means all.

        Returns:
            Content that is as if no other modality had been configured, hash included; itself when all are taken. Its vectors are a view.
            Where parts between those taken are left out they are a copy, of a memory map one that lies in a file.

        Raises:
            UserError: there is no such modality, or a copy of a memory map cannot be written.
        """
        names = list(names)
        self._refuse_unknown(names)
        kept = [name for name in self.parts if name in names]
        if len(kept) in (0, len(self.parts)):
            return self
        embeddings = _columns(self.embeddings, [self.parts[name] for name in kept])
        return content_of({name: self._source(name) for name in kept}, embeddings, self.item_ids)

    def _source(self, name: str) -> PartSource:
        columns = self.parts[name]
        width = columns.stop - columns.start
        if "parts" in self.encoder:
            encoder = {key: value for key, value in self.encoder["parts"][name].items() if key not in ("width", "content_hash")}
            content_hash = self.encoder["parts"][name]["content_hash"]
        elif len(self.parts) == 1:
            encoder, content_hash = self.encoder, self.content_hash
        else:  # nothing is known of the parts but their names
            encoder, content_hash = self.encoder, hash_json([self.content_hash, name])
        several = isinstance(self.item_encoder, ModalityEncoders)
        return PartSource(width, encoder, content_hash, self.item_encoder.parts[name] if several else self.item_encoder)

    def _refuse_unknown(self, names: list[str]) -> None:
        for name in names:
            if name not in self.parts:
                hint = did_you_mean(name, self.parts, otherwise="add it to content_encoder")
                raise UserError(f"item content has no modality {name!r}, it has {', '.join(self.parts)}{hint}")


@dataclass(frozen=True)
class PartSource:
    """Where one part of the vectors comes from.

    Attributes:
        width: Number of its columns.
        encoder: As :attr:`ItemContent.encoder` of this part alone.
        content_hash: Likewise.
        item_encoder: Likewise.
    """

    width: int
    encoder: dict[str, Any]
    content_hash: str
    item_encoder: ItemEncoder | None

    @classmethod
    def of(cls, content: ItemContent) -> PartSource:
        """The source of content that has one part."""
        [name] = content.parts
        return content._source(name)


def content_of(sources: Mapping[str, PartSource], embeddings: np.ndarray, item_ids: list[str]) -> ItemContent:
    """Content from its vectors and where each of its parts comes from.

    Args:
        sources: Name of each part to its source, in the order of the columns.
        embeddings: ``[n_items, d]``, d the sum of the widths.
        item_ids: External item id of each row.
    """
    ends = list(accumulate(source.width for source in sources.values()))
    parts = {name: slice(end - source.width, end) for end, (name, source) in zip(ends, sources.items())}
    encoders = {name: source.item_encoder for name, source in sources.items()}
    if len(sources) == 1:
        [item_encoder] = encoders.values()
    elif any(encoders.values()):
        item_encoder = ModalityEncoders(encoders, {name: source.width for name, source in sources.items()})
    else:
        item_encoder = None
    return ItemContent(embeddings, item_ids, encoder_of(sources), hash_of(sources), item_encoder, parts)


def encoder_of(sources: Mapping[str, PartSource]) -> dict[str, Any]:
    """:attr:`ItemContent.encoder` of the parts together."""
    if list(sources) == [TEXT]:
        return sources[TEXT].encoder
    described = {name: {"width": s.width, "content_hash": s.content_hash, **s.encoder} for name, s in sources.items()}
    return {"kind": " + ".join(source.encoder["kind"] for source in sources.values()), "parts": described}


def hash_of(sources: Mapping[str, PartSource]) -> str:
    """:attr:`ItemContent.content_hash` of the parts together."""
    if len(sources) == 1:
        [source] = sources.values()
        return source.content_hash
    return hash_json([[name, source.width, source.content_hash] for name, source in sources.items()])


def join_content(contents: Mapping[str, ItemContent]) -> ItemContent:
    """Put contents of the same items side by side, in memory.

    Args:
        contents: Name of each part to content with one part of its own.

    Returns:
        The content of all parts.

    Raises:
        ValueError: they are of different items.
    """
    [item_ids, *others] = [content.item_ids for content in contents.values()]
    if any(other != item_ids for other in others):
        raise ValueError(f"the parts {', '.join(contents)} are of different items")
    sources = {name: PartSource.of(content) for name, content in contents.items()}
    return content_of(sources, np.concatenate([content.embeddings for content in contents.values()], axis=1), item_ids)


def parts_of(encoder: Mapping[str, Any], dim: int) -> dict[str, slice]:
    """The parts of content of which only the description was kept.

    Args:
        encoder: As :attr:`ItemContent.encoder`.
        dim: d.

    Returns:
        As :attr:`ItemContent.parts`.
    """
    if "parts" not in encoder:
        return {TEXT: slice(0, dim)}
    ends = accumulate(part["width"] for part in encoder["parts"].values())
    return {name: slice(end - part["width"], end) for end, (name, part) in zip(ends, encoder["parts"].items())}


def row_blocks(arrays: list[np.ndarray], start: int = 0) -> Iterator[np.ndarray]:
    """The rows of arrays side by side, a bounded number of bytes at a time.

    Args:
        arrays: ``[n, d_i]`` each.
        start: The first row.

    Yields:
        ``[m, sum of d_i]``, together ``[n - start, sum of d_i]``.
    """
    step = max(1, _BLOCK_BYTES // (4 * sum(array.shape[1] for array in arrays)))
    for row in range(start, len(arrays[0]), step):
        yield np.concatenate([array[row : row + step] for array in arrays], axis=1)


def _columns(embeddings: np.ndarray, kept: list[slice]) -> np.ndarray:
    """Some columns: a view where they are adjacent, else a copy, which of a memory map is one in an unnamed file beside it."""
    if all(left.stop == right.start for left, right in zip(kept, kept[1:])):
        return embeddings[:, kept[0].start : kept[-1].stop]
    arrays = [embeddings[:, columns] for columns in kept]
    if not isinstance(embeddings, np.memmap):
        return np.concatenate(arrays, axis=1)
    folder = Path(embeddings.filename).parent if embeddings.filename else Path(tempfile.gettempdir())
    shape = (len(embeddings), sum(array.shape[1] for array in arrays))
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for block in row_blocks(arrays):
                file.write(block.data)
            file.flush()
            return np.memmap(file, embeddings.dtype, mode="r", shape=shape)
    except OSError as error:
        raise UserError(f"content_cache_dir: cannot write to {folder}: {error.strerror or error}; choose another folder") from error
