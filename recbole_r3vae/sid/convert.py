"""Semantic IDs from one kind of file into another."""

from __future__ import annotations

import os
from pathlib import Path

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid import foreign
from recbole_r3vae.sid.table import SemanticIDs

INDEX = "index.json"


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    item2id: str | os.PathLike | None = None,
    added_tokens: str | os.PathLike | None = None,
) -> str:
    """Read semantic IDs of one kind and write them as another.

    Args:
        source: ``.sid``, from any tool, or ``*.index.json``.
        target: ``*.index.json``: items and their tokens; another ``.json``: every token, for a tokenizer's ``add_tokens``; otherwise
            ``.sid``, with its sidecar.
        item2id: numbers by which an ``*.index.json`` calls the items; default: it calls them by their ids.
        added_tokens: a vocabulary that says how large the codebooks are; default: as the source says.

    Returns:
        What was written, in one line.

    Raises:
        UserError: a file is malformed; a vocabulary has other levels than the source or lacks a code; ``item2id`` lacks an item.
    """
    if os.path.abspath(source) == os.path.abspath(target):
        raise UserError(f"{target} is read and would be written; name another --output")
    sids, is_index = SemanticIDs.load(source), Path(target).name.endswith(INDEX)
    from_index = Path(source).suffix == foreign.ENDING
    if item2id is not None and from_index == is_index:
        raise UserError(f"--item2id {item2id} goes from or to an index.json, and here are {'two' if is_index else 'none'}; leave it out")
    number_of = foreign.read_item2id(item2id) if item2id is not None else {}
    item_ids, sizes = list(sids.item_ids), sids.codebook_sizes
    if added_tokens is not None:
        sizes = foreign.read_added_tokens(added_tokens)
        if len(sizes) != sids.n_levels or any(size < own for size, own in zip(sizes, sids.codebook_sizes)):
            own = list(sids.codebook_sizes)
            raise UserError(f"{added_tokens} is for codebooks of {list(sizes)} codes, {source} has {own}; give that of these items")
    if number_of:
        names = {number: item for item, number in number_of.items()} if from_index else number_of
        item_ids[1:] = foreign.renamed(item_ids[1:], names, item2id)
    if is_index:
        foreign.write_index(target, item_ids[1:], sids.codes[1:])
    elif Path(target).suffix == foreign.ENDING:
        return f"{foreign.write_added_tokens(target, sizes):,} tokens of {sids.n_levels} levels: {target}"
    else:
        SemanticIDs(sids.codes, sizes, item_ids, sids.meta, sids.ordered).save(target)
    lost = "; the file cannot say that these codes have no order" if is_index and not sids.ordered else ""
    return f"{sids.n_items - 1:,} items, codebooks {list(sizes)}: {target}{lost}"
