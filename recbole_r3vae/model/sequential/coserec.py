"""CoSeRec: WindowSASRec that also tells two augmented views of a history from those of others; items are put in by correlation.

Liu et al., "Contrastive Self-supervised Sequential Recommendation with Robust Augmentation", 2021, arXiv 2108.06479.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_r3vae.model.parameters import Choice, ListOf, Number, Whole
from recbole_r3vae.model.sequential.windowsasrec import WindowSASRec
from recbole_r3vae.model.views import part_of, some_places, view_contrast

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.interaction import Interaction

CROP, MASK, REORDER, SUBSTITUTE, INSERT = AUGMENTATIONS = ("crop", "mask", "reorder", "substitute", "insert")
FOR_SHORT = (SUBSTITUTE, INSERT, MASK)
"""What short histories are augmented by: the others would leave nothing, or nothing to learn."""

HYBRID, ITEM_CF, RANDOM = "hybrid", "item_cf", "random"
ROWS = 1024  # items that are compared with the whole catalogue at a time


class CoSeRec(WindowSASRec):
    """:class:`.WindowSASRec` with a contrast of augmented histories: ``L = L_rec + contrast_weight * InfoNCE``.

    Of each training window two views are drawn, each by one augmentation, uniformly among ``augmentations``; windows of at most
    ``short_length`` items know substitute, insert and mask alone. A view is its vector at the last position, or (``contrast_on: all``, the
    authors') those of all positions in a row, the last ones side by side; the contrast is :func:`~recbole_r3vae.model.views.view_contrast`.

    Substitute and insert take the item's most correlated one. Correlation is ItemCF-IUF on training interactions, :func:`item_cf`; after
    ``hybrid_after`` epochs it is the larger of that and the product of the current embeddings, each scaled to 0 … 1 over all pairs of
    items, see :meth:`correlated`. An item that nobody met together with another one stays as it is.

    Where the description leaves a choice: a crop keeps its share (as in CL4SRec, arXiv 2010.14395); a masked item is read as one learnt
    vector; an item is inserted before the one that it is correlated with, and the oldest give way to it; correlations of embeddings are
    taken at the beginning of an epoch.

    Args:
        config: as of :class:`.WindowSASRec`; ``contrast_weight``, ``contrast_temperature``, ``contrast_on``, ``augmentations``,
            ``short_length``, a share of each augmentation, ``correlation``, ``hybrid_after``; see ``properties/model/CoSeRec.yaml``.
        dataset: training dataset.
    """

    hyperparameters = {
        "contrast_weight": Number(at_least=0),
        "contrast_temperature": Number(above=0),
        "contrast_on": Choice("last", "all"),
        "augmentations": ListOf(Choice(*AUGMENTATIONS)),
        "short_length": Whole(0),
        **{f"{name}_share": Number(above=0, at_most=1) for name in AUGMENTATIONS},
        "correlation": Choice(HYBRID, ITEM_CF, RANDOM),
        "hybrid_after": Whole(0),
    }

    def __init__(self, config: Config, dataset: Any):
        super().__init__(config, dataset)
        self.contrast_weight, self.contrast_temperature = config["contrast_weight"], config["contrast_temperature"]
        self.contrast_all, self.correlation, self.hybrid_after = config["contrast_on"] == "all", config["correlation"], config["hybrid_after"]
        self.shares = {name: config[f"{name}_share"] for name in AUGMENTATIONS}
        self.of_long = sorted({AUGMENTATIONS.index(name) for name in config["augmentations"]})
        self.of_short = [number for number in self.of_long if AUGMENTATIONS[number] in FOR_SHORT] or self.of_long
        self.short_length = config["short_length"]
        self.masked_item = self.n_items  # the number after the last item's, in histories alone
        if MASK in config["augmentations"] and self.contrast_weight:
            self.mask_embedding = nn.Embedding(1, config["hidden_size"])
            nn.init.normal_(self.mask_embedding.weight, std=0.02)
        best, neighbour = most_correlated(item_cf(*dataset.meetings(), self.n_items))
        self.register_buffer("cf_best", torch.from_numpy(best), persistent=False)  # [n_items], scaled to 0 … 1
        self.register_buffer("cf_neighbour", torch.from_numpy(neighbour), persistent=False)  # [n_items]
        self.register_buffer("neighbour", self.cf_neighbour.clone(), persistent=False)  # what is put in now

    def item_inputs(self, items: Tensor) -> Tensor:
        """What the blocks read of items [M] or of masked ones, [M, d]."""
        masked = items == self.masked_item
        if not masked.any():
            return super().item_inputs(items)
        return super().item_inputs(items.masked_fill(masked, 0)) + masked[:, None] * self.mask_embedding.weight  # item 0 is a row of zeros

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """The loss of :class:`.WindowSASRec`, and the contrast of two views of each window.

        Args:
            interaction: windows of a :class:`~recbole_r3vae.data.sequences.WindowDataset`.
        """
        loss = super().calculate_loss(interaction)
        return loss + self.contrast_weight * self.contrast(interaction[self.ITEM_SEQ]) if self.contrast_weight else loss

    def contrast(self, items: Tensor) -> Tensor:
        """How badly two views of each history ``[B, T]`` are told from those of the others: a scalar."""
        views = torch.cat([self.view(items), self.view(items)])  # [2B, T]
        x, packing = self.encode({self.ITEM_SEQ: views})
        if self.contrast_all:
            length, width = (views > 0).sum(1), views.shape[1]
            source = torch.arange(width, device=views.device) - (width - length)[:, None]  # [2B, T], negative before a view begins
            last_right = packing.pad(x).gather(1, source.clamp(min=0)[..., None].expand(-1, -1, x.shape[1]))  # [2B, T, d]
            vectors = (last_right * (source >= 0)[..., None]).flatten(1)  # [2B, T d]
        else:
            vectors = packing.last(x)  # [2B, d]
        return view_contrast(*vectors.chunk(2), self.contrast_temperature)

    def view(self, items: Tensor) -> Tensor:
        """Histories ``[B, T]``, padded with 0 on the right, each by one augmentation: ``[B, T]``, no row of it empty."""
        length = (items > 0).sum(1)
        of_short, of_long = (
            torch.tensor(kinds, device=items.device)[torch.randint(len(kinds), length.shape, device=items.device)]
            for kinds in (self.of_short, self.of_long)
        )
        kind, view = of_short.where(length <= self.short_length, of_long), items.clone()  # [B], [B, T]
        for number in self.of_long:
            rows = (kind == number).nonzero()[:, 0]
            name, these = AUGMENTATIONS[number], items[rows]  # [n, T]
            put_in = {MASK: [self.masked_item], SUBSTITUTE: [self.correlated(these)], INSERT: [self.correlated(these)]}.get(name, [])
            view[rows] = AUGMENT[name](these, self.shares[name], *put_in)
        return view

    @classmethod
    def loss_name(cls, config: Config) -> str:
        """That of :class:`.WindowSASRec`, and the contrast where it has a weight."""
        return super().loss_name(config) + (" + contrast" if config["contrast_weight"] else "")

    # -- correlation -------------------------------------------------------------------------------------------------------

    def correlated(self, items: Tensor) -> Tensor:
        """The item that is put in for each of ``items``, of the same shape; of padding it says anything."""
        if self.correlation == RANDOM:
            return torch.randint(1, self.n_items, items.shape, device=items.device)
        return self.neighbour[items]

    def begin_epoch(self, epoch: int) -> None:
        """After ``hybrid_after`` epochs, find the most correlated items by the current embeddings too."""
        if self.correlation == HYBRID and epoch >= self.hybrid_after:
            best, neighbour = nearest_by_product(self.item_embedding.weight.detach())
            self.neighbour = neighbour.where(best > self.cf_best, self.cf_neighbour)


def item_cf(users: np.ndarray, items: np.ndarray, n_items: int) -> sp.csr_matrix:
    """ItemCF-IUF: how often two items are met by one user, who counts the less the more he has met.

    ``C_ij = sum over users of both of 1 / log(1 + |I_u|)``, divided by ``sqrt(N_i N_j)``, the numbers of their users.

    Args:
        users, items: ``[P]`` int64, pairs of training interactions, each pair once.
        n_items: the padding item included.

    Returns:
        float64 ``[n_items, n_items]``, without a diagonal.
    """
    _, row = np.unique(users, return_inverse=True)
    met = sp.csr_matrix((np.ones(len(row)), (row, items)), shape=(int(row.max(initial=-1)) + 1, n_items))
    per_user, per_item = (np.asarray(met.sum(axis)).ravel() for axis in (1, 0))
    counts = (met.T @ sp.diags(1 / np.log1p(per_user)) @ met).tocoo()
    apart = counts.row != counts.col
    row, col = counts.row[apart], counts.col[apart]
    return sp.csr_matrix((counts.data[apart] / np.sqrt(per_item[row] * per_item[col]), (row, col)), shape=counts.shape)


def most_correlated(scores: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """The best other item of each, of equal ones the first; of an item without any, itself at 0.

    Args:
        scores: ``[n, n]`` without a diagonal or negative entries; row 0 is the padding item's.

    Returns:
        float32 ``[n]``, the best score, scaled so that the smallest of all pairs' is 0 and the largest 1; int64 ``[n]``, its item.
    """
    n = scores.shape[0]
    every_pair = scores.nnz == (n - 1) * (n - 2)
    low, high = scores.data.min() if every_pair and scores.nnz else 0.0, scores.data.max(initial=0.0)
    best, neighbour = scores.max(1).toarray().ravel(), np.asarray(scores.argmax(1)).ravel()
    alone = best == 0
    scaled = np.where(alone, 0, (best - low) / ((high - low) or 1))
    return scaled.astype(np.float32), np.where(alone, np.arange(n), neighbour)


def nearest_by_product(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`most_correlated`, of the products of vectors ``[n, d]``, of which row 0 is the padding item's and left out."""
    place, best, neighbour, low = torch.arange(1, len(vectors), device=vectors.device), [], [], []
    for some in place.split(ROWS):
        product = vectors[some] @ vectors[1:].T  # [ROWS, n - 1]
        itself = some[:, None] == place
        low.append(product.masked_fill(itself, torch.inf).min())
        highest = product.masked_fill(itself, -torch.inf).max(1)
        best.append(highest.values)
        neighbour.append(highest.indices + 1)
    best, low = torch.cat(best), torch.stack(low).min()
    scaled = (best - low) / (best.max() - low).clamp(min=torch.finfo(best.dtype).tiny)
    return torch.cat([scaled.new_zeros(1), scaled]), torch.cat([place.new_zeros(1), *neighbour])


# -- augmentations: histories [n, T], padded with 0 on the right, to [n, T] ------------------------------------------------------------


def crop(items: Tensor, share: float) -> Tensor:
    """A share of the items that follow each other, rounded down but at least one; every beginning is equally likely."""
    begin, kept = _stretch(items, share, least=1)
    column = torch.arange(items.shape[1], device=items.device)
    return items.gather(1, (begin + column).clamp(max=items.shape[1] - 1)).masked_fill(column >= kept, 0)


def mask(items: Tensor, share: float, masked_item: int) -> Tensor:
    """A random share of the items, rounded down, replaced by one that says nothing."""
    return items.masked_fill(some_places(items > 0, part_of((items > 0).sum(1), share)), masked_item)


def reorder(items: Tensor, share: float) -> Tensor:
    """A share of the items that follow each other, rounded down, in random order."""
    begin, moved = _stretch(items, share, least=0)
    column = torch.arange(items.shape[1], device=items.device)
    inside = (column >= begin) & (column < begin + moved)
    key = torch.where(inside, begin + moved * torch.rand(items.shape, device=items.device), column)  # [n, T], between its neighbours'
    return items.gather(1, key.argsort(dim=1, stable=True))


def substitute(items: Tensor, share: float, correlated: Tensor) -> Tensor:
    """A random share of the items, rounded down but at least one, replaced by their ``correlated`` ones [n, T]."""
    return correlated.where(some_places(items > 0, part_of((items > 0).sum(1), share, least=1)), items)


def insert(items: Tensor, share: float, correlated: Tensor) -> Tensor:
    """Before a random share of the items, rounded down but at least one, their ``correlated`` ones [n, T]; the last T items remain."""
    width, length = items.shape[1], (items > 0).sum(1)
    chosen = some_places(items > 0, part_of(length, share, least=1))
    place = torch.arange(width, device=items.device) + chosen.cumsum(1)  # [n, T], where each item moves to
    longer = items.new_zeros(len(items), 2 * width).scatter(1, place, items)
    row, column = chosen.nonzero(as_tuple=True)
    longer[row, place[row, column] - 1] = correlated[row, column]
    first = (length + chosen.sum(1) - width).clamp(min=0)  # [n], oldest items that give way
    return longer.gather(1, first[:, None] + torch.arange(width, device=items.device))


def _stretch(items: Tensor, share: float, least: int) -> tuple[Tensor, Tensor]:
    """Where a random stretch of a share of each history begins, and how long it is: ``[n, 1]`` each."""
    length = (items > 0).sum(1)
    size = part_of(length, share, least)
    begin = (torch.rand(length.shape, device=items.device, dtype=torch.float64) * (length - size + 1)).long()
    return begin[:, None], size[:, None]


AUGMENT = {CROP: crop, MASK: mask, REORDER: reorder, SUBSTITUTE: substitute, INSERT: insert}
