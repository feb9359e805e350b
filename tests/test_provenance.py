"""Which code made a result."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError

import pytest

import recbole_r3vae
from recbole_r3vae.provenance import commit, versions


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_packages_own_checkout(tmp_path, monkeypatch):
    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", "-C", tmp_path, *author, *words], check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "recbole_r3vae" / "__init__.py"
    package.parent.mkdir()
    package.touch()
    installed = tmp_path / "venv" / "site-packages" / "recbole_r3vae" / "__init__.py"
    monkeypatch.setattr(recbole_r3vae, "__file__", str(package))
    assert commit() is None
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    assert commit() == git("rev-parse", "--short=7", "HEAD")
    package.write_text("x = 1\n")
    assert commit() == git("rev-parse", "--short=7", "HEAD") + "-dirty"
    monkeypatch.setattr(recbole_r3vae, "__file__", str(installed))  # in an environment inside somebody's repository
    assert commit() is None


def test_a_package_that_is_not_there_has_no_version(monkeypatch):
    def version(name):
        if name in ("faiss-cpu", "recbole-r3vae"):
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr("recbole_r3vae.provenance.version", version)
    found = versions()
    assert "faiss-cpu" not in found and found["torch"] == "1" and found["recbole-r3vae"] == recbole_r3vae.__version__
