"""Plain data: what JSON can hold, whether it is of annotated kinds, and what a file of it says."""

from __future__ import annotations

import functools
import json
import math
import os
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recbole_r3vae.record.parts import WAY_OUT


def load(path: str | os.PathLike) -> Any:
    """The plain data in a file of JSON.

    Raises:
        ValueError: there is no such file, or it is no JSON; NaN and infinity are none.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError) as error:
        raise ValueError(f"unreadable record: {error}; {WAY_OUT}") from error


def plain(value: Any) -> Any:
    """Of what JSON knows: numpy's numbers as Python's, tuples as lists, ``None`` for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@functools.cache
def annotated_kinds(of: type) -> dict[str, Any]:
    """Each attribute of a dataclass, or key of a ``TypedDict``, and the type that its annotation states."""
    return typing.get_type_hints(of)


def wrong_places(value: Any, kind: Any, path: str) -> Iterator[str]:
    """Where in a value something is not of the kind that the annotation states, such as ``test.stay.ndcg@10``."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return
    if origin in (typing.Union, types.UnionType):
        if any(not any(True for _ in wrong_places(value, part, path)) for part in parts):
            return
        structured = [part for part in parts if isinstance(value, (dict, list)) and _holds(part) is type(value)]
        yield from wrong_places(value, structured[0], path) if structured else [path]
    elif origin is Literal:
        if value not in parts:
            yield path
    elif typing.is_typeddict(kind):
        if not isinstance(value, dict):
            yield path
            return
        kinds = annotated_kinds(kind)
        yield from (f"{path}.{key}" for key in sorted(kinds.keys() ^ value.keys()))
        for key in sorted(kinds.keys() & value.keys()):
            yield from wrong_places(value[key], kinds[key], f"{path}.{key}")
    elif origin in (dict, list):
        if not isinstance(value, origin):
            yield path
            return
        for key, entry in value.items() if origin is dict else enumerate(value):
            yield from wrong_places(entry, parts[-1], f"{path}.{key}")
    elif isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
        yield path


def _holds(kind: Any) -> type | None:
    return dict if typing.is_typeddict(kind) else typing.get_origin(kind)
