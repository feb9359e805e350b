"""Settings as text: YAML files and command-line words, read without evaluating anything."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from recbole_r3vae.errors import UserError


class YamlLoader(yaml.SafeLoader):
    """Safe YAML whose floats may be written ``1e-3``, as RecBole's are."""


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)"
        r"|\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


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
        values = yaml.load(text, Loader=YamlLoader)
    except yaml.YAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"configuration file {path}{where}: {problem}; write plain `key: value` lines") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"configuration file {path} must hold `key: value` lines, it holds a {type(values).__name__}")
    return values


def parse_value(key: str, text: str) -> Any:
    """Turn a command-line string into a value by YAML's rules; nothing is ever evaluated.

    Args:
        key: The key it is meant for. RecBole's ``*_interval`` keys are strings such as ``[5,inf)`` and stay as they are.
        text: What the user wrote.

    Returns:
        A number, boolean, list, dict, ``None`` (also for ``None``) or, failing those, ``text`` itself.
    """
    if key.endswith("_interval"):
        return text
    if text == "None":
        return None
    try:
        return yaml.load(text, Loader=YamlLoader)
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
            raise UserError(f"argument {word!r} belongs to no option; write --key=value or --key value")
        key, equals, text = word[2:].partition("=")
        if not equals:
            text = words.pop(0) if words and not words[0].startswith("--") else "True"
        value = parse_value(key, text)
        if key in values and values[key] != value:
            raise UserError(f"--{key} is given twice, as {values[key]!r} and {value!r}; give it once")
        values[key] = value
    return values


def fingerprint(values: dict[str, Any]) -> str:
    """A short stable hash of plain settings, whatever the order of their keys.

    Returns:
        Twelve hexadecimal digits.
    """
    text = json.dumps(values, sort_keys=True, default=str, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
