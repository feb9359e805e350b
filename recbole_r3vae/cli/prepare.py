"""``recbole-r3vae prepare``."""

from __future__ import annotations

SUMMARY = "turn public raw data, or tables of your own, into RecBole's atomic files"
HELP = """turn public raw data, or tables of your own, into RecBole's atomic files

  recbole-r3vae prepare ml-1m --zip ml-1m.zip
  recbole-r3vae prepare csv --events orders.csv --items products.csv --name shop
  recbole-r3vae prepare csv --events orders.csv --items products.csv --name shop --columns user=customer item=sku time=bought_at
"""


def add(parser) -> None:
    """Declare its arguments."""
    from recbole_r3vae.data.own_tables import add_own_tables_arguments
    from recbole_r3vae.data.prepare import add_prepare_arguments

    add_prepare_arguments(parser)
    add_own_tables_arguments(parser)


def run(options, rest: list[str]) -> None:
    """Do it."""
    from recbole_r3vae.data.own_tables import CSV, run_own_tables
    from recbole_r3vae.data.prepare import run_prepare

    run_own_tables(options) if options.dataset == CSV else run_prepare(options)
