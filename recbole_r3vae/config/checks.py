"""Is a setting what it may be? Types and sizes of values, mappings, metrics and rules; nothing here knows where a value came from."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType

from recbole_r3vae.config.sources import KEY_BY_KEY
from recbole_r3vae.errors import UserError, did_you_mean, short_repr

RULES = ("left_out", "stay")
"""What may become of items that a user has met: they are no candidates, or they are."""

TYPES_BESIDE_THE_DEFAULTS = {
    "max_minutes": (float,), "train_items": (int,), "n_negatives": (int,), "run_dir": (str,), "sid_file": (str,), "content_file": (str,),
    "content_ids": (str,), "init_from": (str,), "num_beams": (int, str), "valid_num_beams": (int, str), "gpu_id": (str, int), "topk": (list, int),
    "metrics": (list, str), "item_text_fields": (list, str), "item_text_template": (str,), "clip_grad_norm": (dict,), "load_col": (dict,),
    "content_encoder": (str, list, dict), "threshold": (dict,), "shuffle_ties": (str,),
}  # fmt: skip
"""Types of keys whose default is ``~``, or one of several that they take. Every other key takes the type of its default."""

LEAST = {
    "MAX_ITEM_LIST_LENGTH": 1, "train_batch_size": 1, "eval_batch_size": 1, "epochs": 0, "learning_rate": 0, "max_minutes": 0, "seed": 0,
}  # fmt: skip
"""Smallest values of keys that every model has."""

REQUIRED = {"valid_metric", "checkpoint_dir", "learner", "tokenizer", "state"}
"""Texts that may not be ``~``; numbers and lists may not either, other texts and mappings may."""

INSTANCES = {bool: bool, int: Integral, float: Real, str: (str, os.PathLike), list: (list, tuple), dict: dict}


def check_mappings(given: Mapping[str, Any]) -> None:
    """Settings that are mappings hold keys that these have.

    Args:
        given: What the user set.

    Raises:
        UserError: an unknown key; the message names the nearest.
    """
    for key, known in KEY_BY_KEY.items():
        value = given.get(key)
        unknown = next((name for name in value if name not in known), None) if isinstance(value, dict) else None
        if unknown is not None:
            hint = did_you_mean(unknown, known, otherwise=f"it holds {', '.join(known)}")
            raise UserError(f"unknown key {short_repr(unknown)} in {key}{hint}")


def check_values(given: dict[str, Any], defaults: Mapping[str, Any], general: Collection[str], whole_means_int: bool) -> None:
    """Every setting is of its type and size. Whole floats become integers where the setting is one.

    Args:
        given: What the user set; changed in place.
        defaults: Every key's default.
        general: Keys that are not a model's own, so that a whole number there is meant as one.
        whole_means_int: Whether that holds for the model's own keys too, or a default such as 1 stands for any number.

    Raises:
        UserError: a value of another type, or beyond its size; the message names key, value and what was expected.
    """
    for key, value in given.items():
        default = defaults.get(key)
        _check_size(key, value)
        types = TYPES_BESIDE_THE_DEFAULTS.get(key) or ((type(default),) if type(default) in INSTANCES else ())
        if types == (int,) and key not in general and not whole_means_int:
            types = (float,)
        given[key] = value = whole_numbers(value, default)
        optional = default is None or (types[:1] in ((str,), (dict,)) and key not in REQUIRED) or key == "item_text_fields"
        if not types or (value is None and optional) or (types == (str,) and str(default)[:1] in ("[", "{")):
            continue
        if not any(isinstance(value, INSTANCES[kind]) and (kind is bool or not isinstance(value, bool)) for kind in types):
            wanted = " or ".join(kind.__name__ for kind in types)
            raise UserError(f"{key} is {short_repr(value)} ({type(value).__name__}), it must be {wanted}; the default is {default!r}")
        if isinstance(value, (list, tuple)) and isinstance(default, list) and default:
            _check_entries(key, value, default)


def _check_size(key: str, value: Any) -> None:
    """No setting is beyond what 64 bits hold, which torch says in its own words, or not finite, which nothing says."""
    for entry in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(entry, Real) and not -(2**63) < entry < 2**63:
            raise UserError(f"{key} is {short_repr(value)}; give finite numbers of at most 18 digits")
        if isinstance(entry, Real) and entry < LEAST.get(key, entry):
            raise UserError(f"{key} is {short_repr(value)}; give {LEAST[key]} or more")


def _check_entries(key: str, value: Sequence, default: list) -> None:
    """The entries of a list take the type that those of its default have in common."""
    kinds = {type(entry) for entry in default}
    kind = float if kinds == {int, float} else kinds.pop() if len(kinds) == 1 else None
    for entry in value if kind in INSTANCES else ():
        if not isinstance(entry, INSTANCES[kind]) or (kind is not bool and isinstance(entry, bool)):
            raise UserError(
                f"{key} is {short_repr(value)}: {short_repr(entry)} ({type(entry).__name__}) must be {kind.__name__}; the default is {default!r}"
            )


def whole_numbers(value: Any, default: Any) -> Any:
    """Whole floats, as hyperopt draws them and numpy gives them, as the integers that a setting, or a list of it, is made of."""
    if isinstance(value, list) and isinstance(default, list) and default:
        return [whole_numbers(entry, default[0]) for entry in value] if {type(entry) for entry in default} == {int} else value
    return int(value) if type(default) is int and isinstance(value, float) and value.is_integer() else value


def check_metrics(metrics: str | Sequence[str]) -> None:
    """All metrics are among RecBole's.

    Args:
        metrics: One name or several.

    Raises:
        UserError: one is not, or there is none.
    """
    metrics = [metrics] if isinstance(metrics, str) else metrics
    unknown = next((metric for metric in metrics if metric.lower() not in metric_types), None)
    if not metrics or unknown is not None:
        hint = did_you_mean(unknown, metric_types) if metrics else ""
        raise UserError(f"metrics is {short_repr(metrics)}, {short_repr(unknown)} is none{hint}; choose among {', '.join(metric_types)}")


def check_valid_metric(final: dict[str, Any], contract: Any) -> None:
    """What selects the epoch is measured. RecBole would train an epoch and then miss the key.

    Args:
        final: All settings; ``valid_metric_bigger`` is set where the model says which way its own metrics go.
        contract: The model's, see :mod:`~recbole_r3vae.model.contract`.

    Raises:
        UserError: ``valid_metric`` is none of those that are measured.
    """
    metric, own = final["valid_metric"], contract.selected_by
    if own is not None:
        if metric not in own:
            raise UserError(f"valid_metric {metric!r} is none of a tokenizer's; choose {', '.join(own)}")
        final["valid_metric_bigger"] = own[metric]
        return
    offered = [*final["metrics"], *contract.more_metrics]
    if final["eval_type"] == EvaluatorType.RANKING:
        offered = [f"{name}@{k}" for name in final["metrics"] for k in final["topk"]]
    if metric.lower() not in {name.lower() for name in offered}:
        raise UserError(f"valid_metric {metric} is not among what metrics and topk measure; choose {', '.join(offered)}")


def check_candidates(eval_args: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """A rule on met items is about rankings of the whole catalogue.

    Raises:
        UserError: ``valid_rule`` was asked for beside sampled candidates.
    """
    modes = eval_args["mode"].values() if isinstance(eval_args["mode"], Mapping) else [eval_args["mode"]]
    sampled = next((mode for mode in modes if str(mode)[:3] in ("uni", "pop")), None)
    if sampled is not None and asked.get("valid_rule") is not None:
        raise UserError(
            f"valid_rule is {asked['valid_rule']} beside mode {sampled} of eval_args, whose candidates are drawn among items that the user "
            "has not met; leave it out, or take mode: full"
        )


def check_rule(rule: object) -> None:
    """``valid_rule`` is one of :data:`RULES`.

    Raises:
        UserError: it is not.
    """
    if rule not in RULES:
        raise UserError(f"valid_rule is {rule!r}{did_you_mean(str(rule), RULES)}; choose {' or '.join(RULES)}")
