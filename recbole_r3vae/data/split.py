"""What a split means for its users: what they had met before a part of it, and whom a test of one item a user asks about which."""

from __future__ import annotations

import base64
import hashlib
import zlib
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataset import Dataset
from scipy.sparse import csr_matrix


def meetings(dataset: Dataset) -> csr_matrix:
    """How often each user met each item, ``[n_users, n_items]``: of a dataset that is not yet split, all its interactions; of a
    validation or test part, its targets."""
    users, items = (np.asarray(dataset.inter_feat[field]) for field in (dataset.uid_field, dataset.iid_field))
    return csr_matrix((np.ones(len(users), dtype=np.int32), (users, items)), shape=(dataset.user_num, dataset.item_num))


def met_before_parts(dataset: Dataset) -> tuple[csr_matrix, csr_matrix] | None:
    """Of a dataset that is not yet split, what each user met before the validation part and before the test.

    Returns:
        ``[n_users, n_items]`` each: :func:`meetings` up to the points of a split by time; or, where files of parts bring histories, the
        targets of the earlier parts, and once each what else the histories up to the part tell of. ``None`` where all interactions but
        the targets of the two parts lie before them.
    """
    feat = dataset.inter_feat
    if getattr(dataset, "time_points", None) is not None:
        stage = dataset.stage_of_rows()
        return tuple(meetings(dataset.copy(feat[stage < part])) for part in (1, 2))
    if getattr(dataset, "has_histories", False):
        stage, found = dataset.part_of_rows(), []
        for part in (1, 2):
            met, told = meetings(dataset.copy(feat[stage < part])), _told_by_histories(dataset, feat[stage <= part])
            found.append(met + told - told.multiply(met > 0))
        return tuple(found)
    return None


def _told_by_histories(dataset: Dataset, rows) -> csr_matrix:
    """Whether a history of these rows has the item, 0 or 1, ``[n_users, n_items]``."""
    histories = rows[dataset.histories_field]
    users = np.repeat(np.asarray(rows[dataset.uid_field]), histories.map(len))
    items = np.fromiter(chain.from_iterable(histories), dtype=np.int64, count=len(users))
    shape = (dataset.user_num, dataset.item_num)
    counts = csr_matrix((np.ones(len(users), dtype=np.int32), (users, items)), shape=shape)
    return (counts > 0).astype(np.int32)


def add_seen(everything: csr_matrix, valid_data, test_data, before: tuple[csr_matrix, csr_matrix] | None = None) -> None:
    """Give full-ranking loaders an attribute ``seen``: what each user met in the earlier parts of the split, ``[n_users, n_items]``.

    RecBole's own record of it lacks the first interaction of each user where the model is sequential, and all but the last
    ``MAX_ITEM_LIST_LENGTH`` in what the model reads.

    Args:
        everything: :func:`meetings` of the dataset before it was split.
        valid_data: loader of the validation part.
        test_data: loader of the test part.
        before: :func:`met_before_parts`.
    """
    if before is not None:
        for loader, seen in zip((valid_data, test_data), before):
            if isinstance(loader, FullSortEvalDataLoader):
                loader.seen = seen
        return
    for loader in (test_data, valid_data):  # backwards: what remains when the test is taken off lies before it, and so on
        everything = everything - meetings(loader._dataset)
        everything.eliminate_zeros()
        if isinstance(loader, FullSortEvalDataLoader):
            loader.seen = everything


def met_before(loader) -> np.ndarray:
    """Which targets of a validation or test part their users had met in an earlier part.

    Args:
        loader: of the part, with ``seen``.

    Returns:
        bool ``[n]``, in the loader's order.
    """
    dataset = loader._dataset
    users, items = (np.array(dataset.inter_feat[field]) for field in (dataset.uid_field, dataset.iid_field))  # scipy wants its own
    return np.asarray(loader.seen[users, items]).ravel() > 0


def told_repeats(name: str, valid_data, test_data) -> str | None:
    """What is to be said of targets that their users had met before; ``None`` where there are none, or nothing is ranked in full.

    Args:
        name: the dataset's.
        valid_data: loader of the validation part.
        test_data: loader of the test part.
    """
    counts = {part: met_before(loader) for part, loader in (("validation", valid_data), ("test", test_data)) if hasattr(loader, "seen")}
    if not any(met.any() for met in counts.values()):
        return None
    words = " and ".join(f"{met.sum():,} of {len(met):,} {part}" for part, met in counts.items())
    return (
        f"dataset {name}: {words} targets are items that their users had met before. Under left_out such a target stays a candidate and "
        "all other items that its user met do not, as in RecBole, so it is easier to find; read the figures under stay, or by_repeat"
    )


def told_cold(name: str, held: HeldOut) -> str:
    """What is to be said of a split by time: how many are asked about items, or are users, that no training knows."""
    cold, unknown, n = (held.popularity == 0).sum(), (held.history == 0).sum(), len(held.order)
    return (
        f"dataset {name}, split by time: {n:,} test users; the targets of {cold:,} ({cold / n:.1%}) are cold, items without a training "
        f"interaction; {unknown:,} ({unknown / n:.1%}) have no training interaction themselves"
    )


@dataclass(frozen=True)
class HeldOut:
    """The users of a test of one item each and what they are asked, in the order of their external ids, whatever model is tested.

    Attributes:
        order: int64 ``[n]``, the row that each has in the loader.
        popularity: int32 ``[n]``, how often the user's target occurs in the training part; 0 is a cold item.
        history: int32 ``[n]``, length of the user's training history.
        split: hash of the users, their targets and these figures: results under one hash may be compared user by user.
        met_before: bool ``[n]``, whether the user had met the target in an earlier part of the split.
    """

    order: np.ndarray
    popularity: np.ndarray
    history: np.ndarray
    split: str
    met_before: np.ndarray

    def describe(self) -> dict[str, Any]:
        """The split as plain data, arrays packed as by :func:`pack`."""
        return {
            "split": self.split,
            "users": len(self.order),
            "popularity": pack(self.popularity),
            "history": pack(self.history),
        }

    def packed(self, ranks: np.ndarray) -> str:
        """Ranks of the targets, packed as by :func:`pack`.

        Args:
            ranks: ``[n]`` in the loader's order, from 1 to 255; 0 where the target is not in the ranked list.
        """
        return pack(ranks[self.order].astype(np.uint8))


def held_out(valid_data, test_data) -> HeldOut | None:
    """Whom a test asks about which item.

    Args:
        valid_data: loader of the validation part, with ``seen``.
        test_data: loader of the test part, likewise.

    Returns:
        The users; ``None`` where the ranking is not over the full catalogue, or a user has several targets.
    """
    dataset = test_data._dataset
    if not (hasattr(valid_data, "seen") and hasattr(test_data, "seen")):
        return None
    users, items = (np.asarray(dataset.inter_feat[field]) for field in (dataset.uid_field, dataset.iid_field))  # in the loader's order
    if len(np.unique(users)) < len(users):
        return None
    user_ids = np.asarray(dataset.field2id_token[dataset.uid_field]).astype(str)[users]
    item_ids = np.asarray(dataset.field2id_token[dataset.iid_field]).astype(str)[items]
    order = np.argsort(user_ids)
    history = np.asarray(valid_data.seen.sum(axis=1)).ravel()[users][order].astype(np.int32)
    popularity = np.asarray(valid_data.seen.sum(axis=0)).ravel()[items][order].astype(np.int32)
    rows = zip(user_ids[order], item_ids[order], popularity, history)
    text = "\n".join("\t".join(map(str, row)) for row in rows)
    return HeldOut(order, popularity, history, hashlib.sha256(text.encode()).hexdigest()[:12], met_before(test_data)[order])


def pack(values: np.ndarray) -> str:
    """A flat array of integers as base64 of its little-endian bytes, compressed by zlib."""
    return base64.b64encode(zlib.compress(values.astype(values.dtype.newbyteorder("<")).tobytes(), 9)).decode()
