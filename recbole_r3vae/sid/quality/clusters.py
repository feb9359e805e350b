"""How good semantic IDs are by themselves: codebook usage, collisions, cohesion and separation of clusters.

All functions take the whole catalogue without the padding row (``ids.codes[1:]``, ``embeddings[1:]``) and
return plain numbers. A cluster of level ``l`` is the set of items whose first ``l`` codes agree. Vectors may
be tensors, arrays or memory maps of any float type; they are read once, in blocks of rows, and accumulated in
float64. Working memory is that of a level's cluster sums (float64), its parents' and its centres (float32):
at most some ``24 * n * d`` bytes, reached where hardly any two items share a prefix.

SC and PD are those of R3-VAE (arXiv 2604.11440). Both depend on the space they are measured in, so only
values from one and the same space compare tokenizers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_r3vae.sid.table import checked_codes, prefix_groups

Vectors = Tensor | np.ndarray

_BLOCK_NUMBERS = 2**20  # numbers read or gathered at once; small enough for a processor's cache
_TILE = (512, 1024)  # centres by centres of one step of the exact PD


def semantic_cohesion(codes: Tensor, x: Vectors) -> list[dict]:
    """Semantic cohesion (SC) of R3-VAE at every prefix level: how alike the items of a cluster are.

    Higher is better. The mean over clusters ``G`` of two or more items of
    ``2 / (|G|^2 - |G|) * sum_{i<j in G} cos(x_i, x_j)``, computed without pairs as
    ``(||sum_i u_i||^2 - |G|) / (|G|^2 - |G|)`` on unit vectors ``u``. A zero vector has cosine 0 with all.
    Every cluster weighs the same, whatever its size.

    Args:
        codes: Integers ``[n, L]``.
        x: The items' vectors ``[n, d]``, of any norm.

    Returns:
        One dict a level: ``sc`` (nan where no cluster has two items), ``clusters``, ``clusters_2plus``
        (clusters of two or more items, those that ``sc`` averages; at the last level usually few).

    Raises:
        ValueError: shapes do not fit, negative codes, or a vector that is not finite.
    """
    return [_cohesion(clusters) for clusters in _levels(codes, x)][::-1]


def preference_discrimination(
    codes: Tensor,
    x: Vectors,
    t: float = 2.0,
    *,
    exact_up_to: int = 20_000,
    sample_pairs: int = 10_000_000,
    seed: int = 0,
) -> list[dict]:
    """Preference discrimination (PD) of R3-VAE at every prefix level: how far clusters are apart.

    Lower is better. ``log[ 2 / (M (M - 1)) * sum_{a<b} exp(-t * (1 - cos(p_a, p_b))) ]`` over the ``M``
    clusters of the level, with the centre ``p`` the mean of the items' unit vectors. A zero centre has cosine
    0 with everything. The range is ``[-2 t, 0]``; orthogonal centres give ``-t``.

    Args:
        codes: Integers ``[n, L]``.
        x: The items' vectors ``[n, d]``, of any norm.
        t: Sharpness of the kernel, > 0; the paper's is 2.
        exact_up_to: Levels with more clusters are estimated from random pairs instead of all pairs.
        sample_pairs: Number of pairs of that estimate, drawn uniformly with replacement.
        seed: Seed of the pairs; the same pairs are drawn in every space.

    Returns:
        One dict a level: ``pd`` (nan where ``clusters`` < 2), ``stderr`` (standard error of a sampled ``pd``
        by the delta method, 0 where exact), ``sampled_pairs`` (0 where exact), ``clusters``.

    Raises:
        ValueError: shapes do not fit, negative codes, ``t <= 0``, or a vector that is not finite.
    """
    if not t > 0:
        raise ValueError(f"t must be > 0, got {t}; the paper's value is 2")
    separation = _Separation(t, _Sampling(exact_up_to, sample_pairs, seed))
    return [separation.of(clusters) for clusters in _levels(codes, x)][::-1]


def code_usage(codes: Tensor, codebook_sizes: Sequence[int]) -> dict:
    """How much of the codebooks and of the space of SIDs is used.

    Args:
        codes: Integers ``[n, L]``.
        codebook_sizes: ``K_1 .. K_L``.

    Returns:
        ``levels``, one dict a level: ``codebook_size``; ``used`` codes; ``usage`` = used / K; ``reachable`` =
        min(K, n), the codes that n items can use at most; ``usage_of_reachable``; ``perplexity``, the
        exponential of the entropy of the code frequencies (between 1 and ``reachable``); ``gini`` of the
        counts of all K codes, unused ones included (0: all alike, towards 1: one code has everything).

        And for the full SIDs: ``items``; ``distinct_sids``; ``unique_ratio`` = distinct SIDs / items;
        ``items_per_used_sid``, its inverse; ``collision_rate``, the share of items whose SID another item has
        too; ``largest_sid``, the most items of one SID.

    Raises:
        UserError: codes that are not in their codebooks.
        ValueError: no items.
    """
    codes = checked_codes(codes, codebook_sizes)
    groups = _groups(codes)
    n = len(codes)
    levels = []
    for column, size in zip(codes.unbind(1), codebook_sizes):
        counts = torch.bincount(column, minlength=size).double()  # [K]
        frequencies = counts[counts > 0] / n
        rank = torch.arange(1, size + 1, dtype=torch.float64)
        levels.append(
            {
                "codebook_size": int(size),
                "used": len(frequencies),
                "usage": len(frequencies) / size,
                "reachable": min(size, n),
                "usage_of_reachable": len(frequencies) / min(size, n),
                "perplexity": math.exp(-(frequencies * frequencies.log()).sum().item()),
                "gini": ((2 * rank - size - 1) * counts.sort().values).sum().item() / (size * n),
            }
        )
    counts = torch.bincount(groups[-1])  # items of each distinct SID
    return {
        "levels": levels,
        "items": n,
        "distinct_sids": len(counts),
        "unique_ratio": len(counts) / n,
        "items_per_used_sid": n / len(counts),
        "collision_rate": counts[counts > 1].sum().item() / n,
        "largest_sid": int(counts.max()),
    }


def reconstruction_error(x: Vectors, reconstruction: Vectors) -> dict:
    """How well a tokenizer's decoder gives the items' vectors back.

    Args:
        x: ``[n, d]``.
        reconstruction: ``[n, d]``.

    Returns:
        ``mse``, the squared error summed over dimensions, mean over items; ``variance``, the same of the best
        constant, the mean vector; ``relative`` = mse / variance (nan where all vectors are equal), the
        unexplained share.

    Raises:
        ValueError: shapes differ or are not ``[n, d]``.
    """
    if x.ndim != 2 or x.shape != reconstruction.shape or 0 in x.shape:
        raise ValueError(
            f"x and reconstruction must both have one shape [n, d], got {list(x.shape)} and "
            f"{list(reconstruction.shape)}"
        )
    error = squares = 0.0
    total = origin = None
    for (_, block), (_, decoded) in zip(_row_blocks(x), _row_blocks(reconstruction)):
        error += (block - decoded).square().sum().item()
        if origin is None:
            origin, total = block[0].clone(), torch.zeros(x.shape[1], dtype=torch.float64)
        block -= origin  # leaves the variance as it is, and keeps the difference below from cancelling
        total += block.sum(0)
        squares += block.square().sum().item()
    n = len(x)
    variance = max(squares / n - (total / n).square().sum().item(), 0.0)
    relative = error / n / variance if variance > 0 else math.nan
    return {"mse": error / n, "variance": variance, "relative": relative}


def quality_report(
    codes: Tensor,
    codebook_sizes: Sequence[int],
    spaces: Mapping[str, Vectors],
    reconstruction: Vectors | None = None,
    seed: int = 0,
) -> dict:
    """All metrics of this module on one catalogue, as a dict that JSON can hold.

    Args:
        codes: Integers ``[n, L]``.
        codebook_sizes: ``K_1 .. K_L``.
        spaces: Name -> vectors ``[n, d]`` in which SC and PD are measured, for example
            ``{"raw": x, "residual": e0}``.
        reconstruction: ``[n, d]``, compared with ``spaces["raw"]``; default: not measured.
        seed: Of the pairs of a sampled PD.

    Returns:
        The keys of :func:`code_usage`, whose ``levels`` also hold ``level`` (from 1), ``clusters``,
        ``clusters_2plus`` and ``spaces``: name -> ``sc``, ``pd``, ``pd_stderr``, ``pd_sampled_pairs``; and
        ``reconstruction``: the dict of :func:`reconstruction_error` or ``None``. Undefined values are
        ``None``.

    Raises:
        UserError: codes that are not in their codebooks.
        ValueError: shapes do not fit, a vector that is not finite, or a reconstruction without the space
            ``"raw"``.
    """
    if reconstruction is not None and "raw" not in spaces:
        raise ValueError(f"a reconstruction is compared with the space 'raw', got only {sorted(spaces)}")
    report = code_usage(codes, codebook_sizes)
    for number, (level, group) in enumerate(zip(report["levels"], _groups(codes)), start=1):
        counts = torch.bincount(group)
        level |= {
            "level": number,
            "clusters": len(counts),
            "clusters_2plus": int((counts > 1).sum()),
            "spaces": {},
        }
    for name, x in spaces.items():
        separation = _Separation(2.0, _Sampling(seed=seed))
        for level, clusters in zip(reversed(report["levels"]), _levels(codes, x, repr(name))):
            discrimination = separation.of(clusters)
            level["spaces"][name] = {
                "sc": _cohesion(clusters)["sc"],
                "pd": discrimination["pd"],
                "pd_stderr": discrimination["stderr"],
                "pd_sampled_pairs": discrimination["sampled_pairs"],
            }
    report["reconstruction"] = (
        None if reconstruction is None else reconstruction_error(spaces["raw"], reconstruction)
    )
    return _without_nan(report)


def format_quality(report: dict) -> str:
    """A report of :func:`quality_report` as a fixed-width table for the console.

    Args:
        report: The report, also after a round trip through JSON.

    Returns:
        Several lines without a final line end: one row a level, one summary line, and a note on each mark
        that occurs (``-`` undefined, ``~`` estimated from sampled pairs).
    """
    levels = report["levels"]
    spaces = list(levels[0]["spaces"])
    rows = [["level", "used codes", "usage", "perplexity", "Gini", "clusters>=2"]]
    rows[0] += [f"{metric} {space}" for space in spaces for metric in ("SC", "PD")]
    for level in levels:
        row = [
            str(level["level"]),
            f"{level['used']}/{level['codebook_size']}",
            f"{level['usage']:.4f}",
            f"{level['perplexity']:.1f}",
            f"{level['gini']:.4f}",
            f"{level['clusters_2plus']}/{level['clusters']}",
        ]
        for space in spaces:
            values = level["spaces"][space]
            mark = "~" if values["pd_sampled_pairs"] else ""
            row += [_number(values["sc"]), mark + _number(values["pd"])]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    summary = (
        f"unique SIDs {report['unique_ratio']:.4f}, collision rate {report['collision_rate']:.4f}, "
        f"items per SID {report['items_per_used_sid']:.4f}, largest SID {report['largest_sid']}"
    )
    if report["reconstruction"]:
        error = report["reconstruction"]
        summary += f", reconstruction error {error['mse']:.4g} ({_number(error['relative'])} of the variance)"
    lines.append(summary)
    measured = [values for level in levels for values in level["spaces"].values()]
    if any(values["sc"] is None or values["pd"] is None for values in measured):
        lines.append("- undefined: SC without a cluster of 2 items, PD with fewer than 2 clusters")
    sampled = max((values["pd_sampled_pairs"] for values in measured), default=0)
    if sampled:
        worst = max(values["pd_stderr"] for values in measured)
        lines.append(f"~ estimated from {sampled:,} random pairs of clusters, standard error <= {worst:.1g}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Clusters:
    """The ``M`` clusters of one level."""

    sums: Tensor  # [M, d] float64, sum of the items' unit vectors
    sizes: Tensor  # [M] float64, number of items
    nonzero: Tensor  # [M] float64, number of items with a direction
    children: Tensor | None  # [M of the level below] int64, the cluster each of those is part of


@dataclass(frozen=True)
class _Sampling:
    exact_up_to: int = 20_000
    pairs: int = 10_000_000
    seed: int = 0


def _groups(codes: Tensor) -> list[Tensor]:
    codes = torch.as_tensor(codes)
    if codes.dim() != 2 or 0 in codes.shape or codes.is_floating_point() or int(codes.min()) < 0:
        raise ValueError(
            f"codes must be integers >= 0 of shape [n, L] without the padding row, got {codes.dtype} "
            f"{list(codes.shape)}" + (f" with minimum {codes.min().item()}" if codes.numel() else "")
        )
    return prefix_groups(codes.to("cpu", torch.int64))


def _row_blocks(x: Vectors) -> Iterator[tuple[int, Tensor]]:
    """First row and float64 copy ``[b, d]`` of successive blocks of rows."""
    rows = max(1, _BLOCK_NUMBERS // x.shape[1])
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        if isinstance(block, Tensor):
            yield start, block.detach().to("cpu", torch.float64, copy=True)
        else:
            yield start, torch.from_numpy(np.array(block, dtype=np.float64))


def _levels(codes: Tensor, x: Vectors, name: str = "x") -> Iterator[_Clusters]:
    """The clusters of every level, deepest first: summed from items there, from the level below elsewhere."""
    groups = _groups(codes)
    n = len(groups[0])
    if x.ndim != 2 or len(x) != n or x.shape[1] == 0:
        raise ValueError(f"{name} must have shape [{n}, d], a row for each row of codes, got {list(x.shape)}")
    m = int(groups[-1].max()) + 1
    sums = torch.zeros(m, x.shape[1], dtype=torch.float64)
    nonzero = torch.zeros(m, dtype=torch.float64)
    for start, block in _row_blocks(x):
        norms = torch.linalg.vector_norm(block, dim=1)  # [b]
        if not norms.isfinite().all():
            row = start + int((~norms.isfinite()).nonzero()[0, 0])
            raise ValueError(f"row {row} of {name} is not finite; repair or drop that item's embedding")
        block /= norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]  # zero rows stay zero
        group = groups[-1][start : start + len(block)]
        sums.index_add_(0, group, block)
        nonzero.index_add_(0, group, (norms > 0).double())
    sizes = torch.bincount(groups[-1]).double()
    yield _Clusters(sums, sizes, nonzero, None)
    for below, group in zip(groups[:0:-1], groups[-2::-1]):
        children = torch.empty(m, dtype=torch.int64)
        children[below] = group
        m = int(group.max()) + 1
        sums, sizes, nonzero = (
            torch.zeros(m, *value.shape[1:], dtype=torch.float64).index_add_(0, children, value)
            for value in (sums, sizes, nonzero)
        )
        yield _Clusters(sums, sizes, nonzero, children)


def _cohesion(clusters: _Clusters) -> dict:
    """SC of one level. ``sum_{i != j} u_i . u_j = ||sum u||^2 - sum ||u||^2``, and ``||u||`` is 1 or 0."""
    pairs = clusters.sizes * (clusters.sizes - 1)  # [M], ordered pairs
    several = pairs > 0
    cosines = torch.linalg.vector_norm(clusters.sums, dim=1).square() - clusters.nonzero  # [M]
    sc = (cosines[several] / pairs[several]).mean().item()  # nan for none
    return {"sc": sc, "clusters": len(pairs), "clusters_2plus": int(several.sum())}


class _Separation:
    """PD of one level after the other, deepest first.

    Most clusters of a deep level hold one item and stay the same clusters at the next level up, above all
    under a disambiguating last code. Pairs between those are counted once: where it saves work, a level's sum
    over pairs is that of the level below, less the pairs of clusters that merge, plus the pairs of clusters
    they merge into.
    """

    def __init__(self, t: float, sampling: _Sampling) -> None:
        self.t = t
        self.sampling = sampling
        self.below: tuple[float, Tensor] | None = None  # sum over pairs and centres of the level below

    def of(self, clusters: _Clusters) -> dict:
        m = len(clusters.sizes)
        result = {"pd": math.nan, "stderr": 0.0, "sampled_pairs": 0, "clusters": m}
        if m < 2:
            return result
        norms = torch.linalg.vector_norm(clusters.sums, dim=1)
        # unit vectors that cancel leave a sum of rounding errors, which has no direction
        scale = torch.where(norms > 1e-12 * clusters.sizes, 1 / norms, 0.0)
        # float32 suffices: an error of 1e-7 in every cosine is one of t * 1e-7 in the logarithm of the mean
        centres = clusters.sums.float().mul_(scale.float()[:, None])  # [M, d], unit or zero
        if m > self.sampling.exact_up_to:
            mean, deviation = _sampled_kernel(centres, self.t, self.sampling)
            stderr = deviation / mean / math.sqrt(self.sampling.pairs)
            return result | {"pd": math.log(mean), "stderr": stderr, "sampled_pairs": self.sampling.pairs}
        total = self._total(centres, clusters.children)
        self.below = total, centres
        return result | {"pd": math.log(total / (m * (m - 1) / 2))}

    def _total(self, centres: Tensor, children: Tensor | None) -> float:
        """Sum of the kernel over all pairs of centres."""
        if self.below is not None:
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


def _sampled_kernel(centres: Tensor, t: float, sampling: _Sampling) -> tuple[float, float]:
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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _without_nan(value: object) -> object:
    """The same nested value with ``None``, JSON's null, in place of nan."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
