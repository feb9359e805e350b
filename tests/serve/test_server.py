"""The web server of the guide, as it stands there: several clients at once get what the recommender says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recbole_r3vae.serve.recommender import Recommender

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "serving_programs.md").read_text(encoding="utf-8")


@pytest.fixture
def served(checkpoint, tmp_path):
    """A function that asks a server of its own, and the recommender of the same run."""
    [script] = re.findall(r"`server\.py`:\n\n```python\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "server.py").write_text(script, encoding="utf-8")
    server = subprocess.Popen(
        [sys.executable, "server.py", str(checkpoint()), "0"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def ask(way: str, body) -> tuple[int, object]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{way}", data, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    try:
        port = int(server.stdout.readline())
        yield ask, Recommender(checkpoint())
    finally:
        server.terminate()
        server.wait(30)


def test_the_server_of_the_guide(served, histories):
    ask, recommender = served
    asked = [items[:length] for length, items in zip(range(3, 15), histories.values())]

    def expected(history, **more):
        table = recommender.recommend([history], 4, exclude_seen=True, **more)
        return list(table["item"]), list(table["score"])

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda history: ask("/recommend", {"history": history, "k": 4, "exclude": ["50"]}), asked))
    for history, (status, rows) in zip(asked, answers):
        items, scores = expected(history, exclude=["50"])
        assert status == 200 and [row["item"] for row in rows] == items
        assert [row["score"] for row in rows] == pytest.approx(scores, abs=1e-5)

    gone = expected(asked[0])[0][0]
    assert ask("/remove", {"items": [gone]}) == (200, None)
    assert gone not in [row["item"] for row in ask("/recommend", {"history": asked[0], "k": 20})[1]]
    status, told = ask("/explain", {"item": "50"})
    assert status == 200 and told["sid"] == recommender.explain("50").sid

    for way, body, word in (
        ("/recommend", {"history": "50 181"}, "list of ids"), ("/recommend", {"history": ["50"], "k": 0}, "give a whole number from 1"),
        ("/recommend", {"histories": [["50"]]}, "histories"), ("/explain", {"item": "x"}, "not among"),
        ("/remove", {"items": ["x"]}, "does not know"), ("/fly", {}, "/fly"), ("/recommend", b"{", "Expecting"),
    ):  # fmt: skip
        status, answer = ask(way, body)
        assert status == 400 and word in answer["error"]


def test_the_table_of_calls_names_what_there_is():
    table = GUIDE.split("| call | does |")[1].split("\n\n")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    named = {name for cell in first for name in re.findall(r"`(\w+)\(", cell)} - {"Recommender"}
    public = {name for name, value in vars(Recommender).items() if callable(value) and not name.startswith("_")}
    assert named == public - {"histories_of"}
