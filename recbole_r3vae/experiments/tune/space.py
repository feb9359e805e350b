"""The settings that a search tries: a search space from its file, its grid, and a sample of that."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_r3vae.config import tokenizer_defaults
from recbole_r3vae.config.sources import load_yaml, properties
from recbole_r3vae.config.space import read_space
from recbole_r3vae.config.stages import PREFIX
from recbole_r3vae.errors import UserError, did_you_mean

Settings = dict[str, Any]


def load_space(tokenizer: str, path: str | os.PathLike | None = None) -> dict[str, list[Settings]]:
    """Read a search space: a YAML file of lists to choose from, or a ``.hyper`` file whose keys are ``tokenizer_X``.

    ``rating_mode: [top1, ste]`` tries two values of a key. Keys that belong together are mappings under a name of their own::

        lambda:
          - {sc_weight: 0.01, pd_weight: 0.01}
          - {sc_weight: 0.1, pd_weight: 0.1}

    Args:
        tokenizer: name of the tokenizer.
        path: the file; default ``properties/tune/<tokenizer>.yaml``.

    Returns:
        Name of each list to its choices, each a dict of keys of the tokenizer.

    Raises:
        UserError: no file, or one whose entries are not lists of keys that the tokenizer has, each in one list only.
    """
    defaults = tokenizer_defaults(tokenizer)
    if path is None:
        path = properties() / "tune" / f"{tokenizer}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
            raise UserError(f"no search space for {tokenizer} is provided (only for {known}); write one and give --space=FILE.yaml")
    space: dict[str, list[Settings]] = {}
    owner: dict[str, str] = {}
    for name, choices in _choices(path).items():
        if not isinstance(choices, list) or not choices:
            raise UserError(f"{name} in search space {path} is {choices!r}; give a list of values to try, such as {name}: [1, 2]")
        space[name] = [choice if isinstance(choice, dict) else {name: choice} for choice in choices]
        for key in {key: None for choice in space[name] for key in choice}:
            if key not in defaults:
                hint = did_you_mean(key, defaults, otherwise="correct it, or leave it out")
                raise UserError(f"unknown key {key} in search space {path}: {tokenizer} has none of that name{hint}")
            if owner.setdefault(key, name) != name:
                raise UserError(f"{key} is in two lists of search space {path}, {owner[key]} and {name}; leave it in one")
    if not space:
        raise UserError(f"search space {path} is empty; write lists of values to try, such as codebook_sizes: [[64, 64], [64, 64, 64]]")
    return space


def _choices(path: str | os.PathLike) -> dict[str, Any]:
    """The lists of a file, by name."""
    if Path(path).suffix != ".hyper":
        return load_yaml(path)
    found = {}
    for key, (kind, values) in read_space(path).items():
        if kind != "choice" or not key.startswith(PREFIX):
            why = f"a {kind}" if kind != "choice" else "no key of a tokenizer"
            raise UserError(f"{key} of search space {path} is {why}, and tune chooses a tokenizer's; write {PREFIX}KEY choice [1,2]")
        found[key.removeprefix(PREFIX)] = values
    return found


def grid(space: dict[str, list[Settings]], fixed: Iterable[str] = ()) -> list[Settings]:
    """Every combination of one choice from each list, in the order of the file, without repetitions.

    Args:
        space: as of :func:`load_space`.
        fixed: keys that are not searched.
    """
    fixed = set(fixed)
    combinations = []
    for choices in itertools.product(*space.values()):
        settings = {key: value for choice in choices for key, value in choice.items() if key not in fixed}
        if settings not in combinations:
            combinations.append(settings)
    return combinations


def sample(candidates: Sequence[Settings], trials: int, seed: int) -> list[Settings]:
    """At most ``trials`` of the candidates, drawn without repetition, in their own order.

    Raises:
        UserError: ``trials`` is not a whole number from 1.
    """
    if type(trials) is not int or trials < 1:
        raise UserError(f"--trials is {trials!r}; give a whole number from 1, or leave it out to try all {len(candidates)}")
    chosen = random.Random(seed).sample(range(len(candidates)), min(trials, len(candidates)))
    return [candidates[i] for i in sorted(chosen)]
