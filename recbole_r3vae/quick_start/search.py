"""Searching the settings of a model: RecBole's ``HyperTuning`` on hyperopt, over spaces that are read as settings are."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from recbole.trainer import HyperTuning as RecBoleHyperTuning
from recbole.trainer.hyper_tuning import _recursiveFindNodes as find_nodes

from recbole_r3vae.config import Config
from recbole_r3vae.config.sources import given_settings, merged, plain_values
from recbole_r3vae.config.space import Space, read_space, space_of
from recbole_r3vae.errors import UserError, did_you_mean
from recbole_r3vae.quick_start.launch import objective_function as one_trial

ALGORITHMS = ("exhaustive", "random", "bayes")


class HyperTuning(RecBoleHyperTuning):
    """RecBole's search, with its attributes and methods (``run``, ``export_result``, ``best_params``, ``params2result``).

    What differs: a space's keys are checked before anything is trained, nothing in its file is evaluated, lists that are chosen stay lists,
    and ``exhaustive`` tries every combination once, in the order of the space, which RecBole's does not on hyperopt 0.3.

    Args:
        objective_function: of the settings and YAML files of one trial; default
            :func:`~recbole_r3vae.quick_start.launch.objective_function`, which trains and evaluates ``model`` on ``dataset``.
        space: keys to hyperopt's expressions.
        params_file: instead, a ``.hyper`` file, see :func:`~recbole_r3vae.config.space.read_space`.
        params_dict: instead, ranges from Python, see :func:`~recbole_r3vae.config.space.space_of`.
        fixed_config_file_list: YAML files of every trial, later ones win.
        display_file: of a plot, which needs plotly; default: none.
        algo: ``exhaustive``, ``random``, ``bayes`` (hyperopt's TPE), or a function of hyperopt's kind.
        max_evals: number of trials; ``exhaustive`` has its own.
        early_stop: trials without a better one, after which ``random`` and ``bayes`` end.
        config_dict: settings of every trial that win over the files: ``model``, ``dataset``, ``data_path`` …; those of the space win over
            them.

    Raises:
        UserError: hyperopt is missing; ``algo`` or the space is none; the model has no use for a key of the space.
    """

    def __init__(
        self,
        objective_function: Callable[..., dict[str, Any]] = one_trial,
        space: Mapping[str, Any] | None = None,
        params_file: str | os.PathLike | None = None,
        params_dict: Mapping[str, Mapping[str, Any]] | None = None,
        fixed_config_file_list: Iterable[str | os.PathLike] | None = None,
        display_file: str | None = None,
        algo: str | Callable[..., list] = "exhaustive",
        max_evals: int = 100,
        early_stop: int = 10,
        config_dict: Mapping[str, Any] | None = None,
    ):
        try:
            import hyperopt  # noqa: F401
        except ImportError as error:
            raise UserError("a search needs hyperopt; run pip install 'recbole-r3vae[tune]'") from error
        if sum(source is not None for source in (space, params_file, params_dict)) != 1:
            raise UserError("a search takes one of space, params_file and params_dict; give one of them")
        if isinstance(algo, str) and algo not in ALGORITHMS:
            raise UserError(f"algo is {algo!r}{did_you_mean(algo, ALGORITHMS)}; choose {', '.join(ALGORITHMS)}")
        fixed, files = plain_values(dict(config_dict or {})), list(fixed_config_file_list or ())
        if space is None:
            ranges = read_space(params_file) if params_file is not None else space_of(params_dict)
            space = _expressions(ranges)
            _check_keys(ranges, files, fixed)
        super().__init__(
            lambda chosen, config_files: objective_function({**fixed, **chosen}, config_files), space, None, None, files, display_file,
            self._next_combination if algo == "exhaustive" else algo, max_evals, early_stop,
        )  # fmt: skip
        if algo == "exhaustive":
            choices = find_nodes(dict(self.space), "switch")  # each: the name that it was given, and what there is to choose from
            self._numbers = {node.pos_args[0].pos_args[0].obj: len(node.pos_args) - 1 for node in choices}
            # every combination: none is left out because others were no better
            self.max_evals, self.early_stop_fn = math.prod(self._numbers.values()), None

    def trial(self, params: dict[str, Any]) -> dict[str, Any]:
        """One trial; see RecBole's. hyperopt hands lists over as tuples."""
        return super().trial(plain_values(params, "search space"))

    def _next_combination(self, new_ids: list[int], domain: Any, trials: Any, seed: int) -> list:
        """hyperopt's algorithm that takes the combinations one after the other, the last key's choices first."""
        from hyperopt.base import miscs_update_idxs_vals

        endless = sorted(set(domain.params) - set(self._numbers))
        if endless:
            raise UserError(f"{endless[0]} has a range without end, which algo='exhaustive' cannot try; give it choices, or take random")
        documents = []
        for place, new_id in enumerate(new_ids, start=len(trials.trials)):
            values = {}
            for name, number in reversed(self._numbers.items()):
                place, values[name] = divmod(place, number)
            misc = {"tid": new_id, "cmd": domain.cmd, "workdir": domain.workdir}
            miscs_update_idxs_vals([misc], {name: [new_id] for name in values}, {name: [value] for name, value in values.items()})
            documents += trials.new_trial_docs([new_id], [None], [domain.new_result()], [misc])
        return documents


def _expressions(ranges: Space) -> dict[str, Any]:
    """A space as hyperopt has it."""
    from hyperopt import hp

    return {key: hp.choice(key, values) if kind == "choice" else getattr(hp, kind)(key, *values) for key, (kind, values) in ranges.items()}


def _check_keys(ranges: Space, files: list, fixed: dict[str, Any]) -> None:
    """Refuse keys that the model has no use for, where it is known; a trial's own words come late."""
    given = merged(given_settings(files), fixed)
    if "model" not in given or "dataset" not in given:
        return
    tokenizers = ranges["tokenizer"][1] if ranges.get("tokenizer", ("",))[0] == "choice" else [None]
    for tokenizer in tokenizers:
        chosen = {} if tokenizer is None else {"tokenizer": tokenizer}
        Config(config_file_list=files, config_dict={**fixed, **chosen}).refuse_unknown_keys(ranges, dashes="")
