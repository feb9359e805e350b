"""CaDiRec: WindowSASRec with a contrast of views whose replaced items are predicted by a diffusion model from the rest of the history.

Cui et al., "Context-aware Diffusion-based Contrastive Learning for Sequential Recommendation", CIKM 2024, arXiv 2405.09369. The diffusion
is DiffuSeq's (Gong et al., ICLR 2023, arXiv 2210.08933), the attention of its denoiser DeBERTa's (He et al., ICLR 2021, arXiv 2006.03654).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.blocks import TransformerBlock, initialise
from recbole_r3vae.model.dropout import Dropout
from recbole_r3vae.model.packing import SPARE, Packing, pack
from recbole_r3vae.model.parameters import SHARE, Choice, Flag, Number, Whole
from recbole_r3vae.model.sequential.windowsasrec import WindowSASRec
from recbole_r3vae.model.views import part_of, some_places, view_contrast

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction

DIFFUSION, RANDOM = "diffusion", "random"
REMEMBERED, UNIFORM = 10, 0.001
"""Of the sampler of steps: losses that it remembers of each, and its share of uniform draws (Nichol and Dhariwal, ICML 2021, arXiv 2102.09672)."""


class CaDiRec(WindowSASRec):
    """:class:`.WindowSASRec` with a denoiser of items, and a contrast of views that it makes.

    ``L = L_rec + contrast_weight * InfoNCE + diffusion_weight * NLL + mse_weight * MSE``. A random ``replaced_share`` of a window's items, one
    at least, is noised (:class:`Diffusion`); the rest is clean context. NLL is that of the noised items under a softmax of products of the
    denoiser's prediction and all item embeddings, MSE the mean squared distance of the two.

    Views: other random items are replaced by pure noise, the denoiser predicts them in one step, as in the authors' code (the paper
    describes several), and two of the ``n_candidates`` likeliest are drawn, one for each view. That has no gradients: the contrast
    teaches the denoiser nothing. The contrast, :func:`~recbole_r3vae.model.views.view_contrast`, is of the vectors at the last position.

    Where the description leaves a choice: embeddings are brought to unit variance before they are noised, or the noise would hide them at
    every step (``unit_variance``); views change other places than those that the denoiser learns from, and it is told the last step for
    them; its blocks have their norms in front; steps are drawn by the losses of whole histories, NLL and MSE in their weights.

    Args:
        config: as of :class:`.WindowSASRec`; ``contrast_weight``, ``contrast_temperature``, ``replacement``, ``replaced_share``,
            ``n_candidates``, ``diffusion_weight``, ``mse_weight``, ``n_steps``, ``unit_variance``, ``denoiser_layers``,
            ``denoiser_heads``, ``denoiser_dropout``; see ``properties/model/CaDiRec.yaml``. :meth:`check` took it.
        dataset: training dataset.
    """

    hyperparameters = {
        "contrast_weight": Number(at_least=0),
        "contrast_temperature": Number(above=0),
        "replacement": Choice(DIFFUSION, RANDOM),
        "replaced_share": Number(above=0, at_most=1),
        "n_candidates": Whole(2),
        "diffusion_weight": Number(at_least=0),
        "mse_weight": Number(at_least=0),
        "n_steps": Whole(2),
        "unit_variance": Flag(),
        "denoiser_layers": Whole(),
        "denoiser_heads": Whole(),
        "denoiser_dropout": SHARE,
    }

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        self.contrast_weight, self.contrast_temperature = config["contrast_weight"], config["contrast_temperature"]
        self.diffusion_weight, self.mse_weight = config["diffusion_weight"], config["mse_weight"]
        self.replacement, self.replaced_share = config["replacement"], config["replaced_share"]
        self.n_candidates, self.unit_variance = min(config["n_candidates"], self.n_items - 1), config["unit_variance"]
        if denoises(config):
            self.diffusion = Diffusion(config["n_steps"])
            sizes = config["hidden_size"], config["denoiser_heads"], config["inner_size"]
            self.denoiser = Denoiser(config["denoiser_layers"], *sizes, self.max_seq_length, config["denoiser_dropout"]).apply(initialise)
        self.of_batch: tuple[Tensor, Tensor] | None = None  # steps and losses of the batch under way, which the sampler is told after it

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """The loss of :class:`.WindowSASRec`, that of the denoiser, and the contrast of two views of each window.

        Args:
            interaction: windows of a :class:`~recbole_r3vae.data.sequences.WindowDataset`.
        """
        items, loss = interaction[self.ITEM_SEQ], super().calculate_loss(interaction)
        if hasattr(self, "denoiser"):
            loss = loss + self.denoising_loss(items)
        return loss + self.contrast_weight * self.contrast(items) if self.contrast_weight else loss

    def after_step(self, batch: Interaction) -> None:
        """Tell the sampler of steps the losses of the batch."""
        if self.of_batch is not None:
            self.diffusion.learn(*self.of_batch)
            self.of_batch = None

    # -- the denoiser ------------------------------------------------------------------------------------------------------

    def places(self, items: Tensor) -> Tensor:
        """Random places of histories ``[B, T]`` whose items are noised or replaced, bool ``[B, T]``, one at least in each."""
        return some_places(items > 0, part_of((items > 0).sum(1), self.replaced_share, least=1))

    def start(self, items: Tensor) -> Tensor:
        """What is noised of items [M], x_0 but for its own small noise: [M, d]."""
        x = self.item_embedding(items)
        return F.layer_norm(x, x.shape[-1:]) if self.unit_variance else x

    def denoising_loss(self, items: Tensor) -> Tensor:
        """Weighted NLL and MSE of histories ``[B, T]``, a scalar: a mean over histories of means over their noised places.

        A step that is drawn more often than others counts the less for it.
        """
        step, weight = self.diffusion.draw(len(items))  # [B] each
        packing = pack(items > 0, SPARE)
        item, noised, row = packing.take(items), packing.take(self.places(items)), packing.place // items.shape[1]  # [M] each
        start = self.diffusion.begin(self.start(item))  # [M, d]
        x = torch.where(noised[:, None], self.diffusion.noise(start, step[row]), start)
        found, row, wanted = self.denoiser(x, step[row], packing, item > 0)[noised], row[noised], item[noised]  # [N, d], [N], [N]
        logits = (found @ self.item_embedding.weight[1:].T).float()  # [N, n_items - 1]
        losses = self.diffusion_weight * F.cross_entropy(logits, wanted - 1, reduction="none")  # [N]
        if self.mse_weight:
            losses = losses + self.mse_weight * (found - start[noised]).square().mean(-1)
        of_history = torch.zeros_like(weight).index_add(0, row, losses) / torch.bincount(row, minlength=len(items))  # [B]
        if self.training:
            self.of_batch = step, of_history.detach()
        return (of_history * weight).mean()

    @torch.no_grad()
    def candidates(self, items: Tensor, replaced: Tensor) -> Tensor:
        """The likeliest items at ``replaced`` places of histories, both ``[B, T]``: ``[N, n_candidates]``, row by row of the N places."""
        packing = pack(items > 0, SPARE)
        item, hidden = packing.take(items), packing.take(replaced)[:, None]  # [M], [M, 1]
        start = self.start(item)
        self.denoiser.eval()
        x = torch.where(hidden, torch.randn_like(start), start)  # [M, d]
        found = self.denoiser(x, torch.full_like(item, self.diffusion.n_steps - 1), packing, item > 0)
        self.denoiser.train(self.training)
        found = packing.pad(found)[replaced]  # [N, d]
        return (found @ self.item_embedding.weight[1:].T).topk(self.n_candidates).indices + 1

    # -- the contrast ------------------------------------------------------------------------------------------------------

    def views(self, items: Tensor) -> Tensor:
        """Two views of each history ``[B, T]``, which differ from it at the same places: ``[2, B, T]``."""
        replaced = self.places(items)
        if self.replacement == RANDOM:
            drawn = torch.randint(1, self.n_items, (int(replaced.sum()), 2), device=items.device)  # [N, 2]
        else:
            likely = self.candidates(items, replaced)  # [N, k]
            drawn = likely.gather(1, torch.rand(likely.shape, device=items.device).argsort(1)[:, :2])
        views = items.repeat(2, 1, 1)
        views[:, replaced] = drawn.T
        return views

    def contrast(self, items: Tensor) -> Tensor:
        """How badly two views of each history ``[B, T]`` are told from those of the others: a scalar."""
        x, packing = self.encode({self.ITEM_SEQ: self.views(items).flatten(0, 1)})
        return view_contrast(*packing.last(x).chunk(2), self.contrast_temperature)

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse settings that it cannot be made with.

        Raises:
            UserError: as of :class:`.WindowSASRec`; ``denoiser_heads`` does not divide ``hidden_size``; or nothing teaches the denoiser that
                is to make views.
        """
        super().check(config)
        if config["hidden_size"] % config["denoiser_heads"]:
            heads, size = config["denoiser_heads"], config["hidden_size"]
            raise UserError(f"denoiser_heads is {heads} and hidden_size {size}; give a number of heads that divides the size")
        if config["contrast_weight"] and config["replacement"] == DIFFUSION and not denoises(config):
            raise UserError(
                "replacement is 'diffusion', but diffusion_weight and mse_weight are 0, so that nothing teaches the denoiser; "
                "give one of them a weight, or replacement: random"
            )

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """That of :class:`.WindowSASRec`, and what is added to it."""
        added = [denoises(config) and "denoising", config["contrast_weight"] and "contrast"]
        return " + ".join([super().loss_name(config), *filter(None, added)])


def denoises(config: Config) -> bool:
    """Whether a denoiser is learnt."""
    return bool(config["diffusion_weight"] or config["mse_weight"])


class Diffusion(nn.Module):
    """Gaussian noise by steps, on DiffuSeq's square-root schedule, and which steps are trained.

    What remains of the signal's variance falls by ``1 - sqrt(s / S + 0.0001)``: fast at first, where vectors of items that lie apart are still
    told apart. Steps are drawn by the root mean square of their last losses, once each has enough of them; a loss is divided by how much
    more often than others its step is drawn.

    Args:
        n_steps: S.

    Attributes:
        signal: ``[S]``, share of the variance that is signal after each step (alpha bar).
        losses: ``[S, REMEMBERED]``, last losses of each step.
        n_losses: ``[S]``, how many there have been.
    """

    def __init__(self, n_steps: int):
        super().__init__()
        self.n_steps = n_steps
        level = 1 - (torch.arange(n_steps + 1, dtype=torch.float64) / n_steps + 0.0001).sqrt()  # the last is below 0
        kept = (level[1:] / level[:-1]).clamp(min=0.001)  # 1 - beta of each step
        self.register_buffer("signal", kept.cumprod(0).float(), persistent=False)
        self.register_buffer("losses", torch.zeros(n_steps, REMEMBERED))
        self.register_buffer("n_losses", torch.zeros(n_steps, dtype=torch.int64))

    def begin(self, x: Tensor) -> Tensor:
        """x_0 of vectors ``[M, d]``: with the noise of the first step, small, as in DiffuSeq."""
        return x + (1 - self.signal[0]).sqrt() * torch.randn_like(x)

    def noise(self, x: Tensor, step: Tensor) -> Tensor:
        """x_0 ``[M, d]`` after the steps ``[M]``, counted from 0: ``[M, d]``."""
        signal = self.signal[step, None]
        return signal.sqrt() * x + (1 - signal).sqrt() * torch.randn_like(x)

    def probability(self) -> Tensor:
        """With which each step is drawn, ``[S]``."""
        if (self.n_losses < REMEMBERED).any():
            return torch.full_like(self.signal, 1 / self.n_steps)
        size = self.losses.square().mean(1).sqrt()
        return (1 - UNIFORM) * size / size.sum() + UNIFORM / self.n_steps

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """``n`` steps, and what their losses are multiplied by."""
        probability = self.probability()
        step = probability.multinomial(n, replacement=True)
        return step, 1 / (self.n_steps * probability[step])

    def learn(self, step: Tensor, loss: Tensor) -> None:
        """Remember the losses ``[n]`` of steps ``[n]``, of which some may be equal."""
        step, order = step.sort(stable=True)
        count = torch.bincount(step, minlength=self.n_steps)  # [S]
        place = torch.arange(len(step), device=step.device) - (count.cumsum(0) - count)[step]  # 0, 1, … among equal steps
        last = count[step] - place <= REMEMBERED  # of more than can be remembered the last
        self.losses[step[last], ((self.n_losses[step] + place) % REMEMBERED)[last]] = loss[order][last].float()
        self.n_losses += count


class RelativeBlock(TransformerBlock):
    """Transformer block in which every position of a history attends to all of them, by content and distance (DeBERTa's, equation 4).

    The logit of positions i and j is ``q_i k_j + q_i K[i - j] + k_j Q[j - i]`` over ``sqrt(3 d / H)``, K and Q learnt.

    Args:
        size, n_heads, inner_size, dropout: as of :class:`.TransformerBlock`.
        max_length: positions of the longest history.
    """

    def __init__(self, size: int, n_heads: int, inner_size: int, dropout: float, max_length: int):
        super().__init__(size, n_heads, inner_size, dropout)
        self.max_length = max_length
        self.distance = nn.Embedding(2 * max_length - 1, 2 * size)  # K and Q of each, from the farthest ahead to the farthest behind

    def attend(self, qkv: Tensor, layout: tuple[Packing, Tensor]) -> Tensor:
        """Packed positions [M, 3, H, d/H] to [M, d]; ``layout``: where they lie, and which of them are real [M]."""
        packing, real = layout
        position = torch.arange(packing.longest, device=qkv.device)
        behind = position[:, None] - position + self.max_length - 1  # [T, T]
        keys, queries = self.distance(behind).unflatten(-1, (2, self.n_heads, -1)).unbind(2)  # [T, T, H, d/H] each
        attended = []
        for (_, t), part, is_real in zip(packing.blocks, packing.split(qkv), packing.split(real)):
            query, key, value = part.unbind(2)  # [n, t, H, d/H] each
            logits = torch.einsum("nihd,njhd->nhij", query, key) + torch.einsum("nihd,ijhd->nhij", query, keys[:t, :t])
            logits = (logits + torch.einsum("njhd,jihd->nhij", key, queries[:t, :t])) / math.sqrt(3 * query.shape[-1])
            weights = logits.masked_fill(~is_real[:, None, None], -torch.inf).softmax(-1)  # [n, H, t, t]
            attended.append(torch.einsum("nhij,njhd->nihd", weights, value).flatten(2).flatten(0, 1))
        return torch.cat(attended)


class Denoiser(nn.Module):
    """Predicts x_0 of noised positions from all of a history and the step that the noise is of: ``n_layers`` of :class:`RelativeBlock`."""

    def __init__(self, n_layers: int, size: int, n_heads: int, inner_size: int, max_length: int, dropout: float):
        super().__init__()
        frequency = torch.exp(-math.log(10000) * torch.arange((size + 1) // 2) / ((size + 1) // 2))  # as of sinusoidal positions
        self.register_buffer("frequency", frequency, persistent=False)
        self.of_step = nn.Sequential(nn.Linear(size, 4 * size), nn.SiLU(), nn.Linear(4 * size, size))
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(RelativeBlock(size, n_heads, inner_size, dropout, max_length) for _ in range(n_layers))
        self.norm = nn.LayerNorm(size)

    def forward(self, x: Tensor, step: Tensor, packing: Packing, real: Tensor) -> Tensor:
        """Packed positions ``[M, d]``, noised or not, of which ``real`` [M] are no padding, at steps ``[M]``: ``[M, d]``."""
        angle = step[:, None] * self.frequency  # [M, d / 2]
        x = self.dropout(x + self.of_step(torch.cat([angle.sin(), angle.cos()], 1)[:, : x.shape[1]]))
        for block in self.blocks:
            x = block(x, (packing, real))
        return self.norm(x)
