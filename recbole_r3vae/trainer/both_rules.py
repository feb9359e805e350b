"""Evaluation under both rules on items that users have met, from one reading of each history."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import scipy.sparse
import torch

from recbole_r3vae.compat import collector_class
from recbole_r3vae.config import RULES
from recbole_r3vae.data.clicks import ClickDataset
from recbole_r3vae.errors import UserError
from recbole_r3vae.record.ranks import beam_levels
from recbole_r3vae.trainer.evaluation import ExactEvaluator, met_cells

Collector = collector_class()


class BothRules:
    """Mixin for a RecBole trainer: a test over the whole catalogue measures both rules, a validation the one that selects.

    Attributes:
        results: rule to metrics of the last :meth:`evaluate` over the whole catalogue; empty where candidates were sampled or labelled.
        ranks: rule to the rank of each row's target then, see :meth:`~.evaluation.ExactEvaluator.target_ranks`.
        beam_levels: rule to what became of the targets' prefixes in the beam, see :func:`~recbole_r3vae.record.ranks.beam_levels`; only of
            models that write codes.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        self.eval_collector, self.evaluator = Collector(config), ExactEvaluator(config)
        self.results: dict[str, dict[str, float]] = {}
        self.ranks: dict[str, np.ndarray | None] = {}
        self.beam_levels: dict[str, list[dict[str, float | None]]] = {}
        self._other_rule: Any = None  # collects under the rule that does not select, while both are measured
        self._both_rules = True
        self._seen: scipy.sparse.csr_matrix | None = None  # what users met before the part under evaluation

    def _valid_epoch(self, valid_data, show_progress=False):
        self._both_rules = False
        try:
            return super()._valid_epoch(valid_data, show_progress)
        finally:
            self._both_rules = True

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """RecBole's evaluation.

        Over the whole catalogue, both rules on items that users have met are measured at once: :attr:`results`, :attr:`ranks`.

        Returns:
            Metrics, under ``valid_rule`` where there are two rules.
        """
        if eval_data:
            self.evaluator.n_rows, self._seen = eval_data.sample_size, getattr(eval_data, "seen", None)
            part = getattr(eval_data, "_dataset", None)
            self.evaluator.labelled = part.labelled_rows() if isinstance(part, ClickDataset) else None
        self.results, self.ranks, self.beam_levels, self._met_counted = {}, {}, {}, False
        self._other_rule = copy.deepcopy(self.eval_collector) if self._both_rules and self._seen is not None else None
        result = super().evaluate(eval_data, load_best_model, model_file, show_progress)
        if eval_data and self._met_counted:
            self._keep(self._rules[0], result)
            if self._other_rule is not None:
                self._keep(self._rules[1], self.evaluator.evaluate(self._other_rule.get_data_struct()))
        self._other_rule = None
        return result

    @property
    def _rules(self) -> list[str]:
        """The rule that selects, then the other one."""
        return sorted(RULES, key=lambda rule: rule != self.config["valid_rule"])

    def _keep(self, rule: str, result: dict[str, float]) -> None:
        self.results[rule], self.ranks[rule] = dict(result), self.evaluator.target_ranks()
        if self.evaluator.prefix_ranks is not None:
            self.beam_levels[rule] = beam_levels(self.evaluator.prefix_ranks.numpy())

    def _full_sort_batch_eval(self, batched_data):
        interaction, _, positive_u, positive_i = batched_data
        met = self._met(interaction, positive_u, positive_i)
        interaction, scores, positive_u, positive_i = super()._full_sort_batch_eval((interaction, None, positive_u, positive_i))
        left_out = scores
        if met is not None:
            left_out = scores.clone() if "stay" in self._measured else scores  # [B, n_items]
            left_out[met] = -torch.inf
        by_rule = {"stay": scores, "left_out": left_out}
        if self._other_rule is not None:
            self._other_rule.eval_batch_collect(by_rule[self._rules[1]], interaction, positive_u, positive_i)
        return interaction, by_rule[self._rules[0]], positive_u, positive_i

    @property
    def _measured(self) -> list[str]:
        return self._rules if self._other_rule is not None else self._rules[:1]

    def _met(self, interaction, positive_u, positive_i):
        """Row and item of each cell that the rule ``left_out`` masks; ``None`` where that rule is not measured."""
        self._met_counted = True
        if "left_out" not in self._measured:
            return None
        if self._seen is None:
            raise UserError(
                "valid_rule is left_out, and these loaders do not know what users met before; "
                "make them with recbole_r3vae.quick_start.lookup.data_preparation"
            )
        return met_cells(self._seen, interaction[self.config["USER_ID_FIELD"]], positive_u, positive_i)

    def _map_reduce(self, result, num_sample):
        return result  # already that of all processes
