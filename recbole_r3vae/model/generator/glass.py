"""GLASS: a TIGER that looks up its user's long history, as a summary before it writes and by the first code once that is written.

"Coarse-to-Fine Long-term Interest Modeling for Generative Recommendation", 2026, arXiv 2602.05663. The method follows summaries of the paper
and of the authors' code. That code finds items which the user met after the target of a training row. Here a row holds what lies before its
target and nothing else, so that there is nothing later to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import Needs, Sources
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.generator.decoding.constrain import take_rows
from recbole_r3vae.model.generator.t5 import DecoderLayer, projection
from recbole_r3vae.model.generator.tiger import TIGER, DecodingState, Reading
from recbole_r3vae.model.item_vectors import copied
from recbole_r3vae.model.packing import Packing, pack
from recbole_r3vae.model.parameters import Either, Number, Whole

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction


@dataclass
class Found:
    """The tokens of what was found in B long histories for Q queries each.

    They have no order, so each query has a count for every token of the vocabulary, and attention to what was found is attention to the
    vocabulary with the logarithm of the counts on its logits: one table of keys serves all beams, however long histories are.
    """

    vectors: Tensor  # [V, d], of the vocabulary
    log_counts: Tensor  # [B, Q, V], -inf where a token was not found; 0 where nothing was
    nothing: Tensor  # [B, Q, 1], where nothing was found


class SearchingLayer(DecoderLayer):
    """T5's decoder layer with a second reader, for what was found, and a gate between the two.

    ``Z = (1 - g) Z_s + g Z_r`` with ``g = sigmoid(W [Z_s; Z_r])``, a vector: Z_s is read from the encoded history, Z_r from what was found.
    Where nothing was found g is 0.

    Args:
        sizes: of a :class:`~recbole_r3vae.model.generator.t5.DecoderLayer`.
        fixed_gate: g itself; ``None`` learns it.
    """

    def __init__(self, *sizes: Any, fixed_gate: float | None):
        super().__init__(*sizes)
        size, attention_size = sizes[0], self.cross_query.out_features
        self.found_query, self.found_kv = projection(size, attention_size), projection(size, 2 * attention_size)
        self.found_out = projection(attention_size, size)
        self.fixed_gate = fixed_gate
        if fixed_gate is None:
            self.gate = projection(2 * size, size)

    def scale_queries(self, by: float) -> None:
        """Multiply the weights that make queries, those to what was found among them."""
        super().scale_queries(by)
        self.found_query.weight *= by

    def beside(self, h: Tensor, read: Tensor, found: Found | None = None) -> Tensor:
        """Z, ``[B, Q, d]``; ``h`` are the normed inputs, ``read`` is Z_s, ``found`` belongs to the same B histories and Q queries."""
        if found is None:
            return read
        key, value = self.attention.heads(self.found_kv(found.vectors), 2).unbind(1)  # [V, H, A/H] each
        query = self.attention.heads(self.found_query(h).flatten(0, 1), 1).squeeze(1)  # [B * Q, H, A/H]
        bias = found.log_counts.flatten(0, 1)  # [B * Q, V]
        z = self.found_out(self.attention(query[None], key[None], value[None], bias)).view_as(read)
        g = torch.sigmoid(self.gate(torch.cat([read, z], -1))) if self.fixed_gate is None else self.fixed_gate
        return read + (g * (z - read)).masked_fill(found.nothing, 0)


@dataclass
class SearchingState(DecodingState):
    """A TIGER's, and the long histories."""

    long: Tensor | None = None  # [B, T]


class GLASS(TIGER):
    """TIGER over the last items of a history, with two ways to what came before.

    The last ``recent_items`` items go into the encoder. Those before are the *long history*; a user without one is a TIGER's.

    * ``n_tiers`` (SID-Tier). A prototype is the mean content vector of the items of one first code. The cosines of the long history's items
      with it make a histogram of as many tiers over [-1, 1], which sums to 1; the histograms of all first codes go through a perceptron
      and are one more token at the head of the encoder's input. (The authors' code puts it there, their paper at the tail.)
    * ``retrieve`` (semantic hard search). Once the first code is written, or in training the true one given, the last so many items of the
      long history with this first code are found, for each beam by its own. The decoder's layers attend to their tokens, see
      :class:`SearchingLayer`. These are the shared embeddings, which learn nothing from it, through a linear layer.
    * ``neighbour_codes`` (semantic neighbour augmentation). Where fewer than ``neighbours_below`` items have the code, items whose first codes
      have the most similar prototypes count too.

    Of 0, each of the three is left out.

    Args:
        config: keys of ``properties/model/GLASS.yaml``. :meth:`check` took it.
        dataset: training dataset with ``sources``: semantic IDs and, for prototypes, item content.
    """

    hyperparameters = {
        "recent_items": Whole(),
        "n_tiers": Whole(0),
        "retrieve": Whole(0),
        "fixed_gate": Either(None, Number(at_least=0, at_most=1)),
        "neighbour_codes": Whole(0),
        "neighbours_below": Whole(),
    }

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        size, n_first = config["hidden_size"], self.codebook_sizes[0]
        self.n_recent, self.n_tiers, self.retrieve = (config[key] for key in ("recent_items", "n_tiers", "retrieve"))
        self.n_neighbours, self.neighbours_below = config["neighbour_codes"], config["neighbours_below"]
        if self.retrieve:
            self.found_in = nn.Linear(size, size)
            nn.init.normal_(self.found_in.weight, std=size**-0.5)
        if self.needs(config).content is not None:
            self.register_buffer("content", copied(self.sources.content.embeddings), persistent=False)  # [n_items, D]
            self.register_buffer("prototypes", self.centres())  # [K, D]; they stay when items join
        if self.n_tiers:
            self.tier = nn.Sequential(nn.Linear(n_first * self.n_tiers, size), nn.ReLU(), Dropout(config["dropout"]), nn.Linear(size, size))

    def decoder_layer(self, config: Config, *sizes: Any) -> DecoderLayer:
        """One that searches, unless nothing is to be found."""
        return SearchingLayer(*sizes, fixed_gate=config["fixed_gate"]) if config["retrieve"] else super().decoder_layer(config, *sizes)

    # -- two parts of a history ----------------------------------------------------------------------------------------------

    def recent(self, interaction: Interaction) -> Interaction:
        """The same rows with the last ``recent_items`` items of each history alone."""
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        first = (length - self.n_recent).clamp(min=0)[:, None]  # [B, 1]
        place = first + torch.arange(min(self.n_recent, items.shape[1]), device=items.device)  # [B, n]
        kept = items.gather(1, place).where(place < length[:, None], 0)
        rows = interaction[torch.arange(len(interaction))]
        rows[self.ITEM_SEQ], rows[self.ITEM_SEQ_LEN] = kept, length.clamp(max=self.n_recent)
        return rows

    def long(self, items: Tensor, length: Tensor) -> Tensor:
        """The items before those, of histories ``[B, T]`` with ``[B]`` items, oldest first and 0 on the right; as wide as the longest."""
        n_old = (length - self.n_recent).clamp(min=0)  # [B]
        width = int(n_old.max())
        return items[:, :width].where(torch.arange(width, device=items.device) < n_old[:, None], 0)

    # -- the summary of the long history -------------------------------------------------------------------------------------

    def centres(self) -> Tensor:
        """Mean content of the items of each first code ``[K, D]``; that of all items for a code that none has."""
        content, codes, n_first = self.content[1:], self.codes[1:, 0], self.codebook_sizes[0]
        count = torch.bincount(codes, minlength=n_first)[:, None]  # [K, 1]
        mean = content.new_zeros(n_first, content.shape[1]).index_add(0, codes, content) / count.clamp(min=1)
        return mean.where(count > 0, content.mean(0))

    def histograms(self, long: Tensor) -> Tensor:
        """The tiers of long histories ``[B, T]`` by every first code, side by side: ``[B, K * n_tiers]``; 0 throughout without items."""
        known, row = long.unique(return_inverse=True)  # [U], [B, T]
        cosine = F.normalize(self.content[known], dim=-1) @ F.normalize(self.prototypes, dim=-1).T  # [U, K]
        tier = ((cosine + 1) / 2 * self.n_tiers).long().clamp(0, self.n_tiers - 1)
        place = (tier + self.n_tiers * torch.arange(len(self.prototypes), device=long.device))[row]  # [B, T, K]
        real = (long > 0).to(self.content.dtype)  # [B, T]
        share = real / real.sum(1, keepdim=True).clamp(min=1)
        empty = share.new_zeros(len(long), len(self.prototypes) * self.n_tiers)
        return empty.scatter_add(1, place.flatten(1), share[..., None].expand(place.shape).flatten(1))

    def encode(self, interaction: Interaction) -> tuple[Tensor, Packing]:
        """As :meth:`TIGER.encode`, of recent items and, where there is a long history, its summary before them."""
        recent = self.recent(interaction)
        long = self.long(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        if not self.n_tiers or not long.shape[1]:
            return super().encode(recent)
        _, tokens, _ = self.lay_out(recent)
        tokens = torch.cat([(long[:, :1] > 0).long(), tokens], 1)  # [B, 1 + S]; any token, where the summary is to stand
        packing = pack(tokens > 0)
        summary = self.tier(self.histograms(long))[packing.place // packing.padded_shape[1]]  # [M, d]
        x = summary.where(packing.position()[:, None] == 0, self.embedding(packing.take(tokens)))
        return self.encoded(self.dropout(x), packing), packing

    # -- the search ----------------------------------------------------------------------------------------------------------

    def search(self, long: Tensor, first: Tensor) -> Tensor:
        """Which items of long histories ``[B, T]`` are found for first codes ``[B, Q]``: bool ``[B, Q, T]``."""
        codes = self.codes[long, 0][:, None]  # [B, 1, T], -1 where there is no item
        found = codes == first[..., None]
        if self.n_neighbours:
            few = found.sum(-1, keepdim=True) < self.neighbours_below  # [B, Q, 1]
            near = self.neighbours()[first[..., None], codes.clamp(min=0)] & (codes >= 0)  # [B, Q, T]
            found = found | (few & near)
        later = found.flip(-1).cumsum(-1).flip(-1)  # how many are found from here on
        return found & (later <= self.retrieve)

    def neighbours(self) -> Tensor:
        """Which first codes have the prototypes most similar to that of each: bool ``[K, K]``, none its own."""
        unit = F.normalize(self.prototypes, dim=-1)
        cosine = (unit @ unit.T).fill_diagonal_(-torch.inf)
        nearest = cosine.topk(min(self.n_neighbours, len(unit) - 1), dim=1).indices
        return torch.zeros_like(cosine, dtype=torch.bool).scatter_(1, nearest, True)

    def found(self, long: Tensor, first: Tensor) -> Found:
        """What :meth:`search` finds, as counts of tokens."""
        found = self.search(long, first)  # [B, Q, T]
        tokens = self.tokens[long].flatten(1)[:, None].expand(-1, first.shape[1], -1)  # [B, Q, T * L]
        counts = torch.zeros(*first.shape, self.n_tokens, device=long.device)  # [B, Q, V]
        counts.scatter_add_(2, tokens, found.repeat_interleave(self.n_levels, 2).to(counts.dtype))
        nothing = ~found.any(2, keepdim=True)
        return Found(self.found_in(self.embedding.weight[: self.n_tokens].detach()), (counts + nothing).log(), nothing)

    def evidence(self, interaction: Interaction, packing: Packing) -> tuple[Found, ...]:
        """What is found for the targets' first codes, at every level but the first, which knows none."""
        long = self.long(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])[packing.order]
        if not self.retrieve or not long.shape[1]:
            return ()
        found = self.found(long, self.codes[interaction[self.ITEM_ID][packing.order], :1])  # Q = 1
        nothing = F.pad(found.nothing.expand(-1, self.n_levels - 1, -1), (0, 0, 1, 0), value=True)  # [B, L, 1]
        return (Found(found.vectors, found.log_counts.expand(-1, self.n_levels, -1), nothing),)

    def start(self, reading: Reading) -> SearchingState:
        """Begin to decode; see :meth:`SIDGenerator.start`."""
        return SearchingState(**vars(super().start(reading)), long=self.long(reading.items, reading.lengths))

    def step(self, state: SearchingState, tokens: Tensor | None, parents: Tensor | None) -> Tensor:
        """Log-probabilities of the next level's codes; see :meth:`SIDGenerator.step`."""
        if self.retrieve and state.long.shape[1] and state.level == 1:
            state.more = (self.found(state.long, tokens),)
        elif state.more:
            (found,) = state.more
            state.more = (Found(found.vectors, take_rows(found.log_counts, parents), take_rows(found.nothing, parents)),)
        return super().step(state, tokens, parents)

    # -- what it says of itself --------------------------------------------------------------------------------------------

    def grow(self, sources: Sources) -> None:
        """Know more items, see :meth:`.Contract.grow`; prototypes stay those of the old ones."""
        super().grow(sources)
        if hasattr(self, "content"):
            self.content = copied(sources.content.embeddings).to(self.content.device)

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range, histories are too short to leave a long one, or there are neighbours and no search.
        """
        super().check(config)
        n_recent, longest = config["recent_items"], config["MAX_ITEM_LIST_LENGTH"]
        if n_recent >= longest:
            raise UserError(
                f"recent_items is {n_recent} and MAX_ITEM_LIST_LENGTH {longest}, so there is no long history; give fewer of the first or a "
                "larger number for the second"
            )
        if config["neighbour_codes"] and not config["retrieve"]:
            raise UserError(f"neighbour_codes is {config['neighbour_codes']} and retrieve 0, which finds nothing; leave one of them out")

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Unique semantic IDs, and item content where prototypes are asked for."""
        return Needs(super().needs(config).semantic_ids, content=() if config["n_tiers"] or config["neighbour_codes"] else None)

    @classmethod
    def result_name(cls, config: Config) -> str:
        """``GLASS``; ``-tiers`` or ``-search`` where it has that alone, ``-recent`` where it has neither."""
        names = {(True, True): "", (True, False): "-tiers", (False, True): "-search", (False, False): "-recent"}
        return cls.__name__ + names[config["n_tiers"] > 0, config["retrieve"] > 0]
