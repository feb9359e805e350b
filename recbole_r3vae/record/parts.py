"""What a record is made of: rules, metrics under each, ranks of users, seconds."""

from __future__ import annotations

from typing import Literal, TypedDict

Rule = Literal["left_out", "stay"]
"""Whether items that a user has met in earlier parts of the split are no candidates, or stay some."""

Precision = Literal["float32", "bfloat16"]
Metrics = dict[str, float | None]
"""Metric, such as ``ndcg@10``, to its mean over users; ``None`` where it is not defined."""
WAY_OUT = "delete it and run again"


class ByRule(TypedDict):
    """Metrics under each rule; ``None`` where that rule was not measured."""

    left_out: Metrics | None
    stay: Metrics | None


class UserRanks(TypedDict):
    """At which rank each user's test target was.

    ``split`` is the hash of users and targets, ``k`` the length of the lists. Under each rule stands the rank of every user, in the order
    of external user ids, from 1; 0 where the target is not among the k; packed as by :func:`recbole_r3vae.data.split.pack`.
    """

    split: str
    k: int
    left_out: str | None
    stay: str | None


class Seconds(TypedDict):
    """What took how long: training the tokenizer, training the model, the test of both rules, and that test a user in milliseconds."""

    tokenizer: float | None
    training: float | None
    evaluation: float | None
    per_user_ms: float | None
