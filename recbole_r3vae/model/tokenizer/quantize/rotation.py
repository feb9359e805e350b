"""A rotation after which the parts of a vector can be quantised apart: optimised product quantisation's, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def part_sizes(dim: int, n_parts: int) -> list[int]:
    """Cut ``dim`` dimensions into parts as equal as can be, the longer ones first: ``n_parts`` sizes that add up to ``dim``."""
    return [dim // n_parts + (number < dim % n_parts) for number in range(n_parts)]


def balanced_rotation(x: Tensor, sizes: Sequence[int]) -> Tensor:
    r"""Principal axes, dealt to the parts so that each has as much to say as the others.

    Ge et al., "Optimized Product Quantization for Approximate Nearest Neighbor Search", CVPR 2013, section 3.2 (the parametric
    solution, which is optimal for normal vectors): parts are uncorrelated, as principal axes are, and the products of their variances
    are equal, which axes dealt from the longest down come near: each goes to the part whose product is the smallest and that has room.

    Deterministic: of an axis and its opposite that is taken whose largest entry is positive.

    Args:
        x: Sample of vectors ``[n, d]``. Where n < d, or vectors lie in fewer dimensions, axes of no variance complete the basis.
        sizes: Dimensions of the parts, which add up to d.

    Returns:
        R ``[d, d]``, orthogonal, of the type of ``x``; ``x @ R.T`` are the rotated vectors, whose first ``sizes[0]`` columns are part 1.
    """
    centred = (x - x.mean(0)).double()
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(x))  # [d] rising, [d, d] by column
    variances, axes = variances.flip(0), axes.flip(1).T  # the longest first, by row
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))  # [d, 1]
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    floor = variances[0].clamp_min(torch.finfo(torch.float64).tiny) * 1e-12  # axes of no variance are equal
    logarithms = (variances.clamp_min(floor) / floor).log().tolist()  # all at least 0: a part only grows by what it is given
    parts: list[list[int]] = [[] for _ in sizes]
    products = [0.0] * len(parts)
    for axis, logarithm in enumerate(logarithms):
        number = min((p for p in range(len(parts)) if len(parts[p]) < sizes[p]), key=lambda p: (products[p], p))
        parts[number].append(axis)
        products[number] += logarithm
    return axes[[axis for part in parts for axis in part]].to(x.dtype)
