"""Semantic IDs as projects around language models keep them: tokens such as ``<a_12>``, ``*.index.json``, lists of added tokens.

LC-Rec (Zheng et al., ICDE 2024, arXiv 2311.09049), LETTER (Wang et al., CIKM 2024, arXiv 2405.07314) and MiniOneRec write an item's code at
level 1 as ``<a_12>``, at level 2 as ``<b_12>`` and so on. ``<dataset>.index.json`` maps each item to the list of its tokens, and calls it
by a number of its own, which ``<dataset>.item2id`` gives to each item id. Each token is added to a Hugging Face tokenizer's vocabulary:
``added_tokens.json`` maps it to its number there, ``tokenizer.json`` lists it under ``added_tokens``, and ``add_tokens`` takes a list.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor

from recbole_r3vae.errors import UserError, short_repr
from recbole_r3vae.io import atomic_write, write_json

TOKEN = re.compile(r"<([a-z])_([0-9]{1,9})>")
ENDING = ".json"
VOCABULARY = "give it as --added_tokens beside the items' index.json"
WIDE, USED = 4096, 8
"""A codebook of a foreign file is sparse where its codes reach beyond the first number and one in so many, or fewer, are used."""


def token(level: int, code: int) -> str:
    """The token of a code: ``<a_12>`` is code 12 at level 0."""
    return f"<{ascii_lowercase[level]}_{code}>"


def codes_of_tokens(texts: Sequence[str]) -> list[int] | None:
    """The codes of one token a level, in the levels' order; ``None`` where the texts are none of these."""
    found = [TOKEN.fullmatch(text) for text in texts]
    if not all(found) or "".join(match[1] for match in found) != ascii_lowercase[: max(1, len(found))]:
        return None
    return [int(match[2]) for match in found]


def read_index(path: str | os.PathLike) -> tuple[list[str], Tensor]:
    """Read the items and codes of an ``*.index.json``.

    Args:
        path: a JSON mapping of each item to its tokens, ``["<a_12>", "<b_3>"]`` or ``"<a_12><b_3>"``, or to its codes, ``[12, 3]``.

    Returns:
        Item ids, as the file calls the items, and int64 codes ``[n, L]``.

    Raises:
        UserError: the file cannot be read; an item stands in it twice, has something else than one code a level, or another number of
            codes than the first.
    """
    values, name = _read_json(path), Path(path).name
    if not isinstance(values, dict) or not values:
        kind = f"holds tokens and no items; {VOCABULARY}" if isinstance(values, list) else "names no items"
        raise UserError(f"{name} {kind}; write a JSON mapping of each item to its tokens, such as {{\"0\": [\"<a_12>\", \"<b_3>\"]}}")
    codes = []
    for item, value in values.items():
        if isinstance(value, str):
            value = re.findall(r"<[^<>]*>|[^<>\s]+", value)
        own = None
        if isinstance(value, list) and value:
            whole = all(type(code) is int and 0 <= code < 10**9 for code in value)
            own = value if whole else codes_of_tokens(value) if all(isinstance(text, str) for text in value) else None
        if own is None:
            remedy = VOCABULARY if type(value) is int else "write one token a level, <a_12> <b_3> …"
            raise UserError(f"{name}: {short_repr(item)} is {short_repr(value)}, which is no semantic ID; {remedy}")
        if len(own) != len(codes[0] if codes else own):
            raise UserError(f"{name}: item {short_repr(item)} has {len(own)} codes, those before it {len(codes[0])}; give each one a level")
        codes.append(own)
    return list(values), torch.tensor(codes)


def write_index(path: str | os.PathLike, item_ids: Sequence[str], codes: Tensor) -> None:
    """Write items and codes as ``*.index.json``.

    Args:
        path: the file.
        item_ids: ``n`` names of items, as the file is to call them.
        codes: int ``[n, L]``.

    Raises:
        UserError: there are more levels than letters, or the file cannot be written.
    """
    _check_levels(codes.shape[1])
    write_json(path, {item: [token(level, code) for level, code in enumerate(row)] for item, row in zip(item_ids, codes.tolist())})


def read_added_tokens(path: str | os.PathLike) -> tuple[int, ...]:
    """The codebook sizes that a vocabulary of semantic IDs was made for.

    Args:
        path: ``added_tokens.json``, ``tokenizer.json``, or a JSON list of tokens. Tokens of other kinds are passed over.

    Returns:
        ``K_1 .. K_L``, one more than the largest code of each level.

    Raises:
        UserError: the file cannot be read, or its tokens are none of semantic IDs, of the levels a, b, c … without a gap.
    """
    values = _read_json(path)
    if isinstance(values, dict) and isinstance(values.get("added_tokens"), list):
        values = values["added_tokens"]
    entries = values if isinstance(values, (list, dict)) else []
    texts = [entry.get("content") if isinstance(entry, dict) else entry for entry in entries]
    matches = [match for match in (TOKEN.fullmatch(text) for text in texts if isinstance(text, str)) if match]
    sizes: dict[str, int] = {}
    for level, code in (match.groups() for match in matches):
        sizes[level] = max(sizes.get(level, 0), int(code) + 1)
    if not sizes or "".join(sorted(sizes)) != ascii_lowercase[: len(sizes)]:
        found = ", ".join(sorted(sizes)) or "none"
        raise UserError(f"{path} holds tokens of the levels {found}; give the added tokens of semantic IDs, <a_0> <a_1> … <b_0> …")
    return tuple(sizes[level] for level in sorted(sizes))


def write_added_tokens(path: str | os.PathLike, codebook_sizes: Sequence[int]) -> int:
    """Write the tokens of every code, used or not, as the JSON list that a Hugging Face tokenizer's ``add_tokens`` takes.

    Returns:
        Their number.

    Raises:
        UserError: as :func:`write_index`.
    """
    _check_levels(len(codebook_sizes))
    tokens = [token(level, code) for level, size in enumerate(codebook_sizes) for code in range(size)]
    with atomic_write(path) as file:
        json.dump(tokens, file, indent=0)
        file.write("\n")
    return len(tokens)


def read_item2id(path: str | os.PathLike) -> dict[str, str]:
    """An ``*.item2id``: item id and number, separated by a tab, one item a line.

    Returns:
        Item id to number, both as texts.

    Raises:
        UserError: the file cannot be read, a line is malformed, or an item or a number comes twice.
    """
    number_of: dict[str, str] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; check the path") from error
    for place, line in enumerate(lines, start=1):
        cells = line.split("\t")
        if len(cells) != 2 or not cells[0] or not cells[1].strip().isdigit():
            raise UserError(f"{path}, line {place}: expected an item id and its number, got {short_repr(line)}; separate them by a tab")
        if number_of.setdefault(cells[0], cells[1].strip()) != cells[1].strip():
            raise UserError(f"{path}, line {place}: item {short_repr(cells[0])} has two numbers; keep one of them")
    if len(set(number_of.values())) != len(number_of):
        raise UserError(f"{path} gives one number to several items; number them apart")
    return number_of


def renamed(item_ids: Sequence[str], names: Mapping[str, str], path: str | os.PathLike) -> list[str]:
    """Items under other names.

    Args:
        item_ids: as they are called now.
        names: to the new name of each.
        path: the file that the names are from, for the message.

    Raises:
        UserError: an item has no other name.
    """
    missing = [item for item in item_ids if item not in names]
    if missing:
        known = ", ".join(map(repr, list(names)[:3]))
        raise UserError(
            f"{path} does not name {len(missing)} of {len(item_ids)} items, such as {short_repr(missing[0])}; it names {known} …: give the file "
            "that belongs to these semantic IDs"
        )
    return [names[item] for item in item_ids]


def dense(codes: Tensor) -> tuple[Tensor, dict[str, list[int]]]:
    """Number the codes of sparse codebooks anew from 0, so that no model gets a softmax over codes that no item has.

    Args:
        codes: int64 ``[n, L]``.

    Returns:
        The codes, and for each level (``"1"``, ``"2"`` …) that was numbered anew its old codes in the new order. Other levels stay.
    """
    codes, old = codes.clone(), {}
    for level, column in enumerate(codes.unbind(1)):
        used, rank = torch.unique(column, return_inverse=True)
        width = int(used[-1]) + 1
        if width > WIDE and width > USED * len(used):
            codes[:, level] = rank
            old[str(level + 1)] = used.tolist()
    return codes, old


def _check_levels(n_levels: int) -> None:
    if n_levels > len(ascii_lowercase):
        raise UserError(f"these semantic IDs have {n_levels} levels, and tokens are lettered from a to z; keep them as .sid")


def _read_json(path: str | os.PathLike) -> Any:
    """What a JSON file holds, in which no key comes twice.

    Raises:
        UserError: there is no such file, it is no JSON, or a key comes twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise ValueError(f"{short_repr(twice)} stands in it twice")
        return found

    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except FileNotFoundError as error:
        raise UserError(f"no semantic IDs at {path}; check the path, or make them with `tokenize`") from error
    except (OSError, ValueError, RecursionError) as error:  # errors of JSON and of UTF-8 are ValueErrors
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; give a JSON file") from error
