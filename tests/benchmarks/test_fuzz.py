"""Damaged input is answered by a correct result or by one line; ``benchmarks/fuzz.py`` tries many more."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DAMAGED = ["inter", "item", "sid", "yaml", "command"]
MADE = ["data", "settings", "parts", "quoted", "histories", "index"]


@pytest.fixture(scope="module")
def fuzz():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        import fuzz

        yield fuzz


@pytest.fixture(scope="module")
def valid(fuzz, tmp_path_factory):
    """A folder with the valid inputs, made once."""
    top = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch, fuzz.quietly():
        patch.chdir(top)
        fuzz.write_inputs(top)
    return top


@pytest.mark.parametrize("kind", DAMAGED + MADE)
def test_no_damage_ends_in_a_traceback_or_a_wrong_result(fuzz, valid, monkeypatch, kind):
    monkeypatch.chdir(valid)

    @settings(max_examples=25 if kind in DAMAGED else 15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(number=st.integers(0, 10**6))
    def check(number):
        tried = fuzz.attempt(kind, number, valid)
        assert tried.answer != "wrong", tried

    with fuzz.quietly():
        check()


def test_undamaged_input_is_accepted_at_every_stage(fuzz, valid, monkeypatch):
    monkeypatch.chdir(valid)
    monkeypatch.setattr(fuzz, "damaged", lambda text, rng, separator: text.encode())
    monkeypatch.setattr(fuzz, "damaged_words", lambda words, rng: words)
    with fuzz.quietly():
        for kind in DAMAGED:
            tried = [fuzz.attempt(kind, number, valid) for number in range(len(fuzz.STAGES[kind]))]
            assert [one.answer for one in tried] == ["accepted"] * len(tried), tried


@pytest.mark.parametrize("fault, expected", [
    ("raise", "exit status None"), ("two lines", "not one printable line"), ("escape", "not one printable line"),
    ("no remedy", "no remedy"),
    ("nameless", "the thing is not named"), ("lost", "another share of unique"), ("executed", "was executed"), ("noise", "said something"),
])  # fmt: skip
def test_what_is_wrong_is_seen(fuzz, valid, monkeypatch, fault, expected):
    """Each fault is put where the command line would have it."""
    monkeypatch.chdir(valid)

    def faulty(words):
        shown = {"two lines": "recbole-r3vae: small.sid; a\nb", "escape": "recbole-r3vae: small.sid; \x1b", "nameless": "recbole-r3vae: a; b"}
        if fault == "raise":
            return None, "Traceback"
        if fault == "executed":
            Path("executed").touch()
        if fault in ("lost", "noise"):
            Path("out.json").write_text(json.dumps({"unique_ratio": 0.5}))
            return 0, "noise" if fault == "noise" else ""
        return 2, shown.get(fault, "recbole-r3vae: small.sid is wrong")

    monkeypatch.setattr(fuzz, "damaged", lambda text, rng, separator: text.encode())
    monkeypatch.setattr(fuzz, "answer", faulty)
    tried = fuzz.attempt("sid", 0, valid)
    assert tried.answer == "wrong" and expected in tried.shown
    assert not Path("executed").exists() and not Path("out.json").exists()


@pytest.mark.parametrize("kind, fault, expected", [
    ("data", "another item", "others for"), ("data", "refused", "not named"), ("quoted", "an item lost", "items ["),
    ("histories", "a history lost", "recommendations for"), ("parts", "nothing measured", "scores are"),
    ("index", "refused", "was refused"),
    ("settings", "another number", "another configuration"), ("settings", "taken", "what no file can hold was taken"),
])  # fmt: skip
def test_what_is_wrong_with_an_input_of_known_outcome_is_seen(fuzz, valid, monkeypatch, kind, fault, expected):
    monkeypatch.chdir(valid)

    def faulty(words):
        if fault == "refused":
            return 2, "recbole-r3vae: a; b"
        status, shown = right(words)
        for path in (valid / "out.csv", valid / "out.ids"):
            if path.exists():
                lines = path.read_text().splitlines()
                changed = [lines[0], *(line.replace(",i", ",j") for line in lines[1:])] if fault == "another item" else lines[:1]
                path.write_text("\n".join(changed) + "\n")
        for path in valid.glob("saved/**/result.json"):
            path.write_text(json.dumps({"test": {"stay": {}, "left_out": None}}))
        return status, shown

    right = fuzz.answer
    monkeypatch.setattr(fuzz, "answer", faulty)
    if kind == "settings":
        found = SimpleNamespace(declared={})
        config = lambda *_, config_dict: found if fault == "taken" else SimpleNamespace(declared=config_dict)  # noqa: E731
        monkeypatch.setattr(fuzz.fuzz_kinds, "Config", config)
    with fuzz.quietly():
        shown = [tried.shown for tried in (fuzz.attempt(kind, number, valid) for number in range(12)) if tried.answer == "wrong"]
    assert any(expected in text for text in shown), shown


def test_the_script_counts_what_it_tried(fuzz, capsys):
    assert fuzz.main(["--rounds", "2", "--kinds", "sid", "yaml"]) == 0
    assert [line.split(" accepted=")[0] for line in capsys.readouterr().out.splitlines()[-2:]] == ["sid inputs=2", "yaml inputs=2"]
