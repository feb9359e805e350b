"""Models that rank items for a history by their heads: what they share, and RecBole's prediction methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_r3vae.data.sequences import WindowDataset
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import SHARED, UNIQUE, Contract, Needs, Sources
from recbole_r3vae.model.generator.decoding.rules import Allowed
from recbole_r3vae.model.heads import EXACT, AutoregressiveHead, Head, Ranking, joined, of_rows
from recbole_r3vae.model.parameters import Choice, Either, Flag, Number, Whole
from recbole_r3vae.model.repeat_prior import RepeatPrior
from recbole_r3vae.sid.collisions import POLICIES

LIST_METRICS = {"recall", "ndcg", "mrr", "hit", "map", "precision"}
"""Metrics of a user's targets that a list of the best items gives."""

COVERAGE_METRICS = {"itemcoverage", "averagepopularity", "giniindex", "shannonentropy", "tailpercentage"}
"""Metrics of the items that are recommended, likewise."""

SCHEDULES = ("constant", "cosine", "inverse_sqrt")


class Ranker(Contract, SequentialRecommender):
    """A RecBole ``SequentialRecommender`` that reads a history once and hands over its best items.

    A subclass implements ``calculate_loss`` and :meth:`read`, and has one or several heads. With one, that head ranks; with several, it
    overrides :meth:`rank` and :meth:`score` and says how they are blended.

    Args:
        config: RecBole-like configuration.
        dataset: training dataset with an attribute ``sources`` (:class:`~recbole_r3vae.model.contract.Sources`) where it asks for any.

    Attributes:
        heads: name to head.
        prior: on repeats, of models that learn one: what their :meth:`read` returns has the histories as ``items`` and ``lengths``.
        sources: what the model asked for.
        codes: ``[n_items, L]`` int64 codes of the semantic IDs, row 0 is -1; only where the model asked for them.
        tokens: ``[n_items, L]`` int64 tokens of one vocabulary of all levels' codes, row 0 is 0; likewise.
    """

    input_type = InputType.POINTWISE
    dataset_class = WindowDataset
    ranks_lists = True
    hyperparameters = {
        "lr_schedule": Either(None, Choice(*SCHEDULES)),
        "warmup_steps": Either(None, Whole(0)),
        "enable_amp": Either(None, Flag()),
        "max_minutes": Either(None, Number(at_least=0)),
    }

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.heads: dict[str, Head] = {}
        self.prior: RepeatPrior | None = None
        self._know(getattr(dataset, "sources", Sources()))

    def _know(self, sources: Sources) -> None:
        self.sources = sources
        if sources.semantic_ids is not None:
            sids = sources.semantic_ids
            self.codebook_sizes = sids.codebook_sizes
            self.n_levels, self.n_tokens = sids.n_levels, sids.n_tokens
            device = self.codes.device if hasattr(self, "codes") else None
            # The checkpoint keeps the semantic IDs themselves, so these need not be among the weights.
            self.register_buffer("codes", sids.codes.clone().to(device), persistent=False)
            self.register_buffer("tokens", sids.tokens().to(device), persistent=False)

    @classmethod
    def check(cls, config) -> None:
        super().check(config)
        refused = [metric for metric in config["metrics"] if metric.lower() not in LIST_METRICS | COVERAGE_METRICS]
        if refused:
            raise UserError(
                f"metric {refused[0]} needs a score for every item, and {cls.__name__} hands over its best ones; "
                "choose among Recall, NDCG, MRR, Hit, MAP, Precision, ItemCoverage, AveragePopularity, GiniIndex, ShannonEntropy, "
                "TailPercentage"
            )

    # -- for a subclass --------------------------------------------------------------------------------------------------

    def read(self, interaction: Interaction) -> Any:
        """Read histories, once for all heads and rules.

        Args:
            interaction: a batch of B users with their histories.

        Returns:
            What the heads rank from; they leave it as it is.
        """
        raise NotImplementedError

    def rank(self, reading: Any, k: int, rules: Sequence[Allowed] = (None,), strict: bool = True) -> list[Ranking]:
        """The k best items under each of several rules on who may be recommended what.

        Args:
            reading: of B histories, from :meth:`read`.
            k: number of items.
            rules: each bool ``[n_items]`` or ``[B, n_items]``, the only items that may be recommended;
                :class:`~recbole_r3vae.model.generator.decoding.rules.Excluded`, all but those; or ``None``, all.
            strict: whether fewer than k possible items are an error, or padded with id 0 and ``-inf`` (as in evaluation).

        Returns:
            A :class:`~recbole_r3vae.model.heads.Ranking` for each rule.

        Raises:
            UserError: (``strict``) fewer than k items are possible, or a head cannot find as many.
        """
        (head,) = self.heads.values()
        return head.rank(reading, k, rules, strict)

    def rank_and_watch(self, reading: Any, k: int, rules: Sequence[Allowed], strict: bool, targets: Tensor) -> list[Ranking]:
        """:meth:`rank`, and of models that write codes :attr:`.Ranking.prefix_ranks` of the items ``targets`` [B]; others have none."""
        return self.rank(reading, k, rules, strict)

    def score(self, reading: Any, items: Tensor) -> Tensor:
        """Exact scores of one item for each history.

        Args:
            reading: of B histories.
            items: ``[B]`` item ids.

        Returns:
            ``[B]`` float32, on the scale of :meth:`rank`'s.
        """
        (head,) = self.heads.values()
        return head.score(reading, items)

    # -- for everybody else ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def recommend(
        self, interaction: Interaction, k: int, allowed: Allowed = None, strict: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The k best items.

        Args:
            interaction: a batch of B users with their histories.
            k: number of items.
            allowed: one rule of :meth:`rank`.
            strict: see there.

        Returns:
            Item ids ``[B, k]`` and their scores ``[B, k]``, best first.
        """
        (ranking,) = self.recommend_under(interaction, k, [allowed], strict)
        return ranking.items, ranking.scores

    @torch.no_grad()
    def recommend_under(
        self, interaction: Interaction, k: int, rules: Sequence[Allowed], strict: bool = True, targets: Tensor | None = None
    ) -> list[Ranking]:
        """The k best items under each of several rules, for which the histories are read once; see :meth:`rank`.

        Where a head scores more than memory should hold, some of the users at a time. With ``targets``, items ``[B]``, the same rankings
        also say how these fared on the way, see :meth:`rank_and_watch`.
        """
        rows = min((head.rows_at_once for head in self.heads.values()), default=len(interaction)) or 1
        found = []
        for begin in range(0, len(interaction), rows):
            end = min(begin + rows, len(interaction))
            reading, of_these = self.read(interaction[begin:end]), [of_rows(rule, begin, end) for rule in rules]
            if targets is None:
                found.append(self.rank(reading, k, of_these, strict))
            else:
                found.append(self.rank_and_watch(reading, k, of_these, strict, targets[begin:end]))
        return found[0] if len(found) == 1 else [joined(parts) for parts in zip(*found)]

    @torch.no_grad()
    def predict(self, interaction: Interaction) -> Tensor:
        """Exact scores ``[B]`` of ``item_id``."""
        return self.score(self.read(interaction), interaction[self.ITEM_ID])

    @torch.no_grad()
    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of all items, for RecBole's own tools: those that :meth:`rank` does not find are ``-inf``.

        Returns:
            ``[B, n_items]`` float32.
        """
        items, scores = self.recommend(interaction, self.most_items, strict=False)
        full = torch.full((len(items), self.n_items), -torch.inf, device=items.device)
        return full.scatter_(1, items, scores)

    def item_bias(self, reading: Any) -> Tensor | None:
        """What is added to the score of every item, ``[B, n_items]``: the prior on repeats; ``None`` without one."""
        return None if self.prior is None else self.prior.bias(reading.items, reading.lengths, self.n_items)

    @property
    def most_items(self) -> int:
        """How many items :meth:`rank` can find at most."""
        return min(self.n_items - 1, *(head.most_items for head in self.heads.values()))

    def validating(self, under_way: bool) -> None:
        """Called before and after an epoch is validated, for models that then search less than when they are tested."""

    def grow(self, sources: Sources) -> None:
        """Know the items of ``sources``: the old ones in their order, then new ones. See :meth:`.Contract.grow`."""
        known = sources.semantic_ids if sources.semantic_ids is not None else sources.content
        if known is None:
            super().grow(sources)  # refuses
        self._know(sources)
        self.n_items = len(known.item_ids)


class SIDGenerator(Ranker):
    """A ranker with an autoregressive head: it writes the semantic ID of the next item, code by code.

    A subclass implements ``calculate_loss``, :meth:`read`, :meth:`start` and :meth:`step`. It may have other heads, and, where
    :meth:`writes_codes` says so, those alone.

    Args:
        config: ``num_beams`` is read here, a number or :data:`~recbole_r3vae.model.heads.EXACT`.
        dataset: as of :class:`Ranker`, with semantic IDs.
    """

    family = "generative"
    hyperparameters = {
        "num_beams": Either(Whole(), EXACT),
        "valid_num_beams": Either(Whole(), EXACT),
        "collision_policy": Choice(*POLICIES),
    }

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self._beams = config["num_beams"], config["valid_num_beams"]
        if self.writes_codes(config):
            self.heads["generate"] = AutoregressiveHead(self, config["num_beams"])

    @classmethod
    def writes_codes(cls, config) -> bool:
        """Whether it has an autoregressive head under this configuration."""
        return True

    @classmethod
    def needs(cls, config) -> Needs:
        return Needs(semantic_ids=UNIQUE if cls.writes_codes(config) else SHARED)

    @classmethod
    def check(cls, config) -> None:
        super().check(config)
        if not cls.writes_codes(config):
            return
        widest = max(config["topk"])
        for key in ("valid_num_beams", "num_beams"):
            if config[key] != EXACT and config[key] < widest:
                raise UserError(f"{key}={config[key]} is below the largest topk={widest}; use --{key}={widest} or more")

    @classmethod
    def loss_name(cls, config) -> str:
        return "NLL of semantic ID"

    @property
    def num_beams(self) -> int | str:
        """Beams a user, or :data:`~recbole_r3vae.model.heads.EXACT`."""
        return self.heads["generate"].num_beams

    @num_beams.setter
    def num_beams(self, value: int | str) -> None:
        self.heads["generate"].num_beams = value

    def validating(self, under_way: bool) -> None:
        """Search with ``valid_num_beams`` while an epoch is validated, with ``num_beams`` otherwise."""
        if "generate" in self.heads:
            self.num_beams = self._beams[under_way]

    def rank_and_watch(self, reading: Any, k: int, rules: Sequence[Allowed], strict: bool, targets: Tensor) -> list[Ranking]:
        """See :meth:`Ranker.rank_and_watch`: where the beams of the autoregressive head had the targets' prefixes, whatever ranks then."""
        head = self.heads.get("generate")
        if head is None:
            return self.rank(reading, k, rules, strict)
        head.watched, head.prefix_ranks = self.codes[targets], []
        try:
            rankings = self.rank(reading, k, rules, strict)
        finally:
            head.watched = None
        ranks = head.prefix_ranks or [None] * len(rankings)  # a model may have ranked by another head alone
        return [replace(ranking, prefix_ranks=of_rule) for ranking, of_rule in zip(rankings, ranks)]

    def start(self, reading: Any) -> Any:
        """Begin to decode.

        Args:
            reading: of B histories.

        Returns:
            The state from which :meth:`step` decodes; :meth:`step` may change it.
        """
        raise NotImplementedError

    def step(self, state: Any, tokens: Tensor | None, parents: Tensor | None) -> Tensor:
        """Log-probabilities of the next level's codes.

        Args:
            state: from :meth:`start`.
            tokens: ``[B, W]`` codes chosen at the level before; ``None`` at the first level.
            parents: ``[B, W]`` which of the previous step's beams each of them extends; ``None`` at the first level.

        Returns:
            ``[B, W, K]`` over the level's whole codebook (W = 1 at the first level).
        """
        raise NotImplementedError
