"""Ranking items by dense heads: the product of a user's vector with every item's, as SASRec and two-tower models score.

Where an item's vector is a sum over its codes, a user's product with it is the same sum over products with the codes' own vectors: one
small product with their table, then a look-up a code instead of a product a dimension (product quantisation's asymmetric distances, Jégou et
al., "Product Quantization for Nearest Neighbor Search", TPAMI 2011; RPG, arXiv 2506.05781, scores its items so).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_r3vae.model.generator.decoding.catalogue import Ranking, ScoreItems, rank_catalogue
from recbole_r3vae.model.generator.decoding.rules import Allowed


_SHORTEST = 1e-12  # as of torch's normalize
_ROWS = 65536  # item vectors that are made at once


class SummedCodes:
    """Unit vectors of all items, each the sum of its tokens' vectors: only those of the tokens are held, and each sum's length.

    Args:
        tokens: Integers ``[n_items, L]``, rows of ``table``.
        table: Floats ``[n_tokens, d]``.

    Attributes:
        tokens: As given.
        table: As given.
        scale: ``[n_items]``, one over the length of each item's sum; 0 where that is too short to have a direction.
    """

    def __init__(self, tokens: Tensor, table: Tensor, scale: Tensor | None = None):
        self.tokens, self.table = tokens, table
        if scale is None:
            lengths = torch.cat([torch.linalg.vector_norm(F.embedding_bag(rows, table, mode="sum"), dim=-1) for rows in tokens.split(_ROWS)])
            scale = torch.where(lengths > _SHORTEST, 1 / lengths, 0)
        self.scale = scale

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, items: Tensor) -> Tensor:
        """Vectors ``[..., d]`` of items ``[...]``."""
        sums = F.embedding_bag(self.tokens[items].flatten(0, -2), self.table, mode="sum")  # [M, d]
        return (sums * self.scale[items].flatten()[:, None]).view(*items.shape, -1)

    def float(self) -> SummedCodes:
        """The same in float32."""
        return SummedCodes(self.tokens, self.table.float(), self.scale.float())

    def scores(self, users: Tensor) -> ScoreItems:
        """As :func:`vector_scores`, by look-ups; sums are taken in another order than a product's."""
        with torch.autocast(users.device.type, enabled=False):
            products = self.table @ users.T  # [n_tokens, B]

        def score(begin: int, end: int) -> Tensor:
            sums = F.embedding_bag(self.tokens[begin:end], products, mode="sum")  # [c, B]
            return sums.float().mul_(self.scale[begin:end, None])

        return score


def rank_by_vectors(
    users: Tensor,
    items: Tensor | SummedCodes,
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
        items: Floats ``[n_items, d]``, of the same type, or :class:`SummedCodes`; row 0 is the padding item, which is never returned.
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
    items: Tensor | SummedCodes,
    k: int,
    rules: Sequence[Allowed],
    strict: bool = True,
    bias: Tensor | None = None,
    chunk: int | None = None,
) -> list[Ranking]:
    """:func:`rank_by_vectors` under several rules, one ranking each; the products are taken once."""
    return rank_catalogue(vector_scores(users, items), len(users), len(items), k, rules, strict, bias, chunk, users.device)


def vector_scores(users: Tensor, items: Tensor | SummedCodes) -> ScoreItems:
    """Scores of a range of items, for :func:`~recbole_r3vae.model.generator.decoding.catalogue.rank_catalogue`.

    Args:
        users: Floats ``[B, d]``.
        items: Floats ``[n_items, d]``, or their codes.

    Returns:
        From the first item and the one after the last to float32 ``[items, B]``.
    """

    if isinstance(items, SummedCodes):
        return items.scores(users)

    def score(begin: int, end: int) -> Tensor:
        with torch.autocast(users.device.type, enabled=False):  # bfloat16 products would tie hundreds of items
            return (items[begin:end] @ users.T).float()

    return score
