"""How much of its codebooks and of the space of semantic IDs a tokenizer uses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_r3vae.sid.codes import checked_codes
from recbole_r3vae.sid.quality.clusters import groups_of


def code_usage(codes: Tensor, codebook_sizes: Sequence[int]) -> dict:
    """How much of the codebooks and of the space of SIDs is used.

    Args:
        codes: Integers ``[n, L]``.
        codebook_sizes: ``K_1 .. K_L``.

    Returns:
        ``levels``, one dict a level: ``codebook_size``; ``used`` codes; ``usage`` = used / K; ``reachable`` =
        min(K, n), the codes that n items can use at most; ``usage_of_reachable``; ``perplexity``, the
        exponential of the entropy of the code frequencies (between 1 and ``reachable``); ``gini`` of the
        counts of all K codes, unused ones included (0: all alike, towards 1: one code has everything).

        And for the full SIDs: ``items``; ``distinct_sids``; ``unique_ratio`` = distinct SIDs / items;
        ``items_per_used_sid``, its inverse; ``collision_rate``, the share of items whose SID another item has
        too; ``largest_sid``, the most items of one SID.

    Raises:
        UserError: codes that are not in their codebooks.
        ValueError: no items.
    """
    codes = checked_codes(codes, codebook_sizes)
    tuples = groups_of(codes)[-1]  # [n], equal where all codes are
    n = len(codes)
    levels = []
    for column, size in zip(codes.unbind(1), codebook_sizes):
        counts = torch.bincount(column, minlength=size).double()  # [K]
        frequencies = counts[counts > 0] / n
        rank = torch.arange(1, size + 1, dtype=torch.float64)
        levels.append(
            {
                "codebook_size": int(size),
                "used": len(frequencies),
                "usage": len(frequencies) / size,
                "reachable": min(size, n),
                "usage_of_reachable": len(frequencies) / min(size, n),
                "perplexity": math.exp(-(frequencies * frequencies.log()).sum().item()),
                "gini": ((2 * rank - size - 1) * counts.sort().values).sum().item() / (size * n),
            }
        )
    counts = torch.bincount(tuples)  # items of each distinct SID
    return {
        "levels": levels,
        "items": n,
        "distinct_sids": len(counts),
        "unique_ratio": len(counts) / n,
        "items_per_used_sid": n / len(counts),
        "collision_rate": counts[counts > 1].sum().item() / n,
        "largest_sid": int(counts.max()),
    }
