"""Heads: how a model that has read a history ranks items.

==================  ===========================================  ====================================================
head                the model says                               items are ranked by
==================  ===========================================  ====================================================
autoregressive      ``start(reading)``, ``step(state, …)``       beam search over the tree of existing semantic IDs
parallel            ``digit_log_probs(reading) -> [B, m, K]``    the sum over an item's digits, for every item
dense               ``user_vectors``, ``item_vectors``           products of the two, for every item
==================  ===========================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_r3vae.model.generator.decoding.beam import Beams, beam_searches
from recbole_r3vae.model.generator.decoding.catalogue import ScoreItems
from recbole_r3vae.model.generator.decoding.digits import DigitLogProbs, digit_scores, rankings_by_digits, scores_of_digits
from recbole_r3vae.model.generator.decoding.rules import Allowed, Excluded
from recbole_r3vae.model.generator.decoding.vectors import rankings_by_vectors, vector_scores
from recbole_r3vae.sid.prefix_tree import PrefixTree, prefix_tree_of

EXACT = "exact"
"""The value of ``num_beams`` that scores the whole catalogue."""

EXACT_CELLS = 2**25
"""Log-probabilities that exact scoring holds at once: 128 MiB in float32."""

EXACT_ROWS = 128
"""Histories whose items heads score together on a CPU."""


@dataclass(frozen=True)
class Ranking:
    """The best items of B histories.

    Attributes:
        items: int64 ``[B, k]``, best first; 0 where there are not that many.
        scores: float32 ``[B, k]``; ``-inf`` there.
        states: ``[B, k, d]``, what the decoder says of each item after its last code, where the head has such states.
        prefix_ranks: int64 ``[B, L]``, at which rank of the beam the prefix of each length of a target's semantic ID stood, 0 where it
            was not in it; where targets were given and a beam looked for them.
    """

    items: Tensor
    scores: Tensor
    states: Tensor | None = None
    prefix_ranks: Tensor | None = None


def joined(parts: Sequence[Ranking]) -> Ranking:
    """Rankings of some histories after those of others."""

    def all_of(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    return Ranking(*map(all_of, ("items", "scores", "states", "prefix_ranks")))


def best_of(items: Tensor, scores: Tensor, k: int) -> Ranking:
    """The k best of what several searches found, each item once; equal scores in the order of item numbers.

    Args:
        items: int64 ``[B, C]``, of which some may stand there again, with the same score; 0 is none.
        scores: floats ``[B, C]``; ``-inf`` takes an item out.
        k: number of items.
    """
    items, order = F.pad(items, (0, max(0, k - items.shape[1]))).sort(1)  # [B, C or k]
    scores = F.pad(scores.float(), (0, items.shape[1] - scores.shape[1])).gather(1, order)
    again = F.pad(items[:, 1:] == items[:, :-1], (1, 0))
    scores, order = scores.masked_fill(again | (items == 0), -torch.inf).sort(dim=1, descending=True, stable=True)
    scores, items = scores[:, :k], items.gather(1, order)[:, :k]
    return Ranking(items.masked_fill(scores == -torch.inf, 0), scores)


class Head(Protocol):
    """What a :class:`~recbole_r3vae.model.ranker.Ranker` asks of a head.

    Attributes:
        most_items: how many items it can find at most.
        rows_at_once: so many histories at a time, so that memory suffices.
    """

    most_items: int
    rows_at_once: int

    def rank(self, reading: Any, k: int, rules: Sequence[Allowed] = (None,), strict: bool = True) -> list[Ranking]:
        """See :meth:`.Ranker.rank`."""

    def score(self, reading: Any, items: Tensor) -> Tensor:
        """See :meth:`.Ranker.score`."""

    def item_log_probs(self, reading: Any, items: Tensor) -> Tensor:
        """Log-probabilities of several items a history among all items, ``[B, C]`` to float32 ``[B, C]``, without the model's prior on items.

        What a prior is learnt with. Of item 0 it says anything.
        """


class AutoregressiveHead:
    """Ranks items by the probability of their semantic IDs, found by beam search.

    With ``num_beams: exact`` every item is scored, each prefix once, level by level, as many users at a time as memory allows: for
    catalogues up to some 50,000 items, and to learn what a beam misses.

    Where the model has a prior on items of the history, a beam is wider by the positions of the longest history: so many of what it finds
    may be pushed out of the first ``num_beams``.

    Args:
        model: says ``start`` and ``step``; its ``sources`` hold ordered semantic IDs.
        num_beams: beams a user, or :data:`EXACT`.

    Attributes:
        watched: int64 ``[B, L]``, codes of one semantic ID for each history that is ranked next; ``None`` for none.
        prefix_ranks: of the last ranking while there were any, for each rule, see :attr:`Ranking.prefix_ranks`.
    """

    def __init__(self, model: Any, num_beams: int | str):
        self.model, self.num_beams = model, num_beams
        self.watched: Tensor | None = None
        self.prefix_ranks: list[Tensor | None] = []
        self._tree: PrefixTree | None = None
        self._sharing: Tensor | None = None
        self._of = None  # whose these are

    @property
    def tree(self) -> PrefixTree:
        """The prefix tree of existing semantic IDs, on the model's device."""
        sids = self.model.sources.semantic_ids
        if self._of is not sids:
            self._tree, self._sharing, self._of = prefix_tree_of(sids), None, sids
        self._tree = self._tree.to(self.model.codes.device)
        return self._tree

    @property
    def sharing(self) -> Tensor:
        """How many items have the semantic ID of each, int64 ``[n_items]``."""
        n_items = self.tree.n_items  # of other semantic IDs, counts of those before are forgotten
        if self._sharing is None:
            _, which, counts = self.model.sources.semantic_ids.codes.unique(dim=0, return_inverse=True, return_counts=True)
            self._sharing = counts[which]
        self._sharing = self._sharing.to(self.model.codes.device)
        return self._sharing

    @property
    def most_items(self) -> int:
        """The beam's width; with :data:`EXACT` the catalogue."""
        return self.model.n_items - 1 if self.num_beams == EXACT else self.num_beams

    @property
    def rows_at_once(self) -> int:
        """As many as come, but with :data:`EXACT` so many that :data:`EXACT_CELLS` suffice."""
        if self.num_beams != EXACT:
            return 2**31
        cells = max(n_nodes * size for n_nodes, size in zip(self.tree.n_nodes, self.tree.codebook_sizes))  # of a user's log-probabilities
        return max(1, EXACT_CELLS // cells)

    def rank(self, reading: Any, k: int, rules: Sequence[Allowed] = (None,), strict: bool = True) -> list[Ranking]:
        """A score is the log-probability of the item's semantic ID: over each level's whole codebook, never renormalised."""
        width = max(*self.tree.n_nodes, self.model.n_items) if self.num_beams == EXACT else self.num_beams + self.spare
        found = self.search(reading, self.tree, width, k, rules, strict, self._rescore(reading))
        return [Ranking(beams.items, beams.scores, beams.states) for beams in found]

    def search(self, reading: Any, *how: Any, **more: Any) -> list[Beams]:
        """:func:`~recbole_r3vae.model.generator.decoding.beam.beam_searches` of the model, which notes where :attr:`watched` stands."""
        found = beam_searches(self.model, self.model.start(reading), *how, watched=self.watched, **more)
        if self.watched is not None:  # else nothing of a head changes while it ranks: threads share it
            self.prefix_ranks = [beams.prefix_ranks for beams in found]
        return found

    @property
    def spare(self) -> int:
        """Beams beside ``num_beams``, in the place of those that a prior may push out."""
        prior = getattr(self.model, "prior", None)
        return 0 if prior is None else prior.max_length

    def _rescore(self, reading: Any) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Adds the model's prior on items, where it has one, to what the search found: at the leaves, since it is one of items."""
        bias = item_bias(self.model, reading)
        return None if bias is None else lambda items, scores: scores + bias.gather(1, items)

    def score(self, reading: Any, items: Tensor) -> Tensor:
        """The exact log-probability of the semantic IDs of ``items`` ``[B]``, and the prior, if the model has one."""
        scores = self.log_probs(reading, items[:, None])
        bias = item_bias(self.model, reading)
        return (scores if bias is None else scores + bias.gather(1, items[:, None])).squeeze(1)

    def log_probs(self, reading: Any, items: Tensor) -> Tensor:
        """The exact teacher-forced log-probability of the semantic IDs of several items a history.

        Args:
            reading: of B histories.
            items: ``[B, C]``.

        Returns:
            float32 ``[B, C]``.
        """
        return self.follow(reading, items)[0]

    def item_log_probs(self, reading: Any, items: Tensor) -> Tensor:
        """See :meth:`Head.item_log_probs`: items that share a semantic ID are equally likely."""
        return self.log_probs(reading, items) - self.sharing[items].log()

    def follow(self, reading: Any, items: Tensor) -> tuple[Tensor, Tensor | None]:
        """What a search that ends at given items says of them, for models that re-rank what the search finds.

        Args:
            reading: of B histories.
            items: ``[B, C]``.

        Returns:
            float32 ``[B, C]``, as of :meth:`log_probs`, and ``[B, C, d]``, as :attr:`Ranking.states`; ``None`` where the model has none.
        """
        codes = self.model.codes[items].clamp(min=0)  # [B, C, L]
        state, tokens, parents = self.model.start(reading), None, None
        score = torch.zeros(items.shape, device=codes.device)
        for level in range(codes.shape[2]):
            log_probs = self.model.step(state, tokens, parents).float()  # [B, 1 or C, K]
            tokens = codes[:, :, level]  # [B, C]
            own = log_probs.expand(-1, items.shape[1], -1).gather(2, tokens[:, :, None]).squeeze(2)
            parents = torch.zeros_like(tokens) if level == 0 else torch.arange(items.shape[1], device=codes.device).expand_as(tokens)
            score += own
        beam_states = getattr(self.model, "beam_states", None)
        return score, None if beam_states is None else beam_states(state, parents)


class ExactHead:
    """What heads have in common that score every item."""

    def __init__(self, model: Any):
        self.model = model

    @property
    def rows_at_once(self) -> int:
        """On a CPU few, so that a chunk of scores that its caches hold is many items long: a short one cannot be sifted. Else all."""
        return EXACT_ROWS if torch.device(self.model.device).type == "cpu" else 2**31

    @property
    def most_items(self) -> int:
        """The catalogue."""
        return self.model.n_items - 1

    def score_items(self, reading: Any) -> ScoreItems:
        """Scores of a range of items without the prior, from the first and the one after the last to ``[items, B]``."""
        raise NotImplementedError

    def item_log_probs(self, reading: Any, items: Tensor) -> Tensor:
        """See :meth:`Head.item_log_probs`: a softmax over the catalogue."""
        log_probs = self.score_items(reading)(1, self.model.n_items).T.log_softmax(1)  # [B, n_items - 1]
        return log_probs.gather(1, (items - 1).clamp(min=0))


class ParallelHead(ExactHead):
    """Ranks items by the sum of their digits' log-probabilities, exactly: every item is scored.

    Args:
        model: says ``digit_log_probs(reading)``, ``[B, m, K]`` or m of ``[B, K_l]``; its ``codes`` are ``[n_items, m]``.
    """

    def rank(self, reading: Any, k: int, rules: Sequence[Allowed] = (None,), strict: bool = True) -> list[Ranking]:
        """A score is the log-probability of the item's code tuple, its digits being independent."""
        log_probs: DigitLogProbs = self.model.digit_log_probs(reading)
        bias = item_bias(self.model, reading)
        return [Ranking(*found) for found in rankings_by_digits(log_probs, self.model.codes, k, rules, strict, bias)]

    def score(self, reading: Any, items: Tensor) -> Tensor:
        """The same of one item for each history."""
        scores, bias = scores_of_digits(self.model.digit_log_probs(reading), self.model.codes[items]), item_bias(self.model, reading)
        return scores if bias is None else scores + bias.gather(1, items[:, None]).squeeze(1)

    def score_items(self, reading: Any) -> ScoreItems:
        """Sums over digits."""
        return digit_scores(self.model.digit_log_probs(reading), self.model.codes)


class DenseHead(ExactHead):
    """Ranks items by the product of the history's vector with each item's, exactly.

    Args:
        model: says ``user_vectors(reading)``, ``[B, d]``, and ``item_vectors()``, ``[n_items, d]`` with any row 0, or
            :class:`~recbole_r3vae.model.generator.decoding.vectors.SummedCodes`.
    """

    def rank(self, reading: Any, k: int, rules: Sequence[Allowed] = (None,), strict: bool = True) -> list[Ranking]:
        """A score is the product of the two vectors."""
        users, items, bias = self.model.user_vectors(reading), self.model.item_vectors(), item_bias(self.model, reading)
        return [Ranking(*found) for found in rankings_by_vectors(users.float(), items.float(), k, rules, strict, bias)]

    def score(self, reading: Any, items: Tensor) -> Tensor:
        """The same of one item for each history."""
        scores, bias = self.products(reading, items[:, None]), item_bias(self.model, reading)
        return (scores if bias is None else scores + bias.gather(1, items[:, None])).squeeze(1)

    def score_items(self, reading: Any) -> ScoreItems:
        """Products."""
        return vector_scores(self.model.user_vectors(reading).float(), self.model.item_vectors().float())

    def products(self, reading: Any, items: Tensor) -> Tensor:
        """The products with several items a history ``[B, C]``, float32, without the prior."""
        users, vectors = self.model.user_vectors(reading).float(), self.model.item_vectors().float()
        with torch.autocast(users.device.type, enabled=False):  # bfloat16 would tie what rank tells apart
            return torch.einsum("bd,bcd->bc", users, vectors[items])


def item_bias(model: Any, reading: Any) -> Tensor | None:
    """What a model adds to the score of every item, whichever head ranks it: float32 ``[B, n_items]``, or ``None``.

    A model that has a prior on items, such as :class:`~recbole_r3vae.model.repeat_prior.RepeatPrior`, says it as ``item_bias(reading)``.
    """
    say = getattr(model, "item_bias", None)
    return None if say is None else say(reading)


def of_rows(rule: Allowed, begin: int, end: int) -> Allowed:
    """A rule on a batch of users for some of its rows."""
    if isinstance(rule, Excluded):
        here = (rule.users >= begin) & (rule.users < end)
        return Excluded(rule.users[here] - begin, rule.items[here])
    return rule[begin:end] if rule is not None and rule.dim() == 2 else rule
