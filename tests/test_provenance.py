"""Which code made a result."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import recbole_r3vae
from recbole_r3vae.provenance import commit


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
