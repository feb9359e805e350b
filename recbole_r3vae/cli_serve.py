"""The sub-commands that use what was trained: ``recommend`` and ``inspect``."""

from __future__ import annotations

import re
from itertools import islice

from recbole_r3vae.errors import UserError

RECOMMEND_HELP = """recommend items with a trained model

  recbole-r3vae recommend --checkpoint saved/ml-100k/R3GR-R3VAE-... --users 1,2 --exclude-seen
  recbole-r3vae recommend --checkpoint saved/ml-100k/R3GR-R3VAE-... --history 50,181,172
  recbole-r3vae recommend --checkpoint saved/ml-100k/R3GR-R3VAE-... --input histories.csv --topk 20 --output out.csv
  recbole-r3vae recommend --checkpoint saved/ml-100k/R3GR-R3VAE-... --users all --add new.sid --remove gone.txt --output out.jsonl

histories.csv has a column `history`, item ids from the oldest to the newest, and may have a column `user`. Item ids are separated by
spaces; or by commas, in a cell in double quotes. Without --output the first rows are shown.
"""

INSPECT_HELP = """look into semantic IDs: an item and its siblings, the items below a prefix, the catalogue as a tree

  recbole-r3vae inspect --sid suffix.sid --dataset ml-100k --item 50
  recbole-r3vae inspect --sid suffix.sid --dataset ml-100k --code 12,5
  recbole-r3vae inspect --sid suffix.sid --dataset ml-100k --depth 2 --html tree.html
"""

SHOWN_ROWS = 50


def add_recommend_arguments(parser) -> None:
    """Declare the arguments of ``recbole-r3vae recommend``."""
    parser.add_argument("--checkpoint", required=True, help="a run's folder, or the best.pth in it")
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--users", help="users of the dataset, separated by commas; all: every one")
    whom.add_argument("--history", help="item ids from the oldest to the newest, separated by commas")
    whom.add_argument("--input", help="CSV file of histories")
    parser.add_argument("--as-of", default="now", choices=("now", "valid", "test"), help="--users: all interactions, or the evaluation's")
    parser.add_argument("--topk", type=int, default=10, help="items for each history")
    parser.add_argument("--output", help="file to write, .csv, .jsonl or .parquet")
    parser.add_argument("--exclude-seen", action="store_true", help="leave out the items of the history")
    parser.add_argument("--allow", help="text file of the only items that may be recommended, one id a line")
    parser.add_argument("--add", nargs="+", default=[], metavar="FILE", help=".sid files of new items, made by tokenize --checkpoint")
    parser.add_argument("--remove", help="text file of items that are gone, one id a line")
    parser.add_argument("--model", help="the class of a model from outside this package, package.module:Class, whose code is then run")
    parser.add_argument("--num_beams", help="beam of a generator, at least topk, or exact; default: the run's")
    parser.add_argument("--batch_size", type=int, default=256, help="histories at a time")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:<number>; default: the run's")
    parser.add_argument("--data_path", help="where the run's dataset lies now; default: the run's")


def add_inspect_arguments(parser) -> None:
    """Declare the arguments of ``recbole-r3vae inspect``."""
    parser.add_argument("--sid", required=True, help="the .sid file, from any tool")
    parser.add_argument("--item", help="an item id: show its semantic ID and its siblings")
    parser.add_argument("--code", help="first codes, such as 12,5 or 12-5: show the items below")
    parser.add_argument("--dataset", "-d", help="the dataset whose titles to show")
    parser.add_argument("--data_path", help="the dataset folder's parent")
    parser.add_argument("--config_files", nargs="+", default=[], help="YAML files that say how to read it; default: as the run of --sid did")
    parser.add_argument("--title_field", help="field of the .item file; default: the first text field of the dataset's settings")
    parser.add_argument("--embeddings", help=".npy or .safetensors of item vectors: shows the titles nearest to a cluster's mean")
    parser.add_argument("--ids", help="their item ids, one a line; default: beside the vectors, with the ending .ids")
    parser.add_argument("--depth", type=int, default=1, help="levels of the tree that are shown as text")
    parser.add_argument("--limit", type=int, default=10, help="siblings shown for each level, items below a prefix, clusters of the tree")
    parser.add_argument("--html", help="also write the whole catalogue as a page that folds and unfolds")


def run_recommend(options, rest: list[str]) -> None:
    """``recbole-r3vae recommend``."""
    from tqdm import tqdm

    from recbole_r3vae.quick_start.serve import Recommender
    from recbole_r3vae.quick_start.serve_files import check_output, read_histories, read_ids, split_ids, write_frames
    from recbole_r3vae.config.sources import parse_value

    if options.output:
        check_output(options.output)
    if options.as_of != "now" and not options.users:
        raise UserError(f"--as-of {options.as_of} is about users of the dataset; give --users")
    allow = read_ids(options.allow) if options.allow else None
    keys = {"device": options.device, "data_path": options.data_path, "model": options.model}
    keys["num_beams"] = parse_value("num_beams", options.num_beams) if options.num_beams else None
    recommender = Recommender(options.checkpoint, {key: value for key, value in keys.items() if value is not None})
    for path in options.add:
        recommender.add_items(path)
    if options.remove:
        recommender.remove_items(read_ids(options.remove))

    label, total = "user", None
    if options.users:
        users = recommender.users.users(options.as_of) if options.users == "all" else split_ids(options.users)
        pairs, total = recommender.users.of(users, options.as_of), len(users)
    elif options.history:
        items = split_ids(options.history)
        if not any(item in recommender.served.row_of for item in items):
            raise UserError(f"the checkpoint knows none of the items of --history {options.history}; correct their ids")
        pairs, label = [(0, items)], "row"
    else:
        label, pairs = read_histories(options.input)
    how = (options.topk, label, bool(options.users), options.exclude_seen, allow, options.batch_size)
    if not options.output:
        _show(recommender.stream(pairs, *how))
        return
    with tqdm(pairs, desc="Recommend", unit=" histories", total=total, ncols=100) as bar:
        n_rows = write_frames(options.output, recommender.stream(bar, *how))
    print(f"{n_rows:,} recommendations: {options.output}")


def _show(frames) -> None:
    """The first rows of a table that comes in parts."""
    shown, header = 0, True
    for frame in frames:
        part = frame.head(SHOWN_ROWS - shown)
        print(part.to_string(index=False, header=header))
        shown, header = shown + len(part), False
        if len(frame) > len(part) or shown == SHOWN_ROWS:
            print(f"the first {SHOWN_ROWS} rows; --output recommendations.csv writes all")
            return


def run_inspect(options, rest: list[str]) -> None:
    """``recbole-r3vae inspect``."""
    from recbole_r3vae.data.content import content_from_vectors
    from recbole_r3vae.data.items import ItemVectors
    from recbole_r3vae.quick_start.serve_inspect import catalogue_tree, dataset_titles, inspect_item, items_below, write_html
    from recbole_r3vae.sid.table import SemanticIDs

    content = content_from_vectors(options.embeddings, options.ids) if options.embeddings else None
    sids = SemanticIDs.load(options.sid, content.item_ids if content else None)
    reading = (options.data_path, options.title_field, options.sid, options.config_files)
    titles = dataset_titles(options.dataset, *reading) if options.dataset else None
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
