"""Training and evaluating rankers: schedules, mixed precision, and metrics on the recommended items themselves."""

from __future__ import annotations

import math

import torch
from recbole.trainer import Trainer

from recbole_r3vae.model.generator.decoding.rules import Excluded
from recbole_r3vae.trainer.both_rules import Collector
from recbole_r3vae.trainer.resumable import Checkpointed


class TopKCollector(Collector):
    """RecBole's collector fed with ranked item ids instead of a score for every item.

    RecBole ranks a ``[users, items]`` matrix and marks the hits in another of that size. A beam search already knows the ranking; the
    evaluator sees the same ``rec.items`` and ``rec.topk`` either way.
    """

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Take in one batch.

        Args:
            scores_tensor: ``[B, k]`` int64 item ids, best first, 0 where there are not that many, k = largest cut-off; or, where sampled
                candidates are scored, RecBole's ``[B, n_items]`` float scores.
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
            # A user who has met nearly everything has fewer candidates than places: his first one again, so that no other item counts.
            self.data_struct.update_tensor("rec.items", items.where(items > 0, items[:, :1]))
        if self.register.need("rec.topk"):
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, n_relevant], dim=1))

    def collect_prefix_ranks(self, ranks):
        """Take in :attr:`.Ranking.prefix_ranks` ``[B, L]`` of a batch; ``None`` is nothing."""
        if ranks is not None:
            self.data_struct.update_tensor("rec.prefix_ranks", ranks)


class RankingTrainer(Checkpointed, Trainer):
    """RecBole's trainer for a :class:`~recbole_r3vae.model.ranker.Ranker`.

    Adds to it a warm-up with constant, cosine or inverse-square-root decay, bfloat16 training (``enable_amp``), a narrower search while
    validating than when testing where the model has one, and evaluation on ranked items.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        self.eval_collector = TopKCollector(config)
        self._step = 0

    def _learning_rate(self, step: int, total: int) -> float:
        warmup = self.config["warmup_steps"] or 0
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
        """Whether matrix products are in bfloat16."""
        return bool(self.config["enable_amp"])

    def _valid_epoch(self, valid_data, show_progress=False):
        self.model.validating(True)
        try:
            return super()._valid_epoch(valid_data, show_progress=show_progress)
        finally:
            self.model.validating(False)

    def _full_sort_batch_eval(self, batched_data):
        interaction, _, positive_u, positive_i = batched_data
        met = self._met(interaction, positive_u, positive_i)
        excluded = None if met is None else Excluded(*(cells.to(self.device) for cells in met))
        rules = [excluded if rule == "left_out" else None for rule in self._measured]
        k, most_met = max(self.config["topk"]), 0 if met is None or not len(met[0]) else int(torch.bincount(met[0]).max())
        enough = self.model.n_items - 1 - most_met >= k  # else lists end where a user's catalogue does, as those of RecBole's models
        positive_u, positive_i = positive_u.to(self.device), positive_i.to(self.device)
        targets = positive_i if self._both_rules else None  # one a row, of sequential data; a validation asks for nothing but its metrics
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed_precision):
            found = self.model.recommend_under(interaction.to(self.device), k, rules, enough, targets)
        self.eval_collector.collect_prefix_ranks(found[0].prefix_ranks)
        for ranking in found[1:]:
            self._other_rule.collect_prefix_ranks(ranking.prefix_ranks)
            self._other_rule.eval_batch_collect(ranking.items, interaction, positive_u, positive_i)
        return interaction, found[0].items, positive_u, positive_i
