"""Semantic IDs for new items, from the tokenizer and the text encoder that the old ones were made with."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from recbole_r3vae.data.content import load_encoder, parts_of
from recbole_r3vae.data.content.vectors import ENDINGS, VectorFile
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write, beside
from recbole_r3vae.model.tokenizer.base import TOKENIZE_ROWS
from recbole_r3vae.quick_start.run_folder import find_checkpoint
from recbole_r3vae.quick_start.semantic_ids import DESCRIPTION, ENCODER, TrainedTokenizer, load_tokenizer
from recbole_r3vae.data.item_file import ReadingSettings, read_items
from recbole_r3vae.sid.collisions import resolve_collisions
from recbole_r3vae.sid.extension import TableExtension
from recbole_r3vae.sid.table import PAD, SemanticIDs
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint, sources_of


@dataclass(frozen=True)
class TokenizedItems:
    """What :func:`tokenize_items` made.

    Attributes:
        sids: the new items' semantic IDs.
        known: items that have a semantic ID already, passed over.
        moved: new items whose last code is not the one they would have had alone.
        shared: new items that share their semantic ID with another item.
    """

    sids: SemanticIDs
    known: int
    moved: int
    shared: int


def tokenize_items(
    checkpoint: str | os.PathLike,
    items: str | os.PathLike,
    output: str | os.PathLike,
    policy: str | None = None,
    add: Sequence[str | os.PathLike] = (),
    ids: str | os.PathLike | None = None,
    show_progress: bool = False,
    tokenizer: str | None = None,
) -> TokenizedItems:
    """Tokenize items beside a table of semantic IDs, which stays as it is.

    Writes the ``.sid`` file and, beside it, the items' unit vectors as ``.npy`` and ``.ids``, for generators that read text. Vectors
    stream through; only ids and codes are held.

    Args:
        checkpoint: a generator's run (folder or ``best.pth``), whose table and collision policy then count; or a tokenizer's folder.
        items: an atomic ``.item`` file, of the run's ``field_separator``, ``encoding`` and ``ITEM_ID_FIELD``, with the text fields that the
            encoder was fitted on; or vectors, see
            :class:`~recbole_r3vae.data.content.vectors.VectorFile`; those of several modalities side by side.
        output: the ``.sid`` file to write.
        policy: what happens where codes are taken, see :class:`~recbole_r3vae.sid.extension.TableExtension`; default: the run's, of a
            tokenizer ``suffix``.
        add: ``.sid`` files of items that were added earlier, so that the new ones keep clear of them.
        ids: the vectors' item ids, one a line; default: beside them, with the ending ``.ids``.
        show_progress: whether to show a bar.
        tokenizer: the class of a tokenizer from outside the package, ``package.module:Class``, whose code is then run.

    Returns:
        The new semantic IDs and what became of collisions.

    Raises:
        UserError: there is no tokenizer, or it is from outside the package and not named; the items do not fit it, none is new, or one
            comes twice.
    """
    items, output = Path(items), Path(output)
    vectors_path, ids_path = beside(output, ".npy"), beside(output, ".ids")
    inputs = [items, Path(ids) if ids else beside(items, ".ids")] if items.suffix in ENDINGS else [items]
    if {path.resolve() for path in (output, vectors_path, ids_path)} & {path.resolve() for path in inputs}:
        raise UserError(f"--output {output}, with {vectors_path.name} and {ids_path.name}, would replace {items}; choose another name")
    tokenizer, table, policy, reading = tokenizer_and_table(Path(checkpoint), policy, tokenizer)
    extension = TableExtension(table, policy)
    old, seen = set(table.item_ids), set()
    for path in add:
        earlier = SemanticIDs.load(path)
        extension.occupy(earlier.item_ids[1:], earlier.codes[1:])
        old.update(earlier.item_ids)
    extension.shared = 0  # among the new items only

    names, codes, known = [PAD], [torch.full((1, table.n_levels), -1)], 0
    blocks = tqdm(_item_blocks(tokenizer, items, ids, reading), desc="Tokenize", unit=" blocks", ncols=100, disable=not show_progress)
    with blocks, atomic_write(vectors_path, "wb") as vectors_file:
        vectors_file.write(_npy_header(0, tokenizer.model.dim))
        for block, x in blocks:
            twice = next((name for name in block if name in seen or seen.add(name)), None)
            if twice is not None:
                raise UserError(f"{items}: item {twice!r} comes twice; give every item once")
            new = [row for row, name in enumerate(block) if name not in old]
            known += len(block) - len(new)
            if new:
                names += (block := [block[row] for row in new])
                x = torch.from_numpy(x[new])  # [m, d]
                codes.append(extension.place(block, tokenizer.model.tokenize(x), lambda row: _distances(tokenizer, x[row])))
                vectors_file.write(x.numpy().data)
        if len(names) == 1:
            raise UserError(f"all {known} items of {items} have semantic IDs in {checkpoint} already; there is nothing to tokenize")
        meta = {"tokenizer": tokenizer.description["name"], "collision_policy": policy, "extends": table.content_hash}
        sids = SemanticIDs(torch.cat(codes), table.codebook_sizes, names, meta, table.ordered)
        vectors_file.seek(0)
        vectors_file.write(_npy_header(len(names) - 1, tokenizer.model.dim))
    with atomic_write(ids_path) as file:
        file.writelines(f"{name}\n" for name in names[1:])
    sids.save(output)  # last: what it needs is there
    return TokenizedItems(sids, known, extension.moved, extension.shared)


def tokenizer_and_table(
    path: Path, policy: str | None, named: str | None
) -> tuple[TrainedTokenizer, SemanticIDs, str, ReadingSettings]:
    """The tokenizer, the table that new items stand beside, the collision policy, and how the run reads files of items."""
    if (path / DESCRIPTION).is_file() or path.name == DESCRIPTION:
        tokenizer = load_tokenizer(path if path.is_dir() else path.parent, named=named)
        return tokenizer, _table_of(tokenizer, policy or "suffix"), policy or "suffix", ReadingSettings.of(tokenizer.config.declared)
    checkpoint = find_checkpoint(path)
    state = load_checkpoint(checkpoint)
    table = sources_of(state["sources"]).semantic_ids
    if table is None:
        raise UserError(f"checkpoint {checkpoint} is of {state['config']['model']}, which has no semantic IDs; give a generator's")
    folder = checkpoint.parent / "tokenizer"
    if not (folder / DESCRIPTION).is_file():
        sid_file = state["config"].get("sid_file")
        if sid_file is None:
            raise UserError(f"{checkpoint.parent} was packed without its tokenizer; give the run that it was packed from")
        raise UserError(
            f"{checkpoint.parent} has no tokenizer: its semantic IDs came from sid_file {sid_file}; tokenize new items with the tool that "
            "made that file"
        )
    policy = policy or table.meta.get("collision_policy") or "share"  # a table without one holds the codes as the tokenizer gave them
    return load_tokenizer(folder, named=named), table, policy, ReadingSettings.of(state["config"])


def _table_of(tokenizer: TrainedTokenizer, policy: str) -> SemanticIDs:
    """A tokenizer's own catalogue after a collision policy."""
    path = tokenizer.folder / f"{policy}.sid"
    if path.is_file():
        return SemanticIDs.load(path)
    if policy not in ("suffix", "share"):
        raise UserError(f"there is no {path}, the catalogue under policy {policy!r}; choose suffix or share, or give a generator's run")
    if policy == "share":
        return tokenizer.raw
    codes, sizes, _ = resolve_collisions(tokenizer.raw.codes[1:], tokenizer.raw.codebook_sizes, policy)
    return SemanticIDs(torch.cat([torch.full((1, len(sizes)), -1), codes]), sizes, tokenizer.raw.item_ids)


def _item_blocks(
    tokenizer: TrainedTokenizer, path: Path, ids: str | os.PathLike | None, reading: ReadingSettings
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and unit vectors float32 ``[m, d]`` of all items of a file, block by block."""
    if path.suffix in ENDINGS:
        file = VectorFile(path, ids)
        fits = file.dim == tokenizer.model.dim
        parts = parts_of(tokenizer.description["content"], file.dim) if fits else None
        starts = range(0, len(file.ids), TOKENIZE_ROWS)
        rows = (np.arange(start, min(start + TOKENIZE_ROWS, len(file.ids))) for start in starts)
        blocks = (([file.ids[row] for row in part], np.concatenate(list(file.unit_blocks(part, parts)))) for part in rows)
    elif (tokenizer.folder / ENCODER).is_dir():
        encoder = load_encoder(tokenizer.folder / ENCODER)
        blocks = ((names, encoder.encode(records)) for names, records in read_items(path, encoder.fields, reading))
    else:
        raise UserError(
            f"the tokenizer in {tokenizer.folder} was trained on vectors from a file and has no text encoder; give the new items' vectors, "
            "--items new.npy"
        )
    for names, x in blocks:
        if x.shape[1] != tokenizer.model.dim:
            raise UserError(f"{path} gives vectors of length {x.shape[1]}, the tokenizer takes {tokenizer.model.dim}; use the same encoder")
        yield names, np.asarray(x, dtype=np.float32)


@torch.no_grad()
def _distances(tokenizer: TrainedTokenizer, x: torch.Tensor) -> torch.Tensor:
    """From one item ``[d]`` to the codes of the last level ``[K_L]``."""
    return tokenizer.model.level_distances(x[None].to(tokenizer.model.device), tokenizer.raw.n_levels - 1)[0].cpu()


def _npy_header(n: int, dim: int) -> bytes:
    """Of a float32 array ``[n, dim]``; numpy leaves room in it for any n, so its length does not depend on n."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (n, dim)})
    return header.getvalue()
