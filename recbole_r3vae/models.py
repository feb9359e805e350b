"""Finding a model by its name: this package's first, then RecBole's."""

from __future__ import annotations

import importlib
import pkgutil

from recbole.utils import ModelType

from recbole_r3vae.compat import recbole_model
from recbole_r3vae.errors import UserError, nearest, shown
from recbole_r3vae.settings import recbole_properties

MODEL_ROOMS = ("recbole_r3vae.model.tokenizer", "recbole_r3vae.model.generator", "recbole_r3vae.model.sequential")
"""Packages whose modules hold one model each: module ``r3gr`` holds class ``R3GR``."""


def own_models(room: str | None = None) -> dict[str, type]:
    """Every model class of this package by name.

    Args:
        room: One of :data:`MODEL_ROOMS`, or ``None`` for all of them.

    Returns:
        Name, as written on the command line, to class. A module is a model when it defines a class whose lower-cased name is
        the module's name, so a new model is found by its file alone.
    """
    found = {}
    for package in [room] if room else MODEL_ROOMS:
        for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if info.ispkg:
                continue
            candidate = importlib.import_module(f"{package}.{info.name}")
            for name, value in vars(candidate).items():
                if isinstance(value, type) and value.__module__ == candidate.__name__ and name.lower() == info.name:
                    found[name] = value
    return found


def get_model(name: str) -> type:
    """The class of a model of this package or of RecBole.

    Args:
        name: ``R3GR``, ``R3VAE``, ``SASRec`` …

    Raises:
        UserError: neither has it; the message names the nearest models.
    """
    ours = own_models()
    if name in ours:
        return ours[name]
    try:
        return recbole_model(name)
    except (ValueError, TypeError, AttributeError, ModuleNotFoundError) as error:
        choices = f"choose one of RecBole's, or {', '.join(sorted(ours))}"
        raise UserError(f"there is no model {shown(name)}{nearest(name, [*ours, *recbole_models()], otherwise=choices)}") from error


def predicts_clicks(model_class: type) -> bool:
    """Whether a model is one of RecBole's that predict labels from fields of features: any context-aware one, or DIN."""
    return model_class.type == ModelType.CONTEXT or model_class.__name__ == "DIN"


def recbole_models() -> list[str]:
    """Names of the models whose settings RecBole ships."""
    return sorted(path.stem for path in (recbole_properties() / "model").glob("*.yaml"))
