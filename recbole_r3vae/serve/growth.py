"""Items that came after training: what a served model has to be told of them, and what it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from recbole_r3vae.data.content import parts_of
from recbole_r3vae.data.content.vectors import VectorFile
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import Sources, collisions_of
from recbole_r3vae.quick_start.semantic_ids import DESCRIPTION
from recbole_r3vae.serve.models import ServedModel
from recbole_r3vae.sid.extension import TableExtension
from recbole_r3vae.sid.table import SemanticIDs


def check_grows(served: ServedModel) -> None:
    """Refuse a model that knows items by their number alone.

    Raises:
        UserError: it has no semantic IDs.
    """
    if served.sids is None:
        raise UserError(f"{served.config.model} knows the items of its training and no others; add items to a generator, such as R3GR")


def grown(served: ServedModel, sids: SemanticIDs, vectors: str | os.PathLike | None, policy: str | None) -> ServedModel:
    """A served model that knows more items.

    Args:
        served: the one before; it stays as it is.
        sids, vectors, policy: see :meth:`~recbole_r3vae.serve.recommender.Recommender.add_items`.

    Returns:
        Another one; where no item is new, the same.

    Raises:
        UserError: see there.
    """
    check_grows(served)
    made_for = sids.meta.get("extends", served.table.content_hash)
    if made_for != served.table.content_hash:
        raise UserError(
            f"these semantic IDs were made to stand beside the table {made_for[:12]}, the checkpoint's is "
            f"{served.table.content_hash[:12]}; tokenize the items again, with this checkpoint"
        )
    _refuse_changes(served, sids)
    new = [row for row in range(1, sids.n_items) if sids.item_ids[row] not in served.row_of]
    if not new:
        return served
    names, codes, before = [sids.item_ids[row] for row in new], sids.codes[new], served.sids
    asked = policy or sids.meta.get("collision_policy") or collisions_of(served.config.contract.needs(served.config), served.config)
    extension = TableExtension(before, asked or "share")
    if sids.n_levels == before.n_levels:
        extension.occupy(names, codes)
    else:
        codes = extension.place(names, codes)
    after = replace(before, codes=torch.cat([before.codes, codes]), item_ids=[*before.item_ids, *names])
    content = served.model.sources.content
    if content is not None:
        more = np.concatenate([content.embeddings, _read_vectors(served, names, vectors).astype(content.embeddings.dtype)])
        content = replace(content, embeddings=more, item_ids=list(after.item_ids))
    return served.grown(Sources(after, content))


def _refuse_changes(served: ServedModel, sids: SemanticIDs) -> None:
    for item, codes in zip(sids.item_ids[1:], sids.codes[1:].tolist()):
        row = served.row_of.get(item)
        if row is not None and served.sids.codes[row, : len(codes)].tolist() != codes:
            raise UserError(
                f"item {item!r} has the semantic ID {tuple(served.sids.codes[row].tolist())} and would get {tuple(codes)}; what was "
                "trained stays: take the item out of the file"
            )


def _read_vectors(served: ServedModel, names: Sequence[str], path: str | os.PathLike | None) -> np.ndarray:
    """Unit vectors ``[n, D]`` of new items."""
    if path is None or not Path(path).is_file():
        raise UserError(
            f"{served.config.model} reads the content vector of every item in a history, and there are none of the new items"
            f"{f' at {path}' if path else ''}; give them as .npy with .ids beside it (`recbole-r3vae tokenize --checkpoint` does)"
        )
    file, content = VectorFile(path), served.model.sources.content
    wanted, parts = content.embeddings.shape[1], content.parts
    if file.dim != wanted:
        parts = _parts_of_tokenizer(served.folder / "tokenizer" / DESCRIPTION, file.dim)
    if not content.parts.keys() <= parts.keys():
        raise UserError(
            f"{path} holds vectors of length {file.dim}, the model reads {wanted}; encode the new items with "
            "the run's own encoder, as `recbole-r3vae tokenize --checkpoint` does"
        )
    vectors = np.concatenate(list(file.unit_blocks(file.rows_of(names), parts)))
    return np.concatenate([vectors[:, parts[name]] for name in content.parts], axis=1)


def _parts_of_tokenizer(path: Path, dim: int) -> dict[str, slice]:
    """The modalities that the run's tokenizer reads, of which its model may read some; none where its vectors have another length."""
    if not path.is_file():
        return {}
    description = json.loads(path.read_text(encoding="utf-8"))
    return parts_of(description["content"], dim) if description["dim"] == dim else {}
