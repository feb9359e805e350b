"""What every dataset does here, RecBole's as well as ours: ids that keep their numbers, time order, and parts that were split before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_r3vae.data import time_split
from recbole_r3vae.errors import UserError


class TimeOrdered:
    """Mixin for RecBole datasets: interactions are in time order before their times lose precision, and none goes without a word.

    RecBole narrows times to float32 and then sorts; at 1e9 seconds that is a step of 64 to 128 s, and 17 % of the neighbouring
    interactions of ml-100k change places. Sorting the float64 column first is enough, because RecBole's own sort is stable. Parts that
    were split before (``benchmark_filename``) are sorted one by one.

    It also knows a split that RecBole does not: by time, the same for all users (:mod:`~recbole_r3vae.data.time_split`); and ``ties`` in
    ``eval_args``, a seed by which interactions of one time get an order. Without it they keep that of the file, which may tell more than
    users did: in Amazon's reviews, whose times are days, it is that of the item ids.

    Attributes:
        known_ids: field to the ids that its numbers are to stand for, in order; ``None``: RecBole numbers ids as they come.
    """

    known_ids: dict[str, list[str]] | None = None

    # -- ids -------------------------------------------------------------------------------------------------------------

    def _set_alias(self, alias_name, default_value):
        """A column of histories in a part has the items' numbers, whether or not ``alias_of_item_id`` says so."""
        more = [self.histories_field] if alias_name == "item_id" and self.histories_field in self.field2type else []
        super()._set_alias(alias_name, [*default_value, *more])

    def _remap_ID_all(self):
        super()._remap_ID_all()
        for field, ids in (self.known_ids or {}).items():
            if field in self.field2id_token:
                self._number_as_known(field, ids)
        self._draw_ties()

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
        if getattr(self, "kg_feat", None) is not None or getattr(self, "net_feat", None) is not None:
            raise UserError(
                f"{self.dataset_name} has other values of {field} than the checkpoint, or in another order, and its graph is numbered by "
                "its files; take the files that it was trained on"
            )
        renumber = np.array([number[entry] for entry in found])
        fields = next((group for group in self.alias.values() if field in group), [field])
        for features in (getattr(self, name) for name in self.feat_name_list):
            for column in (column for column in fields if column in features):
                values = features[column]
                features[column] = [renumber[row] for row in values] if values.dtype == object else renumber[values.to_numpy()]
        for column in fields:
            self.field2id_token[column] = np.array(ids)
            self.field2token_id[column] = number

    # -- interactions ----------------------------------------------------------------------------------------------------

    def _draw_ties(self) -> None:
        """Put the interactions of each file into a drawn order, that all later sorting by time keeps.

        The draw is a hash of user's and item's id: whatever else a model reads, and in whatever order, it is the same.
        """
        seed = self.config["eval_args"].get("ties")
        if seed is None or not {self.uid_field, self.iid_field} <= set(self.inter_feat):
            return
        tokens = (self.field2id_token[field][self.inter_feat[field].to_numpy()] for field in (self.uid_field, self.iid_field))
        pairs = np.array([f"{user}\t{item}" for user, item in zip(*tokens)], dtype=object)
        drawn = pd.util.hash_array(pairs, hash_key=f"{seed:016d}", categorize=False)
        order = np.lexsort((drawn, self.part_of_rows()) if self.is_split else (drawn,))
        self.inter_feat = self.inter_feat.iloc[order].reset_index(drop=True)

    def _filter_inter_by_user_or_item(self):
        n_before = len(self.inter_feat)
        super()._filter_inter_by_user_or_item()
        n_left_out = n_before - len(self.inter_feat)
        if n_left_out:
            known = " and ".join(name for name, feat in ((".user", self.user_feat), (".item", self.item_feat)) if feat is not None)
            self.logger.warning(
                f"{self.dataset_name}: {n_left_out:,} of {n_before:,} interactions are of users or items that its {known} file does not "
                "name or val_interval takes out of it, and are left out; models that do not read the file keep them. Complete it, or set "
                "filter_inter_by_user_or_item: False"
            )

    @property
    def histories_field(self) -> str:
        """The column of a part that holds the history of each of its lines; parts of plain interactions have none."""
        return f"{self.iid_field}{self.config['LIST_SUFFIX']}"

    @property
    def is_split(self) -> bool:
        """Whether its files are the parts of a split."""
        return self.benchmark_filename_list is not None

    @property
    def has_histories(self) -> bool:
        """Whether the lines of its parts hold their histories; asked before :meth:`build`."""
        return self.is_split and self.histories_field in self.inter_feat

    def part_of_rows(self) -> np.ndarray:
        """Of interactions in the order of the files, int64 ``[n]``: 0 training, 1 validation, 2 test."""
        return np.repeat(np.arange(len(self.file_size_list)), self.file_size_list)

    @property
    def time_points(self) -> tuple[float, float] | None:
        """Of a split by time its points, see :func:`~recbole_r3vae.data.time_split.points_of`; ``None`` where it is another split."""
        return None if self.is_split else time_split.points_of(self.config["eval_args"])

    def stage_of_rows(self) -> np.ndarray | None:
        """Of interactions, int64 ``[n]``: how many of the points at which all users are split lie before each, 0 to 2; asked before
        :meth:`build`. ``None`` where each user is split by himself."""
        if self.is_split:
            return self.part_of_rows()
        if self.time_points is None:
            return None
        return time_split.stages(*(self.inter_feat[field].to_numpy() for field in (self.uid_field, self.time_field)), self.time_points)

    def _sort_by_time(self) -> None:
        by_time = self.config["eval_args"]["order"] == "TO" and self.time_field in self.inter_feat
        if by_time and self.is_split:
            order = np.lexsort((self.inter_feat[self.time_field].to_numpy(), self.part_of_rows()))  # stable
            self.inter_feat = self.inter_feat.iloc[order].reset_index(drop=True)
        elif by_time:
            self.inter_feat = self.inter_feat.sort_values(self.time_field, kind="stable", ignore_index=True)

    def _change_feat_format(self):
        self._sort_by_time()
        if self.time_points is not None:
            self._parts = time_split.parts(self.inter_feat[self.uid_field].to_numpy(), self.stage_of_rows())
        super()._change_feat_format()

    def build(self):
        """Split as RecBole does, or by time.

        Returns:
            Training, validation and test dataset.
        """
        if self.time_points is None:
            return super().build()
        self._change_feat_format()
        return self._datasets_of_parts()

    def _datasets_of_parts(self) -> list[Dataset]:
        self._drop_unused_col()
        return [self.copy(self.inter_feat[torch.from_numpy(np.flatnonzero(self._parts == part))]) for part in range(3)]


class SplitBefore(TimeOrdered):
    """Mixin for RecBole's sequential datasets: parts of a split as files (``benchmark_filename``) are taken as they are.

    Lines of plain interactions get their histories here: what their user met in the parts before, and earlier in the same part. RecBole
    alone refuses them. Lines with a column ``<item field>_list`` bring their histories along, of which the last ``MAX_ITEM_LIST_LENGTH``
    items are read; a line whose history is empty is left out, as RecBole leaves out the first interaction of every user.
    """

    brings_histories = False

    def _benchmark_presets(self):
        """As RecBole's, which knows no item field but ``item_id`` and no parts without histories."""
        self.brings_histories = self.has_histories
        if self.brings_histories:
            for field in self.inter_feat:
                if f"{field}{self.config['LIST_SUFFIX']}" in self.inter_feat:
                    setattr(self, f"{field}_list_field", f"{field}{self.config['LIST_SUFFIX']}")
            self.item_id_list_field = self.histories_field
            self.set_field_property(self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)

    def _change_feat_format(self):
        if not self.is_split and self.time_points is None:
            super()._change_feat_format()
            return
        self._sort_by_time()
        if self.brings_histories:
            self._leave_out_empty_histories()
            self._parts = self.part_of_rows()
            self.take_histories()
            return
        users = self.inter_feat[self.uid_field].to_numpy()
        order = np.argsort(users, kind="stable")  # user after user, in each the parts one after the other
        rows = order[np.r_[False, users[order][1:] == users[order][:-1]]]  # all but the first of each user
        super()._change_feat_format()
        if self.is_split:  # else RecBole has done it
            self.data_augmentation()
        self._parts = (self.part_of_rows() if self.is_split else self._parts)[rows]

    def sort(self, by, ascending=True):
        """RecBole's; interactions of parts are in order, and those of a later part stay behind, whatever their times say."""
        if self.is_split:
            by = [field for field in ([by] if isinstance(by, str) else by) if field != self.time_field]
        super().sort(by, ascending)

    def _leave_out_empty_histories(self) -> None:
        kept = self.inter_feat[self.histories_field].map(len).to_numpy() > 0
        if not kept.all():
            self.logger.warning(
                f"{self.dataset_name}: {(~kept).sum():,} of {len(kept):,} lines of its parts have an empty {self.histories_field} and are "
                "left out, as the first interaction of a user is in a split of RecBole's"
            )
            self.file_size_list = np.bincount(self.part_of_rows()[kept], minlength=len(self.file_size_list)).tolist()
            self.inter_feat = self.inter_feat[kept].reset_index(drop=True)

    def _list_columns(self) -> list[str]:
        """Columns that hold a list for each line, an entry for each item of its history."""
        return [field for field in self.inter_feat if field.endswith(self.config["LIST_SUFFIX"]) and self.inter_feat[field].dtype == object]

    def take_histories(self) -> None:
        """Make rows of lines that hold their histories: RecBole's, cut and padded to ``MAX_ITEM_LIST_LENGTH``."""
        size, lists = self.max_item_list_len, self._list_columns()
        for field in lists:
            self.inter_feat[field] = [np.asarray(row)[-size:] for row in self.inter_feat[field]]
            self.field2seqlen[field] = size
        self.inter_feat[self.item_list_length_field] = self.inter_feat[self.histories_field].map(len)
        super()._change_feat_format()
        for field in lists:
            values = self.inter_feat[field]  # [n, longest]
            self.inter_feat[field] = torch.nn.functional.pad(values, (0, size - values.shape[1]))

    def build(self):
        """Split as RecBole does, by time, or as the files are.

        Returns:
            Training, validation and test dataset.
        """
        if not self.is_split:
            return super().build()
        self._change_feat_format()
        return self._datasets_of_parts()


def histories_with_targets(histories: Sequence[np.ndarray], targets: np.ndarray) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Histories and what followed each of them, one after the other, so that they can be pointed at.

    Args:
        histories: ``n`` arrays.
        targets: ``[n]``.

    Returns:
        All values ``[N]``, and where each history begins and its target stands, int64 ``[n]``.
    """
    length = np.array([len(row) for row in histories], dtype=np.int64)
    position = np.cumsum(length + 1) - 1
    values = np.empty(int(length.sum()) + len(length), dtype=targets.dtype)
    inside = np.ones(len(values), dtype=bool)
    inside[position] = False
    values[inside], values[position] = np.concatenate([*histories, values[:0]]), targets
    return torch.from_numpy(values), position - length, position


def time_ordered(dataset_class: type[Dataset], ids: dict[str, list[str]] | None = None) -> type[Dataset]:
    """``dataset_class`` with :class:`TimeOrdered`, or the :class:`SplitBefore` of sequential ones, in front of it.

    Args:
        dataset_class: RecBole's, or one that derives from it.
        ids: see :attr:`TimeOrdered.known_ids`.
    """
    mixin = SplitBefore if issubclass(dataset_class, SequentialDataset) else TimeOrdered
    bases = (dataset_class,) if issubclass(dataset_class, TimeOrdered) else (mixin, dataset_class)
    if len(bases) == 1 and ids is None:
        return dataset_class
    return type(dataset_class.__name__, bases, {"__doc__": dataset_class.__doc__, "known_ids": ids})
