"""The documentation says what the package does: its key reference, its commands and keys, the paths it names, and the search spaces."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recbole_r3vae import cli
from recbole_r3vae.config import Config, tokenizer_config
from recbole_r3vae.config.registry import MODEL_ROOMS, get_model, own_models
from recbole_r3vae.config.sources import load_yaml, parse_value, properties

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INSIDE = re.compile(r"`([\w./-]+\.(?:py|yaml))`")
FILE = re.compile(r"`(\S+)`:\n\n```\w+\n(.*?)```\n", re.DOTALL)
TOKENIZERS, GENERATORS, BASELINES = (sorted(own_models(room)) for room in MODEL_ROOMS)
TUNED = sorted({*TOKENIZERS, *GENERATORS, *BASELINES} - {"Recency"})  # which has nothing to tune


@pytest.fixture(scope="module")
def build_keys():
    specification = importlib.util.spec_from_file_location("build_keys", DOCS / "build_keys.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["build_keys"] = module  # where dataclasses look for their module
    specification.loader.exec_module(module)
    return module


def commands() -> list:
    """Every ``recbole-r3vae`` command and every call of the script in the pages."""
    found = []
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in text.splitlines() if language == "bash" else ():
                line = line.partition("&& ")[2] or line
                line = line.replace("python -m recbole_r3vae.cli ", "recbole-r3vae ")
                if line.startswith("recbole-r3vae "):
                    found.append(pytest.param(shlex.split(line, comments=True)[1:], id=f"{page.stem}: {line[14:60]}"))
                elif line.startswith("python run_recbole_r3vae.py "):
                    found.append(pytest.param(["run", *shlex.split(line, comments=True)[2:]], id=f"{page.stem}: {line[28:70]}"))
    return found


# -- the key reference ---------------------------------------------------------------------------------------------------------


def test_the_key_reference_is_up_to_date(build_keys):
    assert build_keys.PAGE.read_text(encoding="utf-8") == build_keys.page(), "run python docs/build_keys.py"


def test_the_key_reference_explains_every_key(build_keys):
    page = build_keys.page()
    for name in TOKENIZERS + GENERATORS + BASELINES:
        chapter = re.search(rf"^### {name}\n(.*?)(?=^##)", page, re.DOTALL | re.MULTILINE)[1]
        rows = re.findall(r"^\| `(\w+)` \| `.*?` \| \*(\w*):\* (.*) \|$", chapter, re.MULTILINE)
        keys = load_yaml(properties() / "model" / f"{name}.yaml")
        assert [key for key, *_ in rows] == list(keys)
        assert [key for key, kind, meaning in rows if not (kind and meaning)] == []


def test_a_file_is_read_as_yaml_reads_it(build_keys, tmp_path):
    file = tmp_path / "any.yaml"
    file.write_text(
        "# What it is for.\n\n# First things\na: 1e-3  # (float) One,\n         #   and more.\n"
        "b:       # (dict) Two.\n  c: [1, 2]\n\nd: ~\n"
    )
    intro, sections = build_keys.read(file)
    assert intro == ["What it is for."] and [section.title for section in sections] == ["First things"]
    assert [build_keys.explained(row) for row in sections[0].rows] == [("float", "One, and more."), ("dict", "Two."), ("", "")]
    file.write_text("a: 1\n? b\n")
    with pytest.raises(ValueError, match="neither a key nor a comment"):
        build_keys.read(file)


# -- the pages -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", commands())
def test_every_command_is_one_and_its_keys_exist(words, tmp_path, monkeypatch):
    options, rest = cli._parser().parse_known_args(words)
    if words[0] == "run":
        monkeypatch.chdir(tmp_path)
        name = options.model if options.model not in ("SoftToHard", "SIDGRU") else {"SoftToHard": "RQVAE", "SIDGRU": "R3GR"}[options.model]
        words = [word for word in rest if word != "--tokenizer=SoftToHard"]
        Config(name, options.dataset, arguments=words)  # an unknown key is an error
    elif words[0] not in ("embed", "benchmark", "tune", "coldstart", "ctr"):
        assert not rest


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_path_in_the_package_exists(page):
    named = re.findall(r"`((?:recbole_r3vae|properties|results|benchmarks|docs)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    made = {path for path, _ in FILE.findall(page.read_text(encoding="utf-8"))}
    made |= {"results/leaderboard.html", "properties/dataset/shop.yaml"}
    assert [path for path in named if path not in made and not (ROOT / path).exists()] == []


def test_every_model_is_on_the_models_page():
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    chapters = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE))
    for name in TOKENIZERS + GENERATORS + BASELINES:
        source = Path(sys.modules[get_model(name).__module__].__file__).relative_to(ROOT)
        assert f"`{source.as_posix()}`" in chapters[name] and f"keys.md#{name.lower()}" in chapters[name]
        for paper in re.findall(r"arXiv (\d{4}\.\d{5})", chapters[name]):
            assert f"https://arxiv.org/abs/{paper}" in chapters[name]


@pytest.mark.parametrize("guide, model", [("tokenizer", "SoftToHard"), ("generator", "SIDGRU")])
def test_the_model_of_a_guide_runs(guide, model, tiny_settings, tmp_path):
    checkout = tmp_path / "checkout"
    for name in ("recbole_r3vae", "properties"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run_recbole_r3vae.py", checkout)
    files = FILE.findall((DOCS / "guides" / f"{guide}.md").read_text(encoding="utf-8"))
    for path, text in files:
        assert (checkout / path).parent.is_dir() and not (checkout / path).exists()
        (checkout / path).write_text(text, encoding="utf-8")
    [defined] = [node.name for node in ast.parse(files[0][1]).body if isinstance(node, ast.ClassDef)]
    assert defined == model and Path(files[0][0]).stem == model.lower() and Path(files[1][0]).stem == model
    known = {**load_yaml(properties() / "overall.yaml"), **yaml.safe_load(files[1][1]), "tokenizer_epochs": 1}
    places = ("data_path", "show_progress", "load_col", "MAX_ITEM_LIST_LENGTH", "codebook_sizes")
    settings = {key: value for key, value in tiny_settings.items() if key in known or key in places}
    if guide == "tokenizer":
        del settings["tokenizer_epochs"]
    (checkout / "tiny.yaml").write_text(yaml.safe_dump({**settings, "epochs": 2, "strict_config": True}), encoding="utf-8")
    command = [sys.executable, "run_recbole_r3vae.py", f"--model={model}", "--dataset=tiny", "--config_files", "tiny.yaml"]
    run = subprocess.run(command, cwd=checkout, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    if guide == "generator":
        [result] = Path(settings["checkpoint_dir"]).glob(f"tiny/{model}-*/result.json")
        assert json.loads(result.read_text())["name"] == "SIDGRU[R3VAE]"
    else:
        [description] = Path(settings["checkpoint_dir"]).glob(f"tiny/{model}-*/tokenizer.json")
        first, last = (epoch["valid"]["reconstruction"] for epoch in json.loads(description.read_text())["history"])
        assert last < first  # it trains


# -- architecture ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def architecture() -> str:
    return (DOCS / "architecture.md").read_text(encoding="utf-8")


def test_every_file_on_the_walks_exists(architecture):
    named = INSIDE.findall(architecture)
    assert len(named) > 60
    assert [path for path in named if not ((ROOT / "recbole_r3vae" / path).is_file() or (ROOT / path).is_file())] == []
    walks = re.findall(r"^### (.*)\n\n\| file \| what happens \|", architecture, re.MULTILINE)
    assert walks == ["An item's text", "A `--key=value`", "A batch", "A result"]


def test_the_floors_are_those_that_imports_are_held_to(architecture):
    tree = ast.parse((ROOT / "tests" / "test_import_graph.py").read_text(encoding="utf-8"))
    [floors] = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "FLOORS"]
    table = re.search(r"^\| floor \| holds \|\n\|---\|---\|\n(.*?)\n\n", architecture, re.DOTALL | re.MULTILINE)[1]
    assert [set(re.findall(r"`(\w+)`", line.split("|")[1])) for line in table.splitlines()] == floors


def test_every_page_is_in_the_navigation_and_every_link_between_pages_holds():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.relative_to(DOCS).as_posix() not in navigation] == []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), (page.name, target)


def test_the_changelog_sends_nobody_to_a_module_that_is_not_there():
    chapter = re.search(r"^\*\*Module paths\*\*\n(.*?)^\*\*", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1]
    rows = [line.split("|")[1:3] for line in chapter.splitlines() if line.startswith("| `")]
    named = []
    for old, new in rows:
        for path in re.findall(r"`(recbole_r3vae\.[\w.{},]+)`", new if "the same" not in new else old):
            stem, _, choices = path.partition("{")
            named += [f"{stem}{choice}" for choice in choices.rstrip("}").split(",")]
    assert len(named) > 15 and [path for path in named if importlib.util.find_spec(path) is None] == []


# -- the search spaces of properties/hyper -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spaces() -> dict:
    pytest.importorskip("hyperopt", reason="RecBole's HyperTuning needs the [tune] extra")
    from recbole.trainer import HyperTuning

    found = {}
    for path in (properties() / "hyper").glob("*.hyper"):
        tuning = HyperTuning(None, params_file=path)  # RecBole's parser; it counts the settings
        values = {}
        for line in path.read_text().splitlines():
            key, kind, choices = line.split(" ", 2)
            assert kind == "choice"
            values[key] = [parse_value(key, value) if isinstance(value, str) else value for value in ast.literal_eval(choices)]
        assert set(values) == set(tuning.space)
        found[path.stem] = int(tuning.max_evals), values
    return found


def test_every_model_has_a_search_space_of_bearable_size(spaces):
    assert sorted(spaces) == TUNED
    assert all(2 <= size <= 36 for size, _ in spaces.values())


@pytest.mark.parametrize("name", TUNED)
def test_a_search_space_holds_the_model_s_keys_and_its_defaults(name, spaces):
    defaults = load_yaml(properties() / "model" / f"{name}.yaml")
    is_tokenizer = name in TOKENIZERS
    for key, values in spaces[name][1].items():
        own = key.removeprefix("tokenizer_") if is_tokenizer else key
        assert (own != key) == is_tokenizer
        assert own in defaults and defaults[own] in values and len({str(value) for value in values}) == len(values)
        for value in values:
            if is_tokenizer:
                config = tokenizer_config(Config("R3GR", "lastfm", config_dict={"tokenizer": name, key: value}))
                second = "collaborative" if name == "PRISM" else "image"
                items = {"dim": 256, "parts": {"text": slice(0, 192), second: slice(192, 256)}}
                config.model_class(config, type("Items", (), items))  # refuses what is out of range
            else:
                config = Config(name, "ml-100k", config_dict={key: value})
                assert type(value) is type(defaults[own])
            assert config[own] == value
