"""``recbole-r3vae tune``."""

from __future__ import annotations

from recbole_r3vae.cli.arguments import add_config_files, files_of

SUMMARY = "choose a tokenizer's settings without training a generator"
HELP = """choose a tokenizer's settings by the quality of its semantic IDs, without training a generator

  recbole-r3vae tune --tokenizer=R3VAE --dataset=lastfm --data_path=dataset
  recbole-r3vae tune --tokenizer=R3VAE --dataset=lastfm --data_path=dataset --trials=20 --output=tuned.yaml --codebook_sizes=[128,128,128]

The YAML file that it writes goes into `recbole-r3vae run --config_files`. A key given here is not searched; keys of the tokenizer that
generators have too are written tokenizer_KEY. What was trained before is taken up. Exit status 1: a trial failed.
"""
TAKES_SETTINGS = True
AFTER_AN_INTERRUPT = "the same command goes on from the last finished epoch"


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument("--tokenizer", default="R3VAE", help="name of the tokenizer")
    parser.add_argument("--dataset", "-d", required=True, help="name of a folder of atomic files")
    parser.add_argument("--model", "-m", default="R3GR", help="the generator that the semantic IDs are for; it is not trained")
    parser.add_argument("--space", help="YAML file of lists to choose from, or a .hyper file; default: properties/tune/<tokenizer>.yaml")
    parser.add_argument("--trials", help="so many settings, drawn at random; default: all")
    written = "the YAML file to write, beside it .md and .json; default: results/tune/<tokenizer>_<dataset>.yaml"
    parser.add_argument("--output", help=written)
    add_config_files(parser)


def run(options, rest: list[str]) -> int:
    """Do it."""
    from recbole_r3vae.config.sources import parse_value
    from recbole_r3vae.experiments.tune import run_tune

    trials = parse_value("trials", options.trials) if options.trials else None
    rows = run_tune(options.tokenizer, options.dataset, options.space, trials, options.output, files_of(options), rest, options.model)
    return int(any(row["error"] is not None for row in rows))
