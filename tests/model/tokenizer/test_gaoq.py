"""GAOQ: balanced, aligned, unique whatever the catalogue."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_r3vae.data.content import ItemContent
from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.errors import UserError
from recbole_r3vae.model.tokenizer import gaoq
from recbole_r3vae.model.tokenizer.gaoq import aligned_codes, orthogonal_anchors
from recbole_r3vae.sid.codes import prefix_groups
from recbole_r3vae.trainer.tokenizer import score_tokenizer


def catalogue_of(x):
    embeddings = np.concatenate([np.zeros((1, x.shape[1])), x]).astype(np.float32)
    ids = ["[PAD]", *(f"item{i}" for i in range(len(x)))]
    return ItemVectors(ItemContent(embeddings, ids, encoder={"kind": "test"}, content_hash=""))


def rows(items):
    return torch.from_numpy(items.embeddings[1:])


def fit(tokenizer, items, **settings):
    model = tokenizer("GAOQ", items, **settings).eval()
    model.initialise(items)
    return model


def prefix_means(x, codes, length):
    """Mean of the items of every prefix of that length."""
    of = {}
    for item, prefix in enumerate(map(tuple, codes[:, :length].tolist())):
        of.setdefault(prefix, []).append(item)
    return {prefix: x[members].double().mean(0) for prefix, members in of.items()}


def cosine_within_codes(x, codes):
    """Mean cosine of the directions, off their parents' means, of the clusters that share a level-2 code."""
    parents, children = prefix_means(x, codes, 1), prefix_means(x, codes, 2)
    values = []
    for code in codes[:, 1].unique().tolist():
        directions = [mean - parents[prefix[:1]] for prefix, mean in children.items() if prefix[1] == code]
        values += [
            float(torch.nn.functional.cosine_similarity(a, b, dim=0))
            for a, b in itertools.combinations(directions, 2)
        ]
    return sum(values) / len(values)


# -- the tree ------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(8, 100),
    dim=st.integers(1, 6),
    repeated=st.floats(0, 1),
    sizes=st.lists(st.integers(2, 8), min_size=1, max_size=3),
    items_per_prefix=st.sampled_from([None, 1.0, 5.0]),
    seed=st.integers(0, 1000),
)
def test_codes_are_unique_and_prefixes_balanced(tokenizer, n, dim, repeated, sizes, items_per_prefix, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, dim))
    x[random.random(n) < repeated] = x[0]
    items = catalogue_of(x)
    chosen = {"codebook_sizes": [*sizes, n], "items_per_prefix": items_per_prefix}
    model = fit(tokenizer, items, kmeans_iterations=3, balance_iterations=2, **chosen)
    codes, leaves = model.catalogue_codes(), 1
    assert (codes >= 0).all() and (codes < torch.tensor(model.codebook_sizes)).all()
    for group, size in zip(prefix_groups(codes), model.codebook_sizes):
        leaves *= size
        counts = group.bincount()
        assert counts.min() >= n // leaves and counts.max() <= math.ceil(n / leaves)
        assert leaves >= n or len(counts) == leaves
    assert len(codes.unique(dim=0)) == n
    assert model.codebook_sizes[-1] == codes[:, -1].max() + 1  # the largest prefix
    assert score_tokenizer(model, items, seed=0)[1]["collision_rate"] == 0
    different = np.unique(items.embeddings[1:], axis=0, return_index=True, return_counts=True)
    alone = different[1][different[2] == 1]  # items whose vector no other has
    assert torch.equal(model.tokenize(rows(items))[alone], codes[alone])
    again = model.tokenize(rows(items))
    for level in range(len(model.codebook_sizes)):
        assert torch.equal(model.level_distances(rows(items), level).argmin(-1), again[:, level])


@pytest.mark.parametrize(
    "given, items_per_prefix, sizes",
    [
        ([256, 256, 256], 15, (9, 9, 13)),  # 9 * 9 >= 1000 / 15 > 8 * 8; ceil(1000 / 81)
        ([4, 256, 256], 15, (4, 17, 15)),  # 4 * 17 >= 1000 / 15 > 4 * 16
        ([256, 256, 3], 15, (19, 19, 3)),  # 19 * 19 >= 1000 / 3 > 18 * 18: prefixes of 3 at most
        ([256, 256], 15, (67, 15)),
        ([5, 7, 100], None, (5, 7, 29)),
    ],
    ids=str,
)
def test_sizes_come_from_the_catalogue(catalogue, tokenizer, given, items_per_prefix, sizes):
    quick = {"kmeans_iterations": 2, "balance_iterations": 0}
    model = fit(tokenizer, catalogue(1000), codebook_sizes=given, items_per_prefix=items_per_prefix, **quick)
    assert model.codebook_sizes == sizes


def test_the_last_code_counts_from_the_middle_of_a_prefix(catalogue, tokenizer):
    items = catalogue(300)
    codes, x = fit(tokenizer, items).catalogue_codes(), rows(items)
    centres = prefix_means(x, codes, 2)
    for prefix, centre in centres.items():
        members = (codes[:, :2] == torch.tensor(prefix)).all(1).nonzero().flatten()
        members = members[codes[members, 2].argsort()]
        assert codes[members, 2].tolist() == list(range(len(members)))
        distances = (x[members] - centre).norm(dim=-1)
        assert (distances.diff() > -1e-6).all()


# -- alignment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k, g", [(1, 1), (4, 4), (5, 5), (3, 6), (5, 7)])
def test_alignment_is_the_best_of_all_matchings(k, g):
    generator = torch.Generator().manual_seed(10 * k + g)
    directions, anchors = torch.randn(k, 4, generator=generator), orthogonal_anchors(g, 4, generator)
    codes = aligned_codes(directions, anchors).tolist()
    assert len(set(codes)) == k and max(codes) < g
    cosine = torch.nn.functional.cosine_similarity(directions[:, None], anchors[None], dim=-1)
    best = max(itertools.permutations(range(g), k), key=lambda c: sum(cosine[j, c[j]] for j in range(k)))
    assert codes == list(best)


def test_children_of_every_parent_are_matched_to_the_same_anchors(catalogue, tokenizer):
    """From the codes alone: no other numbering of a parent's children is nearer to the level's anchors."""
    items = catalogue(400)
    model = fit(tokenizer, items, codebook_sizes=[3, 4, 5, 20], items_per_prefix=None)
    codes, x = model.catalogue_codes(), rows(items)
    generator = torch.Generator().manual_seed(2020)
    for level, size in ((1, 4), (2, 5)):
        anchors = orthogonal_anchors(size, 16, generator).double()
        children = prefix_means(x, codes, level + 1)
        for parent, centre in prefix_means(x, codes, level).items():
            directions = torch.stack([children[*parent, code] - centre for code in range(size)])
            cosine = torch.nn.functional.normalize(directions, dim=-1) @ anchors.T
            every = [sum(cosine[j, c[j]] for j in range(size)) for c in itertools.permutations(range(size))]
            assert float(cosine.trace()) == pytest.approx(float(max(every)), abs=1e-5)


def test_alignment_gives_equal_codes_to_like_directions(tokenizer):
    """The paper's test without training, against the same tree with its children numbered at random."""
    random = np.random.default_rng(0)
    parents, turns = 6 * random.normal(size=(6, 32)), random.normal(size=(6, 32))
    x = parents[:, None, None] + turns[None, :, None] + 0.1 * random.normal(size=(6, 6, 12, 32))
    items = catalogue_of(x.reshape(-1, 32)[random.permutation(6 * 6 * 12)])
    codes = fit(tokenizer, items, codebook_sizes=[6, 6, 12], items_per_prefix=None).catalogue_codes()
    local = codes.clone()
    for parent in range(6):
        members = codes[:, 0] == parent
        local[members, 1] = torch.from_numpy(random.permutation(6))[codes[members, 1]]
    aligned, unaligned = (cosine_within_codes(rows(items), each) for each in (codes, local))
    assert aligned > 0.8 and aligned > unaligned + 0.5


def test_alignment_also_helps_where_parents_have_nothing_in_common(catalogue, tokenizer):
    items = catalogue(900, d=12)
    model = fit(tokenizer, items, codebook_sizes=[6, 8, 40], items_per_prefix=None)
    random, codes = np.random.default_rng(0), model.catalogue_codes()
    aligned, unaligned = cosine_within_codes(rows(items), codes), []
    for _ in range(5):
        numbers = torch.from_numpy(np.stack([random.permutation(8) for _ in range(6)]))
        local = torch.stack([codes[:, 0], numbers[codes[:, 0], codes[:, 1]]], dim=1)
        unaligned.append(cosine_within_codes(rows(items), local))
    assert aligned > max(unaligned) + 0.02


@pytest.mark.parametrize("n, dim", [(5, 5), (3, 8), (11, 4)])
def test_anchors_are_orthonormal_as_far_as_there_are_dimensions(n, dim):
    anchors = orthogonal_anchors(n, dim, torch.Generator().manual_seed(0))
    assert anchors.shape == (n, dim)
    for block in anchors.split(dim):
        torch.testing.assert_close(block @ block.T, torch.eye(len(block)), atol=1e-5, rtol=0)
    assert (anchors @ anchors.T - torch.eye(n)).max() < 0.999  # no anchor twice


# -- vectors from elsewhere ----------------------------------------------------------------------------------


def test_a_new_vector_gets_the_codes_of_the_nearest_item(catalogue, tokenizer, monkeypatch):
    monkeypatch.setattr(gaoq, "_BLOCK_NUMBERS", 1000)  # 4 vectors at a time
    items, new = catalogue(250), rows(catalogue(30, seed=1))
    model = fit(tokenizer, items)
    codes, out = model.catalogue_codes(), model.quantize(new)
    centres = prefix_means(rows(items), codes, 2)
    for i, x in enumerate(new):
        squares = (rows(items) - x).double().square().sum(-1)
        nearest = codes[squares.argmin()]
        assert torch.equal(out.codes[i], nearest)
        torch.testing.assert_close(out.reconstruction[i].double(), centres[tuple(nearest[:2].tolist())])
        for level, size in enumerate(model.codebook_sizes):
            inside = (codes[:, :level] == nearest[:level]).all(1)
            found = [squares[inside & (codes[:, level] == code)] for code in range(size)]
            expected = torch.tensor([float(each.min()) if len(each) else math.inf for each in found])
            torch.testing.assert_close(model.level_distances(new[i : i + 1], level)[0].float(), expected)


def test_nearly_equal_vectors_keep_their_own_codes(tokenizer):
    x = np.random.default_rng(0).normal(size=(60, 16)).repeat(2, axis=0)
    x[1::2, 3] += 1e-4  # the squared difference is lost in float32 rounding
    items = catalogue_of(x)
    model = fit(tokenizer, items)
    assert torch.equal(model.tokenize(rows(items)), model.catalogue_codes())


def test_repeated_items_have_codes_of_their_own_and_their_vector_the_lowest(tokenizer):
    x = np.random.default_rng(0).normal(size=(90, 8))
    x[20:60] = x[20]
    items = catalogue_of(x)
    model = fit(tokenizer, items)
    codes, report = score_tokenizer(model, items, seed=0)
    assert torch.equal(codes, model.catalogue_codes()) and report["unique_ratio"] == 1
    [lowest] = model.tokenize(rows(items)[20:21]).tolist()
    assert lowest == min(codes[20:60].tolist())


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"items_per_prefix": 0}, ["items_per_prefix is 0", "above 0"]),
        ({"codebook_sizes": [16]}, ["[16]", "two levels or more"]),
        ({"codebook_sizes": [4, 4, 4]}, ["[4, 4, 4]", "100 items", "7 for each of 16 prefixes", "give it 7"]),
    ],
    ids=str,
)
def test_bad_settings_are_named(catalogue, tokenizer, settings, words):
    with pytest.raises(UserError) as error:
        fit(tokenizer, catalogue(100), **settings)
    assert all(word in str(error.value) for word in words), error.value


def test_more_codes_than_items_are_refused(catalogue, tokenizer):
    with pytest.raises(UserError, match="codebook_sizes .* only 40 items"):
        fit(tokenizer, catalogue(40), codebook_sizes=[64, 64], items_per_prefix=None)
