"""Settings in the words of a command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def as_word(value: Any) -> str:
    """A value as it is written behind ``--key=``."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def describe(settings: Mapping[str, Any]) -> str:
    """Settings in a few words: ``codebook_sizes=[64,64,64] rating_mode=top1``."""
    return " ".join(f"{key}={as_word(value)}" for key, value in settings.items()) or "the settings given"
