"""Semantic IDs as categorical features of models that know nothing of them: a field for each level and for each length of prefix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.table import SemanticIDs

POLICY_WITH_SUFFIX = "suffix"


def shared_codes(sids: SemanticIDs) -> SemanticIDs:
    """The codes that a tokenizer gave, which items may share: without the level that the collision policy ``suffix`` added.

    That level numbers items of equal codes in the order of the catalogue. As a feature, its code 0 would be one value for almost all
    items, and its other codes would tie items together that have nothing in common.

    Args:
        sids: semantic IDs; of a file, ``meta`` says by which policy they were made. Where it does not say, all levels are kept.
    """
    if sids.meta.get("collision_policy") != POLICY_WITH_SUFFIX or sids.n_levels == 1:
        return sids
    return SemanticIDs(sids.codes[:, :-1], sids.codebook_sizes[:-1], sids.item_ids, sids.meta, sids.ordered)


def check_buckets(prefix_buckets: int) -> None:
    """Refuse a number of buckets that is none.

    Raises:
        UserError: it is not a whole number from 0.
    """
    if type(prefix_buckets) is not int or prefix_buckets < 0:
        raise UserError(f"sid_prefix_buckets is {prefix_buckets!r}; give a whole number of buckets, or 0 for no prefixes")


def feature_columns(sids: SemanticIDs, prefix_buckets: int) -> dict[str, tuple[Tensor, int]]:
    """One token column for each level, and one for each prefix of two codes or more; codes without an order have no prefixes.

    The prefix of length one is the column of the first level. A prefix of length l goes to bucket ``prefix_hash(codes[:, :l]) %
    prefix_buckets``; the buckets of each length have a table of their own.

    Args:
        sids: semantic IDs of ``n_items`` items, the padding item included.
        prefix_buckets: buckets for each length of prefix; 0 for no such columns.

    Returns:
        ``sid_1`` … ``sid_L`` and ``sid_prefix_2`` … ``sid_prefix_L``: int64 ``[n_items]``, 0 for the padding item only, and the number
        of values that the column may take, padding included.

    Raises:
        UserError: see :func:`check_buckets`.
    """
    check_buckets(prefix_buckets)
    codes = sids.codes[1:].numpy()
    columns = {f"sid_{level}": (sids.codes[:, level - 1] + 1, size + 1) for level, size in enumerate(sids.codebook_sizes, start=1)}
    for length in range(2, sids.n_levels + 1) if prefix_buckets and sids.ordered else ():
        bucket = prefix_hash(codes[:, :length]) % np.uint64(prefix_buckets)
        column = torch.from_numpy(np.concatenate([[0], 1 + bucket.astype(np.int64)]))
        columns[f"sid_prefix_{length}"] = (column, prefix_buckets + 1)
    return columns


def prefix_hash(codes: np.ndarray) -> np.ndarray:
    """A number for each tuple of codes, the same on every machine and in every run: no seed, no state.

    Starting from 0, ``h = mix(h XOR code)`` code after code, in 64 bits without sign. ``mix`` is a step of SplitMix64 (Steele, Lea and
    Flood, OOPSLA 2014): ``z = h + 0x9E3779B97F4A7C15``; ``z = (z XOR z >> 30) * 0xBF58476D1CE4E5B9``; ``z = (z XOR z >> 27) *
    0x94D049BB133111EB``; ``z XOR z >> 31``.

    Args:
        codes: integers ``[n, l]``, not negative.

    Returns:
        uint64 ``[n]``.
    """
    h = np.zeros(len(codes), dtype=np.uint64)
    for column in codes.astype(np.uint64).T:
        z = (h ^ column) + np.uint64(0x9E3779B97F4A7C15)  # arrays wrap around at 2^64, as is meant
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h = z ^ (z >> np.uint64(31))
    return h
