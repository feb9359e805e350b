"""Settings as text: YAML files and command-line words, read without evaluating anything."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from recbole_r3vae.errors import UserError, short_repr

MOST_VALUES = 100_000
"""A file of settings holds fewer values; a few lines of anchors can stand for billions."""


KEY_BY_KEY = {
    "eval_args": ("split", "group_by", "order", "ties", "mode"),
    "train_neg_sample_args": ("distribution", "sample_num", "alpha", "dynamic", "candidate_num"),
}  # fmt: skip
"""Settings that are mappings, and what they may hold: where one is given in part, the rest stays as it was."""


class YamlLoader(yaml.SafeLoader):
    """Safe YAML of numbers, texts, lists and mappings: floats may be written ``1e-3``, as RecBole's are, dates stay texts, and no key comes
    twice."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = next((key for place, key in enumerate(keys) if key in keys[:place]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} comes twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)"
        r"|\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in YamlLoader.yaml_implicit_resolvers.items()
}


def properties() -> Path:
    """The folder of this package's YAML files: inside the installed package, or at the top of a checkout."""
    package = Path(str(resources.files("recbole_r3vae")))
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def recbole_properties() -> Path:
    """The folder of RecBole's YAML files."""
    return Path(str(resources.files("recbole") / "properties"))


def load_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """Read one YAML file of settings.

    Args:
        path: A file that holds a mapping of keys to values; an empty file is an empty mapping.

    Returns:
        The mapping.

    Raises:
        UserError: the file is absent, is not plain YAML (tags that would build Python objects are refused) or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read configuration file {path}: {reason}; check the path") from error
    try:
        values = _plain(text)
    except yaml.YAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"configuration file {path}{where}: {problem}; write plain `key: value` lines") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"configuration file {path} holds a {type(values).__name__}; write plain `key: value` lines")
    odd = next((key for key in values if not isinstance(key, str)), None)
    if odd is not None:
        raise UserError(f"configuration file {path}: the key {odd!r} is no name ({type(odd).__name__}); write plain `key: value` lines")
    return values


def _plain(text: str) -> Any:
    """What YAML says, of which writing it out would not fill the memory.

    Raises:
        yaml.YAMLError: it is no YAML, a value is none of its tag, or anchors stand for more than :data:`MOST_VALUES` values.
    """
    try:
        value = yaml.load(text, Loader=YamlLoader)
    except yaml.YAMLError:
        raise
    except Exception as error:  # `!!int x`, `2020-13-45`, numbers of 5,000 digits, 3,000 brackets: from whatever reads them
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from error
    left, n_values = [value], 0
    while left:
        entry, n_values = left.pop(), n_values + 1
        if n_values > MOST_VALUES:
            raise yaml.YAMLError(f"anchors stand for more than {MOST_VALUES:,} values")
        left.extend([*entry, *entry.values()] if isinstance(entry, dict) else entry if isinstance(entry, (list, tuple, set)) else ())
    return value


def parse_value(key: str, text: str) -> Any:
    """Turn a command-line string into a value by YAML's rules; nothing is ever evaluated.

    Args:
        key: The key it is meant for. RecBole's ``*_interval`` keys are strings such as ``[5,inf)`` and stay as they are; so does an
            ``item_text_template`` such as ``{title}``, which YAML would take for a mapping.
        text: What the user wrote.

    Returns:
        A number, boolean, list, dict, ``None`` (also for ``None``) or, failing those, ``text`` itself.
    """
    if key.endswith("_interval"):
        return text
    template = key.endswith("item_text_template")
    if text == "None" or (template and text in ("~", "null")):
        return None
    if template:
        return text
    try:
        return _plain(text)
    except yaml.YAMLError:
        return text


def parse_arguments(arguments: Iterable[str]) -> dict[str, Any]:
    """Read ``--key=value`` and ``--key value`` pairs; a key without a value is ``True``.

    Args:
        arguments: Words as the shell hands them over.

    Returns:
        Key to parsed value.

    Raises:
        UserError: a word belongs to no key, or a key is given twice with different values.
    """
    words, values = list(arguments), {}
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise UserError(f"argument {short_repr(word)} belongs to no option; write --key=value or --key value")
        key, equals, text = word[2:].partition("=")
        if not equals:
            text = words.pop(0) if words and not words[0].startswith("--") else "True"
        value = parse_value(key, text)
        if key in values and values[key] != value:
            raise UserError(f"--{key} is given twice, as {short_repr(values[key])} and {short_repr(value)}; give it once")
        values[key] = value
    return values


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of several sources as one: later ones win, the mappings of :data:`KEY_BY_KEY` key by key.

    Args:
        layers: settings, the weakest first.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = key in KEY_BY_KEY and isinstance(value, Mapping) and isinstance(values.get(key), Mapping)
            values[key] = {**values[key], **value} if both else value
    return values


def given_settings(config_file_list: Iterable[str | os.PathLike] = (), arguments: Iterable[str] = ()) -> dict[str, Any]:
    """What YAML files and command-line words say together, as plain values.

    Args:
        config_file_list: later ones win.
        arguments: win over the files.

    Raises:
        UserError: as :func:`load_yaml` and :func:`parse_arguments`.
    """
    return merged(*(plain_values(load_yaml(path)) for path in config_file_list), plain_values(parse_arguments(arguments)))


def plain_values(values: Any, where: str = "config_dict") -> Any:
    """Python values as YAML would give them: numpy's and torch's numbers as Python's, tuples and arrays as lists.

    Args:
        values: a mapping of settings, or a value of one.
        where: what it is called in a message; a mapping's settings have their own names.

    Raises:
        UserError: a value is none that YAML can write.
    """
    if isinstance(values, Mapping):
        return {str(key): _plain_value(value, str(key)) for key, value in values.items()}
    return _plain_value(values, where)


def _plain_value(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain_value(entry, f"{name}.{key}") for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain_value(entry, name) for entry in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)]
    if value is None or isinstance(value, (bool, int, float, str)) and type(value).__module__ == "builtins":
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # a number or an array of numpy's, a tensor
        return _plain_value(value.tolist(), name)
    if name == "MODEL_TYPE" and isinstance(value, Enum):  # RecBole's, which no checkpoint holds
        return value
    for kind in (bool, int, float, str):  # a subclass of one of these
        if isinstance(value, kind):
            return kind(value)
    raise UserError(f"{name} is {short_repr(value)} ({type(value).__name__}); give a number, a text, a list or a mapping of these")
