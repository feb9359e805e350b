"""``recbole-r3vae prepare``."""

from __future__ import annotations

SUMMARY = "turn public raw data, or tables of your own, into RecBole's atomic files"
HELP = """turn public raw data, or tables of your own, into RecBole's atomic files

  recbole-r3vae prepare ml-1m --zip ml-1m.zip
  recbole-r3vae prepare csv --events orders.csv --items products.csv --name shop
  recbole-r3vae prepare csv --events orders.csv --items products.csv --name shop --columns user=customer item=sku time=bought_at
"""
CSV = "csv"
"""Stands for tables of one's own where ``prepare`` is told a data set."""


def add(parser) -> None:
    """Declare its arguments."""
    from recbole_r3vae.data.prepare import add_prepare_arguments

    add_prepare_arguments(parser)
    own = parser.add_argument_group("tables of your own (prepare csv)")
    own.add_argument("--events", metavar="FILE", help="who met what and when: CSV, JSON lines or Parquet")
    own.add_argument("--items", metavar="FILE", help="the catalogue: an item's id and any columns of text")
    own.add_argument("--name", help="of the data set")
    own.add_argument("--vectors", metavar="FILE", help="item vectors; ids beside them (.ids), or a row for each row of the catalogue")
    own.add_argument(
        "--columns", nargs="+", action="extend", default=[], metavar="ROLE=COLUMN",
        help="where the guess is wrong: user=, item=, time=, rating= of the events, id=, text=a,b of the catalogue",
    )  # fmt: skip
    own.add_argument("--skip_bad_lines", action="store_true", help="drop lines that cannot be read, and count them")


def run(options, rest: list[str]) -> None:
    """Do it."""
    from recbole_r3vae.data.own_tables import run_own_tables
    from recbole_r3vae.data.prepare import DATASETS, run_prepare
    from recbole_r3vae.errors import UserError

    of_raw = {"zip", *(role for spec in DATASETS.values() for role in spec.raw.roles)}
    foreign = of_raw if options.dataset == CSV else {"events", "items", "name", "vectors", "columns", "skip_bad_lines"}
    odd = next((key for key in sorted(foreign) if getattr(options, key)), None)
    if odd is not None:
        others = "for tables of your own (prepare csv)" if options.dataset != CSV else "for public raw files"
        raise UserError(f"--{odd} is {others}, not for {options.dataset}; leave it out")
    run_own_tables(options) if options.dataset == CSV else run_prepare(options)
