"""``recbole-r3vae inspect``."""

from __future__ import annotations

import re
from itertools import islice

from recbole_r3vae.errors import UserError

SUMMARY = "look into semantic IDs, or into what an export changed"
HELP = """look into semantic IDs: an item and its siblings, the items below a prefix, the catalogue as a tree

  recbole-r3vae inspect --sid suffix.sid --dataset ml-100k --item 50
  recbole-r3vae inspect --sid suffix.sid --dataset ml-100k --code 12,5
  recbole-r3vae inspect --sid suffix.sid --dataset ml-100k --depth 2 --html tree.html
"""


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument("--sid", required=True, help="the .sid file, from any tool")
    parser.add_argument("--item", help="an item id: show its semantic ID and its siblings")
    parser.add_argument("--code", help="first codes, such as 12,5 or 12-5: show the items below")
    parser.add_argument("--dataset", "-d", help="the dataset whose titles to show")
    parser.add_argument("--data_path", help="the dataset folder's parent")
    parser.add_argument("--title_field", help="field of the .item file; default: the first text field of the dataset's settings")
    parser.add_argument("--embeddings", help=".npy or .safetensors of item vectors: shows the titles nearest to a cluster's mean")
    parser.add_argument("--ids", help="their item ids, one a line; default: beside the vectors, with the ending .ids")
    parser.add_argument("--depth", type=int, default=1, help="levels of the tree that are shown as text")
    parser.add_argument("--limit", type=int, default=10, help="siblings shown for each level, items below a prefix, clusters of the tree")
    parser.add_argument("--html", help="also write the whole catalogue as a page that folds and unfolds")


def run(options, rest: list[str]) -> None:
    """Do it."""
    from recbole_r3vae.data.content import content_from_vectors
    from recbole_r3vae.data.items import ItemVectors
    from recbole_r3vae.quick_start.serve_inspect import catalogue_tree, dataset_titles, inspect_item, items_below, write_html
    from recbole_r3vae.sid.table import SemanticIDs

    content = content_from_vectors(options.embeddings, options.ids) if options.embeddings else None
    sids = SemanticIDs.load(options.sid, content.item_ids if content else None)
    titles = dataset_titles(options.dataset, options.data_path, options.title_field) if options.dataset else None
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
