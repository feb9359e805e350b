"""What every search for the best items shares: which items may be returned, the order of equal scores, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_r3vae.errors import UserError


class Excluded(NamedTuple):
    """Items that must not be returned, one pair after the other; cheap where they are few, such as the items a user has met.

    Attributes:
        users: int64 ``[m]``, rows of the batch.
        items: int64 ``[m]``, the item excluded for the user of the same place. Pairs may repeat.
    """

    users: Tensor
    items: Tensor

    def flags(self, n_users: int, n_items: int) -> Tensor:
        """The same as bool ``[n_users, n_items]``, True where an item is allowed."""
        allowed = torch.ones(n_users, n_items, dtype=torch.bool, device=self.items.device)
        allowed[self.users, self.items] = False
        return allowed


Allowed = Tensor | Excluded | None
"""The items that may be returned: bool ``[n_items]`` for all users or ``[B, n_items]``, all but :class:`Excluded` ones, or all."""


def check_allowed(allowed: Allowed, n_users: int, n_items: int) -> None:
    """Refuse what does not fit the batch and the catalogue.

    Raises:
        UserError: another type or shape than :data:`Allowed` says.
    """
    if isinstance(allowed, Tensor) and (allowed.dtype != torch.bool or allowed.shape not in ((n_items,), (n_users, n_items))):
        raise UserError(
            f"allowed must be bool [{n_items}] or [{n_users}, {n_items}], one flag an item and the padding item's first; "
            f"got {allowed.dtype} {list(allowed.shape)}; give one row a user, or one for all"
        )
    if isinstance(allowed, Excluded) and (allowed.users.dim() != 1 or allowed.users.shape != allowed.items.shape):
        raise UserError(
            f"excluded users and items must be two lists of one length, got shapes {list(allowed.users.shape)} and "
            f"{list(allowed.items.shape)}; give one user for each item"
        )


def is_allowed(rule: Allowed, items: Tensor, n_items: int) -> Tensor:
    """Which of some candidates a rule lets through; the padding item never.

    Args:
        rule: which items may be returned.
        items: int64 ``[B, …]``, candidates of each user.
        n_items: the padding item included.

    Returns:
        bool, of the shape of ``items``.

    Raises:
        UserError: as :func:`check_allowed`.
    """
    check_allowed(rule, len(items), n_items)
    if isinstance(rule, Excluded):
        rule = rule.flags(len(items), n_items)
    if rule is None:
        return items > 0
    flags = rule.to(items.device)
    return (items > 0) & (flags[items] if flags.dim() == 1 else flags.gather(1, items.flatten(1)).view_as(items))


def first_best(scores: Tensor, width: int) -> Tensor:
    """Places of the best scores, ascending; of equal scores the first are taken, on every device.

    ``torch.topk`` leaves open which of several equal scores it takes. Keys without ties settle it: in the
    upper half the score's bits, mapped such that integers compare as the floats do; in the lower half the
    place, counted from the end. On a CPU ``topk`` is faster on integers, which are never NaN, and that pays
    for the keys.

    Args:
        scores: float32 ``[B, N]``.
        width: How many, at most N.

    Returns:
        int64 ``[B, width]``.
    """
    bits = (scores.contiguous() + 0.0).view(torch.int32)  # -0.0 becomes 0.0, to which it is equal
    keys = ((bits >> 31) & 0x7FFFFFFF).bitwise_xor_(bits).long()  # negative floats count down: flip them
    keys <<= 32
    keys |= torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)
    return keys.topk(width, dim=1, sorted=False).indices.sort(dim=1).values


def check_found(rankings: Sequence[Tensor], is_nan: Tensor, strict: bool) -> None:
    """Refuse scores that are not numbers, and users with too few possible items.

    Args:
        rankings: int64 ``[B, k]`` each, items of one rule, best first; 0 where a user has no more.
        is_nan: bool ``[]``, whether any score was NaN.
        strict: Whether too few items are an error.

    Raises:
        UserError: as above.
    """
    if is_nan:
        raise UserError(
            "the model's scores are NaN: its training diverged; go back to an earlier checkpoint or train again with a lower learning_rate"
        )
    for items in rankings:
        short = items[:, -1] == 0  # [B]
        if strict and short.any():
            user = int(short.nonzero()[0])
            raise UserError(
                f"user {user} of the batch has only {int((items[user] > 0).sum())} possible items for k={items.shape[1]}; "
                "lower k, allow more items, or pass strict=False to fill up with item 0"
            )
