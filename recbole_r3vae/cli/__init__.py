"""The command ``recbole-r3vae``: a file a sub-command, each a few lines around the function that does the work.

A file holds ``SUMMARY`` and ``HELP`` (what ``--help`` shows), ``add(parser)`` (its arguments) and ``run(options, rest)``. One that says
``TAKES_SETTINGS = True`` is handed the words that it did not declare, keys of a model's YAML; for the others such words are errors. One
that can go on after an interrupt says how in ``AFTER_AN_INTERRUPT``.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from recbole_r3vae.cli import (
    benchmark, coldstart, convert, ctr, embed, inspect, leaderboard, pack, prepare, quality, recommend, run, tokenize, tune,
)  # fmt: skip
from recbole_r3vae.cli.arguments import Parser
from recbole_r3vae.errors import UserError, one_line, short_repr

COMMANDS: dict[str, ModuleType] = {
    command.__name__.rpartition(".")[2]: command
    for command in (run, prepare, tokenize, embed, convert, benchmark, leaderboard, tune, coldstart, ctr, quality, recommend, pack, inspect)
}
IN_SHARDS = "the same command goes on from the finished shards"
STARTS_ANEW = "no file is left half-written; the same command starts anew"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command.

    Args:
        arguments: words after the program's name; default: the process's own.

    Returns:
        Exit status: 0; 1 where a benchmark or a search went through and a part of it failed; or 2 after one line on stderr where the
        input is at fault (``--debug`` adds the traceback).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    try:
        odd = next((word for word in arguments if word.endswith("=--")), None)
        if odd is not None:  # argparse would take it for no value at all
            raise UserError(f"argument {short_repr(odd)} has no value; write --key=value or --key value")
        parser = _parser()
        options, rest = parser.parse_known_args(arguments)
        command = COMMANDS[options.command]
        if rest and not getattr(command, "TAKES_SETTINGS", False):
            hint = parser.commands[options.command].hint(rest[0])
            raise UserError(f"unrecognised argument {short_repr(rest[0])}{hint}")
        empty = next((name for name, value in vars(options).items() if value == "" or isinstance(value, list) and "" in value), None)
        if empty is not None:
            raise UserError(f"--{empty} is empty; give it a value, or leave it out")
        return command.run(options, rest) or 0
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"recbole-r3vae: {one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has seen enough; nothing more is to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # where no more is known than what the system says
        if debug:
            traceback.print_exc()
        what = one_line(f"{error.filename}: {error.strerror or error}" if error.filename else error.strerror or error)
        print(f"recbole-r3vae: {what}; check the path, its permissions and the free space", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = getattr(COMMANDS.get(arguments[0] if arguments else ""), "AFTER_AN_INTERRUPT", STARTS_ANEW)
        goes_on = IN_SHARDS if any(word.partition("=")[0] == "--engine" for word in arguments) else goes_on
        print(f"recbole-r3vae: interrupted; {goes_on}", file=sys.stderr)
        return 130


def _parser() -> Parser:
    from recbole_r3vae import __version__

    parser = Parser(prog="recbole-r3vae", description="Semantic IDs and generative recommendation for RecBole.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    for name, command in COMMANDS.items():
        own = commands.add_parser(
            name, help=command.SUMMARY, description=command.HELP, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        command.add(own)
    parser.commands = commands.choices
    return parser
