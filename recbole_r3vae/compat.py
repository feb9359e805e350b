"""Every shim that RecBole 1.2 needs on today's numpy, scipy and torch, each with its reason.

RecBole's files are never changed; names that newer libraries removed are given back before RecBole asks for them.
"""

from __future__ import annotations

import copy
import csv
import functools
import importlib.util
import sys
import types
import warnings

import numpy as np
import scipy.sparse


def apply() -> None:
    """Give back the names RecBole needs. Safe to call more than once.

    * numpy 2 removed ``float_``, ``complex_`` and ``unicode_``, which ``recbole.config.Config`` reads in every construction.
    * scipy 1.13 removed ``dok_matrix._update``, with which RecBole's graph models (LightGCN, NGCF, …) fill their adjacency.
    * ``recbole.model.general_recommender`` imports ``kmeans_pytorch`` for one model, LDiffRec, without requiring it; where it is
      absent, every look-up of a RecBole model would fail, so an empty stand-in takes its place until LDiffRec is really used.
    * The csv module, with which RecBole reads, takes no cell of more than 131,072 characters; a very long text has more.
    * pandas and torch warn of idioms in RecBole that later versions will drop; its user can do nothing about them.
    """
    csv.field_size_limit(2**31 - 1)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
    for removed, kept in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        if removed not in vars(np):
            setattr(np, removed, kept)
    if not hasattr(scipy.sparse.dok_matrix, "_update"):
        scipy.sparse.dok_matrix._update = _dok_update
    if "kmeans_pytorch" not in sys.modules and importlib.util.find_spec("kmeans_pytorch") is None:
        stand_in = types.ModuleType("kmeans_pytorch")
        stand_in.kmeans = _missing_kmeans
        sys.modules["kmeans_pytorch"] = stand_in


def _dok_update(matrix: scipy.sparse.dok_matrix, entries: dict) -> None:
    matrix._dict.update(entries)


def _missing_kmeans(*args, **kwargs):
    raise ImportError("RecBole's LDiffRec needs the package kmeans-pytorch: pip install kmeans-pytorch")


def recbole_model(name: str) -> type:
    """The class of one of RecBole's models, as its ``get_model`` finds it, without what else that does.

    The search imports SINE, whose module turns autograd's anomaly detection on for the whole process: every operation then records where
    it was called and every gradient is searched for nan. Here the mode stays as it was; ``benchmarks/anomaly_mode.py`` measures what that
    spares every RecBole model, 1.4 times SASRec's time for instance. ``Pop`` is one that counts as its name says, see :func:`_counting`.

    Args:
        name: ``SASRec``, ``BPR`` …

    Raises:
        ValueError, TypeError, AttributeError, ModuleNotFoundError: RecBole has no such model; it depends on the name.
    """
    import torch
    from recbole.utils import get_model

    mode, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        found = get_model(name)
    finally:
        torch.autograd.set_detect_anomaly(mode, check_nan)
    return _counting(found) if name == "Pop" else found


@functools.cache
def _counting(pop: type) -> type:
    """RecBole's ``Pop`` without its fault: it counts an item once a batch, however many interactions of the batch are with it."""
    import torch

    class Pop(pop):
        """RecBole's ``Pop``; see :func:`recbole_r3vae.compat.recbole_model`."""

        def calculate_loss(self, interaction):
            items = interaction[self.ITEM_ID]  # [B]
            self.item_cnt.index_add_(0, items, torch.ones_like(items)[:, None])  # [n_items, 1]
            self.max_cnt = self.item_cnt.max(dim=0)[0]
            return torch.nn.Parameter(torch.zeros(1)).to(self.device)

    return Pop


def collector_class() -> type:
    """RecBole's ``Collector`` without the fault of version 1.2.1, whose metrics of coverage fail on counts that are no tensors."""
    from recbole.evaluator import Collector

    class SafeCollector(Collector):
        """RecBole's ``Collector``; see :func:`collector_class`."""

        def get_data_struct(self):
            collected = copy.deepcopy(self.data_struct)
            for key, value in collected._data_dict.items():
                if hasattr(value, "cpu"):
                    collected._data_dict[key] = value.cpu()
            for key in [key for key in self.data_struct._data_dict if key.startswith(("rec.", "data.label"))]:
                del self.data_struct[key]
            return collected

    return SafeCollector
