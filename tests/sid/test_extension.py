"""New items beside a table that stays: every policy against what it promises, over random catalogues."""

from __future__ import annotations

import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid.collisions import resolve_collisions
from recbole_r3vae.sid.extension import TableExtension
from recbole_r3vae.sid.table import SemanticIDs

SIZES = (3, 4, 6)


def catalogue(policy: str, n: int, seed: int):
    """A resolved table, and raw codes and distances of n new items, more than there are codes for."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.stack([torch.arange(30) % 3, torch.arange(30) % 4, torch.randint(6, (30,), generator=generator)], 1)  # no prefix is full
    distances = torch.rand(30, SIZES[-1], generator=generator)
    codes, sizes, _ = resolve_collisions(raw, SIZES, policy, lambda rows: distances[rows])
    table = SemanticIDs(torch.cat([torch.full((1, len(sizes)), -1), codes]), sizes, ["[PAD]", *map(str, range(30))])
    new = torch.stack([torch.randint(size, (n,), generator=generator) for size in (1, 4, 6)], 1)
    new_distances = torch.rand(n, SIZES[-1], generator=generator)
    new_distances[torch.arange(n), new[:, -1]] = -1  # an item's own code is its nearest
    return table, new, new_distances


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("policy", ["suffix", "reassign", "sinkhorn", "share"])
def test_a_policy_keeps_its_promise(policy, seed):
    table, new, distances = catalogue(policy, 25, seed)
    names = [f"n{i}" for i in range(len(new))]
    extension = TableExtension(table, policy)
    halves = [extension.place(names[part], new[part], lambda row: distances[part][row]) for part in (slice(0, 10), slice(10, 25))]
    placed = torch.cat(halves)
    assert torch.equal(placed, TableExtension(table, policy).place(names, new, lambda row: distances[row]))  # batches do not matter
    kept = new.shape[1] - (policy in ("reassign", "sinkhorn"))
    assert torch.equal(placed[:, :kept], new[:, :kept])
    taken = [tuple(row) for row in table.codes[1:].tolist()]
    sharing = moved = 0
    for row, code in enumerate(map(tuple, placed.tolist())):
        own = (*new[row].tolist(), 0) if policy == "suffix" else tuple(new[row].tolist())
        free = [last for last in range(table.codebook_sizes[-1]) if (*own[:-1], last) not in taken]
        if policy == "share" or own not in taken:
            assert code == own
        elif free:
            assert code[-1] == (free[0] if policy == "suffix" else min(free, key=lambda last: float(distances[row, last])))
        elif policy == "suffix":
            counts = [taken.count((*own[:-1], last)) for last in range(table.codebook_sizes[-1])]
            assert counts[code[-1]] == min(counts)
        else:
            assert code == own
        sharing, moved = sharing + (code in taken), moved + (code != own)
        taken.append(code)
    assert (extension.shared, extension.moved) == (sharing, moved)
    TableExtension(table, policy).occupy(names, placed)  # what was placed can be taken in


def test_items_with_semantic_ids_of_their_own_are_kept_clear_of():
    table, new, _ = catalogue("suffix", 1, 0)
    codes = new.repeat(3, 1)
    first = TableExtension(table, "suffix")
    placed = first.place(list("abc"), codes)
    second = TableExtension(table, "suffix")
    second.occupy(["a"], placed[:1])
    assert torch.equal(second.place(["b", "c"], codes[1:]), placed[1:])


def test_a_taken_semantic_id_is_refused_while_others_are_free():
    table, _, _ = catalogue("reassign", 1, 0)
    own = table.codes[1:2]
    with pytest.raises(UserError, match="'new' has the semantic ID"):
        TableExtension(table, "reassign").occupy(["new"], own)
    sharing = TableExtension(table, "share")
    sharing.occupy(["new"], own)
    assert sharing.shared == 1


@pytest.mark.parametrize("policy, levels, message", [
    ("hope", 3, "unknown; choose"), ("suffix", 4, "does not fit"), ("reassign", 3, "does not fit"), ("suffix", 2, "shape"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(policy, levels, message):
    table, _, _ = catalogue("suffix", 1, 0)
    with pytest.raises(UserError, match=message):
        TableExtension(table, policy).place(["new"], torch.zeros(1, levels, dtype=torch.int64))


def test_codes_without_an_order_are_extended_by_every_policy_but_suffix():
    table, new, distances = catalogue("reassign", 25, 3)
    parallel = SemanticIDs(table.codes, table.codebook_sizes, table.item_ids, ordered=False)
    names = [f"n{i}" for i in range(len(new))]
    for policy in ("reassign", "sinkhorn", "share"):
        ours, theirs = TableExtension(parallel, policy), TableExtension(table, policy)
        assert torch.equal(ours.place(names, new, lambda row: distances[row]), theirs.place(names, new, lambda row: distances[row]))
        assert (ours.moved, ours.shared) == (theirs.moved, theirs.shared)
    with pytest.raises(UserError, match="take 'share' or 'reassign'"):
        TableExtension(parallel, "suffix")
