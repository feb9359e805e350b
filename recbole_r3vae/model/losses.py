"""Losses over items: a softmax, exact over the whole catalogue in little memory or over a sample of it; and SASRec's binary one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CELLS = 2**21
"""Logits that exist at a time: 8 MiB in float32."""


def catalogue_cross_entropy(
    x: Tensor,
    items: Tensor,
    target: Tensor,
    temperature: float | None = None,
    chunk: int | None = None,
    extra: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Mean cross-entropy of ``x @ items.T`` over all items, of which a few rows exist at a time.

    The value and the gradients are those of ``F.cross_entropy``. A chunk of positions goes from logits to gradients at once, in the forward
    pass: the matrix products are the same three, nothing is computed twice, and no array of ``[N, n]`` is ever held. Products are in the
    precision that autocast gives them, the softmax is in float32.

    Args:
        x: ``[N, d]``, one vector a position.
        items: ``[n, d]``, one vector an item.
        target: ``[N]`` int64, rows of ``items``.
        temperature: divides the products; ``None`` leaves them as they are.
        chunk: positions at a time; default: as many as keep :data:`CELLS` logits.
        extra: ``rows``, ``columns`` and ``values``, ``[E]`` each: terms that are added to the logits of single cells, after the
            temperature; where one cell is named twice, both are added. Gradients go to ``values``.

    Returns:
        A scalar, float32 (float64 of such vectors).
    """
    precision = (x[:1] @ items[:1].T).dtype  # what autocast makes of a product here
    chunk = chunk or max(1, CELLS // len(items))
    scale = 1.0 if temperature is None else 1 / temperature
    if extra is None:
        rows, columns, values = target[:0], target[:0], x.new_zeros(0)
    else:
        rows, order = extra[0].sort()
        columns, values = extra[1][order], extra[2][order]
    return _CatalogueCrossEntropy.apply(x, items, values, target, rows, columns, scale, chunk, precision)


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Loss and gradients chunk by chunk; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        items: Tensor,
        values: Tensor,
        target: Tensor,
        rows: Tensor,
        columns: Tensor,
        scale: float,
        chunk: int,
        precision: torch.dtype,
    ) -> Tensor:
        n_rows, wide = len(x), torch.promote_types(x.dtype, torch.float32)
        of_x, of_items, of_values = ctx.needs_input_grad[:3]
        x_, items_ = (x * scale).to(precision), items.to(precision)
        grad_x = torch.empty_like(x) if of_x else None
        grad_items = torch.zeros_like(items) if of_items else None
        grad_values = torch.empty_like(values) if of_values else None
        bounds = torch.searchsorted(rows, torch.arange(0, n_rows + chunk, chunk, device=rows.device)).tolist() if len(rows) else None
        loss = torch.zeros((), dtype=wide, device=x.device)
        # Written again and again: a chunk's own arrays would be pages that the system has to hand over anew each time.
        products = torch.empty(min(chunk, n_rows), len(items), dtype=precision, device=x.device)
        floats = products if precision == wide else torch.empty_like(products, dtype=wide)
        of_chunk = torch.empty_like(items_)
        for part, begin in enumerate(range(0, n_rows, chunk)):
            here = slice(begin, begin + chunk)
            product, logits = (array[: n_rows - begin] for array in (products, floats))  # [c, n]
            torch.mm(x_[here], items_.T, out=product)
            if logits is not product:
                logits.copy_(product)
            if bounds:
                cells = slice(bounds[part], bounds[part + 1])
                named = (rows[cells] - begin, columns[cells])
                logits.index_put_(named, values[cells].to(wide), accumulate=True)
            wanted = target[here, None]  # [c, 1]
            highest, own = logits.amax(1, keepdim=True), logits.gather(1, wanted)
            # One pass for the maximum, the exponentials, their sum and the quotient, several times as fast as one pass for each.
            slope = torch.softmax(logits, 1, out=logits)
            # The highest probability is at least 1 / n, so that its logarithm gives the sum where the target's own is 0 in float32.
            loss += (highest - slope.amax(1, keepdim=True).log() - own).sum()
            if not (of_x or of_items or of_values):
                continue
            slope.scatter_add_(1, wanted, slope.new_full((), -1.0).expand(wanted.shape))  # of the loss, by each logit
            if of_values and bounds:
                grad_values[cells] = slope[named].to(values.dtype)
            slope = product.copy_(slope) if logits is not product else slope
            if of_x:
                grad_x[here] = slope @ items_
            if of_items:
                grad_items += torch.mm(slope.T, x_[here], out=of_chunk)  # of items, x_ has the scale in it
        ctx.save_for_backward(grad_x, grad_items, grad_values)
        ctx.shares = scale / n_rows, 1 / n_rows, 1 / n_rows
        return loss / n_rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        grads = (None if grad is None else grad * (grad_loss * share).to(grad.dtype) for grad, share in zip(ctx.saved_tensors, ctx.shares))
        return *grads, *(None,) * 6


def log_frequency(counts: Mapping[int, int], n_items: int, power: float) -> Tensor:
    """How items are drawn for :func:`sampled_cross_entropy`: by their smoothed frequency.

    Args:
        counts: of each item as a training target; 0 where it is not named.
        n_items: the padding item included.
        power: 1 draws by frequency, 0 uniformly.

    Returns:
        float32 ``[n_items - 1]``, log-probabilities of the items from 1 on.
    """
    return (torch.tensor([1.0 + counts[item] for item in range(1, n_items)]).log() * power).log_softmax(0)


def sampled_cross_entropy(
    x: Tensor, items: Tensor, target: Tensor, negatives: Tensor, log_q: Tensor, temperature: float | None = None
) -> Tensor:
    """Mean cross-entropy over each position's target and K items that all positions of a batch share.

    A drawn item's logit is lowered by the logarithm of how often it is expected among the K draws (Bengio and Senécal, "Adaptive Importance
    Sampling to Accelerate Training of a Neural Probabilistic Language Model", IEEE TNN 2008; the logQ correction of Yi et al.,
    "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019). A position's target stands there once,
    uncorrected, because it is not drawn; draws of it are left out at that position. So the sum in the softmax's denominator is, in
    expectation, the sum over the whole catalogue.

    Args:
        x: ``[N, d]``, one vector a position.
        items: ``[n, d]``, one vector an item.
        target: ``[N]`` int64, rows of ``items``.
        negatives: ``[K]`` int64, rows of ``items``, drawn with replacement.
        log_q: ``[K]``, the logarithm of the probability with which each of them is drawn.
        temperature: divides the products; ``None`` leaves them as they are.

    Returns:
        A scalar.
    """
    scale = 1.0 if temperature is None else 1 / temperature
    wanted = (x * F.embedding(target, items)).sum(-1, keepdim=True).float() * scale  # [N, 1]
    others = (x @ F.embedding(negatives, items).T).float() * scale - (log_q + math.log(len(negatives)))  # [N, K]
    others = others.masked_fill(negatives == target[:, None], torch.finfo(others.dtype).min)
    return (torch.cat([wanted, others], 1).logsumexp(1) - wanted[:, 0]).mean()


def binary_cross_entropy(
    x: Tensor, items: Tensor, target: Tensor, negative: Tensor, counted: Tensor, temperature: float | None = None
) -> Tensor:
    """Mean over positions of ``-log sigmoid(x target) - log sigmoid(-x negative)``, with one negative item each.

    Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781, equation 7.

    Args:
        x: ``[N, d]``, one vector a position.
        items: ``[n, d]``, one vector an item.
        target: ``[N]`` int64, rows of ``items``.
        negative: ``[N]`` int64, likewise.
        counted: ``[N]`` bool, where the negative has a say.
        temperature: divides the products; ``None`` leaves them as they are.

    Returns:
        A scalar.
    """
    wanted, other = ((x * F.embedding(rows, items)).sum(-1).float() / (temperature or 1) for rows in (target, negative))  # [N] each
    return (F.softplus(-wanted) + F.softplus(other) * counted).mean()
