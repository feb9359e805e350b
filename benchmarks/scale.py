"""Catalogues of a million items and of ten: what tokenizing them and recommending from them costs.

    python benchmarks/scale.py vectors --items 1000000 --output vectors.npy     # synthetic unit vectors, 768 x float16, and their .ids
    python benchmarks/scale.py tokenize --embeddings vectors.npy --output items.sid --set codebook_sizes=[8192,8192,8192] train_items=65536
    python benchmarks/scale.py tokenize --kill-at 400000 …                      # kills it when so many are encoded, and gives it again
    python benchmarks/scale.py rate --codes 8192                                # encoding alone, against the same matrix products alone
    python benchmarks/scale.py tree --items 10000000 --codes 8192               # the prefix tree, and 20 beams in it
    python benchmarks/scale.py dense --items 1000000                            # every item scored, by look-ups and by vectors
    python benchmarks/scale.py loss --data_path dataset                         # R3GR's dense head by the full and the sampled softmax

``tokenize`` runs ``recbole-r3vae tokenize`` with the same words in a process of its own and reports its wall clock, its CPU seconds, the most
memory that it had (``own_gib``, seen every fifth of a second) and the most that was resident, pages of the mapped vectors included, which the
system takes back when it needs them (``peak_gib``); of the encoding its CPU seconds, beside those of the matrix products
``[4096, d] x [d, K]`` in float32 alone, timed before and after. Ends with ``ratio=<rate of encoding / rate of products> target=0.6``.

``rate`` encodes items with untrained codebooks, which cost what trained ones do: reading, scaling to unit norm, three levels, errors and
the file of finished blocks, against the products alone, in turns, and ends alike.
``tree`` and ``dense`` take random codes of skewed frequencies with TIGER's suffix level, and an untrained R3GR as in its YAML whose items are
their codes; CPU milliseconds a user for the 20 best items. ``dense`` ends with ``ratio=<vectors / look-ups, 32 users at once> target=1`` where
the vectors are few enough to be held.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np


def make_vectors(path: Path, n: int, dim: int, seed: int = 0, block: int = 16384) -> None:
    """Write unit vectors ``[n, dim]`` float16 in random clusters within clusters, as text embeddings have them, block by block."""
    random = np.random.default_rng(seed)
    topics, subtopics = (random.standard_normal((k, dim), np.float32) for k in (300, 3000))
    header = {"descr": "<f2", "fortran_order": False, "shape": (n, dim)}
    with open(path, "wb") as file, open(path.with_suffix(".ids"), "w", encoding="utf-8") as ids:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n, block):
            m = min(block, n - start)
            x = topics[random.integers(300, size=m)] + 0.6 * subtopics[random.integers(3000, size=m)]
            x += 0.5 * random.standard_normal((m, dim), np.float32)
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            file.write(x.astype(np.float16).data)
            ids.writelines(f"i{row}\n" for row in range(start, start + m))


def measured(words: list[str], partial: Path, record: int, kill_at: int | None = None) -> dict[str, float]:
    """Run a command and watch the file of finished blocks.

    Args:
        words: The command.
        partial: A pattern of that file.
        record: Bytes of an item in it.
        kill_at: Kill the command when so many items are in it.

    Returns:
        ``seconds``, ``cpu_seconds``, ``own_gib`` and ``peak_gib``, ``status``, and of the encoding ``items`` and ``encoding_cpu_seconds``.
    """
    own, started, seen, last = 0, time.perf_counter(), [], max((path.stat().st_size for path in Path().glob(str(partial))), default=0)
    pid = os.posix_spawn(words[0], words, os.environ)
    status = None
    while status is None:
        time.sleep(0.2)
        own = max(own, *map(int, re.findall(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())), 0)  # kB; a zombie has none
        sizes = [path.stat().st_size for path in Path().glob(str(partial)) if path.exists()]
        if sizes and max(sizes) != last:  # what an earlier process left is not this one's
            last = max(sizes)
            ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seen.append((last, (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")))
            if kill_at is not None and last >= kill_at * record:
                os.kill(pid, signal.SIGKILL)
        done, code, used = os.wait4(pid, os.WNOHANG)
        status = code if done else None
    of_encoding = {"items": (seen[-1][0] - seen[0][0]) // record, "encoding_cpu_seconds": seen[-1][1] - seen[0][1]} if seen else {}
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "own_gib": own / 2**20,
        "peak_gib": used.ru_maxrss / 2**20,
        "status": status,
        **of_encoding,
    }


def tokenize(options: argparse.Namespace, words: list[str]) -> None:
    """Run the command, perhaps killed once, and report."""
    command = [sys.executable, "-m", "recbole_r3vae.cli", "tokenize", *words]
    vectors, output = (Path(words[words.index(key) + 1]) for key in ("--embeddings", "--output"))
    [sizes] = re.findall(r"codebook_sizes=\[([\d,]+)\]", " ".join(words)) or ["256,256,256"]
    sizes, dim = [int(size) for size in sizes.split(",")], np.load(vectors, mmap_mode="r").shape[1]
    record, partial = 4 * len(sizes) + 8, Path("saved") / vectors.stem / "*" / "codes.partial"
    products = [product_rate(dim, max(sizes))]
    for kill_at in [options.kill_at, None] if options.kill_at else [None]:
        run = measured(command, partial, record, kill_at)
        print(" ".join(f"{key}={value:.2f}" for key, value in run.items()), f"output={'there' if output.exists() else 'absent'}", flush=True)
    products.append(product_rate(dim, max(sizes)))
    done = 2 * dim * sum(sizes) * run["items"] / run["encoding_cpu_seconds"]
    print(f"encoded at {done / 1e9:.1f} GFLOP/s; the products alone before and after: {products[0] / 1e9:.1f}, {products[1] / 1e9:.1f}")
    print(f"ratio={2 * done / sum(products):.2f} target=0.6")


def product_rate(dim: int, codes: int, seconds: float = 10) -> float:
    """Floating point operations a CPU second of ``[4096, dim] x [dim, codes]`` in float32 on one thread."""
    import torch

    torch.set_num_threads(1)
    x, codebook, products = torch.randn(4096, dim), torch.randn(codes, dim), torch.empty(4096, codes)
    started, n = time.process_time(), 0
    while time.process_time() - started < seconds:
        torch.matmul(x, codebook.T, out=products)
        n += 1
    return n * 2 * 4096 * dim * codes / (time.process_time() - started)


def rate(options: argparse.Namespace) -> None:
    """Encoding against its matrix products alone."""
    import torch

    from recbole_r3vae.config import Config
    from recbole_r3vae.data.content import load as load_module
    from recbole_r3vae.data.items import ItemVectors
    from recbole_r3vae.trainer.encoding import encode

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        make_vectors(path, options.items, options.dim)
        with mock.patch.object(load_module, "HELD_BYTES", 0):  # the file is read as a large one is
            items = ItemVectors(load_module.content_from_vectors(path))
        config = Config("R3VAE", "scale", config_dict={"codebook_sizes": [options.codes] * 3, "device": "cpu"})
        model = config.model_class(config, items).eval()
        ours, alone, flops = [], [], 6 * options.items * options.dim * options.codes
        for _ in range(options.repeats):
            started = time.process_time()
            encode(model, items, Path(folder) / "codes.partial")
            ours.append(time.process_time() - started)
            (Path(folder) / "codes.partial").unlink()
            alone.append(flops / product_rate(options.dim, options.codes, seconds=2))
    ours, alone = statistics.median(ours), statistics.median(alone)
    speed = f"{flops / ours / 1e9:.1f} GFLOP/s ({options.items / ours:,.0f} items/s)"
    print(f"{options.items:,} x {options.dim}, 3 x {options.codes}: encoded at {speed}")
    print(f"the products alone: {flops / alone / 1e9:.1f} GFLOP/s")
    print(f"ratio={alone / ours:.2f} target=0.6")


def random_codes(n: int, sizes: list[int], seed: int = 0):
    """Codes ``[n + 1, L]`` below a padding row, of skewed frequencies as a tokenizer's are, with TIGER's suffix level; and all sizes."""
    import torch

    from recbole_r3vae.sid.collisions import resolve_collisions

    random = np.random.default_rng(seed)
    codes = np.stack([(size * random.random(n) ** 1.5).astype(np.int64) for size in sizes], axis=1)
    codes, sizes, _ = resolve_collisions(torch.from_numpy(codes), sizes, "suffix")
    return torch.cat([torch.full((1, codes.shape[1]), -1), codes]), sizes


def build(codes, sizes, **settings):
    """An untrained R3GR whose items are their codes."""
    import torch

    from recbole_r3vae.config import Config
    from recbole_r3vae.model.contract import Sources
    from recbole_r3vae.sid.table import SemanticIDs

    config = Config("R3GR", "scale", config_dict={"MAX_ITEM_LIST_LENGTH": 20, "device": "cpu", "item_inputs": ["codes"], **settings})
    catalogue = SimpleNamespace(
        sources=Sources(SemanticIDs(codes, sizes, ["[PAD]", *map(str, range(1, len(codes)))])),
        num=lambda field: len(codes) if field == config["ITEM_ID_FIELD"] else 1001,
        field2id_token={config["USER_ID_FIELD"]: ["[PAD]", *map(str, range(1, 1001))]},
    )
    torch.manual_seed(0)
    return config.model_class(config, catalogue).eval()


def readings(model, n_users: int, n_items: int):
    """What the model reads of full random histories."""
    import torch
    from recbole.data.interaction import Interaction

    items = torch.randint(1, n_items + 1, (n_users, 20), generator=torch.Generator().manual_seed(1))
    return model.read(Interaction({"item_id_list": items, "item_length": torch.full((n_users,), 20)}))


def milliseconds(call, users: int, repeats: int) -> float:
    """CPU milliseconds a user, the median of several calls after one to warm up."""
    seconds = []
    for _ in range(1 + repeats):
        started = time.process_time()
        call()
        seconds.append(time.process_time() - started)
    return 1000 * statistics.median(seconds[1:]) / users


def tree(options: argparse.Namespace) -> None:
    """Build the prefix tree of a catalogue and search it."""
    import torch

    from recbole_r3vae.provenance import peak_memory_mb
    from recbole_r3vae.sid.prefix_tree import PrefixTree, prefix_tree_of

    torch.set_num_threads(1)
    codes, sizes = random_codes(options.items, [options.codes] * 3)
    before, started = peak_memory_mb(), time.process_time()
    built = PrefixTree.from_codes(codes, sizes)
    seconds = time.process_time() - started
    shape = f"{options.items:,} items, {' x '.join(map(str, sizes))}"
    print(f"{shape}: tree built in {seconds:.1f} CPU s, {built.nbytes / 2**20:.0f} MiB; nodes {built.n_nodes}")
    print(f"the process peaks at {peak_memory_mb() / 1024:.2f} GiB, {before / 1024:.2f} before the tree")
    model = build(codes, sizes)
    del codes, built
    prefix_tree_of(model.sources.semantic_ids)
    model.num_beams = model.heads["generate"].num_beams = 20
    with torch.no_grad():
        for users in (1, 64):
            reading = readings(model, users, options.items)
            spent = milliseconds(lambda: model.rank(reading, 20), users, options.repeats)
            print(f"beam search, 20 beams, {users} users at once: {spent:.2f} ms a user")


def dense(options: argparse.Namespace) -> None:
    """Score every item of a catalogue by look-ups, and by vectors where these can be held."""
    import torch

    from recbole_r3vae.model.generator import r3gr
    from recbole_r3vae.provenance import peak_memory_mb

    torch.set_num_threads(1)
    codes, sizes = random_codes(options.items, [options.codes] * 3)
    model = build(codes, sizes, rank_by="dense", code_merge="sum")
    del codes
    figures = {}
    with torch.no_grad():
        for name, held in (("look-ups", 0), ("vectors", 2**62)):
            if name == "vectors" and options.items * 128 > 2**29:
                continue
            r3gr.HELD_NUMBERS = held
            model.forget()
            started = time.process_time()
            model.item_vectors()
            ready = time.process_time() - started
            for users in (1, 32, 256):
                reading = readings(model, users, options.items)
                figures[name, users] = milliseconds(lambda: model.rank(reading, 20), users, options.repeats)
            rest = ", ".join(f"{figures[name, users]:.2f} ms a user ({users} at once)" for users in (1, 32, 256))
            print(f"{options.items:,} items by {name}: ready in {ready:.1f} CPU s, {rest}; peak {peak_memory_mb() / 1024:.2f} GiB")
    if ("vectors", 32) in figures:
        print(f"ratio={figures['vectors', 32] / figures['look-ups', 32]:.2f} target=1")


def loss(options: argparse.Namespace) -> None:
    """Train R3GR's dense head with the loss over all items and with the sampled one; validation alone is measured."""
    import torch
    from recbole.utils import init_seed

    from recbole_r3vae.config import Config
    from recbole_r3vae.quick_start.lookup import create_dataset, data_preparation, get_trainer
    from recbole_r3vae.quick_start.provide import provide
    from recbole_r3vae.quick_start.run import make_network

    torch.set_num_threads(1)
    fixed = {
        "data_path": options.data_path, "rank_by": "dense", "code_merge": "sum", "tokenizer": "RKMeans", "epochs": options.epochs,
        "eval_step": options.epochs, "hidden_size": options.width, "inner_size": 4 * options.width, "show_progress": False, "device": "cpu",
    }  # fmt: skip
    for seed in options.seeds:
        for n_negatives in (None, options.negatives):
            config = Config("R3GR", options.dataset, config_dict={**fixed, "seed": seed, "n_negatives": n_negatives})
            init_seed(config["seed"], True)
            data = create_dataset(config)
            config.contract.give(data, provide(config, data, show_progress=False).sources, config)
            train, valid, _ = data_preparation(config, data)
            trainer = get_trainer(config)(config, make_network(config, train.dataset, data.sources))
            started = time.process_time()
            _, found = trainer.fit(train, valid, saved=False)
            spent, name = (time.process_time() - started) / options.epochs, f"{n_negatives} drawn items" if n_negatives else "all items"
            print(f"seed {seed}, {name}: validation NDCG@10 {found['ndcg@10']:.4f}, {spent:.1f} CPU s an epoch, validation included", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    vectors = kinds.add_parser("vectors")
    vectors.add_argument("--items", type=int, default=1_000_000)
    vectors.add_argument("--dim", type=int, default=768)
    vectors.add_argument("--output", type=Path, required=True)
    tokens = kinds.add_parser("tokenize")
    tokens.add_argument("--kill-at", type=int, help="kill the command once so many items are encoded, and give it again")
    speed = kinds.add_parser("rate")
    speed.add_argument("--items", type=int, default=16384)
    speed.add_argument("--dim", type=int, default=768)
    speed.add_argument("--codes", type=int, default=8192)
    speed.add_argument("--repeats", type=int, default=3)
    for kind, items in (("tree", 10_000_000), ("dense", 1_000_000)):
        ranking = kinds.add_parser(kind)
        ranking.add_argument("--items", type=int, default=items)
        ranking.add_argument("--codes", type=int, default=256)
        ranking.add_argument("--repeats", type=int, default=3)
    losses = kinds.add_parser("loss")
    losses.add_argument("--dataset", default="amazon-beauty")
    losses.add_argument("--data_path", default="dataset")
    losses.add_argument("--epochs", type=int, default=5)
    losses.add_argument("--width", type=int, default=64)
    losses.add_argument("--negatives", type=int, default=512)
    losses.add_argument("--seeds", type=int, nargs="+", default=[2020])
    options, words = parser.parse_known_args(arguments)
    if words and options.kind != "tokenize":
        parser.error(f"unknown words {' '.join(words)}")
    if options.kind == "vectors":
        make_vectors(options.output, options.items, options.dim)
    elif options.kind == "tokenize":
        tokenize(options, words)
    else:
        {"rate": rate, "tree": tree, "dense": dense, "loss": loss}[options.kind](options)


if __name__ == "__main__":
    main()
