"""What values a model's keys may have: one table a class, checked once, before anything is trained.

As scikit-learn's ``_parameter_constraints``: a class writes ``hyperparameters = {"dropout": Number(at_least=0, below=1), …}``, and
those of the classes that it derives from count too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

from recbole_r3vae.errors import UserError, did_you_mean, short_repr


class Parameter(Protocol):
    """One kind of value."""

    def takes(self, value: Any) -> bool:
        """Whether the value may be given."""

    def expected(self) -> str:
        """What may be given, in words that follow "give"."""


@dataclass(frozen=True)
class Whole:
    """A whole number from ``at_least`` on, to ``at_most`` where that is given."""

    at_least: int = 1
    at_most: int | None = None

    def takes(self, value: Any) -> bool:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return whole and self.at_least <= value and (self.at_most is None or value <= self.at_most)

    def expected(self) -> str:
        return f"a whole number from {self.at_least}" + ("" if self.at_most is None else f" to {self.at_most}")


@dataclass(frozen=True)
class Number:
    """A finite number between bounds, of which ``above`` and ``below`` are not in the range and the other two are."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None

    def takes(self, value: Any) -> bool:
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            return False
        return not (
            (self.above is not None and not value > self.above)
            or (self.at_least is not None and not value >= self.at_least)
            or (self.below is not None and not value < self.below)
            or (self.at_most is not None and not value <= self.at_most)
        )

    def expected(self) -> str:
        bounds = (("above", self.above), ("from", self.at_least), ("below", self.below), ("up to", self.at_most))
        return " ".join(["a number", *(f"{word} {value:g}" for word, value in bounds if value is not None)])


SHARE = Number(at_least=0, below=1)
"""A probability that something is left out: from 0 to below 1."""


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def takes(self, value: Any) -> bool:
        return isinstance(value, bool)

    def expected(self) -> str:
        return "True or False"


@dataclass(frozen=True)
class Name:
    """Any word, such as the name of a field."""

    def takes(self, value: Any) -> bool:
        return isinstance(value, str) and bool(value)

    def expected(self) -> str:
        return "a name"


class Choice:
    """One of a few words.

    Args:
        *words: those that may be given.
    """

    def __init__(self, *words: str):
        self.words = words

    def takes(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.words

    def expected(self) -> str:
        return f"{', '.join(self.words[:-1])} or {self.words[-1]}"


@dataclass(frozen=True)
class ListOf:
    """A list of ``at_least`` or more entries of one kind."""

    entry: Parameter
    at_least: int = 1

    def takes(self, value: Any) -> bool:
        return isinstance(value, (list, tuple)) and len(value) >= self.at_least and all(map(self.entry.takes, value))

    def expected(self) -> str:
        return f"a list with {self.at_least} or more entries, each {self.entry.expected()}"


@dataclass(frozen=True)
class MappingOf:
    """A mapping of names to entries of one kind."""

    entry: Parameter

    def takes(self, value: Any) -> bool:
        return isinstance(value, dict) and all(map(Name().takes, value)) and all(map(self.entry.takes, value.values()))

    def expected(self) -> str:
        return f"a mapping of names, each to {self.entry.expected()}"


class Either:
    """Any of several kinds.

    Args:
        *kinds: a :class:`Parameter` each, or a value such as ``None`` or ``"exact"`` that stands for itself.
    """

    def __init__(self, *kinds: Any):
        self.kinds = kinds

    def takes(self, value: Any) -> bool:
        return any(kind.takes(value) if hasattr(kind, "takes") else type(value) is type(kind) and value == kind for kind in self.kinds)

    def expected(self) -> str:
        words = (kind.expected() if hasattr(kind, "expected") else "~" if kind is None else str(kind) for kind in self.kinds)
        return " or ".join(words)


def declared_by(model_class: type) -> dict[str, Parameter]:
    """What a class says of its keys in ``hyperparameters``, after those that it derives from."""
    tables = (vars(ancestor).get("hyperparameters", {}) for ancestor in reversed(model_class.__mro__))
    return {key: parameter for own in tables for key, parameter in own.items()}


def check_parameters(parameters: Mapping[str, Parameter], config: Mapping[str, Any]) -> None:
    """Refuse the first key whose value its parameter does not take.

    Args:
        parameters: key to what may be given.
        config: anything that gives a value for each key.

    Raises:
        UserError: it names key, value and what may be given.
    """
    for key, parameter in parameters.items():
        value = config[key]
        if not parameter.takes(value):
            hint = did_you_mean(value, parameter.words) if hasattr(parameter, "words") and isinstance(value, str) else ""
            raise UserError(f"{key} is {short_repr(value)}{hint}; give {parameter.expected()}")


def check_heads(config: Mapping[str, Any]) -> None:
    """Refuse attention heads that share the width unevenly.

    Args:
        config: has ``n_heads`` and ``hidden_size``, each within its range.

    Raises:
        UserError: ``n_heads`` does not divide ``hidden_size``.
    """
    size, n_heads = config["hidden_size"], config["n_heads"]
    if size % n_heads:
        raise UserError(f"n_heads is {n_heads} and hidden_size {size}; give a number of heads that divides the size")
