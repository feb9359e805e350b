"""Constrained generation against Hugging Face's, and what the tree of semantic IDs costs.

    python benchmarks/decoding.py                  # everything, about five minutes on one core
    python benchmarks/decoding.py --smoke          # everything, shrunken to seconds: does it run?
    python benchmarks/decoding.py --claims tiger   # or r3gr, masking

Needs the [bench] extra. Float32, one thread, untrained weights, both sides in one process, taking turns; times are the best of
``--repeats``.
Each claim ends with ``ratio=<peer / ours, or limit / measured> target=<figure>``. That both sides return the same items is asserted.

``tiger``: TIGER as in its YAML (T5 4+4, user token) on 12,101 random items with 4 codes of 256 and histories of 20 items, 64 users a batch;
the peer is ``T5ForConditionalGeneration.generate`` with the same weights, ``prefix_allowed_tokens_fn`` over a dict of prefixes,
``length_penalty=0`` and no end token. The floor is the operations of all matrix products over the rate of a product of 1024 x 1024
matrices, measured in the same run. ``r3gr``: R3GR as in its YAML on the same catalogue against the same peer. ``masking``: what the
constraint adds to a step of beam search, a beam row: finding the children, reading their log-probabilities, masking, going down.

Hugging Face copies caches of hundreds of megabytes, which glibc pages in anew each time. Where page faults are dear, as in some virtual
machines, that is half of its time; MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=9000000000 in the environment keeps the memory.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from recbole_r3vae.model.generator.decoding.constrain import constrain
from recbole_r3vae.sid.collisions import resolve_collisions
from recbole_r3vae.sid.prefix_tree import PrefixTree

# This folder last, or transformers takes tokenizers.py here for the library of that name.
sys.path.sort(key=lambda folder: folder == str(Path(__file__).parent))

SIZES, HISTORY, K = (256, 256, 256, 256), 20, 20
TOLERANCE = 1e-4  # scores closer than this may change places


def best_of(repeats: int, calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each call, best of ``repeats`` rounds after one to warm up. Calls take turns: a busy moment of the machine hits all."""
    best = dict.fromkeys(calls, float("inf"))
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if round_:
                best[name] = min(best[name], time.perf_counter() - begin)
    return best


def claim(text: str, ratio: float, target: float) -> None:
    print(f"{text}; ratio={ratio:.2f} target={target:g}", flush=True)


# -- generation -----------------------------------------------------------------------------------------------------------------


def random_codes(n_items: int, seed: int = 0) -> Tensor:
    """Codes [n_items + 1, L] of distinct random semantic IDs, the padding row first."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(256**3, generator=generator)[:n_items]  # of the first three codes; the last is free
    codes = torch.stack([places // 65536, places // 256 % 256, places % 256, torch.randint(256, (n_items,), generator=generator)], 1)
    return torch.cat([torch.full((1, 4), -1), codes])


def build(name: str, codes: Tensor, sizes: tuple[int, ...] = SIZES, device: str = "cpu", **settings):
    """An untrained generator with the settings of its YAML."""
    from recbole_r3vae.config import Config
    from recbole_r3vae.data.content import ItemContent
    from recbole_r3vae.model.contract import Sources
    from recbole_r3vae.sid.table import SemanticIDs

    config = Config(name, "synthetic", config_dict={"MAX_ITEM_LIST_LENGTH": HISTORY, "device": device, **settings})
    items = ["[PAD]", *map(str, range(1, len(codes)))]
    vectors = torch.randn(len(codes), config["content_dim"], generator=torch.Generator().manual_seed(2))
    catalogue = SimpleNamespace(
        sources=Sources(SemanticIDs(codes, sizes, items), ItemContent(vectors.numpy(), items, {"kind": "random"}, "random")),
        num=lambda field: len(codes) if field == config["ITEM_ID_FIELD"] else 1001,
        field2id_token={config["USER_ID_FIELD"]: ["[PAD]", *map(str, range(1, 1001))]},
    )
    torch.manual_seed(0)
    return config.model_class(config, catalogue).to(device).eval()


def batch_of(n_users: int, n_items: int):
    """Full random histories."""
    from recbole.data.interaction import Interaction

    generator = torch.Generator().manual_seed(1)
    items = torch.randint(1, n_items + 1, (n_users, HISTORY), generator=generator)
    return Interaction({"user_id": torch.arange(1, n_users + 1), "item_id_list": items, "item_length": torch.full((n_users,), HISTORY)})


class Peer:
    """Hugging Face's constrained beam search over the same catalogue with the same weights."""

    def __init__(self, model):
        from hugging_face import t5_of

        self.model, self.t5 = model, t5_of(model).to(model.tokens.device)
        self.item_of, children = {}, {}
        for item, tokens in enumerate(model.tokens.tolist()):
            if item:
                self.item_of[tuple(tokens)] = item
                for level, token in enumerate(tokens):
                    children.setdefault(tuple(tokens[:level]), {})[token] = None
        self.children = {prefix: list(tokens) for prefix, tokens in children.items()}

    def recommend(self, batch, num_beams: int) -> tuple[Tensor, Tensor]:
        """Items and scores [B, K], best first."""
        users = self.model.user_tokens[batch["user_id"]][:, None]
        history = torch.cat([users, self.model.tokens[batch["item_id_list"]].flatten(1)], 1)
        found = self.t5.generate(
            input_ids=history,
            attention_mask=torch.ones_like(history),
            num_beams=num_beams,
            num_return_sequences=K,
            max_new_tokens=len(SIZES),
            length_penalty=0.0,
            do_sample=False,
            prefix_allowed_tokens_fn=lambda _, prefix: self.children[tuple(prefix.tolist()[1:])],
            return_dict_in_generate=True,
            output_scores=True,
        )
        items = [self.item_of[tuple(tokens)] for tokens in found.sequences[:, 1:].tolist()]
        return torch.tensor(items).view(-1, K), found.sequences_scores.view(-1, K).cpu()


def assert_same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> float:
    """Equal scores, and equal items where the neighbours' scores differ; the share of places where they do."""
    (items, scores), (their_items, their_scores) = ours, theirs
    worst = float((scores - their_scores).abs().max())
    assert worst < TOLERANCE, f"scores differ by {worst:g}"
    apart = scores[:, :-1] - scores[:, 1:] > TOLERANCE  # [B, K-1]
    clear = torch.zeros_like(items, dtype=torch.bool)  # what follows the last place is unknown
    clear[:, 0], clear[:, 1:-1] = apart[:, 0], apart[:, :-1] & apart[:, 1:]
    assert torch.equal(items[clear], their_items[clear]), "items differ"
    share = float(clear.float().mean())
    assert share > 0.5, f"only {share:.0%} of the places can be compared"
    return share


def operations(model, n_positions: int, num_beams: int) -> float:
    """Floating-point operations that TIGER's matrix products take for one user, two a multiplication."""
    layer, n_levels = model.encoder[0], len(SIZES)
    d, a, f = layer.out.out_features, layer.out.in_features, layer.inner.out_features
    rows = 1 + num_beams * (n_levels - 1)  # decoded positions
    encoder = n_positions * (4 * d * a + 2 * d * f + 2 * n_positions * a)
    cross = n_positions * 2 * d * a + rows * (2 * d * a + 2 * n_positions * a)
    own = rows * (4 * d * a + 2 * d * f) + 2 * a * (1 + num_beams * sum(range(2, n_levels + 1)))
    head = rows * d * model.embedding.num_embeddings
    return 2 * (len(model.encoder) * encoder + len(model.decoder) * (cross + own) + head)


def generation(options: argparse.Namespace) -> None:
    """Claims ``tiger`` and ``r3gr``."""
    codes, batch = random_codes(options.items), batch_of(options.users, options.items)
    tiger, r3gr = build("TIGER", codes), build("R3GR", codes)
    peer = Peer(tiger)
    square = torch.randn(1024, 1024)
    rate = 2 * 1024**3 / best_of(10, {"mm": lambda: square @ square})["mm"]
    for beams in options.beams:
        tiger.num_beams = r3gr.num_beams = beams
        found = {}
        calls = {
            "tiger": lambda: found.update(tiger=tiger.recommend(batch, K)),
            "r3gr": lambda: r3gr.recommend(batch, K),
            "peer": lambda: found.update(peer=peer.recommend(batch, beams)),
        }
        ms = {name: 1000 * seconds / options.users for name, seconds in best_of(options.repeats, calls).items()}
        share = assert_same(found["tiger"], found["peer"])
        print(f"{beams} beams: Hugging Face {ms['peer']:.2f} ms a user; top {K} compared at {share:.1%} of the places")
        if "tiger" in options.claims:
            claim(f"TIGER, {beams} beams: {ms['tiger']:.2f} ms a user", ms["peer"] / ms["tiger"], {20: 6, 50: 9}.get(beams, 1))
            floor = 1000 * operations(tiger, 1 + HISTORY * len(SIZES), beams) / rate
            text = f"TIGER, {beams} beams: floor {floor:.2f} ms a user at {rate / 1e9:.0f} GFLOP/s, {ms['tiger'] / floor:.2f} times that"
            claim(f"{text} (limit 1.5)", 1.5 * floor / ms["tiger"], 1)
        if "r3gr" in options.claims:
            claim(f"R3GR, {beams} beams: {ms['r3gr']:.2f} ms a user", ms["peer"] / ms["r3gr"], 30)


# -- masking ----------------------------------------------------------------------------------------------------------------------


def masking_costs(tree: PrefixTree, n_users: int, num_beams: int, repeats: int) -> list[dict[str, float]]:
    """Microseconds a beam row at each level: of the constraint, and of the log-softmax before it."""
    costs = []
    for level, size in enumerate(tree.codebook_sizes):
        shape = (n_users, num_beams if level else 1)
        nodes = torch.randint(tree.n_nodes[level], shape)
        logits = torch.randn(*shape, size)
        log_probs = logits.log_softmax(-1)

        def constrained():
            _, by_code = constrain(tree, level, nodes, log_probs)
            tree.child(level, nodes, torch.zeros_like(nodes), by_code)

        seconds = best_of(repeats, {"constraint": constrained, "log_softmax": lambda: logits.log_softmax(-1)})
        costs.append({"fan_out": tree.max_children[level], **{name: 1e6 * s / nodes.numel() for name, s in seconds.items()}})
    return costs


def large_index(path: str, sizes: tuple[int, ...], n_users: int, beams: list[int], repeats: int) -> dict:
    """Build an index in a process of its own, so that the peak of its memory can be told."""
    torch.set_num_threads(1)
    codes = torch.load(path, weights_only=True)
    begin = time.perf_counter()
    tree = PrefixTree.from_codes(codes, sizes)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    del codes
    costs = {num_beams: masking_costs(tree, n_users, num_beams, repeats) for num_beams in beams}
    return {"seconds": seconds, "bytes": tree.nbytes, "peak": peak, "costs": costs}


def masking(options: argparse.Namespace) -> None:
    """Claim ``masking``."""
    torch.manual_seed(2)
    codes = torch.randint(256, (options.index_items // 100 + 1, 4))
    codes[0] = -1
    tree = PrefixTree.from_codes(codes, SIZES)
    for num_beams in options.beams:
        costs = [cost["constraint"] for cost in masking_costs(tree, options.users, num_beams, 10 * options.repeats)]
        levels = ", ".join(f"{cost:.2f}" for cost in costs)
        text = f"masking {len(codes) - 1:,} items, 4 x 256, {num_beams} beams: {levels} us a beam row, level by level (limit 1)"
        claim(text, 1 / max(costs), 1)

    codes, sizes, _ = resolve_collisions(torch.randint(8192, (options.index_items, 3)), (8192, 8192, 8192), "suffix")
    codes = torch.cat([torch.full((1, codes.shape[1]), -1), codes])
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        path = str(Path(folder) / "codes.pt")
        torch.save(codes, path)
        del codes
        index = pool.submit(large_index, path, sizes, options.users, options.beams, 3 * options.repeats).result()
    what = f"{options.index_items:,} items, 3 x 8192 + suffix"
    for num_beams, costs in index["costs"].items():
        for level, cost in enumerate(costs):
            text = f"masking {what}, {num_beams} beams, level {level}, up to {cost['fan_out']} children"
            text = f"{text}: {cost['constraint']:.2f} us a beam row"
            if cost["fan_out"] <= 64:
                claim(f"{text} (limit 1)", 1 / cost["constraint"], 1)
            else:
                limit = cost["log_softmax"] / 2
                claim(f"{text} (limit {limit:.2f}, half the log-softmax)", limit / cost["constraint"], 1)
    claim(f"index of {what}: built in {index['seconds']:.1f} s (limit 20)", 20 / index["seconds"], 1)
    claim(f"index of {what}: {index['bytes'] / 1e9:.2f} GB (limit 0.6)", 0.6e9 / index["bytes"], 1)
    claim(f"index of {what}: peak of the whole process {index['peak'] / 1e9:.2f} GB (limit 2)", 2e9 / index["peak"], 1)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", nargs="+", choices=("tiger", "r3gr", "masking"), default=["tiger", "r3gr", "masking"])
    parser.add_argument("--users", type=int, default=64, help="users a batch")
    parser.add_argument("--beams", type=int, nargs="+", default=[20, 50], help=f"at least {K}")
    parser.add_argument("--items", type=int, default=12_101, help="items to generate from")
    parser.add_argument("--index_items", type=int, default=10_000_000, help="items of the large index; the small one has a hundredth")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="2 users, 300 items, an index of 20,000, 1 repeat")
    options = parser.parse_args(words)
    if options.smoke:
        options.users, options.items, options.index_items, options.beams, options.repeats = 2, 300, 20_000, [20], 1
    torch.set_num_threads(1)
    if {"tiger", "r3gr"} & set(options.claims):
        generation(options)
    if "masking" in options.claims:
        masking(options)


if __name__ == "__main__":
    main()
