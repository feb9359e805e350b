"""What every generator of semantic IDs shares: the codes, the tree of existing IDs, and RecBole's prediction methods."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_r3vae.data.sequences import WindowDataset
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.decoding.beam import beam_search
from recbole_r3vae.sid.prefix_tree import PrefixTree, prefix_tree_of

EXACT = "exact"
"""The value of ``num_beams`` that scores the whole catalogue."""

EXACT_CELLS = 2**25
"""Log-probabilities that exact scoring holds at once: 128 MiB in float32."""


class SIDGenerator(SequentialRecommender):
    """A RecBole ``SequentialRecommender`` that writes the semantic ID of the next item, code by code.

    A subclass implements ``calculate_loss``, :meth:`start` and :meth:`step`. The item-to-code table is a buffer, so a checkpoint needs no
    tokenizer to recommend.

    Args:
        config: RecBole-like configuration; ``num_beams`` is read here, a number or :data:`EXACT`.
        dataset: training dataset with an attribute ``semantic_ids``, a
            :class:`~recbole_r3vae.sid.table.SemanticIDs` in the dataset's item order.
    """

    input_type = InputType.POINTWISE
    dataset_class = WindowDataset

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        sids = dataset.semantic_ids
        self.codebook_sizes = sids.codebook_sizes
        self.n_levels, self.n_tokens = sids.n_levels, sids.n_tokens
        self.register_buffer("codes", sids.codes.clone())  # [n_items, L], row 0 is -1
        self.register_buffer("tokens", sids.tokens(), persistent=False)  # [n_items, L], row 0 is 0
        self.item_ids = list(sids.item_ids)
        self.num_beams = config["num_beams"]
        self._tree: PrefixTree = prefix_tree_of(sids)

    @classmethod
    def check(cls, config) -> None:
        """Refuse settings that the model cannot be built with, before a tokenizer is trained for it.

        Raises:
            UserError: a key has a value outside its range.
        """

    @property
    def tree(self) -> PrefixTree:
        """The prefix tree of existing semantic IDs, on the model's device."""
        self._tree = self._tree.to(self.codes.device)
        return self._tree

    def other_parameter(self) -> dict[str, Any]:
        """What a checkpoint holds beside the weights: whose codes these are."""
        return {"codebook_sizes": list(self.codebook_sizes), "item_ids": self.item_ids}

    def load_other_parameter(self, para: dict[str, Any]) -> None:
        """Make sure that a checkpoint's codes belong to this catalogue.

        Raises:
            UserError: they belong to other items or codebooks.
        """
        if para["item_ids"] != self.item_ids or tuple(para["codebook_sizes"]) != tuple(self.codebook_sizes):
            raise UserError(
                f"the checkpoint was trained on {len(para['item_ids']) - 1} items with codebooks {para['codebook_sizes']}, this dataset has "
                f"{self.n_items - 1} items with codebooks {list(self.codebook_sizes)}; use the dataset and filters it was trained with"
            )

    def start(self, interaction: Interaction) -> Any:
        """Read the histories once.

        Args:
            interaction: a batch of B users with their histories.

        Returns:
            The state from which :meth:`step` decodes; :meth:`step` may change it.
        """
        raise NotImplementedError

    def step(self, state: Any, tokens: torch.Tensor | None, parents: torch.Tensor | None) -> torch.Tensor:
        """Log-probabilities of the next level's codes.

        Args:
            state: from :meth:`start`.
            tokens: ``[B, W]`` codes chosen at the level before; ``None`` at the first level.
            parents: ``[B, W]`` which of the previous step's beams each of them extends; ``None`` at the first level.

        Returns:
            ``[B, W, K]`` over the level's whole codebook (W = 1 at the first level).
        """
        raise NotImplementedError

    @torch.no_grad()
    def recommend(
        self, interaction: Interaction, k: int, allowed: torch.Tensor | None = None, strict: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k most probable items by beam search over the tree of existing semantic IDs.

        With ``num_beams: exact`` every item is scored, each prefix once, level by level, as many users at a time as memory allows: for
        catalogues up to some 50,000 items, and to learn what a beam misses.

        Args:
            interaction: a batch of B users with their histories.
            k: number of items.
            allowed: ``[n_items]`` or ``[B, n_items]`` bool, the only items that may be recommended; ``None`` allows all.
            strict: whether fewer than k possible items are an error (as in evaluation) or padded with id 0 and ``-inf``.

        Returns:
            Item ids ``[B, k]`` and their scores ``[B, k]``, best first. A score is the log-probability of the item's semantic ID.

        Raises:
            UserError: the beam is narrower than k, or (``strict``) fewer than k items are possible.
        """
        if self.num_beams != EXACT:
            beams = beam_search(self, self.start(interaction), self.tree, self.num_beams, k, allowed=allowed, strict=strict)
            return beams.items, beams.scores
        tree = self.tree  # a beam as wide as the tree reaches every item
        cells = max(n_nodes * size for n_nodes, size in zip(tree.n_nodes, tree.codebook_sizes))  # of a user's log-probabilities
        rows, parts = max(1, EXACT_CELLS // cells), []
        for begin in range(0, len(interaction), rows):
            users = interaction[begin : begin + rows]
            mine = allowed[begin : begin + rows] if allowed is not None and allowed.dim() == 2 else allowed
            width = max(*tree.n_nodes, self.n_items)
            parts.append(beam_search(self, self.start(users), tree, width, k, allowed=mine, strict=strict))
        return torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts])

    @torch.no_grad()
    def predict(self, interaction: Interaction) -> torch.Tensor:
        """Exact teacher-forced log-probability of the semantic ID of ``item_id``.

        Returns:
            ``[B]`` float32.
        """
        codes = self.codes[interaction[self.ITEM_ID]]  # [B, L]
        state, tokens, parents = self.start(interaction), None, None
        score = torch.zeros(len(codes), device=codes.device)
        for level in range(self.n_levels):
            log_probs = self.step(state, tokens, parents)  # [B, 1, K]
            tokens = codes[:, level, None]  # [B, 1]
            parents = torch.zeros_like(tokens)
            score += log_probs[:, 0].float().gather(1, tokens).squeeze(1)
        return score

    @torch.no_grad()
    def full_sort_predict(self, interaction: Interaction) -> torch.Tensor:
        """Scores of all items, for RecBole's own tools: those outside the beam's best ``num_beams`` are ``-inf``.

        Returns:
            ``[B, n_items]`` float32; with ``num_beams: exact`` the log-probability of every item.
        """
        k = self.n_items - 1 if self.num_beams == EXACT else min(self.num_beams, self.n_items - 1)
        items, scores = self.recommend(interaction, k, strict=False)
        full = torch.full((len(items), self.n_items), -torch.inf, device=items.device)
        return full.scatter_(1, items, scores)
