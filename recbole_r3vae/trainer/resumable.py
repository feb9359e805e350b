"""What every trainer does here, RecBole's as well as ours: safe checkpoints, exact resumption, a budget, a model's hooks."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from recbole.trainer import Trainer
from recbole.utils import set_color

from recbole_r3vae.data.sequences import TARGET_LIST_FIELD
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.contract import Sources, training_hooks
from recbole_r3vae.provenance import commit
from recbole_r3vae.trainer.both_rules import BothRules
from recbole_r3vae.trainer.checkpoint_file import (
    from_plain,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
    sources_state,
    to_plain,
)


class BudgetReached(Exception):
    """Training has used its ``max_minutes``."""


class Checkpointed(BothRules):
    """Mixin for a RecBole trainer: ``best.pth`` and ``last.pth`` in the run's folder, exact resumption, a time budget, a model's hooks
    ``begin_epoch`` and ``after_step``, and evaluation under both rules on items that users have met (:class:`~.both_rules.BothRules`).

    ``last.pth`` is written at the start of every epoch and when training ends, so it always describes a moment between two epochs
    with the early stopping of the earlier one done. It holds the model, the optimizer, the counters, the random states of torch,
    numpy and Python, of every process where there are several, and that of the loader's shuffling: a run that is killed and resumed ends
    with the same bits as one that was left alone (same machine, CPU, thread count, number of processes, ``worker=0``).

    Attributes:
        valid_history: one dict a validation: ``epoch`` from 1, ``seconds`` of training until then, ``score``.
        known: what the run knows of itself and its data, kept in every checkpoint: ``identity``, ``data``, ``ids``.
    """

    known: dict[str, Any] = {}

    def __init__(self, config, model):
        # RecBole hands DistributedDataParallel a device number, which it refuses for modules on the CPU; wrap it here instead.
        single = config["single_spec"]
        config["single_spec"] = True
        super().__init__(config, model)
        config["single_spec"] = single
        self.eval_step = max(1, min(self.eval_step, self.epochs))  # counted models have one epoch, which is to be validated too
        if not single:
            on_gpu = self.device.type == "cuda"
            self.distributed_model = torch.nn.parallel.DistributedDataParallel(
                self.model, device_ids=[self.device.index] if on_gpu else None
            )
        self.run_dir = Path(config["run_dir"] or self.checkpoint_dir)
        self.saved_model_file = str(self.run_dir / "best.pth")
        self.last_file = self.run_dir / "last.pth"
        self.stopped_at_budget = False
        self.finished_epochs = 0
        self.valid_history: list[dict[str, float]] = []
        self._commits = [found] if (found := commit()) else []  # asked now: files may change while it trains
        self._elapsed = 0.0  # seconds of training before this process
        self._started: float | None = None  # while it trains
        self._saving = False
        self._loader_state = None
        self._train_data, self._batch, self._batch_number = None, None, 0  # of the epoch under way

    # -- writing -------------------------------------------------------------------------------------------------------

    @property
    def is_writer(self) -> bool:
        return self.config["single_spec"] or self.config["local_rank"] == 0

    def seconds(self) -> float:
        """Seconds of training so far, those before a resumption included; what comes after training is not counted."""
        return self._elapsed + (0.0 if self._started is None else time.monotonic() - self._started)

    @property
    def commit(self) -> str | None:
        """Commits of the code that trained the model: several where it was resumed, or tested, by that of another; ``None`` if unknown."""
        return ", ".join(self._commits) or None

    def _state(self) -> dict[str, Any]:
        for name, parameter in self.model.named_parameters():
            if not torch.isfinite(parameter).all():  # an infinite gradient in the last batch, whose own loss was finite
                raise UserError(
                    f"{name} is no longer finite after epoch {max(self.train_loss_dict, default=-1) + 1}; {self._what_is_kept()}; lower "
                    "the learning rate, or set clip_grad_norm"
                )
        return {
            "config": self.config.declared,
            **self.known,
            "sources": sources_state(getattr(self.model, "sources", Sources())),
            "model": self.model.state_dict(),
            "other_parameter": to_plain(self.model.other_parameter()),
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": {k: float(v) for k, v in self.best_valid_result.items()} if self.best_valid_result else None,
        }

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        if not self.is_writer:
            return
        save_checkpoint(kwargs.get("saved_model_file", self.saved_model_file), {**self._state(), "epoch": epoch})
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {self.saved_model_file}")

    def _save_last(self, epoch: int, train_data, finished: bool) -> None:
        if not self._saving:
            return
        random = self._random_states()  # asks all processes, so before one of them turns away
        if not self.is_writer:
            return
        generator = getattr(train_data, "generator", None)
        state = {
            **self._state(),
            "epoch": epoch,
            "optimizer": self.optimizer.state_dict(),
            "random": random,
            "loader": generator.get_state() if generator is not None else None,
            "train_loss": dict(self.train_loss_dict),
            "seconds": self.seconds(),
            "commits": self._commits,
            "valid_history": self.valid_history,
            "finished": finished,
            "stopped_at_budget": self.stopped_at_budget,
        }
        save_checkpoint(self.last_file, state)

    def _random_states(self) -> dict[str, Any] | list[dict[str, Any]]:
        """Of this process; where there are several, of each, by rank: their dropout and their negative items differ."""
        own = random_state()
        if self.config["single_spec"]:
            return own
        every: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(every, own)
        return every

    def _set_random_state(self, stored: dict[str, Any] | list[dict[str, Any]]) -> None:
        n = 1 if self.config["single_spec"] else torch.distributed.get_world_size()
        if isinstance(stored, list):
            if len(stored) != n:
                raise UserError(f"checkpoint {self.last_file} is of {len(stored)} processes, this is {n}; start as many, or train again")
            set_random_state(stored[self.config["local_rank"]])
        elif n == 1:
            set_random_state(stored)
        else:
            self.logger.warning(f"{self.last_file} knows the random state of one process only: training goes on, but not to the same bits")

    # -- training -------------------------------------------------------------------------------------------------------

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        if self._loader_state is not None:
            train_data.generator.set_state(self._loader_state.cpu())
            self._loader_state = None
        self.finished_epochs = epoch_idx
        if self._budget_used_up():
            self.stopped_at_budget = True
            raise BudgetReached
        self._save_last(epoch_idx, train_data, finished=False)
        self._batch_number, self._train_data = 0, train_data
        for begins in (self.model, getattr(train_data, "dataset", None)):
            training_hooks(begins)[0](epoch_idx)
        calculate_loss = loss_func or self.model.calculate_loss

        def loss_of_known_batch(interaction):
            self._batch, self._batch_number = interaction, self._batch_number + 1
            return calculate_loss(interaction)

        return super()._train_epoch(train_data, epoch_idx, loss_func=loss_of_known_batch, show_progress=show_progress)

    def _build_optimizer(self, **kwargs):
        optimizer = super()._build_optimizer(**kwargs)
        optimizer.register_step_post_hook(lambda *_: training_hooks(self.model)[1](self._batch))
        return optimizer

    def _check_nan(self, loss):
        if torch.isfinite(loss).all():
            return
        step = self.finished_epochs * len(self._train_data) + self._batch_number
        raise UserError(
            f"the loss is {loss.item()} at step {step} (epoch {self.finished_epochs + 1}, batch {self._batch_number}), whose items are "
            f"{self._items_of_batch()}; {self._what_is_kept()}; look at these items, lower the learning rate, or set clip_grad_norm"
        )

    def _items_of_batch(self, n: int = 20) -> str:
        """The first external item ids of the batch, and how many more there are."""
        items = self.config["ITEM_ID_FIELD"]
        histories = f"{items}{self.config['LIST_SUFFIX']}"
        fields = [field for field in (items, histories, TARGET_LIST_FIELD) if field in self._batch.columns]
        rows = torch.cat([self._batch[field].flatten() for field in fields]).unique().tolist() if fields else []
        catalogue = getattr(self._train_data, "items", None)  # a tokenizer's loader has items, others have a dataset
        names = catalogue.item_ids if catalogue is not None else self._train_data.dataset.field2id_token[items]
        found = [str(names[row]) for row in rows if row > 0]  # 0 is padding
        more = f" and {len(found) - n} more" if len(found) > n else ""
        return ", ".join(map(repr, found[:n])) + more

    def _what_is_kept(self) -> str:
        kept = [str(path) for path in (self.last_file, Path(self.saved_model_file)) if path.is_file()]
        return f"kept from before: {' and '.join(kept)}" if kept else "there is no checkpoint from before"

    def _valid_epoch(self, valid_data, show_progress=False):
        score, result = super()._valid_epoch(valid_data, show_progress)
        self.valid_history.append({"epoch": self.finished_epochs + 1, "seconds": round(self.seconds(), 1), "score": float(score)})
        return score, result

    def _budget_used_up(self) -> bool:
        budget = self.config["max_minutes"]
        if budget is None:
            return False
        used_up = torch.tensor(self.seconds() > 60 * budget, device=self.device)
        if not self.config["single_spec"]:
            torch.distributed.broadcast(used_up, src=0)  # clocks differ; one process must not leave the others waiting
        return bool(used_up)

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """Train as RecBole's trainer does, from ``last.pth`` if :meth:`resume` found one.

        Returns:
            Best validation score and best validation result.
        """
        self._saving = saved
        if self.finished:
            self.eval_collector.data_collect(train_data)  # as RecBole does in training: some metrics of the test read it
            return self.best_valid_score, self.best_valid_result
        self._started = time.monotonic()
        if saved and self.is_writer and self.start_epoch == 0:
            # The folder is named by the configuration: what an earlier run of it left must not pass for this one's best.
            Path(self.saved_model_file).unlink(missing_ok=True)
        try:
            super().fit(train_data, valid_data, verbose, saved and self.is_writer, show_progress, callback_fn)
        except BudgetReached:
            self.logger.warning(
                f"stopped at max_minutes={self.config['max_minutes']:g} after {self.finished_epochs} of {self.epochs} epochs"
            )
            if saved and not Path(self.saved_model_file).is_file():
                self._save_checkpoint(self.finished_epochs - 1, verbose=verbose)
        else:
            self.finished_epochs = max(self.train_loss_dict, default=self.start_epoch - 1) + 1
        self._elapsed, self._started = self.seconds(), None
        self._save_last(self.finished_epochs, train_data, finished=True)
        return self.best_valid_score, self.best_valid_result

    finished = False

    def resume(self) -> bool:
        """Take up the state in ``last.pth``.

        Returns:
            Whether there was one. ``finished`` then tells whether training had already ended; a run that ended because its epochs or its
            minutes were used up goes on if it is now given more.

        Raises:
            UserError: the checkpoint is damaged or does not fit the model.
        """
        if not self.last_file.is_file():
            return False
        state = load_checkpoint(self.last_file, self.device)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"checkpoint {self.last_file} does not fit this model ({first}); train again") from error
        self.model.load_other_parameter(from_plain(state["other_parameter"]))
        self.cur_step, self.best_valid_score = state["cur_step"], state["best_valid_score"]
        self.best_valid_result, self.train_loss_dict = state["best_valid_result"], state["train_loss"]
        self.start_epoch = self.finished_epochs = state["epoch"]
        self._elapsed, self._loader_state = state["seconds"], state["loader"]
        self.valid_history = state["valid_history"]
        self._commits = list(dict.fromkeys([*state.get("commits", []), *self._commits]))  # checkpoints of earlier versions do not tell
        self._take_up(state)
        budget = self.config["max_minutes"]
        more_minutes = state["stopped_at_budget"] and (budget is None or self._elapsed < 60 * budget)
        more_epochs = self.cur_step <= self.stopping_step and state["epoch"] < self.epochs and not state["stopped_at_budget"]
        self.finished = state["finished"] and not more_minutes and not more_epochs
        self.stopped_at_budget = state["stopped_at_budget"] and self.finished
        self._set_random_state(state["random"])
        how = "training had ended" if self.finished else "training goes on"
        self.logger.info(f"resumed from {self.last_file} after {self.start_epoch} epochs; {how}")
        return True

    def _take_up(self, state: dict[str, Any]) -> None:
        """For subclasses: put back what they added to :meth:`_state`."""

    # -- the best checkpoint --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """As :meth:`.BothRules.evaluate`; the best checkpoint is read without executing anything in it."""
        if eval_data and load_best_model:
            self.load_best(model_file)
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)

    def load_best(self, model_file: str | os.PathLike | None = None) -> None:
        """Put the weights of ``model_file`` (default: this run's ``best.pth``) into the model."""
        if not self.config["single_spec"]:
            torch.distributed.barrier()
        state = load_checkpoint(model_file or self.saved_model_file, self.device)
        self.model.load_state_dict(state["model"])
        self.model.load_other_parameter(from_plain(state["other_parameter"]))


def checkpointed(trainer_class: type[Trainer]) -> type[Trainer]:
    """``trainer_class`` with :class:`Checkpointed` in front of it; unchanged if it has it."""
    if issubclass(trainer_class, Checkpointed):
        return trainer_class
    return type(trainer_class.__name__, (Checkpointed, trainer_class), {"__doc__": trainer_class.__doc__})
