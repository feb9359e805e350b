"""``recbole-r3vae embed``."""

from __future__ import annotations

from recbole_r3vae.cli.arguments import add_config_files, files_of

SUMMARY = "write a dataset's item vectors to a file, with their ids"
HELP = """write a dataset's item vectors to a file, with their ids

  recbole-r3vae embed --dataset ml-100k --output vectors.npy
  recbole-r3vae embed --dataset ml-100k --output vectors.npy --config_files mine.yaml --content_dim=64

They are those that a run of --model with the same settings would have.
"""
TAKES_SETTINGS = True


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument("--dataset", "-d", required=True, help="name of a folder of atomic files")
    parser.add_argument("--model", "-m", default="R3VAE", help="whose settings are known; default: R3VAE")
    parser.add_argument("--output", required=True, help="the .npy file to write; the ids go beside it, with the ending .ids")
    add_config_files(parser)


def run(options, rest: list[str]) -> None:
    """Do it."""
    import numpy as np

    from recbole_r3vae.config import Config, tokenizer_config
    from recbole_r3vae.data.content import load_content
    from recbole_r3vae.io import atomic_write, beside
    from recbole_r3vae.quick_start.lookup import create_dataset

    ids_path = beside(options.output, ".ids")
    config = Config(options.model, options.dataset, files_of(options), arguments=rest)
    content = load_content(create_dataset(config), tokenizer_config(config) if config["tokenizer"] else config)
    with atomic_write(ids_path) as file:
        file.writelines(f"{item}\n" for item in content.item_ids[1:])
    with atomic_write(options.output, "wb") as file:
        np.save(file, content.embeddings[1:])
    print(f"{len(content.item_ids) - 1} item vectors: {options.output}")
