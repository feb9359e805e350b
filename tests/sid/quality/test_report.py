"""The report, its table, and the error of reconstruction."""

from __future__ import annotations

import functools
import json
import math
import re

import numpy as np
import pytest
import torch

from recbole_r3vae.sid.quality import clusters
from recbole_r3vae.sid.quality import report as report_module
from recbole_r3vae.sid.quality.clusters import preference_discrimination, semantic_cohesion
from recbole_r3vae.sid.quality.report import format_quality, quality_report, reconstruction_error
from recbole_r3vae.sid.quality.usage import code_usage


def report_of(random_case, n=60, sizes=(3, 4, 5), seed=0, **arguments):
    codes, x = random_case(n, 6, sizes, seed)
    return codes, x, quality_report(codes, sizes, {"raw": x, "residual": x - x.mean(0)}, **arguments)


def test_report_holds_what_the_single_functions_say(random_case):
    codes, x, report = report_of(random_case)
    spaces = {"raw": x, "residual": x - x.mean(0)}
    usage = code_usage(codes, (3, 4, 5))
    for number, (row, plain) in enumerate(zip(report["levels"], usage.pop("levels"))):
        assert {key: row[key] for key in plain} == plain and row["level"] == number + 1
        for name, vectors in spaces.items():
            cohesion = semantic_cohesion(codes, vectors)[number]
            separation = preference_discrimination(codes, vectors)[number]
            assert row["spaces"][name] == {
                "sc": cohesion["sc"],
                "sc_stderr": 0.0,
                "sc_sampled_clusters": 0,
                "pd": separation["pd"],
                "pd_stderr": 0.0,
                "pd_sampled_pairs": 0,
            }
            assert row["clusters"] == cohesion["clusters"]
            assert row["clusters_2plus"] == cohesion["clusters_2plus"]
    assert {key: report[key] for key in usage} == usage and report["reconstruction"] is None


def test_report_is_strict_json_even_where_values_are_undefined():
    x = torch.ones(1, 2)
    report = quality_report(torch.tensor([[0, 0]]), (2, 2), {"raw": x}, torch.zeros(1))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    raw = report["levels"][0]["spaces"]["raw"]
    assert raw["sc"] is None and raw["pd"] is None
    assert report["reconstruction"] == {"mse": 0.0, "variance": 0.0, "relative": None}


def test_report_refuses_a_reconstruction_of_nothing_and_names_the_space_at_fault():
    code, x = torch.tensor([[0]]), torch.ones(1, 1)
    with pytest.raises(ValueError, match=r"space 'raw', got only \['residual'\]"):
        quality_report(code, (2,), {"residual": x}, torch.zeros(1))
    with pytest.raises(ValueError, match=r"row 0 of 'residual' is not finite"):
        quality_report(code, (2,), {"raw": x, "residual": x / 0})


def test_format_by_hand():
    codes = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 0]])
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    report = quality_report(codes, (2, 4), {"raw": x, "e0": x}, torch.full((4,), 0.02))
    assert format_quality(json.loads(json.dumps(report))).splitlines() == [
        "level  used codes   usage  perplexity    Gini  clusters>=2  SC raw   PD raw   SC e0    PD e0",
        "    1         2/2  1.0000         2.0  0.0000          2/2  1.0000  -2.0000  1.0000  -2.0000",
        "    2         2/4  0.5000         1.8  0.6250          1/3  1.0000  -0.8591  1.0000  -0.8591",
        "unique SIDs 0.7500, collision rate 0.5000, items per SID 1.3333, largest SID 2, "
        "reconstruction error 0.02 (0.0213 of the variance)",
    ]


def test_format_explains_its_marks(random_case, monkeypatch):
    _, _, report = report_of(random_case, n=1)
    lines = format_quality(report).splitlines()
    assert lines[1].split()[-4:] == ["-"] * 4 and lines[-1].startswith("- undefined")
    monkeypatch.setattr(report_module, "Sampling", functools.partial(clusters.Sampling, 0, 1000))
    _, _, report = report_of(random_case, n=60)
    lines = format_quality(report).splitlines()
    assert lines[1].split()[-1].startswith("~-") and lines[-1].startswith("~ estimated from 1,000 random")
    assert len({len(line) for line in lines[:4]}) == 1, "a fixed-width table"
    monkeypatch.setattr(report_module, "Sampling", functools.partial(clusters.Sampling, 4, 1000, held_numbers=4 * 6))
    _, _, report = report_of(random_case, n=60)
    raw = report["levels"][2]["spaces"]["raw"]
    assert raw["sc_sampled_clusters"] == 4 and raw["sc_stderr"] > 0 and raw["pd_sampled_pairs"] == 6
    lines = format_quality(report).splitlines()
    assert lines[3].split()[-2].startswith("~") and lines[1].split()[-2][0] != "~"
    assert re.fullmatch(r"~ SC estimated from up to 4 random clusters, standard error <= [\d.e-]+", lines[-2])
    assert lines[-1].startswith("~ PD estimated from 6 random pairs")


def test_format_without_spaces_shows_usage_alone():
    text = format_quality(quality_report(torch.tensor([[0], [1]]), (2,), {}))
    assert text.splitlines()[0].split()[-1] == "clusters>=2" and len(text.splitlines()) == 3


@pytest.mark.parametrize("seed", [0, 1])
def test_report_repeats_itself(random_case, seed):
    assert report_of(random_case, seed=seed)[2] == report_of(random_case, seed=seed)[2]


def test_inputs_are_not_written_to(random_case):
    codes, x = random_case(50, 8, (3, 5), 4)
    for given in (x.clone(), x.numpy().copy()):  # float64: a conversion would copy only by chance
        quality_report(codes, (3, 5), {"raw": given}, torch.zeros(50))
        assert torch.equal(torch.as_tensor(given), x)


def test_vectors_are_read_in_blocks_and_once(random_case, monkeypatch):
    class Recording(np.ndarray):
        reads = []

        def __getitem__(self, key):
            self.reads.append((key.start, key.stop))
            return np.asarray(super().__getitem__(key))

    monkeypatch.setattr(clusters, "_BLOCK_NUMBERS", 40)
    codes, x = random_case(25, 4, (3, 4), 0)
    quality_report(codes, (3, 4), {"raw": x.numpy().view(Recording)})
    assert Recording.reads == [(0, 10), (10, 20), (20, 30)]


# -- reconstruction


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_reconstruction_error_against_loops(offset, monkeypatch):
    monkeypatch.setattr(clusters, "_BLOCK_NUMBERS", 35)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(33, 5, generator=generator, dtype=torch.float64) + offset
    y = x + 0.1 * torch.randn(33, 5, generator=generator, dtype=torch.float64)
    mse = sum((a - b) ** 2 for p, q in zip(x.tolist(), y.tolist()) for a, b in zip(p, q)) / 33
    report = reconstruction_error(x, (x - y).square().sum(1))
    assert report["mse"] == pytest.approx(mse, rel=1e-12)
    assert report["variance"] == pytest.approx(x.var(0, correction=0).sum().item(), rel=1e-9)
    assert report["relative"] == report["mse"] / report["variance"]


def test_reconstruction_by_the_mean_explains_nothing_and_a_perfect_one_everything():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert reconstruction_error(x, (x - x.mean(0)).square().sum(1))["relative"] == pytest.approx(1, rel=1e-12)
    assert reconstruction_error(x, torch.zeros(20))["relative"] == 0


def test_reconstruction_of_equal_vectors_has_no_relative_error():
    x = torch.full((7, 3), 0.1)
    report = reconstruction_error(x, torch.full((7,), 3.0))
    assert report["variance"] == 0 and math.isnan(report["relative"]) and report["mse"] == pytest.approx(3)


@pytest.mark.parametrize("x, errors", [((2, 2), (2, 2)), ((2, 2), (3,)), ((2,), (2,)), ((0, 2), (0,))])
def test_errors_that_do_not_fit_are_refused(x, errors):
    with pytest.raises(ValueError, match=r"squared_errors \[n\]"):
        reconstruction_error(torch.ones(x), torch.ones(errors))


def test_by_digit_every_digit_is_judged_as_if_it_were_the_only_one(random_case):
    codes, x, report = report_of(random_case, ordered=False)
    assert report["by"] == "digit" and report_of(random_case)[2]["by"] == "prefix"
    for digit, level in enumerate(report["levels"]):
        alone = quality_report(codes[:, digit, None], (level["codebook_size"],), {"raw": x, "residual": x - x.mean(0)})
        assert level == alone["levels"][0] | {"level": digit + 1}
    by_prefix = report_of(random_case)[2]
    assert all(report[key] == by_prefix[key] for key in ("items", "distinct_sids", "unique_ratio", "largest_sid", "collision_rate"))


def test_format_says_by_what_clusters_are_made(random_case):
    _, _, by_digit = report_of(random_case, ordered=False)
    assert format_quality(by_digit).startswith("digit") and format_quality(report_of(random_case)[2]).startswith("level")
    old = {key: value for key, value in report_of(random_case)[2].items() if key != "by"}
    assert format_quality(old).startswith("level")
