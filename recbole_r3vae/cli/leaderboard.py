"""``recbole-r3vae leaderboard``."""

from __future__ import annotations

from pathlib import Path

SUMMARY = "write the leaderboards of results anew"
HELP = """write the leaderboards of results anew, from their records alone: Markdown, CSV and JSON for each dataset, and one page of all

  recbole-r3vae leaderboard                         # of results/runs
  recbole-r3vae leaderboard --results results/dense

A benchmark does so when it ends. Nothing is trained or tested; the page, leaderboard.html, needs no network.
"""


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument("--results", default="results", help="the folder that holds runs/<dataset>; default: results")


def run(options, rest: list[str]) -> None:
    """Do it."""
    from recbole_r3vae.experiments.leaderboard import write_leaderboards

    print("\n".join(map(str, write_leaderboards(Path(options.results)))))
