"""Constrained beam search over the tree of existing semantic IDs, for a batch of users at once.

Generative retrieval decodes an item's code tuple by beam search (TIGER: Rajput et al., "Recommender Systems
with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065). Here a beam is a node of the prefix tree: every
result is an existing item, and a level is a fixed number of tensor operations for any users and beams.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.prefix_tree import PrefixTree, Restriction

CACHED_SLOTS = 2**18  # 2 MiB of int64 codes


class Decoder(Protocol):
    """What beam search needs of a generator."""

    def step(self, state: Any, tokens: Tensor | None, parents: Tensor | None) -> Tensor:
        """Log-probabilities of the next level's codes, for every beam.

        Args:
            state: Of B users; may be changed in place, each call goes one level down.
            tokens: int64 ``[B, W]``, the code each beam took at the level before; ``None`` at the first.
            parents: int64 ``[B, W]``, which beam of the previous step each of them extends; ``None`` at the
                first. W changes from level to level.

        Returns:
            Floats ``[B, W, K_l]`` over the level's whole codebook, ``[B, 1, K_0]`` at the first.
        """


@torch.no_grad()
def beam_search(
    model: Decoder,
    state: Any,
    tree: PrefixTree,
    num_beams: int,
    k: int,
    allowed: Tensor | Restriction | None = None,
    strict: bool = True,
) -> tuple[Tensor, Tensor]:
    """The k items with the best semantic IDs that a beam of ``num_beams`` finds.

    A semantic ID scores the sum of its codes' log-probabilities, never renormalised over the children that
    exist or are allowed, in float32 whatever the model computes in. All items of a leaf get its score. Equal
    scores are ordered by semantic ID (lexicographically), then by the tree's leaf order, on every device.
    With a beam as wide as the widest level the result is that of scoring every item.

    Args:
        model: The generator.
        state: Of B users, as the model's ``start`` returned it; used up afterwards.
        tree: The existing semantic IDs, on the model's device.
        num_beams: Beams a user, at least k.
        k: Number of items a user.
        allowed: bool ``[n_items]`` or ``[B, n_items]``, the only items that may be returned, or a
            :class:`Restriction` made of it once (for many batches); default: all items.
        strict: Whether fewer than k possible items are an error (as in evaluation); otherwise item 0 and
            ``-inf`` fill up.

    Returns:
        int64 ``[B, k]`` items and float32 ``[B, k]`` scores, best first.

    Raises:
        UserError: the beam is narrower than k; ``allowed`` does not fit; the model's log-probabilities are
            NaN; or (``strict``) a user has fewer than k items with a probability above 0.
        ValueError: the model returned another shape than the tree's codebooks ask for.
    """
    if not 1 <= k <= num_beams:
        raise UserError(f"k must be between 1 and num_beams={num_beams}, got {k}; raise num_beams or lower k")
    restriction = tree.restrict(allowed) if isinstance(allowed, Tensor) else allowed
    n_nodes = tree.n_nodes if restriction is None else restriction.n_nodes
    log_probs = model.step(state, None, None)  # [B, 1, K_0]
    n_users, device = len(log_probs), log_probs.device
    if restriction is not None and restriction.n_users not in (None, n_users):
        raise UserError(f"allowed has {restriction.n_users} rows for {n_users} users; give one row a user")

    # Beams stay in the order of their nodes, not of their scores: node ids are lexicographic at every depth,
    # so a user's candidates lie in the order of their semantic IDs and the first of equals is well defined.
    nodes = torch.zeros(n_users, 1, dtype=torch.int64, device=device)  # the root
    scores = torch.zeros(n_users, 1, device=device)  # -inf marks a dead beam: any node, only dead children
    is_nan = torch.zeros((), dtype=torch.bool, device=device)
    for level in range(tree.n_levels):
        if level:
            log_probs = model.step(state, tokens, parents)  # [B, W, K_l]
        expected = (*nodes.shape, tree.codebook_sizes[level])
        if log_probs.shape != expected:
            got = tuple(log_probs.shape)
            raise ValueError(f"step must return log-probabilities {expected} at level {level}, got {got}")
        is_nan |= log_probs[..., 0].isnan().any()  # a softmax with one NaN is NaN everywhere

        existing, by_code = constrain(tree, level, nodes, log_probs, restriction)  # [B, W, S] for S slots
        own = scores.unsqueeze(2)  # [B, W, 1]
        extended = existing + own if existing is log_probs else existing.add_(own)  # [B, W, S]
        width = max(1, min(num_beams, n_nodes[level + 1]))  # no beam without a node to stand on
        places = _best(extended.flatten(1), width)  # [B, W'], in W * S
        parents, slots = places // extended.shape[2], places % extended.shape[2]
        scores = extended.flatten(1).gather(1, places)
        nodes = tree.child(level, nodes.gather(1, parents), slots, by_code)
        tokens = tree.codes[level][nodes].long()

    scores, ranking = scores.sort(dim=1, descending=True, stable=True)  # [B, W]
    items, column = tree.expand(nodes.gather(1, ranking), scores > -torch.inf, k, restriction)  # [B, k]
    if is_nan:
        raise UserError(
            "the model's log-probabilities are NaN: its training diverged; go back to an earlier checkpoint "
            "or train again with a lower learning_rate"
        )
    short = items[:, -1] == 0  # [B]
    if strict and short.any():
        user = int(short.nonzero()[0])
        raise UserError(
            f"user {user} of the batch has only {int((items[user] > 0).sum())} possible items for k={k}; "
            "lower k, allow more items, or pass strict=False to fill up with item 0"
        )
    return items, scores.gather(1, column).masked_fill_(items == 0, -torch.inf)


def constrain(
    tree: PrefixTree, level: int, nodes: Tensor, log_probs: Tensor, restriction: Restriction | None = None
) -> tuple[Tensor, bool]:
    """The log-probabilities of the children that exist.

    Args:
        tree: The existing semantic IDs.
        level: 0 … L-1.
        nodes: int64 ``[B, W]``, each beam's node, of depth ``level``.
        log_probs: Floats ``[B, W, K_l]``.
        restriction: The open part of the tree; default: all of it.

    Returns:
        float32 ``[B, W, S]``, ``-inf`` in slots without an open child (``log_probs`` itself where all codes are open), and whether slot
        s stands for code s (otherwise for the s-th child); see :meth:`PrefixTree.candidates`.
    """
    by_code, parts = True, []
    for users in _within_cache(tree, level, nodes, restriction):
        penalty, codes = tree.candidates(level, nodes[users], restriction)  # [b, W, S], or None
        if penalty is None and codes is None:
            return log_probs.float(), True
        part = log_probs[users]  # [b, W, K]
        if codes is not None:
            by_code, part = False, part.gather(2, codes)  # [b, W, S]
        parts.append(part.float() if penalty is None else penalty.add_(part))
    return parts[0] if len(parts) == 1 else torch.cat(parts), by_code


def _within_cache(tree: PrefixTree, level: int, nodes: Tensor, restriction: Restriction | None) -> list[slice]:
    """Slices of users: on a CPU so few that what is made in between stays in its cache, instead of paging in fresh memory."""
    one_user = nodes.shape[1] * tree.max_children[level]
    one_table = restriction is None or restriction.n_users is None
    size = max(1, CACHED_SLOTS // one_user) if nodes.device.type == "cpu" and one_table else len(nodes)
    return [slice(begin, begin + size) for begin in range(0, len(nodes), size)]


def _best(scores: Tensor, width: int) -> Tensor:
    """int64 [B, width]: places of the ``width`` best of float32 ``scores`` [B, N], ascending; ties: first.

    ``torch.topk`` leaves open which of several equal scores it takes. Keys without ties settle it: in the
    upper half the score's bits, mapped such that integers compare as the floats do; in the lower half the
    place, counted from the end. On a CPU ``topk`` is faster on integers, which are never NaN, and that pays
    for the keys.
    """
    bits = scores.view(torch.int32)
    keys = ((bits >> 31) & 0x7FFFFFFF).bitwise_xor_(bits).long()  # negative floats count down: flip them
    keys <<= 32
    keys |= torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)
    return keys.topk(width, dim=1, sorted=False).indices.sort(dim=1).values
