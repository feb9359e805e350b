"""Search spaces in RecBole's format, read as settings are: nothing in them is evaluated, and no line goes without a word."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_r3vae.config.sources import parse_value, plain_values
from recbole_r3vae.errors import UserError, did_you_mean, short_repr

KINDS = {"choice": None, "uniform": 2, "quniform": 3, "loguniform": 2}
"""Kinds of a key's range, and how many numbers it takes: low and high, of ``quniform`` also the step; ``choice`` takes any values."""

Space = dict[str, tuple[str, list[Any]]]
"""Key to the kind of its range and what the range is made of."""


def read_space(path: str | os.PathLike) -> Space:
    """Read a ``.hyper`` file, such as those in ``properties/hyper``.

    Args:
        path: a file of lines ``<key> choice [<value>,<value>]``, ``<key> uniform <low>,<high>``, ``<key> quniform <low>,<high>,<step>`` and
            ``<key> loguniform <low>,<high>`` (logarithms). Lists to choose from may be written as texts, ``['[8,8]','[6,6]']``.
            Blank lines, and those that begin with ``#``, are passed over.

    Raises:
        UserError: the file cannot be read; a line is malformed, or its key has one already; the message names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read search space {path}: {getattr(error, 'strerror', None) or error}; check the path") from error
    space: Space = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"search space {path}, line {number}"
        key, kind, text, *_ = [*line.split(None, 2), "", ""]
        if key in space:
            raise UserError(f"{where}: {key} has a range already; leave one of the lines out")
        values = parse_value("", text if kind == "choice" else f"[{text}]")  # a list of the key's values
        space[key] = _checked(key, kind, values, where)
    return _not_empty(space, f"search space {path}")


def space_of(ranges: Mapping[str, Mapping[str, Any]]) -> Space:
    """A space from Python, as RecBole's ``params_dict`` has it.

    Args:
        ranges: kind to the keys of this kind and what their ranges are made of, ``{"choice": {"n_layers": [1, 2]}}``.

    Raises:
        UserError: a range is malformed, or a key has two.
    """
    space: Space = {}
    for kind, keys in plain_values(ranges, "params_dict").items():
        if not isinstance(keys, dict):
            raise UserError(f"{kind} of params_dict is {short_repr(keys)}; give keys and ranges, such as {{'choice': {{'n_layers': [1, 2]}}}}")
        for key, values in keys.items():
            if key in space:
                raise UserError(f"{key} has two ranges in params_dict; leave one of them out")
            space[key] = _checked(key, kind, values, "params_dict")
    return _not_empty(space, "params_dict")


def _checked(key: str, kind: str, values: Any, where: str) -> tuple[str, list[Any]]:
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS, otherwise=f"write {key} and one of {', '.join(KINDS)}, and what to draw from")
        raise UserError(f"{where}: {short_repr(kind)} is no kind of range{hint}")
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}: {key} {kind} {short_repr(values)} is no list; write {key} {kind} [1,2]")
    if kind == "choice":  # of lists too, which RecBole's own files write as texts
        return kind, [parse_value(key, value) if isinstance(value, str) and value[:1] in ("[", "{") else value for value in values]
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) != len(values) or len(values) != KINDS[kind] or not numbers[0] < numbers[1] or numbers[2:] and not numbers[2] > 0:
        wanted = "low, high and a step above 0" if kind == "quniform" else "low and high"
        raise UserError(f"{where}: {key} {kind} is made of {short_repr(values)}; give {wanted}")
    return kind, numbers


def _not_empty(space: Space, where: str) -> Space:
    if not space:
        raise UserError(f"{where} is empty; write what to draw from, such as learning_rate choice [0.001,0.002]")
    return space
