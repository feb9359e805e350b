"""Semantic IDs as data: which item has which tuple of codes, in memory and as a file for every generator."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.codes import checked_codes, prefix_groups
from recbole_r3vae.sid.sid_file import read_sid_file, sidecar_path, write_sid_file

PAD = "[PAD]"  # RecBole's token for item 0


@dataclass(frozen=True, eq=False, repr=False)
class SemanticIDs:
    """The semantic ID (SID: a tuple of codes, one a level) of every item. Immutable; only read its tensors.

    Args:
        codes: Integers ``[n_items, L]``, copied. Row 0 is RecBole's padding item and holds -1 everywhere;
            every other row is a full tuple with ``0 <= codes[i, l] < codebook_sizes[l]``.
        codebook_sizes: ``K_1 .. K_L``.
        item_ids: The data set's ``n_items`` item tokens, ``item_ids[0] == "[PAD]"``; unique, not empty, free
            of tabs and line ends (they are a column of a tab-separated file).
        meta: How the codes were made: a dict that JSON can hold, copied; default: empty.
        ordered: Whether each code refines those before it (residual quantization), which is what prefixes, their
            tree and a suffix level rest on. False for parallel codes (product quantization, one codebook): a set
            of digits, each of its own. Default True.

    Raises:
        UserError: any of the above does not hold; the message names the item and the value.
    """

    codes: Tensor
    codebook_sizes: tuple[int, ...]
    item_ids: Sequence[str]
    meta: dict | None = None
    ordered: bool = True

    def __post_init__(self) -> None:
        ids = tuple(map(str, self.item_ids))
        sizes = tuple(map(int, self.codebook_sizes))
        codes = torch.as_tensor(self.codes)
        if len(ids) < 2 or ids[0] != PAD:
            raise UserError(
                f"item_ids must begin with {PAD!r} (RecBole's item 0) and name at least one item after it, "
                f"got {len(ids)} ids beginning with {list(ids[:2])}; give them as RecBole does"
            )
        if len(codes) != len(ids):
            raise UserError(
                f"codes have {len(codes)} rows for {len(ids)} item ids; "
                "both must count the padding item as row 0"
            )
        _check_ids(ids)
        checked = checked_codes(codes[1:], sizes, names=ids[1:])
        if not (codes[0] == -1).all():
            raise UserError(
                "row 0 of codes is the padding item and must hold -1 at every level, "
                f"got {codes[0].tolist()}; put a row of -1 before the first item"
            )
        padding = torch.full((1, len(sizes)), -1)
        object.__setattr__(self, "codes", torch.cat([padding, checked]))  # [n_items, L], a copy
        object.__setattr__(self, "codebook_sizes", sizes)
        object.__setattr__(self, "item_ids", ids)
        object.__setattr__(self, "meta", _plain_dict({} if self.meta is None else self.meta))

    def __repr__(self) -> str:
        return (
            f"SemanticIDs({self.n_items - 1} items, codebook sizes {self.codebook_sizes}, "
            f"{'' if self.ordered else 'unordered, '}{'unique' if self.unique else 'not unique'}, hash {self.content_hash[:12]})"
        )

    @property
    def n_items(self) -> int:
        """Number of rows as RecBole counts items: the padding item included."""
        return len(self.item_ids)

    @property
    def n_levels(self) -> int:
        """Number of codes in a SID, ``L``."""
        return len(self.codebook_sizes)

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary of :meth:`tokens`, padding and the codes of all levels: ``1 + sum(K)``."""
        return 1 + sum(self.codebook_sizes)

    @cached_property
    def unique(self) -> bool:
        """Whether no two items share a full SID."""
        return int(prefix_groups(self.codes[1:])[-1].max()) + 1 == self.n_items - 1

    @cached_property
    def content_hash(self) -> str:
        """Hex SHA-256 over item ids, codes, codebook sizes and a missing order of codes, not over ``meta``; row order counts."""
        head = [self.n_items, self.codebook_sizes]
        if not self.ordered:  # ordered codes say nothing, so that they keep the hashes of files that know no other
            head.append("unordered")
        digest = hashlib.sha256(json.dumps(head).encode())
        digest.update("\n".join(self.item_ids).encode())  # unambiguous: no id contains a line end
        digest.update(self.codes.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def tokens(self) -> Tensor:
        """Codes as tokens of one vocabulary, for models that embed all levels in one table.

        Returns:
            int64 ``[n_items, L]``: 0 in the padding row, elsewhere ``1 + K_1 + … + K_{l-1} + code``.
        """
        offsets = torch.tensor((1, *self.codebook_sizes[:-1])).cumsum(0)  # [L]
        tokens = self.codes + offsets
        tokens[0] = 0
        return tokens

    def save(self, path: str | os.PathLike) -> None:
        """Write the table and, beside it, ``<path>.json``; :meth:`load` gives back an equal one.

        The table is tab-separated, ``item_id:token sid_1:token … sid_L:token``, without the padding row. The
        sidecar holds schema, codebook sizes, content hash, number of items and ``meta``, and ``"ordered": false`` where the
        codes have no order.

        Args:
            path: File to write, usually ``*.sid``, or ``*.sid.gz``, the same compressed; its folder is made.

        Raises:
            UserError: a file cannot be written.
        """
        sidecar = {
            "codebook_sizes": list(self.codebook_sizes),
            "content_hash": self.content_hash,
            "n_items": self.n_items,
            "meta": self.meta,
        }
        if not self.ordered:
            sidecar["ordered"] = False
        write_sid_file(path, self.item_ids[1:], self.codes[1:], sidecar)

    @classmethod
    def load(cls, path: str | os.PathLike, wanted: Sequence[str] | None = None) -> SemanticIDs:
        """Read a table written by :meth:`save`, or by any tool that writes the same columns.

        Args:
            path: The table; its cells may be tokens such as ``<a_12>``, and the whole an ``*.index.json``, see
                :mod:`~recbole_r3vae.sid.foreign`. With a sidecar ``<path>.json``, its schema and content hash are verified. Without
                one, the codebook sizes are the largest code of each column + 1, ``meta`` is empty and the codes count as ordered;
                levels whose codes are sparse are numbered anew, with a warning, and ``meta["renumbered"]`` lists their old codes.
            wanted: The item tokens to align the table to, see :meth:`align`; default: those of the file.

        Returns:
            The table: padding row first, then the items in the order of the file, or of ``wanted``.

        Raises:
            UserError: a file is missing, malformed, of another schema, or the table is not the sidecar's, or
                lacks an item that is wanted; the message names the file.
        """
        item_ids, codes, sidecar = read_sid_file(path)
        padding = torch.full((1, codes.shape[1]), -1)
        ids = (PAD, *item_ids)
        try:
            codes = torch.cat([padding, codes])  # [n_items, L]
            table = cls(codes, sidecar["codebook_sizes"], ids, sidecar["meta"], sidecar.get("ordered", True))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        expected = sidecar.get("content_hash", table.content_hash)
        if table.content_hash != expected:
            beside = sidecar_path(path)
            raise UserError(
                f"{path} ({table.n_items - 1} items, hash {table.content_hash[:12]}) is not the table that "
                f"{beside} describes ({sidecar['n_items'] - 1} items, hash {expected[:12]}): one of "
                f"them was changed; restore both, tokenize again, or delete {beside.name} to take the "
                "table as it is"
            )
        try:
            return table if wanted is None else table.align(wanted)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def align(self, item_ids: Sequence[str]) -> SemanticIDs:
        """The same SIDs in another order of items, usually RecBole's; items not asked for are dropped.

        Args:
            item_ids: Item tokens in the wanted order, ``item_ids[0] == "[PAD]"``; of a RecBole data set:
                ``dataset.field2id_token[dataset.iid_field]``.

        Returns:
            A table with exactly these ``item_ids``.

        Raises:
            UserError: items without a SID (their number and three examples), repeated items, no padding item.
        """
        wanted = tuple(map(str, item_ids))
        if wanted == self.item_ids:
            return self
        row_of = {item: row for row, item in enumerate(self.item_ids)}
        missing = [item for item in wanted if item not in row_of]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(wanted) - 1} items have no semantic ID, for example "
                f"{', '.join(map(repr, missing[:3]))}; tokenize the items of this data set again, or filter "
                "the data set down to the items of the table"
            )
        rows = torch.tensor([row_of[item] for item in wanted], dtype=torch.int64)
        return SemanticIDs(self.codes[rows], self.codebook_sizes, wanted, self.meta, self.ordered)


def _check_ids(ids: tuple[str, ...]) -> None:
    for row, item in enumerate(ids):
        if not item or "\t" in item or "\n" in item or "\r" in item:
            raise UserError(
                f"item id {item!r} in row {row} is empty or contains a tab or a line end, which a "
                "tab-separated file cannot hold; rename the item in the data set"
            )
    if len(set(ids)) < len(ids):
        first_row: dict[str, int] = {}
        for row, item in enumerate(ids):
            if first_row.setdefault(item, row) != row:
                raise UserError(
                    f"item {item!r} stands in rows {first_row[item]} and {row}; "
                    "give every item exactly one semantic ID"
                )
    try:
        "\n".join(ids).encode()
    except UnicodeEncodeError as error:  # a lone surrogate, left over from a wrong decoding
        raise UserError(
            f"an item id contains {error.object[error.start]!r}, which UTF-8 cannot hold; "
            "rename the item in the data set"
        ) from error


def _plain_dict(meta: dict) -> dict:
    try:
        plain = json.loads(json.dumps(meta, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"meta must be a dict that JSON can hold: {error}; use plain values") from error
    if not isinstance(plain, dict):
        raise UserError(f"meta must be a dict, got {type(meta).__name__}; leave it out, or give a dict")
    return plain
