"""The floors of the package: an import points down or stays on its floor, and none leads back to where it came from."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import recbole_r3vae

PACKAGE = Path(recbole_r3vae.__file__).parent
FLOORS = [
    {"errors", "io", "compat"}, {"config"}, {"sid"}, {"data"}, {"model"}, {"provenance", "record"}, {"trainer"}, {"quick_start"}, {"serve"},
    {"experiments"}, {"cli"},
]  # fmt: skip
"""From the ground up. The configuration finds models by their names (``config/registry.py``), so that it imports none."""


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("recbole_r3vae", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(known: dict[str, Path]) -> dict[str, set[str]]:
    """Module to the modules of this package that it imports when it runs; those for type checkers alone do not count."""
    edges: dict[str, set[str]] = defaultdict(set)
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        checked = [node for node in ast.walk(tree) if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"]
        unread = {id(node) for block in checked for node in ast.walk(block)}
        for node in ast.walk(tree):
            if id(node) in unread:
                continue
            targets = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            for target in targets:
                while target and target not in known:
                    target = target.rpartition(".")[0]
                if target and target not in ("recbole_r3vae", name):
                    edges[name].add(target)
    return edges


def floor(module: str) -> int:
    [place] = [number for number, rooms in enumerate(FLOORS) if module.split(".")[1] in rooms]
    return place


def test_every_import_points_down_or_stays():
    edges = imports(modules())
    assert sum(map(len, edges.values())) > 300  # it sees them
    up = [f"{a} -> {b}" for a, targets in edges.items() for b in targets if a != "recbole_r3vae" and floor(b) > floor(a)]
    assert up == []


def test_no_circle():
    edges, done, way = imports(modules()), set(), []

    def visit(module: str) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            way.append(module)
            for target in sorted(edges.get(module, ())):
                visit(target)
            way.pop()
            done.add(module)

    for module in sorted(modules()):
        visit(module)
