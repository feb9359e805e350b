"""The log-probabilities of codes, for the children of a prefix tree's nodes that exist and are open."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_r3vae.sid.prefix_tree import PrefixTree, Restriction

CACHED_SLOTS = 2**18  # 2 MiB of int64 codes


def constrain(
    tree: PrefixTree,
    level: int,
    nodes: Tensor,
    log_probs: Tensor,
    restriction: Restriction | None = None,
    rows: Tensor | None = None,
) -> tuple[Tensor, bool]:
    """The log-probabilities of the children that exist.

    Args:
        tree: The existing semantic IDs.
        level: 0 … L-1.
        nodes: int64 ``[B, W]``, each beam's node, of depth ``level``.
        log_probs: Floats ``[B, U, K_l]``.
        restriction: The open part of the tree; default: all of it.
        rows: int64 ``[B, W]``, the row of ``log_probs`` that is each beam's; default: its own, U = W.

    Returns:
        float32 ``[B, W, S]``, ``-inf`` in slots without an open child (``log_probs`` itself where all codes are open), and whether slot
        s stands for code s (otherwise for the s-th child); see :meth:`PrefixTree.candidates`.
    """
    by_code, parts = True, []
    for users in _within_cache(tree, level, nodes, restriction):
        penalty, codes = tree.candidates(level, nodes[users], restriction)  # [b, W, S], or None
        if penalty is None and codes is None:
            return (log_probs if rows is None else take_rows(log_probs, rows)).float(), True
        part = log_probs[users]  # [b, U, K]
        by_code = codes is None
        if codes is not None and rows is not None:
            part = part.flatten(1).take_along_dim((rows[users].unsqueeze(2) * part.shape[2] + codes).flatten(1), 1).view_as(codes)
        elif codes is not None:
            part = part.gather(2, codes)  # [b, W, S]
        elif rows is not None:
            part = take_rows(part, rows[users])  # [b, W, K]
        parts.append(part.float() if penalty is None else penalty.add_(part))
    return parts[0] if len(parts) == 1 else torch.cat(parts), by_code


def take_rows(table: Tensor, rows: Tensor) -> Tensor:
    """``[B, W, …]``: the given rows ``[B, W]`` of each user's ``[U, …]``, copied whole."""
    first = torch.arange(0, table.shape[0] * table.shape[1], table.shape[1], device=rows.device).unsqueeze(1)  # [B, 1]
    return table.flatten(0, 1).index_select(0, (rows + first).flatten()).view(*rows.shape, *table.shape[2:])


def _within_cache(tree: PrefixTree, level: int, nodes: Tensor, restriction: Restriction | None) -> list[slice]:
    """Slices of users: on a CPU so few that what is made in between stays in its cache, instead of paging in fresh memory."""
    one_user = nodes.shape[1] * tree.max_children[level]
    one_table = restriction is None or restriction.n_users is None
    size = max(1, CACHED_SLOTS // one_user) if nodes.device.type == "cpu" and one_table else len(nodes)
    return [slice(begin, begin + size) for begin in range(0, len(nodes), size)]
