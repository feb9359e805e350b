"""Residual k-means through this package against faiss alone.

    python benchmarks/tokenizers.py                           # 12,101 x 768, 3 x 256, about a minute on one core
    python benchmarks/tokenizers.py --embeddings vectors.npy  # on vectors [n, d] of your own
    python benchmarks/tokenizers.py --smoke                   # shrunken to a second: does it run?

float32, one thread, both sides in one process, taking turns; CPU seconds, the median of ``--repeats`` rounds after one to warm up.

The peer is the least that residual k-means can be in faiss: ``faiss.Kmeans`` on the residuals, a search for the nearest centroids, a
subtraction, level after level. (``faiss.ResidualQuantizer`` with ``max_beam_size=1`` does the same but starts all levels from one seed,
that is from the residuals of the same items, which on tight clusters ends far worse; it is printed, not compared.) Ours is ``RKMeans`` as
in its YAML: fitted, then every item tokenized, as a run does it. Both have the same iterations, at most 256 vectors a centroid to train on,
and the same seeds. That they are equally good is asserted: mean squared error within 1 %, collision rate within .01.

The last line is ``ratio=<faiss alone / ours> target=0.5``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch

from recbole_r3vae.config import Config
from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.model.tokenizer.quantize.codebook import SAMPLES_PER_CODEWORD
from recbole_r3vae.model.tokenizer.rkmeans import RKMeans


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors ``[n, d]`` in random clusters within clusters, as text embeddings have them."""
    random = np.random.default_rng(seed)
    topics, subtopics = random.normal(size=(300, dim)), random.normal(size=(3000, dim))
    x = topics[random.integers(300, size=n)] + 0.6 * subtopics[random.integers(3000, size=n)]
    x += 0.5 * random.normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def faiss_alone(x: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Codes ``[n, L]`` and what is left of the vectors ``[n, d]`` after a plain loop over ``faiss.Kmeans``."""
    rest, codes = x.copy(), []
    for level, size in enumerate(config["codebook_sizes"]):
        clustering = faiss.Kmeans(
            x.shape[1],
            size,
            niter=config["kmeans_iterations"],
            seed=config["seed"] + level,
            min_points_per_centroid=1,
            max_points_per_centroid=SAMPLES_PER_CODEWORD,
        )
        clustering.train(rest)
        _, nearest = clustering.index.search(rest, 1)  # [n, 1]
        rest -= clustering.centroids[nearest[:, 0]]
        codes.append(nearest[:, 0])
    return np.stack(codes, axis=1), rest


def residual_quantizer(x: np.ndarray, config: Config) -> tuple[faiss.ResidualQuantizer, np.ndarray]:
    """faiss's own residual quantizer, and its codes, packed."""
    sizes = config["codebook_sizes"]
    quantizer = faiss.ResidualQuantizer(x.shape[1], len(sizes), sizes[0].bit_length() - 1)
    quantizer.train_type, quantizer.max_beam_size = faiss.ResidualQuantizer.Train_default, 1
    quantizer.cp.niter, quantizer.cp.seed = config["kmeans_iterations"], config["seed"]
    quantizer.cp.min_points_per_centroid, quantizer.cp.max_points_per_centroid = 1, SAMPLES_PER_CODEWORD
    quantizer.train(x)
    return quantizer, quantizer.compute_codes(x)


def ours(items: ItemVectors, config: Config) -> tuple[RKMeans, np.ndarray]:
    """The fitted tokenizer, and codes ``[n, L]``."""
    model = RKMeans(config, items).eval()
    model.initialise(items)
    return model, torch.cat([model.tokenize(x) for _, x in items.batches(8192)]).numpy()


def seconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of every call in every round but the first."""
    spent = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            if round_:
                spent[name].append(time.process_time() - begin)
    return spent


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", help=".npy of vectors [n, d]; default: random clusters")
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--codes", type=int, default=256, help="of each of three levels, a power of two")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--smoke", action="store_true", help="500 x 16, 3 x 16, 1 repeat")
    options = parser.parse_args(words)
    if options.smoke:
        options.items, options.dim, options.codes, options.repeats = 500, 16, 16, 1
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)

    if options.embeddings:
        x = np.ascontiguousarray(np.load(options.embeddings, allow_pickle=False), dtype=np.float32)
    else:
        x = clustered(options.items, options.dim, options.seed)
    sizes = [options.codes] * 3
    settings = {"codebook_sizes": sizes, "seed": options.seed, "device": "cpu"}
    config = Config("RKMeans", "vectors", config_dict=settings)
    rows, ids = np.concatenate([np.zeros_like(x[:1]), x]), ["[PAD]", *map(str, range(len(x)))]
    items = ItemVectors(ItemContent(rows, ids, encoder={}, content_hash=""))

    found = {}
    calls = {
        "faiss alone": lambda: found.update(faiss=faiss_alone(x, config)),
        "ours": lambda: found.update(ours=ours(items, config)),
        "faiss.ResidualQuantizer": lambda: found.update(quantizer=residual_quantizer(x, config)),
    }
    spent = seconds(calls, options.repeats)
    (codes, rest), (model, our_codes), (quantizer, packed) = found["faiss"], found["ours"], found["quantizer"]
    errors = {
        "faiss alone": mean_square(rest),
        "ours": mean_square(x - model.quantize(torch.from_numpy(x)).reconstruction.numpy()),
        "faiss.ResidualQuantizer": mean_square(x - quantizer.decode(packed)),
    }
    collisions = {
        "faiss alone": collision_rate(codes),
        "ours": collision_rate(our_codes),
        "faiss.ResidualQuantizer": collision_rate(packed),
    }
    print(f"{len(x):,} x {x.shape[1]}, {' x '.join(map(str, sizes))}, {config['kmeans_iterations']} iterations")
    for name, times in spent.items():
        text = f"{name}: {statistics.median(times):.2f} CPU seconds ({min(times):.2f} to {max(times):.2f})"
        print(f"{text}, mean squared error {errors[name]:.5f}, collision rate {collisions[name]:.4f}")
    assert abs(errors["ours"] / errors["faiss alone"] - 1) < 0.01, "not equally near to the items"
    assert abs(collisions["ours"] - collisions["faiss alone"]) < 0.01, "not equally many collisions"
    ratio = statistics.median(spent["faiss alone"]) / statistics.median(spent["ours"])
    print(f"ratio={ratio:.2f} target=0.5")


def mean_square(rest: np.ndarray) -> float:
    return float(np.square(rest).sum(1).mean())


def collision_rate(codes: np.ndarray) -> float:
    """The share of items whose code tuple ``[n, …]``, packed or not, another item has too."""
    counts = np.unique(codes, axis=0, return_counts=True)[1]
    return float(counts[counts > 1].sum() / len(codes))


if __name__ == "__main__":
    main()
