"""What is installed is the whole package: a wheel, built as `pip install .` builds it, in an empty folder, far from the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from recbole_r3vae import __version__
from recbole_r3vae.cli import COMMANDS
from recbole_r3vae.config.registry import own_models

ROOT = Path(__file__).parents[1]
BUILT_OF = ("recbole_r3vae", "properties", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
LOOKS_UP = """
import importlib, json, sys
from pathlib import Path
import recbole_r3vae
from recbole_r3vae.config import Config
from recbole_r3vae.config.registry import own_models
from recbole_r3vae.config.sources import load_yaml, properties
home = Path(recbole_r3vae.__file__).parent
[css] = home.rglob("style.css")
page = importlib.import_module("recbole_r3vae.experiments.leaderboard.page.document").page([])
print(json.dumps({
    "home": str(home),
    "defaults": {name: load_yaml(properties() / "model" / f"{name}.yaml") == {} for name in own_models()},
    "properties": str(properties()),
    "tokenizer": Config("R3GR", "ml-100k", config_dict={"device": "cpu"})["tokenizer"],
    "styled": css.read_text(encoding="utf-8") in page and css.with_name("script.js").read_text(encoding="utf-8") in page,
    "entrances": [getattr(recbole_r3vae, name).__name__ for name in ("Recommender", "run_recbole_r3vae", "load_data_and_model")],
}))
"""


def pip(*words: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: building leaves folders behind. Its backend, setuptools, is in the extra `test`."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in BUILT_OF:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    pip("wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder / "made", folder / "source")
    [made] = (folder / "made").iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """A folder with the package and nothing else."""
    target = wheel.parents[1] / "installed"
    pip("install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", target, wheel)
    return target


def run_beside(installed: Path, folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_every_file_of_the_package_and_nothing_else(wheel):
    rooms = {ROOT / "recbole_r3vae": "recbole_r3vae", ROOT / "properties": "recbole_r3vae/properties"}
    files = [(folder, path) for folder in rooms for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    expected = {f"{rooms[folder]}/{path.relative_to(folder).as_posix()}" for folder, path in files if "__pycache__" not in path.parts}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert len(expected) > 200 and held == expected and wheel.name.startswith(f"recbole_r3vae-{__version__}-py3-")


def test_the_command_works_in_an_empty_folder(installed, tmp_path):
    shown = run_beside(installed, tmp_path, "-m", "recbole_r3vae.cli", "--help")
    assert re.findall(r"^    (\w+)", shown, re.MULTILINE) == list(COMMANDS)
    assert run_beside(installed, tmp_path, str(installed / "bin" / "recbole-r3vae"), "--version").strip() == __version__
    assert list(tmp_path.iterdir()) == []


def test_settings_and_pages_are_found_there(installed, tmp_path):
    found = json.loads(run_beside(installed, tmp_path, "-c", LOOKS_UP).splitlines()[-1])
    assert Path(found["home"]) == installed / "recbole_r3vae" and Path(found["properties"]) == installed / "recbole_r3vae" / "properties"
    assert found["tokenizer"] == "R3VAE"
    assert found["defaults"] == dict.fromkeys(own_models(), False) and found["styled"]
    assert found["entrances"] == ["Recommender", "run_recbole_r3vae", "load_data_and_model"]


def test_importing_the_package_is_light(tmp_path):
    script = "import sys, recbole_r3vae; assert 'Recommender' in dir(recbole_r3vae); print([n for n in ('torch', 'recbole') if n in sys.modules])"
    assert run_beside(ROOT, tmp_path, "-c", script).strip() == "[]"
    assert "has no attribute 'Recomender'" in run_beside(
        ROOT, tmp_path, "-c", "import recbole_r3vae\ntry: recbole_r3vae.Recomender\nexcept AttributeError as error: print(error)"
    )
