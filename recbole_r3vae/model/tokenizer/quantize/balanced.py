"""k-means whose clusters are equally large, and stay so when items are assigned one by one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recbole_r3vae.model.tokenizer.quantize.assign import NearestNeighbour
from recbole_r3vae.model.tokenizer.quantize.codebook import Codebook, kmeans

# Steps of the auction's bids as shares of the mean cost, each started from the prices of the one before.
# Large steps find rough prices fast; the last tell neighbours within tight clusters apart.
_FIRST_STEP, _STEPS, _LAST_STEPS = 0.1, (0.01, 0.001), (1e-4, 1e-5, 1e-6)
_PRICE_SWEEPS = 20  # amazon-beauty, 256 codes: 0.2 % of items off their cluster after 1, none after 20


class BalancedNearestNeighbour(NearestNeighbour):
    r"""Nearest neighbour with a price on every codeword, :math:`\arg\min_k \|x - c_k\|^2 + p_k`.

    :meth:`initialise` chooses codewords and prices such that all codes get the same number of the vectors it
    sees. Vectors it has not seen are assigned by the same rule.

    Args:
        codebook: Codewords ``[K, d]``.
        iterations: At most so many times items are assigned and codewords moved to their means.

    Attributes:
        prices: ``[K]``.
    """

    def __init__(self, codebook: Codebook, iterations: int = 20):
        super().__init__(codebook)
        self.iterations = iterations
        self.register_buffer("prices", torch.zeros(codebook.size))

    def rating(self, x: Tensor) -> Tensor:
        return super().rating(x) - self.prices  # [B, K]

    @torch.no_grad()
    def initialise(self, x: Tensor, iterations: int, seed: int) -> None:
        """Balanced k-means, started from plain k-means.

        Args:
            x: ``[n, d]`` with ``n >= K``. All ``[n, K]`` distances are held in memory.
            iterations: Lloyd iterations of the plain k-means.
            seed: Of the plain k-means.
        """
        centroids, codes, prices = balanced_kmeans(x, self.codebook.size, iterations, self.iterations, seed)
        self.codebook.weight.copy_(centroids)
        cost = _squared_distances(x, centroids)
        self.prices.copy_(torch.from_numpy(separating_prices(cost, codes, prices)))


def balanced_kmeans(
    x: Tensor, k: int, iterations: int, balance_iterations: int, seed: int
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """k-means whose clusters hold equally many vectors, up to one.

    Args:
        x: ``[n, d]`` with ``n >= k >= 2``. All ``[n, k]`` distances are held in memory.
        k: Number of clusters; the first ``n % k`` have one vector more.
        iterations: Lloyd iterations of the plain k-means that it starts from.
        balance_iterations: At most so many times vectors are assigned and centroids moved to their means.
        seed: Of the plain k-means.

    Returns:
        Centroids ``[k, d]``, the cluster of each vector ``[n]``, and the prices ``[k]`` of its auction.
    """
    n = len(x)
    capacity = np.full(k, n // k)
    capacity[: n % k] += 1
    centroids = torch.from_numpy(kmeans(x.cpu().numpy(), k, iterations, seed)).to(x)
    cost = _squared_distances(x, centroids)
    codes, prices = auction(cost, capacity, np.zeros(k), _FIRST_STEP)
    for moves_left in reversed(range(balance_iterations + 1)):
        before = codes
        codes, prices = auction(cost, capacity, prices, *_STEPS)
        if moves_left == 0 or (codes == before).all():
            break  # at prices of these centroids: from others, the small last steps would take very long
        members = torch.from_numpy(codes).to(x.device)
        sums = torch.zeros_like(centroids).index_add_(0, members, x)  # [k, d]
        centroids = sums / torch.from_numpy(capacity).to(x).unsqueeze(1)
        cost = _squared_distances(x, centroids)
    return centroids, *auction(cost, capacity, prices, *_LAST_STEPS)


def _squared_distances(x: Tensor, centroids: Tensor) -> np.ndarray:
    """``[n, d]`` and ``[k, d]`` -> ``[n, k]``, not negative even where vectors are equal up to rounding."""
    product = 2 * x @ centroids.T - centroids.square().sum(-1)
    return (x.square().sum(-1, keepdim=True) - product).clamp(min=0).cpu().numpy()


def auction(
    cost: np.ndarray, capacity: np.ndarray, prices: np.ndarray, *steps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Assign every item to one code so that the sum of costs is least and every code is exactly full.

    Items without a code bid for the one where cost plus price is least, as much as the next best code allows
    and one step more; a code that is full drops its lowest bids and charges the lowest that it keeps
    (Bertsekas, "The auction algorithm for the transportation problem", Annals of Operations Research 1989).
    All items bid at once and ties go to the lower row: nothing depends on the order of codes, unlike in
    Algorithm 1 of OneRec (arXiv 2502.18965), where the code that chooses last gets what the others left.

    Args:
        cost: ``[n, K]``.
        capacity: Items of each code ``[K]``, ``n`` in all.
        prices: What codes charge at first ``[K]``; any prices lead to an assignment, good ones fast.
        steps: One auction after the other, each with this share of the mean cost as its step; the average
            cost of an item is at most the last step above the least.

    Returns:
        Code of each item ``[n]``, and prices ``[K]`` at which no item would gain more than a step elsewhere.
    """
    unit = float(cost.mean()) or 1.0
    for step in steps:
        codes, prices = _auction(cost, capacity, prices, step * unit)
    return codes, prices


def _auction(
    cost: np.ndarray, capacity: np.ndarray, prices: np.ndarray, step: float
) -> tuple[np.ndarray, np.ndarray]:
    n, k = cost.shape
    prices = np.array(prices, dtype=np.float64)
    codes, bids = np.full(n, -1), np.zeros(n)
    waiting = np.arange(n)
    while len(waiting):
        total = cost[waiting] + prices  # [w, K]
        rows, best = np.arange(len(waiting)), total.argmin(1)
        least = total[rows, best]
        total[rows, best] = np.inf
        codes[waiting] = best
        bids[waiting] = prices[best] + total.min(1) - least + step
        wanted = np.zeros(k, dtype=bool)
        wanted[best] = True
        holders = np.flatnonzero((codes >= 0) & wanted[codes])
        holders = holders[np.lexsort((holders, -bids[holders], codes[holders]))]  # by code, highest bid first
        of_code = codes[holders]
        rank = np.arange(len(holders)) - np.searchsorted(of_code, of_code)  # position within the code
        last = rank == capacity[of_code] - 1
        prices[of_code[last]] = bids[holders[last]]
        waiting = np.sort(holders[rank >= capacity[of_code]])
        codes[waiting] = -1
    return codes, prices


def separating_prices(cost: np.ndarray, codes: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Prices at which items prefer their code by a margin.

    An auction leaves every price at the point where the weakest holder is about to leave. The same assignment
    holds between that and the point where the strongest outsider would come; this takes the middle.

    Args:
        cost: ``[n, K]``.
        codes: Code of each item ``[n]``, each code with an item.
        prices: Of the auction ``[K]``.

    Returns:
        ``[K]``, such that ``argmin(cost + prices)`` is ``codes``, but for items that the auction's last step
        or equal vectors leave between two codes.
    """
    k = cost.shape[1]
    # extra[a, b]: the least that an item of code a would pay more at code b, before prices.
    extra = np.stack([(cost[codes == a] - cost[codes == a, a, None]).min(0) for a in range(k)])  # [K, K]
    np.fill_diagonal(extra, np.inf)
    prices = prices.copy()
    for _ in range(_PRICE_SWEEPS):
        for a in range(k):
            highest = (prices + extra[a]).min()  # above, an item of a would leave
            lowest = (prices - extra[:, a]).max()  # below, an item would come to a
            prices[a] = (highest + lowest) / 2
    return prices - prices.mean()
