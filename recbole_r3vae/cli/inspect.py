"""``recbole-r3vae inspect``."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from recbole_r3vae.cli.arguments import add_config_files, files_of
from recbole_r3vae.errors import UserError

SUMMARY = "look into semantic IDs, or into what an export changed"
HELP = """look into semantic IDs: an item and its siblings, items below a prefix, the catalogue as a tree; or into what an export changed

  recbole-r3vae inspect --sid suffix.sid --dataset ml-100k --item 50
  recbole-r3vae inspect --sid suffix.sid --dataset ml-100k --code 12,5
  recbole-r3vae inspect --sid suffix.sid --dataset ml-100k --depth 2 --html tree.html
  recbole-r3vae inspect --diff old/shop.inter new/shop.inter

Settings that say how to read a dataset, such as --field_separator or --ITEM_ID_FIELD, can be given as in a run; those of the run that
made the semantic IDs are known where its tokenizer lies beside them.
"""
TAKES_SETTINGS = True
OF_IDS = ("item", "code", "embeddings", "ids", "html", "title_field")
"""Options that are about semantic IDs."""


def add(parser) -> None:
    """Declare its arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sid", help="the .sid file, or *.index.json, from any tool")
    what.add_argument("--diff", nargs=2, metavar=("OLD", "NEW"), help="two .inter files: which users, items and interactions came and went")
    parser.add_argument("--item", help="an item id: show its semantic ID and its siblings")
    parser.add_argument("--code", help="first codes, such as 12,5 or 12-5: show the items below")
    parser.add_argument("--dataset", "-d", help="the dataset whose titles to show")
    parser.add_argument("--data_path", help="the dataset folder's parent")
    add_config_files(parser, "how to read it, by default as the run of --sid did: ")
    parser.add_argument("--title_field", help="field of the .item file; default: the first text field of the dataset's settings")
    parser.add_argument("--embeddings", help="item vectors, .npy, .safetensors, .npz or .pt: shows the titles nearest to a cluster's mean")
    parser.add_argument("--ids", help="their item ids, one a line; default: beside the vectors, with the ending .ids")
    parser.add_argument("--depth", type=int, default=1, help="levels of the tree that are shown as text")
    parser.add_argument("--limit", type=int, default=10, help="siblings shown for each level, items below a prefix")
    parser.add_argument("--html", help="also write the whole catalogue as a page that folds and unfolds")


def run(options, rest: list[str]) -> None:
    """Do it."""
    if options.limit < 0:
        raise UserError(f"--limit is {options.limit}; give a whole number from 0")
    if options.diff:
        unread = next((name for name in OF_IDS if getattr(options, name)), None)
        if unread is not None:
            raise UserError(f"--{unread} is about semantic IDs, and --diff compares interactions; leave one of them out")
        _show_difference(options, rest)
    else:
        _show_semantic_ids(options, rest)


def _show_difference(options, rest: list[str]) -> None:
    from recbole_r3vae.config import Config
    from recbole_r3vae.data.difference import differences, table

    config = Config("Pop", options.dataset or Path(options.diff[1]).stem, files_of(options), arguments=rest)
    print(table(differences(*options.diff, config)))


def _show_semantic_ids(options, rest: list[str]) -> None:
    from recbole_r3vae.data.content import content_from_vectors
    from recbole_r3vae.data.items import ItemVectors
    from recbole_r3vae.serve import catalogue_tree, dataset_titles, inspect_item, items_below, write_html
    from recbole_r3vae.sid.table import SemanticIDs

    content = content_from_vectors(options.embeddings, options.ids) if options.embeddings else None
    sids = SemanticIDs.load(options.sid, content.item_ids if content else None)
    if not options.dataset and (rest or options.config_files or options.data_path or options.title_field):
        raise UserError("settings say how to read a dataset's titles, and none is named; give --dataset, or leave them out")
    titles = None
    if options.dataset:
        titles = dataset_titles(options.dataset, options.data_path, options.title_field, options.sid, files_of(options), rest)
    vectors = ItemVectors(content).embeddings if content else None
    if options.item:
        _show_siblings(inspect_item(sids, options.item, titles), options.item, options.limit)
    if options.code:
        words = re.split(r"[,\-\s]+", options.code.strip())
        if not all(re.fullmatch("[0-9]{1,9}", word) for word in words):
            raise UserError(f"--code {options.code!r} is no list of codes; give whole numbers, such as 12,5")
        below = items_below(sids, [int(word) for word in words], titles)
        print(f"{len(below)} items below {'-'.join(words)}")
        _show_items(below, options.limit)
    if options.html:
        write_html(options.html, sids, titles, vectors)
        print(f"{sids.n_items - 1:,} items as a tree: {options.html}")
    if not (options.item or options.code or options.html):
        for level, prefix, items, typical in catalogue_tree(sids, titles, vectors, options.depth).itertuples(index=False):
            print(f"{'  ' * (level - 1)}{prefix:<12} {items:>6}  {typical}")


def _show_siblings(table, item: str, limit: int) -> None:
    own = table.iloc[0]
    print(f"item {item}: {own.title}\nsemantic ID: {own.sid}")
    for level in range(own.level, 0, -1):
        siblings = table[(table.level == level) & (table.item != item)]
        prefix = "-".join(own.sid.split("-")[:level])
        print(f"{prefix}: {len(siblings)} more items" if level == own.level else f"{prefix}: {len(siblings)} items beside those above")
        _show_items(siblings, limit)


def _show_items(table, limit: int) -> None:
    for item, title, sid in islice(table[["item", "title", "sid"]].itertuples(index=False), limit):
        print(f"  {item:<12} {sid:<16} {title}")
    if len(table) > limit:
        print(f"  and {len(table) - limit} more (--limit)")
