"""Cohesion and separation of the clusters that semantic IDs make: SC and PD of R3-VAE (arXiv 2604.11440).

All functions take the whole catalogue without the padding row (``ids.codes[1:]``, ``embeddings[1:]``) and return plain numbers. What a
cluster of level ``l`` is depends on the codes:

* *by prefix*, where each code refines those before it: the items whose first ``l`` codes agree;
* *by digit*, where the codes have no order (``SemanticIDs.ordered`` is False): the items whose ``l``-th codes agree.

Vectors may be tensors, arrays, memory maps or vectors left in a file, of any float type; they are read once, in blocks of rows, and
accumulated in float64. Working memory by prefix is that of a level's cluster sums (float64), its parents' and its centres (float32): at
most some ``24 * n * d`` bytes, reached where hardly any two items share a prefix, and never more than three times
:attr:`Sampling.held_numbers`. A level of more cluster sums than that is estimated from random clusters of it, whose items are read once
more: SC from clusters of two or more items, PD from all pairs of others, each with its standard error. By digit it is the cluster sums of
all digits together, ``8 * d`` bytes for each code in use.

Both measures depend on the space they are measured in, so only values from one and the same space compare tokenizers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recbole_r3vae.sid.codes import prefix_groups

Vectors = Tensor | np.ndarray

_BLOCK_NUMBERS = 2**20  # numbers read or gathered at once; small enough for a processor's cache
_TILE = (512, 1024)  # centres by centres of one step of the exact PD


def semantic_cohesion(codes: Tensor, x: Vectors, ordered: bool = True) -> list[dict]:
    """Semantic cohesion (SC) of R3-VAE at every level: how alike the items of a cluster are.

    Higher is better. The mean over clusters ``G`` of two or more items of
    ``2 / (|G|^2 - |G|) * sum_{i<j in G} cos(x_i, x_j)``, computed without pairs as
    ``(||sum_i u_i||^2 - |G|) / (|G|^2 - |G|)`` on unit vectors ``u``. A zero vector has cosine 0 with all.
    Every cluster weighs the same, whatever its size.

    Args:
        codes: Integers ``[n, L]``.
        x: The items' vectors ``[n, d]``, of any norm.
        ordered: Whether clusters are made by prefix; otherwise by digit. Default True.

    Returns:
        One dict a level: ``sc`` (nan where no cluster has two items), ``stderr`` (its standard error where it rests on random clusters,
        else 0), ``sampled_clusters`` (their number, else 0), ``clusters``, ``clusters_2plus`` (clusters of two or more items, those that
        ``sc`` averages; at the last level usually few).

    Raises:
        ValueError: shapes do not fit, negative codes, or a vector that is not finite.
    """
    return [cohesion(clusters) for clusters in levels_of(codes, x, ordered)][::-1]


def preference_discrimination(
    codes: Tensor,
    x: Vectors,
    t: float = 2.0,
    ordered: bool = True,
    *,
    exact_up_to: int = 20_000,
    sample_pairs: int = 10_000_000,
    seed: int = 0,
) -> list[dict]:
    """Preference discrimination (PD) of R3-VAE at every level: how far clusters are apart.

    Lower is better. ``log[ 2 / (M (M - 1)) * sum_{a<b} exp(-t * (1 - cos(p_a, p_b))) ]`` over the ``M``
    clusters of the level, with the centre ``p`` the mean of the items' unit vectors. A zero centre has cosine
    0 with everything. The range is ``[-2 t, 0]``; orthogonal centres give ``-t``.

    Args:
        codes: Integers ``[n, L]``.
        x: The items' vectors ``[n, d]``, of any norm.
        t: Sharpness of the kernel, > 0; the paper's is 2.
        ordered: Whether clusters are made by prefix; otherwise by digit. Default True.
        exact_up_to: Levels with more clusters are estimated from random pairs instead of all pairs.
        sample_pairs: Number of pairs of that estimate, drawn uniformly with replacement.
        seed: Seed of the pairs; the same pairs are drawn in every space.

    Returns:
        One dict a level: ``pd`` (nan where ``clusters`` < 2), ``stderr`` (standard error of an estimated ``pd``
        by the delta method, 0 where exact), ``sampled_pairs`` (0 where exact), ``clusters``.

    Raises:
        ValueError: shapes do not fit, negative codes, ``t <= 0``, or a vector that is not finite.
    """
    if not t > 0:
        raise ValueError(f"t must be > 0, got {t}; the paper's value is 2")
    sampling = Sampling(exact_up_to, sample_pairs, seed)
    separation = Separation(t, sampling)
    return [separation.of(clusters) for clusters in levels_of(codes, x, ordered, sampling=sampling)][::-1]


@dataclass(frozen=True)
class Drawn:
    """Which clusters of a level with too many of them stand for it.

    Attributes:
        clusters: How many the level has, ``M``.
        several: How many of them have two or more items.
        for_sc: bool ``[m]``, of the m that were drawn those that SC rests on: a random part of those with two or more items.
        for_pd: bool ``[m]``, those that PD rests on: a random part of all.
    """

    clusters: int
    several: int
    for_sc: Tensor
    for_pd: Tensor


@dataclass(frozen=True)
class Clusters:
    """The ``M`` clusters of one level, or some of them."""

    sums: Tensor  # [M, d] float64, sum of the items' unit vectors
    sizes: Tensor  # [M] float64, number of items
    nonzero: Tensor  # [M] float64, number of items with a direction
    children: Tensor | None = None  # [M of the level below] int64, the cluster each of those is part of; None where none are
    drawn: Drawn | None = None  # None: these are all


@dataclass(frozen=True)
class Sampling:
    """When a level is estimated, and from what.

    Attributes:
        exact_up_to: Up to so many clusters PD is a sum over all pairs of them.
        pairs: Beyond, the number of random pairs.
        seed: Of all that is drawn.
        held_numbers: Numbers of cluster sums ``[M, d]`` that are held, 512 MiB in float64. A level with more of them is estimated from
            random clusters: SC from as many as may be held, PD from all pairs of ``exact_up_to`` of them.
    """

    exact_up_to: int = 20_000
    pairs: int = 10_000_000
    seed: int = 0
    held_numbers: int = 2**26


def groups_of(codes: Tensor, ordered: bool = True) -> list[Tensor]:
    """Number the clusters of every level: rows with equal numbers are in one cluster.

    Args:
        codes: Integers ``[n, L]``.
        ordered: Whether clusters are made by prefix; otherwise by digit.

    Returns:
        ``L`` int64 tensors ``[n]``, numbers from 0 without gaps.

    Raises:
        ValueError: not integers from 0 of shape ``[n, L]``, or no rows.
    """
    codes = torch.as_tensor(codes)
    if codes.dim() != 2 or 0 in codes.shape or codes.is_floating_point() or int(codes.min()) < 0:
        raise ValueError(
            f"codes must be integers >= 0 of shape [n, L] without the padding row, got {codes.dtype} "
            f"{list(codes.shape)}" + (f" with minimum {codes.min().item()}" if codes.numel() else "")
        )
    codes = codes.to("cpu", torch.int64)
    return prefix_groups(codes) if ordered else [torch.unique(column, return_inverse=True)[1] for column in codes.unbind(1)]


def row_blocks(x: Vectors, rows: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
    """Place of the first row and float64 copy ``[b, d]`` of successive blocks of rows: of all, or of ``rows`` ``[m]``."""
    step = max(1, _BLOCK_NUMBERS // x.shape[1])
    for start in range(0, len(x) if rows is None else len(rows), step):
        here = slice(start, start + step)
        if isinstance(x, Tensor):
            yield start, x[here if rows is None else rows[here].to(x.device)].detach().to("cpu", torch.float64, copy=True)
        else:
            yield start, torch.from_numpy(np.array(x[here if rows is None else rows[here].numpy()], dtype=np.float64))


def levels_of(
    codes: Tensor, x: Vectors, ordered: bool = True, name: str = "x", sampling: Sampling = Sampling(), groups: Sequence[Tensor] | None = None
) -> Iterator[Clusters]:
    """The clusters of every level, deepest first.

    By prefix the deepest level whose cluster sums can be held is summed from items and every other above it from the level below it. Digits
    know nothing of each other: all of them are summed from items, in one reading.

    Args:
        codes: Integers ``[n, L]``.
        x: The items' vectors ``[n, d]``.
        ordered: Whether clusters are made by prefix; otherwise by digit.
        name: What ``x`` is called in a message.
        sampling: What may be held, and what is drawn of a level that has more.
        groups: Those of :func:`groups_of`, where they are at hand.

    Raises:
        ValueError: shapes do not fit, negative codes, or a vector that is not finite.
    """
    groups = groups_of(codes, ordered) if groups is None else groups
    n = len(groups[0])
    if x.ndim != 2 or len(x) != n or x.shape[1] == 0:
        raise ValueError(f"{name} must have shape [{n}, d], a row for each row of codes, got {list(x.shape)}")
    if not ordered:
        yield from reversed(_summed(groups, x, name))
        return
    level = None
    for number in reversed(range(len(groups))):
        group, m = groups[number], 1 + int(groups[number].max())
        if m > max(sampling.exact_up_to, sampling.held_numbers // x.shape[1]):
            yield _some(group, x, name, sampling)
            continue
        if level is None:
            [level] = _summed([group], x, name)
        else:
            children = torch.empty(len(level.sizes), dtype=torch.int64)
            children[groups[number + 1]] = group
            sums, sizes, nonzero = (
                torch.zeros(m, *value.shape[1:], dtype=torch.float64).index_add_(0, children, value)
                for value in (level.sums, level.sizes, level.nonzero)
            )
            level = Clusters(sums, sizes, nonzero, children)
        yield level


def _some(group: Tensor, x: Vectors, name: str, sampling: Sampling) -> Clusters:
    """Random clusters of one grouping ``[n]`` that has too many."""
    sizes = torch.bincount(group)  # [M]
    generator = torch.Generator().manual_seed(sampling.seed)
    several = (sizes > 1).nonzero().squeeze(1)
    picks = {}
    for key, among, most in (
        ("for_sc", several, sampling.held_numbers // x.shape[1]),
        ("for_pd", torch.arange(len(sizes)), sampling.exact_up_to),
    ):
        picks[key] = torch.zeros(len(sizes), dtype=torch.bool)
        picks[key][among[torch.randperm(len(among), generator=generator)[: max(2, most)]]] = True
    taken = picks["for_sc"] | picks["for_pd"]  # [M]
    slot = taken.cumsum(0) - 1  # [M]
    rows = taken[group].nonzero().squeeze(1)  # ascending: a file is read from front to back
    [found] = _summed([slot[group[rows]]], x, name, rows)
    return replace(found, drawn=Drawn(len(sizes), len(several), **{key: pick[taken] for key, pick in picks.items()}))


def _summed(groups: Sequence[Tensor], x: Vectors, name: str, rows: Tensor | None = None) -> list[Clusters]:
    """The clusters of each grouping ``[n]`` of the rows of ``x``, or of ``rows`` ``[n]`` of them, which are read once."""
    sizes = [torch.bincount(group).double() for group in groups]  # [M] each
    sums = [torch.zeros(len(size), x.shape[1], dtype=torch.float64) for size in sizes]
    nonzero = [torch.zeros_like(size) for size in sizes]
    for start, block in row_blocks(x, rows):
        norms = torch.linalg.vector_norm(block, dim=1)  # [b]
        if not norms.isfinite().all():
            row = start + int((~norms.isfinite()).nonzero()[0, 0])
            row = row if rows is None else int(rows[row])
            raise ValueError(f"row {row} of {name} is not finite; repair or drop that item's embedding")
        block /= norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]  # zero rows stay zero
        for level, group in enumerate(groups):
            mine = group[start : start + len(block)]
            sums[level].index_add_(0, mine, block)
            nonzero[level].index_add_(0, mine, (norms > 0).double())
    return [Clusters(*parts) for parts in zip(sums, sizes, nonzero)]


def cohesion(clusters: Clusters) -> dict:
    """SC of one level. ``sum_{i != j} u_i . u_j = ||sum u||^2 - sum ||u||^2``, and ``||u||`` is 1 or 0."""
    pairs = clusters.sizes * (clusters.sizes - 1)  # [M], ordered pairs
    several = pairs > 0
    cosines = torch.linalg.vector_norm(clusters.sums, dim=1).square() - clusters.nonzero  # [M]
    if (drawn := clusters.drawn) is None:
        sc = (cosines[several] / pairs[several]).mean().item()  # nan for none
        return {"sc": sc, "stderr": 0.0, "sampled_clusters": 0, "clusters": len(pairs), "clusters_2plus": int(several.sum())}
    means = cosines[drawn.for_sc] / pairs[drawn.for_sc]  # [S]
    counts = {"clusters": drawn.clusters, "clusters_2plus": drawn.several}
    if (size := len(means)) == drawn.several:  # no more than could be held
        return {"sc": means.mean().item(), "stderr": 0.0, "sampled_clusters": 0, **counts}
    stderr = math.sqrt(means.var().item() / size * (1 - size / drawn.several))  # drawn without replacement
    return {"sc": means.mean().item(), "stderr": stderr, "sampled_clusters": size, **counts}


class Separation:
    """PD of one level after the other, deepest first.

    Most clusters of a deep level hold one item and stay the same clusters at the next level up, above all
    under a disambiguating last code. Pairs between those are counted once: where it saves work, a level's sum
    over pairs is that of the level below, less the pairs of clusters that merge, plus the pairs of clusters
    they merge into.
    """

    def __init__(self, t: float, sampling: Sampling) -> None:
        self.t = t
        self.sampling = sampling
        self.below: tuple[float, Tensor] | None = None  # sum over pairs and centres of the level below

    def of(self, clusters: Clusters) -> dict:
        """``pd`` and what it rests on, see :func:`preference_discrimination`."""
        drawn, m = clusters.drawn, len(clusters.sizes)
        result = {"pd": math.nan, "stderr": 0.0, "sampled_pairs": 0, "clusters": drawn.clusters if drawn else m}
        if m < 2:
            return result
        if drawn:
            clusters = Clusters(clusters.sums[drawn.for_pd], clusters.sizes[drawn.for_pd], clusters.nonzero[drawn.for_pd])
            m = len(clusters.sizes)
        norms = torch.linalg.vector_norm(clusters.sums, dim=1)
        # unit vectors that cancel leave a sum of rounding errors, which has no direction
        scale = torch.where(norms > 1e-12 * clusters.sizes, 1 / norms, 0.0)
        # float32 suffices: an error of 1e-7 in every cosine is one of t * 1e-7 in the logarithm of the mean
        centres = clusters.sums.float().mul_(scale.float()[:, None])  # [M, d], unit or zero
        if drawn:
            mean, deviation = _kernel_of_drawn(centres, self.t)
            stderr = deviation / mean * math.sqrt(1 - m / drawn.clusters)
            return result | {"pd": math.log(mean), "stderr": stderr, "sampled_pairs": m * (m - 1) // 2}
        if m > self.sampling.exact_up_to:
            mean, deviation = _sampled_kernel(centres, self.t, self.sampling)
            stderr = deviation / mean / math.sqrt(self.sampling.pairs)
            return result | {"pd": math.log(mean), "stderr": stderr, "sampled_pairs": self.sampling.pairs}
        total = self._total(centres, clusters.children)
        self.below = total, centres
        return result | {"pd": math.log(total / (m * (m - 1) / 2))}

    def _total(self, centres: Tensor, children: Tensor | None) -> float:
        """Sum of the kernel over all pairs of centres."""
        if self.below is not None and children is not None:
            total, centres_below = self.below
            merged = torch.bincount(children) > 1  # [M]
            merging = merged[children]  # [M below]
            kept, gone, new = centres_below[~merging], centres_below[merging], centres[merged]
            if sum(len(part) * (len(kept) + len(part) / 2) for part in (gone, new)) < len(centres) ** 2 / 2:
                for sign, part in ((-1, gone), (1, new)):
                    total += sign * (_pair_sum(part, self.t) + _cross_sum(part, kept, self.t))
                return total
        return _pair_sum(centres, self.t)


def _pair_sum(centres: Tensor, t: float) -> float:
    """Sum of ``exp(-t (1 - cos))`` over all pairs of different rows of ``centres [m, d]``."""
    total = 0.0
    for top in range(0, len(centres), _TILE[0]):
        bottom = top + _TILE[0]
        square = _kernel(centres[top:bottom], centres[top:bottom], t)  # every pair twice, and the diagonal
        total += (square.sum(dtype=torch.float64) - square.diagonal().sum(dtype=torch.float64)).item() / 2
        total += _cross_sum(centres[top:bottom], centres[bottom:], t)
    return total


def _cross_sum(a: Tensor, b: Tensor, t: float) -> float:
    """Sum of ``exp(-t (1 - cos))`` over all pairs of a row of ``a [m, d]`` and a row of ``b [n, d]``."""
    total = 0.0
    for rows in a.split(_TILE[0]):
        for columns in b.split(_TILE[1]):
            total += _kernel(rows, columns, t).sum(dtype=torch.float64).item()
    return total


def _kernel(a: Tensor, b: Tensor, t: float) -> Tensor:
    return (a @ b.T).sub_(1).mul_(t).exp_()  # [m, n]


def _kernel_of_drawn(centres: Tensor, t: float) -> tuple[float, float]:
    """Mean of the kernel over all pairs of randomly drawn centres ``[m, d]``, and its standard deviation from draw to draw.

    A centre comes in m - 1 pairs, so that pairs are no independent draws: what varies is how near a drawn centre is to all others, and the
    deviation is that of a U-statistic, ``2 / sqrt(m)`` times that of a centre's own mean.
    """
    m, total = len(centres), torch.zeros(len(centres), dtype=torch.float64)  # [m]: a centre's sum over all others
    for top in range(0, m, _TILE[0]):
        rows = slice(top, top + _TILE[0])
        square = _kernel(centres[rows], centres[rows], t)
        total[rows] += square.sum(1, dtype=torch.float64) - square.diagonal()
        for left in range(top + _TILE[0], m, _TILE[1]):
            columns = slice(left, left + _TILE[1])
            tile = _kernel(centres[rows], centres[columns], t)
            total[rows] += tile.sum(1, dtype=torch.float64)
            total[columns] += tile.sum(0, dtype=torch.float64)
    own = total / (m - 1)
    return own.mean().item(), 2 * own.std().item() / math.sqrt(m)


def _sampled_kernel(centres: Tensor, t: float, sampling: Sampling) -> tuple[float, float]:
    """Mean and standard deviation of ``exp(-t (1 - cos))`` over random pairs of different centres."""
    m, d = centres.shape
    generator = torch.Generator().manual_seed(sampling.seed)
    total = squares = 0.0
    step = max(1, _BLOCK_NUMBERS // d)
    for start in range(0, sampling.pairs, step):
        size = min(step, sampling.pairs - start)
        a = torch.randint(m, (size,), generator=generator)
        b = torch.randint(m - 1, (size,), generator=generator)
        b += b >= a  # any other centre, each alike
        cosines = centres.index_select(0, a).mul_(centres.index_select(0, b)).sum(1).double()
        kernel = ((cosines - 1) * t).exp()
        total += kernel.sum().item()
        squares += kernel.square().sum().item()
    mean = total / sampling.pairs
    return mean, math.sqrt(max(squares / sampling.pairs - mean**2, 0.0))
