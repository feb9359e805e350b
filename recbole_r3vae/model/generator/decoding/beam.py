"""Constrained beam search over the tree of existing semantic IDs, for a batch of users at once.

Generative retrieval decodes an item's code tuple by beam search (TIGER: Rajput et al., "Recommender Systems
with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065). Here a beam is a node of the prefix tree: every
result is an existing item, and a level is a fixed number of tensor operations for any users and beams.

Several rules about which items may be returned (with the items a user has met and without them, as both are
evaluated) are searched together: each selects its own beams, and the model decodes their union.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.decoding.constrain import constrain, take_rows
from recbole_r3vae.model.generator.decoding.rules import Allowed, Excluded, check_found, first_best
from recbole_r3vae.sid.prefix_tree import PrefixTree, Restriction

Rescore = Callable[[Tensor, Tensor], Tensor]
"""From the items ``[B, E]`` of the finished beams (0 is padding) and their scores ``[B, E]`` to other scores ``[B, E]``."""


class Decoder(Protocol):
    """What beam search needs of a generator.

    A decoder may also have a method ``beam_states(state, parents)``: what it says of each finished beam, for a head that re-ranks
    them. It is called once, after the last level: ``parents``, int64 ``[B, W]``, are the beams of the last ``step`` that the finished
    ones extend. It returns ``[B, W, d]``.
    """

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


@dataclass(frozen=True, eq=False)
class Beams:
    """What a beam search found.

    Attributes:
        items: int64 ``[B, k]``, best first; 0 where there are no more.
        scores: float32 ``[B, k]``; ``-inf`` where ``items`` is 0.
        leaves: int64 ``[B, k]``, the leaf of the prefix tree that holds each item; -1 where ``items`` is 0.
        states: ``[B, k, d]``, what the decoder's ``beam_states`` says of each item's beam, 0 where ``items`` is 0; ``None`` for a
            decoder without that method.
        prefix_ranks: int64 ``[B, L]``, at which rank of the beam the prefix of each length of a watched semantic ID stood, from 1; 0 where
            it was in none of the beams. ``None`` where nothing was watched.
    """

    items: Tensor
    scores: Tensor
    leaves: Tensor
    states: Tensor | None
    prefix_ranks: Tensor | None = None


def beam_search(
    model: Decoder,
    state: Any,
    tree: PrefixTree,
    num_beams: int,
    k: int,
    allowed: Allowed | Restriction = None,
    strict: bool = True,
    rescore: Rescore | None = None,
    watched: Tensor | None = None,
) -> Beams:
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
        allowed: The only items that may be returned: bool ``[n_items]`` or ``[B, n_items]``, a
            :class:`Restriction` made of it once (for many batches), or :class:`Excluded`, all others;
            default: all items.
        strict: Whether fewer than k possible items are an error; otherwise item 0 and
            ``-inf`` fill up.
        rescore: Changes the scores of the items found before the best k are taken, such as a prior on items that a user
            consumes again; ``-inf`` takes an item out. It sees all items of the finished beams, each by itself: items of one leaf share
            what the model says, not what is known of them. It comes after the search, because nothing short of an item has a
            prior, and so it can only reorder what the beam found: take ``num_beams`` so much above k that what is pushed out of
            the first k is replaced and what is pushed up was found. Equal scores stay in the order of the beam's.
        watched: int64 ``[B, L]``, the codes of one semantic ID a user, such as that of the item that he takes next. The search is the
            same, and says in :attr:`Beams.prefix_ranks` where they stood on the way.

    Returns:
        Items, scores, leaves and states, best first.

    Raises:
        UserError: the beam is narrower than k; ``allowed`` does not fit; the model's log-probabilities are
            NaN; or (``strict``) a user has fewer than k items with a probability above 0.
        ValueError: the model returned another shape than the tree's codebooks ask for, or ``rescore`` than that of its scores.
    """
    [beams] = beam_searches(model, state, tree, num_beams, k, [allowed], strict, rescore, watched)
    return beams


@torch.no_grad()
def beam_searches(
    model: Decoder,
    state: Any,
    tree: PrefixTree,
    num_beams: int,
    k: int,
    rules: Sequence[Allowed | Restriction],
    strict: bool = True,
    rescore: Rescore | None = None,
    watched: Tensor | None = None,
) -> list[Beams]:
    """:func:`beam_search` under several rules at once: the history is read once, and each prefix decoded once.

    A level asks the model once, about all beams that any rule keeps. Each rule selects among its own, so that it finds exactly
    what it would find alone.

    Args:
        rules: ``allowed`` of each search; at least one. All other arguments are those of :func:`beam_search`.

    Returns:
        What each rule finds, in their order.

    Raises:
        UserError, ValueError: as :func:`beam_search`.
    """
    if not 1 <= k <= num_beams:
        raise UserError(f"k must be between 1 and num_beams={num_beams}, got {k}; raise num_beams or lower k")
    log_probs = model.step(state, None, None)  # [B, 1, K_0]
    n_users, device = len(log_probs), log_probs.device
    searches = [_Search(tree, _restriction(tree, rule, n_users), n_users, device) for rule in rules]
    is_nan = torch.zeros((), dtype=torch.bool, device=device)
    expected = (n_users, 1)
    for level, size in enumerate(tree.codebook_sizes):
        if level:
            tokens, parents = _union(tree, level, searches)  # [B, U]
            log_probs, expected = model.step(state, tokens, parents), tokens.shape  # [B, U, K_l]
        if log_probs.shape != (*expected, size):
            got = tuple(log_probs.shape)
            raise ValueError(f"step must return log-probabilities {(*expected, size)} at level {level}, got {got}")
        is_nan |= log_probs[..., 0].isnan().any()  # a softmax with one NaN is NaN everywhere
        node = None if watched is None else tree.find(watched[:, : level + 1])  # [B]
        for search in searches:
            search.extend(level, log_probs, num_beams)
            if node is not None:
                search.prefix_ranks.append(search.rank_of(node))
    states = _states(model, state, searches)
    found = [search.finish(k, rescore, of_beams) for search, of_beams in zip(searches, states)]
    is_nan |= torch.stack([beams.scores.isnan().any() for beams in found]).any()
    check_found([beams.items for beams in found], is_nan, strict)
    return found


class _Search:
    """The beams of one rule, on their way down the tree.

    They stay in the order of their nodes, not of their scores: node ids are lexicographic at every depth, so a user's candidates lie in
    the order of their semantic IDs and the first of equals is well defined.
    """

    def __init__(self, tree: PrefixTree, restriction: Restriction | None, n_users: int, device: torch.device) -> None:
        self.tree, self.restriction = tree, restriction
        self.n_nodes = (tree if restriction is None else restriction).n_nodes
        self.nodes = torch.zeros(n_users, 1, dtype=torch.int64, device=device)  # [B, W], the root
        self.scores = torch.zeros(n_users, 1, device=device)  # [B, W]; -inf marks a dead beam: any node, only dead children
        self.rows: Tensor | None = None  # [B, W], which of the model's beams each is; None where they are the same
        self.parents: Tensor | None = None  # [B, W], which of the model's beams at the level before each extends
        self.prefix_ranks: list[Tensor] = []  # [B] each, of the watched prefix of each level

    def extend(self, level: int, log_probs: Tensor, num_beams: int) -> None:
        """Go one level down, given the model's log-probabilities ``[B, U, K_l]``."""
        tree = self.tree
        existing, by_code = constrain(tree, level, self.nodes, log_probs, self.restriction, self.rows)  # [B, W, S] for S slots
        own = self.scores.unsqueeze(2)  # [B, W, 1]
        extended = existing + own if existing is log_probs else existing.add_(own)  # [B, W, S]
        width = max(1, min(num_beams, self.n_nodes[level + 1]))  # no beam without a node to stand on
        places = first_best(extended.flatten(1), width)  # [B, W'], in W * S
        parents, slots = places // extended.shape[2], places % extended.shape[2]
        self.scores = extended.flatten(1).gather(1, places)
        self.nodes = tree.child(level, self.nodes.gather(1, parents), slots, by_code)
        self.parents = parents if self.rows is None else self.rows.gather(1, parents)

    def rank_of(self, node: Tensor) -> Tensor:
        """The rank of one node a user ``[B]`` among his beams, from 1, equal scores in the order of nodes; 0 where it is none of them."""
        node = node.unsqueeze(1)  # [B, 1]
        own = (self.nodes == node) & (self.scores > -torch.inf)  # [B, W]
        score = self.scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        before = (self.scores > score) | ((self.scores == score) & (self.nodes < node))
        return (1 + before.sum(1)) * own.any(1)

    def finish(self, k: int, rescore: Rescore | None, states: Tensor | None) -> Beams:
        """The best k items of the finished beams; ``states`` are ``[B, W, d]``."""
        scores, ranking = self.scores.sort(dim=1, descending=True, stable=True)  # [B, W]
        leaves = self.nodes.gather(1, ranking)
        every = rescore is not None
        items, column = self.tree.expand(leaves, scores > -torch.inf, k, self.restriction, every)  # [B, E], E = k without rescore
        scores = scores.gather(1, column).masked_fill_(items == 0, -torch.inf)
        if rescore is not None:
            changed = rescore(items, scores)
            if changed.shape != scores.shape:
                raise ValueError(f"rescore must return scores {list(scores.shape)}, got {list(changed.shape)}")
            scores, order = changed.float().masked_fill(items == 0, -torch.inf).sort(dim=1, descending=True, stable=True)
            scores, order = scores[:, :k], order[:, :k]
            items, column = items.gather(1, order).masked_fill_(scores == -torch.inf, 0), column.gather(1, order)
        none = items == 0  # [B, k]
        leaves = leaves.gather(1, column).masked_fill_(none, -1)
        if states is not None:
            states = take_rows(states, ranking.gather(1, column)).masked_fill_(none.unsqueeze(2), 0)  # [B, k, d]
        prefix_ranks = torch.stack(self.prefix_ranks, 1) if self.prefix_ranks else None  # [B, L]
        return Beams(items, scores, leaves, states, prefix_ranks)


def _restriction(tree: PrefixTree, rule: Allowed | Restriction, n_users: int) -> Restriction | None:
    if rule is None:
        return None
    if isinstance(rule, Excluded):
        rule = rule.flags(n_users, tree.n_items)
    restriction = tree.restrict(rule) if isinstance(rule, Tensor) else rule
    if restriction.n_users not in (None, n_users):
        raise UserError(f"allowed has {restriction.n_users} rows for {n_users} users; give one row a user")
    return restriction


def _union(tree: PrefixTree, depth: int, searches: Sequence[_Search]) -> tuple[Tensor, Tensor]:
    """The beams of all searches as the model decodes them, each node once; every search learns which of them are its own.

    A node's parent is one node, and so one beam of the level before: whichever search names it.

    Returns:
        int64 ``[B, U]`` last codes, and int64 ``[B, U]`` parents among the union of the level before. U is the largest number of nodes
        that a user has; those of others are filled up with a beam that no search reads.
    """
    codes = tree.codes[depth - 1]
    if len(searches) == 1:  # dead beams and all, so that no width has to be waited for
        return codes[searches[0].nodes].long(), searches[0].parents
    beyond = tree.n_nodes[depth]  # stands for the nodes of dead beams: any nodes, with parents that are not theirs
    nodes = torch.cat([search.nodes.masked_fill(search.scores == -torch.inf, beyond) for search in searches], 1)  # [B, S]
    parents = torch.cat([search.parents for search in searches], 1)  # [B, S]
    nodes, order = nodes.sort(dim=1)
    is_new = nodes < beyond  # [B, S]
    is_new[:, 1:] &= nodes[:, 1:] != nodes[:, :-1]
    place = is_new.cumsum(1) - 1  # [B, S], in the union
    width = max(1, int(place[:, -1].max()) + 1)
    target = place.where(is_new, width)  # what is not new goes to a last column, which is cut off
    empty = nodes.new_zeros(len(nodes), width + 1)
    union = empty.scatter(1, target, nodes)[:, :-1]  # [B, U]
    parents = empty.scatter(1, target, parents.gather(1, order))[:, :-1]  # [B, U]
    rows = torch.empty_like(place).scatter_(1, order, place.clamp_(min=0))  # [B, S]
    for search, own in zip(searches, rows.split([search.nodes.shape[1] for search in searches], dim=1)):
        search.rows = own
    return codes[union].long(), parents


def _states(model: Decoder, state: Any, searches: Sequence[_Search]) -> Sequence[Tensor | None]:
    """``[B, W, d]`` of each search's finished beams."""
    beam_states = getattr(model, "beam_states", None)
    if beam_states is None:
        return [None] * len(searches)
    states = beam_states(state, torch.cat([search.parents for search in searches], 1))  # [B, S, d]
    return states.split([search.parents.shape[1] for search in searches], dim=1)
