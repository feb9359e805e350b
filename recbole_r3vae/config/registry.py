"""Finding a model by its name: this package's first, a user's own by ``package.module:Class``, then RecBole's."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import pkgutil
import sys
from pathlib import Path

from recbole.model.abstract_recommender import AbstractRecommender

from recbole_r3vae.compat import recbole_model
from recbole_r3vae.config.sources import properties, recbole_properties
from recbole_r3vae.errors import UserError, did_you_mean, one_line, short_repr

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
    """The class of a model of this package, of a user's own, or of RecBole.

    Args:
        name: ``R3GR``, ``R3VAE``, ``SASRec`` …; or ``package.module:Class``, which imports that module, from the working folder too.

    Raises:
        UserError: there is none; the message names the nearest models.
    """
    if ":" in name:
        return _outside_model(name)
    ours = own_models()
    if name in ours:
        return ours[name]
    try:
        return recbole_model(name)
    except (ValueError, TypeError, AttributeError, ModuleNotFoundError) as error:
        choices = f"choose one of RecBole's, one of your own as package.module:Class, or {', '.join(sorted(ours))}"
        raise UserError(f"there is no model {short_repr(name)}{did_you_mean(name, [*ours, *recbole_models()], otherwise=choices)}") from error


def contract_of(model_class: type, evaluation_mode: object = None):
    """What a model says of itself; see :func:`recbole_r3vae.model.recbole_models.contract_of`, which is found by name, as models are."""
    return importlib.import_module("recbole_r3vae.model.recbole_models").contract_of(model_class, evaluation_mode)


def get_tokenizer(name: str) -> type:
    """As :func:`get_model`, of a tokenizer.

    Raises:
        UserError: there is none of that name; the message names the nearest.
    """
    tokenizers = own_models(MODEL_ROOMS[0])
    found = tokenizers.get(name) if ":" not in name else _outside_model(name)
    if found is None or contract_of(found).task != "tokenize":
        hint = did_you_mean(name, tokenizers, otherwise="choose one of these, or one of your own as package.module:Class")
        raise UserError(f"there is no tokenizer {short_repr(name)}, only {', '.join(sorted(tokenizers))}{hint}")
    return found


def _outside_model(name: str) -> type:
    module_name, _, class_name = name.partition(":")
    home = os.getcwd()
    added = home not in sys.path and "" not in sys.path
    if added:  # a console script's path lacks the folder that it is run in
        sys.path.insert(0, home)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise  # the module is there and imports one that is not: its own mistake, with its traceback
        raise UserError(
            f"there is no module {short_repr(module_name)} for model {short_repr(name)}; run where it can be imported, or set PYTHONPATH to its "
            "folder"
        ) from error
    except ValueError as error:
        raise UserError(f"model {short_repr(name)} names no module: {one_line(error)}; write package.module:Class") from error
    finally:
        if added:
            sys.path.remove(home)
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__]
        hint = did_you_mean(class_name, classes, otherwise=f"it defines {', '.join(classes) or 'no class'}; write package.module:Class")
        raise UserError(f"module {module_name} has no class {short_repr(class_name)}{hint}")
    if not issubclass(found, AbstractRecommender):
        raise UserError(f"{name} is no model; derive the class from one of RecBole's or of this package's, such as Ranker")
    return found


def is_outside(name: object) -> bool:
    """Whether a model's name says which code of the user's to import."""
    return isinstance(name, str) and ":" in name


def reference(model_class: type) -> str:
    """The name by which :func:`get_model` finds a class again."""
    if model_class.__module__.startswith(("recbole_r3vae.", "recbole.")):
        return model_class.__name__
    return f"{model_class.__module__}:{model_class.__name__}"


def code_of(model_class: type) -> str | None:
    """A hash of a user's own code: of the files that define the class and those that it derives from, in its package or its folder.

    What these files import otherwise counts no more than libraries do.

    Returns:
        Twelve hexadecimal digits; ``None`` for models of this package and of RecBole, whose versions a record holds.
    """
    if not is_outside(reference(model_class)):
        return None
    package, home = model_class.__module__.partition(".")[0], Path(inspect.getfile(model_class)).parent
    places = {one.__module__: getattr(sys.modules.get(one.__module__), "__file__", None) for one in model_class.__mro__}
    files = {Path(file) for module, file in places.items() if file and (module.partition(".")[0] == package or Path(file).parent == home)}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def settings_file(model_class: type) -> Path | None:
    """The YAML file of a model's own keys and their defaults: in ``properties/model``, beside a user's module, or RecBole's.

    Returns:
        ``None`` where there is none, as for some of RecBole's.

    Raises:
        UserError: a user's model has none.
    """
    name = model_class.__name__
    if ":" in reference(model_class):
        file = Path(inspect.getfile(model_class)).with_name(f"{name}.yaml")
        if not file.is_file():
            raise UserError(f"model {reference(model_class)} has no {file}; write its keys and their defaults there")
        return file
    files = (properties() / "model" / f"{name}.yaml", recbole_properties() / "model" / f"{name}.yaml")
    return next((file for file in files if file.is_file()), None)


def recbole_models() -> list[str]:
    """Names of the models whose settings RecBole ships."""
    return sorted(path.stem for path in (recbole_properties() / "model").glob("*.yaml"))
