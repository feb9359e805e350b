"""Rerank: write the semantic ID of the next item, then re-rank what the beam found by a dense vector.

The idea of LIGER (Yang et al., "Unifying Generative and Dense Retrieval for Sequential Recommendation", arXiv 2411.18814) and COBRA
(arXiv 2503.02453): codes find candidates cheaply, vectors tell them apart. From the state in which the last code was chosen the model
also predicts the content vector of the item, and an item that the beam found scores

    log p(semantic ID) + dense_weight * cos(predicted vector, content vector) / temperature.

LIGER predicts the vector from the history alone and ranks by the cosine alone; COBRA predicts it from the state after the codes and blends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.model.contract import UNIQUE, Needs, Sources
from recbole_r3vae.model.generator.decoding.rules import check_found
from recbole_r3vae.model.heads import Ranking
from recbole_r3vae.model.parameters import SHARE, Number, Whole
from recbole_r3vae.model.ranker import SIDGenerator


@dataclass
class Decoding:
    """The state of a decoder: what each beam has read and written so far."""

    context: Tensor  # [B, W, d]
    level: int = 0


class Rerank(SIDGenerator):
    """A GRU over items, each the sum of its codes' embeddings; two heads, the second for what the first found.

    Args:
        config: keys of ``Rerank.yaml``.
        dataset: training dataset with semantic IDs and content.
    """

    hyperparameters = {
        "hidden_size": Whole(), "dropout": SHARE, "dense_weight": Number(at_least=0), "temperature": Number(above=0),
    }  # fmt: skip

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        size = config["hidden_size"]
        self.dense_weight, self.temperature = config["dense_weight"], config["temperature"]
        self.register_buffer("item_vectors", vectors_of(self.sources), persistent=False)  # [n_items, D]
        self.code_embedding = nn.Embedding(self.n_tokens, size, padding_idx=0)
        self.gru = nn.GRU(size, size, batch_first=True)
        self.dropout = nn.Dropout(config["dropout"])
        self.code_heads = nn.ModuleList(nn.Linear(size, n_codes) for n_codes in self.codebook_sizes)
        self.dense_head = nn.Linear(size, self.item_vectors.shape[1])
        self.first_token = [1 + sum(self.codebook_sizes[:level]) for level in range(self.n_levels)]  # of each level's code 0

    @classmethod
    def needs(cls, config) -> Needs:
        return Needs(semantic_ids=UNIQUE, content=())

    @classmethod
    def loss_name(cls, config) -> str:
        return "NLL of semantic ID + softmax of vectors"

    def encode(self, items: Tensor) -> Tensor:
        """Vectors of every position ``[B, T, d]`` of histories ``[B, T]``."""
        return self.dropout(self.gru(self.dropout(self.code_embedding(self.tokens[items]).sum(2)))[0])

    def similarities(self, states: Tensor, items: Tensor) -> Tensor:
        """Cosine over temperature between predicted vectors and those of items: ``[..., d]`` and ``[...]`` to ``[...]``."""
        return (F.normalize(self.dense_head(states).float(), dim=-1) * self.item_vectors[items]).sum(-1) / self.temperature

    def calculate_loss(self, interaction) -> Tensor:
        """Negative log-likelihood of the semantic ID, and of the item in the softmax of the cosines over the catalogue."""
        target = interaction[TARGET_LIST_FIELD]  # [B, T], 0 where a position has none
        context = self.encode(interaction[self.ITEM_SEQ])[target > 0]  # [N, d]
        target, loss = target[target > 0], 0
        for level, head in enumerate(self.code_heads):
            if level:
                context = context + self.code_embedding(self.tokens[target, level - 1])
            loss = loss + F.cross_entropy(head(context), self.codes[target, level])
        predicted = F.normalize(self.dense_head(context), dim=-1)  # [N, D]
        return loss + F.cross_entropy(predicted @ self.item_vectors[1:].T / self.temperature, target - 1)

    # -- the generative head -------------------------------------------------------------------------------------------------

    def read(self, interaction) -> Tensor:
        """Histories as vectors ``[B, d]``."""
        return self.gather_indexes(self.encode(interaction[self.ITEM_SEQ]), interaction[self.ITEM_SEQ_LEN] - 1)

    def start(self, reading: Tensor) -> Decoding:
        return Decoding(reading[:, None])

    def step(self, state: Decoding, tokens: Tensor | None, parents: Tensor | None) -> Tensor:
        level, state.level = state.level, state.level + 1
        if level:
            extended = state.context.take_along_dim(parents[..., None], 1)  # [B, W, d]
            state.context = extended + self.code_embedding(tokens + self.first_token[level - 1])
        return self.code_heads[level](state.context).float().log_softmax(-1)  # [B, W, K]

    def beam_states(self, state: Decoding, parents: Tensor) -> Tensor:
        """The states in which the last codes were chosen, ``[B, W, d]``."""
        return state.context.take_along_dim(parents[..., None], 1)

    # -- both heads ------------------------------------------------------------------------------------------------------------

    def rank(self, reading: Any, k: int, rules: Sequence = (None,), strict: bool = True) -> list[Ranking]:
        """The k best of all items that the beam found."""
        width = max(k, self.heads["generate"].most_items)  # the head refuses a k above its beams
        rankings = []
        for found in self.heads["generate"].rank(reading, width, rules, strict=False):
            scores = found.scores + self.dense_weight * self.similarities(found.states, found.items)  # [B, W]; -inf stays
            scores, order = scores.sort(dim=1, descending=True, stable=True)
            rankings.append(Ranking(found.items.gather(1, order)[:, :k], scores[:, :k]))
        is_nan = torch.stack([ranking.scores.isnan().any() for ranking in rankings]).any()
        check_found([ranking.items for ranking in rankings], is_nan, strict)
        return rankings

    def score(self, reading: Any, items: Tensor) -> Tensor:
        items = items[:, None]  # [B, 1]
        log_probs, states = self.heads["generate"].follow(reading, items)  # [B, 1], [B, 1, d]
        return (log_probs + self.dense_weight * self.similarities(states, items)).squeeze(1)

    def grow(self, sources: Sources) -> None:
        super().grow(sources)
        self.item_vectors = vectors_of(sources).to(self.item_vectors.device)


def vectors_of(sources: Sources) -> Tensor:
    """Content vectors of unit length ``[n_items, D]``, the padding item's 0."""
    return F.normalize(torch.from_numpy(np.array(sources.content.embeddings, dtype=np.float32)), dim=-1)
