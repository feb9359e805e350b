from __future__ import annotations

import functools
import itertools
import json
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from recbole_r3vae.errors import UserError
from recbole_r3vae.sid import metrics
from recbole_r3vae.sid.metrics import (
    code_usage,
    format_quality,
    preference_discrimination,
    quality_report,
    reconstruction_error,
    semantic_cohesion,
)

# items, dimensions, codebook sizes; in the third hardly any cluster is split below the second level
CASES = [(40, 5, (3, 4)), (60, 8, (2, 3, 4, 5)), (80, 4, (5, 30, 20, 3)), (30, 3, (1, 1)), (50, 2, (7,))]
CASES += [(1, 3, (4, 4)), (2, 3, (2, 2, 2))]


def random_case(n, d, sizes, seed):
    """Random codes and vectors of all norms, a few of them zero."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(size, (n,), generator=generator) for size in sizes], 1)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x = x * 10 ** torch.empty(n, 1, dtype=torch.float64).uniform_(-3, 3, generator=generator) + 0.5
    x[torch.rand(n, generator=generator) < 0.1] = 0
    return codes, x


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
def test_sc_is_the_mean_pair_cosine(n, d, sizes, seed):
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
    assert first == {"sc": pytest.approx(2 / math.sqrt(2) / 3, abs=1e-15), "clusters": 2, "clusters_2plus": 1}
    assert second == {"sc": pytest.approx(0, abs=1e-15), "clusters": 3, "clusters_2plus": 1}


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_sc_of_a_large_tight_cluster_keeps_its_digits(scale):
    n = 100_000
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).repeat(n, 1) * scale
    assert semantic_cohesion(torch.zeros(n, 1, dtype=torch.int64), x)[0]["sc"] == pytest.approx(1, abs=1e-10)


# -- PD


@pytest.mark.parametrize("n, d, sizes", CASES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("t", [2.0, 0.5, 10.0])
def test_pd_is_the_log_of_the_mean_kernel(n, d, sizes, seed, t):
    codes, x = random_case(n, d, sizes, seed)
    for length, level in enumerate(preference_discrimination(codes, x, t), start=1):
        assert close(level["pd"], brute_force_pd(codes, x, length, t), 1e-6)
        assert level["clusters"] == len(clusters_of(codes, x, length))
        assert (level["stderr"], level["sampled_pairs"]) == (0, 0)


@pytest.mark.parametrize("tile", [(1, 1), (3, 2), (7, 64)])
def test_pd_does_not_depend_on_its_tiles(tile, monkeypatch):
    monkeypatch.setattr(metrics, "_TILE", tile)
    monkeypatch.setattr(metrics, "_BLOCK_NUMBERS", 11)
    codes, x = random_case(70, 6, (4, 5, 6), 0)
    for length, level in enumerate(preference_discrimination(codes, x), start=1):
        assert level["pd"] == pytest.approx(brute_force_pd(codes, x, length, 2.0), abs=1e-6)
    for length, level in enumerate(semantic_cohesion(codes, x), start=1):
        assert level["sc"] == pytest.approx(brute_force_sc(codes, x, length), abs=1e-12)


def test_pd_counts_pairs_of_unchanged_clusters_once(monkeypatch):
    """With a last code that splits few clusters, the level above costs only the pairs of what was split."""
    pairs = []
    kernel = metrics._kernel
    monkeypatch.setattr(metrics, "_kernel", lambda a, b, t: pairs.append(len(a) * len(b)) or kernel(a, b, t))
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


def test_sampling_is_seeded_and_starts_above_the_limit():
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
def test_vectors_of_every_kind(kind, tmp_path):
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
    assert reconstruction_error(given, given)["mse"] == 0


def test_inputs_are_not_written_to():
    codes, x = random_case(50, 8, (3, 5), 4)
    for given in (x.clone(), x.numpy().copy()):  # float64: a conversion would copy only by chance
        quality_report(codes, (3, 5), {"raw": given}, reconstruction=given)
        assert torch.equal(torch.as_tensor(given), x)


def test_vectors_are_read_in_blocks_and_once(monkeypatch):
    class Recording(np.ndarray):
        reads = []

        def __getitem__(self, key):
            self.reads.append((key.start, key.stop))
            return np.asarray(super().__getitem__(key))

    monkeypatch.setattr(metrics, "_BLOCK_NUMBERS", 40)
    codes, x = random_case(25, 4, (3, 4), 0)
    quality_report(codes, (3, 4), {"raw": x.numpy().view(Recording)})
    assert Recording.reads == [(0, 10), (10, 20), (20, 30)]


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


# -- usage


@pytest.mark.parametrize("n, d, sizes", CASES)
@pytest.mark.parametrize("seed", range(2))
def test_code_usage_against_loops(n, d, sizes, seed):
    codes, _ = random_case(n, d, sizes, seed)
    report = code_usage(codes, sizes)
    for level, size in enumerate(sizes):
        counts = Counter(codes[:, level].tolist())
        values = [counts[code] for code in range(size)]
        entropy = -sum(count / n * math.log(count / n) for count in counts.values())
        gini = sum(abs(a - b) for a in values for b in values) / (2 * size * n)
        row = report["levels"][level]
        assert (row["codebook_size"], row["used"], row["reachable"]) == (size, len(counts), min(size, n))
        assert row["usage"] == len(counts) / size and row["usage_of_reachable"] == len(counts) / min(size, n)
        assert row["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-12)
        assert row["gini"] == pytest.approx(gini, abs=1e-12)
    sids = Counter(map(tuple, codes.tolist()))
    assert report["items"] == n and report["distinct_sids"] == len(sids)
    assert report["unique_ratio"] == len(sids) / n and report["items_per_used_sid"] == n / len(sids)
    assert report["collision_rate"] == sum(count for count in sids.values() if count > 1) / n
    assert report["largest_sid"] == max(sids.values())


def test_code_usage_by_hand():
    """Level 1 uses 2 of 4 codes, three times and once; items 0 and 1 share their SID."""
    report = code_usage(torch.tensor([[0, 1], [0, 1], [0, 0], [3, 1]]), (4, 2))
    first = report["levels"][0]
    assert (first["used"], first["usage"], first["usage_of_reachable"]) == (2, 0.5, 0.5)
    assert first["perplexity"] == pytest.approx(4 / 27**0.25)  # exp(-(3/4 log 3/4 + 1/4 log 1/4))
    assert first["gini"] == pytest.approx((2 + 3 * 2 + 1 * 2) / (4 * 4))  # |differences| over pairs / (K n)
    assert (report["unique_ratio"], report["collision_rate"], report["largest_sid"]) == (0.75, 0.5, 2)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_code_usage_at_its_extremes(size):
    even = code_usage(torch.arange(size).repeat(3)[:, None], (size,))["levels"][0]
    assert even["perplexity"] == pytest.approx(size) and even["gini"] == pytest.approx(0, abs=1e-12)
    one = code_usage(torch.zeros(7, 1, dtype=torch.int64), (size,))["levels"][0]
    assert one["perplexity"] == 1 and one["gini"] == pytest.approx(1 - 1 / size) and one["used"] == 1
    few = code_usage(torch.tensor([[0]]), (size,))["levels"][0]
    assert (few["reachable"], few["usage_of_reachable"], few["usage"]) == (1, 1, 1 / size)


def test_code_usage_refuses_a_code_outside_its_codebook_and_an_empty_catalogue():
    with pytest.raises(UserError, match="row 0 has code 4 at level 1"):
        code_usage(torch.tensor([[4]]), (4,))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        code_usage(torch.zeros(0, 1, dtype=torch.int64), (4,))


# -- reconstruction


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_reconstruction_error_against_loops(offset, monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK_NUMBERS", 35)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(33, 5, generator=generator, dtype=torch.float64) + offset
    y = x + 0.1 * torch.randn(33, 5, generator=generator, dtype=torch.float64)
    mse = sum((a - b) ** 2 for p, q in zip(x.tolist(), y.tolist()) for a, b in zip(p, q)) / 33
    report = reconstruction_error(x, y.numpy())
    assert report["mse"] == pytest.approx(mse, rel=1e-12)
    assert report["variance"] == pytest.approx(x.var(0, correction=0).sum().item(), rel=1e-9)
    assert report["relative"] == report["mse"] / report["variance"]


def test_reconstruction_by_the_mean_explains_nothing_and_a_perfect_one_everything():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert reconstruction_error(x, x.mean(0).expand_as(x))["relative"] == pytest.approx(1, rel=1e-12)
    assert reconstruction_error(x, x)["relative"] == 0


def test_reconstruction_of_equal_vectors_has_no_relative_error():
    x = torch.full((7, 3), 0.1)
    report = reconstruction_error(x, x + 1)
    assert report["variance"] == 0 and math.isnan(report["relative"]) and report["mse"] == pytest.approx(3)


@pytest.mark.parametrize("other", [torch.ones(2, 3), torch.ones(3, 2), torch.ones(2)])
def test_reconstruction_of_another_shape_is_refused(other):
    with pytest.raises(ValueError, match="one shape"):
        reconstruction_error(torch.ones(2, 2), other)


# -- report


def report_of(n=60, sizes=(3, 4, 5), seed=0, **arguments):
    codes, x = random_case(n, 6, sizes, seed)
    return codes, x, quality_report(codes, sizes, {"raw": x, "residual": x - x.mean(0)}, **arguments)


def test_report_holds_what_the_single_functions_say():
    codes, x, report = report_of()
    spaces = {"raw": x, "residual": x - x.mean(0)}
    usage = code_usage(codes, (3, 4, 5))
    for number, (row, plain) in enumerate(zip(report["levels"], usage.pop("levels"))):
        assert {key: row[key] for key in plain} == plain and row["level"] == number + 1
        for name, vectors in spaces.items():
            cohesion = semantic_cohesion(codes, vectors)[number]
            separation = preference_discrimination(codes, vectors)[number]
            assert row["spaces"][name] == {
                "sc": cohesion["sc"],
                "pd": separation["pd"],
                "pd_stderr": 0.0,
                "pd_sampled_pairs": 0,
            }
            assert row["clusters"] == cohesion["clusters"]
            assert row["clusters_2plus"] == cohesion["clusters_2plus"]
    assert {key: report[key] for key in usage} == usage and report["reconstruction"] is None


def test_report_is_strict_json_even_where_values_are_undefined():
    x = torch.ones(1, 2)
    report = quality_report(torch.tensor([[0, 0]]), (2, 2), {"raw": x}, reconstruction=x)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    raw = report["levels"][0]["spaces"]["raw"]
    assert raw["sc"] is None and raw["pd"] is None
    assert report["reconstruction"] == {"mse": 0.0, "variance": 0.0, "relative": None}


def test_report_refuses_a_reconstruction_of_nothing_and_names_the_space_at_fault():
    code, x = torch.tensor([[0]]), torch.ones(1, 1)
    with pytest.raises(ValueError, match=r"space 'raw', got only \['residual'\]"):
        quality_report(code, (2,), {"residual": x}, reconstruction=x)
    with pytest.raises(ValueError, match=r"row 0 of 'residual' is not finite"):
        quality_report(code, (2,), {"raw": x, "residual": x / 0})


def test_format_by_hand():
    codes = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 0]])
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    report = quality_report(codes, (2, 4), {"raw": x, "e0": x}, reconstruction=x + 0.1)
    assert format_quality(json.loads(json.dumps(report))).splitlines() == [
        "level  used codes   usage  perplexity    Gini  clusters>=2  SC raw   PD raw   SC e0    PD e0",
        "    1         2/2  1.0000         2.0  0.0000          2/2  1.0000  -2.0000  1.0000  -2.0000",
        "    2         2/4  0.5000         1.8  0.6250          1/3  1.0000  -0.8591  1.0000  -0.8591",
        "unique SIDs 0.7500, collision rate 0.5000, items per SID 1.3333, largest SID 2, "
        "reconstruction error 0.02 (0.0213 of the variance)",
    ]


def test_format_explains_its_marks(monkeypatch):
    _, _, report = report_of(n=1)
    lines = format_quality(report).splitlines()
    assert lines[1].split()[-4:] == ["-"] * 4 and lines[-1].startswith("- undefined")
    monkeypatch.setattr(metrics, "_Sampling", functools.partial(metrics._Sampling, 0, 1000))
    _, _, report = report_of(n=60)
    lines = format_quality(report).splitlines()
    assert lines[1].split()[-1].startswith("~-") and lines[-1].startswith("~ estimated from 1,000 random")
    assert len({len(line) for line in lines[:4]}) == 1, "a fixed-width table"


def test_format_without_spaces_shows_usage_alone():
    text = format_quality(quality_report(torch.tensor([[0], [1]]), (2,), {}))
    assert text.splitlines()[0].split()[-1] == "clusters>=2" and len(text.splitlines()) == 3


@pytest.mark.parametrize("seed", [0, 1])
def test_report_repeats_itself(seed):
    assert report_of(seed=seed)[2] == report_of(seed=seed)[2]
