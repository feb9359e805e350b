"""What differs from RecBole's evaluation: metrics over all processes at once, ranks of single users, and who may be recommended what."""

from __future__ import annotations

import numpy as np
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_r3vae.errors import UserError


class ExactEvaluator(Evaluator):
    """RecBole's evaluator over all processes' users at once, which keeps the rows that the metrics are made of.

    RecBole averages the processes' metrics, weighs them by four a batch, and counts the users that pad the last process twice. Here the
    collected rows are put back into the dataset's order, the padding is cut off, and the metrics are computed once.

    Attributes:
        n_rows: users of the dataset under evaluation.
        topk: of the last evaluation, int ``[n_rows, k + 1]``: whether each place of a user's list is a hit, and how many targets the
            user has. ``None`` where no metric asks for it.
    """

    n_rows = 0
    topk: Tensor | None = None

    def evaluate(self, dataobject: DataStruct):
        """Metrics of what all processes collected; the same on every process."""
        if not self.config["single_spec"]:
            world_size = torch.distributed.get_world_size()
            for key in [key for key in dataobject._data_dict if key.startswith(("rec.", "data.label"))]:
                parts = [None] * world_size
                torch.distributed.all_gather_object(parts, dataobject[key])
                # DistributedSampler deals rows out in turn, so row i of process p is row i * world_size + p of the dataset.
                dataobject.set(key, torch.stack(parts, dim=1).flatten(0, 1)[: self.n_rows])
        self.topk = dataobject["rec.topk"] if "rec.topk" in dataobject else None
        return super().evaluate(dataobject)

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


def mask_of(
    rule: bool | None,
    recboles: tuple[Tensor, Tensor] | None,
    seen: csr_matrix | None,
    users: Tensor,
    positive_u: Tensor,
    positive_i: Tensor,
) -> tuple[Tensor, Tensor] | None:
    """Which items of a batch are no candidates, for any kind of model.

    Args:
        rule: ``mask_history``: ``False``, all are candidates; ``True``, what the user met before is none; ``None``, RecBole's rule, by
            which general models mask and sequential ones do not.
        recboles: RecBole's mask of the batch.
        seen: ``[n_users, n_items]``, not 0 where a user met an item in an earlier part of the split.
        users: ``[B]``.
        positive_u: ``[P]`` row of each target.
        positive_i: ``[P]`` its item. As in RecBole, a target stays a candidate though its user has met it before.

    Returns:
        Row and item of each cell that is masked; ``None`` for none.

    Raises:
        UserError: ``seen`` is needed and not there.
    """
    if rule is None:
        return recboles
    if not rule:
        return None
    if seen is None:
        raise UserError(
            "mask_history is True, and these loaders do not know what users met before; "
            "make them with recbole_r3vae.quick_start.lookup.data_preparation"
        )
    row, item = (torch.from_numpy(index).long() for index in seen[users.cpu().numpy()].nonzero())
    n_items = seen.shape[1]
    keep = ~torch.isin(row * n_items + item, positive_u * n_items + positive_i)
    return row[keep], item[keep]
