"""``recbole-r3vae coldstart``."""

from __future__ import annotations

from recbole_r3vae.cli.arguments import add_config_files, files_of

SUMMARY = "recommend items that no training has seen"
HELP = """train without a share of the items, then recommend them by their texts: recall of cold and of warm targets

  recbole-r3vae coldstart --dataset=amazon-beauty --data_path=dataset
  recbole-r3vae coldstart --dataset=ml-100k --cold_by=recent --cold_share=0.1 --epsilon=0,0.2 --sasrec --max_minutes=10

Any key of the model's YAML or of its tokenizer's (as tokenizer_KEY) can be given; --SASRec.KEY goes to SASRec. What was trained before is
taken up, and what was killed goes on.
"""
TAKES_SETTINGS = True
AFTER_AN_INTERRUPT = "the same command goes on from the last finished epoch"


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument("--dataset", "-d", required=True, help="name of a folder of atomic files")
    parser.add_argument("--model", "-m", default="R3GR", help="the generator")
    parser.add_argument("--cold_share", type=float, default=0.05, help="of the items; with --cold_by=recent of the events")
    parser.add_argument("--cold_by", default="random", help="random: drawn by --seed; recent: first seen in the last events")
    parser.add_argument("--epsilon", help="shares of a list's places for cold items, separated by commas; default: 0,0.1,0.2,0.5")
    parser.add_argument("--candidates", type=int, help="so many cold items of the generator are re-ranked; default: 20")
    parser.add_argument("--sasrec", action="store_true", help="train SASRec too")
    parser.add_argument("--output", default="results", help="folder of the results")
    add_config_files(parser)


def run(options, rest: list[str]) -> None:
    """Do it."""
    from recbole_r3vae.config.sources import parse_value
    from recbole_r3vae.experiments.coldstart import CANDIDATES, EPSILONS, run_coldstart

    epsilons = [parse_value("epsilon", word) for word in options.epsilon.split(",")] if options.epsilon else EPSILONS
    run_coldstart(
        options.dataset, options.model, options.cold_share, options.cold_by, epsilons,
        CANDIDATES if options.candidates is None else options.candidates, options.sasrec, options.output, files_of(options), rest,
    )  # fmt: skip
