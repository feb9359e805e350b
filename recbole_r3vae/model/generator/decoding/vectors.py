"""Ranking items by dense heads: the product of a user's vector with every item's, as SASRec and two-tower models score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_r3vae.model.generator.decoding.catalogue import Ranking, ScoreItems, rank_catalogue
from recbole_r3vae.model.generator.decoding.rules import Allowed


def rank_by_vectors(
    users: Tensor,
    items: Tensor,
    k: int,
    allowed: Allowed = None,
    strict: bool = True,
    bias: Tensor | None = None,
    chunk: int | None = None,
) -> Ranking:
    """The k items whose vectors have the largest inner product with the user's; exact.

    Products are taken in the vectors' type and ranked in float32. Equal scores are ordered by item number; those of equal vectors may
    differ in the last bit, as columns of a matrix product do, and then that decides.

    Args:
        users: Floats ``[B, d]``.
        items: Floats ``[n_items, d]``, of the same type; row 0 is the padding item, which is never returned.
        k: Number of items a user.
        allowed: The only items that may be returned: bool ``[n_items]`` or ``[B, n_items]``, or
            :class:`~recbole_r3vae.model.generator.decoding.rules.Excluded`, all others; default: all.
        strict: Whether fewer than k possible items are an error; otherwise item 0 and ``-inf`` fill up.
        bias: Floats ``[n_items]`` or ``[B, n_items]`` added to the products, such as an item's popularity; default: none.
        chunk: Items scored at once; default: so many that
            :data:`~recbole_r3vae.model.generator.decoding.catalogue.CHUNK_CELLS` scores are held.

    Returns:
        int64 ``[B, k]`` items and float32 ``[B, k]`` scores, best first.

    Raises:
        UserError: k is below 1; ``allowed`` does not fit; a score is NaN; or (``strict``) fewer than k items are possible.
    """
    [ranking] = rankings_by_vectors(users, items, k, [allowed], strict, bias, chunk)
    return ranking


def rankings_by_vectors(
    users: Tensor,
    items: Tensor,
    k: int,
    rules: Sequence[Allowed],
    strict: bool = True,
    bias: Tensor | None = None,
    chunk: int | None = None,
) -> list[Ranking]:
    """:func:`rank_by_vectors` under several rules, one ranking each; the products are taken once."""
    return rank_catalogue(vector_scores(users, items), len(users), len(items), k, rules, strict, bias, chunk, users.device)


def vector_scores(users: Tensor, items: Tensor) -> ScoreItems:
    """Scores of a range of items, for :func:`~recbole_r3vae.model.generator.decoding.catalogue.rank_catalogue`.

    Args:
        users: Floats ``[B, d]``.
        items: Floats ``[n_items, d]``.

    Returns:
        From the first item and the one after the last to float32 ``[items, B]``.
    """

    def score(begin: int, end: int) -> Tensor:
        with torch.autocast(users.device.type, enabled=False):  # bfloat16 products would tie hundreds of items
            return (items[begin:end] @ users.T).float()

    return score
