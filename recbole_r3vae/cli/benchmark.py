"""``recbole-r3vae benchmark``."""

from __future__ import annotations

from recbole_r3vae.cli.arguments import add_config_files, files_of
from recbole_r3vae.errors import UserError

SUMMARY = "compare models in a grid, or tokenizers by themselves"
HELP = """compare models in a grid, or tokenizers by themselves

Models x tokenizers x datasets x seeds, as a YAML file lists them; a result file for each, and leaderboards:

  recbole-r3vae benchmark --config=properties/benchmark/lastfm.yaml --data_path=dataset
  recbole-r3vae benchmark --config=properties/benchmark/lastfm.yaml --data_path=dataset --max_minutes=5 --device=cuda --workers=2

What has a result is not run again, what failed is, and what was killed goes on. Settings stand in the file.

Each tokenizer once; one table (Markdown, CSV, JSON) and plots:

  recbole-r3vae benchmark --tokenizers=all --dataset=amazon-beauty --data_path=dataset
  recbole-r3vae benchmark --tokenizers=R3VAE,RQVAE,RKMeans --dataset=amazon-beauty --codebook_sizes=[128,128,128] --RQVAE.epochs=50

A key goes to every tokenizer that has it, --NAME.key to that one alone. What was trained before is taken up.
Exit status 1: a model or a tokenizer failed; the output says which and why.
"""
TAKES_SETTINGS = True
AFTER_AN_INTERRUPT = "the same command goes on from the last finished epoch"


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument("--config", help="YAML file of a grid")
    parser.add_argument("--tokenizers", help="without --config: all (the default), or names separated by commas")
    parser.add_argument("--dataset", "-d", help="without --config: name of a folder of atomic files")
    parser.add_argument("--output", help="folder; default: results with --config, else results/tokenizers/<dataset>")
    add_config_files(parser, "without --config: ")


def run(options, rest: list[str]) -> int:
    """Do it."""
    from recbole_r3vae.experiments.grid import run_grid
    from recbole_r3vae.experiments.tokenizers import run_tokenizer_benchmark

    if options.config:
        for key in ("tokenizers", "dataset", "config_files"):
            if getattr(options, key):
                raise UserError(f"--{key} does not go with --config, which compares what {options.config} lists; leave one of them out")
        errors = [record.error for record in run_grid(options.config, options.output or "results", rest)]
    elif options.dataset:
        rows = run_tokenizer_benchmark(options.dataset, options.tokenizers or "all", options.output, files_of(options), rest)
        errors = [row["error"] for row in rows]
    else:
        raise UserError("nothing to compare; give --config=FILE.yaml for a grid of models, or --dataset=NAME for its tokenizers")
    return int(any(error is not None for error in errors))
