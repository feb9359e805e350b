"""R3GR: a causal Transformer over items that writes the next item's semantic ID with a small decoder.

The generator idea is TIGER's (Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065): recommend
by generating the semantic ID of the next item. TIGER feeds every code of the history to an encoder-decoder. R3GR reads one vector an
item, as SASRec does, and spends its decoding on the L codes of the next item alone. All positions of a history are trained at once, so an
epoch costs a fraction of TIGER's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.model.generator.base import SIDGenerator


class Block(nn.Module):
    """Pre-norm Transformer block; ``attend`` is given by whoever knows the layout of the positions.

    Args:
        size: width d.
        inner_size: width of the feed-forward layer.
        dropout: probability on both residual branches.
    """

    def __init__(self, size: int, inner_size: int, dropout: float):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.mlp = nn.Sequential(nn.Linear(size, inner_size), nn.GELU(), nn.Linear(inner_size, size))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """``x`` [..., d] to [..., d]; ``attend`` turns queries, keys and values [..., 3d] into [..., d]."""
        x = x + self.dropout(self.out(attend(self.qkv(self.attention_norm(x)))))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


@dataclass
class DecodingState:
    """Histories as vectors, and what the decoder has already computed for each beam."""

    user: Tensor  # [B, d]
    caches: list[Tensor] = field(default_factory=list)  # one a block: keys and values [B, W, 2, H, levels so far, d/H]
    level: int = 0


class R3GR(SIDGenerator):
    """Generator of semantic IDs over item-level histories.

    An item is the concatenation of its code embeddings through a linear layer. ``n_layers`` causal blocks turn the history into one vector at
    each position. From it, ``n_decoder_layers`` blocks with attention over the levels predict the next item's codes c_1 … c_L one
    after the other: position 0 of the decoder is the history, position l the embedding of c_l. The loss is the negative
    log-likelihood of the item, the sum over levels of the cross-entropy.

    Args:
        config: ``hidden_size``, ``n_layers``, ``n_decoder_layers``, ``n_heads``, ``inner_size``, ``dropout``,
            ``label_smoothing``, ``num_beams``; see ``properties/model/R3GR.yaml``.
        dataset: training dataset with ``semantic_ids``.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        size, self.n_heads = config["hidden_size"], config["n_heads"]
        self.label_smoothing = config["label_smoothing"]
        self.code_embedding = nn.Embedding(self.n_tokens, size, padding_idx=0)
        self.item_projection = nn.Linear(self.n_levels * size, size)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        self.level_embedding = nn.Embedding(self.n_levels, size)
        self.dropout = nn.Dropout(config["dropout"])
        block = (size, config["inner_size"], config["dropout"])
        self.encoder = nn.ModuleList(Block(*block) for _ in range(config["n_layers"]))
        self.decoder = nn.ModuleList(Block(*block) for _ in range(config["n_decoder_layers"]))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.heads = nn.ModuleList(nn.Linear(size, n_codes) for n_codes in self.codebook_sizes)
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])

    # -- the history ---------------------------------------------------------------------------------------------------

    def encode(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of every position of every history; padding costs nothing but in the attention itself.

        Args:
            items: ``[B, T]`` item ids, padded with 0 on the right.

        Returns:
            ``[M, d]`` for the M real positions, and ``[M]`` where each lies in the flattened ``[B, T]``.
        """
        n_rows, length = items.shape
        real = items.flatten().nonzero().squeeze(1)  # [M]
        codes = self.code_embedding(self.tokens[items.flatten()[real]])  # [M, L, d]
        x = self.item_projection(codes.flatten(1)) + self.position_embedding(real % length)  # [M, d]
        x = self.dropout(x)

        def attend(qkv: Tensor) -> Tensor:  # [M, 3d] -> [M, d]
            padded = qkv.new_zeros(n_rows * length, qkv.shape[-1]).index_copy(0, real, qkv)
            return self._attend(padded.view(n_rows, length, -1)).flatten(0, 1)[real]

        for block in self.encoder:
            x = block(x, attend)
        return self.encoder_norm(x), real

    def _attend(self, qkv: Tensor) -> Tensor:
        """Causal attention over the second dimension: [N, S, 3d] -> [N, S, d]. Right padding is in nobody's past."""
        query, key, value = qkv.unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)  # each [N, H, S, d/H]
        return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)

    # -- the next item ----------------------------------------------------------------------------------------------------

    def calculate_loss(self, interaction) -> Tensor:
        """Mean negative log-likelihood of the target items of all positions.

        Args:
            interaction: windows of a :class:`~recbole_r3vae.data.sequences.WindowDataset`.
        """
        length = int(interaction[self.ITEM_SEQ_LEN].max())
        user, real = self.encode(interaction[self.ITEM_SEQ][:, :length])  # [M, d]
        target = interaction[TARGET_LIST_FIELD][:, :length].flatten()[real]  # [M]
        has_target = target > 0
        user, target = user[has_target], target[has_target]  # [N, d], [N]
        codes = self.codes[target]  # [N, L]

        given = self.code_embedding(self.tokens[target][:, :-1])  # [N, L-1, d]: position l is given c_1 … c_l
        x = torch.cat([user[:, None], given], dim=1) + self.level_embedding.weight  # [N, L, d]
        for block in self.decoder:
            x = block(x, self._attend)
        x = self.decoder_norm(x)
        return sum(
            F.cross_entropy(head(x[:, level]), codes[:, level], label_smoothing=self.label_smoothing)
            for level, head in enumerate(self.heads)
        )

    def start(self, interaction) -> DecodingState:
        """Encode the histories; see :meth:`SIDGenerator.start`."""
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        encoded, real = self.encode(items)
        rows = encoded.new_zeros(items.numel(), encoded.shape[-1]).index_copy(0, real, encoded).view(*items.shape, -1)
        return DecodingState(user=self.gather_indexes(rows, length - 1))

    def step(self, state: DecodingState, tokens: Tensor | None, parents: Tensor | None) -> Tensor:
        """Log-probabilities of the next level's codes; see :meth:`SIDGenerator.step`."""
        level, state.level = state.level, state.level + 1
        if level == 0:
            x = state.user[:, None]  # [B, 1, d]
        else:
            first_token = 1 + sum(self.codebook_sizes[: level - 1])
            x = self.code_embedding(tokens + first_token)  # [B, W, d]
        x = x + self.level_embedding.weight[level]
        past, state.caches = state.caches, []
        for index, block in enumerate(self.decoder):

            def attend(qkv: Tensor) -> Tensor:  # [B, W, 3d] -> [B, W, d]
                query, key, value = qkv.unflatten(-1, (3, self.n_heads, -1)).unbind(2)  # each [B, W, H, d/H]
                cache = torch.stack([key, value], dim=2).unsqueeze(4)  # [B, W, 2, H, 1, d/H]
                if past:
                    rows = torch.arange(len(parents), device=parents.device)[:, None]
                    cache = torch.cat([past[index][rows, parents], cache], dim=4)
                state.caches.append(cache)
                weights = (query.unsqueeze(3) @ cache[:, :, 0].transpose(-1, -2)) * query.shape[-1] ** -0.5
                return (weights.softmax(-1) @ cache[:, :, 1]).squeeze(3).flatten(2)

            x = block(x, attend)
        return self.heads[level](self.decoder_norm(x)).float().log_softmax(-1)  # [B, W, K]
