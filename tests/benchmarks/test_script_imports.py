"""Scripts beside the package import names that it has; some take too long for a test of their own to run them."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py"), *(ROOT / "docs").glob("*.py")])


def missing(source: str) -> list[str]:
    """What a script takes from this package and the package does not have."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "recbole_r3vae":
            for name in (alias.name for alias in node.names):
                module = importlib.import_module(node.module)
                if not hasattr(module, name) and importlib.util.find_spec(f"{node.module}.{name}") is None:
                    found.append(f"{node.module}.{name}")
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_a_script_imports_is_there(path):
    assert missing(path.read_text(encoding="utf-8")) == []


def test_what_is_not_there_is_seen():
    source = "from recbole_r3vae.config import Config, Konfig\nfrom recbole_r3vae.sid import table, tables\nfrom os import nothing"
    assert missing(source) == ["recbole_r3vae.config.Konfig", "recbole_r3vae.sid.tables"]
