"""Every row of docs/reliability.md names tests that exist, and every refusal names a remedy."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "reliability.md"
PASSED_ON = {"error", "refusal", "remedy", "way_out"}
"""Names of what ends in a remedy already: another refusal, or the remedy itself."""


def test_every_row_names_tests_that_exist():
    tables, _ = PAGE.read_text(encoding="utf-8").split("## Fuzzing")  # that table holds counts
    rows = [line for line in tables.splitlines() if line.startswith("| ") and "proved by" not in line]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, function in named:
            assert re.search(rf"^def {function}\(", (HERE / file).read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{function}"


def test_every_refusal_names_a_remedy():
    """What is wrong, a semicolon, what to do; ``did_you_mean(…, otherwise=…)`` puts the semicolon itself."""
    checked, without = 0, []
    for path in sorted((HERE.parent / "recbole_r3vae").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and getattr(node.exc.func, "id", "") == "UserError"):
                continue
            inside = list(ast.walk(node.exc))
            text = "".join(part.value for part in inside if isinstance(part, ast.Constant) and isinstance(part.value, str))
            names = {part.id for part in inside if isinstance(part, ast.Name)} | {part.arg for part in inside if isinstance(part, ast.keyword)}
            checked += 1
            if "; " not in text and not names & {*PASSED_ON, "hint", "otherwise"}:
                without.append(f"{path.name}, line {node.lineno}: {text}")
    assert checked > 150 and not without, without
