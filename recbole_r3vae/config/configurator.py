"""RecBole's configuration with this package's look-ups, strict keys and no evaluation of strings."""

from __future__ import annotations

import copy
import inspect
import logging
import os
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from recbole.config import Config as RecBoleConfig
from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType

from recbole_r3vae import compat
from recbole_r3vae.config.registry import contract_of, get_model, reference, settings_file
from recbole_r3vae.config.sources import (
    KEY_BY_KEY, YamlLoader, given_settings, load_yaml, merged, parse_arguments, parse_value, plain_values, properties, recbole_properties,
)  # fmt: skip
from recbole_r3vae.config.stages import PREFIX, tokenizer_defaults, tokenizer_keys
from recbole_r3vae.errors import UserError, nearest, refused, shown

RULES = ("left_out", "stay")
"""What may become of items that a user has met: they are no candidates, or they are."""

TYPES_BESIDE_THE_DEFAULTS = {
    "max_minutes": (float,), "run_dir": (str,), "sid_file": (str,), "content_file": (str,), "content_ids": (str,), "init_from": (str,),
    "num_beams": (int, str), "valid_num_beams": (int, str), "gpu_id": (str, int), "topk": (list, int), "metrics": (list, str),
    "item_text_fields": (list, str), "clip_grad_norm": (dict,), "load_col": (dict,), "content_encoder": (str, list, dict),
    "threshold": (dict,),
}  # fmt: skip
"""Types of keys whose default is ``~``, or one of several that they take. Every other key takes the type of its default."""

LEAST = {
    "MAX_ITEM_LIST_LENGTH": 1, "train_batch_size": 1, "eval_batch_size": 1, "epochs": 0, "learning_rate": 0, "max_minutes": 0, "seed": 0,
}  # fmt: skip
"""Smallest values of keys that every model has."""

REQUIRED = {"valid_metric", "checkpoint_dir", "learner", "tokenizer", "state"}
"""Texts that may not be ``~``; numbers and lists may not either, other texts and mappings may."""

INSTANCES = {bool: bool, int: Integral, float: Real, str: (str, os.PathLike), list: (list, tuple), dict: dict}


class Config(RecBoleConfig):
    """RecBole's ``Config`` that knows this package's models and property files.

    Precedence is RecBole's: ``arguments`` over ``config_dict`` over ``config_file_list`` over the YAML for this model on this dataset
    (``quick_start/``) over the dataset's over the model's over ``overall.yaml``; this package's YAML files win over RecBole's of
    the same name. Layers that the model names, such as ``ctr`` for models that predict clicks, come after ``overall.yaml``
    (``ctr.yaml``) and after the dataset's (``ctr/<dataset>.yaml``). Of the mappings ``eval_args`` and ``train_neg_sample_args`` the keys
    that are not given stay as the weaker sources have them. What differs: the command line is passed in rather than read from
    ``sys.argv``, strings are parsed as YAML and never evaluated, all values are plain ones (numpy's and torch's numbers become Python's),
    unknown keys are reported, and ``device`` (``auto``, ``cpu``, ``cuda``, ``cuda:1``) means what it says.

    Args:
        model: Model name, or ``None`` if a file or argument gives it.
        dataset: Dataset name, likewise.
        config_file_list: YAML files, later ones win.
        config_dict: Values from Python.
        arguments: Command-line words, ``["--epochs=5"]``.

    Attributes:
        contract: what the model says of itself, see :mod:`~recbole_r3vae.model.contract`.
        model_keys: keys that are the model's own, so that a tokenizer of the same run does not see them.
        declared: every key and value before RecBole's own conversions: plain data from which an equal ``Config`` can be made.

    Raises:
        UserError: unknown model, unreadable file, unknown key on the command line (in a file or from Python with ``strict_config: True``;
            without it, a warning), a value of another type than the key's.
    """

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Iterable[str | os.PathLike] | None = None,
        config_dict: dict[str, Any] | None = None,
        arguments: Iterable[str] = (),
    ):
        self._arguments = list(arguments)
        with refused("these settings cannot be used", "correct the key that this is about"):
            super().__init__(model, dataset, config_file_list, config_dict)
        self.contract.check(self)

    # -- where values come from ------------------------------------------------------------------------------------

    def _init_parameters_category(self):
        super()._init_parameters_category()
        # RecBole appends to its module-level lists; copies keep one Config from changing the next.
        self.parameters = {category: list(keys) for category, keys in self.parameters.items()}

    def _build_yaml_loader(self):
        return YamlLoader

    def _load_config_files(self, file_list):
        return given_settings(file_list or ())

    def _load_variable_config_dict(self, config_dict):
        # HyperTuning hands lists over as strings such as "[64, 64]".
        return {
            key: parse_value(key, value) if isinstance(value, str) and value[:1] in ("[", "{") else value
            for key, value in plain_values(config_dict or {}).items()
        }

    def _load_cmd_line(self):
        return plain_values(parse_arguments(self._arguments), "argument")

    def _merge_external_config_dict(self):
        self.external_config_dict = merged(self.file_config_dict, self.variable_config_dict, self.cmd_config_dict)

    def _get_model_and_dataset(self, model, dataset):
        for key, value in (("model", model), ("dataset", dataset)):
            word, name = self.cmd_config_dict.get(key), getattr(value, "__name__", str(value))
            if None not in (word, value) and str(word) != name:
                raise UserError(f"--{key}={shown(word)} contradicts {key} {name}, which this is about; leave it out")
        model = model if model is not None else self.external_config_dict.get("model")
        dataset = dataset if dataset is not None else self.external_config_dict.get("dataset")
        if model is None:
            raise UserError("no model is named; give --model=R3GR, or `model:` in a configuration file")
        if dataset is None:
            raise UserError("no dataset is named; give --dataset=ml-100k, or `dataset:` in a configuration file")
        model_class = model if isinstance(model, type) else get_model(str(model))
        return model_class.__name__, model_class, str(dataset)  # a folder may be called 2020

    def _load_internal_config_dict(self, model, model_class, dataset):
        super()._load_internal_config_dict(model, model_class, dataset)
        values, given = self.internal_config_dict, self.external_config_dict
        recboles_columns = values.get("load_col") if os.path.isfile(recbole_properties() / "dataset" / f"{dataset}.yaml") else None
        evaluation = given.get("eval_args")
        self.contract = contract_of(model_class, evaluation.get("mode") if isinstance(evaluation, dict) else None)
        ours, layers, own = properties(), self.contract.layers, settings_file(model_class)
        for path in (
            ours / "overall.yaml",
            *(ours / f"{layer}.yaml" for layer in layers),
            *([own] if own is not None and recbole_properties() not in own.parents else []),
            ours / "dataset" / f"{dataset}.yaml",
            *(ours / layer / f"{dataset}.yaml" for layer in layers),
            ours / "quick_start" / f"{model}_{dataset}.yaml",
        ):
            if os.path.isfile(path):  # unlike Path.is_file, it takes names that no file can have
                values.update(load_yaml(path))
        self.model_keys = {key for name in ("Training", "Evaluation") for key in self.parameters[name]}
        self.model_keys |= set(load_yaml(own)) if own is not None else set()
        self.model_keys |= {key for layer in layers for key in load_yaml(ours / f"{layer}.yaml")}
        self._check_mappings()
        self.external_config_dict = given = merged({key: values[key] for key in KEY_BY_KEY if key in given and key in values}, given)
        self.contract.complete(values, given, recboles_columns)
        for key in values.keys() - given.keys():  # the user's X wins over the model's tokenizer_X, in a checkpoint too, where all are given
            plain = key.removeprefix(PREFIX)
            if plain != key and plain in given and plain not in self.model_keys:
                values[key] = given[plain]
        self._check_types()
        for key, default in self._tokenizers_defaults().items():
            if key in self.external_config_dict and key not in self.internal_config_dict:
                self.external_config_dict[key] = _whole_numbers(self.external_config_dict[key], default)
        self._report_unknown_keys()

    def _check_mappings(self):
        for key, known in KEY_BY_KEY.items():
            value = self.external_config_dict.get(key)
            unknown = next((name for name in value if name not in known), None) if isinstance(value, dict) else None
            if unknown is not None:
                hint = nearest(unknown, known, otherwise=f"it holds {', '.join(known)}")
                raise UserError(f"unknown key {shown(unknown)} in {key}{hint}")

    def refuse_unknown_keys(self, keys: Iterable[str], dashes: str = "--") -> None:
        """Refuse the first key that this run has no use for.

        Args:
            keys: such as those of a search space.
            dashes: what stands before a key where it was given.

        Raises:
            UserError: it names the key, and the nearest ones or whose it is.
        """
        known = self.known_keys()
        for key in sorted(set(keys) - known):
            hint = self._whose(key) or nearest(key, known, otherwise="correct it, or leave it out")
            raise UserError(f"unknown key {dashes}{key} for model {self.model}{hint}")

    def _report_unknown_keys(self):
        known = self.known_keys()
        self.refuse_unknown_keys(self.cmd_config_dict)
        if self.external_config_dict.get("preload_weight") and not self._reads_preload_weight:
            remedy = f"preload_weight is read by none of the code of {self.model}; give item vectors as content_file, or leave it out"
            if self.external_config_dict.get("strict_config"):
                raise UserError(remedy)
            logging.getLogger().warning(remedy)
        for source, values in (("a configuration file", self.file_config_dict), ("config_dict", self.variable_config_dict)):
            unknown = sorted(set(values) - known)
            if unknown:
                text = ", ".join(f"{key}{self._whose(key) or nearest(key, known, 1)}" for key in unknown)
                if {**self.internal_config_dict, **self.external_config_dict}.get("strict_config"):
                    raise UserError(f"unknown keys in {source} for model {self.model}: {text}; correct them, or leave them out")
                logging.getLogger().warning("unknown keys in %s, ignored: %s", source, text)

    def _tokenizers_defaults(self) -> dict[str, Any]:
        """The keys of this run's tokenizer, as X and ``tokenizer_X``, and their defaults; none where the model has no tokenizer."""
        tokenizer = self.external_config_dict.get("tokenizer") or self.internal_config_dict.get("tokenizer")
        own = tokenizer_defaults(tokenizer) if tokenizer and self.internal_config_dict.get("tokenizer") else {}
        return {**own, **{f"{PREFIX}{key}": default for key, default in own.items()}}

    @property
    def _reads_preload_weight(self) -> bool:
        """Whether the model asks its dataset for weights of ``.feature`` files; RecBole itself only loads them."""
        return "get_preload_weight" in inspect.getsource(inspect.getmodule(self.model_class))

    def _whose(self, key: str) -> str:
        """A hint for keys that exist and are not this model's."""
        if key in ("config_file", "config_files", "config_file_list"):
            return "; files of settings are given as --config_files FILE …, from Python as config_file_list"
        if key in load_yaml(properties() / "ctr.yaml"):
            return (
                f"; it is for models that predict clicks from labelled interactions, and {self.model} is not run as one: take a "
                "context-aware model such as --model=DeepFM, or --model=DIN, with `mode: labeled` in eval_args, or leave it out"
            )
        if key == "mask_history":
            return "; every test measures both rules now: set valid_rule to left_out or stay, which of them selects the epoch"
        tokenizer = self.external_config_dict.get("tokenizer") or self.internal_config_dict.get("tokenizer")
        if tokenizer and key.startswith(PREFIX):
            own = {f"{PREFIX}{name}" for name in tokenizer_keys(tokenizer)}
            close = nearest(key, own) if key.removeprefix(PREFIX) not in self.internal_config_dict else ""
            return close or (f"; tokenizer {tokenizer} has no key {key.removeprefix(PREFIX)}: correct it, or leave it out")
        return ""

    def _check_types(self):
        general = {key for name, keys in self.parameters.items() if name != "Model" for key in keys}
        for key, value in self.external_config_dict.items():
            default = self.internal_config_dict.get(key)
            self._check_size(key, value)
            types = TYPES_BESIDE_THE_DEFAULTS.get(key) or ((type(default),) if type(default) in INSTANCES else ())
            if types == (int,) and key not in general and not self.contract.whole_means_int:
                types = (float,)
            self.external_config_dict[key] = value = _whole_numbers(value, default)
            optional = default is None or (types[:1] in ((str,), (dict,)) and key not in REQUIRED) or key == "item_text_fields"
            if not types or (value is None and optional) or (types == (str,) and str(default)[:1] in ("[", "{")):
                continue
            if not any(isinstance(value, INSTANCES[kind]) and (kind is bool or not isinstance(value, bool)) for kind in types):
                wanted = " or ".join(kind.__name__ for kind in types)
                raise UserError(f"{key} is {shown(value)} ({type(value).__name__}), it must be {wanted}; the default is {default!r}")
            if isinstance(value, (list, tuple)) and isinstance(default, list) and default:
                self._check_entries(key, value, default)

    @staticmethod
    def _check_size(key: str, value: Any):
        """No setting is beyond what 64 bits hold, which torch says in its own words, or not finite, which nothing says."""
        for entry in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(entry, Real) and not -(2**63) < entry < 2**63:
                raise UserError(f"{key} is {shown(value)}; give finite numbers of at most 18 digits")
            if isinstance(entry, Real) and entry < LEAST.get(key, entry):
                raise UserError(f"{key} is {shown(value)}; give {LEAST[key]} or more")

    @staticmethod
    def _check_entries(key: str, value: Sequence, default: list):
        """The entries of a list take the type that those of its default have in common."""
        kinds = {type(entry) for entry in default}
        kind = float if kinds == {int, float} else kinds.pop() if len(kinds) == 1 else None
        for entry in value if kind in INSTANCES else ():
            if not isinstance(entry, INSTANCES[kind]) or (kind is not bool and isinstance(entry, bool)):
                raise UserError(
                    f"{key} is {shown(value)}: {shown(entry)} ({type(entry).__name__}) must be {kind.__name__}; the default is {default!r}"
                )

    def known_keys(self) -> set[str]:
        """Every key that this run may set: RecBole's, this package's, the model's, and the tokenizer's as ``X`` and ``tokenizer_X``."""
        known = {"model", "dataset", "MODEL_TYPE"} | set(self.internal_config_dict)
        for keys in self.parameters.values():
            known.update(keys)
        known.discard("config_file")  # RecBole lists it and reads it nowhere
        tokenizer = self.external_config_dict.get("tokenizer") or self.internal_config_dict.get("tokenizer")
        if self.internal_config_dict.get("tokenizer") and tokenizer:
            keys = tokenizer_keys(tokenizer)
            known |= keys | {f"{PREFIX}{key}" for key in keys}
        return known

    def _get_final_config_dict(self):
        final = super()._get_final_config_dict()
        self.declared = copy.deepcopy({key: value for key, value in final.items() if key != "MODEL_TYPE"})
        self.declared.update(model=reference(self.model_class), dataset=self.dataset)
        if "data_path" not in self.external_config_dict:
            del self.declared["data_path"]  # RecBole finds ml-100k inside its own wheel unless the user names a path
        return final

    def _set_default_parameters(self):
        self._check_metrics()
        super()._set_default_parameters()
        self._check_valid_metric()
        rule = self.final_config_dict["valid_rule"]
        if rule not in RULES:
            raise UserError(f"valid_rule is {rule!r}{nearest(str(rule), RULES)}; choose {' or '.join(RULES)}")
        data_path = self.external_config_dict.get("data_path")
        if data_path:  # RecBole would take its own copy of ml-100k whatever the user says
            self.final_config_dict["data_path"] = os.path.join(data_path, self.dataset)

    def _check_metrics(self):
        metrics = self.final_config_dict["metrics"]
        metrics = [metrics] if isinstance(metrics, str) else metrics
        unknown = next((metric for metric in metrics if metric.lower() not in metric_types), None)
        if not metrics or unknown is not None:
            hint = nearest(unknown, metric_types) if metrics else ""
            raise UserError(f"metrics is {shown(metrics)}, {shown(unknown)} is none{hint}; choose among {', '.join(metric_types)}")

    def _check_valid_metric(self):
        """RecBole would train an epoch and then miss the key."""
        final, own = self.final_config_dict, self.contract.selected_by
        metric = final["valid_metric"]
        if own is not None:
            if metric not in own:
                raise UserError(f"valid_metric {metric!r} is none of a tokenizer's; choose {', '.join(own)}")
            final["valid_metric_bigger"] = own[metric]
            return
        offered = [*final["metrics"], *self.contract.more_metrics]
        if final["eval_type"] == EvaluatorType.RANKING:
            offered = [f"{name}@{k}" for name in final["metrics"] for k in final["topk"]]
        if metric.lower() not in {name.lower() for name in offered}:
            raise UserError(f"valid_metric {metric} is not among what metrics and topk measure; choose {', '.join(offered)}")

    # -- devices and processes ---------------------------------------------------------------------------------------

    def _init_device(self):
        final = self.final_config_dict
        name = str(self.external_config_dict.get("device") or self._recboles_device() or final.get("device") or "auto")
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise UserError(f"device {name!r} is unknown; choose auto, cpu, cuda or cuda:<number>") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UserError(f"device {name!r} was asked for, but this machine offers no CUDA device; choose --device=cpu")
        final.update(single_spec=True, local_rank=0, world_size=1, use_gpu=device.type == "cuda")
        world_size = int(os.environ.get("WORLD_SIZE", 1))
        if world_size > 1:  # started by torchrun
            local_rank = int(os.environ["LOCAL_RANK"])
            if device.type == "cuda":
                device = torch.device("cuda", local_rank)
                torch.cuda.set_device(device)
            if not torch.distributed.is_initialized():
                torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            final.update(single_spec=False, local_rank=torch.distributed.get_rank(), world_size=world_size)
            if final["local_rank"] != 0:
                final.update(state="error", show_progress=False)
        final["device"] = device

    def _recboles_device(self) -> str | None:
        """The device that a user of RecBole asks for by ``use_gpu`` and ``gpu_id``, where he names one."""
        if self.external_config_dict.get("use_gpu") is False or self.external_config_dict.get("gpu_id") == "":
            return "cpu"
        gpu = self.external_config_dict.get("gpu_id")
        return f"cuda:{gpu}" if isinstance(gpu, int) or (isinstance(gpu, str) and gpu.isdigit()) else None

    def compatibility_settings(self):
        """numpy's removed aliases that RecBole 1.2's own code uses; see :mod:`recbole_r3vae.compat`."""
        compat.apply()
        super().compatibility_settings()


def _whole_numbers(value: Any, default: Any) -> Any:
    """Whole floats, as hyperopt draws them and numpy gives them, as the integers that a setting, or a list of it, is made of."""
    if isinstance(value, list) and isinstance(default, list) and default:
        return [_whole_numbers(entry, default[0]) for entry in value] if {type(entry) for entry in default} == {int} else value
    return int(value) if type(default) is int and isinstance(value, float) and value.is_integer() else value
