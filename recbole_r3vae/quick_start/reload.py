"""What a checkpoint stands for, made again: its configuration, its data and its model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from recbole.utils import init_seed

from recbole_r3vae.config import Config
from recbole_r3vae.config.registry import code_of, is_outside
from recbole_r3vae.data.fingerprint import data_fingerprint
from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation
from recbole_r3vae.quick_start.run import make_network, start_logging
from recbole_r3vae.quick_start.run_folder import find_checkpoint
from recbole_r3vae.trainer.checkpoint_file import from_plain, load_checkpoint, sources_of


def load_data_and_model(model_file: str | Path, config_dict: dict[str, Any] | None = None):
    """Rebuild everything around a checkpoint; the counterpart of RecBole's function of this name.

    Users, items and features get the numbers that they had in training, whatever order the files have now.

    Args:
        model_file: a run's ``best.pth``, or its folder.
        config_dict: keys to set differently, such as ``data_path`` or ``device``; ``model`` and ``tokenizer`` name the classes of a
            model and a tokenizer from outside the package, whose code a checkpoint never imports by itself.

    Returns:
        ``config, model, dataset, train_data, valid_data, test_data``.

    Raises:
        UserError: the checkpoint is damaged; or the dataset has users or items that the model does not know.
    """
    state = load_checkpoint(find_checkpoint(model_file))
    config = config_of(state, model_file, {"resume": False, **(config_dict or {})})
    init_seed(config["seed"], config["reproducibility"])
    start_logging(config)
    dataset = create_dataset(config, state["ids"])
    if data_fingerprint(dataset) != state["data"]:
        logging.getLogger().warning(
            f"dataset {config.dataset} is not as it was when {model_file} was trained; users and items are told by id"
        )
    sources = sources_of(state["sources"])
    config.contract.give(dataset, sources, config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    model = make_network(config, train_data.dataset, sources)
    model.load_state_dict(state["model"])
    model.load_other_parameter(from_plain(state["other_parameter"]))
    return config, model.eval(), dataset, train_data, valid_data, test_data


def config_of(state: dict[str, Any], model_file: str | Path, changed: dict[str, Any]) -> Config:
    """The configuration in a checkpoint.

    Raises:
        UserError: its model or its tokenizer is from outside the package, and ``changed`` does not name it.
    """
    for key in ("model", "tokenizer"):
        name = state["config"].get(key)
        if is_outside(name) and changed.get(key) != name:
            raise UserError(f"checkpoint {model_file} has {key} {name}, code from outside this package; give --{key}={name} to run it")
    config = Config(config_dict={**state["config"], **changed}, rebuilds=True)
    trained_by = state.get("identity", {}).get("settings", {}).get("code")
    if (code := code_of(config.model_class)) != trained_by:
        logging.getLogger().warning(f"{config.declared['model']} is not the code that trained {model_file}: {code}, then {trained_by}")
    return config
