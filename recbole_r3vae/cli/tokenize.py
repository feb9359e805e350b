"""``recbole-r3vae tokenize``."""

from __future__ import annotations

from pathlib import Path

from recbole_r3vae.cli.arguments import add_engine, engine_of, how_sharded
from recbole_r3vae.errors import UserError

SUMMARY = "train a tokenizer on item vectors alone, or tokenize new items with a trained one"
HELP = """train a tokenizer on item vectors alone, without interactions; or tokenize new items with one that is trained

  recbole-r3vae tokenize --embeddings vectors.npy --output items.sid --set epochs=20
  recbole-r3vae tokenize --checkpoint saved/ml-100k/R3GR-R3VAE-... --items new.item --output new.sid

  recbole-r3vae tokenize --checkpoint saved/ml-100k/R3GR-R3VAE-... --items items/ --output sids/ --engine=ray

New items get semantic IDs beside the old ones, which stay; their vectors are written too, new.npy and new.ids. With --engine, items are
shards of Parquet or .npy, and convert --input sids/ --output new.sid makes a .sid file of what comes out.
"""
AFTER_AN_INTERRUPT = "the same command goes on from the last finished epoch where it trains, and starts anew where it does not"


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument(
        "--tokenizer", help="the tokenizer to train, default R3VAE; with --checkpoint one from outside this package, whose code is then run"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--embeddings", help="train on these item vectors [n, d]: .npy, .safetensors, .npz or .pt")
    what.add_argument("--items", help="with --checkpoint, the new items: an .item file, or a file of vectors; with --engine, shards")
    parser.add_argument("--checkpoint", help="a generator's run, or a tokenizer's folder: its tokenizer is used as it is")
    parser.add_argument(
        "--add", nargs="+", action="extend", default=[], metavar="FILE", help="with --checkpoint: .sid files of items that came before"
    )
    parser.add_argument("--ids", help="the vectors' item ids, one a line; default: beside them, with the ending .ids")
    parser.add_argument("--output", required=True, help="the .sid file to write; with --engine a folder")
    parser.add_argument(
        "--collision_policy", choices=("suffix", "reassign", "sinkhorn", "share"), help="default: suffix; with --checkpoint that of the run"
    )
    parser.add_argument("--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="keys of the tokenizer: epochs=20")
    add_engine(parser)


def run(options, rest: list[str]) -> None:
    """Do it."""
    if (options.items is None) != (options.checkpoint is None):
        raise UserError("--items goes with --checkpoint; give both to tokenize new items, or --embeddings alone to train a tokenizer")
    from recbole_r3vae.config.registry import is_outside

    if options.items:
        unread = "set" if options.set else "tokenizer" if options.tokenizer and not is_outside(options.tokenizer) else None
        if unread is not None:
            raise UserError(f"--{unread} says how to train a tokenizer, and that of --checkpoint is used as it is; leave it out")
        engine = engine_of(options)
        _tokenize_new(options) if engine is None else _tokenize_shards(options, engine)
    else:
        if engine_of(options) is not None:
            raise UserError("--engine is about new items of a tokenizer that is trained; give --checkpoint and --items, or leave it out")
        if options.add:
            raise UserError("--add is about new items of a tokenizer that is trained; give --checkpoint and --items, or leave it out")
        _train_and_tokenize(options)


def _tokenize_new(options) -> None:
    from recbole_r3vae.serve.tokenize import tokenize_items

    done = tokenize_items(
        options.checkpoint, options.items, options.output, options.collision_policy, options.add, options.ids, show_progress=True,
        tokenizer=options.tokenizer,
    )  # fmt: skip
    print(
        f"{done.sids.n_items - 1} new items: {options.output}; {done.known} known ones passed over, {done.moved} got another last code "
        f"than their own, {done.shared} share a semantic ID"
    )


def _tokenize_shards(options, engine) -> None:
    from recbole_r3vae.serve.sharded import tokenize_shards

    if options.ids:
        raise UserError("--ids names the ids of one file, and shards of .npy have theirs beside them, .ids; leave it out")
    made = tokenize_shards(
        options.checkpoint, options.items, options.output, engine, options.collision_policy, options.add, tokenizer=options.tokenizer,
        **how_sharded(options),
    )  # fmt: skip
    print(
        f"{made['rows']:,} new items in {len(made['shards'])} shards: {options.output}; {made['known']} known ones passed over, {made['moved']} "
        f"got another last code than their own, {made['shared']} share a semantic ID"
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
