"""What happens to items that were given the same codes: one more code, another last code, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from recbole_r3vae.errors import UserError, did_you_mean
from recbole_r3vae.sid.codes import checked_codes, prefix_groups
from recbole_r3vae.sid.sinkhorn import sinkhorn

POLICIES = ("suffix", "reassign", "sinkhorn", "share")
_EPSILON, _ROUNDS = 0.003, 20  # of `sinkhorn`, as in LETTER's code
_BLOCK_ROWS = 4096  # rows of distances asked for at once: 128 MB in float32 at 8192 codes


def resolve_collisions(
    codes: Tensor,
    codebook_sizes: Sequence[int],
    policy: str,
    last_level_distances: Callable[[Tensor], Tensor] | None = None,
    ordered: bool = True,
) -> tuple[Tensor, tuple[int, ...], dict]:
    """Apply a collision policy to the codes of a whole catalogue.

    * ``"suffix"`` (TIGER, Rajput et al., NeurIPS 2023, section 3.1): every item gets one more code that
      counts 0, 1, … within its group of equal tuples, in row order. SIDs are unique; the new codebook has the
      size of the largest group.
    * ``"reassign"`` (the idea of PRISM, move to an unused SID): in a group of equal tuples the item nearest
      to the shared last code keeps it; the others take, nearest pair of item and code first, codes that no
      item of the same prefix uses. SIDs are unique; all codes but the last and the codebook sizes stay. Which
      item moves where depends on the distances alone, not on the order of rows, except between equal
      distances, where the lower row and then the lower code come first.
    * ``"sinkhorn"`` (LETTER, Wang et al., CIKM 2024): the items of a prefix that collide take last codes that
      no other item of the prefix has, by the largest share in a Sinkhorn-balanced plan over their distances
      (:func:`~recbole_r3vae.sid.sinkhorn.sinkhorn`, epsilon 0.003). Where several claim one code, the largest
      share has it and the others go into the next of at most 20 rounds; LETTER moves all of them together,
      so that equal items never part. Items still without a code of their own after that, or in a prefix
      that is full, keep the one they had and are left to share it, as in LETTER; the report counts them. So
      this policy never fails; for SIDs that are surely unique take ``reassign`` or ``suffix``.
    * ``"share"``: nothing changes. Items of one SID get one score; the prefix tree's leaf order breaks ties.

    Codes without an order (product quantization, one codebook) have no level that could come after the others: a suffix would
    be a digit that says nothing of the item, so ``"suffix"`` is refused. ``"reassign"`` and ``"sinkhorn"`` keep their meaning: the
    distances to a digit's codes depend on no other digit, so items that agree in all digits part by one of them, the last, each
    as near to itself as the free codes allow, and stay where they are in all others.

    Args:
        codes: Integers ``[n, L]``, no padding row.
        codebook_sizes: ``K_1 .. K_L``.
        policy: One of :data:`POLICIES`.
        last_level_distances: Needed by ``"reassign"`` and ``"sinkhorn"`` only: maps row numbers, int64
            ``[m]``, to the distances of these items to all codes of the last level, ``[m, K_L]``, smaller is
            nearer. Called with at most a few thousand rows at a time (more only where a single prefix has
            more of them), colliding items only.
        ordered: Whether each code refines those before it, as of :class:`~recbole_r3vae.sid.table.SemanticIDs`. Default True.

    Returns:
        codes: int64 ``[n, L]``, with ``suffix`` ``[n, L + 1]``; always a new tensor.
        codebook_sizes: The sizes that fit these codes.
        report: ``policy``; ``colliding_items``, the items whose tuple was shared before; ``groups`` of such
            items; ``largest_group``, the most items of one tuple (1 without collisions); ``moved_items``, the
            items whose tuple ``reassign`` or ``sinkhorn`` changed; ``remaining_items``, those whose tuple is
            shared even now.

    Raises:
        UserError: unknown policy, malformed codes, ``suffix`` for codes without an order, or under ``reassign`` a
            prefix with more items than last codes.
        ValueError: ``reassign`` or ``sinkhorn`` without distances, or with distances of another shape or not
            a number.
    """
    if policy not in POLICIES:
        raise UserError(
            f"unknown collision policy {policy!r}, expected one of {', '.join(POLICIES)}"
            f"{did_you_mean(policy, POLICIES, otherwise='choose one of them')}"
        )
    if policy == "suffix" and not ordered:
        refuse_suffix()
    codes, sizes = checked_codes(codes, codebook_sizes).clone(), tuple(codebook_sizes)
    if len(codes) == 0:
        raise UserError("codes have 0 rows; give one for each item")
    groups = prefix_groups(codes)
    counts = torch.bincount(groups[-1])  # items of each tuple
    moved = 0
    if policy in ("reassign", "sinkhorn"):
        if last_level_distances is None:
            raise ValueError(f"collision policy {policy!r} needs last_level_distances(rows [m]) -> [m, K_L]")
        prefix = groups[-2] if len(sizes) > 1 else torch.zeros_like(groups[-1])
        if policy == "reassign":
            _check_room(codes, sizes[-1], prefix, "suffix" if ordered else "share")
        choose = _nearest_free if policy == "reassign" else _balanced_free
        moved = _recode(codes, sizes[-1], prefix, groups[-1], last_level_distances, choose)
    elif policy == "suffix":
        codes = torch.cat([codes, _rank_in_group(groups[-1], counts)[:, None]], dim=1)  # [n, L + 1]
        sizes = (*sizes, int(counts.max()))
    report = {
        "policy": policy,
        "colliding_items": int(counts[counts > 1].sum()),
        "groups": int((counts > 1).sum()),
        "largest_group": int(counts.max()),
        "moved_items": moved,
        "remaining_items": _sharing_items(codes),
    }
    return codes, sizes, report


def refuse_suffix() -> NoReturn:
    """Say why codes without an order take no policy ``suffix``."""
    raise UserError(
        "collision policy 'suffix' adds a level after the others, which codes without an order do not have; take 'share' or 'reassign'"
    )


def _rank_in_group(group: Tensor, counts: Tensor) -> Tensor:
    """Position of each row among the rows of its group, in row order. ``[n]`` -> ``[n]``."""
    order = torch.argsort(group, stable=True)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(group)
    rank[order] = torch.arange(len(group)) - starts[group[order]]
    return rank


def _sharing_items(codes: Tensor) -> int:
    counts = torch.bincount(prefix_groups(codes)[-1])
    return int(counts[counts > 1].sum())


def _check_room(codes: Tensor, size: int, prefix: Tensor, other_policy: str) -> None:
    items = torch.bincount(prefix)
    if items.max() > size:
        row = int((prefix == items.argmax()).nonzero()[0, 0])
        raise UserError(
            f"prefix {tuple(codes[row, :-1].tolist())} holds {int(items.max())} items, but the last codebook "
            f"has only {size} codes to tell them apart; use a larger last codebook or the collision policy "
            f"{other_policy!r}"
        )


def _recode(
    codes: Tensor,
    size: int,
    prefix: Tensor,
    group: Tensor,
    last_level_distances: Callable[[Tensor], Tensor],
    choose: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> int:
    """Give colliding items other last codes, prefix by prefix and in place; returns how many rows changed.

    Args:
        codes: int64 ``[n, L]``.
        size: ``K_L``.
        prefix: ``[n]``, equal where the first ``L - 1`` codes are.
        group: ``[n]``, equal where all codes are.
        last_level_distances: As in :func:`resolve_collisions`.
        choose: The policy: from the ``c`` colliding rows of a prefix ``[c]``, ascending, their distances
            ``[c, K_L]``, their codes ``[c]`` and which codes are held by rows that do not collide ``[K_L]``
            to their new codes ``[c]``.
    """
    items = torch.bincount(prefix)
    last = codes[:, -1].numpy()  # shares memory with codes: writing here writes there
    colliding = torch.bincount(group)[group] > 1  # [n]
    taken = np.zeros(size, dtype=bool)
    moved = 0
    by_prefix = torch.argsort(prefix, stable=True)  # rows of one prefix together, in row order
    for blocks in _batches(by_prefix, items.tolist(), colliding):
        asked = [rows[colliding[rows]] for rows in blocks]
        distances = _distances(last_level_distances, torch.cat(asked), size)  # [m, K_L]
        start = 0
        for rows, contenders in zip(blocks, asked):
            block = distances[start : start + len(contenders)]  # [c, K_L]
            start += len(contenders)
            contenders = contenders.numpy()
            own = last[contenders]
            taken[:] = False
            taken[last[rows[~colliding[rows]].numpy()]] = True
            new = choose(contenders, block, own, taken)
            last[contenders] = new
            moved += int((new != own).sum())
    return moved


def _nearest_free(rows: np.ndarray, distances: np.ndarray, own: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Policy ``reassign``; arguments as of ``choose`` in :func:`_recode`."""
    keeps = _first_of_each(own, distances[np.arange(len(own)), own], rows)
    movers = np.flatnonzero(~keeps)
    taken = taken.copy()
    taken[own] = True
    free = np.flatnonzero(~taken)
    new = own.copy()
    new[movers] = free[_nearest_pairs_first(distances[np.ix_(movers, free)])]
    return new


def _balanced_free(rows: np.ndarray, distances: np.ndarray, own: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Policy ``sinkhorn``; arguments as of ``choose`` in :func:`_recode`."""
    new, taken, waiting = own.copy(), taken.copy(), np.arange(len(own))
    for _ in range(_ROUNDS):
        free = np.flatnonzero(~taken)
        if len(waiting) == 0 or len(free) == 0:
            break
        plan = sinkhorn(torch.from_numpy(distances[np.ix_(waiting, free)]), _EPSILON).numpy()  # [w, f]
        claim = plan.argmax(1)
        wins = _first_of_each(claim, -plan.max(1), rows[waiting])
        new[waiting[wins]] = free[claim[wins]]
        taken[free[claim[wins]]] = True
        waiting = waiting[~wins]
    return new


def _first_of_each(code: np.ndarray, key: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Which entry of each code has the smallest key, of equal keys the lowest row; bool ``[c]``."""
    order = np.lexsort((rows, key, code))
    first = np.ones(len(code), dtype=bool)
    first[order[1:]] = code[order][1:] != code[order][:-1]
    return first


def _batches(by_prefix: Tensor, items: list[int], colliding: Tensor) -> Iterator[list[Tensor]]:
    """All rows of each prefix with collisions, several prefixes at a time up to a bound on colliding rows."""
    batch, total = [], 0
    for rows in by_prefix.split(items):
        n = int(colliding[rows].sum())
        if n == 0:
            continue
        if batch and total + n > _BLOCK_ROWS:
            yield batch
            batch, total = [], 0
        batch.append(rows)
        total += n
    if batch:
        yield batch


def _distances(last_level_distances: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> np.ndarray:
    distances = last_level_distances(rows).detach().cpu()
    if distances.dtype in (torch.float16, torch.bfloat16):  # numpy has no bfloat16
        distances = distances.float()
    if distances.shape != (len(rows), size) or distances.isnan().any():
        raise ValueError(
            f"last_level_distances must return a number for each of {len(rows)} rows and {size} codes, got "
            f"shape {list(distances.shape)} with {int(distances.isnan().sum())} NaN"
        )
    return distances.numpy()


def _nearest_pairs_first(distances: np.ndarray) -> np.ndarray:
    """Match every row to a column of its own, going through all pairs by (distance, row, column).

    A pair that is the best of both its row and its column comes before every pair that could conflict with
    it, so all such pairs are matched at once and the rest is looked at again; the result is that of the
    one-by-one order.

    Args:
        distances: ``[r, c]`` with ``r <= c``.

    Returns:
        int ``[r]``: the column of each row.
    """
    match = np.empty(len(distances), dtype=np.int64)
    rows, columns = np.arange(distances.shape[0]), np.arange(distances.shape[1])
    while len(rows):
        left = distances[np.ix_(rows, columns)]
        best_column = left.argmin(axis=1)  # the first of equals: lower column
        best_row = left.argmin(axis=0)  # the first of equals: lower row
        mutual = best_row[best_column] == np.arange(len(rows))
        match[rows[mutual]] = columns[best_column[mutual]]
        columns = np.delete(columns, best_column[mutual])
        rows = rows[~mutual]
    return match
