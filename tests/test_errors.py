"""What a refusal looks like, whatever it is about."""

from __future__ import annotations

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_r3vae.cli import main
from recbole_r3vae.errors import UserError, as_user_error, did_you_mean, one_line, short_repr
from recbole_r3vae.sid.table import SemanticIDs


@pytest.mark.parametrize("text, line", [
    ("a\n  b\tc", "a b c"), ("\x1b[31mred\x07", "\\x1b[31mred\\x07"), ("\u202eabc", "\\u202eabc"), ("Müller 漢字", "Müller 漢字"),
    ("\udcff", "\\udcff"), ("x" * 10_000 + "; shorten it", "x" * 750 + " … " + "x" * 735 + "; shorten it"),
])  # fmt: skip
def test_a_message_is_one_line_that_a_terminal_can_show(text, line):
    assert one_line(text) == line and line.isprintable() and len(line) <= 1500


def test_a_long_value_is_cut():
    assert short_repr("a" * 1000) == "'" + "a" * 59 + "…" and short_repr([1, 2]) == "[1, 2]"


def test_what_recbole_raises_becomes_a_refusal_and_refusals_stay():
    with pytest.raises(UserError, match=r"^x cannot be read: ValueError: \[<class 'str'>\] is not supported.*; mend it$"):
        with as_user_error("x cannot be read", "mend it"):
            Interaction("no dict")
    with pytest.raises(UserError, match="^mine; do that$"):
        with as_user_error("x cannot be read", "mend it"):
            raise UserError("mine; do that")
    with pytest.raises(KeyboardInterrupt):
        with as_user_error("x cannot be read", "mend it"):
            raise KeyboardInterrupt


def test_a_mistake_of_this_package_and_a_lack_of_memory_stay_as_they_are():
    with pytest.raises(KeyError):  # raised where no frame is RecBole's
        with as_user_error("x cannot be read", "mend it"):
            {}["a"]
    with pytest.raises(RuntimeError):  # torch's, but called from this package
        with as_user_error("x cannot be read", "mend it"):
            SemanticIDs(torch.tensor([[-1], [0]]), (1,), ["[PAD]", "a"]).codes @ torch.zeros(3)
    with pytest.raises(MemoryError):
        with as_user_error("x cannot be read", "mend it"):
            Interaction(Huge())


class Huge(dict):
    """Columns that RecBole cannot hold."""

    def items(self):
        raise MemoryError


def test_nearest_takes_whatever_a_file_held():
    assert did_you_mean(3.5, ["epochs"]) == "" and did_you_mean(["R3VAE"], ["R3VAE"]) == "; did you mean 'R3VAE'?"
    assert did_you_mean("zzz", ["epochs"], otherwise="leave it out") == "; leave it out"


@pytest.mark.parametrize("words, expected", [
    (["quality", "--sid=", "--embeddings=v.npy"], "--sid is empty"), (["inspect", "--sid=--"], "'--sid=--' has no value"),
    (["tokenize", "--embeddings=.", "--output=x.sid"], "'.' names no file"), (["embed", "--dataset=tiny", "--output=.."], "'..' names no file"),
])  # fmt: skip
def test_paths_that_are_none(capfd, words, expected):
    assert main(words) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("recbole-r3vae: ") and expected in line and "; " in line
