"""Codes of items as a tensor: are they all in their codebooks, and which rows share a prefix?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_r3vae.errors import UserError


def checked_codes(codes: Tensor, codebook_sizes: Sequence[int], names: Sequence[str] | None = None) -> Tensor:
    """Codes as an int64 CPU tensor, after making sure that each of them exists in its codebook.

    Args:
        codes: Integers ``[n, L]``, no padding row.
        codebook_sizes: ``K_1 .. K_L``.
        names: What the rows are called in an error message; default: by their number.

    Returns:
        int64 ``[n, L]`` on the CPU (the memory of ``codes`` where nothing needs converting).

    Raises:
        UserError: no level, a size below 1, wrong shape, not integers, or a code outside ``0 .. K_l - 1``.
    """
    codes, sizes = torch.as_tensor(codes), tuple(codebook_sizes)
    if not sizes or min(sizes) < 1:
        raise UserError(f"codebook_sizes must name one positive size for each level, got {sizes}; correct them")
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise UserError(f"codes must be integers, got {codes.dtype}; convert them with codes.long()")
    if codes.dim() != 2 or codes.shape[1] != len(sizes):
        raise UserError(
            f"codes must have shape [n, {len(sizes)}], one column for each of the codebook sizes {sizes}, "
            f"got {list(codes.shape)}; give the codebook_sizes these codes were made with"
        )
    codes = codes.to("cpu", torch.int64)
    outside = (codes < 0) | (codes >= torch.tensor(sizes))  # [n, L]
    if outside.any():
        row, level = outside.nonzero()[0].tolist()
        name = f"row {row}" if names is None else f"item {names[row]!r}"
        raise UserError(
            f"{name} has code {codes[row, level].item()} at level {level + 1}, whose codebook holds codes "
            f"0..{sizes[level] - 1}; give the codebook_sizes these codes were made with, or tokenize again"
        )
    return codes


def prefix_groups(codes: Tensor) -> list[Tensor]:
    """Number the distinct prefixes of every length: rows with equal numbers share a prefix.

    Args:
        codes: int64 ``[n, L]``, ``n >= 1``, no padding row, all codes >= 0.

    Returns:
        ``L`` int64 tensors ``[n]``. Entry ``l - 1`` holds the rank of each row's prefix of length ``l`` among
        the distinct prefixes of that length in lexicographic order, so its maximum + 1 counts them.
    """
    groups = []
    rank = torch.zeros(len(codes), dtype=torch.int64)
    for column in codes.unbind(1):
        # rank < n, so rank and code fit into one integer while n * max(code) < 2^63
        rank = torch.unique(rank * (column.max() + 1) + column, return_inverse=True)[1]
        groups.append(rank)
    return groups
