"""How words become options: one line where they do not, and lists that end where the next option begins."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from recbole_r3vae.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that says what is wrong in one line, and for which a word that begins with ``--`` is never a value of a list.

    argparse takes a word with a space in it, such as ``--eval_args={mode: full}``, for a value, unless it knows the option.

    Attributes:
        commands: name to parser of each sub-command.
    """

    commands: Mapping[str, Parser] = {}

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, of words in which each value of a list stands with its option: ``--add a b`` is read as ``--add=a --add=b``."""
        actions = [action for action in self._actions if action.nargs in ("+", "*")]
        lists = {spelling: (action.nargs, spelling) for action in actions for spelling in action.option_strings}
        words, spelled = list(args or ()), []
        while words:
            word = self._spelled(words.pop(0))
            least, option = lists.get(word, (None, None))
            values = []
            while option and words and not words[0].startswith("-"):
                values.append(f"{option}={words.pop(0)}")
            spelled += values or ([] if least == "*" else [word])
        return super().parse_known_args(spelled, namespace)


    def _spelled(self, word: str) -> str:
        """An option with ``-`` for ``_`` or the other way round, as it was declared."""
        option, equals, value = word.partition("=")
        if not option.startswith("--") or option in self._option_string_actions:
            return word
        known = {name.replace("_", "-"): name for name in self._option_string_actions}
        return known.get(option.replace("_", "-"), option) + equals + value

    def hint(self, word: str) -> str:
        """What a word that no option is may have been meant for, for the end of a message."""
        nearest = did_you_mean(word.partition("=")[0], self._option_string_actions, 1)
        if "--set" in self._option_string_actions and "=" in word:
            return f"{nearest}; keys of the tokenizer stand behind --set: --set {word.lstrip('-')}"
        return nearest or f"; see {self.prog} --help"


def add_config_files(parser: argparse.ArgumentParser, when: str = "") -> None:
    """Declare ``--config_files``.

    Args:
        parser: of a sub-command.
        when: what comes before the help.
    """
    parser.add_argument(
        "--config_files", nargs="+", action="extend", default=[], metavar="FILE", help=f"{when}YAML files of settings, later ones win"
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Declare ``--engine`` and what goes with it."""
    parser.add_argument(
        "--engine", choices=("local", "ray"), help="work in shards, into a folder of Parquet with a manifest, here or on a Ray cluster"
    )
    parser.add_argument("--address", help="--engine=ray: of the cluster, auto or host:port; default: a Ray on this machine, for this command")
    parser.add_argument("--workers", type=int, help="--engine=ray: models at work; default: one a GPU, or one a CPU")
    parser.add_argument("--shard_rows", type=int, help="--engine: rows of a shard that is no row group of a Parquet file; default: 100000")


def engine_of(options: argparse.Namespace):
    """The :class:`~recbole_r3vae.serve.sharded.Engine` that options ask for; ``None`` where they ask for none.

    Raises:
        UserError: options belong to an engine and there is none, or a number is none.
    """
    if options.engine is None:
        given = next((name for name in ("address", "workers", "shard_rows") if getattr(options, name) is not None), None)
        if given is not None:
            raise UserError(f"--{given} is about work in shards; give --engine=ray or --engine=local with it")
        return None
    if options.shard_rows is not None and options.shard_rows < 1:
        raise UserError(f"--shard_rows is {options.shard_rows}; give a whole number from 1")
    from recbole_r3vae.serve.sharded import Engine

    engine = Engine(options.engine, options.address, options.workers)
    engine.check()
    return engine


def how_sharded(options: argparse.Namespace) -> dict:
    """What all functions on shards take besides an engine."""
    return {"show_progress": True, **({} if options.shard_rows is None else {"shard_rows": options.shard_rows})}


def files_of(options: argparse.Namespace) -> list[str]:
    """The files of ``--config_files``; RecBole's users write them as one word, ``--config_files="a.yaml b.yaml"``."""
    return [path for words in options.config_files for path in ([words] if Path(words).is_file() else words.split())]
