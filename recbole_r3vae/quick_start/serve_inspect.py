"""Looking into semantic IDs: an item's neighbours level by level, the items below a prefix, the catalogue as a tree."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import torch

from recbole_r3vae.config import Config
from recbole_r3vae.config.sources import load_yaml
from recbole_r3vae.errors import UserError, did_you_mean as nearest, short_repr as shown
from recbole_r3vae.io import atomic_write
from recbole_r3vae.quick_start.run_folder import read_identity
from recbole_r3vae.quick_start.semantic_ids import DESCRIPTION
from recbole_r3vae.quick_start.serve_files import ReadingSettings, read_items
from recbole_r3vae.sid.table import SemanticIDs

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "details details,details p{margin:0 0 0 1.2em}summary{cursor:pointer}code{font-weight:bold}small{color:#666}"
)


def dataset_titles(
    dataset: str,
    data_path: str | os.PathLike | None = None,
    title_field: str | None = None,
    sid_file: str | os.PathLike | None = None,
    config_files: Sequence[str | os.PathLike] = (),
    arguments: Sequence[str] = (),
) -> dict[str, str]:
    """Item ids to titles, out of a dataset's ``.item`` file.

    Args:
        dataset: name of a folder of atomic files.
        data_path: the folder's parent; default: as RecBole finds it.
        title_field: default: the first of the dataset's ``item_text_fields`` that the file has.
        sid_file: semantic IDs; where their tokenizer lies beside them, the file is read as its run read it, where that was of this dataset.
        config_files: YAML files of keys such as ``field_separator``, which win over those of the run.
        arguments: command-line words that say so, and win over the files.

    Raises:
        UserError: there is no such file, or no such field in it.
    """
    settings = {**_settings_beside(sid_file, dataset), **({"data_path": str(data_path)} if data_path else {})}
    for path in config_files:
        settings.update({key: value for key, value in load_yaml(path).items() if key in READING_KEYS})
    config = Config("R3VAE", dataset, config_dict=settings, arguments=arguments)
    titles, fields = {}, [title_field] if title_field else config["item_text_fields"]
    for names, records in read_items(Path(config["data_path"]) / f"{dataset}.item", fields, ReadingSettings.of(config.declared)):
        titles.update((name, " ".join(str(next(iter(record.values()))).split())) for name, record in zip(names, records))
    return titles


READING_KEYS = ("field_separator", "encoding", "ITEM_ID_FIELD", "item_text_fields", "data_path")
"""Keys that say where an ``.item`` file is and how it is read."""


def _settings_beside(sid_file: str | os.PathLike | None, dataset: str) -> dict[str, Any]:
    """:data:`READING_KEYS` of the tokenizer in whose folder semantic IDs lie, and of the run around it; none of another dataset's."""
    if sid_file is None:
        return {}
    folder = Path(sid_file).parent
    try:
        config = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError):  # semantic IDs that lie anywhere else
        return {}
    config = {**config, **(read_identity(folder.parent) or {"settings": {}})["settings"]}
    return {key: config[key] for key in READING_KEYS if config.get(key) is not None and config.get("dataset") == dataset}


def inspect_item(sids: SemanticIDs | str | os.PathLike, item: str, titles: Mapping[str, str] | None = None) -> pd.DataFrame:
    """An item and its siblings: who else has its semantic ID, then its ID without the last code, and so on up to the first level.

    Args:
        sids: semantic IDs, or a ``.sid`` file.
        item: external item id.
        titles: external id to title.

    Returns:
        A row for each item of the same first code: ``level``, the number of first codes that it shares with the item; ``prefix``, these
        codes; ``item``; ``title``; ``sid``. Nearest first, the item itself at the head.

    Raises:
        UserError: the item has no semantic ID; the message names similar ids.
    """
    sids = _load(sids)
    if item not in sids.item_ids[1:]:
        hint = nearest(item, sids.item_ids[1:], otherwise="correct its id")
        raise UserError(f"item {shown(item)} is not among the {sids.n_items - 1} items of these semantic IDs{hint}")
    own = sids.codes[sids.item_ids.index(item)]
    levels = (sids.codes == own).long().cumprod(1).sum(1)  # [n_items]
    rows = (levels > 0).nonzero()[:, 0].tolist()
    rows.sort(key=lambda row: (-int(levels[row]), sids.item_ids[row] != item, sids.codes[row].tolist(), row))
    shared = [int(levels[row]) for row in rows]
    columns = {"level": shared, "prefix": [_dashed(own[:level]) for level in shared]}
    return pd.DataFrame({**columns, **_item_columns(sids, rows, titles)})


def items_below(sids: SemanticIDs | str | os.PathLike, code: Sequence[int], titles: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The way back from codes to items: all items whose semantic IDs begin with a prefix.

    Args:
        sids: semantic IDs, or a ``.sid`` file.
        code: first codes of a semantic ID, one or more.
        titles: external id to title.

    Returns:
        ``item``, ``title`` and ``sid`` of each, in the order of the semantic IDs.

    Raises:
        UserError: no item begins so; the message says how far the prefix leads.
    """
    sids, code = _load(sids), torch.tensor(list(code), dtype=torch.int64)
    if not 1 <= len(code) <= sids.n_levels:
        raise UserError(f"a prefix has 1 to {sids.n_levels} codes, got {len(code)}: {code.tolist()}; give the first codes of a semantic ID")
    match = (sids.codes[:, : len(code)] == code).long().cumprod(1)  # [n_items, l]
    match[0] = 0  # the padding item
    rows = match[:, -1].nonzero()[:, 0].tolist()
    if not rows:
        reached = code[: int(match.sum(1).max())].tolist()
        way_out = f"some begin with {_dashed(reached)}" if reached else "none has its first code"
        raise UserError(f"no item's semantic ID begins with {_dashed(code)}; {way_out}")
    rows.sort(key=lambda row: (sids.codes[row].tolist(), row))
    return pd.DataFrame(_item_columns(sids, rows, titles))


def catalogue_tree(
    sids: SemanticIDs | str | os.PathLike,
    titles: Mapping[str, str] | None = None,
    vectors: np.ndarray | None = None,
    depth: int | None = None,
    n_typical: int = 3,
) -> pd.DataFrame:
    """The catalogue as a table of its clusters, each above those inside it and the largest first.

    Args:
        sids: semantic IDs, or a ``.sid`` file.
        titles: external id to title.
        vectors: ``[n_items, d]`` in the order of the semantic IDs, padding row first; only rows asked for are read.
        depth: levels to show; default: all.
        n_typical: how many titles stand for a cluster: of the items nearest to its mean vector, without vectors the first ones.

    Returns:
        ``level`` from 1, ``prefix``, ``items`` (how many) and ``typical`` (titles, joined by ``" | "``).
    """
    sids = _load(sids)
    rows = [
        (len(node.prefix), _dashed(node.prefix), len(node.rows), " | ".join(_titles(sids, _typical(node.rows, vectors, n_typical), titles)))
        for node in _walk(grow_tree(sids, depth))
    ]
    return pd.DataFrame(rows, columns=["level", "prefix", "items", "typical"])


def write_html(
    path: str | os.PathLike,
    sids: SemanticIDs,
    titles: Mapping[str, str] | None = None,
    vectors: np.ndarray | None = None,
    n_typical: int = 3,
) -> None:
    """Write the whole catalogue as one page that folds and unfolds in any browser; it loads nothing from elsewhere.

    Args:
        path: the file to write.
        sids: semantic IDs.
        titles: external id to title.
        vectors: as of :func:`catalogue_tree`.
        n_typical: titles shown for a cluster.
    """
    with atomic_write(path) as file:
        head = f"{sids.n_items - 1:,} items, codebooks {' x '.join(map(str, sids.codebook_sizes))}"
        file.write(f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Semantic IDs</title><style>{STYLE}</style>')
        file.write(f"<h1>Semantic IDs</h1><p>{head}</p>\n")
        for node in grow_tree(sids):
            _write_node(file, node, sids, titles, vectors, n_typical)
        file.write("</html>\n")


@dataclass
class Node:
    """A cluster: the items whose semantic IDs begin with ``prefix``.

    Attributes:
        prefix: its codes.
        rows: rows of its items in the table.
        children: the clusters inside it, the largest first; none where the cluster holds one item only.
    """

    prefix: tuple[int, ...]
    rows: list[int]
    children: list[Node] = field(default_factory=list)


def grow_tree(sids: SemanticIDs, depth: int | None = None) -> list[Node]:
    """The clusters of the first level, the largest first, with those inside them down to ``depth`` levels (default: all)."""
    depth = sids.n_levels if depth is None else min(depth, sids.n_levels)
    codes = sids.codes.tolist()

    def grow(prefix: tuple[int, ...], rows: list[int]) -> list[Node]:
        by_code: dict[int, list[int]] = {}
        for row in rows:
            by_code.setdefault(codes[row][len(prefix)], []).append(row)
        nodes = [Node((*prefix, code), below) for code, below in sorted(by_code.items(), key=lambda entry: (-len(entry[1]), entry[0]))]
        for node in nodes:
            if len(node.prefix) < depth and len(node.rows) > 1:
                node.children = grow(node.prefix, node.rows)
        return nodes

    return grow((), list(range(1, sids.n_items))) if depth > 0 else []


def _walk(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from _walk(node.children)


def _write_node(file: IO[str], node: Node, sids: SemanticIDs, titles, vectors, n_typical: int) -> None:
    if not node.children:  # one item, or items of one semantic ID
        for row, title in zip(node.rows, _titles(sids, node.rows, titles)):
            item = html.escape(sids.item_ids[row])
            file.write(f"<p><code>{_dashed(sids.codes[row])}</code> {html.escape(title)} <small>item {item}</small></p>\n")
        return
    typical = html.escape(" | ".join(_titles(sids, _typical(node.rows, vectors, n_typical), titles)))
    file.write(f"<details><summary><code>{_dashed(node.prefix)}</code> <small>{len(node.rows):,}</small> {typical}</summary>\n")
    for child in node.children:
        _write_node(file, child, sids, titles, vectors, n_typical)
    file.write("</details>\n")


def _typical(rows: list[int], vectors: np.ndarray | None, n: int) -> list[int]:
    """The rows nearest to the mean of their vectors, nearest first; without vectors the first ones."""
    if vectors is None or len(rows) <= 1:
        return rows[:n]
    x = np.asarray(vectors[rows], dtype=np.float32)  # [m, d]
    distances = ((x - x.mean(0)) ** 2).sum(1)
    return [rows[place] for place in np.argsort(distances, kind="stable")[:n]]


def _titles(sids: SemanticIDs, rows: Sequence[int], titles: Mapping[str, str] | None) -> list[str]:
    """An item without a title goes by its id."""
    return [(titles or {}).get(sids.item_ids[row]) or sids.item_ids[row] for row in rows]


def _item_columns(sids: SemanticIDs, rows: Sequence[int], titles: Mapping[str, str] | None) -> dict[str, list[str]]:
    items = [sids.item_ids[row] for row in rows]
    return {"item": items, "title": _titles(sids, rows, titles), "sid": [_dashed(sids.codes[row]) for row in rows]}


def _dashed(codes) -> str:
    return "-".join(str(int(code)) for code in codes)


def _load(sids: SemanticIDs | str | os.PathLike) -> SemanticIDs:
    return sids if isinstance(sids, SemanticIDs) else SemanticIDs.load(sids)
