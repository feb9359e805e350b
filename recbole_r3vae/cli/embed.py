"""``recbole-r3vae embed``."""

from __future__ import annotations

from recbole_r3vae.cli.arguments import add_config_files, add_engine, engine_of, files_of, how_sharded
from recbole_r3vae.errors import UserError

SUMMARY = "write a dataset's item vectors to a file, with their ids"
HELP = """write a dataset's item vectors to a file, with their ids

  recbole-r3vae embed --dataset ml-100k --output vectors.npy
  recbole-r3vae embed --dataset ml-100k --output vectors.npy --config_files mine.yaml --content_dim=64

They are those that a run of --model with the same settings would have.

Many items, in shards, by the text encoder of a run or by a sentence encoder:

  recbole-r3vae embed --checkpoint saved/ml-100k/R3GR-R3VAE-... --items items/ --output vectors/ --engine=ray
  recbole-r3vae embed --items items/ --content_encoder=sentence-transformers/sentence-t5-base --item_text_fields=[title] \\
      --output vectors/ --engine=ray --address=auto
"""
TAKES_SETTINGS = True


def add(parser) -> None:
    """Declare its arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", "-d", help="name of a folder of atomic files")
    what.add_argument("--items", help="with --engine: a Parquet file, or a folder of them, with item_id and columns of text")
    parser.add_argument("--checkpoint", help="with --items: a run, or a tokenizer's folder, whose text encoder is used as it is")
    parser.add_argument("--model", "-m", default="R3VAE", help="whose settings are known; default: R3VAE")
    parser.add_argument("--output", required=True, help="the .npy file to write, the ids go beside it, .ids; with --engine a folder")
    add_config_files(parser)
    add_engine(parser)


def run(options, rest: list[str]) -> None:
    """Do it."""
    engine = engine_of(options)
    if (engine is None) != (options.items is None):
        raise UserError("--engine goes with --items, shards of text; a --dataset is embedded whole, without an engine: its encoder is fitted to it")
    if engine is not None:
        _embed_shards(options, rest, engine)
        return
    if options.checkpoint:
        raise UserError("--checkpoint goes with --items and --engine; leave it out, or give shards of new items")
    import numpy as np

    from recbole_r3vae.config import Config
    from recbole_r3vae.config.stages import content_config
    from recbole_r3vae.io import atomic_write, beside
    from recbole_r3vae.quick_start.collaborative import item_content
    from recbole_r3vae.quick_start.lookup import create_dataset

    ids_path = beside(options.output, ".ids")
    config = Config(options.model, options.dataset, files_of(options), arguments=rest)
    content = item_content(create_dataset(config), content_config(config))
    with atomic_write(ids_path) as file:
        file.writelines(f"{item}\n" for item in content.item_ids[1:])
    with atomic_write(options.output, "wb") as file:
        np.save(file, content.embeddings[1:])
    print(f"{len(content.item_ids) - 1} item vectors: {options.output}")


def _embed_shards(options, rest: list[str], engine) -> None:
    from recbole_r3vae.config import Config
    from recbole_r3vae.data.content import modalities
    from recbole_r3vae.data.content.encoders import SentenceTransformerEncoder
    from recbole_r3vae.serve.sharded import embed_shards

    encoder, fields, device = options.checkpoint, (), None
    if encoder is None:
        config = Config(options.model, "items", files_of(options), arguments=rest)
        chosen = modalities(config)
        if len(chosen) != 1 or not isinstance(chosen[0].encoder, SentenceTransformerEncoder) or not chosen[0].fields or chosen[0].template:
            raise UserError(
                "shards are embedded by an encoder that is there; give the --checkpoint of a run or a tokenizer, or "
                "--content_encoder=sentence-transformers/<name> with --item_text_fields"
            )
        encoder, fields, device = chosen[0].encoder.name, chosen[0].fields, chosen[0].encoder.device
    elif rest:
        raise UserError(f"{rest[0]} says how to embed, and the encoder of --checkpoint is used as it is; leave it out")
    made = embed_shards(options.items, options.output, engine, encoder, fields, device=device, **how_sharded(options))
    print(f"{made['rows']:,} item vectors in {len(made['shards'])} shards: {options.output}")
