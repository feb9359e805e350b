"""The command ``recbole-r3vae``: one sub-command a task, each a few lines around the function that does it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from recbole_r3vae.cli_serve import INSPECT_HELP, RECOMMEND_HELP, add_inspect_arguments, add_recommend_arguments, run_inspect, run_recommend
from recbole_r3vae.errors import UserError, one_line, shown

RUN_HELP = """train and evaluate a model

  recbole-r3vae run --model=R3GR --dataset=amazon-beauty --data_path=dataset
  recbole-r3vae run --model=R3GR --tokenizer=R3VAE --dataset=ml-100k --epochs=20 --tokenizer_epochs=50
  recbole-r3vae run --model=SASRec --dataset=ml-100k --resume

Any key of RecBole, of the model's YAML or of its tokenizer's (as tokenizer_KEY) can be given as --key=value or --key value.
"""


BENCHMARK_HELP = """compare models in a grid, or tokenizers by themselves

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

TUNE_HELP = """choose a tokenizer's settings by the quality of its semantic IDs, without training a generator

  recbole-r3vae tune --tokenizer=R3VAE --dataset=lastfm --data_path=dataset
  recbole-r3vae tune --tokenizer=R3VAE --dataset=lastfm --data_path=dataset --trials=20 --output=tuned.yaml --codebook_sizes=[128,128,128]

The YAML file that it writes goes into `recbole-r3vae run --config_files`. A key given here is not searched; keys of the tokenizer that
generators have too are written tokenizer_KEY. What was trained before is taken up. Exit status 1: a trial failed.
"""

COLDSTART_HELP = """train without a share of the items, then recommend them by their texts: recall of cold and of warm targets

  recbole-r3vae coldstart --dataset=amazon-beauty --data_path=dataset
  recbole-r3vae coldstart --dataset=ml-100k --cold_by=recent --cold_share=0.1 --epsilon=0,0.2 --sasrec --max_minutes=10

Any key of the model's YAML or of its tokenizer's (as tokenizer_KEY) can be given; --SASRec.KEY goes to SASRec. What was trained before is
taken up, and what was killed goes on.
"""


CTR_HELP = """compare the item id with semantic IDs as features of models that predict clicks

  recbole-r3vae ctr --dataset=ml-100k
  recbole-r3vae ctr --dataset=amazon-beauty --data_path=dataset --models=DeepFM,DIN --tokenizers=RKMeans,R3VAE --seeds=2020 --DIN.epochs=3

A key goes to every model that has it, --NAME.key to one model alone, tokenizer_KEY to the tokenizers. Each finished model is stored at once
and not run again; what was killed goes on. Exit status 1: one failed.
"""


TOKENIZE_HELP = """train a tokenizer on item vectors alone, without interactions; or tokenize new items with one that is trained

  recbole-r3vae tokenize --embeddings vectors.npy --output items.sid --set epochs=20
  recbole-r3vae tokenize --checkpoint saved/ml-100k/R3GR-R3VAE-... --items new.item --output new.sid

New items get semantic IDs beside the old ones, which stay; their vectors are written too, new.npy and new.ids.
"""


AFTER_AN_INTERRUPT = {
    "run": "the same command with --resume goes on from the last finished epoch",
    "benchmark": "the same command goes on from the last finished epoch",
    "tune": "the same command goes on from the last finished epoch",
    "coldstart": "the same command goes on from the last finished epoch",
    "ctr": "the same command goes on from the last finished epoch",
    "tokenize": "the same command goes on from the last finished epoch where it trains, and starts anew where it does not",
}
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
            raise UserError(f"argument {shown(odd)} has no value; write --key=value or --key value")
        parser = _parser()
        options, rest = parser.parse_known_args(arguments)
        if rest and options.action not in (_run, _embed, _benchmark, _tune, _coldstart, _ctr):
            raise UserError(f"unrecognised argument {shown(rest[0])}; see recbole-r3vae {one_line(arguments[0], 40)} --help")
        empty = next((name for name, value in vars(options).items() if value == ""), None)
        if empty is not None:
            raise UserError(f"--{empty} is empty; give it a value, or leave it out")
        return options.action(options, rest) or 0
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
        what = f"{error.filename}: " if error.filename else ""
        print(f"recbole-r3vae: {one_line(f'{what}{error.strerror or error}')}; check the path, its permissions and the free space", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        command = arguments[0] if arguments else None
        print(f"recbole-r3vae: interrupted; {AFTER_AN_INTERRUPT.get(command, STARTS_ANEW)}", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does."""

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    from recbole_r3vae import __version__
    from recbole_r3vae.data.prepare import add_prepare_arguments

    parser = _Parser(prog="recbole-r3vae", description="Semantic IDs and generative recommendation for RecBole.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    run = commands.add_parser(
        "run", help="train and evaluate a model", description=RUN_HELP, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run.add_argument("--model", "-m", help="R3GR, R3VAE, any model of RecBole, or one of your own as package.module:Class")
    run.add_argument("--dataset", "-d", help="name of a folder of atomic files")
    run.add_argument("--config_files", nargs="+", default=[], help="YAML files, later ones win")
    run.add_argument("--nproc", type=int, default=1, help="processes on this machine, as in RecBole; torchrun does the same")
    run.add_argument("--world_size", type=int, default=-1, help="processes on all machines; default: those of this one")
    run.add_argument("--ip", default="localhost", help="of the first machine")
    run.add_argument("--port", default="5678", help="there")
    run.add_argument("--group_offset", type=int, default=0, help="processes of the machines before this one")
    run.set_defaults(action=_run)

    prepare = commands.add_parser("prepare", help="turn public raw data into RecBole's atomic files", allow_abbrev=False)
    add_prepare_arguments(prepare)
    prepare.set_defaults(action=_prepare)

    tokenize = commands.add_parser(
        "tokenize", help="train a tokenizer on item vectors alone, or tokenize new items with a trained one", description=TOKENIZE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )
    tokenize.add_argument(
        "--tokenizer", help="the tokenizer to train, default R3VAE; with --checkpoint, one from outside this package, whose code is then run"
    )
    what = tokenize.add_mutually_exclusive_group(required=True)
    what.add_argument("--embeddings", help="train on these: .npy or .safetensors of item vectors [n, d]")
    what.add_argument("--items", help="with --checkpoint, the new items: an .item file, or vectors as .npy or .safetensors")
    tokenize.add_argument("--checkpoint", help="a generator's run, or a tokenizer's folder: its tokenizer is used as it is")
    tokenize.add_argument("--add", nargs="+", default=[], metavar="FILE", help="with --checkpoint: .sid files of items that came before")
    tokenize.add_argument("--ids", help="the vectors' item ids, one a line; default: beside them, with the ending .ids")
    tokenize.add_argument("--output", required=True, help="the .sid file to write")
    tokenize.add_argument(
        "--collision_policy", choices=("suffix", "reassign", "sinkhorn", "share"), help="default: suffix; with --checkpoint that of the run"
    )
    tokenize.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the tokenizer, such as epochs=20")
    tokenize.set_defaults(action=_tokenize)

    embed = commands.add_parser("embed", help="write a dataset's item vectors to a file, with their ids", allow_abbrev=False)
    embed.add_argument("--dataset", "-d", required=True, help="name of a folder of atomic files")
    embed.add_argument("--output", required=True, help="the .npy file to write; the ids go beside it, with the ending .ids")
    embed.set_defaults(action=_embed)

    benchmark = commands.add_parser(
        "benchmark", help="compare models in a grid, or tokenizers by themselves", description=BENCHMARK_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )
    benchmark.add_argument("--config", help="YAML file of a grid")
    benchmark.add_argument("--tokenizers", help="without --config: all (the default), or names separated by commas")
    benchmark.add_argument("--dataset", "-d", help="without --config: name of a folder of atomic files")
    benchmark.add_argument("--output", help="folder; default: results with --config, else results/tokenizers/<dataset>")
    benchmark.add_argument("--config_files", nargs="+", default=[], help="without --config: YAML files, later ones win")
    benchmark.set_defaults(action=_benchmark)

    tune = commands.add_parser(
        "tune", help="choose a tokenizer's settings without training a generator", description=TUNE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )
    tune.add_argument("--tokenizer", default="R3VAE", help="name of the tokenizer")
    tune.add_argument("--dataset", "-d", required=True, help="name of a folder of atomic files")
    tune.add_argument("--model", "-m", default="R3GR", help="the generator that the semantic IDs are for; it is not trained")
    tune.add_argument("--space", help="YAML file of lists to choose from; default: properties/tune/<tokenizer>.yaml")
    tune.add_argument("--trials", help="so many settings, drawn at random; default: all")
    tune.add_argument("--output", help="the YAML file to write, beside it .md and .json; default: results/tune/<tokenizer>_<dataset>.yaml")
    tune.add_argument("--config_files", nargs="+", default=[], help="YAML files, later ones win")
    tune.set_defaults(action=_tune)

    coldstart = commands.add_parser(
        "coldstart", help="recommend items that no training has seen", description=COLDSTART_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )
    coldstart.add_argument("--dataset", "-d", required=True, help="name of a folder of atomic files")
    coldstart.add_argument("--model", "-m", default="R3GR", help="the generator")
    coldstart.add_argument("--cold_share", type=float, default=0.05, help="of the items; with --cold_by=recent of the events")
    coldstart.add_argument("--cold_by", default="random", help="random: drawn by --seed; recent: first seen in the last events")
    coldstart.add_argument("--epsilon", help="shares of a list's places for cold items, separated by commas; default: 0,0.1,0.2,0.5")
    coldstart.add_argument("--candidates", type=int, help="so many cold items of the generator are re-ranked; default: 20")
    coldstart.add_argument("--sasrec", action="store_true", help="train SASRec too")
    coldstart.add_argument("--output", default="results", help="folder of the results")
    coldstart.add_argument("--config_files", nargs="+", default=[], help="YAML files, later ones win")
    coldstart.set_defaults(action=_coldstart)

    ctr = commands.add_parser(
        "ctr", help="semantic IDs as features of models that predict clicks", description=CTR_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )
    ctr.add_argument("--dataset", "-d", required=True, help="name of a folder of atomic files")
    ctr.add_argument("--models", help="context-aware models and DIN, separated by commas; default: DeepFM,DCNV2,DIN")
    ctr.add_argument("--tokenizers", help="separated by commas; default: RKMeans,RQVAE,R3VAE")
    ctr.add_argument("--seeds", help="separated by commas; default: 2020,2021,2022")
    ctr.add_argument("--features", help="replace, append (the item id), or both; default: replace,append")
    ctr.add_argument("--output", default="results", help="folder of the results")
    ctr.add_argument("--config_files", nargs="+", default=[], help="YAML files, later ones win")
    ctr.set_defaults(action=_ctr)

    quality = commands.add_parser("quality", help="score the semantic IDs of any .sid file", allow_abbrev=False)
    quality.add_argument("--sid", required=True, help="the .sid file, from any tool")
    quality.add_argument("--embeddings", required=True, help=".npy or .safetensors of item vectors [n, d]")
    quality.add_argument("--ids", help="their item ids, one a line; default: beside the vectors, with the ending .ids")
    quality.add_argument("--json", help="also write the report to this file")
    quality.set_defaults(action=_quality)

    recommend = commands.add_parser(
        "recommend", help="recommend items with a trained model", description=RECOMMEND_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )
    add_recommend_arguments(recommend)
    recommend.set_defaults(action=run_recommend)

    inspect = commands.add_parser(
        "inspect", help="look into semantic IDs", description=INSPECT_HELP, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_inspect_arguments(inspect)
    inspect.set_defaults(action=run_inspect)
    return parser


def _run(options, rest: list[str]) -> None:
    from recbole_r3vae.quick_start.launch import run

    # RecBole's users write --config_files="a.yaml b.yaml"; a shell hands that over as one word.
    files = [path for words in options.config_files for path in words.split()]
    places = {key: getattr(options, key) for key in ("nproc", "world_size", "ip", "port", "group_offset")}
    run(options.model, options.dataset, files, arguments=rest, **places)


def _prepare(options, rest: list[str]) -> None:
    from recbole_r3vae.data.prepare import run_prepare

    run_prepare(options)


def _tokenize(options, rest: list[str]) -> None:
    if (options.items is None) != (options.checkpoint is None):
        raise UserError("--items goes with --checkpoint; give both to tokenize new items, or --embeddings alone to train a tokenizer")
    if options.items:
        _tokenize_new(options)
    else:
        _train_and_tokenize(options)


def _tokenize_new(options) -> None:
    from recbole_r3vae.quick_start.serve_tokenize import tokenize_items

    done = tokenize_items(
        options.checkpoint, options.items, options.output, options.collision_policy, options.add, options.ids, show_progress=True,
        tokenizer=options.tokenizer,
    )  # fmt: skip
    print(
        f"{done.sids.n_items - 1} new items: {options.output}; {done.known} known ones passed over, {done.moved} got another last code "
        f"than their own, {done.shared} share a semantic ID"
    )


def _train_and_tokenize(options) -> None:
    from recbole_r3vae.config import Config
    from recbole_r3vae.data.content import content_from_vectors
    from recbole_r3vae.data.items import ItemVectors
    from recbole_r3vae.quick_start.semantic_ids import train_tokenizer
    from recbole_r3vae.sid.quality.report import format_quality

    content = content_from_vectors(options.embeddings, options.ids)
    config = Config(options.tokenizer or "R3VAE", Path(options.embeddings).stem, arguments=[f"--{pair}" for pair in options.set])
    tokenizer = train_tokenizer(config, content)
    sids, _ = tokenizer.resolved(ItemVectors(content), options.collision_policy or "suffix")
    sids.save(options.output)
    print(format_quality(tokenizer.description["quality"]))
    print(f"tokenizer: {tokenizer.folder}\nsemantic IDs: {options.output}")


def _embed(options, rest: list[str]) -> None:
    import numpy as np

    from recbole_r3vae.config import Config
    from recbole_r3vae.data.content import load_content
    from recbole_r3vae.io import atomic_write, beside
    from recbole_r3vae.quick_start.lookup import create_dataset

    ids_path = beside(options.output, ".ids")
    config = Config("R3VAE", options.dataset, arguments=rest)
    content = load_content(create_dataset(config), config)
    with atomic_write(ids_path) as file:
        file.writelines(f"{item}\n" for item in content.item_ids[1:])
    with atomic_write(options.output, "wb") as file:
        np.save(file, content.embeddings[1:])
    print(f"{len(content.item_ids) - 1} item vectors: {options.output}")


def _benchmark(options, rest: list[str]) -> int:
    from recbole_r3vae.benchmark.grid import run_grid
    from recbole_r3vae.benchmark.tokenizers import run_tokenizer_benchmark

    if options.config:
        for key in ("tokenizers", "dataset", "config_files"):
            if getattr(options, key):
                raise UserError(f"--{key} does not go with --config, which compares what {options.config} lists; leave one of them out")
        errors = [record.error for record in run_grid(options.config, options.output or "results", rest)]
    elif options.dataset:
        files = [path for words in options.config_files for path in words.split()]
        rows = run_tokenizer_benchmark(options.dataset, options.tokenizers or "all", options.output, files, rest)
        errors = [row["error"] for row in rows]
    else:
        raise UserError("nothing to compare; give --config=FILE.yaml for a grid of models, or --dataset=NAME for its tokenizers")
    return int(any(error is not None for error in errors))


def _tune(options, rest: list[str]) -> int:
    from recbole_r3vae.benchmark.tune import run_tune
    from recbole_r3vae.config.sources import parse_value

    files = [path for words in options.config_files for path in words.split()]
    trials = parse_value("trials", options.trials) if options.trials else None
    rows = run_tune(options.tokenizer, options.dataset, options.space, trials, options.output, files, rest, options.model)
    return int(any(row["error"] is not None for row in rows))


def _coldstart(options, rest: list[str]) -> None:
    from recbole_r3vae.benchmark.coldstart import CANDIDATES, EPSILONS, run_coldstart
    from recbole_r3vae.config.sources import parse_value

    files = [path for words in options.config_files for path in words.split()]
    epsilons = [parse_value("epsilon", word) for word in options.epsilon.split(",")] if options.epsilon else EPSILONS
    run_coldstart(
        options.dataset, options.model, options.cold_share, options.cold_by, epsilons,
        CANDIDATES if options.candidates is None else options.candidates, options.sasrec, options.output, files, rest,
    )  # fmt: skip


def _ctr(options, rest: list[str]) -> int:
    from recbole_r3vae.benchmark.ctr import FEATURES, MODELS, SEEDS, TOKENIZERS, run_ctr
    from recbole_r3vae.config.sources import parse_value

    files = [path for words in options.config_files for path in words.split()]
    models, tokenizers, features = (
        [word.strip() for word in text.split(",")] if text else default
        for text, default in ((options.models, MODELS), (options.tokenizers, TOKENIZERS), (options.features, FEATURES))
    )
    seeds = [parse_value("seed", word) for word in options.seeds.split(",")] if options.seeds else SEEDS
    return int(bool(run_ctr(options.dataset, models, tokenizers, seeds, features, options.output, files, rest)))


def _quality(options, rest: list[str]) -> None:
    from recbole_r3vae.data.content import content_from_vectors
    from recbole_r3vae.sid.quality.report import format_quality, quality_report
    from recbole_r3vae.sid.table import SemanticIDs
    from recbole_r3vae.io import write_json

    content = content_from_vectors(options.embeddings, options.ids)
    sids = SemanticIDs.load(options.sid, content.item_ids)
    report = quality_report(sids.codes[1:], sids.codebook_sizes, {"raw": content.embeddings[1:]}, ordered=sids.ordered)
    print(format_quality(report))
    if options.json:
        write_json(options.json, report)
        print(json.dumps({"written": options.json}))


if __name__ == "__main__":
    sys.exit(main())
