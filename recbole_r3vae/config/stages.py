"""Which key belongs to which stage: the only place that deals a user's keys out to a model and to its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from recbole_r3vae.config.identity import PLACES, without_neutral
from recbole_r3vae.config.registry import code_of, get_tokenizer, settings_file
from recbole_r3vae.config.sources import load_yaml, properties
from recbole_r3vae.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from recbole_r3vae.config.configurator import Config

PREFIX = "tokenizer_"
"""Before a key, it says that the key is meant for the tokenizer."""

CONTENT_KEYS = (
    "item_text_fields", "item_text_template", "content_encoder", "content_dim", "content_file", "content_ids", "content_cache_dir",
)  # fmt: skip
"""Keys that say what item content is; a model that needs neither it nor semantic IDs does not depend on them."""


def tokenizer_defaults(name: str) -> dict[str, Any]:
    """The keys of a tokenizer's YAML and their defaults.

    Raises:
        UserError: there is no tokenizer of that name; the message names the nearest.
    """
    return load_yaml(settings_file(get_tokenizer(name)))


def tokenizer_keys(name: str) -> set[str]:
    """What may follow ``tokenizer_``: the keys of the tokenizer's YAML, and those of any stage, of this package and of RecBole.

    Raises:
        UserError: as :func:`tokenizer_defaults`.
    """
    from recbole.config.configurator import general_arguments, training_arguments

    everywhere = load_yaml(properties() / "overall.yaml")
    return {*tokenizer_defaults(name), *everywhere, *general_arguments, *training_arguments} - {"run_dir", "checkpoint_dir", "eval_args"}


def tokenizer_config(config: Config) -> Config:
    """The configuration of the tokenizer stage of a run.

    A key X of that stage is ``tokenizer_X`` where the user gives it; else the user's X, unless X is one of the model's own keys (its
    YAML lists them: ``epochs``, ``learning_rate`` …; for a model that predicts clicks ``ctr.yaml`` and RecBole's YAML of the model); else
    ``tokenizer_X`` of the model's YAML files; else the tokenizer's default.
    So changing how the model is trained never changes the semantic IDs. The split (``eval_args``) is the run's.

    Args:
        config: Configuration of a model that needs semantic IDs, with ``tokenizer`` set.

    Returns:
        Configuration with the tokenizer as its model.

    Raises:
        UserError: the tokenizer is unknown, or has a key outside its range.
    """
    given = config.external_config_dict
    prefixed = [
        {key.removeprefix(PREFIX): value for key, value in source.items() if key.startswith(PREFIX)}
        for source in (config.internal_config_dict, given)
    ]
    known = tokenizer_keys(config["tokenizer"]) | set(config.internal_config_dict)
    plain = {
        key: value
        for key, value in given.items()
        if not key.startswith(PREFIX) and key in known and key not in {"model", "dataset", "tokenizer", *config.model_keys}
    }
    values = {**prefixed[0], **plain, **prefixed[1]}
    if isinstance(given.get("eval_args"), dict):  # a tokenizer that learns from interactions must see the run's training split, no other
        values["eval_args"] = {key: value for key, value in given["eval_args"].items() if key != "mode"}
    model = get_tokenizer(config["tokenizer"])
    try:
        return type(config)(model=model, dataset=config.dataset, config_dict=values)
    except UserError as error:  # the key that it names may be the model's too, with another value
        raise UserError(f"tokenizer {model.__name__}: {error}") from error


def content_config(config: Config) -> Config:
    """By which configuration a run's item content is made: the tokenizer stage's where there is one, trained or not, else the model's."""
    return tokenizer_config(config) if config["tokenizer"] else config


def deal(
    given: Mapping[str, Any], known: Mapping[str, set[str]], own: Mapping[str, set[str]] | None = None, tokenizers: bool = False
) -> dict[str, dict[str, Any]]:
    """Deal a user's keys out to several models: KEY goes to every one that has it, ``NAME.KEY`` to that one alone, where it wins.

    Args:
        given: keys and values.
        known: name of each model to the keys that it has.
        own: name of each to the keys that may be given to it alone; default: all that it has.
        tokenizers: whether the models are tokenizers; epochs for all then pass over those that are fitted in one go.

    Returns:
        Name of each model to its keys and values.

    Raises:
        UserError: a key is nobody's, or of a model that is not there; the message names the nearest.
    """
    own, names = own or known, ", ".join(known)
    found: dict[str, dict[str, Any]] = {name: {} for name in known}
    for key in sorted(given, key=lambda key: "." in key):  # those for one model last: they win
        owner, dot, own_key = key.rpartition(".")  # the name of a model of the user's own has dots too
        if dot and owner not in found:
            raise UserError(f"--{key} is for {owner!r}, which is not among {names}{did_you_mean(owner, known, otherwise='leave it out')}")
        if dot:
            refuse_unknown([key], [f"{owner}.{one}" for one in own[owner]], owner)
            found[owner][own_key] = given[key]
            continue
        takers = [name for name in known if key in known[name]]
        if not takers:
            refuse_unknown([key], set().union(*known.values()), names)
        for name in takers:
            if not (tokenizers and key == "epochs" and get_tokenizer(name).fitted):
                found[name][key] = given[key]
    return found


def without_unread_keys(given: Mapping[str, Any], tokenizer: str | None) -> dict[str, Any]:
    """Settings for several tokenizers without those that this one has no use for: epochs, where it is fitted in one go.

    Args:
        given: keys, those of the tokenizer stage as ``tokenizer_X``.
        tokenizer: its name; ``None`` where there is none.
    """
    fitted = tokenizer is not None and get_tokenizer(tokenizer).fitted
    return {key: value for key, value in given.items() if not (fitted and key == f"{PREFIX}epochs")}


def refuse_unknown(given: Iterable[str], known: Iterable[str], whose: str, dashes: str = "--") -> None:
    """Refuse the first key that nobody has.

    Args:
        given: keys.
        known: those that exist.
        whose: in words, such as ``model R3GR``.
        dashes: what stands before a key where it was given.

    Raises:
        UserError: it names the key and the nearest ones.
    """
    known = set(known)
    for key in sorted(given):
        if key not in known:
            hint = did_you_mean(key, known, otherwise="correct it, or leave it out")
            raise UserError(f"unknown key {dashes}{key} for {whose}{hint}")


def decisive(config: Config) -> dict[str, Any]:
    """Every setting of every stage that can change a run's result, as plain data; places and loudness are left out, and what is off.

    Those of the tokenizer stage are called ``tokenizer_X``, where they differ from the model's X. Of a model from outside the package, its
    code is a setting too: ``code``.

    Args:
        config: of a run.
    """
    needs, from_file = config.contract.needs(config), bool(config["sid_file"])
    found = {
        key: value
        for key, value in without_neutral(config.declared, config.contract.neutral).items()
        if key not in PLACES and not key.startswith(PREFIX) and (needs.content is not None or key not in CONTENT_KEYS)
    }
    if (code := code_of(config.model_class)) is not None:
        found["code"] = code
    if needs.semantic_ids is None:
        for key in ("tokenizer", "collision_policy"):
            found.pop(key, None)
    elif not from_file:
        for key, value in decisive(tokenizer_config(config)).items():
            if key not in ("model", "dataset") and (key not in found or found[key] != value):
                found[f"{PREFIX}{key}"] = value
    return found
