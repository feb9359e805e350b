"""SC and PD against sums over all pairs of items and of centres."""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from recbole_r3vae.sid.quality import clusters as clusters_module
from recbole_r3vae.sid.quality.clusters import Sampling, Separation, cohesion, levels_of, preference_discrimination, semantic_cohesion

# items, dimensions, codebook sizes; in the third hardly any cluster is split below the second level
CASES = [(40, 5, (3, 4)), (60, 8, (2, 3, 4, 5)), (80, 4, (5, 30, 20, 3)), (30, 3, (1, 1)), (50, 2, (7,))]
CASES += [(1, 3, (4, 4)), (2, 3, (2, 2, 2))]


def cosine(a, b):
    norms = math.sqrt(sum(v * v for v in a) * sum(v * v for v in b))
    return sum(v * w for v, w in zip(a, b)) / norms if norms > 0 else 0.0


def clusters_of(codes, x, length):
    clusters = defaultdict(list)
    for code, vector in zip(codes.tolist(), x.tolist()):
        clusters[tuple(code[:length])].append(vector)
    return list(clusters.values())


def brute_force_sc(codes, x, length):
    means = []
    for cluster in clusters_of(codes, x, length):
        pairs = [cosine(a, b) for a, b in itertools.combinations(cluster, 2)]
        if pairs:
            means.append(sum(pairs) / len(pairs))
    return sum(means) / len(means) if means else math.nan


def brute_force_pd(codes, x, length, t):
    centres = []
    for cluster in clusters_of(codes, x, length):
        units = []
        for vector in cluster:
            norm = math.sqrt(sum(v * v for v in vector))
            units.append([v / norm if norm else 0.0 for v in vector])
        centres.append([sum(column) / len(units) for column in zip(*units)])
    values = [math.exp(-t * (1 - cosine(a, b))) for a, b in itertools.combinations(centres, 2)]
    return math.log(sum(values) / len(values)) if values else math.nan


def close(a, b, tolerance):
    return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance


# -- SC


@pytest.mark.parametrize("n, d, sizes", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_sc_is_the_mean_pair_cosine(random_case, n, d, sizes, seed):
    codes, x = random_case(n, d, sizes, seed)
    levels = semantic_cohesion(codes, x)
    assert len(levels) == len(sizes)
    for length, level in enumerate(levels, start=1):
        clusters = clusters_of(codes, x, length)
        assert close(level["sc"], brute_force_sc(codes, x, length), 1e-12)
        assert level["clusters"] == len(clusters)
        assert level["clusters_2plus"] == sum(len(cluster) > 1 for cluster in clusters)


def test_sc_by_hand():
    """Level 1: one cluster with cosines 0, 1 / sqrt 2, 1 / sqrt 2 and a single item that does not count.
    Level 2: the pair of cosine 0 alone."""
    codes = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 0]])
    x = torch.tensor([[2.0, 0.0], [0.0, 0.1], [5.0, 5.0], [1.0, 0.0]])
    first, second = semantic_cohesion(codes, x)
    exact = {"stderr": 0.0, "sampled_clusters": 0}
    assert first == {"sc": pytest.approx(2 / math.sqrt(2) / 3, abs=1e-15)} | exact | {"clusters": 2, "clusters_2plus": 1}
    assert second == {"sc": pytest.approx(0, abs=1e-15)} | exact | {"clusters": 3, "clusters_2plus": 1}


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_sc_of_a_large_tight_cluster_keeps_its_digits(scale):
    n = 100_000
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).repeat(n, 1) * scale
    assert semantic_cohesion(torch.zeros(n, 1, dtype=torch.int64), x)[0]["sc"] == pytest.approx(1, abs=1e-10)


# -- PD


@pytest.mark.parametrize("n, d, sizes", CASES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("t", [2.0, 0.5, 10.0])
def test_pd_is_the_log_of_the_mean_kernel(random_case, n, d, sizes, seed, t):
    codes, x = random_case(n, d, sizes, seed)
    for length, level in enumerate(preference_discrimination(codes, x, t), start=1):
        assert close(level["pd"], brute_force_pd(codes, x, length, t), 1e-6)
        assert level["clusters"] == len(clusters_of(codes, x, length))
        assert (level["stderr"], level["sampled_pairs"]) == (0, 0)


@pytest.mark.parametrize("tile", [(1, 1), (3, 2), (7, 64)])
def test_pd_does_not_depend_on_its_tiles(random_case, tile, monkeypatch):
    monkeypatch.setattr(clusters_module, "_TILE", tile)
    monkeypatch.setattr(clusters_module, "_BLOCK_NUMBERS", 11)
    codes, x = random_case(70, 6, (4, 5, 6), 0)
    for length, level in enumerate(preference_discrimination(codes, x), start=1):
        assert level["pd"] == pytest.approx(brute_force_pd(codes, x, length, 2.0), abs=1e-6)
    for length, level in enumerate(semantic_cohesion(codes, x), start=1):
        assert level["sc"] == pytest.approx(brute_force_sc(codes, x, length), abs=1e-12)


def test_pd_counts_pairs_of_unchanged_clusters_once(monkeypatch):
    """With a last code that splits few clusters, the level above costs only the pairs of what was split."""
    pairs = []
    kernel = clusters_module._kernel
    monkeypatch.setattr(clusters_module, "_kernel", lambda a, b, t: pairs.append(len(a) * len(b)) or kernel(a, b, t))
    codes = torch.cat([torch.arange(300)[:, None], torch.zeros(300, 1, dtype=torch.int64)], 1)
    codes[:5] = torch.tensor([[0, 0], [0, 1], [0, 2], [7, 0], [7, 1]])
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    levels = preference_discrimination(codes, x)
    assert sum(pairs) < 1.2 * 300 * 300
    for length in (1, 2):
        assert levels[length - 1]["pd"] == pytest.approx(brute_force_pd(codes, x, length, 2.0), abs=1e-6)


def test_pd_by_hand():
    """Three centres: (1, 0), (0, 1) and, of the items (3, 0) and (0, 1), the diagonal of unit vectors."""
    codes = torch.tensor([[0], [1], [2], [2]])
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    diagonal = math.exp(-2 * (1 - 1 / math.sqrt(2)))
    expected = math.log((math.exp(-2) + 2 * diagonal) / 3)
    assert preference_discrimination(codes, x)[0]["pd"] == pytest.approx(expected, abs=1e-6)


def test_pd_has_its_bounds():
    two = torch.tensor([[0], [1]])
    parallel, opposite, orthogonal = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [-1.0]]), torch.eye(2)
    for x, t, pd in ((parallel, 2, 0), (opposite, 2, -4), (orthogonal, 3, -3)):
        assert preference_discrimination(two, x, t)[0]["pd"] == pytest.approx(pd, abs=1e-6)


def test_pd_of_centres_that_cancel_counts_as_cosine_zero():
    """Unit vectors at 120 degrees leave only rounding errors, whose direction is not the centre's."""
    starts = torch.rand(20, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    angles = starts + torch.arange(3, dtype=torch.float64) / 3
    x = torch.stack([(2 * math.pi * angles).cos(), (2 * math.pi * angles).sin()], 2).reshape(60, 2)
    codes = torch.arange(20).repeat_interleave(3)[:, None]
    assert preference_discrimination(codes, x)[0]["pd"] == pytest.approx(-2, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_sampled_pd_is_within_four_standard_errors_of_the_exact_one(seed, spread):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.arange(900) // 9, torch.arange(900)], 1)
    x = torch.randn(900, 6, generator=generator) * spread + 0.3
    exact = preference_discrimination(codes, x)
    sampled = preference_discrimination(codes, x, exact_up_to=0, sample_pairs=20_000, seed=seed)
    for a, b in zip(exact, sampled):
        assert b["sampled_pairs"] == 20_000 and 0 < b["stderr"] < 0.02
        assert abs(a["pd"] - b["pd"]) < 4 * b["stderr"]


def test_standard_error_is_the_spread_of_the_estimates():
    codes, x = torch.arange(200)[:, None], torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    sampled = functools.partial(preference_discrimination, codes, x, exact_up_to=0, sample_pairs=500)
    runs = [sampled(seed=seed)[0] for seed in range(200)]
    spread = np.std([run["pd"] for run in runs])
    assert np.mean([run["stderr"] for run in runs]) == pytest.approx(spread, rel=0.15)


def test_sampling_is_seeded_and_starts_above_the_limit(random_case):
    codes, x = random_case(90, 4, (3, 40), 0)
    first, again, other = (
        preference_discrimination(codes, x, exact_up_to=3, sample_pairs=999, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again and first[1]["pd"] != other[1]["pd"]
    assert first[0]["sampled_pairs"] == 0 and first[1]["sampled_pairs"] == 999
    assert first[0] == preference_discrimination(codes, x)[0]


@pytest.mark.parametrize("t", [0.0, -1.0, math.nan])
def test_pd_refuses_a_kernel_that_does_not_fall(t):
    with pytest.raises(ValueError, match="t must be > 0"):
        preference_discrimination(torch.tensor([[0]]), torch.ones(1, 1), t)


# -- both


def test_degenerate_catalogues():
    one = torch.tensor([[3, 1]])
    assert all(math.isnan(level["sc"]) for level in semantic_cohesion(one, torch.ones(1, 2)))
    assert all(math.isnan(level["pd"]) for level in preference_discrimination(one, torch.ones(1, 2)))
    same = torch.zeros(5, 2, dtype=torch.int64)
    x = torch.tensor([[1.0, 0.0]] * 5)
    assert [level["sc"] for level in semantic_cohesion(same, x)] == [1, 1]
    assert [level["clusters_2plus"] for level in semantic_cohesion(same, x)] == [1, 1]
    assert all(math.isnan(level["pd"]) for level in preference_discrimination(same, x))
    zero = torch.zeros(4, 3)
    assert semantic_cohesion(torch.zeros(4, 1, dtype=torch.int64), zero)[0]["sc"] == 0
    assert preference_discrimination(torch.arange(4)[:, None], zero)[0]["pd"] == pytest.approx(-2, abs=1e-6)


def test_zero_vectors_take_part_as_cosine_zero():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    codes = torch.zeros(3, 1, dtype=torch.int64)
    assert semantic_cohesion(codes, x)[0]["sc"] == pytest.approx(1 / 3, abs=1e-15)


@pytest.mark.parametrize("kind", ["float16 memmap", "float32 array", "bfloat16", "float32 grad", "strided"])
def test_vectors_of_every_kind(random_case, kind, tmp_path):
    codes, x = random_case(50, 8, (3, 5), 4)
    if kind == "float16 memmap":
        np.save(tmp_path / "x.npy", x.half().numpy())
        given = np.load(tmp_path / "x.npy", mmap_mode="r")
        exact = torch.from_numpy(given.astype(np.float64))
    elif kind == "float32 array":
        given = x.float().numpy()
        given.flags.writeable = False
        exact = x.float().double()
    elif kind == "strided":
        given = exact = torch.stack([x, x + 1], 2)[:, :, 0]
    else:
        given = x.bfloat16() if kind == "bfloat16" else x.float().requires_grad_()
        exact = given.detach().double()
    for metric, key in ((semantic_cohesion, "sc"), (preference_discrimination, "pd")):
        for a, b in zip(metric(codes, given), metric(codes, exact)):
            assert a[key] == pytest.approx(b[key], abs=1e-12)


@pytest.mark.parametrize("function", [semantic_cohesion, preference_discrimination])
@pytest.mark.parametrize(
    "codes, x, message",
    [
        (torch.tensor([[-1], [0]]), torch.ones(2, 2), r"without the padding row.*minimum -1"),
        (torch.tensor([0, 1]), torch.ones(2, 2), r"shape \[n, L\].*\[2\]"),
        (torch.tensor([[0.0]]), torch.ones(1, 2), r"integers.*float32"),
        (torch.zeros(0, 2, dtype=torch.int64), torch.ones(0, 2), r"shape \[n, L\].*\[0, 2\]"),
        (torch.tensor([[0], [1]]), torch.ones(3, 2), r"x must have shape \[2, d\].*\[3, 2\]"),
        (torch.tensor([[0], [1]]), torch.ones(2), r"x must have shape \[2, d\].*\[2\]"),
        (torch.tensor([[0], [1]]), torch.ones(2, 0), r"x must have shape \[2, d\].*\[2, 0\]"),
        (torch.tensor([[0], [1]]), torch.tensor([[1.0], [math.nan]]), r"row 1 of x is not finite"),
        (torch.tensor([[0], [1]]), torch.tensor([[math.inf], [1.0]]), r"row 0 of x is not finite"),
    ],
)
def test_what_does_not_fit_is_refused(function, codes, x, message):
    with pytest.raises(ValueError, match=message):
        function(codes, x)


# -- levels with more clusters than are held


def measured(codes, x, **sampling):
    """SC and PD of every level, first to last, where no more than ``held`` clusters are."""
    held = sampling.pop("held")
    chosen = Sampling(held_numbers=held * x.shape[1], **sampling)
    separation = Separation(2.0, chosen)
    return [(cohesion(level), separation.of(level)) for level in levels_of(codes, x, sampling=chosen)][::-1]


def nested(n=2000, seed=0):
    """Codes with 3, about 60 and about 700 clusters, and vectors that are alike within them."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(size, (n,), generator=generator) for size in (3, 20, 20)], 1)
    centres = [torch.randn(3, 20, 20, 8, generator=generator) for _ in range(3)]
    a, b, c = codes.unbind(1)
    return codes, centres[0][a, 0, 0] + centres[1][a, b, 0] + centres[2][a, b, c] + torch.randn(n, 8, generator=generator)


def test_where_all_may_be_held_nothing_is_drawn():
    codes, x = nested()
    for (sc, pd), exact_sc, exact_pd in zip(measured(codes, x, held=5000), semantic_cohesion(codes, x), preference_discrimination(codes, x)):
        assert sc == exact_sc and pd == exact_pd and not sc["sampled_clusters"]


def test_levels_above_the_first_that_is_held_are_exact():
    codes, x = nested()
    first, second, third = measured(codes, x, held=100, exact_up_to=100)
    assert first[0]["sc"] == pytest.approx(brute_force_sc(codes, x, 1), abs=1e-12) and first[0]["stderr"] == 0
    assert second[0]["sc"] == pytest.approx(brute_force_sc(codes, x, 2), abs=1e-12)
    assert second[1]["pd"] == pytest.approx(brute_force_pd(codes, x, 2, 2.0), abs=1e-6) and second[1]["sampled_pairs"] == 0
    assert third[0]["sampled_clusters"] == 100 and third[1]["sampled_pairs"] == 100 * 99 // 2
    exact = semantic_cohesion(codes, x)[2]
    assert {key: third[0][key] for key in ("clusters", "clusters_2plus")} == {key: exact[key] for key in ("clusters", "clusters_2plus")}
    assert third[1]["clusters"] == exact["clusters"]


def test_drawn_clusters_estimate_within_their_standard_errors_without_bias():
    codes, x = nested()
    sc, pd = semantic_cohesion(codes, x)[2]["sc"], preference_discrimination(codes, x)[2]["pd"]
    runs = [measured(codes, x, held=100, exact_up_to=100, seed=seed)[2] for seed in range(60)]
    for exact, key, results in ((sc, "sc", [run[0] for run in runs]), (pd, "pd", [run[1] for run in runs])):
        found, errors = np.array([result[key] for result in results]), np.array([result["stderr"] for result in results])
        assert (np.abs(found - exact) < 4 * errors).all() and len(set(found)) > 50
        assert errors.mean() == pytest.approx(found.std(ddof=1), rel=0.35)
        assert abs(found.mean() - exact) < 4 * errors.mean() / math.sqrt(60)


@pytest.mark.parametrize("tile", [(1, 1), (7, 16), (30, 7)])
def test_drawn_clusters_do_not_depend_on_tiles(monkeypatch, tile):
    codes, x = nested()
    [*_, (_, expected)] = measured(codes, x, held=100, exact_up_to=100)
    monkeypatch.setattr(clusters_module, "_TILE", tile)
    [*_, (_, found)] = measured(codes, x, held=100, exact_up_to=100)
    assert found["pd"] == pytest.approx(expected["pd"], abs=1e-6) and found["stderr"] == pytest.approx(expected["stderr"], rel=1e-4)


def test_clusters_of_several_items_that_may_all_be_held_give_an_exact_sc():
    codes = torch.cat([torch.arange(300), torch.tensor([5, 5, 9])])[:, None]
    x = torch.randn(303, 4, generator=torch.Generator().manual_seed(0))
    [(sc, pd)] = measured(codes, x, held=40, exact_up_to=30)
    assert sc["sc"] == pytest.approx(brute_force_sc(codes, x, 1), abs=1e-12) and sc["clusters_2plus"] == 2
    assert (sc["stderr"], sc["sampled_clusters"], sc["clusters"]) == (0, 0, 300) and pd["sampled_pairs"] == 30 * 29 // 2
    [(sc, _)] = measured(torch.arange(300)[:, None], x[:300], held=40, exact_up_to=30)
    assert math.isnan(sc["sc"]) and sc["clusters_2plus"] == 0


@pytest.mark.parametrize("kind", ["tensor", "array", "memmap"])
def test_only_items_of_drawn_clusters_are_read(tmp_path, kind):
    codes, x = torch.arange(500)[:, None], torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.arange(500)
    given = x if kind == "tensor" else x.numpy()
    if kind == "memmap":
        np.save(tmp_path / "x.npy", x.numpy())
        given = np.load(tmp_path / "x.npy", mmap_mode="r")
    [level] = levels_of(codes, given, sampling=Sampling(exact_up_to=10, held_numbers=10 * 4))
    assert level.sums.shape == (10, 4) and level.drawn.clusters == 500 and level.drawn.for_pd.sum() == 10
    [again] = levels_of(codes, given, sampling=Sampling(exact_up_to=10, held_numbers=10 * 4))
    assert torch.equal(level.sums, again.sums)
    x[7] = math.nan  # whichever are drawn, most are not
    seeds = [Sampling(10, seed=seed, held_numbers=40) for seed in range(40)]
    caught = 0
    for sampling in seeds:
        try:
            list(levels_of(codes, x, sampling=sampling))
        except ValueError as error:
            assert "row 7 of x" in str(error)
            caught += 1
    assert caught < 10


# -- by digit


@pytest.mark.parametrize("n, d, sizes", CASES)
@pytest.mark.parametrize("exact_up_to", [0, 4, 20_000])
def test_by_digit_a_cluster_is_the_items_of_one_code(random_case, n, d, sizes, exact_up_to):
    codes, x = random_case(n, d, sizes, 0)
    cohesion = semantic_cohesion(codes, x, ordered=False)
    separation = preference_discrimination(codes, x, ordered=False, exact_up_to=exact_up_to, sample_pairs=2000)
    for digit in range(len(sizes)):
        mine = codes[:, digit, None]
        assert close(cohesion[digit]["sc"], brute_force_sc(mine, x, 1), 1e-12)
        assert cohesion[digit]["clusters"] == separation[digit]["clusters"] == len(mine.unique())
        assert close(separation[digit]["pd"], brute_force_pd(mine, x, 1, 2.0), 1e-6 + 4 * separation[digit]["stderr"])


def test_by_digit_the_order_of_digits_does_not_matter(random_case):
    codes, x = random_case(60, 8, (2, 3, 4, 5), 1)
    for metric in (semantic_cohesion, preference_discrimination):
        assert metric(codes.flip(1), x, ordered=False) == metric(codes, x, ordered=False)[::-1]
