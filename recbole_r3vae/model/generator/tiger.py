"""TIGER: an encoder-decoder over the codes of the history that writes the next item's semantic ID.

Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065. The network is T5 (Raffel et al.,
"Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020, arXiv 1910.10683) in its original form:
ReLU, tied embeddings, no biases. The loss temperature is the ranking-guided loss of LETTER (Wang et al., CIKM 2024, arXiv 2405.07314).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import PrefixDataset
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.ranker import SIDGenerator
from recbole_r3vae.model.generator.layers import Packing, attend_levels, pack, reorder

HEAD_ROWS = 512  # beams whose logits over the whole vocabulary exist at a time; all of them at once would leave every cache


class RMSNorm(nn.Module):
    """Layer normalisation without mean and bias, computed in float32 (Zhang and Sennrich, 2019, arXiv 1910.07467)."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class RelativePositionBias(nn.Module):
    """A learnt term of the attention logits for the distance between query and key (T5, section 2.1), shared by the layers of a stack.

    Half of the buckets hold one distance each, the others grow logarithmically up to ``max_distance``.

    Args:
        n_heads: attention heads H.
        n_buckets: learnt terms a head.
        max_distance: all distances from here on share one.
        causal: whether keys after the query are masked with ``-inf``; otherwise half of the buckets are for them.
    """

    def __init__(self, n_heads: int, n_buckets: int, max_distance: int, causal: bool):
        super().__init__()
        self.table = nn.Embedding(n_buckets, n_heads)
        self.max_distance, self.causal = max_distance, causal

    def forward(self, length: int) -> Tensor:
        """``[1, H, length, length]``, to be added to the logits of ``length`` queries and keys."""
        position = torch.arange(length, device=self.table.weight.device)
        behind = position[:, None] - position  # [length, length], how far the key lies behind the query
        bias = self.table(self.bucket(behind)).permute(2, 0, 1)  # [H, length, length]
        return (bias.masked_fill(behind < 0, -torch.inf) if self.causal else bias)[None]

    def bucket(self, behind: Tensor) -> Tensor:
        """The bucket of each distance."""
        n_buckets, first = self.table.num_embeddings, 0
        if not self.causal:
            n_buckets //= 2
            first = (behind < 0) * n_buckets
            behind = behind.abs()
        behind = behind.clamp(min=0)
        n_exact = n_buckets // 2
        growth = torch.log(behind.clamp(min=1).float() / n_exact) / math.log(self.max_distance / n_exact)
        far = (n_exact + (growth * (n_buckets - n_exact)).long()).clamp(max=n_buckets - 1)
        return first + torch.where(behind < n_exact, behind, far)


class Layer(nn.Module):
    """A T5 layer: self-attention, in a decoder attention to the history, and a feed-forward network, each on a pre-norm residual branch.

    As in R3GR's block, how queries find their keys is given by whoever knows the layout of the positions.

    Args:
        size: width d.
        attention_size: heads times their dimension A.
        inner_size: width of the feed-forward network.
        dropout: probability on the residual branches and inside the feed-forward network.
        reads_history: whether it belongs to a decoder.
    """

    def __init__(self, size: int, attention_size: int, inner_size: int, dropout: float, reads_history: bool):
        super().__init__()
        self.attention_norm, self.mlp_norm = RMSNorm(size), RMSNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * attention_size, bias=False), nn.Linear(attention_size, size, bias=False)
        if reads_history:
            self.cross_norm = RMSNorm(size)
            self.cross_query = nn.Linear(size, attention_size, bias=False)
            self.cross_kv = nn.Linear(size, 2 * attention_size, bias=False)
            self.cross_out = nn.Linear(attention_size, size, bias=False)
        self.inner, self.outer = nn.Linear(size, inner_size, bias=False), nn.Linear(inner_size, size, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, attend: Callable[[Tensor], Tensor], attend_history: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """``x`` [..., d] to [..., d]; ``attend`` takes [..., 3A] to [..., A], ``attend_history`` queries [..., A] to [..., A]."""
        x = x + self.dropout(self.out(attend(self.qkv(self.attention_norm(x)))))
        if attend_history is not None:
            x = x + self.dropout(self.cross_out(attend_history(self.cross_query(self.cross_norm(x)))))
        return x + self.dropout(self.outer(self.dropout(self.inner(self.mlp_norm(x)).relu_())))


@dataclass
class DecodingState:
    """Keys and values of the histories, once a user, and what the decoder has already computed for each beam."""

    history: list[tuple[Tensor, Tensor]]  # one a layer: keys and values [B, T, H, A/H]
    mask: Tensor | None  # [B, 1, 1, T], 0 at the positions of the history and -inf elsewhere; None where there is no padding
    past: list[list[Tensor]] = field(default_factory=list)  # a layer, a level: keys and values [B, W or 1, 2, H, A/H]
    level: int = 0


class TIGER(SIDGenerator):
    """Generator of semantic IDs over code-level histories.

    The encoder reads a user token (users share ``n_user_buckets`` tokens by a hash of their id; an unknown user has none) and the L codes
    of each item of the history. The decoder writes the L codes of the next item. The loss is the negative log-likelihood of the item, the
    sum over levels of the cross-entropy. Each code's probability is normalised over the whole vocabulary (start token, all levels' codes,
    user tokens), as published: the probabilities of a level's codes sum to less than one. As in T5, output and input embeddings are one
    table and the logits are scaled by ``d ** -0.5``.

    A batch is computed without padding, bucketed by length inside the model: linear layers see the real positions alone and attention
    runs once for each length that occurs, at most ``MAX_ITEM_LIST_LENGTH`` times.

    Args:
        config: ``hidden_size``, ``n_layers``, ``n_decoder_layers``, ``n_heads``, ``head_size``, ``inner_size``, ``dropout``,
            ``n_position_buckets``, ``max_position_distance``, ``n_user_buckets``, ``loss_temperature``, ``num_beams``; see
            ``properties/model/TIGER.yaml``.
        dataset: training dataset with ``semantic_ids``.

    Raises:
        UserError: ``loss_temperature`` is not positive.
    """

    dataset_class = PrefixDataset

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        size, self.n_heads, head_size = config["hidden_size"], config["n_heads"], config["head_size"]
        self.temperature = config["loss_temperature"]
        self.first_token = [1 + sum(self.codebook_sizes[:level]) for level in range(self.n_levels)]  # of each level's code 0
        n_buckets = config["n_user_buckets"]
        names = [str(name).encode() for name in dataset.field2id_token[self.USER_ID]]
        users = torch.tensor([self.n_tokens + zlib.crc32(name) % n_buckets if n_buckets else 0 for name in names])
        users[0] = 0  # RecBole's padding user has no token
        self.register_buffer("user_tokens", users, persistent=False)  # [n_users]
        self.embedding = nn.Embedding(self.n_tokens + n_buckets, size)  # token 0 starts the decoder
        self.dropout = nn.Dropout(config["dropout"])
        layer = (size, self.n_heads * head_size, config["inner_size"], config["dropout"])
        self.encoder = nn.ModuleList(Layer(*layer, reads_history=False) for _ in range(config["n_layers"]))
        self.decoder = nn.ModuleList(Layer(*layer, reads_history=True) for _ in range(config["n_decoder_layers"]))
        bias = (self.n_heads, config["n_position_buckets"], config["max_position_distance"])
        self.encoder_bias, self.decoder_bias = RelativePositionBias(*bias, causal=False), RelativePositionBias(*bias, causal=True)
        self.encoder_norm, self.decoder_norm = RMSNorm(size), RMSNorm(size)
        self._initialise(size, head_size)

    @classmethod
    def check(cls, config) -> None:
        super().check(config)
        if not config["loss_temperature"] > 0:
            value = config["loss_temperature"]
            raise UserError(f"loss_temperature must be above 0, got {value}; 1 is the plain loss, LETTER's best is about 0.7")

    @torch.no_grad()
    def _initialise(self, size: int, head_size: int) -> None:
        """T5's: embeddings N(0, 1), outputs of unit variance; the queries' weights hold what the attention logits are not divided by."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=module.in_features**-0.5)
            elif isinstance(module, RelativePositionBias):
                module.table.weight.normal_(std=size**-0.5)
        for layer in (*self.encoder, *self.decoder):
            layer.qkv.weight[: self.n_heads * head_size] *= head_size**-0.5
        for layer in self.decoder:
            layer.cross_query.weight *= head_size**-0.5

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention of queries [N, S, H, A/H] to keys and values [N, T, H, A/H]: [N, S, A]."""
        query, key, value = (heads.transpose(1, 2) for heads in (query, key, value))  # each [N, H, S or T, A/H]
        bias = None if bias is None else bias.to(query.dtype)  # of bfloat16 queries
        if self.training and self.dropout.p and query.device.type == "cpu":
            # No kernel there drops weights, and the general path of the function below looks for rows that are masked throughout.
            logits = query @ key.transpose(-1, -2)  # [N, H, S, T]
            weights = (logits if bias is None else logits + bias).softmax(-1)
            attended = self.dropout(weights) @ value
        else:
            dropout = self.dropout.p if self.training else 0.0
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=1.0)
        return attended.transpose(1, 2).flatten(2)

    # -- the history ---------------------------------------------------------------------------------------------------

    def encode(self, interaction) -> tuple[Tensor, Packing]:
        """Vectors of every position of every history.

        Args:
            interaction: B rows with ``item_id_list``, ``item_length`` and, for user tokens, ``user_id``.

        Returns:
            ``[M, d]`` for the M real positions, and where each of them lies.
        """
        items = interaction[self.ITEM_SEQ][:, : int(interaction[self.ITEM_SEQ_LEN].max())]
        tokens = self.tokens[items].flatten(1)  # [B, T], 0 where there is nothing
        if self.USER_ID in interaction:
            tokens = torch.cat([self.user_tokens[interaction[self.USER_ID]][:, None], tokens], dim=1)
        packing = pack(tokens > 0)
        bias = self.encoder_bias(packing.blocks[-1][1])

        def attend(qkv: Tensor) -> Tensor:  # [M, 3A] -> [M, A]
            blocks = packing.split(qkv.unflatten(-1, (3, self.n_heads, -1)))  # of [n, t, 3, H, A/H]
            return torch.cat([self._attend(*b.unbind(2), bias[..., : b.shape[1], : b.shape[1]]).flatten(0, 1) for b in blocks])

        x = self.dropout(self.embedding(tokens.flatten()[packing.place]))  # [M, d]
        for layer in self.encoder:
            x = layer(x, attend)
        return self.dropout(self.encoder_norm(x)), packing

    # -- the next item ----------------------------------------------------------------------------------------------------

    def forward(self, interaction) -> tuple[Tensor, Tensor]:
        """Teacher-forced logits.

        Args:
            interaction: B rows with histories and targets ``item_id``.

        Returns:
            ``[B, L, V]`` logits of the next token over the whole vocabulary, and ``[B, L]`` the target's tokens; rows in the order
            of :attr:`.Packing.order`.
        """
        encoded, packing = self.encode(interaction)
        target = self.tokens[interaction[self.ITEM_ID][packing.order]]  # [B, L]
        x = self.dropout(self.embedding(F.pad(target[:, :-1], (1, 0))))  # [B, L, d]: position l is given c_1 … c_l
        bias = self.decoder_bias(self.n_levels)

        def attend(qkv: Tensor) -> Tensor:  # [B, L, 3A] -> [B, L, A]
            return self._attend(*qkv.unflatten(-1, (3, self.n_heads, -1)).unbind(2), bias)

        # A query times a key's projection is the projected query times the key, and a projection of values can wait for their weighted
        # sum: L queries a head go through the projections instead of all positions of the history.
        history = packing.split(encoded)  # of [n, t, d]
        n_rows = [len(block) for block in history]

        for layer in self.decoder:
            key, value = layer.cross_kv.weight.view(2, self.n_heads, -1, x.shape[-1])  # [H, A/H, d] each

            def attend_history(query: Tensor) -> Tensor:  # [B, L, A] -> [B, L, A]
                query = torch.einsum("blha,had->blhd", query.unflatten(-1, (self.n_heads, -1)), key)  # [B, L, H, d]
                queries = query.flatten(1, 2)[:, :, None].split(n_rows)  # of [n, L * H, 1, d]
                read = torch.cat([self._attend(q, e[:, :, None], e[:, :, None]) for q, e in zip(queries, history)])  # [B, L * H, d]
                return torch.einsum("blhd,had->blha", read.view_as(query), value).flatten(2)

            x = layer(x, attend, attend_history)
        return self._logits(x), target

    def _logits(self, x: Tensor) -> Tensor:
        """Decoder output [..., d] to float32 logits over the vocabulary [..., V]."""
        x = self.dropout(self.decoder_norm(x)) * x.shape[-1] ** -0.5
        return F.linear(x, self.embedding.weight).float()

    def calculate_loss(self, interaction) -> Tensor:
        """Mean negative log-likelihood of the target items; with a temperature below 1, wrong codes of high probability weigh more.

        Args:
            interaction: rows of a :class:`~recbole_r3vae.data.sequences.PrefixDataset`.
        """
        logits, target = self.forward(interaction)
        return F.cross_entropy(logits.flatten(0, 1) / self.temperature, target.flatten(), reduction="sum") / len(target)

    def read(self, interaction) -> tuple[Tensor, Packing]:
        """Histories as vectors of their positions; see :meth:`encode`."""
        return self.encode(interaction)

    def start(self, reading: tuple[Tensor, Packing]) -> DecodingState:
        """Project the histories to keys and values, once a user; see :meth:`SIDGenerator.start`."""
        encoded, packing = reading
        history = [packing.pad(layer.cross_kv(encoded)).unflatten(-1, (2, self.n_heads, -1)).unbind(2) for layer in self.decoder]
        real = packing.pad(encoded.new_ones(len(encoded), 1))[:, None, None, :, 0] > 0  # [B, 1, 1, T]
        mask = None if real.all() else encoded.new_zeros(real.shape).masked_fill(~real, -torch.inf)
        return DecodingState(history, mask, past=[[] for _ in self.decoder])

    def step(self, state: DecodingState, tokens: Tensor | None, parents: Tensor | None) -> Tensor:
        """Log-probabilities of the next level's codes; see :meth:`SIDGenerator.step`."""
        level, state.level = state.level, state.level + 1
        if level == 0:
            x = self.embedding.weight[0].expand(len(state.history[0][0]), 1, -1)  # [B, 1, d]
        else:
            x = self.embedding(tokens + self.first_token[level - 1])  # [B, W, d]
            state.past = [[reorder(kv, parents) for kv in levels] for levels in state.past]
        bias = self.decoder_bias(level + 1)[0, :, level]  # [H, levels so far]

        for layer, history, past in zip(self.decoder, state.history, state.past):

            def attend(qkv: Tensor) -> Tensor:  # [B, W, 3A] -> [B, W, A]
                qkv = qkv.unflatten(-1, (3, self.n_heads, -1))  # [B, W, 3, H, A/H]
                past.append(qkv[:, :, 1:])
                return attend_levels(qkv[:, :, 0], past, bias)

            def attend_history(query: Tensor) -> Tensor:  # [B, W, A]: all beams of a user against his one history
                return self._attend(query.unflatten(-1, (self.n_heads, -1)), *history, state.mask)

            x = layer(x, attend, attend_history)
        codes = slice(self.first_token[level], self.first_token[level] + self.codebook_sizes[level])
        log_probs = [self._logits(rows).log_softmax(-1)[:, codes] for rows in x.flatten(0, 1).split(HEAD_ROWS)]
        return torch.cat(log_probs).view(*x.shape[:2], -1)  # [B, W, K]
