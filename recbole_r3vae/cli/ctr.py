"""``recbole-r3vae ctr``."""

from __future__ import annotations

from recbole_r3vae.cli.arguments import add_config_files, files_of

SUMMARY = "semantic IDs as features of models that predict clicks"
HELP = """compare the item id with semantic IDs as features of models that predict clicks

  recbole-r3vae ctr --dataset=ml-100k
  recbole-r3vae ctr --dataset=amazon-beauty --data_path=dataset --models=DeepFM,DIN --tokenizers=RKMeans,R3VAE --seeds=2020 --DIN.epochs=3

A key goes to every model that has it, --NAME.key to one model alone, tokenizer_KEY to the tokenizers. Each finished model is stored at once
and not run again; what was killed goes on. Exit status 1: one failed.
"""
TAKES_SETTINGS = True
AFTER_AN_INTERRUPT = "the same command goes on from the last finished epoch"


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument("--dataset", "-d", required=True, help="name of a folder of atomic files")
    parser.add_argument("--models", help="context-aware models and DIN, separated by commas; default: DeepFM,DCNV2,DIN")
    parser.add_argument("--tokenizers", help="separated by commas; default: RKMeans,RQVAE,R3VAE")
    parser.add_argument("--seeds", help="separated by commas; default: 2020,2021,2022")
    parser.add_argument("--features", help="replace, append (the item id), or both; default: replace,append")
    parser.add_argument("--output", default="results", help="folder of the results")
    add_config_files(parser)


def run(options, rest: list[str]) -> int:
    """Do it."""
    from recbole_r3vae.config.sources import parse_value
    from recbole_r3vae.experiments.ctr import FEATURES, MODELS, SEEDS, TOKENIZERS, run_ctr

    models, tokenizers, features = (
        [word.strip() for word in text.split(",")] if text else default
        for text, default in ((options.models, MODELS), (options.tokenizers, TOKENIZERS), (options.features, FEATURES))
    )
    seeds = [parse_value("seed", word) for word in options.seeds.split(",")] if options.seeds else SEEDS
    return int(bool(run_ctr(options.dataset, models, tokenizers, seeds, features, options.output, files_of(options), rest)))
