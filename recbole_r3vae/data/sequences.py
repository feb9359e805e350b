"""User histories: windows that train on every position at once, and rows that only point at what they read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_r3vae.data.ordered import SplitBefore, histories_with_targets

TARGET_LIST_FIELD = "target_item_list"
"""Field of a training window: the next item at each position, 0 where the position has no target."""

TIES = "ties_of_user"
"""Column of interactions while they are loaded: which of its user's values of ``shuffle_ties`` each has."""


@dataclass(frozen=True)
class Windows:
    """Training windows as places in a sequence of items.

    Attributes:
        users: int64 ``[n]``.
        begin: int64 ``[n]``, where the first input stands; the target of each position stands one place after it.
        length: int64 ``[n]``, inputs.
        idle: int64 ``[n]``, inputs at the head that have no target.
    """

    users: np.ndarray
    begin: np.ndarray
    length: np.ndarray
    idle: np.ndarray


def gather_histories(sequence: torch.Tensor, begin: np.ndarray, length: np.ndarray, size: int) -> torch.Tensor:
    """``sequence[begin : begin + length]`` for each row, padded with 0 on the right: [n, size]."""
    column = np.arange(size)
    inside = column < length[:, None]  # [n, size]
    values = sequence.numpy()[np.where(inside, begin[:, None] + column, 0)]
    return torch.from_numpy(np.where(inside, values, 0))


class WindowDataset(SplitBefore, SequentialDataset):
    """RecBole's sequential split with training rows that hold many targets each.

    RecBole turns a history ``i1 … in`` into n-1 rows, a prefix and its next item, and runs the model once for each. Here the split
    is RecBole's own (rows are made, ordered, grouped and left out by its code, as pointers), but the training rows of a user are then
    packed into windows of at most ``MAX_ITEM_LIST_LENGTH`` inputs. Every training target of RecBole's rows is the target of exactly
    one position of one window. Where a user has several windows, all but the first begin with half a window of items that are input
    only, so that no target deep in a history is predicted from one or two items.

    A line of a part that brings its history along is a window by itself, with one target.

    Training windows may differ from epoch to epoch (``properties/windows.yaml``): with ``crop_probability`` a window begins at a later
    place, and consecutive training interactions of a user that ``shuffle_ties`` gives one value change places, so that data whose times are
    days teach no order within a day. Items change places; times stay where they are. What an epoch reads is a function of ``seed`` and its
    number alone, the same after a resumption and in every process. Validation, test and counts of items know nothing of it.

    Fields of a training row: ``user_id``, ``item_id_list`` [max_len], ``target_item_list`` [max_len] (0 = no target here), ``item_length``.
    Validation and test rows are RecBole's: ``user_id``, ``item_id``, ``item_id_list``, ``item_length``.
    """

    draws_windows = True
    _windows: Windows | None = None  # of the training part, …
    _tied: tuple[np.ndarray, np.ndarray] | None = None  # … the places whose items may change places, and which of them with which, …
    _drawn: Interaction | None = None  # … and the rows of the epoch under way, where these differ from the part's

    def _change_feat_format(self):
        ties = self.config["shuffle_ties"]
        if self.draws_windows and ties is not None:  # now: RecBole narrows values to float32, in which two days may be one
            self.inter_feat[TIES] = self.inter_feat.groupby(self.uid_field)[ties].rank("dense").to_numpy()
            self.set_field_property(TIES, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
        super()._change_feat_format()

    def data_augmentation(self):
        """Make one row for each interaction after a user's first: the target, and where its history lies in ``item_sequence``."""
        self._check_field("uid_field", "time_field")
        self._describe_rows()
        self.sort(by=[self.uid_field, self.time_field], ascending=True)
        users = self.inter_feat[self.uid_field].numpy()
        self.item_sequence = self.inter_feat[self.iid_field]  # [n_interactions], user after user, each in time order
        self.time_sequence = self.inter_feat[self.time_field]  # likewise
        first = np.r_[True, users[1:] != users[:-1]]
        start = np.maximum.accumulate(np.where(first, np.arange(len(users)), 0))  # where each row's user begins
        if TIES in self.inter_feat:
            ties = self.inter_feat[TIES].numpy()
            self.run_sequence = np.cumsum(first | np.r_[True, ties[1:] != ties[:-1]])  # which run of equal values each belongs to
        target = np.flatnonzero(~first)
        self.inter_feat = Interaction(
            {
                self.uid_field: torch.from_numpy(users[target].copy()),
                self.iid_field: self.item_sequence[target],
                self.time_field: self.inter_feat[self.time_field][target],
                "user_start": torch.from_numpy(start[target]),
                "target_position": torch.from_numpy(target),
            }
        )

    def _describe_rows(self) -> None:
        self.item_id_list_field = self.histories_field
        for field in (self.item_id_list_field, TARGET_LIST_FIELD):
            self.set_field_property(field, FeatureType.TOKEN_SEQ, FeatureSource.INTERACTION, self.max_item_list_len)
            self.field2id_token[field] = self.field2id_token[self.iid_field]
            self.field2token_id[field] = self.field2token_id[self.iid_field]
        self.set_field_property(self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)

    def take_histories(self) -> None:
        """Make rows, as :meth:`data_augmentation` does, of lines that hold their histories."""
        histories, targets = self.inter_feat[self.histories_field].tolist(), self.inter_feat[self.iid_field].to_numpy()
        for field in self._list_columns():
            self._del_col(self.inter_feat, field)
        super(SplitBefore, self)._change_feat_format()
        self._describe_rows()
        self.item_sequence, start, position = histories_with_targets(histories, targets)
        self.inter_feat["user_start"], self.inter_feat["target_position"] = torch.from_numpy(start), torch.from_numpy(position)

    def build(self):
        """Split as RecBole does, then write out the histories.

        Returns:
            Training, validation and test dataset.
        """
        train, *evaluation = super().build()
        train.inter_feat = train._training_rows(train.inter_feat)
        for dataset in evaluation:
            dataset.inter_feat = self._prefixes(dataset.inter_feat)
        return [train, *evaluation]

    def _gather(self, sequence: torch.Tensor, begin: np.ndarray, length: np.ndarray) -> torch.Tensor:
        """``sequence[begin : begin + length]`` for each row, padded with 0 on the right: [n, max_len]."""
        return gather_histories(sequence, begin, length, self.max_item_list_len)

    def _histories(self, items: torch.Tensor, begin: np.ndarray, length: np.ndarray) -> dict[str, torch.Tensor]:
        """The fields of histories that begin and end there in ``items``, which is ``item_sequence`` or some order of it."""
        return {
            self.item_id_list_field: self._gather(items, begin, length),
            self.item_list_length_field: torch.from_numpy(length),
        }

    def _prefixes(self, rows: Interaction) -> Interaction:
        target, start = rows["target_position"].numpy(), rows["user_start"].numpy()
        length = np.minimum(target - start, self.max_item_list_len)
        return Interaction(
            {
                self.uid_field: rows[self.uid_field],
                self.iid_field: rows[self.iid_field],
                **self._histories(self.item_sequence, target - length, length),
            }
        )

    def _training_rows(self, rows: Interaction) -> Interaction:
        self._windows = self._windows_of(rows)
        if hasattr(self, "run_sequence"):
            self._tied = self._exchangeable(self._windows)
        return self._written(self.item_sequence, self._windows)

    def _windows_of(self, rows: Interaction) -> Windows:
        target, start = rows["target_position"].numpy(), rows["user_start"].numpy()
        size = self.max_item_list_len
        if self.brings_histories:
            length = np.minimum(target - start, size)
            return Windows(rows[self.uid_field].numpy(), target - length, length, length - 1)
        # A user's training targets are consecutive: they run from his second interaction to the last before validation.
        user_start, some_row, count = np.unique(start, return_index=True, return_counts=True)  # count = the user's training targets
        if not np.array_equal(np.sort(target), np.concatenate([s + 1 + np.arange(c) for s, c in zip(user_start, count)])):
            raise ValueError("training interactions of a user are not the earliest ones; use a time-ordered split")
        context = size // 2  # input-only items at the head of every window of a user but the first
        fresh = size - context  # targets in such a window
        n_windows = 1 + np.maximum(0, -(-(count - size) // fresh))  # [n_users]
        user = np.repeat(np.arange(len(count)), n_windows)
        rank = np.arange(len(user)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)  # 0, 1, … within a user
        begin = user_start[user] + np.where(rank == 0, 0, size + (rank - 1) * fresh - context)
        length = np.minimum(user_start[user] + count[user] - begin, size)  # inputs in the window
        return Windows(rows[self.uid_field].numpy()[some_row][user], begin, length, np.where(rank > 0, context, 0))

    def _written(self, items: torch.Tensor, windows: Windows) -> Interaction:
        """Training rows: windows of ``items``, which is ``item_sequence`` or some order of it."""
        targets = self._gather(items, windows.begin + 1, windows.length)
        targets[torch.from_numpy(np.arange(self.max_item_list_len) < windows.idle[:, None])] = 0
        return Interaction(
            {
                self.uid_field: torch.from_numpy(windows.users),
                **self._histories(items, windows.begin, windows.length),
                TARGET_LIST_FIELD: targets,
            }
        )

    # -- windows that differ from epoch to epoch ---------------------------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:
        """Draw the training rows of an epoch, which is numbered from 0; the trainer calls it before the first batch."""
        if self._windows is None or not (self.config["crop_probability"] or self._tied):
            return
        draw = np.random.default_rng((self.config["seed"], epoch))
        self._drawn = self._written(self._exchanged(draw), self._cropped(draw))

    def _exchangeable(self, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
        """Training interactions that are not alone in their run: places, ascending, and run of each."""
        steps = np.zeros(len(self.run_sequence) + 1, dtype=np.int64)  # up where a window begins, down after its last target
        np.add.at(steps, windows.begin, 1)
        np.add.at(steps, windows.begin + windows.length + 1, -1)
        places = np.flatnonzero(steps[:-1].cumsum() > 0)
        run = self.run_sequence[places]
        kept = np.bincount(run, minlength=1)[run] > 1
        return places[kept], run[kept]

    def _exchanged(self, draw: np.random.Generator) -> torch.Tensor:
        """``item_sequence`` with the items of each run in an order of their own, all orders alike."""
        if self._tied is None:
            return self.item_sequence
        (places, run), items = self._tied, self.item_sequence.numpy().copy()
        items[places] = items[places[np.lexsort((draw.random(len(run)), run))]]
        return torch.from_numpy(items)

    def _cropped(self, draw: np.random.Generator) -> Windows:
        """Windows of which a share begins later, all later places alike; the last input and its target stay."""
        users, begin, length, idle = (getattr(self._windows, name) for name in ("users", "begin", "length", "idle"))
        is_cut = (draw.random(len(begin)) < self.config["crop_probability"]) & (length > 1)
        later = np.where(is_cut, draw.integers(1, np.maximum(length, 2)), 0)
        return Windows(users, begin + later, length - later, np.maximum(idle - later, 0))

    def __getitem__(self, index, join=True):
        """Rows, as RecBole's; of the epoch under way where that has rows of its own."""
        return super().__getitem__(index, join) if self._drawn is None else self.join(self._drawn[index])

    def join(self, df):
        """Rows as they are: item features belong to the tokenizer, not to a batch of histories."""
        return df

    def counter(self, field):
        """How often each id occurs in a field; in windows, how often an item is a target, as in RecBole's prefix rows."""
        if field == self.iid_field and field not in self.inter_feat:
            targets = self.inter_feat[TARGET_LIST_FIELD]
            return Counter(targets[targets > 0].numpy())
        return super().counter(field)

    def meetings(self) -> tuple[np.ndarray, np.ndarray]:
        """Who has met what in the training rows: users and items of all pairs, each pair once, by user and item."""
        rows = self.inter_feat
        users, pairs = rows[self.uid_field].numpy(), []
        for field in (self.item_id_list_field, TARGET_LIST_FIELD):
            row, place = rows[field].numpy().nonzero()
            pairs.append(np.stack([users[row], rows[field].numpy()[row, place]], 1))
        return tuple(np.unique(np.concatenate(pairs), axis=0).T)


class TimedWindowDataset(WindowDataset):
    """Windows with the interactions' times beside the items: ``<time field>_list`` [max_len] float32, in training and evaluation rows.

    Times count from the first interaction of the dataset, in the unit of the file. Lines that bring their histories along bring these times
    too.
    """

    reads_times = True

    @property
    def time_list_field(self) -> str:
        """The column of a history's times."""
        return f"{self.time_field}{self.config['LIST_SUFFIX']}"

    def _normalize(self):
        # RecBole's normalisation would take their unit away; counted from the first one, float32 is off by seconds, not by minutes.
        times, lists = self.inter_feat[self.time_field], None
        first = times.min()
        if self.has_histories:
            lists = self.inter_feat[self.time_list_field]
            first = min(first, *(row.min() for row in lists if len(row)))
            lists = [row - first for row in lists]
        super()._normalize()
        self.inter_feat[self.time_field] = times - first
        if lists is not None:
            self.inter_feat[self.time_list_field] = lists

    def _describe_rows(self) -> None:
        super()._describe_rows()
        self.set_field_property(self.time_list_field, FeatureType.FLOAT_SEQ, FeatureSource.INTERACTION, self.max_item_list_len)

    def take_histories(self) -> None:
        """As a :class:`WindowDataset`'s."""
        histories, targets = self.inter_feat[self.time_list_field].tolist(), self.inter_feat[self.time_field].to_numpy()
        super().take_histories()
        times, *_ = histories_with_targets(histories, targets)
        self.time_sequence = times.float()

    def _histories(self, items: torch.Tensor, begin: np.ndarray, length: np.ndarray) -> dict[str, torch.Tensor]:
        return {**super()._histories(items, begin, length), self.time_list_field: self._gather(self.time_sequence, begin, length)}


class PrefixDataset(WindowDataset):
    """RecBole's own training rows: one for each target, for models that read the history anew for every item they predict.

    Every training interaction after a user's first is the target of exactly one row. A row only points at its history, which is written
    out when a batch asks for it: memory does not grow with ``MAX_ITEM_LIST_LENGTH``.

    Fields of a training batch, the same as of validation and test rows: ``user_id``, ``item_id`` (the target), ``item_id_list``
    [max_len], ``item_length``.
    """

    draws_windows = False

    def _training_rows(self, rows: Interaction) -> Interaction:
        return rows

    def counter(self, field):
        """How often each id occurs in a field; of histories, how many interactions with an item some row reads."""
        if field == self.item_id_list_field and field not in self.inter_feat:
            ends = torch.zeros(len(self.item_sequence) + 1, dtype=torch.int64)  # +1 where a history begins, -1 after its end
            for place, step in (("user_start", 1), ("target_position", -1)):
                ends.index_add_(0, self.inter_feat[place], torch.full((len(self.inter_feat),), step))
            return Counter(self.item_sequence[ends.cumsum(0)[:-1] > 0].numpy())
        return super().counter(field)

    def join(self, df):
        """Rows with their histories."""
        return df if self.item_id_list_field in df else self._prefixes(df)
