"""Training and evaluating generators of semantic IDs: schedules, mixed precision, and metrics on the generated items themselves."""

from __future__ import annotations

import math

import torch
from recbole.trainer import Trainer

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.base import EXACT
from recbole_r3vae.trainer.checkpoint import Checkpointed, Collector

SPARSE_METRICS = {"recall", "ndcg", "mrr", "hit", "map", "precision"}
COVERAGE_METRICS = {"itemcoverage", "averagepopularity", "giniindex", "shannonentropy", "tailpercentage"}
SCHEDULES = ("constant", "cosine", "inverse_sqrt")


class TopKCollector(Collector):
    """RecBole's collector fed with ranked item ids instead of a score for every item.

    RecBole ranks a ``[users, items]`` matrix and marks the hits in another of that size. A beam search already knows the ranking; the
    evaluator sees the same ``rec.items`` and ``rec.topk`` either way.
    """

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Take in one batch.

        Args:
            scores_tensor: ``[B, k]`` int64 item ids, best first, k = largest cut-off; or, where sampled candidates are scored,
                RecBole's ``[B, n_items]`` float scores.
            interaction: the batch.
            positive_u: ``[P]`` row of each relevant item.
            positive_i: ``[P]`` its id.
        """
        if scores_tensor.is_floating_point():
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        items = scores_tensor
        hits = torch.zeros(items.shape, dtype=torch.int, device=items.device)  # [B, k]
        row, rank = (items[positive_u] == positive_i[:, None]).nonzero(as_tuple=True)  # among the P relevant items
        hits[positive_u[row], rank] = 1
        n_relevant = torch.bincount(positive_u, minlength=len(items)).int()[:, None]  # [B, 1]
        if self.register.need("rec.items"):
            self.data_struct.update_tensor("rec.items", items)
        if self.register.need("rec.topk"):
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, n_relevant], dim=1))


def check_settings(config) -> None:
    """Refuse what a generator cannot be trained or scored with, before anything is trained.

    Raises:
        UserError: a beam narrower than the largest cut-off, a metric that a top-k list cannot give, an unknown schedule.
    """
    widest = max(config["topk"])
    for key in ("valid_num_beams", "num_beams"):
        beams = config[key]
        if beams != EXACT and type(beams) is not int:
            raise UserError(f"{key} is {beams!r}; give a whole number, at least the largest topk={widest}, or {EXACT}")
        if beams != EXACT and beams < widest:
            raise UserError(f"{key}={beams} is below the largest topk={widest}; use --{key}={widest} or more")
    refused = [metric for metric in config["metrics"] if metric.lower() not in SPARSE_METRICS | COVERAGE_METRICS]
    if refused:
        raise UserError(
            f"metric {refused[0]} needs a score for every item; a beam search ranks only its best. "
            "Choose among Recall, NDCG, MRR, Hit, MAP, Precision, ItemCoverage, GiniIndex, AveragePopularity"
        )
    if config["lr_schedule"] not in SCHEDULES:
        raise UserError(f"lr_schedule {config['lr_schedule']!r} is unknown; choose {', '.join(SCHEDULES)}")


class GeneratorTrainer(Checkpointed, Trainer):
    """RecBole's trainer for a generator of semantic IDs.

    Adds to it a warm-up with constant, cosine or inverse-square-root decay, bfloat16 training (``enable_amp``), a narrower beam
    while validating (``valid_num_beams``) than when testing (``num_beams``), and evaluation on the ranked items of the beam search.

    Raises:
        UserError: as :func:`check_settings`.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        check_settings(config)
        self.eval_collector = TopKCollector(config)
        self._step = 0

    def _learning_rate(self, step: int, total: int) -> float:
        warmup = self.config["warmup_steps"]
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        schedule = self.config["lr_schedule"]
        if schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
        if schedule == "inverse_sqrt":
            return self.learning_rate * math.sqrt(max(1, warmup) / (step + 1))
        return self.learning_rate

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        self._step = epoch_idx * len(train_data)  # the schedule is a function of the step alone, so it resumes by itself
        total = self.epochs * len(train_data)
        calculate_loss = loss_func or self.model.calculate_loss

        def loss_at_scheduled_rate(interaction):
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate(self._step, total)
            self._step += 1
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed_precision):
                return calculate_loss(interaction)

        return super()._train_epoch(train_data, epoch_idx, loss_at_scheduled_rate, show_progress)

    @property
    def mixed_precision(self) -> bool:
        return bool(self.config["enable_amp"])

    def _valid_epoch(self, valid_data, show_progress=False):
        self.model.num_beams = self.config["valid_num_beams"]
        try:
            return super()._valid_epoch(valid_data, show_progress=show_progress)
        finally:
            self.model.num_beams = self.config["num_beams"]

    def _full_sort_batch_eval(self, batched_data):
        interaction, mask, positive_u, positive_i = self._with_mask(batched_data)
        allowed = None
        if mask is not None:
            allowed = torch.ones(len(interaction), self.model.n_items, dtype=torch.bool)  # [B, n_items]
            allowed[mask] = False
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed_precision):
            items, _ = self.model.recommend(interaction.to(self.device), max(self.config["topk"]), allowed)
        return interaction, items, positive_u.to(self.device), positive_i.to(self.device)
