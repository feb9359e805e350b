"""The best items of the whole catalogue, by any score that can be computed for a range of items at a time.

Exact: every item is scored, and only as many scores are held as :data:`CHUNK_CELLS` says. Heads that score items alike can be added up
before they are ranked: ``lambda begin, end: digits(begin, end) + 0.5 * vectors(begin, end)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.decoding.rules import Allowed, Excluded, check_allowed, check_found, first_best

ScoreItems = Callable[[int, int], Tensor]
"""From the first item and the one after the last to float32 scores ``[items, B]``, of any strides; a new tensor, to be written to."""

Ranking = tuple[Tensor, Tensor]
"""int64 ``[B, k]`` items, best first, and their float32 ``[B, k]`` scores."""

CHUNK_CELLS = {"cpu": 2**20, "cuda": 2**26}
"""Scores of users by items held at once: 4 MiB on a CPU, which its caches hold, 256 MiB on a GPU. Ranking takes about twice that."""

_BLOCK = 16  # items whose best score stands for all of them while chunks are sifted


@torch.no_grad()
def rank_catalogue(
    score: ScoreItems,
    n_users: int,
    n_items: int,
    k: int,
    rules: Sequence[Allowed] = (None,),
    strict: bool = True,
    bias: Tensor | None = None,
    chunk: int | None = None,
    device: torch.device | str = "cpu",
) -> list[Ranking]:
    """The k best items of each user under each rule; every item is scored once.

    Equal scores are ordered by item number, on every device and for any chunk. An item of score ``-inf`` is never returned, nor is the
    padding item 0.

    Args:
        score: Scores items ``begin … end - 1`` for all users; asked for items 1 … n_items - 1.
        n_users: B.
        n_items: The padding item included.
        k: Number of items a user.
        rules: Which items may be returned, one ranking each; default: one ranking of all items.
        strict: Whether fewer than k possible items are an error; otherwise item 0 and ``-inf`` fill up.
        bias: Floats ``[n_items]`` or ``[B, n_items]`` added to the scores, such as a prior on repeats; default: none.
        chunk: Items scored at once; default: :data:`CHUNK_CELLS` over the users.
        device: Where ``score`` puts its scores.

    Returns:
        One ranking a rule.

    Raises:
        UserError: k below 1; a rule does not fit; a score is NaN; or (``strict``) a user has fewer than k items with a score above
            ``-inf``.
    """
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}; ask for one item or more")
    device = torch.device(device)
    if chunk is None:
        chunk = max(_BLOCK, CHUNK_CELLS.get(device.type, CHUNK_CELLS["cuda"]) // max(1, n_users))
    masks = [_Mask(rule, n_users, n_items) for rule in rules]
    best = [(torch.zeros(n_users, k, dtype=torch.int64, device=device), torch.full((n_users, k), -torch.inf, device=device)) for _ in masks]
    is_nan = torch.zeros((), dtype=torch.bool, device=device)
    for begin in range(1, n_items, chunk):
        end = min(begin + chunk, n_items)
        scores = score(begin, end)  # [c, B]
        if bias is not None:
            scores += bias[..., begin:end].T if bias.dim() == 2 else bias[begin:end, None]
        for rule, mask in enumerate(masks):
            allowed, undo = mask.close(scores, begin, end)
            items, scores_of_best, chunk_is_nan = _better(*best[rule], allowed, begin)
            best[rule] = items, scores_of_best
            is_nan |= chunk_is_nan
            undo()
    rankings = []
    for items, scores in best:
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        rankings.append((items.gather(1, order).masked_fill_(scores == -torch.inf, 0), scores))
    check_found([items for items, _ in rankings], is_nan, strict)
    return rankings


class _Mask:
    """The rule about one ranking, ready to be applied to a range of items."""

    def __init__(self, rule: Allowed, n_users: int, n_items: int) -> None:
        check_allowed(rule, n_users, n_items)
        self.flags = rule if isinstance(rule, Tensor) else None
        self.pairs = None
        if isinstance(rule, Excluded):
            order = rule.items.argsort()
            self.pairs = rule.users[order], rule.items[order].contiguous()

    def close(self, scores: Tensor, begin: int, end: int) -> tuple[Tensor, Callable[[], object]]:
        """``scores`` ``[c, B]`` with ``-inf`` for items that may not be returned, and what gives the original its values back."""
        if self.flags is not None:
            flags = self.flags[..., begin:end].to(scores.device)
            closed = ~flags.T if flags.dim() == 2 else ~flags[:, None]  # [c, B] or [c, 1]
            return scores.masked_fill(closed, -torch.inf), lambda: None
        if self.pairs is None:
            return scores, lambda: None
        users, items = self.pairs
        first, last = torch.searchsorted(items, torch.tensor([begin, end], device=items.device)).tolist()
        cells = (items[first:last].to(scores.device) - begin, users[first:last].to(scores.device))
        kept = scores[cells]
        scores[cells] = -torch.inf
        return scores, lambda: scores.index_put_(cells, kept)


def _better(items: Tensor, scores: Tensor, more: Tensor, begin: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best k of those found so far, ``[B, k]`` in the order of items, and of the chunk ``more`` ``[c, B]`` that comes after them.

    A chunk is sifted by blocks. The k best cells lie in the k best blocks, by their best score and of equals the first: a cell of any other
    block has k cells before it, one in each of those.

    Returns:
        int64 ``[B, k]`` items in their order, float32 ``[B, k]`` scores, and bool ``[]``, whether a score is NaN.
    """
    k = scores.shape[1]
    padded = F.pad(more, (0, 0, 0, -len(more) % _BLOCK), value=-torch.inf)
    best_of_block = padded.view(-1, _BLOCK, padded.shape[1]).amax(1)  # [c / 16, B]
    best = first_best(best_of_block.T, min(k, len(best_of_block)))  # [B, b]
    cells = (best.unsqueeze(2) * _BLOCK + torch.arange(_BLOCK, device=best.device)).flatten(1)  # [B, 16 b], ascending
    found = torch.cat([items, cells + begin], dim=1)  # [B, k + 16 b]
    scores = torch.cat([scores, padded.T.gather(1, cells)], dim=1)
    places = first_best(scores, k)
    return found.gather(1, places), scores.gather(1, places), best_of_block.isnan().any()
