"""The door of the house: README.md within its limits, its table as the records have it, and its tokenizer, put where it says and run."""

from __future__ import annotations

import ast
import glob
import importlib.util
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
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"`(\S+)`:\n\n```(\w+)\n(.*?)```\n", re.DOTALL)
SECTIONS = [
    "Install and run", "Does it work?", "Swap one thing", "If you know RecBole", "Models", "A tokenizer of your own", "Where next",
]  # fmt: skip


def script(name: str):
    """A script of docs/ as a module."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def section() -> str:
    return re.search(r"^## A tokenizer of your own\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)[1]


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


# -- limits ----------------------------------------------------------------------------------------------------------------------


def test_it_is_one_screen_in_a_fixed_order():
    assert len(README.splitlines()) <= 150 and len(README.split()) <= 1200
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^##+ (.*)$", prose, re.MULTILINE) == SECTIONS
    lines = [line for line in prose.splitlines() if line[:1] not in ("|", "!")]
    assert max(map(len, lines)) <= 150


def test_before_the_first_command_it_says_what_it_is_and_nothing_else():
    head, installing = README.partition("```bash\n")[0].split("## Install and run\n")
    title, what, picture = head.strip().split("\n\n")
    assert title == "# recbole-r3vae" and picture.startswith("![") and not installing.strip()
    assert not re.search(r"\d\.\d|\bbut\b|\bonly\b|\bexcept\b|\bnot\b|\bhowever\b", what.replace("2604.11440", ""), re.IGNORECASE)


def test_every_link_leads_to_something():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert len(targets) > 15 and [target for target in targets if not (ROOT / target).exists()] == []


# -- the table -------------------------------------------------------------------------------------------------------------------


def test_the_table_is_that_of_the_records():
    table = script("build_table")
    assert table.page() == README, "run python docs/build_table.py"
    assert README.count(table.BEGIN) == README.count(table.END) == 1 and 0 < len(table.ROWS) <= 6


def test_the_table_shows_means_over_seeds_and_budgets():
    table = script("build_table")
    lines = table.table().splitlines()[2:]
    assert len(lines) == len(table.ROWS)
    for line, (item, (name, label)) in zip(lines, table.ROWS.items()):
        files = [path for folder in table.RUNS for path in folder.glob(f"{glob.escape(name)}-*.json")]
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        runs = [run for run in runs if "schema" in run and run.get("label") == label]
        _, shown_item, model, seeds, left_out, stay, parameters, minutes, _ = (cell.replace(table.NO_BREAK, " ").strip() for cell in line.split("|"))
        assert (shown_item, model) == (item, name) and int(seeds) == len({run["seed"] for run in runs}) == len(runs)
        for rule, cell in (("left_out", left_out), ("stay", stay)):
            for metric, shown in zip(("recall@10", "ndcg@10"), cell.split("/")):
                values = [run["test"][rule][metric] for run in runs]
                assert float(shown.split("±")[0]) == pytest.approx(sum(values) / len(values), abs=5.1e-5)
        spent = [run["seconds"]["training"] + (run["seconds"]["tokenizer"] or 0) for run in runs]
        assert int(minutes.split(",")[0]) == round(sum(spent) / len(spent) / 60)
        assert ("stopped" in minutes) == any(run["stopped_at_budget"] for run in runs)
        assert parameters == f"{runs[0]['n_parameters'] / 1e6:.2f} M"


def test_of_several_configurations_the_one_of_most_seeds_is_shown():
    from recbole_r3vae.record import Record

    table = script("build_table")

    def runs(*seeds: int, rule: str, score: float, label: str | None = None) -> list[Record]:
        what = {"dataset": "tiny", "name": "A", "model": "A", "hash": "0", "config": {}, "data": {}}
        return [Record(**what, label=label, seed=seed, valid_rule=rule, valid={"ndcg@10": score}) for seed in seeds]

    single, three, named = runs(1, rule="left_out", score=0.9), runs(1, 2, 3, rule="stay", score=0.1), runs(1, rule="stay", score=0, label="x")
    assert table.chosen("A", None, [single, three, named]) == three and table.chosen("A", "x", [single, three, named]) == named
    ours, theirs = runs(1, rule="left_out", score=0.1), runs(1, rule="stay", score=0.9)
    assert table.chosen("A", None, [theirs, ours]) == ours and table.chosen("A", None, [ours, single]) == single
    for name, label in (("B", None), ("A", "y")):
        with pytest.raises(ValueError, match=f"no record of {name}"):
            table.chosen(name, label, [single])


# -- the home page of the site -----------------------------------------------------------------------------------------------------


def test_the_home_page_is_the_readme_with_its_links_as_seen_from_docs():
    home = script("home")
    page = home.as_page(README)
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert "://" in target or (ROOT / "docs" / target).exists(), target
    assert "](docs/" not in page and "see examples" in page and "images/pipeline.svg" in page
    assert [line for line in page.splitlines() if "](" not in line][:2] == ["# recbole-r3vae", ""]


# -- the tokenizer -----------------------------------------------------------------------------------------------------------------


def test_it_takes_one_class_of_25_lines_with_one_method_and_one_yaml(section):
    (source, python, code), (settings, language, keys) = BLOCK.findall(section)
    assert (python, language) == ("python", "yaml")
    [model] = [node for node in ast.parse(code).body if isinstance(node, ast.ClassDef)]
    assert len(code.splitlines()) <= 25
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
