"""Figures that stand in README and guides are those of the result files: no number is typed by hand and then forgotten."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from recbole_r3vae.benchmark.leaderboard_text import grid_table

ROOT = Path(__file__).parents[1]


def rows(page: str, after: str, until: str | None) -> list[list[str]]:
    """The cells of the table rows between two texts of a page, or to its end, its head left out."""
    text = (ROOT / page).read_text(encoding="utf-8")
    end = text.index(until, text.index(after)) if until else None
    lines = [line for line in text[text.index(after) : end].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def shown(values: list[float]) -> str:
    """``.0291 ± .0004``, or ``.0328`` of a single value."""
    told = f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")
    return told.replace("0.", ".")


def test_the_head_of_lastfms_leaderboard():
    board = json.loads((ROOT / "results" / "leaderboard_lastfm.json").read_text(encoding="utf-8"))
    known = {row["name"]: row for row in board["rows"]}
    found = rows("README.md", "On **lastfm**", "[docs/results.md]")
    assert len(found) > 5
    for name, recall, ndcg in found:
        row = known[name.partition(",")[0]]
        test, epochs = row["test"], re.search(r"(\d+) epochs", name)
        assert (recall, ndcg) == (shown(test["recall@10"]["values"]), shown(test["ndcg@10"]["values"])), name
        seeds = re.search(r"(\d) seeds", name)
        assert len(test["ndcg@10"]["values"]) == (int(seeds[1]) if seeds else 1), name
        assert ("stopped at its budget" in name) == (row["stopped_at_budget"] > 0), name
        assert not epochs or row["epochs"] == [int(epochs[1])], name
    tiger = known["TIGER[R3VAE]"]
    said = f"with {tiger['epochs'][0]} epochs and one seed, `TIGER[R3VAE]` has test NDCG@10 {shown(tiger['test']['ndcg@10']['values'])} "
    assert said in (ROOT / "README.md").read_text(encoding="utf-8")
    told = {lead["next"]["name"] for lead in board["best"] if lead["supported"]}
    behind = {cell["name"] for cell in board["grid"] for found in cell["behind"].values() if found["supported"]}
    head = " ".join((ROOT / "README.md").read_text(encoding="utf-8").partition("![")[0].split())
    assert board["best"][0]["best"]["name"] == "LightGCN" and "they tell the first of them from popularity alone" in head
    assert told == {"Pop"} and behind == set() and "and no tokenizer from the best" in head
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    [ours] = [lead for lead in board["best"] if lead["next"]["name"] == "R3GR[R3VAE]"]
    interval = f"over R3GR[R3VAE] reaches from {ours['low']:.4f} to {ours['high']:.4f},".replace("0.", ".").replace("-", "−")
    assert f"{interval} and R3GR's NDCG@10 is {shown([known['R3GR[R3VAE]']['test']['ndcg@10']['mean']])}." in page
    single = {cell["name"] for cell in board["grid"] for found in cell["behind"].values() if max(found["p_seeds"] or 1, found["p_users"]) < 0.05}
    assert single == {"R3GR[Random]"} and "by single tests, random codes only" in page


def test_the_leaderboard_of_beauty():
    board = json.loads((ROOT / "results" / "leaderboard_amazon-beauty.json").read_text(encoding="utf-8"))
    known = {row["name"]: row for row in board["rows"]}
    for page, after in (("README.md", "On **Amazon Beauty**"), ("docs/results.md", "## Recommendation: `amazon-beauty`")):
        found = [cells for cells in rows(page, after, "with 50-item") if "a run of its own" not in cells[0]]
        assert {name.partition(",")[0] for name, *_ in found} == set(known)
        for name, *cells in found:
            row = known[name.partition(",")[0]]
            metrics = ("recall@10", "ndcg@10") if len(cells) == 3 else ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
            assert cells[-len(metrics) :] == [shown(row["test"][metric]["values"]) for metric in metrics], name
            assert len(metrics) == 2 or cells[2] == shown(row["valid"]["ndcg@10"]["values"]), name
            trained = cells[len(cells) // 4]
            assert trained == "counted" or int(trained.split()[0]) == row["epochs"][0], name
            assert ("stopped" in trained) == (row["stopped_at_budget"] > 0), name
            assert (", 3 seeds" in name) == (len(row["seeds"]) == 3), name


def test_the_words_on_beauty():
    board = json.loads((ROOT / "results" / "leaderboard_amazon-beauty.json").read_text(encoding="utf-8"))
    known = {row["name"]: row for row in board["rows"]}
    head = " ".join((ROOT / "README.md").read_text(encoding="utf-8").partition("![")[0].split())
    means = {name: [shown([row["test"][metric]["mean"]]) for metric in ("recall@10", "ndcg@10")] for name, row in known.items()}
    pairs = {name: " / ".join(both) for name, both in means.items()}
    assert f"SASRec and HSTU have {pairs['SASRec']} and {pairs['HSTU']} of Recall@10" in head
    assert f"`R3GR[R3VAE]` {pairs['R3GR[R3VAE]']}" in head
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    [chance] = [lead["p_users"] for lead in board["best"] if lead["best"]["name"] == "SASRec" and lead["next"]["name"] == "R3GR[R3VAE]"]
    assert f"SASRec's lead in NDCG@10 has a p of {chance:.3f}".replace("0.", ".") in page
    popular = {cells[0]: float(cells[4]) for cells in rows("results/leaderboard_amazon-beauty.md", "\nNDCG@10:", "\nRecall@10:")}
    assert min(found for name, found in popular.items() if name.startswith("R3GR")) > max(popular["SASRec"], popular["HSTU"])


def test_the_leaderboard_of_toys():
    board = json.loads((ROOT / "results" / "leaderboard_amazon-toys.json").read_text(encoding="utf-8"))
    known = {row["name"]: row for row in board["rows"]}
    found = rows("docs/results.md", "## Recommendation: `amazon-toys`", "SASRec is ahead")
    assert {name.partition(" (")[0] for name, *_ in found} == set(known)
    out = without_met_items("amazon-toys")
    for name, trained, *figures in found:
        row = known[name.partition(" (")[0]]
        expected = [row["valid"]["ndcg@10"], row["test"]["recall@10"], row["test"]["ndcg@10"]]
        assert figures == [*(shown(metric["values"]) for metric in expected), out[row["name"]][2]], name
        assert ("stopped" in trained) == (row["stopped_at_budget"] > 0) and int(trained.split()[0]) == row["epochs"][0], name
    told = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for name in known:
        both = " / ".join(shown(known[name]["test"][metric]["values"]) for metric in ("recall@10", "ndcg@10"))
        assert re.search(rf"`?{re.escape(name)}`? (has )?{re.escape(both)}", told), name
    first, *others = (row["test"]["ndcg@10"]["mean"] for row in board["rows"])
    assert board["rows"][0]["name"] == "SASRec" and all(1.3 < first / other < 1.37 for other in others), "a third ahead"
    alone = [float(cells[2]) for cells in out.values()]
    assert all(1.5 < alone[0] / other < 1.6 for other in alone[1:]), "by over a half where met items are left out"
    assert all(lead["p_users"] < 0.001 for lead in board["best"] if lead["next"]["name"].startswith("R3GR"))
    rare = [cells[2] for cells in rows("results/leaderboard_amazon-toys.md", "NDCG@10:", "Recall@10:")]
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    assert "with one to six training interactions, where content should help: {} against {} and {}.".format(*rare).replace("0.", ".") in page


def test_lastfms_grid():
    board = json.loads((ROOT / "results" / "leaderboard_lastfm.json").read_text(encoding="utf-8"))
    assert rows("docs/results.md", "## Recommendation: `lastfm`", "Under R3GR") == grid_table(board)[1]


def without_met_items(dataset: str) -> dict[str, list[str]]:
    """Cells of ``results/mask_history_<dataset>.md`` by model, figures as pages write them; ± 0 of counted models is left out."""
    found = rows(f"results/mask_history_{dataset}.md", "| Model", "`python")
    return {name: [cell.replace("0.", ".").removesuffix(" ± .0000") for cell in cells] for name, *cells in found}


def test_lastfm_without_met_items():
    known, found = without_met_items("lastfm"), rows("docs/results.md", "The same trained models on `lastfm`", "ItemKNN (+")
    assert len(found) > 4
    for name, *cells in found:
        _, stay, out, *_, place = known[name.partition(",")[0]]
        assert cells == [stay, out, place], name
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    means = {name: cells[2].partition(" ")[0] for name, cells in known.items()}
    first, second, third, counted, ours = (means[name] for name in ("LightGCN", "BPR", "HSTU", "ItemKNN", "R3GR[R3VAE]"))
    stay = known["ItemKNN"][1]
    assert f"LightGCN {first}, BPR {second}, HSTU {third} and ItemKNN {counted} ({stay} with them) of NDCG@10, R3GR[R3VAE] {ours}" in readme
    assert all(mean < counted for name, mean in means.items() if name.startswith("R3GR")) and "has more there than R3GR" in readme
    board = json.loads((ROOT / "results" / "mask_history" / "leaderboard_lastfm.json").read_text(encoding="utf-8"))
    told = [lead["next"]["name"] for lead in board["best"] if lead["supported"] and lead["next"]["name"].startswith("R3GR")]
    assert board["best"][0]["best"]["name"] == "LightGCN" and told == ["R3GR[Random]"]
    gains = {name: float(cells[2].split()[0]) / float(cells[1].split()[0]) - 1 for name, cells in known.items()}
    ours = sorted(gain for name, gain in gains.items() if name.startswith("R3GR"))
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    said = "ItemKNN (+{:.0%}) and BPR (+{:.0%}) gain most; R3GR gains {:.0%} to {:.0%} ({:.0%} with random codes), LightGCN {:.0%}, SASRec {:.0%}"
    shares = (gains["ItemKNN"], gains["BPR"], ours[1], ours[-1], ours[0], gains["LightGCN"], gains["SASRec"])
    assert said.format(*shares).replace("%", " %") in page and ours[0] == gains["R3GR[Random]"]


def test_beauty_without_met_items():
    known = without_met_items("amazon-beauty")
    readme, page = (" ".join((ROOT / name).read_text(encoding="utf-8").split()) for name in ("README.md", "docs/results.md"))
    hstu, sasrec, ours = ([cell.partition(" ")[0] for cell in known[name][1:3]] for name in ("HSTU", "SASRec", "R3GR[R3VAE]"))
    assert f"HSTU {hstu[1]}, SASRec {sasrec[1]}, R3GR[R3VAE] {ours[1]}" in readme
    assert f"HSTU goes from {hstu[0]} to {hstu[1]} and SASRec from {sasrec[0]} to {sasrec[1]}" in page
    assert f"R3GR[R3VAE] only from {ours[0]} to {ours[1]}" in page


def test_ml_100k():
    board = json.loads((ROOT / "results" / "leaderboard_ml-100k.json").read_text(encoding="utf-8"))
    known, out = {row["name"]: row for row in board["rows"]}, without_met_items("ml-100k")
    found = rows("docs/results.md", "## Recommendation: `ml-100k`", "BPR shows")
    assert {name.partition(" (")[0] for name, *_ in found} == set(known)
    for name, trained, *figures in found:
        row = known[name.partition(" (")[0]]
        test = [shown(row["test"][metric]["values"]) for metric in ("recall@10", "ndcg@10")]
        assert figures == [*test, out[row["name"]][2]], name
        assert ("stopped at its budget" in trained) == (row["stopped_at_budget"] > 0), name
        assert trained == "counted" or int(trained.split()[0]) == row["epochs"][0], name


def test_the_parts_of_r3vae_in_recommendations():
    page, file = "docs/results.md", "results/r3vae_ablation_lastfm.md"
    assert rows(page, "every unit trained to its end", "No variant can") == rows(file, "SC and PD are means", "## Beside")
    signs = rows(page, "No variant can be told", "The paper has every part help")
    assert signs == rows(file, "## Beside", None)
    p_values = [float(found) for cells in signs for found in re.findall(r"p (\d\.\d\d)", " ".join(cells))]
    assert len(p_values) == 12 and min(p_values) > 0.05, "no variant can be told from the default"
    against = [name for name, recall, *_ in signs if recall.startswith("+")]
    assert len(against) == 5, "the signs of accuracy are against the paper for five of six"


@pytest.mark.parametrize("dataset, until, metrics", [
    ("ml-100k", "With 48 training", ("auc", "uauc", "logloss", "cold_auc", "cold_logloss")),
    ("amazon-beauty", "With 13 training", ("auc", "uauc", "logloss", "cold_auc", "cold_uauc")),
])  # fmt: skip
def test_click_models(dataset, until, metrics):
    cells = json.loads((ROOT / "results" / f"ctr_{dataset}.json").read_text(encoding="utf-8"))["cells"]
    found = rows("docs/guides/ctr.md", f"**`{dataset}`**,", until)
    assert len(found) == len({cell["name"] for cell in cells})
    for kind, *figures in found:
        features, _, tokenizer = ("none", "", "") if kind == "id" else kind.partition(" ")
        some = [cell["test"] for cell in cells if (cell["features"], cell["tokenizer"] or "") == (features, tokenizer)]
        assert figures == [shown([test[metric] for test in some]) for metric in metrics], kind


def test_cold_start():
    report = json.loads((ROOT / "results" / "coldstart_amazon-beauty.json").read_text(encoding="utf-8"))
    known = {(row["method"], row["epsilon"]): row for row in report["rows"]}
    found = rows("docs/guides/coldstart.md", "| who fills", "A place for a cold item finds")
    assert len(found) > 10
    for method, epsilon, cold, times, warm, _ in found:
        name = re.sub(r" of all items| \(.*\)", "", method)
        name = report["name"] if name.startswith("nobody") else name
        row = known[name, float(epsilon) if epsilon else None]
        assert (cold, warm) == (shown([row["cold"]["recall@10"]]), shown([row["warm"]["recall@10"]])), method
        if times:
            expected = row["cold"]["recall@10"] / known["random cold items", float(epsilon)]["cold"]["recall@10"]
            assert float(times) == pytest.approx(expected, abs=0.051), method
