"""Labelled interactions: what a model that predicts clicks is trained and measured on, and which item features it sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_r3vae.data.ordered import TimeOrdered, histories_with_targets
from recbole_r3vae.data.sequences import gather_histories
from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.features import feature_columns
from recbole_r3vae.sid.table import SemanticIDs


@dataclass(frozen=True)
class LabelledRows:
    """Whom and what the rows of a part of the split are about, in its order.

    Attributes:
        users: int64 ``[n]``.
        labels: bool ``[n]``.
        cold: bool ``[n]``, whether the row's item has at most ``cold_item_interactions`` training interactions.
    """

    users: np.ndarray
    labels: np.ndarray
    cold: np.ndarray

    def describe(self) -> dict[str, int]:
        """Counts of rows, of positive ones and of users with both labels, of all rows and of the cold ones."""
        counts = {}
        for name, kept in (("", np.ones_like(self.cold)), ("cold_", self.cold)):
            users, labels = self.users[kept], self.labels[kept]
            both = np.intersect1d(users[labels], users[~labels])
            counts |= {f"{name}rows": len(users), f"{name}positives": int(labels.sum()), f"{name}users_with_both": len(both)}
        return counts


class ClickDataset(TimeOrdered, Dataset):
    """A RecBole dataset whose rows are labelled 0 or 1.

    Labels come from ratings (``threshold``), from a column of the file, or, where there is neither, from sampled negatives: after the
    split, every interaction is followed by ``ctr_negatives`` rows of the same user and time with items that the user met nowhere (see
    :func:`sample_negatives`). They are drawn once by the seed, so every model and every kind of item feature has the same rows.

    A model sees user id, item id and the columns of ``ctr_features``; other columns, such as the titles that a tokenizer reads, are
    taken away when the dataset is split.
    """

    semantic_id_fields: tuple[str, ...] = ()  # columns that :meth:`add_semantic_ids` gave the items
    _hides_item_id = False
    training_interactions: np.ndarray | None = None  # [n_items], of the built parts: how often each item occurs in the training part
    label_source: str | None = None  # likewise: what the labels are, in words

    # -- item features ---------------------------------------------------------------------------------------------------

    def add_semantic_ids(self, sids: SemanticIDs, prefix_buckets: int, replace: bool) -> None:
        """Give every item the columns of :func:`~recbole_r3vae.sid.features.feature_columns`.

        Args:
            sids: in the dataset's item order.
            prefix_buckets: see there.
            replace: whether models lose sight of the item id. RecBole's bookkeeping keeps it.
        """
        columns = feature_columns(sids, prefix_buckets)
        if self.item_feat is None:
            self.item_feat = pd.DataFrame({self.iid_field: np.arange(self.item_num)})
            self.feat_name_list.append("item_feat")
        for field, (values, size) in columns.items():
            self.set_field_property(field, FeatureType.TOKEN, FeatureSource.ITEM, 1)
            tokens = ["[PAD]", *map(str, range(size - 1))]
            self.field2id_token[field] = np.array(tokens)
            self.field2token_id[field] = {token: number for number, token in enumerate(tokens)}
            self.item_feat[field] = values.numpy()
        self.semantic_id_fields, self._hides_item_id = tuple(columns), replace

    def fields(self, ftype=None, source=None):
        """RecBole's, from which its models make their tables: without the item id where semantic IDs replace it."""
        return [field for field in super().fields(ftype, source) if not (self._hides_item_id and field == self.iid_field)]

    def get_item_feature(self):
        """RecBole's, from which DIN makes its tables: likewise."""
        features = super().get_item_feature()
        if not self._hides_item_id:
            return features
        return Interaction({field: values for field, values in features.interaction.items() if field != self.iid_field})

    def _drop_other_columns(self) -> None:
        kept = {self.uid_field, self.iid_field, *self.semantic_id_fields, *self.config["ctr_features"]}
        for features in (self.user_feat, self.item_feat):
            for field in [] if features is None else [field for field in features if field not in kept]:
                self._del_col(features, field)

    def _change_feat_format(self):
        for field in [field for field in self.inter_feat if field.endswith(self.config["LIST_SUFFIX"])] if self.has_histories else []:
            self._del_col(self.inter_feat, field)  # a model that reads histories has taken them
        super()._change_feat_format()

    # -- labels ----------------------------------------------------------------------------------------------------------

    def build(self):
        """Split as RecBole does, then label.

        Returns:
            Training, validation and test dataset.

        Raises:
            UserError: labels other than 0 and 1, or all the same; or there are not enough items to sample negatives from.
        """
        self._drop_other_columns()
        parts = super().build()
        trained = np.bincount(parts[0].inter_feat[self.iid_field].numpy(), minlength=self.item_num)
        source = " and ".join(f"{field} of {value:g} or more" for field, value in (self.config["threshold"] or {}).items())
        source = source or f"column {self.label_field}"
        if self.label_field not in self.inter_feat:
            source = f"{self.config['ctr_negatives']} sampled for each interaction"
            self._sample(parts)
        for name, part in zip(("training", "validation", "test"), parts):
            part.training_interactions, part.label_source = trained, source
            values = part.inter_feat[self.label_field].unique().tolist()
            if sorted(values) != [0, 1]:
                raise UserError(
                    f"the labels of the {name} part of {self.dataset_name} are {values[:5]}, they must be 0 and 1 and both occur; "
                    "set threshold, such as {rating: 4}, or another split"
                )
        if self.config["valid_metric"].lower() == "uauc" and not parts[1].labelled_rows().describe()["users_with_both"]:
            raise UserError("no user has both labels in the validation part, so UAUC is not defined there; take valid_metric: AUC")
        return parts

    def _sample(self, parts: list[Dataset]) -> None:
        """Follow each row of each part by its negatives."""
        n = self.config["ctr_negatives"]
        self.set_field_property(self.label_field, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
        users, items = (np.concatenate([part.inter_feat[field].numpy() for part in parts]) for field in (self.uid_field, self.iid_field))
        negatives = sample_negatives(users, items, self.item_num, n, self.config["seed"])
        for part, drawn in zip(parts, np.split(negatives, np.cumsum([len(part) for part in parts])[:-1])):
            met = part.inter_feat[self.iid_field]
            rows = part.inter_feat[torch.arange(len(part)).repeat_interleave(n + 1)]
            rows[self.iid_field] = torch.cat([met[:, None], torch.from_numpy(drawn)], dim=1).flatten()
            rows[self.label_field] = torch.tensor([1.0] + [0.0] * n).repeat(len(part))
            part.inter_feat = rows

    def labelled_rows(self) -> LabelledRows:
        """The rows of this part of the split, after :meth:`build`."""
        items = self.inter_feat[self.iid_field].numpy()
        cold = self.training_interactions[items] <= self.config["cold_item_interactions"]
        return LabelledRows(self.inter_feat[self.uid_field].numpy(), self.inter_feat[self.label_field].numpy() > 0, cold)


class ClickHistoryDataset(ClickDataset):
    """Labelled rows with the items that their user met before them, for DIN.

    RecBole's own sequential rows begin at a user's second interaction and know no other label than a rating's. Here the rows are those
    of :class:`ClickDataset`, so that all models answer the same questions; a first interaction has an empty history, and a sampled
    negative that of the interaction it belongs to. A history holds what was met, whatever its rating, as RecBole's does.

    More fields of a batch: ``item_id_list`` ``[max_len]``, most recent items, oldest first, 0 on the right; ``item_length``.
    """

    def _change_feat_format(self):
        if self.has_histories:
            self._sort_by_time()
            histories, targets = self.inter_feat[self.histories_field].tolist(), self.inter_feat[self.iid_field].to_numpy()
            super()._change_feat_format()
            self.item_sequence, start, end = histories_with_targets(histories, targets)
        else:
            super()._change_feat_format()  # all rows are in time order now
            users = self.inter_feat[self.uid_field].numpy()
            order = np.argsort(users, kind="stable")
            self.item_sequence = self.inter_feat[self.iid_field][torch.from_numpy(order)]  # user after user, each in time order
            end = np.empty_like(order)
            end[order] = np.arange(len(order))
            start = np.searchsorted(users[order], users)  # where in item_sequence each row's user begins
        self.inter_feat["history_start"], self.inter_feat["history_end"] = torch.from_numpy(start), torch.from_numpy(end)

    def join(self, df):
        """Rows with their histories. DIN looks item features up by itself."""
        end, size = df["history_end"].numpy(), self.config["MAX_ITEM_LIST_LENGTH"]
        length = np.minimum(end - df["history_start"].numpy(), size)
        histories = f"{self.iid_field}{self.config['LIST_SUFFIX']}"
        df[histories] = gather_histories(self.item_sequence, end - length, length, size)
        df[self.config["ITEM_LIST_LENGTH_FIELD"]] = torch.from_numpy(length)
        return df


def sample_negatives(users: np.ndarray, items: np.ndarray, n_items: int, n: int, seed: int) -> np.ndarray:
    """For every interaction, items that its user has met nowhere, each as likely as any other.

    No user gets an item twice, so none is a negative of both the training and the test part.

    Args:
        users: int64 ``[N]``, of all parts of the split.
        items: int64 ``[N]``, what they met, from 1.
        n_items: as RecBole counts them, padding included.
        n: how many for each interaction.
        seed: same seed and interactions, same negatives.

    Returns:
        int64 ``[N, n]``.

    Raises:
        UserError: ``n`` is not a positive whole number, or a user has met too many items.
    """
    if type(n) is not int or n < 1:
        raise UserError(f"ctr_negatives is {n!r}; give a whole number from 1, or labels (threshold, or a column `label`)")
    met = np.unique(users * n_items + items)
    needed = n * np.bincount(users)
    left = n_items - 1 - np.bincount(met // n_items, minlength=len(needed))
    if (needed > left).any():
        user = (needed - left).argmax()
        raise UserError(
            f"ctr_negatives={n} asks for {needed[user]} different items that a user has not met, and there are {left[user]}; "
            "give fewer, or labels (threshold, or a column `label`)"
        )
    generator = np.random.default_rng(seed)
    owner = np.repeat(users, n) * n_items
    drawn, missing = np.zeros_like(owner), np.arange(len(owner))
    while len(missing):
        drawn[missing] = generator.integers(1, n_items, len(missing))
        first = np.zeros(len(owner), dtype=bool)
        first[np.unique(owner + drawn, return_index=True)[1]] = True
        missing = np.flatnonzero(~first | np.isin(owner + drawn, met))
    return drawn.reshape(-1, n)
