"""What differs from RecBole's evaluation: metrics over all processes at once, ranks of single users, who may be recommended what, and
metrics of labels for each user and for cold items."""

from __future__ import annotations

import numpy as np
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_r3vae.data.clicks import LabelledRows


class ExactEvaluator(Evaluator):
    """RecBole's evaluator over all processes' users at once, which keeps the rows that the metrics are made of.

    RecBole averages the processes' metrics, weighs them by four a batch, and counts the users that pad the last process twice. Here the
    collected rows are put back into the dataset's order, the padding is cut off, and the metrics are computed once.

    Attributes:
        n_rows: users of the dataset under evaluation.
        topk: of the last evaluation, int ``[n_rows, k + 1]``: whether each place of a user's list is a hit, and how many targets the
            user has. ``None`` where no metric asks for it.
        prefix_ranks: likewise int64 ``[n_rows, L]``, where the prefixes of each row's target stood in the beam, see
            :attr:`.Ranking.prefix_ranks`. ``None`` where no beam told.
        labelled: whom and what the rows under evaluation are about, for models that predict clicks. RecBole's metrics are then followed
            by ``uauc`` (:func:`user_auc`) and by all of them over the rows of cold items, ``cold_auc`` …, those left out that are not
            defined because only one label occurs.
    """

    n_rows = 0
    topk: Tensor | None = None
    prefix_ranks: Tensor | None = None
    labelled: LabelledRows | None = None

    def evaluate(self, dataobject: DataStruct):
        """Metrics of what all processes collected; the same on every process."""
        if not self.config["single_spec"]:
            world_size = torch.distributed.get_world_size()
            for key in [key for key in dataobject._data_dict if key.startswith(("rec.", "data.label"))]:
                parts = [None] * world_size
                torch.distributed.all_gather_object(parts, dataobject[key])
                # DistributedSampler deals rows out in turn, so row i of process p is row i * world_size + p of the dataset.
                dataobject.set(key, torch.stack(parts, dim=1).flatten(0, 1)[: self.n_rows])
        self.topk, self.prefix_ranks = (dataobject[key] if key in dataobject else None for key in ("rec.topk", "rec.prefix_ranks"))
        result = super().evaluate(dataobject)
        if self.labelled is not None:
            scores = dataobject["rec.score"].flatten().numpy()
            result |= self._of_labels(scores, np.ones(len(scores), dtype=bool), "", ["uauc"])
            result |= self._of_labels(scores, self.labelled.cold, "cold_", [*self.metric_class, "uauc"])
        return result

    def _of_labels(self, scores: np.ndarray, kept: np.ndarray, prefix: str, names: list[str]) -> dict[str, float]:
        """Metrics over some of the rows."""
        users, labels, scores, found = self.labelled.users[kept], self.labelled.labels[kept], scores[kept], {}
        if labels.any() and not labels.all():
            for name in names:
                if name == "uauc":
                    found[name] = user_auc(users, labels, scores)
                else:
                    found[name] = self.metric_class[name].metric_info(scores, labels.astype(np.float32))
        places = self.config["metric_decimal_place"]
        return {prefix + name: round(float(value), places) for name, value in found.items() if value is not None}

    def target_ranks(self) -> np.ndarray | None:
        """Where the last evaluation ranked the target of each row.

        Returns:
            int64 ``[n_rows]``, from 1; 0 where it is not among the largest ``topk``. ``None`` where a row has several targets or nothing
            was ranked.
        """
        if self.topk is None or (self.topk[:, -1] != 1).any():
            return None
        hits = self.topk[:, :-1].bool()
        return torch.where(hits.any(1), hits.int().argmax(1) + 1, 0).numpy()


def user_auc(users: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> float | None:
    """UAUC: the mean of the AUC of each user.

    A user's AUC is the share of pairs of a positive and a negative row of his in which the positive one has the higher score; equal
    scores count one half. Users without a positive or without a negative row have none and are left out; all others weigh the same,
    however many rows they have. (RecBole's GAUC ranks whole catalogues and knows no labels.)

    Args:
        users: integers ``[n]``.
        labels: bool ``[n]``.
        scores: ``[n]``.

    Returns:
        A figure from 0 to 1; ``None`` where no user has both labels.
    """
    if not len(users):
        return None
    order = np.lexsort((scores, users))
    users, labels, scores = users[order], labels[order], scores[order]
    _, user = np.unique(users, return_inverse=True)
    new_run = np.r_[True, (user[1:] != user[:-1]) | (scores[1:] != scores[:-1])]  # rows of a user with equal scores are a run
    begin = np.flatnonzero(new_run)
    end = np.r_[begin[1:], len(user)]
    rank = ((begin + 1 + end) / 2)[np.cumsum(new_run) - 1]  # the mean of the places begin + 1 ... end of the run
    rank -= np.searchsorted(user, user)  # counted within the user
    positives, rows = np.bincount(user, labels), np.bincount(user)
    pairs = positives * (rows - positives)
    above = np.bincount(user, rank * labels) - positives * (positives + 1) / 2  # Mann and Whitney's U
    return float((above[pairs > 0] / pairs[pairs > 0]).mean()) if (pairs > 0).any() else None


def met_cells(seen: csr_matrix, users: Tensor, positive_u: Tensor, positive_i: Tensor) -> tuple[Tensor, Tensor]:
    """Which items of a batch are no candidates where items that a user has met are left out.

    Args:
        seen: ``[n_users, n_items]``, not 0 where a user met an item in an earlier part of the split.
        users: ``[B]``.
        positive_u: ``[P]`` row of each target.
        positive_i: ``[P]`` its item. As in RecBole, a target stays a candidate though its user has met it before.

    Returns:
        Row and item of each cell that is masked.
    """
    row, item = (torch.from_numpy(index).long() for index in seen[users.cpu().numpy()].nonzero())
    n_items = seen.shape[1]
    keep = ~torch.isin(row * n_items + item, positive_u.cpu() * n_items + positive_i.cpu())
    return row[keep], item[keep]
