"""Words become options of the command they follow, settings of its run, or one line."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from recbole_r3vae.cli import COMMANDS, _parser, main
from recbole_r3vae.cli.arguments import Parser, files_of
from recbole_r3vae.sid.table import SemanticIDs


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="x", allow_abbrev=False)
    parser.add_argument("--config_files", nargs="+", action="extend", default=[])
    parser.add_argument("--set", nargs="*", action="extend", default=[])
    parser.add_argument("--dataset", "-d")
    return parser


@pytest.mark.parametrize("words, files, rest", [
    (["--config_files", "a.yaml", "b.yaml", "--eval_args={mode: full}"], ["a.yaml", "b.yaml"], ["--eval_args={mode: full}"]),
    (["--config_files", "a.yaml", "--topk", "[5, 10]", "-d", "x"], ["a.yaml"], ["--topk", "[5, 10]"]),
    (["--topk=[5, 10]", "--config_files=a b.yaml", "--epochs=1"], ["a", "b.yaml"], ["--topk=[5, 10]", "--epochs=1"]),
    (["--config_files", "a.yaml", "--config_files", "b.yaml"], ["a.yaml", "b.yaml"], []),
    (["--set", "codebook_sizes=[3, 3]", "x=1", "--load_col={inter: [a, b]}"], [], ["--load_col={inter: [a, b]}"]),
])  # fmt: skip
def test_a_word_that_begins_with_dashes_is_never_a_value_of_a_list(parser, words, files, rest):
    options, found = parser.parse_known_args(words)
    assert files_of(options) == files and found == rest
    assert options.set == (["codebook_sizes=[3, 3]", "x=1"] if "--set" in words else [])


def test_a_file_whose_name_holds_a_space_is_one_file(parser, tmp_path):
    (tmp_path / "my settings.yaml").touch()
    options, _ = parser.parse_known_args(["--config_files", str(tmp_path / "my settings.yaml")])
    assert files_of(options) == [str(tmp_path / "my settings.yaml")]


@pytest.mark.parametrize("words", [["--config-files", "a.yaml", "--data-set=x"], ["--config_files=a.yaml", "--data_set", "x"]])
def test_dashes_and_underscores_are_one_spelling(parser, words):
    parser.add_argument("--data-set")
    options, rest = parser.parse_known_args([*words, "--learning-rate=1"])
    assert (options.config_files, options.data_set, rest) == (["a.yaml"], "x", ["--learning-rate=1"])


@pytest.mark.parametrize("words, hint", [
    (["tokenize", "--embeddings=v.npy", "--output=v.sid", "--codebook_sizes=[16,16]"], "stand behind --set: --set codebook_sizes=[16,16]"),
    (["tokenize", "--embeddings=v.npy", "--output=v.sid", "--tokeniser=OPQ"], "did you mean '--tokenizer'?; keys of the tokenizer stand behind"),
    (["prepare", "csv", "--event=e.csv"], "unrecognised argument '--event=e.csv'; did you mean '--events'?"),
    (["leaderboard", "--zzz"], "unrecognised argument '--zzz'; see recbole-r3vae leaderboard --help"),
])  # fmt: skip
def test_an_unknown_option_is_told_the_way(words, hint, capfd):
    assert main(words) == 2
    assert hint in capfd.readouterr().err


def test_quality_says_which_items_it_leaves_out(tmp_path, capfd):
    names = [f"i{n}" for n in range(6)]
    codes = torch.tensor([[-1, -1], *([n % 3, n // 3] for n in range(6))])
    SemanticIDs(codes, (3, 2), ["[PAD]", *names]).save(tmp_path / "x.sid")
    for n in (6, 4):
        np.save(tmp_path / "v.npy", np.eye(6, dtype="float32")[:n])
        (tmp_path / "v.ids").write_text("\n".join(names[:n]) + "\n")
        words = [f"--sid={tmp_path / 'x.sid'}", f"--embeddings={tmp_path / 'v.npy'}", f"--json={tmp_path / 'q.json'}"]
        assert main(["quality", *words]) == 0
        assert ("4 of 6 items of" in capfd.readouterr().out) == (n == 4)
        assert json.loads((tmp_path / "q.json").read_text())["items"] == {"scored": n, "left_out": 6 - n}


@pytest.mark.parametrize("words", [["--config_files"], ["--config_files", "--epochs=1"]])
def test_a_list_without_a_value_is_one_line(parser, words):
    with pytest.raises(ValueError, match="expected at least one argument; see x --help"):
        parser.parse_known_args(words)


def test_every_command_has_its_file_help_and_example(capsys):
    for name, command in COMMANDS.items():
        assert command.SUMMARY and command.HELP and command.__doc__ == f"``recbole-r3vae {name}``."
        with pytest.raises(SystemExit):
            _parser().parse_args([name, "--help"])
        assert command.HELP.split("\n")[0] in capsys.readouterr().out
    assert "recbole-r3vae run" in subprocess.run(
        [sys.executable, "-m", "recbole_r3vae.cli", "run", "--help"], capture_output=True, text=True, check=True
    ).stdout


REQUIRED = {
    "prepare": ["ml-100k"], "quality": ["--sid=x", "--embeddings=y"], "recommend": ["--checkpoint=x", "--users=1"],
    "tokenize": ["--embeddings=x", "--output=y"], "convert": ["--input=x", "--output=y"], "embed": ["--dataset=ml-100k", "--output=v.npy"],
    "inspect": ["--diff", "a.inter", "b.inter"], "run": ["--model=R3GR", "--dataset=ml-100k"], "tune": ["--dataset=ml-100k"],
    "coldstart": ["--dataset=ml-100k"], "ctr": ["--dataset=ml-100k"], "benchmark": ["--dataset=ml-100k", "--tokenizers=RKMeans"],
    "leaderboard": [], "pack": ["--checkpoint=x", "--output=y"],
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("word", ["--no_such_key=3", "stray word"])
def test_every_command_knows_a_key_or_says_it(name, word, capfd):
    assert main([name, *REQUIRED[name], word]) == 2
    [line] = [text for text in capfd.readouterr().err.splitlines() if text.startswith("recbole-r3vae: ")]
    assert ("no_such_key" if word.startswith("--") else "stray word") in line


def test_a_tokenizers_setting_that_is_none_is_one_line(tmp_path, capfd):
    np.save(tmp_path / "v.npy", np.eye(8, dtype="float32"))
    (tmp_path / "v.ids").write_text("".join(f"i{n}\n" for n in range(8)))
    given = ["tokenize", f"--embeddings={tmp_path / 'v.npy'}", "--output=x.sid"]
    for words, expected in (
        (["--set", "epoch=3"], "'epochs'"), (["--set", "model=RQVAE"], "--model='RQVAE' contradicts model R3VAE"),
        (["--add", "x.sid"], "--add is about"),
    ):  # fmt: skip
        assert main([*given, *words]) == 2
        assert expected in capfd.readouterr().err
    assert main(["tokenize", "--checkpoint=x", "--items=y", "--output=z.sid", "--set", "epochs=3"]) == 2
    assert "--set says how to train a tokenizer" in capfd.readouterr().err


def test_embed_follows_its_files_and_its_words(tiny_settings, tmp_path, capfd):
    mine = {key: tiny_settings[key] for key in ("data_path", "content_cache_dir", "load_col", "device")}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**mine, "item_text_fields": ["movie_title"], "content_dim": 8}))
    vectors = []
    for words in ([], ["--content_dim=6"], ["--item_text_fields=[class]"], ["--model=R3GR", "--hidden_size=16"]):
        assert main(["embed", "-d", "tiny", "--output=v.npy", "--config_files", "mine.yaml", *words]) == 0
        vectors.append(np.load("v.npy"))
    assert [found.shape[1] for found in vectors] == [8, 6, 8, 8]
    assert not np.allclose(vectors[0], vectors[2]) and np.array_equal(vectors[0], vectors[3])
    assert main(["embed", "-d", "tiny", "--output=v.npy", "--config_file=mine.yaml"]) == 2
    assert "given as --config_files FILE" in capfd.readouterr().err


def test_a_file_of_settings_and_a_word_fill_one_mapping(tiny_settings, tmp_path, capfd):
    """A key right after the files, with a space in it, reaches the run; what neither says stays as it was."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**tiny_settings, "epochs": 1, "eval_args": {"mode": "uni20"}}))
    words = ["--config_files", "mine.yaml", "--eval_args={group_by: user}", "--topk", "[5, 10]"]
    assert main(["run", "--model=BPR", "-d", "tiny", *words]) == 0
    [result] = (tmp_path / "saved" / "tiny").glob("BPR-*/result.json")
    config = json.loads(result.read_text())["config"]
    assert config["eval_args"] == {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni20"}
    assert config["topk"] == [5, 10]


@pytest.mark.parametrize("command", sorted(_parser().commands))
def test_lists_of_every_command_keep_all_their_values(command):
    """Each value is read as an option of its own, so an option that only stores would keep the last."""
    for action in _parser().commands[command]._actions:
        if action.nargs in ("+", "*"):
            assert type(action).__name__ == "_ExtendAction", action.option_strings


def test_recommend_takes_all_files_of_new_items():
    words = ["recommend", "--checkpoint=x", "--users=all", "--add", "a.sid", "b.sid", "--add=c.sid"]
    assert _parser().parse_known_args(words)[0].add == ["a.sid", "b.sid", "c.sid"]
