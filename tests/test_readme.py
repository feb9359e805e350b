"""The README's tokenizer of 30 lines: its two files, put where it says, run by the command that it gives."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recbole_r3vae.sid.table import SemanticIDs

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"`(\S+)`:\n\n```(\w+)\n(.*?)```\n", re.DOTALL)


@pytest.fixture(scope="module")
def section() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"^## A tokenizer of your own\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)[1]


@pytest.fixture
def checkout(tmp_path, section) -> Path:
    """A copy of the package with the README's files in it."""
    folder = tmp_path / "checkout"
    for name in ("recbole_r3vae", "properties"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run_recbole_r3vae.py", folder)
    for path, _, text in BLOCK.findall(section):
        assert (folder / path).parent.is_dir() and not (folder / path).exists()
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def test_it_takes_one_class_of_30_lines_with_one_method_and_one_yaml(section):
    (source, python, code), (settings, language, keys) = BLOCK.findall(section)
    assert (python, language) == ("python", "yaml")
    [model] = [node for node in ast.parse(code).body if isinstance(node, ast.ClassDef)]
    assert len(code.splitlines()) <= 30
    methods = [node.name for node in model.body if isinstance(node, ast.FunctionDef)]
    assert [name for name in methods if name != "__init__"] == ["quantize"]
    assert Path(source).stem == model.name.lower() and Path(settings).stem == model.name
    assert yaml.safe_load(keys)["codebook_sizes"] == [256, 256, 256]


def test_the_command_of_the_readme_runs_it(section, checkout, tiny_settings):
    [command] = re.findall(r"```bash\n(.*?)\n```", section)
    del tiny_settings["tokenizer_epochs"]  # its YAML says how long it trains
    (checkout / "tiny.yaml").write_text(yaml.safe_dump({**tiny_settings, "epochs": 1}), encoding="utf-8")
    python, *words = command.replace("--dataset=ml-100k", "--dataset=tiny").split()
    assert python == "python"
    run = subprocess.run(
        [sys.executable, *words, "--config_files", "tiny.yaml"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "R3GR[MatchingPursuit] on tiny" in run.stdout + run.stderr
    [description] = Path(tiny_settings["checkpoint_dir"]).glob("tiny/MatchingPursuit-*/tokenizer.json")
    assert json.loads(description.read_text())["config"]["epochs"] == 0
    raw = SemanticIDs.load(description.parent / "raw.sid")
    assert raw.codebook_sizes == (8, 8, 8) and raw.n_items == 149
    assert len(raw.codes[1:].unique(dim=0)) > 50
    assert SemanticIDs.load(description.parent / "suffix.sid").unique
