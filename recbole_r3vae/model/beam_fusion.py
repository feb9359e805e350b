"""COBRA's BeamFusion: a beam over semantic IDs that items share, and among the items of each the nearest to a vector.

Yang et al., "Sparse Meets Dense: Unified Generative Recommendations with Cascaded Sparse-Dense Representations", NeurIPS 2025,
arXiv 2503.02453.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recbole_r3vae.model.generator.decoding.buckets import Buckets
from recbole_r3vae.model.generator.decoding.rules import Allowed, check_found
from recbole_r3vae.model.heads import EXACT, AutoregressiveHead, Ranking, best_of, item_bias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recbole.config import Config

CANDIDATES = 2**23
"""Candidates that exist at a time: 64 MiB of item numbers."""


class BeamFusion(AutoregressiveHead):
    """Ranks items by their semantic IDs and by the vectors that these lead to.

    A beam finds ``num_beams`` IDs of log-probability phi, each predicts a vector, and the ``bucket_items`` nearest items of its bucket are
    candidates. They are ranked by softmax(tau phi) softmax(psi cos), both softmaxes over all candidates of a user. The score is the logarithm
    of that without its constant, ``tau phi + psi cos``, so that it is one of the item alone. A prior on items is added to it, before the
    nearest items of a bucket are taken.

    Args:
        model: says ``start``, ``step``, ``predicted`` and ``item_vectors``.
        config: ``num_beams``, ``bucket_items``, ``tau``, ``psi``, and ``fusion``: without it the first ID alone is taken.
    """

    def __init__(self, model: Any, config: Config):
        super().__init__(model, config["num_beams"])
        self.n, self.tau, self.psi, self.fusion = (config[key] for key in ("bucket_items", "tau", "psi", "fusion"))
        self._buckets = None, None

    @property
    def buckets(self) -> Buckets:
        """The items of each ID, on the model's device."""
        key = self.model.sources.semantic_ids, self.model.codes.device
        if self._buckets[0] != key:
            self._buckets = key, Buckets(*key)
        return self._buckets[1]

    @property
    def width(self) -> int:
        """IDs that a beam finds, at most."""
        return len(self.buckets) if self.num_beams == EXACT else min(self.num_beams + self.spare, len(self.buckets))

    @property
    def most_items(self) -> int:
        """So many of each bucket."""
        return self.n * self.width

    @property
    def rows_at_once(self) -> int:
        """So many users that :data:`CANDIDATES` suffice."""
        return min(super().rows_at_once, max(1, CANDIDATES // (self.width * int(self.buckets.size.max()))))

    def rank(self, reading: Any, k: int, rules: Sequence[Allowed] = (None,), strict: bool = True) -> list[Ranking]:
        """The k best candidates. Without ``fusion`` a list ends where the bucket does, and is never too short."""
        model, buckets, n_beams = self.model, self.buckets, self.width if self.fusion else 1
        of_buckets = [buckets.allowed(rule, len(reading.state)) for rule in rules]
        rankings, bias = [], item_bias(model, reading)
        bias = None if bias is None else bias / self.psi  # of a cosine
        for rule, beams in zip(rules, self.search(reading, buckets.tree, self.width, n_beams, of_buckets, strict=False)):
            predicted = model.predicted(reading, buckets.first_items(beams.items))  # [B, M, d]
            items, cosine = buckets.nearest(beams.items, predicted, model.item_vectors(), self.n, rule, bias)  # [B, M, N] both
            rankings.append(best_of(items.flatten(1), (self.tau * beams.scores[..., None] + self.psi * cosine).flatten(1), k))
        is_nan = torch.stack([ranking.scores.isnan().any() for ranking in rankings]).any()
        check_found([ranking.items for ranking in rankings], is_nan, strict and self.fusion)
        return rankings

    def score(self, reading: Any, items: Tensor) -> Tensor:
        """The same of one item for each history, whether or not a beam finds it."""
        cosine = (self.model.predicted(reading, items[:, None])[:, 0] * self.model.item_vectors()[items]).sum(-1)
        scores, bias = self.tau * self.log_probs(reading, items[:, None])[:, 0] + self.psi * cosine, item_bias(self.model, reading)
        return scores if bias is None else scores + bias.gather(1, items[:, None])[:, 0]

    def item_log_probs(self, reading: Any, items: Tensor) -> Tensor:
        """See :meth:`.Head.item_log_probs`: the ID's, and among its items the softmax of psi cos, which the fused score leaves out."""
        model, buckets = self.model, self.buckets
        of_items, vectors = buckets.of_item[items], model.predicted(reading, items)  # [B, C], [B, C, d]
        others, cosine = buckets.nearest(of_items, vectors, model.item_vectors(), int(buckets.size.max()))  # [B, C, S]
        within = (self.psi * cosine).log_softmax(-1).masked_fill(others != items[..., None], 0).sum(-1)
        return self.log_probs(reading, items) + within
