"""What a leaderboard says is what the result files say: figures, doubts, failures; and no name breaks out of it."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel

from recbole_r3vae.cli import main
from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.leaderboard.cells import answer_table
from recbole_r3vae.experiments.leaderboard.figures import numbers_in_short
from recbole_r3vae.experiments.leaderboard.page.charts import Point, scatter
from recbole_r3vae.experiments.leaderboard.report import leaderboard
from recbole_r3vae.experiments.leaderboard.rows import ACCURACY
from recbole_r3vae.experiments.leaderboard.sentences import facts
from recbole_r3vae.experiments.leaderboard.write import write_leaderboards
from recbole_r3vae.experiments.statistics import leads
from recbole_r3vae.experiments.tables import escaped
from recbole_r3vae.record import RULES, unpack, user_metric

N_USERS, SPLIT = 400, "0123456789ab"
HOSTILE = "</script><img src=x onerror=alert(1)>|`*[a](b)"


def packed(values, dtype) -> str:
    return base64.b64encode(zlib.compress(np.asarray(values, dtype).tobytes())).decode()


def ranks_with(recall: float, seed: int) -> np.ndarray:
    """Ranks of N_USERS users, about this share of which are among the ten best."""
    random = np.random.default_rng(seed)
    return np.where(random.random(N_USERS) < recall, random.integers(1, 11, N_USERS), random.integers(0, 2, N_USERS) * 15)


def worse(ranks: np.ndarray) -> np.ndarray:
    """Ranks where items that were met before take the first two places."""
    return np.where((ranks > 0) & (ranks <= 18), ranks + 2, 0)


def figures(ranks) -> dict[str, float]:
    return {metric: round(user_metric(ranks, metric).mean(), 6) for metric in ACCURACY} | {"itemcoverage@10": 0.3, "giniindex@10": 0.8}


def unit(name, seed, ranks, rules=RULES, **more) -> dict:
    """A result file that agrees with its ranks, those with met items left out."""
    model, _, tokenizer = name.partition("[")
    found = {"left_out": ranks, "stay": worse(ranks)}
    record = {
        "schema": 2, "dataset": "toy", "name": name, "model": model, "tokenizer": tokenizer.rstrip("]") or None, "family": "generative",
        "seed": seed, "hash": f"{seed:012x}", "config": {"epochs": 3, "seed": seed}, "data": {}, "content": None, "text_encoder": "tfidf",
        "collision_policy": "suffix", "loss": "CE", "valid_rule": "left_out", "precision": "float32", "n_parameters": 1000,
        "valid": {"ndcg@10": 0.5}, "test": {rule: figures(found[rule]) if rule in rules else None for rule in RULES},
        "users": {"split": SPLIT, "k": 20, **{rule: packed(found[rule], "u1") if rule in rules else None for rule in RULES}},
        "quality": None, "seconds": {"tokenizer": 5.0, "training": 10.0 + seed % 3, "evaluation": 1.0, "per_user_ms": 0.5},
        "peak_memory_mb": {"process": 100.0, "gpu": None}, "epochs": 3, "valid_history": None, "max_minutes": 30,
        "stopped_at_budget": False, "tuning_trials": 0, "versions": {"torch": "2"},
        "commit": "abc1234", "hardware": {"machine": "x86", "threads": 1, "device": "cpu"},
        "error": None,
    }  # fmt: skip
    return {**record, **more}


@pytest.fixture
def runs(tmp_path):
    """Write units, and the split file, into ``results/runs/<dataset>``; returns that folder."""

    def write(*units, dataset="toy", popularity=None, history=None) -> Path:
        folder = tmp_path / "results" / "runs" / dataset
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        popularity = random.integers(0, 9, N_USERS) if popularity is None else popularity
        history = random.integers(3, 30, N_USERS) if history is None else history
        split = {"schema": 1, "dataset": dataset, "split": SPLIT, "users": N_USERS}
        split |= {"popularity": packed(popularity, "<i4"), "history": packed(history, "<i4")}
        (folder / f"split-{SPLIT}.json").write_text(json.dumps(split))
        for number, record in enumerate(units):
            (folder / f"unit{number}.json").write_text(json.dumps(record))
        return folder

    return write


def seeds_of(name, recall, seeds=(1, 2, 3), **more) -> list[dict]:
    return [unit(name, seed, ranks_with(recall, 1000 * len(name) + seed), **more) for seed in seeds]


def by_name(report) -> dict:
    return {row["name"]: row for row in report["rows"]}


def lead_of(report, metric="ndcg@10") -> dict:
    return next(lead for lead in report["leads"] if lead["metric"] == metric)


# -- figures ----------------------------------------------------------------------------------------------------------------


def test_the_answer_stands_first_and_is_that_of_the_records(runs, tmp_path):
    """Under each rule who leads, over whom by how much, the best row of the other kind, and what both cost."""
    codes, ids = {"tokenizer": "RKMeans"}, {"tokenizer": None, "family": "sequential", "n_parameters": 77}
    units = [*seeds_of("A[RKMeans]", 0.6, **codes), *seeds_of("B[RKMeans]", 0.55, **codes), *seeds_of("C", 0.3, seeds=[5], **ids)]
    units += seeds_of("D", 0.1, **ids)
    for record in units:  # under the other rule B leads
        if record["name"].startswith("A"):
            ranks = worse(worse(worse(unpack(record["users"]["left_out"], "uint8"))))
            record["test"]["stay"], record["users"]["stay"] = figures(ranks), packed(ranks, "u1")
    runs(*units)
    write_leaderboards(tmp_path / "results")
    report = json.loads((tmp_path / "results" / "leaderboard_toy.json").read_text())
    for rule, first, second in (("left_out", "A[RKMeans]", "B[RKMeans]"), ("stay", "B[RKMeans]", "C")):
        answer, row = report["answers"][rule], by_name(report)[first]
        own = {name: [record["test"][rule]["ndcg@10"] for record in units if record["name"] == name] for name in by_name(report)}
        means = {name: np.mean(values) for name, values in own.items()}
        assert max(means, key=means.get) == first == answer["best"]["name"] and answer["best"]["test"]["mean"] == pytest.approx(means[first])
        assert sorted(means, key=means.get)[-2] == answer["next"]["name"] and answer["beside"]["name"] == "C"
        assert answer["beside"]["lead"] == pytest.approx(means[first] - means["C"]) and answer["reads_sids"] and answer["others"] == 3
        assert answer["best"]["seconds"] == pytest.approx(row["seconds"]["training"] + 5) and answer["beside"]["n_parameters"] == 77
        users = [
            np.mean([user_metric(unpack(r["users"][rule], "uint8"), "ndcg@10") for r in units if r["name"] == name], axis=0)
            for name in (first, "C")
        ]
        assert answer["beside"]["p_users"] == pytest.approx(ttest_rel(*users).pvalue) and answer["beside"]["p_seeds"] is None
        assert answer["by_users"] == int(answer["beside"]["p_users"] < 0.05)
        assert answer["by_both"] >= 1  # over D
    text, page = ((tmp_path / "results" / name).read_text() for name in ("leaderboard_toy.md", "leaderboard.html"))
    best = report["answers"]["left_out"]["best"]
    assert text.index(f"{best['test']['mean']:.4f} ± {best['test']['std']:.4f} (3 seeds)") < text.index("Test figures of one checkpoint")
    assert "| Best row without semantic IDs |" in text and "77 parameters" in text
    assert page.index("Who leads under which rule") < page.index("Test metrics on toy") < page.index("Accuracy against cost")
    assert page.index("Accuracy against cost") < page.index("Slices of users") < page.index("Who leads, and whether it is more than noise")


def test_answers_where_there_is_little_to_compare(runs):
    [only] = [leaderboard(runs(*seeds_of("A", 0.5, rules=("stay",))))]
    assert set(only["answers"]) == {"stay"} and only["answers"]["stay"]["next"] is only["answers"]["stay"]["beside"] is None
    assert [row[0] for row in answer_table(only)[1]] == ["Leads", "Cost of the leader"]
    assert answer_table({})[1] == answer_table({"answers": {}})[1] == []


def test_the_command_writes_what_a_benchmark_does(runs, tmp_path, capsys):
    runs(*seeds_of("A", 0.5))
    before = {path: path.read_bytes() for path in write_leaderboards(tmp_path / "results")}
    for path in before:
        path.unlink()
    assert main(["leaderboard", "--results", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.split() == [str(path) for path in before]
    assert {path: path.read_bytes() for path in before} == before
    assert main(["leaderboard", "--results", str(tmp_path / "none")]) == 2
    assert "there are no results in" in capsys.readouterr().err


def test_tables_that_scroll_say_so(runs, tmp_path):
    runs(*seeds_of("A", 0.5), *seeds_of("B", 0.3))
    write_leaderboards(tmp_path / "results")
    page = (tmp_path / "results" / "leaderboard.html").read_text()
    assert page.count('class="scroll"') == page.count('<div class="frame"><p class="hint" aria-hidden="true">more columns') > 5
    assert ".more > .hint { display: block; }" in page and "scroll.scrollWidth > scroll.clientWidth" in page


def test_the_split_and_its_cold_targets_are_said(runs):
    by_time = {"epochs": 3, "eval_args": {"split": {"GTS": [0.8, 0.9]}}}
    popularity = np.r_[np.zeros(50, int), np.ones(N_USERS - 50, int)]
    for config, words in (({"epochs": 3}, "each user's last item is the test"), (by_time, "first item after 0.9 of the interactions")):
        report = leaderboard(runs(*seeds_of("A", 0.5, config=config), popularity=popularity))
        assert report["cold"] == 0.125
        told = dict(facts(report))
        assert words in told["Split"] and told["Cold test targets"].startswith("12.5%, items")
    assert dict(facts({key: value for key, value in report.items() if key != "cold"}))["Cold test targets"] == "–"


def test_means_and_deviations_over_seeds(runs):
    units = seeds_of("A", 0.5) + seeds_of("B", 0.2, seeds=[7])
    report = leaderboard(runs(*units))
    rows = by_name(report)
    assert [row["name"] for row in report["rows"]] == ["A", "B"] and rows["A"]["seeds"] == [1, 2, 3]
    for rule in RULES:
        for metric in (*ACCURACY, "itemcoverage@10"):
            values = [record["test"][rule][metric] for record in units[:3]]
            assert rows["A"]["test"][rule][metric]["mean"] == pytest.approx(np.mean(values))
            assert rows["A"]["test"][rule][metric]["std"] == pytest.approx(np.std(values, ddof=1))
        alone = units[3]["test"][rule]["ndcg@10"]
        assert rows["B"]["test"][rule]["ndcg@10"] == {"mean": alone, "std": None, "values": [alone]}
    assert rows["A"]["test"]["left_out"]["mrr@10"]["mean"] > rows["A"]["test"]["stay"]["mrr@10"]["mean"]
    assert rows["A"]["seconds"] == {"tokenizer": 5.0, "training": 11.0, "evaluation": 1.0, "per_user_ms": 0.5}


def test_other_settings_are_another_row_and_say_so(runs):
    units = seeds_of("A", 0.5) + [unit("A", 1, ranks_with(0.3, 9), config={"epochs": 9, "seed": 1})]
    rows = leaderboard(runs(*units))["rows"]
    assert [(row["variant"], row["seeds"]) for row in rows] == [("epochs=3", [1, 2, 3]), ("epochs=9", [1])]


def test_rows_of_one_name_are_called_as_the_grid_calls_them(runs):
    """Where it has a name for each; else the settings say it, as for a run from elsewhere."""
    units = [unit("A", 1, ranks_with(0.5, 9), label=None), unit("B", 1, ranks_with(0.2, 9), label="alone")]
    units += [unit("A", 1, ranks_with(0.3, 9), label="longer", config={"epochs": 9, "seed": 1})]
    assert {(row["name"], row["variant"]) for row in leaderboard(runs(*units))["rows"]} == {("A", ""), ("A", "longer"), ("B", "")}
    units += [unit("A", 1, ranks_with(0.3, 9), label="longer", config={"epochs": 8, "seed": 1})]
    rows = leaderboard(runs(*units))["rows"]
    assert {row["variant"] for row in rows if row["name"] == "A"} == {"epochs=3", "epochs=8", "epochs=9"}


def test_a_seed_counts_once(runs):
    again = unit("A", 1, ranks_with(0.9, 5), hash="again")
    report = leaderboard(runs(*seeds_of("A", 0.5), again))
    assert report["rows"][0]["seeds"] == [1, 2, 3]
    assert any("again is the same unit" in note for note in report["notes"])


# -- leads ------------------------------------------------------------------------------------------------------------------


def test_a_true_difference_is_bold(runs):
    report = leaderboard(runs(*seeds_of("A", 0.6), *seeds_of("BB", 0.2)))
    rows = by_name(report)
    assert set(rows["A"]["bold"]) == set(ACCURACY) and rows["BB"]["bold"] == []  # coverage and Gini, equal here, never are
    lead = lead_of(report)
    means = [
        [user_metric(ranks_with(recall, s), "ndcg@10") for s in (start + 1, start + 2, start + 3)]
        for recall, start in ((0.6, 1000), (0.2, 2000))
    ]
    assert lead["p_users"] == pytest.approx(ttest_rel(np.mean(means[0], 0), np.mean(means[1], 0)).pvalue)
    values = [rows[name]["test"]["left_out"]["ndcg@10"]["values"] for name in ("A", "BB")]
    assert lead["p_seeds"] == pytest.approx(ttest_ind(*values, equal_var=False).pvalue)
    assert lead["lead"] == pytest.approx(np.mean(values[0]) - np.mean(values[1]))


def test_noise_is_not_bold(runs, tmp_path):
    report = leaderboard(runs(*seeds_of("A", 0.4), *seeds_of("CCC", 0.4)))
    assert [row["bold"] for row in report["rows"]] == [[], []] and not any(lead["supported"] for lead in report["leads"])
    write_leaderboards(tmp_path / "results")
    assert (
        "Nothing is bold: no best figure is ahead of all others by both seeds and users."
        in (tmp_path / "results/leaderboard_toy.md").read_text()
    )


def test_users_alone_are_not_enough(runs):
    lucky = [unit("A", seed, ranks_with(recall, seed)) for seed, recall in ((1, 0.95), (2, 0.35), (3, 0.35))]
    report = leaderboard(runs(*lucky, *seeds_of("BB", 0.3)))
    lead = lead_of(report)
    assert lead["p_users"] < 0.05 < lead["p_seeds"] and not lead["supported"] and report["rows"][0]["bold"] == []


def test_seeds_alone_are_not_enough(runs):
    """One more hit in every seed, always the same: no chance of seeds, all chance of users."""
    base = np.zeros(N_USERS, int)
    base[:50] = 1
    better = base.copy()
    better[50] = 1
    report = leaderboard(runs(*(unit("A", s, better) for s in (1, 2, 3)), *(unit("BB", s, base) for s in (1, 2, 3))))
    lead = lead_of(report)
    assert lead["best"]["name"] == "A" and lead["p_seeds"] == 0 and lead["p_users"] > 0.05 and not lead["supported"]


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_with_few_seeds_nothing_is_bold_and_the_page_says_why(runs, tmp_path, seeds):
    report = leaderboard(runs(*seeds_of("A", 0.8), *seeds_of("BB", 0.1, seeds)))
    lead = lead_of(report)
    assert lead["p_seeds"] is None and lead["p_users"] < 1e-6 and report["rows"][0]["bold"] == []
    write_leaderboards(tmp_path / "results")
    for name in ("leaderboard_toy.md", "leaderboard.html"):
        text = (tmp_path / "results" / name).read_text()
        assert "to test a best figure, its row and another need 3 seeds each" in text
        assert f"too few seeds (3 and {len(seeds)}, 3 each are needed)" in text


def test_a_lead_must_survive_the_number_of_comparisons(runs, tmp_path):
    """Over one other row it would count; among five rows, which make ten pairs, it does not."""
    units = [*seeds_of("A", 0.5), *seeds_of("BBBB", 0.4)]
    others = [record for length in (3, 5, 7) for record in seeds_of("C" * length, 0.45)]
    [alone] = leaderboard(runs(*units))["best"]
    report = leaderboard(runs(*units, *others))
    [among] = [lead for lead in report["best"] if lead["next"]["name"] == "BBBB"]
    assert alone["supported"] and alone["p_holm"] == max(alone["p_seeds"], alone["p_users"]) < 0.05
    assert not among["supported"] and among["p_holm"] > 0.05 > max(among["p_seeds"], among["p_users"])
    write_leaderboards(tmp_path / "results")
    assert "within the noise of so many pairs of rows" in (tmp_path / "results/leaderboard_toy.md").read_text()


def test_a_column_whose_rows_differ_in_more_than_the_tokenizer_says_so(runs):
    units = [record for name, epochs in (("G[A]", 3), ("G[BB]", 4)) for record in seeds_of(name, 0.4, config={"epochs": epochs})]
    own = seeds_of("G[CCC]", 0.4, config={"epochs": 3, "tokenizer_epochs": 9})
    assert leaderboard(runs(*units, *own))["notes"] == [
        "The rows of G differ in more than how a tokenizer learns: epochs is 4 in G[BB], 3 elsewhere."
    ]
    for record in units:
        record["config"]["epochs"] = 3
    assert leaderboard(runs(*units, *own))["notes"] == []
    for record in own:
        record |= {"max_minutes": 5, "content": {"fields": ["title"]}, "config": {"epochs": 3, "tokenizer_codebook_sizes": [8, 8, 8, 8]}}
    assert leaderboard(runs(*units, *own))["notes"] == [
        'The rows of G differ in more than how a tokenizer learns: content is {"fields": ["title"]} in G[CCC], null elsewhere; '
        "max_minutes is 5 in G[CCC], 30 elsewhere; tokenizer_codebook_sizes is [8, 8, 8, 8] in G[CCC], null elsewhere."
    ]


def test_bold_is_ahead_of_all_and_not_of_the_next_alone(runs):
    """The next row errs where the best does, so that users tell them apart; a third does not, so that they cannot tell it."""
    base = ranks_with(0.5, 0)
    worse = np.where(np.random.default_rng(5).random(N_USERS) < 0.06, 0, base)

    def nearly(ranks: np.ndarray) -> list[np.ndarray]:
        """Under three seeds almost the same, so that users decide."""
        return [np.where(np.arange(N_USERS) == seed, 0, ranks) for seed in range(3)]

    units = [unit(name, seed, found) for name, ranks in (("A", base), ("BB", worse)) for seed, found in enumerate(nearly(ranks))]
    report = leaderboard(runs(*units))
    assert lead_of(report)["supported"] and "ndcg@10" in by_name(report)["A"]["bold"]
    third = [unit("CCC", seed, found) for seed, found in enumerate(nearly(ranks_with(0.45, 74)))]
    report = leaderboard(runs(*units, *third))
    told = {lead["next"]["name"]: lead["supported"] for lead in report["best"]}
    assert list(told) == ["BB", "CCC"] and told == {"BB": True, "CCC": False} and lead_of(report)["tested"] == 2
    assert "ndcg@10" not in by_name(report)["A"]["bold"]
    few = leaderboard(runs(*units, *third[:1], dataset="few"))  # what has too few seeds is not tested
    assert lead_of(few)["tested"] == 1 and "ndcg@10" in by_name(few)["A"]["bold"]


def test_a_pair_that_cannot_be_tested_does_not_count(runs):
    random = np.random.default_rng(1)
    seeds = {0: [0.5, 0.51, 0.49], 1: [0.3, 0.31, 0.29], 2: [0.4], 3: [0.2, 0.21, 0.2]}
    users = {row: random.random(50) + values[0] for row, values in seeds.items() if row != 3}
    found = leads(seeds, users)
    assert list(found) == [(0, 2), (0, 1), (0, 3), (2, 1), (2, 3), (1, 3)]
    assert found[0, 1]["p_holm"] == max(found[0, 1]["p_seeds"], found[0, 1]["p_users"]), "the only one with seeds and users"
    assert found[0, 2]["p_seeds"] is None and found[0, 2]["p_users"] is not None and found[0, 2]["p_holm"] is None
    assert found[0, 3]["p_users"] is found[0, 3]["low"] is None and not found[0, 3]["supported"]


def test_a_row_of_another_split_takes_no_part(runs):
    other = [dict(record, users={**record["users"], "split": "f" * 12}) for record in seeds_of("ELSEWHERE", 0.9)]
    report = leaderboard(runs(*seeds_of("A", 0.6), *seeds_of("BB", 0.3), *other, *seeds_of("CCC", 0.2)))
    assert report["rows"][0]["name"] == "ELSEWHERE" and report["rows"][0]["bold"] == []
    assert lead_of(report)["best"]["name"] == "A" and lead_of(report)["supported"]
    assert any("Not all rows share a split" in note for note in report["notes"])


def test_rows_are_ordered_and_tested_with_met_items_left_out(runs, tmp_path):
    """B is the better one where met items stay, by ranks of its own."""
    better = seeds_of("A", 0.6)
    other = seeds_of("BB", 0.2)
    for record, seed in zip(other, (1, 2, 3)):
        ranks = ranks_with(0.95, seed)
        record["test"]["stay"], record["users"]["stay"] = figures(ranks), packed(ranks, "u1")
    report = leaderboard(runs(*better, *other))
    first, second = report["rows"]
    assert (first["name"], report["rule"], report["notes"]) == ("A", "left_out", [])
    assert second["test"]["stay"]["ndcg@10"]["mean"] > first["test"]["stay"]["ndcg@10"]["mean"]
    assert lead_of(report)["best"]["name"] == "A" and set(first["bold"]) == set(ACCURACY) and second["bold"] == []
    write_leaderboards(tmp_path / "results")
    text = (tmp_path / "results/leaderboard_toy.md").read_text()
    assert (
        "| Model | Recall@10, met items left out | NDCG@10, met items left out | Recall@10, met items stay | NDCG@10, met items stay "
        "| Seeds |" in text
    )
    row = next(line for line in text.splitlines() if line.startswith("| A |")).split("|")
    assert row[2].strip().startswith("**") and row[3].strip().startswith("**") and "**" not in row[4] + row[5]
    page = parsed(tmp_path)
    assert ["", "met items left out", "met items stay", ""] in page.rows
    shown = next(cells for cells in page.rows if cells[0] == "A")
    expected = [found[metric] for found in (first["test"][rule] for rule in RULES) for metric in ("recall@10", "ndcg@10")]
    assert shown[1:5] == [f"{found['mean']:.4f}± {found['std']:.4f}" for found in expected]
    assert "Order, bold figures, tests and slices are by the figures with met items left out." in text


def test_a_row_without_the_rule_stands_by_the_other_and_is_not_tested(runs, tmp_path):
    quality = {"sc_raw": 0.1, "pd_raw": 0.2, "collision_rate": 0.3, "unique_ratio": 0.9}
    units = [
        record
        for name, recall in {"R3GR[A]": 0.6, "R3GR[BB]": 0.3, "R3GR[CCC]": 0.2}.items()
        for record in seeds_of(name, recall, quality=quality)
    ]
    other = seeds_of("R3GR[DDDD]", 0.98, rules=("stay",), quality=quality)
    for record in other:
        ranks = ranks_with(0.98, record["seed"])
        record["test"]["stay"], record["users"]["stay"] = figures(ranks), packed(ranks, "u1")
    report = leaderboard(runs(*units, *other))
    assert report["rule"] == "left_out" and report["rows"][0]["name"] == "R3GR[DDDD]" and report["rows"][0]["bold"] == []
    assert report["rows"][0]["rule"] == "stay" and report["rows"][0]["slices"] == [{}] * len(report["slices"])
    assert lead_of(report)["best"]["name"] == "R3GR[A]" and len(report["best"]) == 2
    assert {cell["tokenizer"] for cell in report["grid"]} == {point["tokenizer"] for point in report["relations"][0]["points"]} == {
        "A", "BB", "CCC",
    }  # fmt: skip
    [note] = report["notes"]
    assert note == (
        "R3GR[DDDD] was not tested with met items left out. It stands where the figures with met items stay put it, and no test compares "
        "it with the others."
    )
    write_leaderboards(tmp_path / "results")
    row = next(line for line in (tmp_path / "results/leaderboard_toy.md").read_text().splitlines() if line.startswith("| R3GR[DDDD] |"))
    assert row.startswith("| R3GR[DDDD] | – | – | 0.9")


def test_where_no_row_has_the_rule_the_other_orders_and_tests(runs, tmp_path):
    report = leaderboard(runs(*seeds_of("A", 0.6, rules=("stay",)), *seeds_of("BB", 0.2, rules=("stay",))))
    assert report["rule"] == "stay" and lead_of(report)["supported"] and [row["name"] for row in report["rows"]] == ["A", "BB"]
    assert report["notes"] == [
        "No row was tested with met items left out. Order and tests are by the figures with met items among the candidates."
    ]
    write_leaderboards(tmp_path / "results")
    page = parsed(tmp_path)
    assert [at["aria-sort"] for tag, at in page.tags if "aria-sort" in at] == ["descending"] * 2  # the main table and that of all metrics
    text = (tmp_path / "results/leaderboard_toy.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| A |")).split("|")
    assert [cell.strip() for cell in row[2:4]] == ["–", "–"] and "**" in row[4] and "**" in row[5]
    assert "\nMet items stay:" in text and "\nMet items left out:" not in text


def test_targets_that_were_met_before_are_told(runs, tmp_path):
    runs(*seeds_of("A", 0.6, repeated_targets=7), *seeds_of("BB", 0.2, repeated_targets=7))
    write_leaderboards(tmp_path / "results")
    text = (tmp_path / "results/leaderboard_toy.md").read_text()
    assert "7 test targets are items that their users had met before. With met items left out they stay, and their users' other met items" in text
    assert "* Test targets met before: 7\n" in text


# -- precision ---------------------------------------------------------------------------------------------------------------


def test_two_precisions_share_no_table(runs, tmp_path):
    rarer = seeds_of("BB", 0.9, precision="bfloat16")
    report = leaderboard(runs(*seeds_of("A", 0.6), *seeds_of("CCC", 0.3), *rarer))
    assert [row["name"] for row in report["rows"]] == ["A", "CCC"] and {row["precision"] for row in report["rows"]} == {"float32"}
    [apart] = report["apart"]
    assert apart["precision"] == "bfloat16" and [row["name"] for row in apart["rows"]] == ["BB"] and apart["rows"][0]["bold"] == []
    assert lead_of(report)["best"]["name"] == "A" and len(report["best"]) == 1
    written = write_leaderboards(tmp_path / "results")
    why = (
        "These rows were trained in bfloat16, those above in float32. Precision changes results. So the two share no table, and no test "
        "compares them."
    )
    for name in ("leaderboard_toy.md", "leaderboard.html"):
        text = (tmp_path / "results" / name).read_text()
        assert text.count("Rows in bfloat16") == 1 and text.count(why) == 1
    lines = (tmp_path / "results/leaderboard_toy.md").read_text().splitlines()
    tables = "\n".join(line if line.startswith("|") else "" for line in lines).split("\n\n")
    together = [table for table in tables if "| A |" in table and "| BB |" in table]
    assert together == [] and sum("| BB |" in table for table in tables) == 1
    names = {path.name: {row["name"] for row in csv.DictReader(path.open(encoding="utf-8"))} for path in written if path.suffix == ".csv"}
    assert names == {"leaderboard_toy.csv": {"A", "CCC"}, "leaderboard_toy_bfloat16.csv": {"BB"}}


def test_a_model_in_two_precisions_is_two_rows(runs):
    units = [*seeds_of("A", 0.6), *seeds_of("A", 0.5, precision="bfloat16"), *seeds_of("BB", 0.5, precision="bfloat16")]
    report = leaderboard(runs(*units))
    assert [row["name"] for row in report["rows"]] == ["A", "BB"] and report["rows"][0]["precision"] == "bfloat16"
    assert [(part["precision"], len(part["rows"])) for part in report["apart"]] == [("float32", 1)]
    assert not any(row["variant"] for row in (*report["rows"], *report["apart"][0]["rows"])), "the table tells the precision"


def test_where_two_precisions_are_equally_frequent_float32_stands_first(runs):
    report = leaderboard(runs(*seeds_of("A", 0.2), *seeds_of("BB", 0.9, precision="bfloat16")))
    assert [row["name"] for row in report["rows"]] == ["A"]


def test_models_that_count_stand_with_what_most_models_trained_in(runs, tmp_path):
    counted = [*seeds_of("CCC", 0.8, [1], loss="none"), *seeds_of("EEEEE", 0.1, [1], loss="none")]
    trained = [*seeds_of("BB", 0.9, precision="bfloat16"), *seeds_of("DDDD", 0.3, precision="bfloat16"), *seeds_of("A", 0.6)]
    report = leaderboard(runs(*counted, *trained))
    assert [row["name"] for row in report["rows"]] == ["BB", "CCC", "DDDD", "EEEEE"] and lead_of(report)["best"]["name"] == "BB"
    assert [(part["precision"], part["usual"], [row["name"] for row in part["rows"]]) for part in report["apart"]] == [("float32", "bfloat16", ["A"])]
    write_leaderboards(tmp_path / "results")
    text = (tmp_path / "results" / "leaderboard_toy.md").read_text()
    assert "* Precision: bfloat16\n" in text and "trained in float32, those above in bfloat16" in text
    report = leaderboard(runs(*counted, dataset="none"))
    assert [row["name"] for row in report["rows"]] == ["CCC", "EEEEE"] and report["apart"] == []


def test_the_best_row_against_every_other(runs, tmp_path):
    units = [*seeds_of("A", 0.6), *seeds_of("CCC", 0.58), *seeds_of("BB", 0.2), *seeds_of("DDDD", 0.1, [1])]
    units += [dict(record, users={**record["users"], "split": "f" * 12}) for record in seeds_of("ELSEWHERE", 0.05)]
    report = leaderboard(runs(*units))
    names = [row["name"] for row in report["rows"]]
    best, *others = names[:-1]
    assert names[-1] == "ELSEWHERE" and [lead["next"]["name"] for lead in report["best"]] == others
    assert {lead["next"]["name"]: lead["supported"] for lead in report["best"]} == {**dict.fromkeys(others, False), "BB": True}
    assert {**report["best"][0], "tested": 2} == lead_of(report) and all(lead["best"]["name"] == best for lead in report["best"])
    users = [
        np.mean([user_metric(unpack(u["users"]["left_out"], "uint8"), "ndcg@10") for u in units if u["name"] == name], axis=0)
        for name in (best, "BB")
    ]
    found = next(lead for lead in report["best"] if lead["next"]["name"] == "BB")
    assert found["p_users"] == pytest.approx(ttest_rel(*users).pvalue)
    write_leaderboards(tmp_path / "results")
    lead = f"{found['lead']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"
    assert f"| NDCG@10 | {best} | BB | {lead} |" in (tmp_path / "results" / "leaderboard_toy.md").read_text()
    assert ["NDCG@10", best, "BB", lead] in [row[:4] for row in parsed(tmp_path).rows]


# -- tokenizers and generators ------------------------------------------------------------------------------------------------


def test_the_grid_has_tokenizers_down_and_generators_across(runs, tmp_path):
    units = [*seeds_of("G[Best]", 0.6), *seeds_of("G[Near]", 0.59), *seeds_of("G[Far]", 0.2), *seeds_of("G[Once]", 0.1, [1])]
    units += [*seeds_of("Other[Far]", 0.5), *seeds_of("G-hybrid[Far]", 0.9, model="G"), *seeds_of("SASRec", 0.95)]
    units += seeds_of("G[Far]", 0.8, [1], config={"epochs": 99})  # fewer seeds than the configuration above: not shown
    folder = runs(*units)
    report = leaderboard(folder)
    rows = {row["name"]: row for row in report["rows"] if row["variant"] != "epochs=99"}
    cells = {cell["name"]: cell for cell in report["grid"]}
    assert set(cells) == set(rows) - {"SASRec"} and len(report["grid"]) == len(cells)
    for name, cell in cells.items():
        for rule in RULES:
            for metric in ("ndcg@10", "recall@10"):
                assert cell["test"][rule][metric] == rows[name]["test"][rule][metric]
    assert cells["G[Best]"]["behind"] == {} == cells["Other[Far]"]["behind"]  # alone, it is its column's best
    for name, behind in (("G[Near]", False), ("G[Far]", True), ("G[Once]", False)):
        for metric, found in cells[name]["behind"].items():
            assert found["lead"] == pytest.approx(
                rows["G[Best]"]["test"]["left_out"][metric]["mean"] - rows[name]["test"]["left_out"][metric]["mean"]
            )
            assert found["supported"] == behind, name
        users = [np.mean([user_metric(unpack(u["users"]["left_out"], "uint8"), "ndcg@10") for u in units if u["name"] == other
                          and u["config"]["epochs"] == 3], axis=0) for other in ("G[Best]", name)]  # fmt: skip
        assert cells[name]["behind"]["ndcg@10"]["p_users"] == pytest.approx(ttest_rel(*users).pvalue)
    assert cells["G[Once]"]["behind"]["ndcg@10"]["p_seeds"] is None

    write_leaderboards(tmp_path / "results")
    text = (tmp_path / "results" / "leaderboard_toy.md").read_text()
    table = text[text.index("## Tokenizers and generators") : text.index("## All metrics")].splitlines()[4:-1]
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in table if "---" not in line]
    rules = ("met items left out", "met items stay")
    assert shown[0] == [
        "Tokenizer",
        *(f"{g} {m}, {r}" for g in ("G", "G-hybrid", "Other") for r in rules for m in ("Recall@10", "NDCG@10")),
    ]
    assert [row[0] for row in shown[1:]] == ["Far", "Best", "Near", "Once"]  # by the best NDCG@10 of any generator
    assert shown[2][5:] == ["–"] * 8 and shown[1][2].endswith(" †") and not any("†" in cell for row in shown[2:] for cell in row)
    assert not any("†" in cell for row in shown for cell in row[3:5]), "the other rule is not tested"
    assert shown[4][1:5] == [
        f"{rows['G[Once]']['test'][rule][metric]['mean']:.4f}" for rule in RULES for metric in ("recall@10", "ndcg@10")
    ]
    page = parsed(tmp_path).rows
    assert all(row in page for row in shown)


def test_one_tokenizer_is_no_grid(runs, tmp_path):
    runs(*seeds_of("G[Best]", 0.6), *seeds_of("Other[Best]", 0.5), *seeds_of("SASRec", 0.4))
    write_leaderboards(tmp_path / "results")
    for name in ("leaderboard_toy.md", "leaderboard.html"):
        assert "Tokenizers and generators" not in (tmp_path / "results" / name).read_text().replace("Tokenizers and generators beside", "")


# -- slices -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_slices_against_brute_force(runs, seed):
    random = np.random.default_rng(seed)
    popularity, history = random.poisson(3, N_USERS), random.integers(3, 40, N_USERS)
    units = seeds_of("A", 0.5) + seeds_of("BB", 0.3, [4])
    report = leaderboard(runs(*units, popularity=popularity, history=history))
    for row in report["rows"]:
        mine = [unpack(record["users"]["left_out"], "uint8") for record in units if record["name"] == row["name"]]
        for part, figures in zip(report["slices"], row["slices"], strict=True):
            low, _, high = part["says"].partition("–")
            values = popularity if part["group"] == "popularity" else history
            who = [u for u in range(N_USERS) if int(low) <= values[u] <= int(high or low)]
            assert part["users"] == len(who)
            hits = [np.mean([0 < ranks[u] <= 10 for u in who]) for ranks in mine]
            assert figures["recall@10"] == pytest.approx(np.mean(hits))
            gains = [np.mean([1 / np.log2(int(ranks[u]) + 1) if 0 < ranks[u] <= 10 else 0 for u in who]) for ranks in mine]
            assert figures["ndcg@10"] == pytest.approx(np.mean(gains))


def test_without_a_split_file_there_are_no_slices(runs):
    folder = runs(*seeds_of("A", 0.6), *seeds_of("BB", 0.2))
    (folder / f"split-{SPLIT}.json").unlink()
    report = leaderboard(folder)
    assert report["slices"] == [] and report["users"] is None and any(note.startswith("No slices") for note in report["notes"])
    assert lead_of(report)["supported"]  # which needs the same users, not who they are


# -- relations --------------------------------------------------------------------------------------------------------------


def test_a_tokenizer_is_one_point_of_its_generator(runs):
    def quality(x):
        return {"sc_raw": x, "pd_raw": -x, "collision_rate": 0.1, "unique_ratio": 0.9}

    recalls = {"T1": 0.2, "T22": 0.35, "T333": 0.5, "T4444": 0.65, "T55555": 0.8}
    units = [r for i, (t, recall) in enumerate(recalls.items()) for r in seeds_of(f"G[{t}]", recall, quality=quality(0.1 * i))]
    fewer = seeds_of("G[T1]", 0.9, [1], quality=quality(0.9), config={"epochs": 99})
    [relation] = leaderboard(runs(*units, *fewer, *seeds_of("SASRec", 0.4)))["relations"]
    assert relation["generator"] == "G" and [point["tokenizer"] for point in relation["points"]] == list(recalls)
    assert all(len(point["seeds"]) == 3 for point in relation["points"])
    assert relation["spearman"]["sc_raw"]["rho"] == pytest.approx(1) and relation["spearman"]["pd_raw"]["rho"] == pytest.approx(-1)
    assert relation["spearman"]["collision_rate"]["rho"] is None  # it does not vary


# -- files that cannot be used ----------------------------------------------------------------------------------------------


def test_failed_and_damaged_units_are_shown_and_stop_nothing(runs, tmp_path):
    failed = {
        key: unit("G[Bad]", 5, ranks_with(0.5, 1))[key]
        for key in ("schema", "dataset", "name", "model", "family", "seed", "hash", "config", "data")
    }
    lying = unit("Liar", 1, ranks_with(0.5, 1))
    lying["test"]["left_out"]["recall@10"] += 0.01
    short = unit("Short", 1, ranks_with(0.5, 1)[:-1])
    folder = runs(*seeds_of("A", 0.6), {**failed, "error": "out of memory"}, lying, short, {**lying, "schema": 3}, {"name": "from before"})
    (folder / "torn.json").write_text('{"schema": 2, "na')
    (folder / "list.json").write_text("[]")
    report = leaderboard(folder)
    assert [row["name"] for row in report["rows"]] == ["A"]
    errors = {unit["name"]: unit["error"] for unit in report["failed"]}
    assert len(report["failed"]) == 5 and errors["G[Bad]"] == "out of memory" and "unreadable" in errors["torn"]
    assert "it records" in next(unit["error"] for unit in report["failed"] if "ranks give" in unit["error"])
    assert "399 users" in errors["Short"] and any("schema 3" in unit["error"] for unit in report["failed"])
    write_leaderboards(tmp_path / "results")
    text = (tmp_path / "results" / "leaderboard_toy.md").read_text()
    assert "| G[Bad] | 5 | out of memory |" in text
    page = parsed(tmp_path)
    assert ["G[Bad]", "failed: out of memory"] in page.rows and ["G[Bad]", "5", "out of memory"] in page.rows
    with open(tmp_path / "results" / "leaderboard_toy.csv", encoding="utf-8") as file:
        flat = list(csv.DictReader(file))
    assert [row["error"] for row in flat if row["name"] == "G[Bad]"] == ["out of memory"]


def test_missing_fields_leave_a_dash(runs, tmp_path):
    keys = ("schema", "dataset", "name", "model", "family", "seed", "hash", "config", "data")
    bare = {key: unit("Bare", 1, ranks_with(0.5, 1))[key] for key in keys} | {"test": {"left_out": {"ndcg@10": 0.2}, "stay": None}}
    report = leaderboard(runs(bare, *seeds_of("A", 0.6)))
    assert by_name(report)["Bare"]["test"]["left_out"].keys() == {"ndcg@10"} and by_name(report)["Bare"]["test"]["stay"] == {}
    write_leaderboards(tmp_path / "results")
    lines = [line for line in (tmp_path / "results/leaderboard_toy.md").read_text().splitlines() if line.startswith("| Bare |")]
    assert lines[:3] == [
        "| Bare | – | 0.2000 | – | – | 1 |", f"| Bare | – | 0.2000 |{' – |' * 7}", f"| Bare |{' – |' * 9}",
    ]  # fmt: skip
    assert ["Bare", "–", "0.2000", "–", "–", "1"] in parsed(tmp_path).rows


def test_a_metric_that_one_seed_lacks_has_no_mean(runs):
    units = seeds_of("A", 0.6)
    del units[1]["test"]["left_out"]["mrr@10"]
    test = leaderboard(runs(*units))["rows"][0]["test"]
    assert "mrr@10" not in test["left_out"] and "mrr@10" in test["stay"]


@pytest.mark.parametrize("change", [
    {"test": "high"}, {"config": []}, {"users": {"split": SPLIT, "k": None, "left_out": "", "stay": ""}}, {"seed": "1"}, {"precision": 7},
    {"test": {"left_out": None, "stay": None}, "users": None}, {"users": {"split": SPLIT, "k": 20, "left_out": "7", "stay": "7"}},
    {"more": 1}, {"test": {"left_out": {"ndcg@10": 0.2}, "stay": None}},
])  # fmt: skip
def test_a_damaged_record_is_a_failed_unit_and_stops_nothing(runs, change):
    report = leaderboard(runs(*seeds_of("A", 0.6), {**unit("BB", 1, ranks_with(0.3, 1)), **change}))
    [failed] = report["failed"]
    assert failed["name"] == "BB" and failed["error"]
    assert [row["name"] for row in report["rows"]] == ["A"]


def test_a_result_file_of_an_earlier_version_says_how_it_is_migrated(runs):
    report = leaderboard(runs(*seeds_of("A", 0.6), {**unit("BB", 1, ranks_with(0.3, 1)), "schema": 1}))
    assert "benchmarks/migrate_results.py" in report["failed"][0]["error"]


def test_no_results_is_an_error(tmp_path):
    with pytest.raises(UserError, match="run recbole-r3vae benchmark"):
        write_leaderboards(tmp_path)


# -- what is written ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Texts of table rows, tags and their attributes, as a browser would see them."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.script, self._inside, self._quiet = [], [], "", [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "script" in self._inside:
            self.script += data
        elif "td" in self._inside or "th" in self._inside:
            self.rows[-1][-1] += data


def parsed(tmp_path) -> Page:
    return Page((tmp_path / "results" / "leaderboard.html").read_text())


@pytest.fixture
def hostile(runs, tmp_path):
    units = seeds_of(HOSTILE, 0.6, family=HOSTILE, loss=HOSTILE, text_encoder=HOSTILE, commit=HOSTILE, tokenizer=HOSTILE, model=HOSTILE)
    more = seeds_of(HOSTILE, 0.3, [1], config={HOSTILE: HOSTILE})
    for record in units:
        record["hardware"]["machine"] = HOSTILE
    runs(*units, *more, *seeds_of("A", 0.2), {**units[0], "seed": 9, "error": f"{HOSTILE}\n# {HOSTILE}"}, dataset="<b>&'\"")
    return write_leaderboards(tmp_path / "results")


def test_hostile_names_stay_text_on_the_page(hostile, tmp_path):
    page = parsed(tmp_path)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"img", "b", "iframe", "object", "link"} and sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(
        name.startswith("on") or name in ("src", "href") and not value.startswith("#") for _, at in page.tags for name, value in at.items()
    )
    assert HOSTILE not in page.script and any(row and row[0].startswith(HOSTILE) for row in page.rows)
    assert {at["data-family"] for _, at in page.tags if "data-family" in at} == {"generative", "other"}


def test_hostile_names_stay_text_in_markdown(hostile):
    text = next(path for path in hostile if path.suffix == ".md").read_text()
    outside_code = re.sub(r"`[^`\n]*`", "", text.replace("\\`", ""))
    assert "<" not in outside_code.replace("| < ", "") and "](b)" not in text and "\n# <" not in text
    table = [line for line in text.splitlines() if line.startswith("| ") or line.startswith("|-")]
    main = table[: next(i for i, line in enumerate(table) if i and line.startswith("| Model"))]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in main}) == 1


def test_escaped_text():
    assert escaped("a\n b|c") == r"a b\|c" and escaped("<i>&lt;") == "&lt;i>&amp;lt;" and escaped("R3GR[R3VAE]") == "R3GR[R3VAE]"
    assert escaped("_a_ sc_raw __b__ ~~c~~") == r"\_a\_ sc_raw \_\_b\_\_ \~\~c\~\~"


def test_the_page_loads_nothing_and_runs_only_its_own_script(runs, tmp_path):
    runs(*seeds_of("A", 0.6), *seeds_of("BB", 0.2))
    write_leaderboards(tmp_path / "results")
    text, page = (tmp_path / "results" / "leaderboard.html").read_text(), parsed(tmp_path)
    assert not re.search(r"https?:|url\(|@import|src=", text)
    policy = next(at["content"] for tag, at in page.tags if at.get("http-equiv") == "Content-Security-Policy")
    fingerprint = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{fingerprint}'" in policy
    sorted_by = [at for tag, at in page.tags if "aria-sort" in at]
    assert [at["aria-sort"] for at in sorted_by] == ["descending"] * 3  # the main table, and all metrics under each rule
    assert all(at.get("scope") in ("col", "row", "colgroup") for tag, at in page.tags if tag == "th")
    assert sum(tag == "strong" for tag, _ in page.tags) == 2 + len(ACCURACY)  # two of them in the main table too


def test_every_slice_has_its_column_of_the_csv(runs, tmp_path):
    report = leaderboard(runs(*seeds_of("A", 0.6)))
    write_leaderboards(tmp_path / "results")
    with open(tmp_path / "results" / "leaderboard_toy.csv", encoding="utf-8") as file:
        [flat] = csv.DictReader(file)
    for part, figures in zip(report["slices"], report["rows"][0]["slices"], strict=True):
        for metric, value in figures.items():
            assert float(flat[f"{metric}_{part['group']}_{part['name']}"]) == value
    assert sum(part["name"] == "medium" for part in report["slices"]) == 2


def test_markdown_json_and_csv_say_the_same(runs, tmp_path):
    runs(*seeds_of("A", 0.6), *seeds_of("BB", 0.2, [1, 2], stopped_at_budget=True))
    write_leaderboards(tmp_path / "results")
    results = tmp_path / "results"
    report, text = json.loads((results / "leaderboard_toy.json").read_text()), (results / "leaderboard_toy.md").read_text()
    with open(results / "leaderboard_toy.csv", encoding="utf-8") as file:
        flat = {row["name"]: row for row in csv.DictReader(file)}
    for row in report["rows"]:
        for rule in RULES:
            found, cells = row["test"][rule]["ndcg@10"], flat[row["name"]]
            assert float(cells[f"{rule}_ndcg@10"]) == found["mean"] and float(cells[f"{rule}_ndcg@10_std"]) == found["std"]
            assert f"{found['mean']:.4f}" in text and f" ± {found['std']:.4f}" in text
    assert flat["A"]["seeds"] == "1 2 3" and flat["BB"]["stopped_at_budget"] == "2"
    for stated in ("Seeds: 1–3; 2 to 3 a row", "Budget: 30 min a unit; 2 of 5 units stopped at it", "Hardware: x86, 1 thread(s), cpu",
                   "Commit: abc1234", "Epochs selected with: met items left out", "Precision: float32", "30 min (2 of 2 stopped)",
                   "`recbole-r3vae benchmark --config=properties/benchmark/toy.yaml`"):  # fmt: skip
        assert stated in text
    ranked = [line for line in text[: text.index("* Test users")].splitlines() if line.startswith(("| A ", "| BB "))]
    assert ranked[0].endswith("| 3 |") and ranked[1].endswith("| 2 (2 stopped) |"), "who was stopped says so where it is ranked"


def test_the_commands_that_made_the_runs_are_printed(runs, tmp_path):
    runs(*seeds_of("A", 0.6, command="recbole-r3vae benchmark --config=<a>.yaml"), *seeds_of("BB", 0.2, command="again"))
    write_leaderboards(tmp_path / "results")
    text = (tmp_path / "results" / "leaderboard_toy.md").read_text()
    assert "* Command: `again`\n* Command: `recbole-r3vae benchmark --config=<a>.yaml`" in text and "toy.yaml" not in text
    assert "again\nrecbole-r3vae benchmark --config=&lt;a&gt;.yaml" in (tmp_path / "results" / "leaderboard.html").read_text()


def test_a_hostile_command_stays_code(runs, tmp_path):
    runs(*seeds_of("A", 0.6, command="x`\n\n<img src=x onerror=alert(1)>`` y"))
    write_leaderboards(tmp_path / "results")
    assert "\n* Command: ``` x` <img src=x onerror=alert(1)>`` y ```\n" in (tmp_path / "results" / "leaderboard_toy.md").read_text()


def test_writing_again_changes_nothing(runs, tmp_path):
    runs(*seeds_of("A", 0.6), *seeds_of("BB", 0.2))
    first = {path: path.read_bytes() for path in write_leaderboards(tmp_path / "results")}
    assert {path.name for path in first} == {"leaderboard_toy.md", "leaderboard_toy.csv", "leaderboard_toy.json", "leaderboard.html"}
    assert {path: path.read_bytes() for path in write_leaderboards(tmp_path / "results")} == first


def test_what_differs_between_rows_is_told_per_row(runs, tmp_path):
    runs(*seeds_of("A", 0.6), *seeds_of("BB", 0.2, valid_rule="stay", commit="fff0000"))
    write_leaderboards(tmp_path / "results")
    text = (tmp_path / "results" / "leaderboard_toy.md").read_text()
    assert "Commit: abc1234 (1 row); fff0000 (1 row)" in text and "| Epochs selected with | Commit |" in text
    assert re.search(r"\| BB \|.*\| met items stay \| fff0000 \|", text) and re.search(
        r"\| A \|.*\| met items left out \| abc1234 \|", text
    )


# -- small parts --------------------------------------------------------------------------------------------------------------


def test_lists_of_numbers():
    assert [numbers_in_short(v) for v in ([1, 2, 3], [30, 30], [27, 30, 30], [5], [None])] == ["1–3", "30", "27, 30, 30", "5", "–"]


def test_a_chart_holds_every_point_inside_its_frame():
    random = np.random.default_rng(0)
    points = [Point(f"<{i}>", "general", 10 ** random.uniform(-1, 4), random.random(), 0.01) for i in range(30)]
    for log_x in (False, True):
        chart = scatter(points, "x & y", "z", 700, 300, log_x)
        assert chart.count("<title>") == 30 and "<0>" not in chart and "x &amp; y" in chart
        numbers = [tuple(map(float, found)) for found in re.findall(r'<path d="M([\d.-]+) ([\d.-]+)L', chart)]
        assert len(numbers) == 30 and all(0 < x < 700 and 0 < y < 300 for x, y in numbers)
    assert scatter([Point("one", "", 1.0, 0.0)], "x", "y", 300, 200, log_x=True).count("<title>") == 1
