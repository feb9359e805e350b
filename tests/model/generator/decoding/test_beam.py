"""Beam search against exhaustive enumeration and against a beam search written with Python lists."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.model.generator.decoding.beam import beam_search, beam_searches
from recbole_r3vae.model.generator.decoding.rules import Excluded
from recbole_r3vae.sid.prefix_tree import PrefixTree

USERS = (5, 0, 3)


class ToyGenerator:
    """Log-probabilities that depend on the user and on every code of the prefix, looked up in random tables.

    The prefix of a beam is known only from what this model cached when it decoded the beam's ancestors, as an
    attention cache is: ``parents`` must re-order it and ``tokens`` extend it.
    """

    def __init__(self, sizes, dtype=torch.float32, tied=False, device="cpu"):
        self.sizes, self.dtype, self.tied, self.device = sizes, dtype, tied, device
        self.log_probs = lru_cache(maxsize=None)(self._log_probs)
        self.floats = lru_cache(maxsize=None)(lambda *prefix: self.log_probs(*prefix).float().numpy())

    def _log_probs(self, user: int, prefix: tuple[int, ...]) -> torch.Tensor:
        seed = hash((user, *prefix)) % 2**32  # of integers: the same in every process
        size, generator = self.sizes[len(prefix)], torch.Generator().manual_seed(seed)
        if self.tied:  # few values, of both signs and zero: most scores are shared
            return torch.randint(-2, 3, (size,), generator=generator).to(self.dtype)
        return (2 * torch.randn(size, generator=generator)).log_softmax(0).to(self.dtype)

    def start(self, users):
        return {"users": users, "cache": None}

    def step(self, state, tokens, parents):
        if state["cache"] is None:
            assert tokens is None and parents is None
            state["cache"] = [[()] for _ in state["users"]]
        else:
            assert tokens.dtype == parents.dtype == torch.int64 and tokens.shape == parents.shape
            state["cache"] = [
                [beams[parent] + (token,) for parent, token in zip(*row)]
                for beams, *row in zip(state["cache"], parents.tolist(), tokens.tolist())
            ]
        rows = [
            torch.stack([self.log_probs(user, prefix) for prefix in beams])
            for user, beams in zip(state["users"], state["cache"])
        ]
        return torch.stack(rows).to(self.device)

    def score(self, user, codes) -> np.float32:
        score = np.float32(0)
        for level, code in enumerate(codes):
            score += self.floats(user, tuple(codes[:level]))[code]
        return score


def random_table(seed: int) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Codes with a padding row, depth 1 to 5 in turn; some codebooks are full, some items share all codes."""
    rng = np.random.default_rng(seed)
    sizes = tuple(int(size) for size in rng.integers(2, 7, size=1 + seed % 5))
    codes = torch.from_numpy(rng.integers(0, sizes, size=(int(rng.integers(12, 50)), len(sizes))))
    codes[0] = -1
    return codes, sizes


def exhaustive(model, tree, codes, user, k, flags=None):
    """Every allowed item scored and sorted: by score, semantic ID, then leaf order."""
    place = {item: place for place, item in enumerate(tree.leaf_items.tolist())}
    scored = [
        (-model.score(user, row), row, place[item], item)
        for item, row in enumerate(codes.tolist())
        if item and (flags is None or flags[item])
    ]
    best = sorted(scored)[:k]
    return [item for *_, item in best], [-score for score, *_ in best]


def listed_beam(model, tree, codes, user, num_beams, k, flags=None):
    """The textbook beam search over prefixes, one user, with the same order of ties."""
    rows = list(map(tuple, codes.tolist()))
    is_open = [item > 0 and (flags is None or bool(flags[item])) for item in range(len(rows))]
    beams = [(np.float32(0), ())]
    for level in range(codes.shape[1]):
        prefixes = {row[: level + 1] for item, row in enumerate(rows) if is_open[item]}
        extended = [
            (score - model.floats(user, prefix)[code], (*prefix, code))
            for score, prefix in beams
            for code in range(model.sizes[level])
            if (*prefix, code) in prefixes
        ]
        beams = sorted(extended)[:num_beams]
    in_order = [item for item in tree.leaf_items.tolist() if is_open[item]]
    found = [(item, -score) for score, row in beams for item in in_order if rows[item] == row]
    return [item for item, _ in found[:k]], [score for _, score in found[:k]]


def restrictions(n_items: int, seed: int):
    """No restriction, one for all users and one for each user; at least eight items stay allowed."""
    generator = torch.Generator().manual_seed(seed)
    flags = torch.rand(1 + len(USERS), n_items, generator=generator) < 0.4
    flags[:, 1:9] = True
    flags[:, 0] = True  # the padding item's flag must not matter
    return {"all": None, "shared": flags[0], "by user": flags[1:]}


def flags_of(allowed, row):
    return allowed if allowed is None or allowed.dim() == 1 else allowed[row]


def found(*arguments, **options):
    """Items and scores."""
    beams = beam_search(*arguments, **options)
    return beams.items, beams.scores


def assert_found(items, scores, row, expected_items, expected_scores):
    assert items[row].tolist() == expected_items
    assert scores[row].tolist() == [float(score) for score in expected_scores]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("seed", range(10))
def test_wide_beam_equals_exhaustive_scoring(seed, dtype, tied):
    codes, sizes = random_table(seed)
    tree, model = PrefixTree.from_codes(codes, sizes, seed=seed), ToyGenerator(sizes, dtype, tied)
    for allowed, k in itertools.product(restrictions(len(codes), seed).values(), (1, 8)):
        num_beams = max(k, *tree.n_nodes)
        items, scores = found(model, model.start(USERS), tree, num_beams, k, allowed)
        assert (items.dtype, scores.dtype) == (torch.int64, torch.float32)
        assert items.shape == scores.shape == (len(USERS), k)
        for row, user in enumerate(USERS):
            expected = exhaustive(model, tree, codes, user, k, flags_of(allowed, row))
            assert_found(items, scores, row, *expected)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(10, 25))
def test_narrow_beam_equals_the_textbook(seed, tied):
    codes, sizes = random_table(seed)
    tree, model = PrefixTree.from_codes(codes, sizes, seed=seed), ToyGenerator(sizes, tied=tied)
    for num_beams, allowed in itertools.product((1, 2, 5, 9), restrictions(len(codes), seed).values()):
        k = min(num_beams, 8)
        items, scores = found(model, model.start(USERS), tree, num_beams, k, allowed)
        for row, user in enumerate(USERS):
            expected = listed_beam(model, tree, codes, user, num_beams, k, flags_of(allowed, row))
            assert_found(items, scores, row, *expected)


@pytest.mark.parametrize("fan_outs", [(3, 4, 2), (12, 1, 1), (1, 1, 12)])
def test_trees_with_the_same_fan_out_everywhere(fan_outs):
    """Levels without padding take shorter paths: all codes present, or one child a node."""
    sizes = (*fan_outs[:-1], fan_outs[-1] + 3)
    codes = torch.tensor([(-1,) * 3, *itertools.product(*map(range, fan_outs))])
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    for num_beams, allowed in itertools.product((4, 24), restrictions(len(codes), 0).values()):
        items, scores = found(model, model.start(USERS), tree, num_beams, 4, allowed)
        for row, user in enumerate(USERS):
            expected = listed_beam(model, tree, codes, user, num_beams, 4, flags_of(allowed, row))
            assert_found(items, scores, row, *expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(5))
def test_a_gpu_gives_what_the_cpu_gives(seed, dtype):
    codes, sizes = random_table(seed)
    tree = PrefixTree.from_codes(codes, sizes)
    for tied, allowed in itertools.product((False, True), restrictions(len(codes), seed).values()):
        here, there = (ToyGenerator(sizes, dtype, tied, device) for device in ("cpu", "cuda"))
        expected = found(here, here.start(USERS), tree, 9, 8, allowed)
        there_found = found(there, there.start(USERS), tree.to("cuda"), 9, 8, allowed)
        assert all(tensor.is_cuda for tensor in there_found)
        assert all(torch.equal(tensor.cpu(), other) for tensor, other in zip(there_found, expected))


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_gives_what_its_users_get_alone(seed):
    codes, sizes = random_table(seed)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes, tied=True)
    users = tuple(range(12))
    allowed = torch.rand(len(users), len(codes), generator=torch.Generator().manual_seed(seed)) < 0.5
    items, scores = found(model, model.start(users), tree, 6, 6, allowed, strict=False)
    for row, user in enumerate(users):
        alone = found(model, model.start((user,)), tree, 6, 6, allowed[row : row + 1], strict=False)
        assert torch.equal(items[row], alone[0][0]) and torch.equal(scores[row], alone[1][0])


def test_a_restriction_serves_many_batches():
    codes, sizes = random_table(7)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    allowed = restrictions(len(codes), 7)["shared"]
    restriction = tree.restrict(allowed)
    for users in ((1, 2), (3,)):
        once = found(model, model.start(users), tree, 10, 8, restriction)
        anew = found(model, model.start(users), tree, 10, 8, allowed)
        assert torch.equal(once[0], anew[0]) and torch.equal(once[1], anew[1])


def test_items_of_a_shared_leaf_share_its_score():
    codes = torch.tensor([[-1, -1]] + [[0, 1]] * 6 + [[1, 0]] * 6)
    tree, model = PrefixTree.from_codes(codes, (2, 2), seed=1), ToyGenerator((2, 2))
    items, scores = found(model, model.start((0,)), tree, 12, 12)
    first = [0, 1] if model.score(0, [0, 1]) > model.score(0, [1, 0]) else [1, 0]
    in_order = [item for item in tree.leaf_items.tolist() if codes[item].tolist() == first]
    assert items[0, :6].tolist() == in_order  # leaf order, though a single beam holds all six
    assert scores[0].unique().numel() == 2 and scores[0, :6].unique().numel() == 1


@pytest.mark.parametrize("num_beams", [4, 100])
def test_too_few_items_are_an_error_or_filled_up(num_beams):
    codes, sizes = random_table(13)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    allowed = torch.zeros(len(USERS), len(codes), dtype=torch.bool)
    allowed[0, [2, 5, 6, 7, 9]] = True
    allowed[1, [3, 8, 0]] = True  # two: item 0 is padding
    with pytest.raises(UserError, match="user 1 of the batch has only 2 possible items for k=4"):
        beam_search(model, model.start(USERS), tree, num_beams, 4, allowed)
    items, scores = found(model, model.start(USERS), tree, num_beams, 4, allowed, strict=False)
    for row, n in enumerate((4, 2, 0)):
        expected = listed_beam(model, tree, codes, USERS[row], num_beams, n, allowed[row])
        assert_found(items[:, :n], scores[:, :n], row, *expected)
        assert items[row, n:].tolist() == [0] * (4 - n)
        assert (scores[row, n:] == -torch.inf).all() and scores[row, :n].isfinite().all()


def test_nothing_allowed_for_anybody():
    codes, sizes = random_table(13)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    none = torch.zeros(len(codes), dtype=torch.bool)
    items, scores = found(model, model.start(USERS), tree, 4, 4, none, strict=False)
    assert not items.any() and (scores == -torch.inf).all()


def test_codes_of_probability_zero_lead_nowhere():
    codes = torch.tensor([[-1, -1], [0, 0], [0, 1], [1, 0], [1, 1]])
    tree, model = PrefixTree.from_codes(codes, (2, 2)), ToyGenerator((2, 2))
    model.log_probs = lambda user, prefix: torch.tensor([-2, -3.0] if prefix == (0,) else [-torch.inf, -1.0])
    items, scores = found(model, model.start((0,)), tree, 4, 4, strict=False)
    assert items.tolist() == [[4, 0, 0, 0]] and scores.tolist() == [[-2.0] + [-torch.inf] * 3]


@pytest.mark.parametrize("sign", [1, -1])
def test_nan_is_an_error_whatever_its_sign(sign):
    codes, sizes = random_table(2)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    bad = torch.full((sizes[1],), torch.nan).copysign(torch.tensor(float(sign)))
    plain = model.log_probs
    model.log_probs = lambda user, prefix: bad if user == 3 and len(prefix) == 1 else plain(user, prefix)
    with pytest.raises(UserError, match="NaN.*learning_rate"):
        beam_search(model, model.start(USERS), tree, 4, 4, strict=False)


@pytest.mark.parametrize(("num_beams", "k"), [(4, 5), (4, 0)])
def test_k_must_fit_the_beam(num_beams, k):
    codes, sizes = random_table(2)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    with pytest.raises(UserError, match=f"between 1 and num_beams=4, got {k}"):
        beam_search(model, model.start(USERS), tree, num_beams, k)


def test_a_restriction_for_other_users_is_refused():
    codes, sizes = random_table(2)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    with pytest.raises(UserError, match="2 rows for 3 users"):
        beam_search(model, model.start(USERS), tree, 4, 4, torch.ones(2, len(codes), dtype=torch.bool))


def test_log_probabilities_of_another_codebook_are_refused():
    codes, sizes = random_table(2)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator((sizes[0], sizes[1] + 1, *sizes[2:]))
    with pytest.raises(ValueError, match=r"level 1, got"):
        beam_search(model, model.start(USERS), tree, 4, 4)


def test_no_wider_than_the_level_and_the_restriction():
    """A model never decodes beams that cannot be alive: width is bounded by the open nodes of the level."""
    codes, sizes = random_table(4)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    widths = []
    step = model.step

    def counting(state, tokens, parents):
        widths.append(1 if tokens is None else tokens.shape[1])
        return step(state, tokens, parents)

    model.step = counting
    allowed = torch.zeros(len(codes), dtype=torch.bool)
    allowed[:6] = True
    for restriction in (None, tree.restrict(allowed)):
        widths.clear()
        beam_search(model, model.start(USERS), tree, 20, 5, restriction)
        assert widths == [min(20, n) for n in (restriction or tree).n_nodes[:-1]]


# -- several rules in one search


class Counting(ToyGenerator):
    """Keeps the width of every step; says of a finished beam the codes that it has decoded, the last one left out."""

    def start(self, users):
        self.widths = []
        return super().start(users)

    def step(self, state, tokens, parents):
        self.widths.append(1 if tokens is None else tokens.shape[1])
        return super().step(state, tokens, parents)

    def beam_states(self, state, parents):
        rows = [[beams[parent] for parent in row] for beams, row in zip(state["cache"], parents.tolist())]
        return torch.tensor(rows, dtype=torch.float32).view(*parents.shape, -1)  # [B, W, L - 1]


def assert_same_beams(one, other):
    assert torch.equal(one.items, other.items) and torch.equal(one.scores, other.scores) and torch.equal(one.leaves, other.leaves)
    assert torch.equal(one.states, other.states)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_each_rule_finds_what_it_finds_alone(seed, tied):
    codes, sizes = random_table(seed)
    tree, model = PrefixTree.from_codes(codes, sizes, seed=seed), Counting(sizes, tied=tied)
    rules = list(restrictions(len(codes), seed).values())
    rules.append(torch.zeros(len(USERS), len(codes), dtype=torch.bool))  # nothing for anybody: all beams dead
    rules.append(Excluded(torch.tensor([0, 0, 2]), torch.tensor([3, 5, 3])))
    for num_beams in (1, 5, 20):
        k = min(num_beams, 8)
        alone, widths = [], []
        for rule in rules:
            alone.append(beam_search(model, model.start(USERS), tree, num_beams, k, rule, strict=False))
            widths.append(model.widths)
        together = beam_searches(model, model.start(USERS), tree, num_beams, k, rules, strict=False)
        assert len(together) == len(rules) and len(model.widths) == tree.n_levels
        for mine, theirs in zip(together, alone):
            assert_same_beams(mine, theirs)
        for union, *each in zip(model.widths, *widths):
            assert union <= sum(each)


def test_the_union_decodes_a_prefix_once():
    codes, sizes = random_table(4)
    tree, model = PrefixTree.from_codes(codes, sizes), Counting(sizes)
    beam_search(model, model.start(USERS), tree, 5, 5)
    alone = model.widths
    beam_searches(model, model.start(USERS), tree, 5, 5, [None] * 4)
    assert model.widths == alone


def test_left_out_items_never_come_back():
    codes, sizes = random_table(13)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    met = Excluded(torch.tensor([0, 0, 1]), torch.tensor([1, 2, 7]))
    stay, left_out = beam_searches(model, model.start(USERS), tree, 100, 8, [None, met])
    for row, user in enumerate(USERS):
        flags = met.flags(len(USERS), len(codes))[row]
        assert_found(stay.items, stay.scores, row, *exhaustive(model, tree, codes, user, 8))
        assert_found(left_out.items, left_out.scores, row, *exhaustive(model, tree, codes, user, 8, flags))


def test_one_user_too_few_of_one_rule_is_an_error():
    codes, sizes = random_table(13)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    few = torch.arange(len(codes)) < 3
    with pytest.raises(UserError, match="only 2 possible items for k=4"):
        beam_searches(model, model.start(USERS), tree, 6, 4, [None, few])


# -- a semantic ID that is watched


def listed_ranks(model, codes, user, num_beams, watched, flags=None):
    """At which rank of the textbook's beams the prefixes of ``watched`` stand, 0 where they do not."""
    rows = [row for item, row in enumerate(map(tuple, codes.tolist())) if item and (flags is None or flags[item])]
    beams, ranks = [(np.float32(0), ())], []
    for level in range(codes.shape[1]):
        prefixes = {row[: level + 1] for row in rows}
        extended = [
            (score - model.floats(user, prefix)[code], (*prefix, code))
            for score, prefix in beams
            for code in range(model.sizes[level])
            if (*prefix, code) in prefixes
        ]
        beams = sorted(extended)[:num_beams]
        found = [prefix for _, prefix in beams]
        ranks.append(1 + found.index(watched[: level + 1]) if watched[: level + 1] in found else 0)
    return ranks


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_the_ranks_of_a_watched_id_are_the_textbooks_and_watching_changes_nothing(seed, tied):
    codes, sizes = random_table(seed)
    tree, model = PrefixTree.from_codes(codes, sizes, seed=seed), ToyGenerator(sizes, tied=tied)
    rules = list(restrictions(len(codes), seed).values())
    watched = codes[torch.randint(1, len(codes), (len(USERS),), generator=torch.Generator().manual_seed(seed))]
    watched[2] = (watched[2] + 1) % torch.tensor(sizes)  # perhaps of no item
    for num_beams in (1, 4, 30):
        plain = beam_searches(model, model.start(USERS), tree, num_beams, 1, rules, strict=False)
        for beams, other, rule in zip(beam_searches(model, model.start(USERS), tree, num_beams, 1, rules, False, None, watched), plain, rules):
            assert other.prefix_ranks is None and torch.equal(beams.items, other.items) and torch.equal(beams.scores, other.scores)
            for row, user in enumerate(USERS):
                expected = listed_ranks(model, codes, user, num_beams, tuple(watched[row].tolist()), flags_of(rule, row))
                assert beams.prefix_ranks[row].tolist() == expected


def test_a_watched_id_of_probability_zero_is_in_no_beam():
    codes, sizes = random_table(0)  # one level
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    model.step = lambda state, tokens, parents: torch.full((len(USERS), 1, *sizes), -torch.inf)
    beams = beam_search(model, model.start(USERS), tree, 4, 1, strict=False, watched=codes[[1, 2, 3]])
    assert beams.prefix_ranks.tolist() == [[0]] * 3


# -- leaves and states


@pytest.mark.parametrize("seed", range(10))
def test_leaves_and_states_are_those_of_the_items(seed):
    codes, sizes = random_table(seed)
    tree, model = PrefixTree.from_codes(codes, sizes, seed=seed), Counting(sizes)
    for allowed in restrictions(len(codes), seed).values():
        beams = beam_search(model, model.start(USERS), tree, 9, 9, allowed, strict=False)
        real = beams.items > 0
        assert torch.equal(beams.leaves, tree.find(codes[beams.items]).where(real, -1))
        assert torch.equal(beams.states, codes[beams.items][..., :-1].float() * real[..., None])


def test_a_decoder_that_says_nothing_of_its_beams_has_no_states():
    codes, sizes = random_table(2)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    assert beam_search(model, model.start(USERS), tree, 4, 4).states is None


# -- rescoring


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("tied", [False, True])
def test_rescoring_a_wide_beam_equals_rescoring_every_item(seed, tied):
    """A prior for each user and item; items of one leaf part by it, and some are taken out."""
    codes, sizes = random_table(seed)
    tree, model = PrefixTree.from_codes(codes, sizes, seed=seed), Counting(sizes, tied=tied)
    generator = torch.Generator().manual_seed(seed)
    prior = torch.randint(-3, 4, (len(USERS), len(codes)), generator=generator).float()
    prior[torch.rand(prior.shape, generator=generator) < 0.1] = -torch.inf

    def with_prior(items, scores):
        return scores + prior.gather(1, items)

    for allowed in restrictions(len(codes), seed).values():
        width = max(20, *tree.n_nodes)
        beams = beam_search(model, model.start(USERS), tree, width, 20, allowed, False, with_prior)
        for row, user in enumerate(USERS):
            ranked = zip(*exhaustive(model, tree, codes, user, len(codes), flags_of(allowed, row)))
            changed = [(item, score + np.float32(prior[row, item])) for item, score in ranked if prior[row, item] > -torch.inf]
            best = sorted(changed, key=lambda pair: -pair[1])[:20]
            assert_found(beams.items[:, : len(best)], beams.scores[:, : len(best)], row, [i for i, _ in best], [s for _, s in best])
            assert not beams.items[row, len(best) :].any() and (beams.scores[row, len(best) :] == -torch.inf).all()
        real = beams.items > 0
        assert torch.equal(beams.leaves, tree.find(codes[beams.items]).where(real, -1))
        assert torch.equal(beams.states, codes[beams.items][..., :-1].float() * real[..., None])


def test_a_narrow_beam_reorders_what_it_found_and_no_more():
    codes, sizes = random_table(8)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    plain = beam_search(model, model.start(USERS), tree, 3, 3)
    pushed = beam_search(model, model.start(USERS), tree, 3, 3, rescore=lambda items, scores: scores.where(scores < scores[:, :1], -99.0))
    found_by_beam = [{int(leaf) for leaf in row} for row in plain.leaves]
    assert all({int(leaf) for leaf in row} <= leaves for row, leaves in zip(pushed.leaves, found_by_beam))
    assert not torch.equal(plain.items, pushed.items)


def test_rescoring_to_nan_or_another_shape_is_refused():
    codes, sizes = random_table(2)
    tree, model = PrefixTree.from_codes(codes, sizes), ToyGenerator(sizes)
    with pytest.raises(UserError, match="scores are NaN"):
        beam_search(model, model.start(USERS), tree, 4, 4, rescore=lambda items, scores: scores * torch.nan)
    with pytest.raises(ValueError, match="rescore must return scores"):
        beam_search(model, model.start(USERS), tree, 4, 4, rescore=lambda items, scores: scores[:, :2])
