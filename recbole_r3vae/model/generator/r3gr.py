"""R3GR: a causal encoder over items that writes the next item's semantic ID with a small decoder.

The generator idea is TIGER's (Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065): recommend
by generating the semantic ID of the next item. TIGER feeds every code of the history to an encoder-decoder. R3GR reads one vector an
item, as SASRec does (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018), and spends its decoding on the L codes of
the next item alone. All positions of a history are trained at once, so an epoch costs a fraction of TIGER's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError, nearest
from recbole_r3vae.model.contract import UNIQUE, Needs, Sources
from recbole_r3vae.model.ranker import SIDGenerator
from recbole_r3vae.model.generator.layers import Packing, attend_levels, pack, reorder

ITEM_INPUTS = ("codes", "text", "id")
ENCODERS = ("transformer", "hstu")


class Block(nn.Module):
    """Pre-norm Transformer block; ``attend`` is given by whoever knows the layout of the positions.

    Args:
        size: width d.
        n_heads: attention heads H.
        inner_size: width of the feed-forward layer.
        dropout: probability on both residual branches.
    """

    def __init__(self, size: int, n_heads: int, inner_size: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.mlp = nn.Sequential(nn.Linear(size, inner_size), nn.GELU(), nn.Linear(inner_size, size))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """``x`` [..., d] to [..., d]; ``attend`` turns queries, keys and values [..., 3, H, d/H] into [..., d]."""
        x = x + self.dropout(self.out(attend(self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.n_heads, -1)))))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def causal_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Each of t positions attends to itself and those before it, all [n, H, t, d/H]."""
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)


class HSTUBlock(nn.Module):
    """Pointwise-aggregated attention without softmax, gated instead of followed by a feed-forward layer.

    HSTU's (Zhai et al., "Actions Speak Louder than Words", ICML 2024, arXiv 2402.17152, equations 1 to 3), with a learnt bias for each
    distance between positions; the interactions' times, which its bias may also use, are not read. The sum is not divided by the
    number of positions: the normalisation after it takes every scale away.

    Args:
        size: width d.
        n_heads: attention heads H.
        max_length: positions of the longest history.
        dropout: probability on the residual branch.
    """

    def __init__(self, size: int, n_heads: int, max_length: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm, self.gate_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkvu, self.out = nn.Linear(size, 4 * size), nn.Linear(size, size)
        self.distance_bias = nn.Parameter(torch.zeros(n_heads, max_length))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """``x`` [..., d] to [..., d]; ``attend`` turns queries, keys and values [..., 3, H, d/H] into [..., d]."""
        qkv, gate = F.silu(self.qkvu(self.attention_norm(x))).split([3 * x.shape[-1], x.shape[-1]], dim=-1)
        attended = attend(qkv.unflatten(-1, (3, self.n_heads, -1)))
        return x + self.dropout(self.out(self.gate_norm(attended) * gate))

    def causal_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Each of t positions sums over itself and those before it, all [n, H, t, d/H]."""
        position = torch.arange(query.shape[2], device=query.device)
        behind = position[:, None] - position  # [t, t]
        logits = query @ key.transpose(-1, -2) + self.distance_bias[:, behind.clamp(min=0)]  # [n, H, t, t]
        return F.silu(logits).masked_fill(behind < 0, 0) @ value


@dataclass
class DecodingState:
    """Histories as vectors, and what the decoder has already computed for each beam."""

    user: Tensor  # [B, d]
    past: list[list[Tensor]]  # a block, a level: keys and values [B, W or 1, 2, H, d/H]
    level: int = 0


class R3GR(SIDGenerator):
    """Generator of semantic IDs over item-level histories.

    An item is the sum of what ``item_inputs`` names: its codes (the concatenation of their embeddings through a linear layer), its text
    vector through a linear layer, an embedding of its id. With the last the model is no longer pure content and is called *hybrid*.
    ``n_layers`` causal blocks turn the history into one vector at each position. From it, ``n_decoder_layers`` blocks with attention over
    the levels predict the next item's codes c_1 … c_L one after the other: position 0 of the decoder is the history, position l the
    embedding of c_l. The loss is the negative log-likelihood of the item, the sum over levels of the cross-entropy.

    Args:
        config: ``item_inputs``, ``encoder``, ``hidden_size``, ``n_layers``, ``n_decoder_layers``, ``n_heads``, ``inner_size``,
            ``dropout``, ``sid_dropout``, ``id_dropout``, ``tied_heads``, ``label_smoothing``, ``num_beams``; see
            ``properties/model/R3GR.yaml``.
        dataset: training dataset with ``semantic_ids`` and, for text inputs, ``item_vectors`` ``[n_items, D]``.

    Raises:
        UserError: ``item_inputs`` or ``encoder`` has an unknown value.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        size, n_heads, dropout = config["hidden_size"], config["n_heads"], config["dropout"]
        self.item_inputs, self.label_smoothing = config["item_inputs"], config["label_smoothing"]
        self.sid_dropout, self.id_dropout = config["sid_dropout"], config["id_dropout"]
        self.first_token = [1 + sum(self.codebook_sizes[:level]) for level in range(self.n_levels)]  # of each level's code 0
        self.code_embedding = nn.Embedding(self.n_tokens, size, padding_idx=0)
        if "codes" in self.item_inputs:
            self.code_projection = nn.Linear(self.n_levels * size, size)
        if "text" in self.item_inputs:
            vectors = torch.from_numpy(np.array(self.sources.content.embeddings, dtype=np.float32))  # a copy: it may be a read-only file
            self.register_buffer("item_vectors", vectors, persistent=False)  # [n_items, D]
            self.text_projection = nn.Linear(self.item_vectors.shape[1], size)
        if "id" in self.item_inputs:
            self.id_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        self.level_embedding = nn.Embedding(self.n_levels, size)
        self.dropout = nn.Dropout(dropout)
        block = (size, n_heads, config["inner_size"], dropout)
        self.encoder = nn.ModuleList(
            Block(*block) if config["encoder"] == ENCODERS[0] else HSTUBlock(size, n_heads, self.max_seq_length, dropout)
            for _ in range(config["n_layers"])
        )
        self.decoder = nn.ModuleList(Block(*block) for _ in range(config["n_decoder_layers"]))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.head_bias = nn.ParameterList(torch.zeros(n_codes) for n_codes in self.codebook_sizes)
        self.tied_heads = config["tied_heads"]
        if not self.tied_heads:
            self.head_embedding = nn.Embedding(self.n_tokens, size)
        self.apply(self._initialise)

    @classmethod
    def needs(cls, config) -> Needs:
        return Needs(semantic_ids=UNIQUE, content=("text",) if "text" in config["item_inputs"] else None)

    @classmethod
    def result_name(cls, config) -> str:
        return "R3GR-hybrid" if "id" in config["item_inputs"] else "R3GR"

    @classmethod
    def check(cls, config) -> None:
        super().check(config)
        inputs, encoder = config["item_inputs"], config["encoder"]
        if not isinstance(inputs, list) or not inputs or not set(map(str, inputs)) <= set(ITEM_INPUTS):
            raise UserError(f"item_inputs is {inputs!r}; give a list of some of {', '.join(ITEM_INPUTS)}, such as [codes, text]")
        if encoder not in ENCODERS:
            raise UserError(f"encoder is {encoder!r}{nearest(str(encoder), ENCODERS)}; choose {' or '.join(ENCODERS)}")
        size, n_heads = config["hidden_size"], config["n_heads"]
        if size < 1 or n_heads < 1 or size % n_heads:
            raise UserError(f"n_heads is {n_heads} and hidden_size {size}; give whole numbers from 1, the first a divisor of the second")
        for key in ("sid_dropout", "id_dropout"):
            if not 0 <= config[key] < 1:
                raise UserError(f"{key} is {config[key]!r}; give a probability from 0 to below 1")

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])

    # -- the history ---------------------------------------------------------------------------------------------------

    def embed(self, items: Tensor) -> Tensor:
        """Vectors of items ``[M]``, ``[M, d]``."""
        inputs = []
        if "codes" in self.item_inputs:
            tokens = self.tokens[items]  # [M, L]
            if self.training and self.sid_dropout:
                tokens = tokens * (torch.rand(tokens.shape, device=tokens.device) >= self.sid_dropout)
            inputs.append(self.code_projection(self.code_embedding(tokens).flatten(1)))
        if "text" in self.item_inputs:
            inputs.append(self.text_projection(self.item_vectors[items]))
        if "id" in self.item_inputs:
            if self.training and self.id_dropout:
                items = items * (torch.rand(items.shape, device=items.device) >= self.id_dropout)
            inputs.append(self.id_embedding(items))
        return sum(inputs)

    def encode(self, items: Tensor) -> tuple[Tensor, Packing]:
        """Vectors of every position of every history; padding costs nothing.

        Args:
            items: ``[B, T]`` item ids, padded with 0 on the right.

        Returns:
            ``[M, d]`` for the M real positions, and where each of them lies.
        """
        packing = pack(items > 0)
        x = self.embed(items.flatten()[packing.place])  # [M, d]
        x = self.dropout(x + self.position_embedding(packing.place % items.shape[1]))
        for block in self.encoder:

            def attend(qkv: Tensor) -> Tensor:  # [M, 3, H, d/H] -> [M, d]
                heads = (part.permute(2, 0, 3, 1, 4) for part in packing.split(qkv))  # each [3, n, H, t, d/H]
                return torch.cat([block.causal_attention(*part).transpose(1, 2).flatten(2).flatten(0, 1) for part in heads])

            x = block(x, attend)
        return self.encoder_norm(x), packing

    # -- the next item ----------------------------------------------------------------------------------------------------

    def calculate_loss(self, interaction) -> Tensor:
        """Mean negative log-likelihood of the target items of all positions.

        Args:
            interaction: windows of a :class:`~recbole_r3vae.data.sequences.WindowDataset`.
        """
        length = int(interaction[self.ITEM_SEQ_LEN].max())
        user, packing = self.encode(interaction[self.ITEM_SEQ][:, :length])  # [M, d]
        target = interaction[TARGET_LIST_FIELD][:, :length].flatten()[packing.place]  # [M]
        has_target = target > 0
        user, target = user[has_target], target[has_target]  # [N, d], [N]
        codes = self.codes[target]  # [N, L]

        given = self.code_embedding(self.tokens[target][:, :-1])  # [N, L-1, d]: position l is given c_1 … c_l
        x = torch.cat([user[:, None], given], dim=1) + self.level_embedding.weight  # [N, L, d]
        for block in self.decoder:
            x = block(x, self._attend_levels)
        x = self.decoder_norm(x)
        return sum(
            F.cross_entropy(self._logits(x[:, level], level), codes[:, level], label_smoothing=self.label_smoothing)
            for level in range(self.n_levels)
        )

    @staticmethod
    def _attend_levels(qkv: Tensor) -> Tensor:
        """Every level attends to itself and those before it: [N, L, 3, H, d/H] -> [N, L, d]."""
        query, levels = qkv[:, :, 0] * qkv.shape[-1] ** -0.5, qkv[:, :, 1:].unbind(1)
        return torch.stack([attend_levels(query[:, level], levels[: level + 1]) for level in range(len(levels))], dim=1)

    def _logits(self, x: Tensor, level: int) -> Tensor:
        """Decoder output [..., d] to the logits of a level's codes [..., K]."""
        table = self.code_embedding if self.tied_heads else self.head_embedding
        return F.linear(x, table.weight[self.first_token[level] :][: self.codebook_sizes[level]], self.head_bias[level])

    def read(self, interaction) -> Tensor:
        """Histories as vectors ``[B, d]``."""
        encoded, packing = self.encode(interaction[self.ITEM_SEQ])
        return packing.last(encoded)

    def start(self, reading: Tensor) -> DecodingState:
        """Begin to decode; see :meth:`SIDGenerator.start`."""
        return DecodingState(user=reading, past=[[] for _ in self.decoder])

    def grow(self, sources: Sources) -> None:
        """Added items have no id embedding: zero, as ``id_dropout`` hides an item's in training."""
        n_new = len(sources.semantic_ids.item_ids) - self.n_items
        super().grow(sources)
        if "text" in self.item_inputs:
            self.item_vectors = torch.from_numpy(np.array(sources.content.embeddings, dtype=np.float32)).to(self.item_vectors.device)
        if "id" in self.item_inputs:
            old = self.id_embedding.weight.detach()
            self.id_embedding = nn.Embedding.from_pretrained(torch.cat([old, old.new_zeros(n_new, old.shape[1])]), padding_idx=0)

    def step(self, state: DecodingState, tokens: Tensor | None, parents: Tensor | None) -> Tensor:
        """Log-probabilities of the next level's codes; see :meth:`SIDGenerator.step`."""
        level, state.level = state.level, state.level + 1
        if level == 0:
            x = state.user[:, None]  # [B, 1, d]
        else:
            x = self.code_embedding(tokens + self.first_token[level - 1])  # [B, W, d]
            state.past = [[reorder(kv, parents) for kv in levels] for levels in state.past]
        x = x + self.level_embedding.weight[level]
        for block, past in zip(self.decoder, state.past):

            def attend(qkv: Tensor) -> Tensor:  # [B, W, 3, H, d/H] -> [B, W, d]
                past.append(qkv[:, :, 1:])
                return attend_levels(qkv[:, :, 0] * qkv.shape[-1] ** -0.5, past)

            x = block(x, attend)
        return self._logits(self.decoder_norm(x), level).float().log_softmax(-1)  # [B, W, K]
