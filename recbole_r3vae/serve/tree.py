"""The catalogue as the tree of its semantic IDs: as a table, and as a page."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import pandas as pd

from recbole_r3vae.io import atomic_write
from recbole_r3vae.serve.inspect import dashed, loaded, titles_of
from recbole_r3vae.sid.table import SemanticIDs

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "details details,details p{margin:0 0 0 1.2em}summary{cursor:pointer}code{font-weight:bold}small{color:#666}"
)


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
    sids = loaded(sids)
    rows = [
        (len(node.prefix), dashed(node.prefix), len(node.rows), " | ".join(titles_of(sids, _typical(node.rows, vectors, n_typical), titles)))
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
        for row, title in zip(node.rows, titles_of(sids, node.rows, titles)):
            item = html.escape(sids.item_ids[row])
            file.write(f"<p><code>{dashed(sids.codes[row])}</code> {html.escape(title)} <small>item {item}</small></p>\n")
        return
    typical = html.escape(" | ".join(titles_of(sids, _typical(node.rows, vectors, n_typical), titles)))
    file.write(f"<details><summary><code>{dashed(node.prefix)}</code> <small>{len(node.rows):,}</small> {typical}</summary>\n")
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
