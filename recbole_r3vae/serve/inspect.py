"""Looking into semantic IDs: an item's neighbours level by level, the items below a prefix, what an item's codes say of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from recbole_r3vae.errors import UserError, did_you_mean, short_repr
from recbole_r3vae.sid.table import SemanticIDs


def inspect_item(sids: SemanticIDs | str | os.PathLike, item: str, titles: Mapping[str, str] | None = None) -> pd.DataFrame:
    """An item and its siblings: who else has its semantic ID, then its ID without the last code, and so on up to the first level.

    Args:
        sids: semantic IDs, or a ``.sid`` file.
        item: external item id.
        titles: external id to title.

    Returns:
        A row for each item of the same first code: ``level``, the number of first codes that it shares with the item; ``prefix``, these
        codes; ``item``; ``title``; ``sid``. Nearest first, the item itself at the head.

    Raises:
        UserError: the item has no semantic ID; the message names similar ids.
    """
    sids = loaded(sids)
    own = sids.codes[_row_of(sids, item)]
    levels = (sids.codes == own).long().cumprod(1).sum(1)  # [n_items]
    rows = (levels > 0).nonzero()[:, 0].tolist()
    rows.sort(key=lambda row: (-int(levels[row]), sids.item_ids[row] != item, sids.codes[row].tolist(), row))
    shared = [int(levels[row]) for row in rows]
    columns = {"level": shared, "prefix": [dashed(own[:level]) for level in shared]}
    return pd.DataFrame({**columns, **_item_columns(sids, rows, titles)})


def items_below(sids: SemanticIDs | str | os.PathLike, code: Sequence[int], titles: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The way back from codes to items: all items whose semantic IDs begin with a prefix.

    Args:
        sids: semantic IDs, or a ``.sid`` file.
        code: first codes of a semantic ID, one or more.
        titles: external id to title.

    Returns:
        ``item``, ``title`` and ``sid`` of each, in the order of the semantic IDs.

    Raises:
        UserError: no item begins so; the message says how far the prefix leads.
    """
    sids, code = loaded(sids), torch.tensor(list(code), dtype=torch.int64)
    if not 1 <= len(code) <= sids.n_levels:
        raise UserError(f"a prefix has 1 to {sids.n_levels} codes, got {len(code)}: {code.tolist()}; give the first codes of a semantic ID")
    match = (sids.codes[:, : len(code)] == code).long().cumprod(1)  # [n_items, l]
    match[0] = 0  # the padding item
    rows = match[:, -1].nonzero()[:, 0].tolist()
    if not rows:
        reached = code[: int(match.sum(1).max())].tolist()
        way_out = f"some begin with {dashed(reached)}" if reached else "none has its first code"
        raise UserError(f"no item's semantic ID begins with {dashed(code)}; {way_out}")
    rows.sort(key=lambda row: (sids.codes[row].tolist(), row))
    return pd.DataFrame(_item_columns(sids, rows, titles))


@dataclass(frozen=True)
class Neighbour:
    """An item beside another one.

    Attributes:
        item: external id.
        shared: number of codes that both have; where codes are ordered, of first codes.
        sid: its semantic ID, codes joined by dashes.
    """

    item: str
    shared: int
    sid: str


@dataclass(frozen=True)
class Explanation:
    """What an item's codes say of it; ``dataclasses.asdict`` makes JSON of it.

    Attributes:
        item: external id.
        codes: its semantic ID.
        sid: the same, joined by dashes.
        ordered: whether codes are levels, each inside the one before, or digits side by side.
        sharing: L numbers. Ordered: how many other items begin with the same code, the same two, and so on. Else: how many have the same
            code at each place.
        nearest: items that share most codes, nearest first; none that shares no code.
    """

    item: str
    codes: tuple[int, ...]
    sid: str
    ordered: bool
    sharing: tuple[int, ...]
    nearest: tuple[Neighbour, ...]


def explain_item(sids: SemanticIDs | str | os.PathLike, item: str, n: int = 10) -> Explanation:
    """What an item's codes say of it.

    Args:
        sids: semantic IDs, or a ``.sid`` file.
        item: external item id.
        n: how many of the nearest items at most; of equally near ones the first of the table.

    Raises:
        UserError: the item has no semantic ID; the message names similar ids.
    """
    sids = loaded(sids)
    own = _row_of(sids, item)
    shared = (sids.codes == sids.codes[own]).long()  # [n_items, L]
    shared = shared.cumprod(1) if sids.ordered else shared
    near = shared.sum(1)  # [n_items]
    near[own] = 0
    order = near.argsort(descending=True, stable=True)[:n]
    return Explanation(
        item,
        tuple(sids.codes[own].tolist()),
        dashed(sids.codes[own]),
        sids.ordered,
        tuple((shared.sum(0) - 1).tolist()),
        tuple(Neighbour(sids.item_ids[row], int(near[row]), dashed(sids.codes[row])) for row in order[near[order] > 0].tolist()),
    )


def _row_of(sids: SemanticIDs, item: str) -> int:
    if item not in sids.item_ids[1:]:
        hint = did_you_mean(item, sids.item_ids[1:], otherwise="correct its id")
        raise UserError(f"item {short_repr(item)} is not among the {sids.n_items - 1} items of these semantic IDs{hint}")
    return sids.item_ids.index(item, 1)


# -- for the files beside this one ---------------------------------------------------------------------------------------------


def titles_of(sids: SemanticIDs, rows: Sequence[int], titles: Mapping[str, str] | None) -> list[str]:
    """An item without a title goes by its id."""
    return [(titles or {}).get(sids.item_ids[row]) or sids.item_ids[row] for row in rows]


def _item_columns(sids: SemanticIDs, rows: Sequence[int], titles: Mapping[str, str] | None) -> dict[str, list[str]]:
    items = [sids.item_ids[row] for row in rows]
    return {"item": items, "title": titles_of(sids, rows, titles), "sid": [dashed(sids.codes[row]) for row in rows]}


def dashed(codes) -> str:
    return "-".join(str(int(code)) for code in codes)


def loaded(sids: SemanticIDs | str | os.PathLike) -> SemanticIDs:
    return sids if isinstance(sids, SemanticIDs) else SemanticIDs.load(sids)
