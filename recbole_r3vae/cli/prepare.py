"""``recbole-r3vae prepare``."""

from __future__ import annotations

SUMMARY = HELP = "turn public raw data into RecBole's atomic files"


def add(parser) -> None:
    """Declare its arguments."""
    from recbole_r3vae.data.prepare import add_prepare_arguments

    add_prepare_arguments(parser)


def run(options, rest: list[str]) -> None:
    """Do it."""
    from recbole_r3vae.data.prepare import run_prepare

    run_prepare(options)
