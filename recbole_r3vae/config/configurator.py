"""RecBole's configuration with this package's look-ups, strict keys and no evaluation of strings."""

from __future__ import annotations

import copy
import inspect
import logging
import os
from collections.abc import Iterable
from typing import Any

from recbole.config import Config as RecBoleConfig

from recbole_r3vae import compat
from recbole_r3vae.config.checks import check_candidates, check_mappings, check_metrics, check_rule, check_valid_metric, check_values, whole_numbers
from recbole_r3vae.config.device import set_device
from recbole_r3vae.config.registry import MODEL_ROOMS, contract_of, get_model, own_models, reference, settings_file
from recbole_r3vae.config.sources import (
    KEY_BY_KEY, YamlLoader, given_settings, load_yaml, merged, parse_arguments, parse_value, plain_values, properties, recbole_properties,
)  # fmt: skip
from recbole_r3vae.config.stages import PREFIX, tokenizer_defaults, tokenizer_keys
from recbole_r3vae.errors import UserError, as_user_error, did_you_mean, short_repr


class Config(RecBoleConfig):
    """RecBole's ``Config`` that knows this package's models and property files.

    Precedence is RecBole's: ``arguments`` over ``config_dict`` over ``config_file_list`` over ``<dataset>.yaml`` in the dataset's own folder,
    where there is one, over the YAML for this model on this dataset (``quick_start/``) over the dataset's over the model's over ``overall.yaml``; this package's YAML files win over RecBole's of
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
        rebuilds: ``config_dict`` is the ``declared`` of an earlier run: every key has a value there, and nobody wrote them now.

    Attributes:
        contract: what the model says of itself, see :mod:`~recbole_r3vae.model.contract`.
        model_keys: keys that are the model's own, so that a tokenizer of the same run does not see them.
        asked: keys and values of configuration files, of ``config_dict`` and of the command line: what a user of this run wrote himself.
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
        rebuilds: bool = False,
    ):
        self._arguments, self._rebuilds = list(arguments), rebuilds
        self.folders_config_dict, self._folders_file = {}, ""
        with as_user_error("these settings cannot be used", "correct the key that this is about"):
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
        given = (self.file_config_dict, self.variable_config_dict, self.cmd_config_dict)
        self.external_config_dict = merged(self.folders_config_dict, *given)
        self.asked = merged(self.file_config_dict, {} if self._rebuilds else self.variable_config_dict, self.cmd_config_dict)

    def _take_folders_settings(self, dataset: str) -> None:
        """The settings that lie in the dataset's own folder, as ``prepare csv`` writes them, are the weakest that a user gives."""
        path = os.path.join(str(self.external_config_dict.get("data_path") or "dataset"), dataset, f"{dataset}.yaml")
        if os.path.isfile(path):
            self.folders_config_dict, self._folders_file = given_settings((path,)), path
            self._merge_external_config_dict()

    def _get_model_and_dataset(self, model, dataset):
        for key, value in (("model", model), ("dataset", dataset)):
            word, name = self.cmd_config_dict.get(key), getattr(value, "__name__", str(value))
            if None not in (word, value) and str(word) != name:
                raise UserError(f"--{key}={short_repr(word)} contradicts {key} {name}, which this is about; leave it out")
        model = model if model is not None else self.external_config_dict.get("model")
        dataset = dataset if dataset is not None else self.external_config_dict.get("dataset")
        if model is None:
            raise UserError("no model is named; give --model=R3GR, or `model:` in a configuration file")
        if dataset is None:
            raise UserError("no dataset is named; give --dataset=ml-100k, or `dataset:` in a configuration file")
        model_class = model if isinstance(model, type) else get_model(str(model))
        self._take_folders_settings(str(dataset))
        return model_class.__name__, model_class, str(dataset)  # a folder may be called 2020

    def _load_internal_config_dict(self, model, model_class, dataset):
        super()._load_internal_config_dict(model, model_class, dataset)
        values, given = self.internal_config_dict, self.external_config_dict
        recboles_columns = values.get("load_col") if os.path.isfile(recbole_properties() / "dataset" / f"{dataset}.yaml") else None
        evaluation = given.get("eval_args")
        self.contract = contract_of(model_class, evaluation.get("mode") if isinstance(evaluation, dict) else None)
        ours, layers, own = properties(), list(self.contract.layers), settings_file(model_class)
        if getattr(self.contract.dataset_class, "draws_windows", False):
            layers.append("windows")
        for path in (
            ours / "overall.yaml",
            *(ours / f"{layer}.yaml" for layer in layers),
            *([own] if own is not None and recbole_properties() not in own.parents else []),
            ours / "dataset" / f"{dataset}.yaml",
            *(ours / layer / f"{dataset}.yaml" for layer in self.contract.layers),
            ours / "quick_start" / f"{model}_{dataset}.yaml",
        ):
            if os.path.isfile(path):  # unlike Path.is_file, it takes names that no file can have
                values.update(load_yaml(path))
        self.model_keys = {key for name in ("Training", "Evaluation") for key in self.parameters[name]}
        self.model_keys |= set(load_yaml(own)) if own is not None else set()
        self.model_keys |= {key for layer in layers for key in load_yaml(ours / f"{layer}.yaml")}
        check_mappings(given)
        self.external_config_dict = given = merged({key: values[key] for key in KEY_BY_KEY if key in given and key in values}, given)
        self.contract.complete(values, given, recboles_columns)
        for key in values.keys() - given.keys():  # the user's X wins over the model's tokenizer_X, in a checkpoint too, where all are given
            plain = key.removeprefix(PREFIX)
            if plain != key and plain in given and plain not in self.model_keys:
                values[key] = given[plain]
        general = {key for name, keys in self.parameters.items() if name != "Model" for key in keys}
        check_values(given, values, general, self.contract.whole_means_int)
        for key, default in self._tokenizers_defaults().items():
            if key in self.external_config_dict and key not in self.internal_config_dict:
                self.external_config_dict[key] = whole_numbers(self.external_config_dict[key], default)
        self._report_unknown_keys()

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
            hint = self._whose(key) or did_you_mean(key, known, otherwise="correct it, or leave it out")
            raise UserError(f"unknown key {dashes}{key} for model {self.model}{hint}")

    def _report_unknown_keys(self):
        known = self.known_keys()
        self.refuse_unknown_keys(self.cmd_config_dict)
        if self.external_config_dict.get("preload_weight") and not self._reads_preload_weight:
            remedy = f"preload_weight is read by none of the code of {self.model}; give item vectors as content_file, or leave it out"
            if self.external_config_dict.get("strict_config"):
                raise UserError(remedy)
            logging.getLogger().warning(remedy)
        # It serves all models, those without a tokenizer too.
        folders = {key for key in self.folders_config_dict if not (self._whose(key) or self._is_of_a_tokenizer(key))}
        for source, values in (
            (self._folders_file, folders), ("a configuration file", self.file_config_dict), ("config_dict", self.variable_config_dict),
        ):  # fmt: skip
            unknown = sorted(set(values) - known)
            if unknown:
                text = ", ".join(f"{key}{self._whose(key) or did_you_mean(key, known, 1)}" for key in unknown)
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

    def _is_of_a_tokenizer(self, key: str) -> bool:
        return any(key in tokenizer_defaults(name) for name in own_models(MODEL_ROOMS[0]))

    def _whose(self, key: str) -> str:
        """A hint for keys that exist and are not this model's."""
        if key in ("config_file", "config_files", "config_file_list"):
            return "; files of settings are given as --config_files FILE …, from Python as config_file_list"
        if key in ("tokenizer", "sid_file"):
            return (
                f"; models of semantic IDs have it, such as R3GR, or DeepFM with sid_features and `mode: labeled` in eval_args, and {self.model} "
                "has none: leave it out"
            )
        if key in load_yaml(properties() / "ctr.yaml"):
            return (
                f"; it is for models that predict clicks from labelled interactions, and {self.model} is not run as one: take a "
                "context-aware model such as --model=DeepFM, or --model=DIN, with `mode: labeled` in eval_args, or leave it out"
            )
        if key in load_yaml(properties() / "windows.yaml"):
            return f"; it is for models that are trained on windows, such as R3GR, and {self.model} is not: leave it out"
        if key == "mask_history":
            return "; every test measures both rules now: set valid_rule to left_out or stay, which of them selects the epoch"
        tokenizer = self.external_config_dict.get("tokenizer") or self.internal_config_dict.get("tokenizer")
        if tokenizer and key.startswith(PREFIX):
            own = {f"{PREFIX}{name}" for name in tokenizer_keys(tokenizer)}
            close = did_you_mean(key, own) if key.removeprefix(PREFIX) not in self.internal_config_dict else ""
            return close or (f"; tokenizer {tokenizer} has no key {key.removeprefix(PREFIX)}: correct it, or leave it out")
        return ""

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
        for key in self.folders_config_dict.keys() - self.known_keys():  # settings of the folder that are for other models
            self.declared.pop(key, None)
        self.declared.update(model=reference(self.model_class), dataset=self.dataset)
        if "data_path" not in self.external_config_dict:
            del self.declared["data_path"]  # RecBole finds ml-100k inside its own wheel unless the user names a path
        return final

    def _set_default_parameters(self):
        check_metrics(self.final_config_dict["metrics"])
        if not hasattr(self.model_class, "input_type") and "loss_type" not in self.final_config_dict:
            where = settings_file(self.model_class) or f"{self.model}.yaml"
            raise UserError(
                f"nothing says what {self.model} is trained on; write `loss_type: CE` (targets alone) or `loss_type: BPR` (with a sampled "
                f"negative) into {where}, or set `input_type = InputType.POINTWISE` or PAIRWISE in the class"
            )
        super()._set_default_parameters()
        check_valid_metric(self.final_config_dict, self.contract)
        check_rule(self.final_config_dict["valid_rule"])
        check_candidates(self.final_config_dict["eval_args"], self.asked)
        data_path = self.external_config_dict.get("data_path")
        if data_path:  # RecBole would take its own copy of ml-100k whatever the user says
            self.final_config_dict["data_path"] = os.path.join(data_path, self.dataset)

    def _init_device(self):
        set_device(self.final_config_dict, self.external_config_dict)

    def compatibility_settings(self):
        """numpy's removed aliases that RecBole 1.2's own code uses; see :mod:`recbole_r3vae.compat`."""
        compat.apply()
        super().compatibility_settings()
