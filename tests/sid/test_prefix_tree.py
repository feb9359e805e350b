"""The tree against dictionaries of prefixes, on random tables of all depths with shared leaves."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections import defaultdict

import numpy as np
import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.prefix_tree import PrefixTree, layout, prefix_tree_of
from recbole_r3vae.sid.table import SemanticIDs


def random_table(seed: int) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Codes with a padding row, depth 1 to 5 in turn; some codebooks are full, some items share all codes."""
    rng = np.random.default_rng(seed)
    sizes = tuple(int(size) for size in rng.integers(1, 7, size=1 + seed % 5))
    codes = torch.from_numpy(rng.integers(0, sizes, size=(int(rng.integers(2, 60)), len(sizes))))
    codes[0] = -1
    return codes, sizes


def prefixes_of(codes: torch.Tensor, length: int) -> list[tuple[int, ...]]:
    """The distinct prefixes of a length in lexicographic order: position = node id."""
    return sorted({tuple(row[:length]) for row in codes[1:].tolist()})


def leaves_of(tree: PrefixTree) -> list[list[int]]:
    """The items of each leaf."""
    start = tree.leaf_start.tolist()
    return [tree.leaf_items[a:b].tolist() for a, b in zip(start, start[1:])]


SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_nodes_are_the_sorted_prefixes(seed):
    codes, sizes = random_table(seed)
    tree = PrefixTree.from_codes(codes, sizes)
    assert (tree.n_levels, tree.n_items, tree.codebook_sizes) == (len(sizes), len(codes), sizes)
    for depth in range(len(sizes) + 1):
        prefixes = prefixes_of(codes, depth)
        assert tree.n_nodes[depth] == len(prefixes)
        found = tree.find(torch.tensor(prefixes, dtype=torch.int64).view(len(prefixes), depth))
        assert found.tolist() == list(range(len(prefixes)))


@pytest.mark.parametrize("seed", SEEDS)
def test_round_trip_from_codes_to_leaves_and_back(seed):
    codes, sizes = random_table(seed)
    tree = PrefixTree.from_codes(codes, sizes)
    paths = torch.zeros(1, 0, dtype=torch.int64)  # [n_d, d]: codes on the way from the root to every node
    for level in range(tree.n_levels):
        _, child_codes = tree.children(level, torch.arange(tree.n_nodes[level]))
        node, slot = (child_codes >= 0).nonzero(as_tuple=True)
        paths = torch.cat([paths[node], child_codes[node, slot, None]], dim=1)
    rebuilt = torch.full_like(codes, -1)
    for path, items in zip(paths, leaves_of(tree)):
        rebuilt[items] = path
    assert torch.equal(rebuilt, codes)
    assert sorted(tree.leaf_items.tolist()) == list(range(1, len(codes)))


@pytest.mark.parametrize("seed", SEEDS)
def test_children_are_those_that_exist_in_ascending_order(seed):
    codes, sizes = random_table(seed)
    tree = PrefixTree.from_codes(codes, sizes)
    for level in range(tree.n_levels):
        below = prefixes_of(codes, level + 1)
        expected = defaultdict(list)
        for node, prefix in enumerate(below):
            expected[prefix[:-1]].append((node, prefix[-1]))
        nodes = torch.randperm(tree.n_nodes[level]).view(1, -1)  # any order, any shape
        children, child_codes = tree.children(level, nodes)
        assert children.shape == child_codes.shape == (*nodes.shape, max(map(len, expected.values())))
        parents = prefixes_of(codes, level)
        for node, ids, last in zip(nodes[0].tolist(), children[0].tolist(), child_codes[0].tolist()):
            padding = [(-1, -1)] * (tree.max_children[level] - len(expected[parents[node]]))
            assert list(zip(ids, last)) == expected[parents[node]] + padding


@pytest.mark.parametrize("seed", SEEDS)
def test_find_tells_existing_from_missing_prefixes(seed):
    codes, sizes = random_table(seed)
    tree = PrefixTree.from_codes(codes, sizes)
    for depth in range(1, min(len(sizes), 3) + 1):
        existing = {prefix: node for node, prefix in enumerate(prefixes_of(codes, depth))}
        asked = list(itertools.product(*(range(-1, size + 1) for size in sizes[:depth])))  # also no codes
        assert tree.find(torch.tensor(asked)).tolist() == [existing.get(prefix, -1) for prefix in asked]
    expected = [-1] + [prefixes_of(codes, len(sizes)).index(tuple(row)) for row in codes[1:].tolist()]
    assert tree.find(codes).tolist() == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_candidates_are_the_open_children(seed):
    codes, sizes = random_table(seed)
    tree = PrefixTree.from_codes(codes, sizes)
    generator = torch.Generator().manual_seed(seed)
    shared = torch.rand(len(codes), generator=generator) < 0.5
    by_user = torch.rand(3, len(codes), generator=generator) < 0.3
    for allowed in (None, shared, by_user):
        restriction = None if allowed is None else tree.restrict(allowed)
        flags = torch.ones(3, len(codes), dtype=torch.bool) if allowed is None else allowed.expand(3, -1)
        for level in range(tree.n_levels):
            nodes = torch.randint(tree.n_nodes[level], (3, 4), generator=generator)
            penalty, slot_codes = tree.candidates(level, nodes, restriction)
            parents = prefixes_of(codes, level)
            by_code = slot_codes is None
            if by_code:  # slot s is code s
                slot_codes = torch.arange(sizes[level]).expand(3, 4, -1)
            if penalty is None:
                penalty = torch.zeros(slot_codes.shape)
            for user, beam in itertools.product(range(3), range(4)):
                prefix = parents[nodes[user, beam]]
                below = {
                    row[level]
                    for item, row in enumerate(codes.tolist())
                    if item and tuple(row[:level]) == prefix and flags[user, item]
                }
                is_open = penalty[user, beam] == 0
                assert slot_codes[user, beam][is_open].tolist() == sorted(below)
                assert (penalty[user, beam][~is_open] == -torch.inf).all()
                slots = is_open.nonzero().squeeze(1)
                reached = tree.child(level, nodes[user, beam].expand_as(slots), slots, by_code).tolist()
                lower = prefixes_of(codes, level + 1)
                assert [lower[node] for node in reached] == [(*prefix, code) for code in sorted(below)]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_slot_leads_to_some_node(seed):
    """A dead beam takes a slot without a child; where it ends up does not matter, but it must exist."""
    codes, sizes = random_table(seed)
    tree = PrefixTree.from_codes(codes, sizes)
    for level in range(tree.n_levels):
        nodes = torch.arange(tree.n_nodes[level])[:, None]  # [n_l, 1]
        slots = {False: torch.arange(tree.max_children[level])}
        if tree.candidates(level, nodes)[1] is None:
            slots[True] = torch.arange(sizes[level])
        for by_code, slot in slots.items():
            reached = tree.child(level, *torch.broadcast_tensors(nodes, slot), by_code)
            assert sorted(set(reached.flatten().tolist())) == list(range(tree.n_nodes[level + 1]))


def test_dense_levels_are_those_at_least_half_but_not_wholly_taken(monkeypatch):
    def tree_of(n_children):  # of each of three nodes, with eight codes each
        rows = [(a, b) for a, n in enumerate(n_children) for b in range(n)]
        return PrefixTree.from_codes(torch.tensor([(-1, -1), *rows]), (4, 8))

    assert tree_of((8, 3, 1)).child_table[1].tolist()[1:] == [[8, 9, 10] + [-1] * 5, [11] + [-1] * 7]
    assert tree_of((8, 3, 1)).child_table[0].tolist() == [[0, 1, 2, -1]]
    assert tree_of((8, 2, 1)).child_table[1] is None
    assert tree_of((8, 8, 8)).child_table[1] is None
    assert tree_of((8, 8, 7)).cell_penalty[1].tolist() == [[0] * 8, [0] * 8, [0] * 7 + [-torch.inf]]
    allowed = torch.ones(24, dtype=torch.bool)
    allowed[[1, 23]] = False  # a restriction for all users has dense masks of its own
    cells = tree_of((8, 8, 7)).restrict(allowed).cell_penalty[1]
    assert cells.isinf().nonzero().tolist() == [[0, 0], [2, 6], [2, 7]]
    monkeypatch.setattr(layout, "DENSE_CELLS", 23)
    assert [table is None for table in tree_of((8, 8, 7)).child_table] == [False, True]


def test_full_levels_need_no_mask_and_no_codes():
    full = torch.tensor([[-1, -1, -1]] + list(itertools.product(range(3), range(4), [2])))
    tree = PrefixTree.from_codes(full, (3, 4, 5))
    assert tree.candidates(0, torch.zeros(2, 1, dtype=torch.int64)) == (None, None)
    assert tree.candidates(1, torch.tensor([[0, 2]])) == (None, None)
    penalty, codes = tree.candidates(2, torch.tensor([[0, 11]]))  # one child each, but five codes
    assert penalty is None and codes.tolist() == [[[2], [2]]]


@pytest.mark.parametrize("seed", SEEDS)
def test_restriction_opens_what_leads_to_allowed_items(seed):
    codes, sizes = random_table(seed)
    tree = PrefixTree.from_codes(codes, sizes)
    by_user = torch.rand(4, len(codes), generator=torch.Generator().manual_seed(seed)) < 0.2
    by_user[0], by_user[1] = True, False
    restriction = tree.restrict(by_user)
    most = [0] * (tree.n_levels + 1)
    for user, flags in enumerate(by_user):
        alone = tree.restrict(flags)
        for level in range(tree.n_levels):
            depth = level + 1
            leading = {tuple(codes[i, :depth].tolist()) for i in range(1, len(codes)) if flags[i]}
            is_open = [prefix in leading for prefix in prefixes_of(codes, depth)]
            for penalty in (restriction.penalty[level][user], alone.penalty[level]):
                assert (penalty[: tree.n_nodes[depth]] == 0).tolist() == is_open
            most[depth] = max(most[depth], len(leading))
            assert alone.n_nodes[depth] == len(leading)
    assert restriction.n_nodes[1:] == tuple(most[1:])


@pytest.mark.parametrize("seed", SEEDS)
def test_expansion_lists_items_leaf_by_leaf(seed):
    codes, sizes = random_table(seed)
    tree = PrefixTree.from_codes(codes, sizes)
    generator = torch.Generator().manual_seed(seed)
    n_leaves = tree.n_nodes[-1]
    ranked = torch.stack([torch.randperm(n_leaves, generator=generator) for _ in range(3)])
    alive = torch.rand(3, n_leaves, generator=generator) < 0.7
    shared = torch.rand(len(codes), generator=generator) < 0.5
    by_user = torch.rand(3, len(codes), generator=generator) < 0.5
    leaves = leaves_of(tree)
    for allowed, k in itertools.product((None, shared, by_user), (1, 4, len(codes) + 2)):
        restriction = None if allowed is None else tree.restrict(allowed)
        flags = torch.ones(3, len(codes), dtype=torch.bool) if allowed is None else allowed.expand(3, -1)
        items, column = tree.expand(ranked, alive, k, restriction)
        for user in range(3):
            expected = [
                (item, place)
                for place, leaf in enumerate(ranked[user].tolist())
                for item in leaves[leaf]
                if alive[user, place] and flags[user, item]
            ][:k]
            n = len(expected)
            assert list(zip(items[user, :n].tolist(), column[user, :n].tolist())) == expected
            assert items[user, n:].tolist() == [0] * (k - n)


def test_order_within_a_leaf_is_seeded_and_favours_no_id():
    codes = torch.zeros(301, 2, dtype=torch.int64)
    codes[0] = -1
    order = PrefixTree.from_codes(codes, (1, 1), seed=3).leaf_items.tolist()
    assert sorted(order) == list(range(1, 301))
    assert order == PrefixTree.from_codes(codes, (1, 1), seed=3).leaf_items.tolist()
    assert order != PrefixTree.from_codes(codes, (1, 1), seed=4).leaf_items.tolist()
    rank_correlation = np.corrcoef(np.arange(300), order)[0, 1]
    assert abs(rank_correlation) < 0.2  # 3.5 standard deviations of a random order
    fewer = PrefixTree.from_codes(codes[:201], (1, 1), seed=3).leaf_items.tolist()
    assert fewer == [item for item in order if item <= 200]  # an item's place depends on no other item


def test_codes_too_large_for_one_sort_key():
    sizes = (2**10, 2**25, 2**20, 2**30)
    rng = np.random.default_rng(0)
    codes = torch.from_numpy(rng.integers(0, sizes, size=(400, 4)))
    codes[200:, :2] = codes[:200, :2]  # so that later levels decide
    codes[300:, :3] = codes[100:200, :3]
    codes[0] = -1
    tree = PrefixTree.from_codes(codes, sizes)
    in_order = codes[tree.leaf_items.long()].tolist()
    assert in_order == sorted(codes[1:].tolist())
    distinct = prefixes_of(codes, 4)
    assert tree.find(codes[1:]).tolist() == [distinct.index(tuple(row)) for row in codes[1:].tolist()]


def test_large_catalogue_against_numpy():
    sizes = (256,) * 4
    codes = torch.randint(256, (100_001, 4), generator=torch.Generator().manual_seed(0))
    codes[0] = -1
    tree = PrefixTree.from_codes(codes, sizes)
    key = (codes[1:] * torch.tensor([2**24, 2**16, 2**8, 1])).sum(1).numpy()
    assert tree.n_nodes == (1, *(len(np.unique(key >> shift)) for shift in (24, 16, 8, 0)))
    leaf = np.repeat(np.arange(tree.n_nodes[-1]), tree.leaf_start.diff().numpy())
    assert np.array_equal(np.unique(key, return_inverse=True)[1][tree.leaf_items.long() - 1], leaf)
    stored = 2 * sum(tree.n_nodes[1:]) + tree.n_items  # a node's code and where its children or items begin
    assert [table is not None for table in tree.child_table] == [False, True, False, False]
    stored += 2 * 256 * 256
    assert 4 * stored <= tree.nbytes <= 4 * (stored + 1000)
    assert f"{tree.nbytes / 1e6:.1f} MB" in repr(tree)


def test_moving_takes_every_tensor_along():
    tree = PrefixTree.from_codes(torch.tensor([(-1, -1), (0, 1), (0, 2), (1, 0)]), (2, 3))
    assert tree.to("cpu") is tree
    moved = tree.to("meta")
    assert moved.n_nodes == tree.n_nodes and moved.child_table[0] is None
    tables = (moved.child_table[1], moved.cell_penalty[1], moved.leaf_start, moved.leaf_items)
    assert all(tensor.is_meta for tensor in (*moved.first_child, *moved.codes, *tables))


@pytest.mark.parametrize(
    ("codes", "sizes", "message"),
    [
        ([[0, 1], [1, 1]], (2, 2), r"padding item.*\[\[0, 1\]\]"),
        ([[-1, -1]], (2, 2), "at least one item.*got 1 rows"),
        ([[-1, -1], [0, 1]], (2, 2, 2), r"\[n, 3\].*\[1, 2\]"),
        ([[-1, -1], [0, 1], [1, 2]], (2, 2), "item 2 has code 2 at level 2"),
        ([[-1, -1], [0, 1], [-1, 0]], (2, 2), "item 2 has code -1 at level 1"),
    ],
)
def test_errors_of_building(codes, sizes, message):
    with pytest.raises(UserError, match=message):
        PrefixTree.from_codes(torch.tensor(codes), sizes)


@pytest.mark.parametrize("allowed", [torch.ones(3), torch.ones(4, dtype=torch.bool), torch.tensor(True)])
def test_errors_of_restricting(allowed):
    tree = PrefixTree.from_codes(torch.tensor([[-1], [0], [1]]), (2,))
    with pytest.raises(UserError, match=r"bool \[3\] or \[users, 3\]"):
        tree.restrict(allowed)


def table_of(n: int = 40, **arguments) -> SemanticIDs:
    codes = torch.randint(4, (n, 3), generator=torch.Generator().manual_seed(0))
    return SemanticIDs(torch.cat([torch.full((1, 3), -1), codes]), (4, 4, 4), ["[PAD]", *map(str, range(n))], **arguments)


def test_a_table_has_one_tree_with_all_of_its_items():
    one, other = table_of(), table_of()
    tree = prefix_tree_of(one)
    assert prefix_tree_of(one) is tree and prefix_tree_of(other) is not tree
    assert sorted(tree.leaf_items.tolist()) == list(range(1, 41))


def test_a_tree_goes_with_its_table():
    table = table_of()
    tree = weakref.ref(prefix_tree_of(table))
    del table
    gc.collect()
    assert tree() is None


def test_codes_without_an_order_have_no_tree():
    with pytest.raises(ValueError, match="no prefix tree: their codes are parallel.*; rank items by the sum"):
        prefix_tree_of(table_of(ordered=False))
