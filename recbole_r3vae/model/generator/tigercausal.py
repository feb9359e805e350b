"""TIGER-causal: TIGER's tokens through one causal stack, every position of a history trained in one pass. It is not TIGER.

TIGER (Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065) has an encoder, which reads each
prefix of a history anew for its next item. A decoder-only stack reads a history once and learns all its items, as language models do. The
layers are T5's, see :mod:`~recbole_r3vae.model.generator.t5`; the question that the model answers is what TIGER's tokens are worth where its
epochs cannot be paid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.generator.levels import LevelCache
from recbole_r3vae.model.generator.t5 import EncoderLayer, History, RelativePositionBias, RMSNorm, check_distances, initialise_t5
from recbole_r3vae.model.generator.tiger import HEAD_ROWS, user_tokens
from recbole_r3vae.model.packing import SPARE, Packing, pack
from recbole_r3vae.model.parameters import SHARE, Number, Whole
from recbole_r3vae.model.ranker import SIDGenerator
from recbole_r3vae.model.repeat_prior import KEYS, OFF, prior_loss, prior_of

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction


class CausalLayer(EncoderLayer):
    """T5's encoder layer under a causal bias, and the same layer for the next code of many beams."""

    def keys_and_values(self, x: Tensor) -> Tensor:
        """What later codes will attend to, of positions ``[M, d]``: ``[M, 2, H, A/H]``."""
        return self.attention.heads(self.qkv(self.attention_norm(x)), 3)[:, 1:]

    def step(self, x: Tensor, history_bias: Tensor, level_bias: Tensor, cache: LevelCache, history: History) -> Tensor:
        """The next level of all beams of a user, after his history and the levels before.

        Args:
            x: ``[B, W, d]``.
            history_bias: ``[B, 1, H, T]``.
            level_bias: ``[H, l]``, for the l levels so far.
            cache: the levels before, to which this one is added.
            history: keys and values of the history in this layer.

        Returns:
            ``[B, W, d]``.
        """
        query, *kv = self.attention.heads(self.qkv(self.attention_norm(x)), 3).unbind(2)  # [B, W, H, A/H] each
        cache.append(torch.stack(kv, 2))
        on_history = torch.einsum("bwha,btha->bwht", query, history.key) + history_bias + history.mask
        on_levels = torch.stack([(query * level[:, :, 0]).sum(-1) for level in cache.levels], -1) + level_bias  # [B, W, H, l]
        weights = torch.cat([on_history, on_levels], -1).softmax(-1).to(x.dtype)
        attended = torch.einsum("bwht,btha->bwha", weights[..., : on_history.shape[-1]], history.value)
        for place, level in enumerate(cache.levels, on_history.shape[-1]):
            attended = attended + weights[..., place, None] * level[:, :, 1]
        return self.feed_forward(x + self.dropout(self.out(attended.flatten(2))))


@dataclass
class DecodingState:
    """What each layer has computed of the histories and of each beam."""

    last: Tensor  # [B, d], of each history's last code: it says the first code of the next item
    end: Tensor  # [B], the place after it
    histories: list[History]
    caches: list[LevelCache]
    level: int = 0


@dataclass
class HistoryStates:
    """B histories, read."""

    last: Tensor  # [B, d]
    real: Tensor  # [B, T], where there is a token: not in the padding on the right, nor in the place of an unknown user
    kv: list[Tensor]  # keys and values of each layer, [B, T, 2, H, A/H]
    items: Tensor  # [B, T]
    lengths: Tensor  # [B]


class TIGERCausal(SIDGenerator):
    """Decoder-only generator of semantic IDs over code-level histories.

    A window of items is one sequence of tokens: a user token, as TIGER's, and the L codes of each item. Each code is predicted from all
    tokens before it. The loss is the mean over a window's target items of the negative log-likelihood of their codes, each normalised over
    the whole vocabulary as TIGER's. ``repeat_prior`` is TIGER's too.

    Args:
        config: ``hidden_size``, ``n_layers``, ``n_heads``, ``head_size``, ``inner_size``, ``dropout``, ``n_position_buckets``,
            ``max_position_distance``, ``n_user_buckets``, ``loss_temperature``, ``repeat_prior``, ``repeat_penalty``, ``num_beams``; see
            ``properties/model/TIGERCausal.yaml``. :meth:`check` took it.
        dataset: training dataset with ``sources``: semantic IDs.
    """

    hyperparameters = {
        "hidden_size": Whole(),
        "n_layers": Whole(),
        "n_heads": Whole(),
        "head_size": Whole(),
        "inner_size": Whole(),
        "dropout": SHARE,
        "n_position_buckets": Whole(2),
        "max_position_distance": Whole(2),
        "n_user_buckets": Whole(0),
        "loss_temperature": Number(above=0),
        **KEYS,
    }
    neutral = OFF

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        size, n_heads, n_buckets = config["hidden_size"], config["n_heads"], config["n_user_buckets"]
        self.temperature = config["loss_temperature"]
        self.first_token = [1 + sum(self.codebook_sizes[:level]) for level in range(self.n_levels)]  # of each level's code 0
        users = user_tokens(dataset.field2id_token[self.USER_ID], n_buckets, self.n_tokens)
        self.register_buffer("user_tokens", users, persistent=False)  # [n_users]
        self.embedding = nn.Embedding(self.n_tokens + n_buckets, size)
        self.dropout = Dropout(config["dropout"])
        layer = (size, n_heads, config["head_size"], config["inner_size"], config["dropout"])
        self.stack = nn.ModuleList(CausalLayer(*layer) for _ in range(config["n_layers"]))
        self.bias = RelativePositionBias(n_heads, config["n_position_buckets"], config["max_position_distance"], causal=True)
        self.norm = RMSNorm(size)
        self.prior = prior_of(config, self.max_seq_length)
        initialise_t5(self, size, config["head_size"])

    # -- training ----------------------------------------------------------------------------------------------------------

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean negative log-likelihood of the target items of all positions.

        Args:
            interaction: windows of a :class:`~recbole_r3vae.data.sequences.WindowDataset`.
        """
        length = interaction[self.ITEM_SEQ_LEN]
        longest = int(length.max())
        items, targets = interaction[self.ITEM_SEQ][:, :longest], interaction[TARGET_LIST_FIELD][:, :longest]  # [B, T]
        final = targets.gather(1, length[:, None] - 1)  # [B, 1]
        tokens, first = self.lay_out(F.pad(items, (0, 1)).scatter(1, length[:, None], final), interaction)  # [B, S]
        labels = torch.zeros_like(tokens)
        begin = first + self.n_levels - 1  # the last code of an item says the first code of the next, and so on
        labels[:, begin:-1] = self.tokens[targets].flatten(1)[:, : tokens.shape[1] - 1 - begin]
        packing = pack(tokens > 0, SPARE)
        label = packing.take(labels)  # [M]
        x = self.encoded(self.embedding(packing.take(tokens)), packing)[label > 0]
        logits = self._logits(x) / self.temperature  # [N * L, V]
        return F.cross_entropy(logits, label[label > 0], reduction="sum") / (targets > 0).sum() + prior_loss(self, interaction)

    def lay_out(self, items: Tensor, interaction: Interaction) -> tuple[Tensor, int]:
        """Items ``[B, T]`` as tokens, after their user's ``[B, S]``, 0 where there is nothing; and how many stand before the items."""
        tokens = self.tokens[items].flatten(1)
        if self.USER_ID not in interaction:
            return tokens, 0
        return torch.cat([self.user_tokens[interaction[self.USER_ID]][:, None], tokens], dim=1), 1

    def encoded(self, x: Tensor, packing: Packing, kept: list[Tensor] | None = None) -> Tensor:
        """What the stack makes of embedded tokens ``[M, d]``: the same shape. ``kept`` receives each layer's keys and values."""
        x, bias = self.dropout(x), self.bias(packing.longest)
        for layer in self.stack:
            if kept is not None:
                kept.append(layer.keys_and_values(x))
            x = layer(x, packing, bias)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        """Output of the stack [..., d] to float32 logits over the vocabulary [..., V]."""
        x = self.dropout(self.norm(x)) * x.shape[-1] ** -0.5
        return F.linear(x, self.embedding.weight).float()

    # -- the next item, code by code ------------------------------------------------------------------------------------

    def read(self, interaction: Interaction) -> HistoryStates:
        """Histories as what later codes attend to."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        tokens, _ = self.lay_out(items[:, : int(lengths.max())], interaction)
        packing, kept = pack(tokens > 0), []
        last = packing.last(self.encoded(self.embedding(packing.take(tokens)), packing, kept))
        kv = [packing.pad(part.flatten(1)).unflatten(2, part.shape[1:]) for part in kept]
        return HistoryStates(last, tokens > 0, kv, items, lengths)

    def start(self, reading: HistoryStates) -> DecodingState:
        """Begin to decode; see :meth:`SIDGenerator.start`."""
        real = reading.real
        mask = torch.zeros(real.shape, device=real.device).masked_fill(~real, -torch.inf)[:, None, None]  # [B, 1, 1, T]
        histories = [History(*kv.unbind(2), mask) for kv in reading.kv]
        end = (real * torch.arange(1, real.shape[1] + 1, device=real.device)).amax(1)  # [B]
        return DecodingState(reading.last, end, histories, [LevelCache() for _ in self.stack])

    def step(self, state: DecodingState, tokens: Tensor | None, parents: Tensor | None) -> Tensor:
        """Log-probabilities of the next level's codes; see :meth:`SIDGenerator.step`."""
        level, state.level = state.level, state.level + 1
        if level == 0:
            x = state.last[:, None]  # [B, 1, d]
        else:
            x = self.embedding(tokens + self.first_token[level - 1])  # [B, W, d]
            place = torch.arange(state.histories[0].key.shape[1], device=x.device)
            behind = state.end[:, None] + (level - 1) - place  # [B, T]
            history_bias = self.bias.table(self.bias.bucket(behind)).transpose(1, 2)[:, None]  # [B, 1, H, T]
            level_bias = self.bias(level)[0, :, level - 1]  # [H, levels so far]
            for layer, cache, history in zip(self.stack, state.caches, state.histories):
                cache.reorder(parents)
                x = layer.step(x, history_bias, level_bias, cache, history)
        codes = slice(self.first_token[level], self.first_token[level] + self.codebook_sizes[level])
        log_probs = [self._logits(rows).log_softmax(-1)[:, codes] for rows in x.flatten(0, 1).split(HEAD_ROWS)]
        return torch.cat(log_probs).view(*x.shape[:2], -1)  # [B, W, K]

    # -- what it says of itself --------------------------------------------------------------------------------------------

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range, or no distances are left for the buckets that grow.
        """
        super().check(config)
        check_distances(config)

    @classmethod
    def result_name(cls, config: Config) -> str:
        """``TIGER-causal``."""
        return "TIGER-causal"
