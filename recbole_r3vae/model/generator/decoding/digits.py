"""Ranking items by parallel heads: one distribution a digit, all digits at once, and an item's score is the sum of its digits'.

For semantic IDs whose codes have no order, as RPG (Hou et al., "Generating Long Semantic IDs in Parallel for Recommendation", KDD 2025,
arXiv 2506.05781) predicts them. RPG searches a graph of items; here all are scored, which is exact: 17 ms of one core for 256
users, 12,101 items and 32 digits, 1.1 s for a million items.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_r3vae.model.generator.decoding.catalogue import Ranking, ScoreItems, rank_catalogue
from recbole_r3vae.model.generator.decoding.rules import Allowed

DigitLogProbs = Tensor | Sequence[Tensor]
"""Log-probabilities of the codes of m digits: floats ``[B, m, K]``, or m of ``[B, K_l]`` where codebooks differ in size."""


def rank_by_digits(
    log_probs: DigitLogProbs,
    codes: Tensor,
    k: int,
    allowed: Allowed = None,
    strict: bool = True,
    bias: Tensor | None = None,
    chunk: int | None = None,
) -> Ranking:
    """The k items with the largest sum of their digits' log-probabilities; exact.

    Sums are in float32 whatever the model computes in. Equal scores are ordered by item number.

    Args:
        log_probs: Of B users.
        codes: Integers ``[n_items, m]``; row 0 is the padding item, whose codes are never looked up.
        k: Number of items a user.
        allowed: The only items that may be returned: bool ``[n_items]`` or ``[B, n_items]``, or
            :class:`~recbole_r3vae.model.generator.decoding.rules.Excluded`, all others; default: all.
        strict: Whether fewer than k possible items are an error; otherwise item 0 and ``-inf`` fill up.
        bias: Floats ``[n_items]`` or ``[B, n_items]`` added to the sums, such as a prior on repeats; default: none.
        chunk: Items scored at once; default: so many that
            :data:`~recbole_r3vae.model.generator.decoding.catalogue.CHUNK_CELLS` scores are held.

    Returns:
        int64 ``[B, k]`` items and float32 ``[B, k]`` scores, best first.

    Raises:
        UserError: k is below 1; ``allowed`` does not fit; a score is NaN; or (``strict``) a user has fewer than k items with a probability
            above 0.
        ValueError: not one distribution for each column of ``codes``.
    """
    [ranking] = rankings_by_digits(log_probs, codes, k, [allowed], strict, bias, chunk)
    return ranking


def rankings_by_digits(
    log_probs: DigitLogProbs,
    codes: Tensor,
    k: int,
    rules: Sequence[Allowed],
    strict: bool = True,
    bias: Tensor | None = None,
    chunk: int | None = None,
) -> list[Ranking]:
    """:func:`rank_by_digits` under several rules, one ranking each; items are scored once."""
    n_users = len(log_probs if isinstance(log_probs, Tensor) else log_probs[0])
    return rank_catalogue(digit_scores(log_probs, codes), n_users, len(codes), k, rules, strict, bias, chunk, codes.device)


def digit_scores(log_probs: DigitLogProbs, codes: Tensor) -> ScoreItems:
    """Scores of a range of items, for :func:`~recbole_r3vae.model.generator.decoding.catalogue.rank_catalogue`.

    The distributions lie in one table with a row a code and a column a user, so that an item's score is the sum of m rows, each read in
    one piece: on a CPU ten times faster than reading a user's scores cell by cell.

    Args:
        log_probs: Of B users.
        codes: Integers ``[n_items, m]``.

    Returns:
        From the first item and the one after the last to float32 ``[items, B]``.

    Raises:
        ValueError: not one distribution for each column of ``codes``.
    """
    sizes = [digit.shape[1] for digit in _digits(log_probs, codes.shape[1])]
    side_by_side = log_probs.flatten(1) if isinstance(log_probs, Tensor) else torch.cat(list(log_probs), dim=1)
    table = side_by_side.float().T.contiguous()  # [K_1 + … + K_m, B]
    offsets = torch.tensor([0, *sizes[:-1]], device=codes.device).cumsum(0)  # [m]
    return lambda begin, end: F.embedding_bag(codes[begin:end] + offsets, table, mode="sum")


def scores_of_digits(log_probs: DigitLogProbs, codes: Tensor) -> Tensor:
    """The exact score of one given item a user, as a model's ``predict`` returns it.

    Args:
        log_probs: Of B users.
        codes: Integers ``[B, m]``, the codes of the item of each.

    Returns:
        float32 ``[B]``, the sum of the codes' log-probabilities.

    Raises:
        ValueError: not one distribution for each column of ``codes``.
    """
    digits = _digits(log_probs, codes.shape[1])
    score = torch.zeros(len(codes), device=codes.device)
    for digit, code in zip(digits, codes.long().unbind(1)):
        score += digit.gather(1, code.unsqueeze(1)).squeeze(1)
    return score


def _digits(log_probs: DigitLogProbs, n_digits: int) -> Sequence[Tensor]:
    """m of ``[B, K_l]``."""
    digits = log_probs.unbind(1) if isinstance(log_probs, Tensor) else log_probs
    if len(digits) != n_digits:
        raise ValueError(f"there are {len(digits)} distributions for codes of {n_digits} digits")
    return digits
