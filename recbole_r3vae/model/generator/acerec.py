"""ACERec: long semantic IDs, merged into a few tokens an item to be read, and predicted digit by digit at once.

"Unleash the Potential of Long Semantic IDs for Generative Recommendation", arXiv 2602.13573 v2. No code is public. Product quantisation gives
every item m = 32 digits without order. Four parts stand on RPG (Hou et al., "Generating Long Semantic IDs in Parallel for Recommendation",
KDD 2025, arXiv 2506.05781), which reads an item as the mean of its digits' embeddings and predicts the digits by parallel heads:

* the attentive token merger makes k latent tokens of an item's m digits,
* an intent token after each item's latents gathers what the next item will be,
* a contrast draws it to the next item's summary, among those of the batch,
* a reconstruction asks of the latents that the digits can be told from them.

Each is one key. Without all four it is RPG in its essentials; RPG's search in a graph of items is replaced by the score of every item.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.model.attention import attend
from recbole_r3vae.model.blocks import TransformerBlock, initialise
from recbole_r3vae.model.contract import SHARED, Needs, Sources
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.heads import ParallelHead
from recbole_r3vae.model.packing import Packing, pack
from recbole_r3vae.model.parameters import SHARE, Flag, Number, Whole, check_heads
from recbole_r3vae.model.ranker import Ranker
from recbole_r3vae.model.repeat_prior import KEYS, OFF, Reading, prior_loss, prior_of

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction
class TokenMerger(nn.Module):
    """Attentive token merger: one cross-attention from k queries, which are made of the item's summary, to its m digits.

    ``Z = f_out(CrossAttn(f_q(s), E + P, E + P))``. The paper does not print ``f_q``; here it is one linear layer, which takes the projection
    of the queries in. ``f_out`` is an MLP and a layer norm; its first layer takes the projection of the attention's output in.

    Args:
        codebook_sizes: codes of each digit.
        size: width d.
        n_latents: k.
        n_heads: attention heads H.
    """

    def __init__(self, codebook_sizes: tuple[int, ...], size: int, n_latents: int, n_heads: int):
        super().__init__()
        self.n_heads, self.n_latents = n_heads, n_latents
        self.norm = nn.LayerNorm(size)
        self.queries, self.kv = nn.Linear(size, n_latents * size), nn.Linear(size, 2 * size)
        self.digit_embedding = nn.Embedding(len(codebook_sizes), size)  # P: which sub-space a digit is of
        self.out = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, size), nn.LayerNorm(size))
        digit = torch.arange(len(codebook_sizes)).repeat_interleave(torch.tensor(codebook_sizes))
        self.register_buffer("digit_of_token", F.pad(digit, (1, 0)), persistent=False)  # [n_tokens], token 0 is the padding's

    def forward(self, tokens: Tensor, table: Tensor, summary: Tensor) -> Tensor:
        """Latent tokens of U items.

        Args:
            tokens: ``[U, m]``, the items' digits.
            table: ``[n_tokens, d]``, the embeddings of all digits.
            summary: ``[U, d]``.

        Returns:
            ``[U, k, d]``.
        """
        heads = (self.n_heads, -1)
        query = self.queries(summary).unflatten(1, (self.n_latents, *heads)).transpose(1, 2)  # [U, H, k, d/H]
        kv = self.kv(self.norm(table + self.digit_embedding(self.digit_of_token)))  # [n_tokens, 2d]: fewer rows than the items have digits
        key, value = F.embedding(tokens, kv).unflatten(2, (2, *heads)).permute(2, 0, 3, 1, 4)  # each [U, H, m, d/H]
        return self.out(attend(query, key, value).transpose(1, 2).flatten(2))


def block_causal_mask(n_items: int, width: int, n_latents: int, device: torch.device | None = None) -> Tensor:
    """Who may look at whom in a history of items of several tokens each.

    All tokens look at all items before theirs. Within an item, latents look at each other, and the intent token, which comes after them, at
    them and itself.

    Args:
        n_items: items of the history.
        width: tokens an item: its latents, and one more where there is an intent token.
        n_latents: latents among them.
        device: where the mask lies.

    Returns:
        bool ``[n_items * width, n_items * width]``, query by key, True where the query may look.
    """
    place = torch.arange(n_items * width, device=device)
    item, slot = place // width, place % width
    within = (slot < n_latents) | (slot[:, None] == n_latents)
    return (item < item[:, None]) | ((item == item[:, None]) & within)


class ItemBlock(TransformerBlock):
    """Transformer block over histories of items of several tokens each."""

    def forward(self, x: Tensor, layout: tuple[Packing, Tensor], tokens: slice = slice(None)) -> Tensor:
        """One block.

        Args:
            x: ``[M, width, d]``, the tokens of the item at each of the M packed positions.
            layout: where these lie, and the mask of the longest history.
            tokens: which of an item's tokens are wanted: of the last block, the last token alone.

        Returns:
            ``[M, tokens, d]``.
        """
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.n_heads, -1))  # [M, width, 3, H, d/H]
        x = x[:, tokens] + self.dropout(self.out(self.attend(qkv, layout, tokens)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def attend(self, qkv: Tensor, layout: tuple[Packing, Tensor], tokens: slice = slice(None)) -> Tensor:
        """Queries, keys and values [M, width, 3, H, d/H] to [M, tokens, d]."""
        packing, mask = layout
        mask = mask.unflatten(0, (-1, qkv.shape[1]))[:, tokens]  # [T, tokens, T * width]
        attended = []
        for part in packing.split(qkv):  # [n, t, width, 3, H, d/H]
            query = part[:, :, tokens, 0].flatten(1, 2).transpose(1, 2)  # [n, H, t * tokens, d/H]
            key, value = part[:, :, :, 1:].flatten(1, 2).permute(2, 0, 3, 1, 4)  # each [n, H, t * width, d/H]
            t = part.shape[1]
            own = attend(query, key, value, mask[:t, :, : key.shape[2]].flatten(0, 1))
            attended.append(own.transpose(1, 2).flatten(2).view(len(part) * t, mask.shape[1], -1))
        return torch.cat(attended)


class ACERec(Ranker):
    r"""Parallel heads over the digits of long semantic IDs, whose items are read as a few latent tokens and an intent token.

    .. math:: L = L_{MTP} + \lambda L_{ISA} + \alpha L_{Recon}, \quad score(j) = \sum_v \log P(v, c_{j,v})

    The paper does not say, and it is so here:

    * the summary :math:`f_s` is the mean of the digits' embeddings, and an MLP of it added;
    * that mean, and what the merger attends to, pass a layer norm: embeddings that begin small learn fast where cosines are compared, and
      the mean of 32 of them would be drowned by the position's for hundreds of steps;
    * the reconstruction goes from k to m tokens by two linear layers over the tokens; what it is compared with gets no gradient from it;
    * all positions of a history are trained in one window;
    * the digits' logits are cosines, those of the contrast too; its candidates are the distinct targets of the batch;
    * a prior on repeats (``repeat_prior``) may be learnt beside it, from the softmax of the score over the catalogue;
    * without an intent token the last latent takes its place; without the merger the mean of the digits is the one latent.

    Args:
        config: ``merger``, ``intent_token``, ``contrast_weight``, ``reconstruction_weight`` and others; see
            ``properties/model/ACERec.yaml``. :meth:`check` took it.
        dataset: training dataset with semantic IDs.
    """

    family = "generative"
    hyperparameters = {
        "merger": Flag(),
        "intent_token": Flag(),
        "contrast_weight": Number(at_least=0),
        "reconstruction_weight": Number(at_least=0),
        "n_latents": Whole(),
        "temperature": Number(above=0),
        "contrast_temperature": Number(above=0),
        "popularity_weight": Number(at_least=0),
        "hidden_size": Whole(),
        "n_layers": Whole(),
        "n_heads": Whole(),
        "inner_size": Whole(),
        "dropout": SHARE,
        **KEYS,
    }
    neutral = OFF

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        size, n_heads, inner_size, dropout = (config[key] for key in ("hidden_size", "n_heads", "inner_size", "dropout"))
        m = self.n_levels
        self.contrast_weight, self.reconstruction_weight = config["contrast_weight"], config["reconstruction_weight"]
        self.temperature, self.contrast_temperature = config["temperature"], config["contrast_temperature"]
        self.intent_token, self.n_latents = config["intent_token"], config["n_latents"] if config["merger"] else 1
        self.width = self.n_latents + self.intent_token  # tokens an item
        self.code_embedding = nn.Embedding(self.n_tokens, size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, self.width * size)
        self.summary = self.merger = self.upsampling = None
        if config["merger"] or self.intent_token or self.contrast_weight:
            self.summary = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, size))  # f_s
        if config["merger"]:
            self.merger = TokenMerger(self.codebook_sizes, size, self.n_latents, n_heads)
        if self.reconstruction_weight:
            self.upsampling = nn.Sequential(nn.Linear(self.n_latents, m), nn.GELU(), nn.Linear(m, m))
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(ItemBlock(size, n_heads, inner_size, dropout) for _ in range(config["n_layers"]))
        self.item_norm, self.norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.projections = nn.Linear(size, m * size)  # one head a digit
        self.register_buffer("popularity", config["popularity_weight"] * _popularity(dataset, self.ITEM_ID, self.n_items), persistent=False)
        self.heads["digits"] = ParallelHead(self)
        self.prior = prior_of(config, self.max_seq_length)
        self.apply(initialise)
        for layer in self.merger.modules() if config["merger"] else ():
            if isinstance(layer, nn.Linear):  # latents are what comes through these and nothing else: it must not become small
                nn.init.xavier_normal_(layer.weight)

    # -- the history -------------------------------------------------------------------------------------------------------

    def item_tokens(self, items: Tensor) -> tuple[Tensor, Tensor | None]:
        """What items are read as.

        Args:
            items: ``[U]``.

        Returns:
            Tokens ``[U, width, d]``, the latents and after them what the intent token begins as; and summaries ``[U, d]``, ``None`` where no
            part asks for them.
        """
        tokens, table = self.tokens[items], self.code_embedding.weight
        mean = self.item_norm(F.embedding_bag(tokens, table, mode="mean"))  # [U, d]
        summary = None if self.summary is None else mean + self.summary(mean)
        latents = mean[:, None] if self.merger is None else self.merger(tokens, table, summary)  # [U, k, d]
        return torch.cat([latents, summary[:, None]], 1) if self.intent_token else latents, summary

    def encode(self, x: Tensor, packing: Packing) -> Tensor:
        """Histories as vectors, one for each position.

        Args:
            x: ``[M, width, d]``, the tokens of the item at each of the M packed positions.
            packing: where these lie.

        Returns:
            ``[M, d]``, the output at each position's last token.
        """
        x = self.dropout(x + self.position_embedding(packing.position()).view_as(x))
        mask = block_causal_mask(packing.longest, self.width, self.n_latents, x.device)
        for block in self.blocks[:-1]:
            x = block(x, (packing, mask))
        return self.norm(self.blocks[-1](x, (packing, mask), slice(-1, None))[:, 0])

    def read(self, interaction: Interaction) -> Reading:
        """Histories as vectors at their last positions."""
        items = interaction[self.ITEM_SEQ]
        packing = pack(items > 0)
        distinct, which = packing.take(items).unique(return_inverse=True)  # [U], [M]
        user = packing.last(self.encode(self.item_tokens(distinct)[0][which], packing))
        return Reading(user, items, interaction[self.ITEM_SEQ_LEN])

    # -- training ----------------------------------------------------------------------------------------------------------

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean loss over the targets of all positions.

        Args:
            interaction: windows of a :class:`~recbole_r3vae.data.sequences.WindowDataset`.
        """
        items = interaction[self.ITEM_SEQ]
        packing = pack(items > 0)
        target = packing.take(interaction[TARGET_LIST_FIELD])  # [M]
        has_target = target > 0
        met, target = packing.take(items), target[has_target]  # [M], [N]
        distinct, which = torch.cat([met, target]).unique(return_inverse=True)  # [U], [M + N]: each item is made once
        x, summary = self.item_tokens(distinct)
        user = self.encode(x[which[: len(met)]], packing)[has_target]  # [N, d]
        loss = self.digit_loss(user, target)
        if self.contrast_weight:
            loss = loss + self.contrast_weight * self.contrast_loss(user, which[len(met) :], distinct, summary)
        if self.reconstruction_weight:
            loss = loss + self.reconstruction_weight * self.reconstruction_loss(x[:, : self.n_latents], distinct)
        return loss + prior_loss(self, interaction)

    def digit_logits(self, user: Tensor) -> list[Tensor]:
        """Vectors ``[N, d]`` to the logits of each digit's codes, m of ``[N, K_v]``: cosines with the embeddings that read them."""
        digits = F.normalize(self.projections(user).unflatten(1, (self.n_levels, -1)), dim=-1) / self.temperature  # [N, m, d]
        tables = F.normalize(self.code_embedding.weight[1:], dim=-1).split(list(self.codebook_sizes))
        return [digit @ table.T for digit, table in zip(digits.unbind(1), tables)]

    def digit_loss(self, user: Tensor, target: Tensor) -> Tensor:
        """L_MTP: mean cross-entropy of the digits of ``target`` [N] after histories ``user`` [N, d]."""
        codes = self.codes[target].unbind(1)  # m of [N]
        return sum(F.cross_entropy(logits, code) for logits, code in zip(self.digit_logits(user), codes)) / self.n_levels

    def contrast_loss(self, user: Tensor, target: Tensor, items: Tensor, summary: Tensor) -> Tensor:
        """L_ISA: InfoNCE of each history's vector with the summary of its target, among the distinct targets of the batch.

        Logits of popular items are lowered: they are candidates more often.

        Args:
            user: ``[N, d]``.
            target: ``[N]``, which of the items each target is.
            items: ``[U]``.
            summary: ``[U, d]``, theirs.
        """
        candidates, place = target.unique(return_inverse=True)  # [C], [N]
        products = F.normalize(user, dim=-1) @ F.normalize(summary[candidates], dim=-1).T  # [N, C]
        return F.cross_entropy(products / self.contrast_temperature - self.popularity[items[candidates]], place)

    def reconstruction_loss(self, latents: Tensor, items: Tensor) -> Tensor:
        """L_Recon: one minus the mean cosine of what ``latents`` [U, k, d] of ``items`` [U] say of each digit's embedding with that itself."""
        told = self.upsampling(latents.transpose(1, 2)).transpose(1, 2)  # [U, m, d]
        return 1 - F.cosine_similarity(told, self.code_embedding(self.tokens[items]).detach(), dim=-1).mean()

    def digit_log_probs(self, reading: Reading) -> list[Tensor]:
        """Log-probabilities of each digit's codes, m of ``[B, K_v]``: what the head ranks by."""
        return [logits.float().log_softmax(-1) for logits in self.digit_logits(reading.user)]

    # -- what it says of itself --------------------------------------------------------------------------------------------

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Semantic IDs as the tokenizer gave them: there is no tree, so that no two items have to be told apart."""
        return Needs(semantic_ids=SHARED)

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: a key has a value outside its range, or ``n_heads`` does not divide ``hidden_size``.
        """
        super().check(config)
        check_heads(config)

    @classmethod
    def result_name(cls, config: Config) -> str:
        """``ACERec`` with all its parts, ``RPG`` with none, ``RPG-ATM-intent`` with those two: the paper's names of them."""
        keys = {"ATM": "merger", "intent": "intent_token", "ISA": "contrast_weight", "recon": "reconstruction_weight"}
        parts = [part for part, key in keys.items() if config[key]]
        return cls.__name__ if len(parts) == len(keys) else "-".join(["RPG", *parts])

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """Of the digits, and what is added to it."""
        more = {"InfoNCE of summaries": "contrast_weight", "reconstruction": "reconstruction_weight"}
        return " + ".join(["NLL of digits", *(name for name, key in more.items() if config[key])])

    def grow(self, sources: Sources) -> None:
        """Know more items, see :meth:`.Contract.grow`: their codes say all; none of them has been seen in training."""
        super().grow(sources)
        self.popularity = F.pad(self.popularity, (0, self.n_items - len(self.popularity)))


def _popularity(dataset: Any, field: str, n_items: int) -> Tensor:
    """``log f / max log f`` of how often each item is a target of the training split; 0 of those that never are: ``[n_items]``."""
    counts = dataset.counter(field)
    log_counts = torch.tensor([float(counts[item]) for item in range(n_items)]).clamp(min=1).log()
    return log_counts / log_counts.max().clamp(min=torch.finfo(torch.float32).tiny)
