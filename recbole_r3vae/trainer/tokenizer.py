"""Training a tokenizer over items, judged by the quality of its semantic IDs on the whole catalogue."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from typing import Any

import torch
from recbole.trainer import Trainer
from tqdm import tqdm

from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.provenance import peak_memory_mb
from recbole_r3vae.sid.quality.report import quality_report
from recbole_r3vae.trainer.encoding import OwnSpace, encode
from recbole_r3vae.trainer.resumable import Checkpointed


class TokenizerTrainer(Checkpointed, Trainer):
    """RecBole's trainer on batches of items. Validation scores all that it trains on, which is the whole catalogue unless ``train_items``
    says otherwise: a tokenizer has no held-out items, its task is to separate exactly those that exist.

    Attributes:
        history: The training so far, one dict an epoch: ``epoch`` from 1, ``loss`` (mean over its batches) and, where the epoch was
            validated, ``valid``, the scores of :func:`summary` with ``None`` for undefined ones.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        self.eval_step = min(config["eval_step"], self.epochs)  # 0: no epoch is scored, and the last is kept
        self.history: list[dict[str, Any]] = []
        self._earlier_peaks: dict[str, float | None] = {}

    def peak_memory_mb(self) -> dict[str, float | None]:
        """The most memory of this training in MiB, what came before a resumption included.

        Returns:
            ``process``, and on a GPU ``gpu``; ``None`` where the system does not tell.
        """
        peaks = {"process": peak_memory_mb()}
        if self.device.type == "cuda":
            peaks["gpu"] = peak_memory_mb(self.device)
        for name, earlier in self._earlier_peaks.items():
            peaks[name] = max(filter(None, (peaks.get(name), earlier)), default=None)
        return peaks

    def _state(self):
        return {**super()._state(), "history": self.history, "peak_memory_mb": self.peak_memory_mb()}

    def _take_up(self, state):
        self.history, self._earlier_peaks = state["history"], state["peak_memory_mb"]

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """Initialise the codebooks, then train as :class:`~recbole_r3vae.trainer.resumable.Checkpointed` does.

        Args:
            train_data: loader of item batches.
            valid_data: the :class:`~recbole_r3vae.data.items.ItemVectors` themselves.
        """
        if self.start_epoch == 0 and not self.finished:
            started = time.monotonic()
            self.model.initialise(valid_data)
            self._elapsed += time.monotonic() - started
        name = self.config["model"]
        self._bar = tqdm(total=self.epochs, initial=self.start_epoch, desc=f"{name} epochs", ncols=100, disable=not show_progress)
        with self._bar:
            return super().fit(train_data, valid_data, verbose, saved, False, callback_fn)

    def _build_optimizer(self, **kwargs):
        # torch's optimizers refuse an empty list of parameters, which a fitted tokenizer has, but not an empty group of them.
        return super()._build_optimizer(**{"params": [{"params": list(self.model.parameters())}], **kwargs})

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        if self.model.prefix_grouped_batches:
            train_data.set_groups(self._first_codes(train_data.items))
        loss = super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        self._bar.update()
        parts = loss if isinstance(loss, tuple) else (loss,)
        self.history.append({"epoch": epoch_idx + 1, "loss": sum(parts) / len(train_data)})
        self._bar.set_postfix_str(f"loss {self.history[-1]['loss']:.4f}")
        for name, counts in self.model.last_regularizer_counts.items():
            for level, count in enumerate(counts, start=1):
                self.tensorboard.add_scalar(f"{name}/level{level}", count, epoch_idx)
        return loss

    def _valid_epoch(self, valid_data, show_progress=False):
        score, result = super()._valid_epoch(valid_data, show_progress)
        self.history[-1]["valid"] = {name: None if math.isnan(value) else value for name, value in result.items()}
        return score, result

    @torch.no_grad()
    def _first_codes(self, items: ItemVectors) -> torch.Tensor:
        """First code of every item, ``[n_items]``; 0 for the padding row."""
        self.model.eval()
        codes = [self.model.tokenize(x)[:, 0] for _, x in items.batches(8192)]
        return torch.cat([torch.zeros(1, dtype=torch.int64), *codes])

    def _generate_train_loss_output(self, epoch_idx, s_time, e_time, losses):
        return f"epoch {epoch_idx} training [{e_time - s_time:.2f}s, loss {losses if not isinstance(losses, tuple) else sum(losses):.4f}]"

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """Quality of the semantic IDs of the whole catalogue, before collisions are resolved.

        Returns:
            The scores a tokenizer can be selected by, named as in :attr:`.SemanticTokenizer.selected_by`.
        """
        if load_best_model:
            self.load_best(model_file)
        return summary(score_tokenizer(self.model, eval_data, seed=self.config["seed"])[1])


def score_tokenizer(
    model, items: ItemVectors, seed: int, kept: str | os.PathLike | None = None, show_progress: bool = False
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Tokenize the catalogue and measure the result.

    Args:
        model: a tokenizer.
        items: its catalogue.
        seed: of what is drawn, where the catalogue is too large for exact SC or PD.
        kept: a file for finished blocks of codes, see :func:`~recbole_r3vae.trainer.encoding.encode`.
        show_progress: whether to show a bar over the items.

    Returns:
        Codes ``[n_items - 1, L]`` int64 (no padding row), and the report of
        :func:`~recbole_r3vae.sid.quality.report.quality_report` in the raw space and in the tokenizer's residual space.
    """
    model.eval()
    codes, squared_errors = encode(model, items, kept, show_progress)
    own = model.catalogue_codes()
    codes = codes if own is None else own.cpu()
    spaces = {"raw": items.embeddings[1:], "residual": OwnSpace(model, items)}
    return codes, quality_report(codes, model.codebook_sizes, spaces, squared_errors, seed=seed, ordered=model.ordered)


def summary(report: dict[str, Any]) -> dict[str, float]:
    """One number for each of :attr:`.SemanticTokenizer.selected_by`: SC and PD in the raw space, they and the usage as means over
    the levels where they are defined."""
    levels = report["levels"]
    return {
        "reconstruction": report["reconstruction"]["mse"],
        "unique_ratio": report["unique_ratio"],
        "usage": mean_defined(level["usage"] for level in levels),
        "sc": mean_defined(level["spaces"]["raw"]["sc"] for level in levels),
        "pd": mean_defined(level["spaces"]["raw"]["pd"] for level in levels),
    }


def mean_defined(values: Iterable[float | None]) -> float:
    """Mean of those values that are not ``None``; nan if all are."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else math.nan
