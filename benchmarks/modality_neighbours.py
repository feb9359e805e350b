"""What codes keep of each modality: whose neighbours they find, and how much two codes say the same.

    python benchmarks/modality_neighbours.py MMQ --part image=image_feat.npy --part audio=audio_feat.npy --groups 2 2 2 --set epochs=20
    python benchmarks/modality_neighbours.py RQVAE --part image=image_feat.npy --part audio=audio_feat.npy --set codebook_sizes=[100,100,100,100,100,100]

Row n of every file is of item n. The tokenizer is trained on all parts side by side, each of length 1, and kept in ``saved/modalities``.

* ``by codes``: the share of an item's 10 nearest items of a modality (cosine) among its 10 nearest by the number of equal codes, equal numbers
  in random order; over 1000 items.
* ``by decoding``: the same among the 10 nearest by the cosine of what the decoder makes of the codes, in that modality's columns.
* ``overlap``: normalised mutual information of two columns of codes, less what shuffled columns have: 0 for independent ones, 1 for equal ones.
  With ``--groups``, the mean over pairs within a group, and over pairs of the first group with the others; else over all pairs.
"""

from __future__ import annotations

import argparse
from itertools import combinations

import numpy as np
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor
from torch.nn.functional import normalize

from recbole_r3vae.config import Config
from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.data.content.cache import hash_json
from recbole_r3vae.data.content.item_content import join_content
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.provenance import provenance_line
from recbole_r3vae.quick_start.semantic_ids import train_tokenizer
from recbole_r3vae.sid.quality.report import format_quality

N_NEAREST, N_ASKED = 10, 1000


def content_of_files(files: dict[str, str]) -> ItemContent:
    """Item content of one part a file."""
    contents = {}
    for name, path in files.items():
        rows = normalize(torch.from_numpy(np.load(path).astype(np.float32)), dim=1).numpy()  # [n, d]
        ids = ["[PAD]", *(f"item{row}" for row in range(len(rows)))]
        rows = np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows])
        parts = {name: slice(0, rows.shape[1])}
        contents[name] = ItemContent(rows, ids, {"kind": "file", "file": path}, hash_json([path, float(rows.sum())]), parts=parts)
    return join_content(contents)


def nearest(scores: Tensor, asked: Tensor) -> Tensor:
    """The ``N_NEAREST`` best others ``[Q, N_NEAREST]`` of items ``[Q]`` by scores ``[Q, n]``."""
    scores[torch.arange(len(asked)), asked] = -torch.inf
    return scores.topk(N_NEAREST, dim=1).indices


def shared(found: Tensor, wanted: Tensor) -> float:
    """Mean share of the ``wanted`` ``[Q, k]`` among the ``found`` ``[Q, k]``."""
    return (found[:, :, None] == wanted[:, None, :]).any(2).float().mean().item()


def overlap(a: Tensor, b: Tensor, random: np.random.Generator) -> float:
    """Normalised mutual information of two columns ``[n]`` beyond chance."""
    chance = np.mean([normalized_mutual_info_score(a, random.permutation(b)) for _ in range(3)])
    return 0.0 if chance == 1 else (normalized_mutual_info_score(a, b) - chance) / (1 - chance)  # 1: neither says anything


def cosines_of_experts(model) -> list[float]:
    """Mean absolute cosine of the first matrices of the experts of each group, of a tokenizer that has such."""
    found = []
    for group in model.groups:
        rows = normalize(torch.stack([model.experts[i][0].weight.flatten() for i in group]), dim=1)
        found.append((rows @ rows.T).abs()[~torch.eye(len(rows), dtype=torch.bool)].mean().item())
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("--part", action="append", required=True, metavar="NAME=FILE.npy")
    parser.add_argument("--groups", type=int, nargs="+", help="sizes of the groups that the codes fall into, such as 2 2 2")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    content = content_of_files(dict(part.split("=", 1) for part in options.part))
    config = Config(options.tokenizer, "modalities", config_dict={"device": "cpu"}, arguments=[f"--{pair}" for pair in options.set])
    with torch.enable_grad():
        tokenizer = train_tokenizer(config, content, show_progress=False)
    model, items = tokenizer.model, ItemVectors(content)
    x = torch.from_numpy(items.gather(np.arange(1, items.n_items)))  # [n, d]
    codes, decoded = model.tokenize(x), model.quantize(x).reconstruction
    generator = torch.Generator().manual_seed(0)
    asked = torch.randperm(len(x), generator=generator)[:N_ASKED]
    equal = (codes[asked][:, None] == codes).sum(2) + 0.5 * torch.rand(len(asked), len(x), generator=generator)  # [Q, n]
    by_codes = nearest(equal, asked)
    print(format_quality(tokenizer.description["quality"]))
    for name, columns in items.parts.items():
        own, back = normalize(x[:, columns], dim=1), normalize(decoded[:, columns], dim=1)
        wanted, by_decoding = nearest(own[asked] @ own.T, asked), nearest(back[asked] @ back.T, asked)
        error = (x - decoded)[:, columns].square().sum(1).mean().item()
        print(f"{name}: by codes {shared(by_codes, wanted):.4f}, by decoding {shared(by_decoding, wanted):.4f}, squared error {error:.4f}")
    random, columns = np.random.default_rng(0), list(codes.unbind(1))
    pairs = {pair: overlap(columns[pair[0]], columns[pair[1]], random) for pair in combinations(range(len(columns)), 2)}
    if options.groups:
        group = np.repeat(np.arange(len(options.groups)), options.groups)
        within = [value for (a, b), value in pairs.items() if group[a] == group[b]]
        first = [value for (a, b), value in pairs.items() if group[a] == 0 < group[b]]
        print(f"overlap: within groups {np.mean(within):.4f}, of the first group with the others {np.mean(first):.4f}")
    else:
        print(f"overlap: all pairs {np.mean(list(pairs.values())):.4f}")
    if hasattr(model, "experts"):
        print("mean absolute cosine of experts' weights, by group:", ", ".join(f"{value:.4f}" for value in cosines_of_experts(model)))
    print(provenance_line())


if __name__ == "__main__":
    main()
