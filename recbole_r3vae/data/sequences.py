"""User histories: time order that survives RecBole's float32, and windows that train on every position at once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_r3vae.errors import UserError

TARGET_LIST_FIELD = "target_item_list"
"""Field of a training window: the next item at each position, 0 where the position has no target."""


class TimeOrdered:
    """Mixin for RecBole datasets: interactions are in time order before their times lose precision, and none goes without a word.

    RecBole narrows times to float32 and then sorts; at 1e9 seconds that is a step of 64 to 128 s, and 17 % of the neighbouring
    interactions of ml-100k change places. Sorting the float64 column first is enough, because RecBole's own sort is stable.

    Attributes:
        known_ids: field to the ids that its numbers are to stand for, in order; ``None``: RecBole numbers ids as they come.
    """

    known_ids: dict[str, list[str]] | None = None

    def _filter_inter_by_user_or_item(self):
        n_before = len(self.inter_feat)
        super()._filter_inter_by_user_or_item()
        n_left_out = n_before - len(self.inter_feat)
        if n_left_out:
            known = " and ".join(name for name, feat in ((".user", self.user_feat), (".item", self.item_feat)) if feat is not None)
            self.logger.warning(
                f"{self.dataset_name}: {n_left_out:,} of {n_before:,} interactions are of users or items that its {known} file does not name "
                "or val_interval takes out of it, and are left out; models that do not read the file keep them. Complete it, or set "
                "filter_inter_by_user_or_item: False"
            )

    def _remap_ID_all(self):
        super()._remap_ID_all()
        for field, ids in (self.known_ids or {}).items():
            if field in self.field2id_token:
                self._number_as_known(field, ids)

    def _number_as_known(self, field: str, ids: list[str]) -> None:
        """Give the ids of a field the numbers that a checkpoint knows them by; ids that are gone keep theirs."""
        found = [str(entry) for entry in self.field2id_token[field]]
        if found == ids:
            return
        number = {entry: place for place, entry in enumerate(ids)}
        new = [entry for entry in found if entry not in number]
        if new:
            examples = ", ".join(map(repr, new[:3]))
            raise UserError(
                f"{self.dataset_name} has {len(new):,} of {len(found) - 1:,} values of {field} that the checkpoint does not know, such as "
                f"{examples}; take the data that it was trained on, or train on the new data with --init_from"
            )
        renumber = np.array([number[entry] for entry in found])
        for features in (self.inter_feat, self.user_feat, self.item_feat):
            if features is not None and field in features:
                features[field] = renumber[features[field].to_numpy()]
        self.field2id_token[field] = np.array(ids)
        self.field2token_id[field] = number

    def _change_feat_format(self):
        if self.config["eval_args"]["order"] == "TO" and self.benchmark_filename_list is None:
            self.inter_feat = self.inter_feat.sort_values(self.time_field, kind="stable", ignore_index=True)
        super()._change_feat_format()


def gather_histories(sequence: torch.Tensor, begin: np.ndarray, length: np.ndarray, size: int) -> torch.Tensor:
    """``sequence[begin : begin + length]`` for each row, padded with 0 on the right: [n, size]."""
    column = np.arange(size)
    inside = column < length[:, None]  # [n, size]
    values = sequence.numpy()[np.where(inside, begin[:, None] + column, 0)]
    return torch.from_numpy(np.where(inside, values, 0))


class WindowDataset(TimeOrdered, SequentialDataset):
    """RecBole's sequential split with training rows that hold many targets each.

    RecBole turns a history ``i1 … in`` into n-1 rows, a prefix and its next item, and runs the model once for each. Here the split
    is RecBole's own (rows are made, ordered, grouped and left out by its code, as pointers), but the training rows of a user are then
    packed into windows of at most ``MAX_ITEM_LIST_LENGTH`` inputs. Every training target of RecBole's rows is the target of exactly
    one position of one window. Where a user has several windows, all but the first begin with half a window of items that are input
    only, so that no target deep in a history is predicted from one or two items.

    Fields of a training row: ``user_id``, ``item_id_list`` [max_len], ``target_item_list`` [max_len] (0 = no target here), ``item_length``.
    Validation and test rows are RecBole's: ``user_id``, ``item_id``, ``item_id_list``, ``item_length``.
    """

    def data_augmentation(self):
        """Make one row for each interaction after a user's first: the target, and where its history lies in ``item_sequence``."""
        self._check_field("uid_field", "time_field")
        self.item_id_list_field = self.iid_field + self.config["LIST_SUFFIX"]
        for field in (self.item_id_list_field, TARGET_LIST_FIELD):
            self.set_field_property(field, FeatureType.TOKEN_SEQ, FeatureSource.INTERACTION, self.max_item_list_len)
            self.field2id_token[field] = self.field2id_token[self.iid_field]
            self.field2token_id[field] = self.field2token_id[self.iid_field]
        self.set_field_property(self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)

        self.sort(by=[self.uid_field, self.time_field], ascending=True)
        users = self.inter_feat[self.uid_field].numpy()
        self.item_sequence = self.inter_feat[self.iid_field]  # [n_interactions], user after user, each in time order
        self.time_sequence = self.inter_feat[self.time_field]  # likewise
        first = np.r_[True, users[1:] != users[:-1]]
        start = np.maximum.accumulate(np.where(first, np.arange(len(users)), 0))  # where each row's user begins
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

    def build(self):
        """Split as RecBole does, then write out the histories.

        Returns:
            Training, validation and test dataset.
        """
        train, *evaluation = super().build()
        train.inter_feat = self._training_rows(train.inter_feat)
        for dataset in evaluation:
            dataset.inter_feat = self._prefixes(dataset.inter_feat)
        return [train, *evaluation]

    def _gather(self, sequence: torch.Tensor, begin: np.ndarray, length: np.ndarray) -> torch.Tensor:
        """``sequence[begin : begin + length]`` for each row, padded with 0 on the right: [n, max_len]."""
        return gather_histories(sequence, begin, length, self.max_item_list_len)

    def _histories(self, begin: np.ndarray, length: np.ndarray) -> dict[str, torch.Tensor]:
        """The fields of histories that begin and end there in ``item_sequence``."""
        return {
            self.item_id_list_field: self._gather(self.item_sequence, begin, length),
            self.item_list_length_field: torch.from_numpy(length),
        }

    def _prefixes(self, rows: Interaction) -> Interaction:
        target, start = rows["target_position"].numpy(), rows["user_start"].numpy()
        length = np.minimum(target - start, self.max_item_list_len)
        return Interaction(
            {
                self.uid_field: rows[self.uid_field],
                self.iid_field: rows[self.iid_field],
                **self._histories(target - length, length),
            }
        )

    def _training_rows(self, rows: Interaction) -> Interaction:
        # A user's training targets are consecutive: they run from his second interaction to the last before validation.
        target, start = rows["target_position"].numpy(), rows["user_start"].numpy()
        user_start, count = np.unique(start, return_counts=True)  # count = the user's training targets
        if not np.array_equal(np.sort(target), np.concatenate([s + 1 + np.arange(c) for s, c in zip(user_start, count)])):
            raise ValueError("training interactions of a user are not the earliest ones; use a time-ordered split")
        size = self.max_item_list_len
        context = size // 2  # input-only items at the head of every window of a user but the first
        fresh = size - context  # targets in such a window
        n_windows = 1 + np.maximum(0, -(-(count - size) // fresh))  # [n_users]
        user = np.repeat(np.arange(len(count)), n_windows)
        rank = np.arange(len(user)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)  # 0, 1, … within a user
        begin = user_start[user] + np.where(rank == 0, 0, size + (rank - 1) * fresh - context)
        length = np.minimum(user_start[user] + count[user] - begin, size)  # inputs in the window
        targets = self._gather(self.item_sequence, begin + 1, length)
        targets[torch.from_numpy(rank > 0), :context] = 0
        order = {int(s): int(u) for s, u in zip(start, rows[self.uid_field].numpy())}
        return Interaction(
            {
                self.uid_field: torch.tensor([order[int(s)] for s in user_start[user]]),
                **self._histories(begin, length),
                TARGET_LIST_FIELD: targets,
            }
        )

    def join(self, df):
        """Rows as they are: item features belong to the tokenizer, not to a batch of histories."""
        return df

    def counter(self, field):
        """How often each id occurs in a field; in windows, how often an item is a target, as in RecBole's prefix rows."""
        if field == self.iid_field and field not in self.inter_feat:
            targets = self.inter_feat[TARGET_LIST_FIELD]
            return Counter(targets[targets > 0].numpy())
        return super().counter(field)


class TimedWindowDataset(WindowDataset):
    """Windows with the interactions' times beside the items: ``<time field>_list`` [max_len] float32, in training and evaluation rows.

    Times count from the first interaction of the dataset, in the unit of the file.
    """

    def _normalize(self):
        # RecBole's normalisation would take their unit away; counted from the first one, float32 is off by seconds, not by minutes.
        times = self.inter_feat[self.time_field] - self.inter_feat[self.time_field].min()
        super()._normalize()
        self.inter_feat[self.time_field] = times

    def data_augmentation(self):
        """As a :class:`WindowDataset`'s."""
        super().data_augmentation()
        self.time_list_field = self.time_field + self.config["LIST_SUFFIX"]
        self.set_field_property(self.time_list_field, FeatureType.FLOAT_SEQ, FeatureSource.INTERACTION, self.max_item_list_len)

    def _histories(self, begin: np.ndarray, length: np.ndarray) -> dict[str, torch.Tensor]:
        return {**super()._histories(begin, length), self.time_list_field: self._gather(self.time_sequence, begin, length)}


class PrefixDataset(WindowDataset):
    """RecBole's own training rows: one for each target, for models that read the history anew for every item they predict.

    Every training interaction after a user's first is the target of exactly one row. A row only points at its history, which is written
    out when a batch asks for it: memory does not grow with ``MAX_ITEM_LIST_LENGTH``.

    Fields of a training batch, the same as of validation and test rows: ``user_id``, ``item_id`` (the target), ``item_id_list``
    [max_len], ``item_length``.
    """

    def _training_rows(self, rows: Interaction) -> Interaction:
        return rows

    def join(self, df):
        """Rows with their histories."""
        return df if self.item_id_list_field in df else self._prefixes(df)


def time_ordered(dataset_class: type[Dataset], ids: dict[str, list[str]] | None = None) -> type[Dataset]:
    """``dataset_class`` with :class:`TimeOrdered` in front of it.

    Args:
        dataset_class: RecBole's, or one that derives from it.
        ids: see :attr:`TimeOrdered.known_ids`.
    """
    bases = (dataset_class,) if issubclass(dataset_class, TimeOrdered) else (TimeOrdered, dataset_class)
    if len(bases) == 1 and ids is None:
        return dataset_class
    return type(dataset_class.__name__, bases, {"__doc__": dataset_class.__doc__, "known_ids": ids})
