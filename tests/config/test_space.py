"""Search spaces say what hyperopt draws from, and a line that says nothing gets a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_r3vae.config.sources import properties
from recbole_r3vae.config.space import read_space, space_of
from recbole_r3vae.errors import UserError


def test_a_file_is_read_as_settings_are(tmp_path):
    path = tmp_path / "x.hyper"
    path.write_text(
        "# all kinds\nlearning_rate loguniform -7,-5\n\ndropout uniform 0.1, 0.5\nhidden_size quniform 32,64,32\n"
        "tokenizer_codebook_sizes choice ['[8,8]', [6, 6]]\nname choice ['BPR', None]\nrate choice [1e-3,2]\n"
        "item_text_template choice ['{title}', '{title} by {brand}']\nuser_inter_num_interval choice ['[5,inf)', '[9,inf)']\n"
    )
    assert read_space(path) == {
        "learning_rate": ("loguniform", [-7, -5]), "dropout": ("uniform", [0.1, 0.5]), "hidden_size": ("quniform", [32, 64, 32]),
        "tokenizer_codebook_sizes": ("choice", [[8, 8], [6, 6]]), "name": ("choice", ["BPR", "None"]), "rate": ("choice", [0.001, 2]),
        "item_text_template": ("choice", ["{title}", "{title} by {brand}"]), "user_inter_num_interval": ("choice", ["[5,inf)", "[9,inf)"]),
    }  # fmt: skip
    as_dict = {"choice": {"n_layers": (1, 2), "sizes": ["[4]"]}, "uniform": {"dropout": [0, 1]}}
    assert space_of(as_dict) == {"n_layers": ("choice", [1, 2]), "sizes": ("choice", [[4]]), "dropout": ("uniform", [0, 1])}


@pytest.mark.parametrize("text, expected", [
    ("a choice", "line 1: a choice None is no list"), ("a", "line 1: '' is no kind of range; write a and one of choice"),
    ("a choise [1]", "'choise' is no kind of range; did you mean 'choice'"),
    ("a uniform 2,1", "a uniform is made of [2, 1]; give low and high"),
    ("a quniform 1,2", "give low, high and a step"), ("a quniform 1,2,0", "a step above 0"), ("a uniform x,y", "is made of ['x', 'y']"),
    ("a choice [1]\na choice [2]", "line 2: a has a range already"), ("\n# b choice [1]\n", "is empty; write what to draw from"),
    ("a choice [__import__('os').system('touch executed')]", None), ("a choice 3", "a choice 3 is no list"),
])  # fmt: skip
def test_a_line_that_says_nothing_is_named_and_none_is_evaluated(tmp_path, text, expected):
    path = tmp_path / "x.hyper"
    path.write_text(text)
    if expected is None:
        assert read_space(path)["a"][0] == "choice"
    else:
        with pytest.raises(UserError) as caught:
            read_space(path)
        assert expected in str(caught.value) and str(path) in str(caught.value)
    assert not Path("executed").exists()


@pytest.mark.parametrize("ranges, expected", [
    ({"choice": [1]}, "choice of params_dict is [1]; give keys"), ({"choice": {"a": []}}, "a choice [] is no list"),
    ({}, "params_dict is empty"),
    ({"choice": {"a": [1]}, "uniform": {"a": [0, 1]}}, "a has two ranges"), ({"normal": {"a": [0, 1]}}, "'normal' is no kind"),
])  # fmt: skip
def test_ranges_from_python(ranges, expected):
    with pytest.raises(UserError) as caught:
        space_of(ranges)
    assert expected in str(caught.value)


def test_the_spaces_of_this_package_are_some():
    for path in (properties() / "hyper").glob("*.hyper"):
        assert all(kind == "choice" and len(values) > 1 for kind, values in read_space(path).values())
