from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid import collisions
from recbole_r3vae.sid.collisions import POLICIES, resolve_collisions

# a few catalogues from hardly any to very many collisions: items, codebook sizes
CATALOGUES = [(40, (4, 3, 8)), (120, (3, 2, 32)), (64, (2, 2, 2, 16)), (25, (40,)), (1, (5, 5))]


def random_codes(n, sizes, seed):
    """Codes that collide often and never put more items under one prefix than the last codebook has codes."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(size, (n,), generator=generator) for size in sizes], 1)
    codes[:, -1] = torch.minimum(codes[:, -1], torch.randint(3, (n,), generator=generator))
    return codes


def random_distances(n, size, seed):
    return torch.rand(n, size, generator=torch.Generator().manual_seed(1000 + seed))


def tuples(codes):
    return [tuple(row) for row in codes.tolist()]


def brute_force_reassign(codes, size, distances):
    """The policy as its definition reads: keepers, then all pairs of a prefix by (distance, row, code)."""
    result = tuples(codes)
    prefixes = defaultdict(list)
    for row, code in enumerate(tuples(codes)):
        prefixes[code[:-1]].append(row)
    for prefix, rows in prefixes.items():
        by_last = defaultdict(list)
        for row in rows:
            by_last[result[row][-1]].append(row)
        free = set(range(size)) - set(by_last)
        movers = set()
        for last, group in by_last.items():
            keeper = min(group, key=lambda row: (float(distances[row, last]), row))
            movers |= set(group) - {keeper}
        pairs = [(float(distances[row, code]), row, code) for row in movers for code in free]
        for _, row, code in sorted(pairs):
            if row in movers and code in free:
                result[row] = (*prefix, code)
                movers.remove(row)
                free.remove(code)
    return result


# -- suffix


@pytest.mark.parametrize("n, sizes", CATALOGUES)
@pytest.mark.parametrize("seed", range(3))
def test_suffix_counts_within_each_group_in_row_order(n, sizes, seed):
    codes = random_codes(n, sizes, seed)
    resolved, new_sizes, report = resolve_collisions(codes, sizes, "suffix")
    seen = Counter()
    for row, code in enumerate(tuples(codes)):
        assert tuple(resolved[row].tolist()) == (*code, seen[code])
        seen[code] += 1
    assert len(set(tuples(resolved))) == n
    assert new_sizes == (*sizes, max(seen.values())) and resolved.dtype == torch.int64
    assert report["moved_items"] == 0


def test_suffix_without_collisions_still_adds_its_level():
    resolved, sizes, _ = resolve_collisions(torch.tensor([[1, 0], [0, 1]]), (2, 2), "suffix")
    assert resolved.tolist() == [[1, 0, 0], [0, 1, 0]] and sizes == (2, 2, 1)


# -- reassign


@pytest.mark.parametrize("n, sizes", CATALOGUES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block_rows", [1, 4096])
def test_reassign_is_the_greedy_matching(n, sizes, seed, block_rows, monkeypatch):
    monkeypatch.setattr(collisions, "_BLOCK_ROWS", block_rows)
    codes, distances = random_codes(n, sizes, seed), random_distances(n, sizes[-1], seed)
    resolved, new_sizes, report = resolve_collisions(codes, sizes, "reassign", distances.__getitem__)
    assert tuples(resolved) == brute_force_reassign(codes, sizes[-1], distances)
    assert len(set(tuples(resolved))) == n and new_sizes == sizes
    assert torch.equal(resolved[:, :-1], codes[:, :-1])
    assert report["moved_items"] == int((resolved != codes).any(1).sum())


@pytest.mark.parametrize("seed", range(4))
def test_reassign_with_equal_distances_takes_the_lower_row_and_code(seed):
    sizes = (3, 16)
    codes = random_codes(30, sizes, seed)
    distances = (random_distances(30, 16, seed) * 3).floor()  # 0, 1 or 2: ties everywhere
    resolved, _, _ = resolve_collisions(codes, sizes, "reassign", distances.__getitem__)
    assert tuples(resolved) == brute_force_reassign(codes, 16, distances)


@pytest.mark.parametrize("seed", range(4))
def test_reassign_does_not_depend_on_the_order_of_rows(seed):
    sizes = (3, 2, 32)
    codes, distances = random_codes(120, sizes, seed), random_distances(120, 32, seed)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(seed))
    straight, _, report = resolve_collisions(codes, sizes, "reassign", distances.__getitem__)
    permuted, _, other = resolve_collisions(codes[order], sizes, "reassign", distances[order].__getitem__)
    assert torch.equal(permuted, straight[order]) and report == other and report["moved_items"] > 0


def test_reassign_by_hand():
    """Rows 0, 1, 2 share (0, 0); row 3 holds (0, 1) alone. Row 1 is nearest to code 0 and keeps it. Of the
    pairs with the free codes 2 and 3, row 2 to code 2 is nearest; row 0 would like code 2 as well and gets 3.
    """
    codes = torch.tensor([[0, 0], [0, 0], [0, 0], [0, 1], [1, 0]])
    distances = torch.tensor([[0.3, 0.0, 0.5, 0.9], [0.1, 0.0, 0.0, 0.0], [0.2, 0.0, 0.4, 0.6]])
    asked = []

    def last_level_distances(rows):
        asked.extend(rows.tolist())
        return distances[rows]

    resolved, sizes, report = resolve_collisions(codes, (2, 4), "reassign", last_level_distances)
    assert resolved.tolist() == [[0, 3], [0, 0], [0, 2], [0, 1], [1, 0]] and sizes == (2, 4)
    assert asked == [0, 1, 2], "only colliding items cost distances"
    assert report == {
        "policy": "reassign",
        "colliding_items": 3,
        "groups": 1,
        "largest_group": 3,
        "moved_items": 2,
        "remaining_items": 0,
    }


def test_reassign_fills_a_prefix_to_the_last_code_and_no_further():
    codes = torch.tensor([[4, 1]] * 8 + [[2, 0]])
    resolved, _, _ = resolve_collisions(codes, (5, 8), "reassign", random_distances(9, 8, 0).__getitem__)
    assert sorted(resolved[:8, 1].tolist()) == list(range(8))
    with pytest.raises(UserError, match=r"prefix \(4,\) holds 8 items, .* only 7 codes .*'suffix'"):
        resolve_collisions(codes, (5, 7), "reassign", random_distances(9, 7, 0).__getitem__)


def test_reassign_asks_for_bounded_blocks(monkeypatch):
    monkeypatch.setattr(collisions, "_BLOCK_ROWS", 10)
    codes = torch.tensor([[prefix, 0] for prefix in range(20) for _ in range(3)])
    sizes_asked = []

    def last_level_distances(rows):
        sizes_asked.append(len(rows))
        return torch.zeros(len(rows), 4, dtype=torch.bfloat16)

    resolve_collisions(codes, (20, 4), "reassign", last_level_distances)
    assert sizes_asked == [9] * 6 + [6]


@pytest.mark.parametrize("wrong", [torch.zeros(2, 5), torch.zeros(1, 4), torch.full((2, 4), float("nan"))])
def test_reassign_refuses_wrong_distances(wrong):
    with pytest.raises(ValueError, match="a number for each of 2 rows and 4 codes"):
        resolve_collisions(torch.tensor([[0, 0], [0, 0]]), (1, 4), "reassign", lambda rows: wrong)


@pytest.mark.parametrize("policy", ["reassign", "sinkhorn"])
def test_missing_distances_are_an_error_even_without_collisions(policy):
    with pytest.raises(ValueError, match="needs last_level_distances"):
        resolve_collisions(torch.tensor([[0, 0]]), (1, 4), policy)


# -- sinkhorn


@pytest.mark.parametrize("n, sizes", CATALOGUES)
@pytest.mark.parametrize("seed", range(3))
def test_sinkhorn_parts_all_items_where_there_is_room_and_moves_colliding_ones_only(n, sizes, seed):
    codes, distances = random_codes(n, sizes, seed), random_distances(n, sizes[-1], seed)
    resolved, new_sizes, report = resolve_collisions(codes, sizes, "sinkhorn", distances.__getitem__)
    counts = Counter(tuples(codes))
    alone = torch.tensor([counts[code] == 1 for code in tuples(codes)])
    assert len(set(tuples(resolved))) == n and report["remaining_items"] == 0
    assert new_sizes == sizes and torch.equal(resolved[:, :-1], codes[:, :-1])
    assert torch.equal(resolved[alone], codes[alone])
    assert report["moved_items"] == int((resolved != codes).any(1).sum())


def test_sinkhorn_by_hand():
    """Rows 0 and 1 share (0, 0), where row 0 is nearer; code 1 is held by row 2, and code 3 is far."""
    codes = torch.tensor([[0, 0], [0, 0], [0, 1]])
    distances = torch.tensor([[0.0, 0.1, 0.6, 1.0], [0.1, 0.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]])
    resolved, _, report = resolve_collisions(codes, (1, 4), "sinkhorn", distances.__getitem__)
    assert resolved.tolist() == [[0, 0], [0, 2], [0, 1]] and report["moved_items"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_sinkhorn_costs_hardly_more_than_the_best_assignment(seed):
    codes, distances = torch.zeros(10, 1, dtype=torch.int64), random_distances(10, 24, seed)
    resolved, _, _ = resolve_collisions(codes, (24,), "sinkhorn", distances.__getitem__)
    best = distances[linear_sum_assignment(distances.numpy())].sum()
    assert distances[torch.arange(10), resolved[:, 0]].sum() <= best + 0.05


def test_sinkhorn_parts_equal_items_round_by_round():
    codes = torch.zeros(15, 2, dtype=torch.int64)
    distances = random_distances(1, 32, 0).expand(15, 32)
    resolved, _, report = resolve_collisions(codes, (1, 32), "sinkhorn", distances.__getitem__)
    assert sorted(resolved[:, 1].tolist()) == sorted(distances[0].argsort()[:15].tolist())
    assert report["remaining_items"] == 0


@pytest.mark.parametrize("n, size", [(8, 5), (30, 64)])  # more items than codes; more equal items than rounds
def test_sinkhorn_leaves_what_it_cannot_part_and_says_so(n, size):
    codes = torch.zeros(n, 2, dtype=torch.int64)
    distances = random_distances(1, size, 0).expand(n, size)
    resolved, sizes, report = resolve_collisions(codes, (1, size), "sinkhorn", distances.__getitem__)
    counts = Counter(tuples(resolved))
    assert sizes == (1, size) and len(counts) == min(size, 20) + (0 not in distances[0].argsort()[:20])
    assert report["remaining_items"] == sum(count for count in counts.values() if count > 1) > 0


@pytest.mark.parametrize("seed", range(3))
def test_sinkhorn_does_not_depend_on_the_order_of_rows(seed):
    sizes = (3, 2, 32)
    codes, distances = random_codes(120, sizes, seed), random_distances(120, 32, seed)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(seed))
    straight, _, _ = resolve_collisions(codes, sizes, "sinkhorn", distances.__getitem__)
    permuted, _, _ = resolve_collisions(codes[order], sizes, "sinkhorn", distances[order].__getitem__)
    assert torch.equal(permuted, straight[order])


def test_sinkhorn_takes_codes_without_a_place_last():
    """Infinitely far codes, such as the missing children of a tree, are used when nothing else is left."""
    codes = torch.zeros(3, 2, dtype=torch.int64)
    distances = torch.tensor([[0.0, float("inf"), 0.2, float("inf")]] * 3)
    resolved, _, _ = resolve_collisions(codes, (1, 4), "sinkhorn", distances.__getitem__)
    assert sorted(resolved[:, 1].tolist())[:2] == [0, 1] and 2 in resolved[:, 1]


# -- all policies


@pytest.mark.parametrize("seed", range(3))
def test_share_changes_nothing(seed):
    codes = random_codes(50, (3, 4), seed)
    resolved, sizes, report = resolve_collisions(codes, (3, 4), "share")
    assert torch.equal(resolved, codes) and sizes == (3, 4) and report["moved_items"] == 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("n, sizes", CATALOGUES)
def test_report_counts_collisions_before_the_policy_and_input_is_kept(policy, n, sizes):
    codes = random_codes(n, sizes, 5)
    before = codes.clone()
    distances = random_distances(n, sizes[-1], 5)
    resolved, _, report = resolve_collisions(codes, sizes, policy, distances.__getitem__)
    counts = Counter(tuples(before)).values()
    assert report["policy"] == policy
    assert report["colliding_items"] == sum(count for count in counts if count > 1)
    assert report["groups"] == sum(count > 1 for count in counts)
    assert report["largest_group"] == max(counts)
    after = Counter(tuples(resolved)).values()
    assert report["remaining_items"] == sum(count for count in after if count > 1)
    resolved += 1
    assert torch.equal(codes, before)


@pytest.mark.parametrize("policy", POLICIES)
def test_codes_outside_their_codebook_are_refused(policy):
    with pytest.raises(UserError, match=r"row 1 has code 4 at level 2"):
        resolve_collisions(torch.tensor([[0, 0], [1, 4]]), (2, 4), policy, torch.zeros(2, 4).__getitem__)


def test_no_items_are_refused():
    with pytest.raises(UserError, match="0 rows"):
        resolve_collisions(torch.zeros(0, 2, dtype=torch.int64), (2, 4), "suffix")


def test_unknown_policy_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"'sufix', expected one of suffix, .*; did you mean 'suffix'"):
        resolve_collisions(torch.tensor([[0]]), (1,), "sufix")


# -- codes without an order


def test_codes_without_an_order_take_no_suffix():
    codes = random_codes(40, (4, 3, 8), 0)
    with pytest.raises(UserError, match="codes without an order do not have; take 'share' or 'reassign'"):
        resolve_collisions(codes, (4, 3, 8), "suffix", ordered=False)


@pytest.mark.parametrize("policy", ["reassign", "sinkhorn", "share"])
def test_other_policies_treat_codes_without_an_order_alike(policy):
    codes, distances = random_codes(120, (3, 2, 32), 1), random_distances(120, 32, 1)
    parallel, ordered = (
        resolve_collisions(codes, (3, 2, 32), policy, lambda rows: distances[rows], ordered=order) for order in (False, True)
    )
    assert torch.equal(parallel[0], ordered[0]) and parallel[1:] == ordered[1:]


def test_a_full_digit_is_answered_with_a_policy_that_its_codes_can_take():
    for order, policy in ((True, "suffix"), (False, "share")):
        with pytest.raises(UserError, match=f"holds 3 items.*the collision policy '{policy}'"):
            resolve_collisions(torch.zeros(3, 1, dtype=torch.int64), (2,), "reassign", lambda rows: torch.rand(len(rows), 2), ordered=order)
