"""``recbole-r3vae convert``."""

from __future__ import annotations

SUMMARY = "convert semantic IDs between .sid, *.index.json and lists of added tokens"
HELP = """convert semantic IDs between .sid, *.index.json (LC-Rec, LETTER, MiniOneRec) and Hugging Face lists of added tokens

  recbole-r3vae convert --input Games.index.json --output games.sid --item2id Games.item2id
  recbole-r3vae convert --input games.sid --output Games.index.json --item2id Games.item2id
  recbole-r3vae convert --input games.sid --output added_tokens.json
  recbole-r3vae convert --input games.sid --output games.sid.gz
  recbole-r3vae convert --input sids/ --output new.sid

Wherever a .sid file is read, .sid.gz is too. A name that ends in index.json is that of items and their tokens, <a_12> <b_3> …; of other
JSON files a list of all tokens is written, as a tokenizer's add_tokens takes it. --item2id names the file of item ids and the numbers by
which an index.json calls them. A list of added tokens names no items: with --added_tokens it says how large the codebooks are, where
--input knows only the codes that items have. A folder is one that tokenize --engine wrote; its vectors are written too, new.npy and new.ids.
"""


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument("--input", required=True, help="a .sid file, from any tool, .sid.gz, *.index.json, or a folder of shards")
    parser.add_argument("--output", required=True, help="the file to write: .sid, .sid.gz, *.index.json or another .json")
    parser.add_argument("--item2id", help="item ids and the numbers that stand for them in index.json, separated by a tab")
    parser.add_argument("--added_tokens", help="added_tokens.json, tokenizer.json or a JSON list: the codebook sizes are theirs")


def run(options, rest: list[str]) -> None:
    """Do it."""
    from pathlib import Path

    from recbole_r3vae.errors import UserError
    from recbole_r3vae.sid.convert import convert

    if Path(options.input).is_dir():
        if options.item2id or options.added_tokens or Path(options.output).suffix != ".sid":
            raise UserError(f"{options.input} is a folder, of which a .sid file is made; give --output new.sid, and convert that")
        from recbole_r3vae.serve.sharded import gather

        print(f"{gather(options.input, options.output).n_items - 1} items: {options.output}")
        return
    print(convert(options.input, options.output, options.item2id, options.added_tokens))
