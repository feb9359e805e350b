"""``recbole-r3vae run``."""

from __future__ import annotations

from recbole_r3vae.cli.arguments import add_config_files, files_of

SUMMARY = "train and evaluate a model"
HELP = """train and evaluate a model

  recbole-r3vae run --model=R3GR --dataset=amazon-beauty --data_path=dataset
  recbole-r3vae run --model=R3GR --tokenizer=R3VAE --dataset=ml-100k --epochs=20 --tokenizer_epochs=50
  recbole-r3vae run --model=SASRec --dataset=ml-100k --resume

Any key of RecBole, of the model's YAML or of its tokenizer's (as tokenizer_KEY) can be given as --key=value or --key value.
"""
TAKES_SETTINGS = True
AFTER_AN_INTERRUPT = "the same command with --resume goes on from the last finished epoch"


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument("--model", "-m", help="R3GR, R3VAE, any model of RecBole, or one of your own as package.module:Class")
    parser.add_argument("--dataset", "-d", help="name of a folder of atomic files")
    add_config_files(parser)
    parser.add_argument("--nproc", type=int, default=1, help="processes on this machine, as in RecBole; torchrun does the same")
    parser.add_argument("--world_size", type=int, default=-1, help="processes on all machines; default: those of this one")
    parser.add_argument("--ip", default="localhost", help="of the first machine")
    parser.add_argument("--port", default="5678", help="there")
    parser.add_argument("--group_offset", type=int, default=0, help="processes of the machines before this one")


def run(options, rest: list[str]) -> None:
    """Do it."""
    from recbole_r3vae.quick_start import launch

    places = {key: getattr(options, key) for key in ("nproc", "world_size", "ip", "port", "group_offset")}
    launch.run(options.model, options.dataset, files_of(options), arguments=rest, **places)
