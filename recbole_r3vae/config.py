"""RecBole's configuration with this package's look-ups, strict keys and no evaluation of strings."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from recbole.config import Config as RecBoleConfig
from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, ModelType

from recbole_r3vae import compat
from recbole_r3vae.errors import UserError, nearest, refused, shown
from recbole_r3vae.models import MODEL_ROOMS, get_model, own_models, predicts_clicks
from recbole_r3vae.settings import (
    YamlLoader,
    fingerprint,
    load_yaml,
    parse_arguments,
    parse_value,
    properties,
    recbole_properties,
)

# Keys that say where and how loudly a run happens, never what it computes: they take no part in a run's identity.
# `epochs` and the two stopping keys are among them so that a finished run can be resumed and trained longer.
INCIDENTAL_KEYS = frozenset(
    "data_path checkpoint_dir run_dir content_cache_dir device resume strict_config state show_progress worker log_wandb wandb_project "
    "gpu_id use_gpu config_files config_file sid_file epochs stopping_step max_minutes num_beams eval_batch_size "
    "save_dataset dataset_save_path save_dataloaders dataloaders_save_path".split()
)


TOKENIZER_METRICS = {"reconstruction": False, "unique_ratio": True, "usage": True, "sc": True, "pd": False}
"""What a tokenizer may be selected by, and whether bigger is better."""


TYPES_BESIDE_THE_DEFAULTS = {
    "max_minutes": (float,), "run_dir": (str,), "sid_file": (str,), "content_file": (str,), "content_ids": (str,),
    "num_beams": (int, str), "valid_num_beams": (int, str), "gpu_id": (str, int), "topk": (list, int), "metrics": (list, str),
    "item_text_fields": (list, str), "content_encoder": (str, list, dict), "clip_grad_norm": (dict,), "load_col": (dict,),
    "threshold": (dict,),
}  # fmt: skip
"""Types of keys whose default is ``~``, or one of several that they take. Every other key takes the type of its default."""

LEAST = {
    "MAX_ITEM_LIST_LENGTH": 1, "train_batch_size": 1, "eval_batch_size": 1, "epochs": 0, "learning_rate": 0, "max_minutes": 0, "seed": 0,
}  # fmt: skip
"""Smallest values of keys that every model has."""

REQUIRED = {"valid_metric", "checkpoint_dir", "learner", "tokenizer", "state"}
"""Texts that may not be ``~``; numbers and lists may not either, other texts and mappings may."""

LABELLED = ("labeled", {"valid": "labeled", "test": "labeled"})
"""Modes of evaluation on labelled interactions."""

SID_FEATURES = ("replace", "append", "none")
"""What semantic IDs may do to the item id of a model that predicts clicks."""

INSTANCES = {bool: bool, int: Integral, float: Real, str: (str, os.PathLike), list: (list, tuple), dict: dict}


class Config(RecBoleConfig):
    """RecBole's ``Config`` that knows this package's models and property files.

    Precedence is RecBole's: ``arguments`` over ``config_dict`` over ``config_file_list`` over the YAML for this model on this dataset
    (``quick_start/``) over the dataset's over the model's over ``overall.yaml``; this package's YAML files win over RecBole's of
    the same name. For models that predict clicks, ``ctr.yaml`` comes after ``overall.yaml`` and ``ctr/<dataset>.yaml`` after the
    dataset's. What differs: the command line is passed in rather than read from ``sys.argv``, strings are parsed as YAML and never
    evaluated, unknown keys are reported, and ``device`` (``auto``, ``cpu``, ``cuda``, ``cuda:1``) means what it says.

    Args:
        model: Model name, or ``None`` if a file or argument gives it.
        dataset: Dataset name, likewise.
        config_file_list: YAML files, later ones win.
        config_dict: Values from Python.
        arguments: Command-line words, ``["--epochs=5"]``.

    Attributes:
        predicts_clicks: whether the model learns and is measured on labelled interactions, with ``ctr.yaml``.
        declared: every key and value before RecBole's own conversions: plain data from which an equal ``Config`` can be made.

    Raises:
        UserError: unknown model, unreadable file, unknown key on the command line (in a file with ``strict_config: True``), a value of
            another type than the key's.
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

    # -- where values come from ------------------------------------------------------------------------------------

    def _init_parameters_category(self):
        super()._init_parameters_category()
        # RecBole appends to its module-level lists; copies keep one Config from changing the next.
        self.parameters = {category: list(keys) for category, keys in self.parameters.items()}

    def _build_yaml_loader(self):
        return YamlLoader

    def _load_config_files(self, file_list):
        values = {}
        for path in file_list or []:
            values.update(load_yaml(path))
        return values

    def _load_variable_config_dict(self, config_dict):
        # HyperTuning hands lists over as strings such as "[64, 64]".
        return {
            key: parse_value(key, value) if isinstance(value, str) and value[:1] in ("[", "{") else value
            for key, value in (config_dict or {}).items()
        }

    def _load_cmd_line(self):
        return parse_arguments(self._arguments)

    def _get_model_and_dataset(self, model, dataset):
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
        ours, recboles_columns = properties(), self.internal_config_dict.get("load_col")
        if not os.path.isfile(recbole_properties() / "dataset" / f"{dataset}.yaml"):
            recboles_columns = None
        evaluation = self.external_config_dict.get("eval_args")
        mode = evaluation.get("mode", LABELLED[0]) if isinstance(evaluation, dict) else LABELLED[0]
        self.predicts_clicks = predicts_clicks(model_class) and mode in LABELLED
        for path, read in (
            (ours / "overall.yaml", True),
            (ours / "ctr.yaml", self.predicts_clicks),
            (ours / "model" / f"{model}.yaml", True),
            (ours / "dataset" / f"{dataset}.yaml", True),
            (ours / "ctr" / f"{dataset}.yaml", self.predicts_clicks),
            (ours / "quick_start" / f"{model}_{dataset}.yaml", True),
        ):
            if read and os.path.isfile(path):  # unlike Path.is_file, it takes names that no file can have
                self.internal_config_dict.update(load_yaml(path))
        types = (ModelType.CONTEXT, ModelType.DECISIONTREE, ModelType.KNOWLEDGE)
        if recboles_columns and model_class.type in types and not self.predicts_clicks:
            self.internal_config_dict["load_col"] = recboles_columns  # with the labels and links that such models are trained on
        self._check_sid_features()
        self._check_types()
        self._report_unknown_keys()
        if self.predicts_clicks:
            self._fit_click_model()
        elif model not in own_models():
            self._fit_recbole_model()

    def _check_sid_features(self):
        if "sid_features" in self.external_config_dict and not self.predicts_clicks:
            raise UserError(
                f"sid_features is for models that predict clicks from labelled interactions, {self.model} is not run as one; take a "
                "context-aware model such as --model=DeepFM, or --model=DIN, with `mode: labeled` in eval_args, or leave sid_features out"
            )
        value = self.external_config_dict.get("sid_features", "none")
        if value not in SID_FEATURES:
            raise UserError(f"sid_features is {value!r}{nearest(str(value), SID_FEATURES)}; choose {', '.join(SID_FEATURES)}")
        unread = next((key for key in ("tokenizer", "sid_file") if self.cmd_config_dict.get(key)), None)
        if self.predicts_clicks and value == "none" and unread:
            hint = "add --sid_features=replace or append, or leave it out"
            raise UserError(f"{unread} is given, and {self.model} reads no semantic IDs; {hint}")

    def _fit_click_model(self):
        """Read the columns that labels, features and item texts are in; and take the keys of eval_args that are not given."""
        values, given = self.internal_config_dict, self.external_config_dict
        if given.get("eval_args"):
            given["eval_args"] = {**values["eval_args"], **given["eval_args"]}
        final = {**values, **given}
        columns, features = values.get("load_col"), final["ctr_features"]
        if columns:
            values["load_col"] = {
                "inter": [*columns["inter"], final["LABEL_FIELD"], *(final["threshold"] or {})],
                "user": [final["USER_ID_FIELD"], *features],
                "item": [final["ITEM_ID_FIELD"], *columns.get("item", ()), *features],
            }

    def _fit_recbole_model(self):
        """Settings that RecBole's models need to run on the same data as ours without the user having to know why."""
        values = self.internal_config_dict
        final = {**values, **self.external_config_dict}
        if final["MODEL_TYPE"] == ModelType.SEQUENTIAL and final.get("loss_type") == "CE":
            values["train_neg_sample_args"] = None  # full softmax takes no sampled negatives; RecBole refuses the pair
        if self.model == "Pop":
            values["train_neg_sample_args"] = None  # it counts what a batch holds, sampled negatives too
        if final["MODEL_TYPE"] in (ModelType.SEQUENTIAL, ModelType.GENERAL) and not final.get("selected_features"):
            columns = values.get("load_col")
            if columns and columns.get("item"):
                # Models that read ids only: the item file still filters interactions alike, its texts are not loaded.
                values["load_col"] = {**columns, "item": [final["ITEM_ID_FIELD"]]}

    def _report_unknown_keys(self):
        known = self.known_keys()
        unknown_arguments = sorted(set(self.cmd_config_dict) - known)
        if unknown_arguments:
            key = unknown_arguments[0]
            hint = nearest(key, known, otherwise="correct it, or leave it out")
            raise UserError(f"unknown key --{key} for model {self.model}{hint}")
        unknown_in_files = sorted(set(self.file_config_dict) - known)
        if unknown_in_files:
            text = ", ".join(f"{key}{nearest(key, known, 1)}" for key in unknown_in_files)
            if {**self.internal_config_dict, **self.external_config_dict}.get("strict_config"):
                raise UserError(f"unknown keys in a configuration file for model {self.model}: {text}; correct them, or leave them out")
            logging.getLogger().warning("unknown keys in a configuration file, ignored: %s", text)

    def _check_types(self):
        general = {key for name, keys in self.parameters.items() if name != "Model" for key in keys}
        for key, value in self.external_config_dict.items():
            default = self.internal_config_dict.get(key)
            self._check_size(key, value)
            types = TYPES_BESIDE_THE_DEFAULTS.get(key) or ((type(default),) if type(default) in INSTANCES else ())
            if types == (int,) and key not in general and self.model not in own_models():
                types = (float,)  # RecBole's models write whole numbers for weights and rates too
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
        known = {"model", "dataset", "config_files"} | set(self.internal_config_dict)
        for keys in self.parameters.values():
            known.update(keys)
        tokenizer = self.external_config_dict.get("tokenizer") or self.internal_config_dict.get("tokenizer")
        if self.internal_config_dict.get("tokenizer") and tokenizer:
            keys = set(tokenizer_defaults(tokenizer))
            known |= keys | {f"tokenizer_{key}" for key in keys | set(self.internal_config_dict)}
        return known

    def _get_final_config_dict(self):
        final = super()._get_final_config_dict()
        self.declared = copy.deepcopy({key: value for key, value in final.items() if key != "MODEL_TYPE"})
        self.declared.update(model=self.model, dataset=self.dataset)
        if "data_path" not in self.external_config_dict:
            del self.declared["data_path"]  # RecBole finds ml-100k inside its own wheel unless the user names a path
        return final

    def _set_default_parameters(self):
        self._check_metrics()
        super()._set_default_parameters()
        if self.model in own_models(MODEL_ROOMS[0]):
            metric = self.final_config_dict["valid_metric"]
            if metric not in TOKENIZER_METRICS:
                raise UserError(f"valid_metric {metric!r} is none of a tokenizer's; choose {', '.join(TOKENIZER_METRICS)}")
            self.final_config_dict["valid_metric_bigger"] = TOKENIZER_METRICS[metric]
        else:
            self._check_valid_metric()
        mask = self.final_config_dict["mask_history"]
        if mask is not None and type(mask) is not bool:
            raise UserError(f"mask_history is {mask!r}; choose True, False, or ~ for RecBole's own rule")
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
        final = self.final_config_dict
        offered = list(final["metrics"])
        if self.predicts_clicks:
            offered.append("UAUC")
        if final["eval_type"] == EvaluatorType.RANKING:
            offered = [f"{metric}@{k}" for metric in final["metrics"] for k in final["topk"]]
        if final["valid_metric"].lower() not in {name.lower() for name in offered}:
            raise UserError(f"valid_metric {final['valid_metric']} is not among what metrics and topk measure; choose {', '.join(offered)}")

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


def tokenizer_defaults(name: str) -> dict[str, Any]:
    """The keys of a tokenizer's YAML and their defaults.

    Raises:
        UserError: there is no tokenizer of that name; the message names the nearest.
    """
    tokenizers = own_models(MODEL_ROOMS[0])
    if name not in tokenizers:
        raise UserError(f"there is no tokenizer {name!r}{nearest(name, tokenizers)}; there are {', '.join(sorted(tokenizers))}")
    return load_yaml(properties() / "model" / f"{name}.yaml")


def tokenizer_config(config: Config) -> Config:
    """The configuration of the tokenizer stage of a generator's run.

    A key X of that stage is ``tokenizer_X`` where the user gives it; else the user's X, unless X is one of the generator's own keys (its
    YAML lists them: ``epochs``, ``learning_rate`` …; for a model that predicts clicks ``ctr.yaml`` and RecBole's YAML of the model); else
    ``tokenizer_X`` of the generator's YAML files; else the tokenizer's default.
    So changing how the generator is trained never changes the semantic IDs.

    Args:
        config: Configuration of a generator, or of a model that predicts clicks, with ``tokenizer`` set.

    Returns:
        Configuration with the tokenizer as its model.
    """
    files = [properties() / "model" / f"{config.model}.yaml"]
    if config.predicts_clicks:
        files = [properties() / "ctr.yaml", recbole_properties() / "model" / f"{config.model}.yaml"]
    generator_keys = {key for file in files for key in load_yaml(file)}
    given = config.external_config_dict
    prefixed = [
        {key.removeprefix("tokenizer_"): value for key, value in source.items() if key.startswith("tokenizer_")}
        for source in (config.internal_config_dict, given)
    ]
    plain = {
        key: value
        for key, value in given.items()
        if not key.startswith("tokenizer_") and key not in {"model", "tokenizer", *generator_keys}
    }
    values = {**prefixed[0], **plain, **prefixed[1]}
    return Config(model=config["tokenizer"], dataset=config.dataset, config_dict=values)


def identity(config: Config, **more: Any) -> str:
    """The hash that names a run: everything that decides its result, nothing that does not.

    Args:
        config: The run's configuration.
        **more: What the configuration does not say, such as the content hash of its semantic IDs.

    Returns:
        Twelve hexadecimal digits.
    """
    decisive = {key: value for key, value in config.declared.items() if key not in INCIDENTAL_KEYS}
    return fingerprint({**decisive, **more})
