"""The words of one field of one item."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

FieldValue = str | Sequence[str] | float

# RecBole's own Amazon files write a set of names as Python prints it: 'Hair Care', "Women's", 'Beauty'
_QUOTED_NAMES = re.compile(r"""(['"]).+['"]""", re.DOTALL)
_BETWEEN_NAMES = re.compile(r"""(?<=['"]),\s*(?=['"])""")


def members(value: FieldValue) -> list[str]:
    """The members of a field: its words, or the names that it lists.

    ``_``, which stands for a space inside one category or tag, becomes one, and comma-quoted lists of names lose their quotes and commas:
    ``Hair_Care Nails`` and ``'Hair Care', 'Nails'`` are two spellings of the same categories.

    Args:
        value: A string, whose members are separated by spaces or quoted; a sequence of members; or a number (written plainly: ``19.99``,
            not ``1.999e+01``).

    Returns:
        The members, without white space around them or runs of it inside; none is empty.
    """
    if isinstance(value, (float, int, np.number)):
        return [] if np.isnan(value) else [np.format_float_positional(np.float32(value), trim="-")]
    text = (value if isinstance(value, str) else " ".join(value)).strip()
    if _QUOTED_NAMES.fullmatch(text):
        parts = [name.strip("'\"") for name in _BETWEEN_NAMES.split(text)]
    else:
        parts = text.split() if isinstance(value, str) else value
    cleaned = (" ".join(part.replace("_", " ").split()) for part in parts)
    return [part for part in cleaned if part]


def clean_text(value: FieldValue) -> str:
    """One field of one item as plain words: its :func:`members`, joined by spaces.

    Args:
        value: See :func:`members`.

    Returns:
        The text, without white space around it or runs of it inside; empty for an empty field.
    """
    return " ".join(members(value))


def lists_names(value: FieldValue) -> bool:
    """Whether a field shows that its members are names rather than words: one has ``_`` for a space, or all are quoted.

    Args:
        value: See :func:`members`.
    """
    if isinstance(value, (float, int, np.number)):
        return False
    text = (value if isinstance(value, str) else " ".join(value)).strip()
    return "_" in text or _QUOTED_NAMES.fullmatch(text) is not None
