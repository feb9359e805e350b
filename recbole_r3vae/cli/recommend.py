"""``recbole-r3vae recommend``."""

from __future__ import annotations

from recbole_r3vae.cli.arguments import add_engine, engine_of, how_sharded
from recbole_r3vae.errors import UserError

SUMMARY = "recommend items with a trained model"
HELP = """recommend items with a trained model

  recbole-r3vae recommend --checkpoint saved/ml-100k/R3GR-R3VAE-... --users 1,2 --exclude-seen
  recbole-r3vae recommend --checkpoint saved/ml-100k/R3GR-R3VAE-... --history 50,181,172
  recbole-r3vae recommend --checkpoint saved/ml-100k/R3GR-R3VAE-... --input histories.csv --topk 20 --output out.csv
  recbole-r3vae recommend --checkpoint saved/ml-100k/R3GR-R3VAE-... --users all --add new.sid --remove gone.txt --output out.jsonl
  recbole-r3vae recommend --checkpoint saved/ml-100k/R3GR-R3VAE-... --input histories/ --output out/ --engine=ray

histories.csv has a column `history`, item ids from the oldest to the newest, and may have a column `user`. Item ids are separated by
spaces, semicolons or commas (the cell then in double quotes), or are a list as JSON or pandas writes it: "[21, 22]", ['a, b', 'c'].
Models that read times, such as HSTU, take --users. Without --output the first rows are shown. With --engine, --input is a Parquet file or a
folder of them with the same columns, --users is all, and --output a folder.
"""
SHOWN_ROWS = 50


def add(parser) -> None:
    """Declare its arguments."""
    parser.add_argument("--checkpoint", required=True, help="a run's folder, or the best.pth in it")
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--users", help="users of the dataset, separated by commas; all: every one")
    whom.add_argument("--history", help="item ids from the oldest to the newest, separated by commas")
    whom.add_argument("--input", help="CSV file of histories; with --engine, Parquet")
    parser.add_argument("--as-of", default="now", choices=("now", "valid", "test"), help="--users: all interactions, or the evaluation's")
    parser.add_argument("--topk", type=int, default=10, help="items for each history")
    parser.add_argument("--output", help="file to write, .csv, .jsonl or .parquet; with --engine a folder")
    parser.add_argument("--exclude-seen", action="store_true", help="leave out the items of the history")
    parser.add_argument("--allow", help="text file of the only items that may be recommended, one id a line")
    parser.add_argument("--add", nargs="+", action="extend", default=[], metavar="FILE", help=".sid files of new items, made by tokenize --checkpoint")
    parser.add_argument("--remove", help="text file of items that are gone, one id a line")
    parser.add_argument("--model", help="the class of a model from outside this package, package.module:Class, whose code is then run")
    parser.add_argument("--tokenizer", help="likewise of a tokenizer")
    parser.add_argument("--num_beams", help="beam of a generator, at least topk, or exact; default: the run's")
    parser.add_argument("--batch_size", type=int, default=256, help="histories at a time")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:<number>; default: the run's")
    parser.add_argument("--data_path", help="where the run's dataset lies now; default: the run's")
    add_engine(parser)


def run(options, rest: list[str]) -> None:
    """Do it."""
    from tqdm import tqdm

    from recbole_r3vae.config.sources import parse_value
    from recbole_r3vae.serve.files import check_output, read_histories, read_ids, split_ids, write_frames
    from recbole_r3vae.serve.recommender import Recommender

    engine = engine_of(options)
    if options.output and engine is None:
        check_output(options.output)
    if options.as_of != "now" and not options.users:
        raise UserError(f"--as-of {options.as_of} is about users of the dataset; give --users")
    allow = read_ids(options.allow) if options.allow else None
    keys = {"device": options.device, "data_path": options.data_path, "model": options.model, "tokenizer": options.tokenizer}
    keys["num_beams"] = parse_value("num_beams", options.num_beams) if options.num_beams else None
    keys = {key: value for key, value in keys.items() if value is not None}
    if engine is not None:
        _recommend_shards(options, engine, keys, allow, read_ids(options.remove) if options.remove else [])
        return
    recommender = Recommender(options.checkpoint, keys)
    for path in options.add:
        recommender.add_items(path)
    if options.remove:
        recommender.remove_items(read_ids(options.remove))

    label, total = "user", None
    if options.users:
        everybody = options.users == "all"
        users = recommender.users.users(options.as_of) if everybody else split_ids(options.users, recommender.users.number)
        pairs, total = recommender.histories_of(users, options.as_of), len(users)
    elif options.history:
        pairs, label = [(0, split_ids(options.history, recommender.served.row_of))], "row"
    else:
        label, pairs = read_histories(options.input, recommender.served.row_of)
    how = (options.topk, label, bool(options.users), options.exclude_seen, allow, options.batch_size)
    if not options.output:
        _show(recommender.stream(pairs, *how))
        return
    with tqdm(pairs, desc="Recommend", unit=" histories", total=total, ncols=100) as bar:
        n_rows = write_frames(options.output, recommender.stream(bar, *how))
    print(f"{n_rows:,} recommendations: {options.output}")


def _recommend_shards(options, engine, keys: dict, allow: list[str] | None, remove: list[str]) -> None:
    from recbole_r3vae.serve.sharded import recommend_shards

    if not options.output or options.history or options.users not in (None, "all"):
        raise UserError("--engine recommends to all users or to shards of histories, into a folder; give --users all or --input, and --output")
    made = recommend_shards(
        options.checkpoint, options.output, engine, options.input, settings=keys, topk=options.topk, batch_size=options.batch_size,
        exclude_seen=options.exclude_seen, as_of=options.as_of, add=tuple(options.add), remove=tuple(remove),
        allow=None if allow is None else tuple(allow), **how_sharded(options),
    )  # fmt: skip
    print(f"{made['rows']:,} recommendations in {len(made['shards'])} shards: {options.output}")


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
