"""Figures that stand in the pages are those of the result files: no number is typed by hand and then forgotten.

The table of the README is written by a script and tested in ``test_readme.py``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from recbole_r3vae.experiments.leaderboard.cells import grid_table
from recbole_r3vae.experiments.leaderboard.published import read_published
from recbole_r3vae.experiments.leaderboard.records import read_runs
from recbole_r3vae.experiments.statistics import seeds_test, users_test
from recbole_r3vae.record import RULES, user_metric

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


def leaderboard_of(dataset: str) -> dict:
    """Of a dataset, ``lastfm``, or of a study with a folder of its own, ``dense/amazon-toys``."""
    path = ROOT / "results" / dataset
    return json.loads(path.with_name(f"leaderboard_{path.name}.json").read_text(encoding="utf-8"))


def words_of(page: str) -> str:
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def both(row: dict, rule: str) -> str:
    """``.0713 / .0403``, Recall@10 and NDCG@10."""
    return " / ".join(shown([row["test"][rule][metric]["mean"]]) for metric in ("recall@10", "ndcg@10"))


def test_tigers_figures_on_lastfm():
    [tiger] = [row for row in leaderboard_of("lastfm")["rows"] if row["name"] == "TIGER[R3VAE]"]
    out, stay = (shown(tiger["test"][rule]["ndcg@10"]["values"]) for rule in RULES)
    said = f"with {tiger['epochs'][0]} epochs and one seed, `TIGER[R3VAE]` has test NDCG@10 {out} with met items left out, {stay} where they"
    assert said in words_of("docs/models.md")


def test_what_lastfms_users_can_tell():
    board = leaderboard_of("lastfm")
    known = {row["name"]: row for row in board["rows"]}
    told = {lead["next"]["name"] for lead in board["best"] if lead["supported"]}
    behind = {(cell["name"], metric) for cell in board["grid"] for metric, found in cell["behind"].items() if found["supported"]}
    assert board["best"][0]["best"]["name"] == "LightGCN" and told == {"Pop", "R3GR[Random]"}
    assert behind == {("R3GR[Random]", "recall@10")} and "none but random codes can be told from the best" in words_of("docs/results.md")
    page = words_of("docs/results.md")
    assert "LightGCN, which heads the whole table, can be told from Pop and from R3GR with random codes, and from no other model" in page
    assert "tell random codes from the best tokenizer by Recall@10 with met items left out, and no other" in page
    [ours] = [lead for lead in board["best"] if lead["next"]["name"] == "R3GR[R3VAE]"]
    interval = f"over R3GR[R3VAE], met items left out, reaches from {ours['low']:.4f} to {ours['high']:.4f},".replace("0.", ".").replace(
        "-", "−"
    )
    assert f"{interval} and R3GR's NDCG@10 is {shown([known['R3GR[R3VAE]']['test']['left_out']['ndcg@10']['mean']])}." in page
    single = {
        cell["name"] for cell in board["grid"] for found in cell["behind"].values() if max(found["p_seeds"] or 1, found["p_users"]) < 0.05
    }
    assert single == {"R3GR[Random]", "R3GR[LETTER]"} and "by single tests, LETTER and random codes" in page


def test_the_leaderboard_of_beauty():
    known = {row["name"]: row for row in leaderboard_of("amazon-beauty")["rows"]}
    found = rows("docs/results.md", "## Recommendation: `amazon-beauty`", "What the table cannot say")
    found = [cells for cells in found if "a run of its own" not in cells[0]]
    assert {name.partition(",")[0] for name, *_ in found} == set(known)
    for name, _, trained, valid, *figures in found:
        row = known[name.partition(",")[0]]
        assert figures == [shown(row["test"][rule][metric]["values"]) for rule in RULES for metric in ("recall@10", "ndcg@10")], name
        assert valid == shown(row["valid"]["ndcg@10"]["values"]), name
        assert trained == "counted" or int(trained.split()[0]) == row["epochs"][0], name
        assert ("stopped" in trained) == (row["stopped_at_budget"] > 0), name
        assert (", 3 seeds" in name) == (len(row["seeds"]) == 3), name


def test_the_hybrids_row():
    [path] = (ROOT / "results/runs/amazon-beauty").glob("R3GR-hybrid*.json")
    test = json.loads(path.read_text(encoding="utf-8"))["test_result"]
    [cells] = [cells for cells in rows("docs/results.md", "## Recommendation: `amazon-beauty`", "What the table") if "hybrid" in cells[0]]
    assert cells[-4:] == ["–", "–", *(shown([round(test[metric], 4)]) for metric in ("recall@10", "ndcg@10"))]


def test_the_words_on_beauty():
    board = leaderboard_of("amazon-beauty")
    known = {row["name"]: row for row in board["rows"]}
    for rule in RULES:
        means = {name: row["test"][rule]["ndcg@10"]["mean"] for name, row in known.items()}
        assert set(sorted(means, key=means.get)[-3:]) == {"SASRec", "HSTU", "R3GR[R3VAE]"} and means["R3GR[R3VAE]"] < means["HSTU"]
        assert means["R3GR[R3VAE]"] > 1.5 * means["ItemKNN"]
    told = "{}, three codes written by beam search, has {} / {} there"
    ours = [shown([known["R3GR[R3VAE]"]["test"]["left_out"][metric]["mean"]]) for metric in ("recall@10", "ndcg@10")]
    assert told.format("`R3GR[R3VAE]`", *ours) in words_of("README.md")
    page = words_of("docs/results.md")
    ahead, stay = (
        {
            name: known[name]["test"][rule]["ndcg@10"]["mean"] - known["R3GR[R3VAE]"]["test"][rule]["ndcg@10"]["mean"]
            for name in ("HSTU", "SASRec")
        }
        for rule in RULES
    )
    assert min(ahead.values()) > 0.01 and "ahead of R3GR[R3VAE] by more than .01 of NDCG@10" in page
    assert all(0.1 < stay[name] / ahead[name] < 0.2 for name in ahead) and "the lead is a fifth of that, or less" in page
    [chance] = [lead["p_users"] for lead in board["best"] if lead["best"]["name"] == "HSTU" and lead["next"]["name"] == "R3GR[R3VAE]"]
    assert chance < 0.001 and "HSTU with a p below .001 over users" in page
    places = [place for place, part in enumerate(board["slices"]) if part["group"] == "popularity" and part["name"] != "cold"]
    for place in places:
        assert all(known[name]["slices"][place]["ndcg@10"] > known["R3GR[R3VAE]"]["slices"][place]["ndcg@10"] for name in ahead)
    assert len(places) == 3 and "on rare, medium and popular targets alike" in page


def test_published_figures_are_compared_under_their_own_rule():
    """RecBoard's beside ours with met items left out."""
    _, entries = read_published()
    theirs = {
        (entry["method"], dataset): found
        for entry in entries
        for dataset, found in entry["figures"].items()
        if "RecBoard" in entry["source"]
    }
    page = words_of("docs/results.md")
    for dataset, tokenizer, method in (
        ("amazon-beauty", "R3VAE", "R3-VAE, history 20"), ("amazon-beauty", "RKMeans", "R-KMeans, history 20"),
        ("amazon-toys", "R3VAE", "R3-VAE, history 20"), ("amazon-toys", "RKMeans", "R-KMeans, history 20"),
    ):  # fmt: skip
        [entry] = [entry for entry in entries if entry["method"] == method and "RecBoard" in entry["source"]]
        assert entry["rule"] == "left_out" and entry["history"] == 20
        [row] = [row for row in leaderboard_of(dataset)["rows"] if row["name"] == f"R3GR[{tokenizer}]"]
        recall, ndcg, _ = theirs[method, dataset]
        assert both(row, "left_out") in page and f"{recall:.4f} / {ndcg:.4f}".replace("0.", ".") in page, (dataset, method)
        ours = [row["test"]["left_out"][metric]["mean"] for metric in ("recall@10", "ndcg@10")]
        assert ours[0] > recall - 0.0005 and ours[1] > ndcg, "level or ahead"
    assert not re.search(r"\d+ (to \d+ )?% lower", page)


def test_recboards_figures_on_beauty():
    _, entries = read_published()
    found = rows("docs/results.md", "| model | RecBoard | here |", "R3GR is level or ahead")
    methods = (
        "R-KMeans, history 20", "R3-VAE, history 20", "BSARec (CE)", "HSTU (InfoNCE, 512 negatives)", "BERT4Rec (CE)", "SASRec (BCE)",
    )  # fmt: skip
    studies = ("amazon-beauty", "ids/amazon-beauty")
    every = [row for study in studies for row in leaderboard_of(study)["rows"] if row["label"] in (None, "more patience")]
    known = {row["name"]: row for row in sorted(every, key=lambda row: row["label"] or "")}  # the last of a name
    for method, ours, (_, theirs, here) in zip(methods, ("R3GR[RKMeans]", "R3GR[R3VAE]", "BSARec", "HSTU", None, "SASRec"), found, strict=True):
        [entry] = [entry for entry in entries if entry["method"] == method and "RecBoard" in entry["source"]]
        recall, ndcg, _ = entry["figures"]["amazon-beauty"]
        assert theirs == f"{recall:.4f} / {ndcg:.4f}".replace("0.", "."), method
        assert here.startswith(both(known[ours], "left_out") if ours else "–"), method
        assert ("stopped" in here) == bool(ours and known[ours]["stopped_at_budget"]), method


def test_the_leaderboard_of_toys():
    board = leaderboard_of("amazon-toys")
    known = {row["name"]: row for row in board["rows"]}
    found = rows("docs/results.md", "## Recommendation: `amazon-toys`", "SASRec is ahead")
    assert {name.partition(" (")[0] for name, *_ in found} == set(known)
    for name, trained, *figures in found:
        row = known[name.partition(" (")[0]]
        expected = [row["valid"]["ndcg@10"], *(row["test"][rule][metric] for rule in RULES for metric in ("recall@10", "ndcg@10"))]
        assert figures == [shown(metric["values"]) for metric in expected], name
        assert ("stopped" in trained) == (row["stopped_at_budget"] > 0) and int(trained.split()[0]) == row["epochs"][0], name
    for rule, low, high in (("stay", 1.3, 1.37), ("left_out", 1.5, 1.6)):  # a third, and over a half
        first, *others = (row["test"][rule]["ndcg@10"]["mean"] for row in board["rows"])
        assert board["rows"][0]["name"] == "SASRec" and all(low < first / other < high for other in others)
    [rare] = [place for place, part in enumerate(board["slices"]) if part["name"] == "rare"]
    cells = [shown([known[name]["slices"][rare]["ndcg@10"]]) for name in ("SASRec", "R3GR[RKMeans]", "R3GR[R3VAE]")]
    assert board["slices"][rare]["says"] == "1–6" and "{} against {} and {}".format(*cells) in words_of("docs/results.md")


def test_lastfms_grid():
    assert rows("docs/results.md", "## Recommendation: `lastfm`", "Under R3GR") == grid_table(leaderboard_of("lastfm"))[1]


def test_lastfm_under_both_rules():
    board = leaderboard_of("lastfm")
    known = {row["name"]: row for row in board["rows"]}
    means = {rule: {name: round(row["test"][rule]["ndcg@10"]["mean"], 4) for name, row in known.items()} for rule in RULES}
    found = rows("docs/results.md", "### Items that users have met", "ItemKNN (+")
    assert len(found) > 4
    for name, stay, out, place in found:
        name = name.partition(",")[0]
        assert [stay, out] == [shown(known[name]["test"][rule]["ndcg@10"]["values"]) for rule in ("stay", "left_out")], name
        assert place == " → ".join(str(1 + sum(m > means[rule][name] for m in means[rule].values())) for rule in ("stay", "left_out")), name
    generators = {name: mean for name, mean in means["left_out"].items() if name.startswith("R3GR")}
    assert max(generators.values()) < means["left_out"]["ItemKNN"] and "has more than every R3GR" in words_of("docs/results.md")
    gains = {name: mean / means["stay"][name] - 1 for name, mean in means["left_out"].items()}
    ours = sorted(gains[name] for name in generators)
    said = "ItemKNN (+{:.0%}) and BPR (+{:.0%}) gain most; R3GR gains {:.0%} to {:.0%} ({:.0%} with random codes), LightGCN {:.0%}, SASRec {:.0%}"
    shares = (gains["ItemKNN"], gains["BPR"], ours[1], ours[-1], ours[0], gains["LightGCN"], gains["SASRec"])
    assert said.format(*shares).replace("%", " %") in words_of("docs/results.md") and ours[0] == gains["R3GR[Random]"]


def test_beauty_under_both_rules():
    known = {row["name"]: row for row in leaderboard_of("amazon-beauty")["rows"]}
    hstu, sasrec, ours = (
        [shown([known[name]["test"][rule]["ndcg@10"]["mean"]]) for rule in ("stay", "left_out")]
        for name in ("HSTU", "SASRec", "R3GR[R3VAE]")
    )
    page = words_of("docs/results.md")
    assert f"HSTU goes from {hstu[0]} to {hstu[1]} and SASRec from {sasrec[0]} to {sasrec[1]}" in page
    assert f"R3GR[R3VAE] only from {ours[0]} to {ours[1]}" in page


def test_ml_100k():
    known = {row["name"]: row for row in leaderboard_of("ml-100k")["rows"]}
    found = rows("docs/results.md", "## Recommendation: `ml-100k`", "BPR shows")
    assert {name.partition(" (")[0] for name, *_ in found} == set(known)
    for name, trained, *figures in found:
        row = known[name.partition(" (")[0]]
        assert figures == [shown(row["test"][rule][metric]["values"]) for rule in RULES for metric in ("recall@10", "ndcg@10")], name
        assert ("stopped at its budget" in trained) == (row["stopped_at_budget"] > 0), name
        assert trained == "counted" or int(trained.split()[0]) == row["epochs"][0], name


LONG_CODES = {
    "32 text codes, text vector (mpnet)": "codes and text", "32 text codes alone": "codes alone", "codes and vector of TF-IDF": "codes and text, TF-IDF",
    "32 parallel codes of R3VAE, text vector": "R3VAE, parallel", "16 residual codes of R3VAE, text vector": "R3VAE, 16 levels",
    "16 residual codes of RKMeans, text vector": "RKMeans, 16 levels", "4 text codes, text vector": "4 digits",
    "its id, by HSTU": None, "its id, by HSTU, no prior": "HSTU, without prior", "its id, 32 epochs": "ids, 32 epochs",
    "16 text codes, text vector": "16 digits", "8 text codes, text vector": "8 digits", "32 text codes, text vector, id": "codes, text and ids",
    "its id, text vector": "ids and text", "32 random codes, text vector": "codes and text", "32 codes of another item, text vector":
    "permuted codes and text", "its id": None, "text vector through a hidden layer": "text alone",
    "32 text codes, text vector, no prior": "without prior", "its id, no prior": "ids, without prior",
}  # fmt: skip
"""What the page calls a row, to what the grid's file calls it."""


def test_long_codes_on_beauty():
    known = {(row["name"], row["label"]): row for row in leaderboard_of("dense/amazon-beauty")["rows"]}
    found = rows("docs/results.md", "### Long codes, ranked by item vectors", "What can be said, by NDCG@10")
    assert len(found) == len(known)
    for item, name, valid, *figures, parameters, _ in found:
        [row] = [known[key] for key in known if key == (name, LONG_CODES[item])]
        assert valid == shown(row["valid"]["ndcg@10"]["values"]), item
        assert figures == [shown(row["test"][rule][metric]["values"]) for rule in RULES for metric in ("recall@10", "ndcg@10")], item
        assert int(parameters.replace(",", "")) == row["n_parameters"], item
    page = words_of("docs/results.md")
    assert f"{12_101 * 256:,} parameters" in page and f"has {32 * 256 * 256:,}" in page
    names = {"codes": "32 text codes, text vector (mpnet)", "random": "32 random codes, text vector", "ids": "its id"}
    names |= {"with_id": "its id, text vector", "permuted": "32 codes of another item, text vector", "text": "text vector through a hidden layer"}
    model = {item: name for item, name, *_ in found}
    ndcg = {key: known[model[item], LONG_CODES[item]]["test"]["left_out"]["ndcg@10"]["mean"] for key, item in names.items()}
    codes, random, ids = ndcg["codes"], ndcg["random"], ndcg["ids"]
    assert 1.22 < codes / ids < 1.28 and "Codes of the text have a quarter more NDCG@10 than ids" in page
    assert "has a quarter more NDCG@10 than the same model over item ids" in words_of("README.md")
    assert 1 / 13 < 1 - random / codes < 1 / 11 and "random ones have a twelfth less" in page
    assert ndcg["permuted"] < ndcg["with_id"] and "those of another item less than the text's vector beside an id" in page
    assert 0.045 < 1 - ndcg["with_id"] / codes < 0.055 and "ahead of the text's vector beside an id, which has more parameters, by a twentieth" in page
    two = [known["HSTU", None], known["HSTU", "HSTU, without prior"]]
    hstu = max(two, key=lambda row: row["valid"]["ndcg@10"]["mean"])["test"]["left_out"]
    assert 1 / 12 < codes / hstu["ndcg@10"]["mean"] - 1 < 1 / 10 and "an eleventh more than HSTU over ids" in page
    sixteen = [known[f"R3GR-dense[{name}]", f"{name}, 16 levels"]["test"]["left_out"]["ndcg@10"]["values"] for name in ("R3VAE", "RKMeans")]
    assert 1 / 28 < np.mean(sixteen[0]) / np.mean(sixteen[1]) - 1 < 1 / 26 and min(sixteen[0]) > max(sixteen[1])
    assert "**R3-VAE's 16 are ahead of residual k-means' 16** by a twenty-seventh" in page
    assert "sixteen a twenty-seventh of k-means, and survive" in words_of("README.md")
    for digits, share in (("4 digits", 1 / 6), ("8 digits", 1 / 20)):
        assert abs(1 - known["R3GR-dense[OPQ]", digits]["test"]["left_out"]["ndcg@10"]["mean"] / codes - share) < 0.01
    assert "four codes have a sixth less than 32, eight a twentieth" in page
    stay, left_out = (
        known["R3GR-dense[OPQ]", "without prior"]["test"][rule]["ndcg@10"]["mean"]
        / known["R3GR-dense[OPQ]", "codes and text"]["test"][rule]["ndcg@10"]["mean"]
        for rule in ("stay", "left_out")
    )
    assert 0.7 < stay < 0.8 and 0.94 < left_out < 0.96
    bare = shown([known["R3GR-dense[OPQ]", "without prior"]["test"]["left_out"]["ndcg@10"]["mean"]])
    assert f"Without prior, codes have {bare}." in words_of("README.md")
    gains = []
    for name, labels in {"R3GR-dense[OPQ]": ("without prior", "codes and text"), "HSTU": ("HSTU, without prior", None), "WindowSASRec":
                         ("ids, without prior", None)}.items():  # fmt: skip
        gains += [shown([known[name, label]["test"]["stay"]["ndcg@10"]["mean"]]) for label in labels]
    told = "it gives a third more to the codes ({} to {}), a quarter to HSTU ({} to {}) and a fifth to ids ({} to {})"
    assert told.format(*gains) in page
    assert ndcg["text"] < ids and "through a hidden layer of as many parameters it has less than ids" in page


def test_models_of_item_ids_to_their_end():
    """Each row, that no clock ended it, and how far codes are ahead of the strongest."""
    runs = [
        json.loads(path.read_text(encoding="utf-8"))
        for study in ("ids", "windows")
        for path in (ROOT / "results" / study / "runs" / "amazon-beauty").glob("[!s]*.json")
    ]
    known: dict[str, list[dict]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        known.setdefault(run["label"] or run["name"], []).append(run)
    called = {"BSARec, twice their patience": "more patience", "BSARec with the prior on repeats": "with prior"}
    found = rows("docs/results.md", "### Models of item ids, to their end", "* **BSARec is the strongest")
    assert len(found) == len(known)
    for model, history, precision, epochs, valid, *figures, parameters in found:
        seeds = known[called.get(model) or model.partition(" ")[0].rstrip(",")]
        assert not any(run["stopped_at_budget"] or run["max_minutes"] for run in seeds), model
        best = [max(run["valid_history"], key=lambda entry: entry[2])[0] for run in seeds]
        assert epochs == ", ".join(f"{epoch} of {run['epochs']}" for epoch, run in zip(best, seeds)), model
        read = "–" if seeds[0]["family"] == "general" else str(seeds[0]["config"]["MAX_ITEM_LIST_LENGTH"])
        assert (history, precision) == (read, seeds[0]["precision"]), model
        assert valid == shown([run["valid"]["ndcg@10"] for run in seeds]) and int(parameters.replace(",", "")) == seeds[0]["n_parameters"], model
        assert figures == [shown([run["test"][rule][metric] for run in seeds]) for rule in RULES for metric in ("recall@10", "ndcg@10")], model
    mean = {name: {rule: float(np.mean([run["test"][rule]["ndcg@10"] for run in seeds])) for rule in RULES} for name, seeds in known.items()}
    assert max(known, key=lambda name: mean[name]["left_out"]) == "more patience"
    assert [shown([run["test"]["left_out"]["ndcg@10"]]) for run in known["more patience"]] == [".0612", ".0590", ".0592"]
    gained = [
        [f"{late[part]['ndcg@10'] - early[part]['ndcg@10']:.4f}"[1:] for early, late in zip(*pair)]
        for part, pair in (
            ("valid", (known["BSARec"][1:], known["more patience"][1:])),
            ("left_out", [[run["test"] for run in known[name][1:]] for name in ("BSARec", "more patience")]),
        )
    ]
    page = words_of("docs/results.md")
    assert "gain {} and {} of validation NDCG@10, {} and {} on the test users".format(*gained[0], *gained[1]) in page
    dense = {(row["name"], row["label"]): row["test"] for row in leaderboard_of("dense/amazon-beauty")["rows"]}
    codes, sixteen = dense["R3GR-dense[OPQ]", "codes and text"], dense["R3GR-dense[R3VAE]", "R3VAE, 16 levels"]
    assert 1 / 20 < codes["left_out"]["ndcg@10"]["mean"] / mean["more patience"]["left_out"] - 1 < 1 / 18
    leads = [f"{row['left_out']['ndcg@10']['mean'] - mean['more patience']['left_out']:.4f}"[1:] for row in (codes, sixteen)]
    assert "OPQ's 32 by {} (p below .001 over users, .04 over seeds), R3-VAE's 16 by {}".format(*leads) in page
    shares = [mean[name]["left_out"] / mean["WindowSASRec"]["left_out"] for name in ("GRU4Rec", "LightGCN")]
    assert 0.68 < shares[0] < 0.72 and 0.38 < shares[1] < 0.43 and "GRU4Rec has seven tenths" in page and "has two fifths of WindowSASRec's" in page
    for name, least, most in (("more patience", 0.36, 0.44), ("with prior", 0.09, 0.11)):
        assert least < codes["stay"]["ndcg@10"]["mean"] / mean[name]["stay"] - 1 < most
    strongest = mean["more patience"]["left_out"]
    assert all(row["left_out"]["ndcg@10"]["mean"] < strongest for (name, _), row in dense.items() if name in ("HSTU", "WindowSASRec"))
    assert "a nineteenth more than BSARec, the strongest model of ids here (p below .001 over users, .04 over seeds)" in words_of("README.md")


@pytest.mark.parametrize("name, label, metric, over_users, over_seeds", [
    ("R3GR-dense[OPQ]", "codes and text", "ndcg@10", "below .001", ".04"), ("R3GR-dense[OPQ]", "codes and text", "recall@10", "below .001", ".08"),
    ("R3GR-dense[R3VAE]", "R3VAE, 16 levels", "ndcg@10", "below .001", ".04"),
    ("R3GR-dense[R3VAE]", "R3VAE, 16 levels", "recall@10", "below .001", ".05"),
    ("HSTU", "HSTU, without prior", "ndcg@10", "below .001", ".08"), ("R3GR-dense-hybrid", "ids and text", "ndcg@10", ".74", None),
    ("R3GR-dense[RKMeans]", "RKMeans, 16 levels", "ndcg@10", ".20", None), ("R3GR-dense[OPQ]", "without prior", "ndcg@10", ".66", None),
])  # fmt: skip
def test_how_sure_the_differences_to_bsarec_are(name, label, metric, over_users, over_seeds):
    """The page's p, of the records' ranks of each user."""
    found = [
        np.stack([user_metric(run.ranks("left_out"), metric) for run in read_runs(ROOT / "results" / study / "runs" / "amazon-beauty")[0] if
                  (run.name, run.label) == row])
        for study, row in (("dense", (name, label)), ("ids", ("BSARec", "more patience")))
    ]  # fmt: skip
    p = users_test(*(each.mean(0) for each in found))[0]
    assert over_users == ("below .001" if p < 0.001 else f"{p:.2f}"[1:])
    if over_seeds is not None:
        assert over_seeds == f"{seeds_test(*(each.mean(1) for each in found)):.2f}"[1:]


def test_three_tokenizers_under_tiger_causal():
    known = {row["tokenizer"]: row for row in leaderboard_of("tiger/amazon-beauty")["rows"] if row["name"].startswith("TIGER-causal")}
    found = rows("docs/results.md", "### Under TIGER-causal", "* R3-VAE's codes have a twelfth more")
    assert {codes for codes, *_ in found} == set(known)
    for codes, valid, *figures, minutes in found:
        row = known[codes]
        assert valid == shown(row["valid"]["ndcg@10"]["values"]) and row["epochs"] == [12] and not row["stopped_at_budget"]
        assert figures == [shown(row["test"][rule][metric]["values"]) for rule in RULES for metric in ("recall@10", "ndcg@10")], codes
        [path] = (ROOT / "results/tiger/runs/amazon-beauty").glob(f"TIGER-causal[[]{codes}]-*.json")
        seconds = json.loads(path.read_text(encoding="utf-8"))["seconds"]
        assert int(minutes) == round((seconds["training"] + seconds["tokenizer"]) / 60), codes
    r3vae, letter, rqvae = (known[name]["test"]["left_out"]["ndcg@10"]["mean"] for name in ("R3VAE", "LETTER", "RQVAE"))
    assert 1 / 13 < r3vae / rqvae - 1 < 1 / 11 and r3vae > letter > rqvae
    assert min(known, key=lambda name: known[name]["valid"]["ndcg@10"]["mean"]) == "LETTER"
    [tiger] = (json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results/tiger/runs/amazon-beauty").glob("TIGER[[]R3VAE]-*.json"))
    minutes = round((tiger["seconds"]["training"] + tiger["seconds"]["tokenizer"]) / 60)
    valid, left_out, stay = shown([tiger["valid"]["ndcg@10"]]), *(f"{shown([test['recall@10']])} / {shown([test['ndcg@10']])}" for test in map(tiger["test"].get, RULES))
    told = f"had five epochs of R3-VAE's codes, {minutes} minutes, an eightieth of the training that its settings ask for: {valid} on validation"
    assert f"{told}, {left_out} left out, {stay} where met items stay" in words_of("docs/results.md") and tiger["epochs"] == 5


def test_the_order_within_a_day():
    """Each row in the file's order and in the drawn one, under the seed that was drawn for; what was lost; README's figures."""
    studies = ("dense", "windows", "ids", "ties")
    records = {study: [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results" / study / "runs" / "amazon-beauty").glob("[!s]*.json")]
               for study in studies}  # fmt: skip
    of_row = {
        "32 text codes, text vector": ("dense", "R3GR-dense[OPQ]", "codes and text", None), "its id": ("dense", "WindowSASRec", None, "ids"),
        "its id, by HSTU, no prior": ("dense", "HSTU", "HSTU, without prior", None), "its id (2 blocks of 64)": ("windows", "WindowSASRec", None, "ids, small"),
        "its id, by BSARec, twice its patience": ("ids", "BSARec", "more patience", None),
    }  # fmt: skip
    found = rows("docs/results.md", "With the order within a day drawn by a seed", "So the file's order gave")
    assert len(found) == len(records["ties"]) == len(of_row)
    ndcg = {}
    for item, *figures, lost in found:
        study, name, label, drawn_label = of_row[item]
        [filed] = [run for run in records[study] if (run["name"], run["label"], run["seed"]) == (name, label, 2020)]
        [drawn] = [run for run in records["ties"] if run["name"] == name and drawn_label in (None, run["label"])]
        tests = [run["test"]["left_out"][metric] for run in (filed, drawn) for metric in ("recall@10", "ndcg@10")]
        assert figures == [shown([value]) for value in tests] and lost == f"{100 * (1 - tests[3] / tests[1]):.0f} %", item
        ndcg[item] = tests[1::2]
    codes, ids, hstu, small, bsarec = (ndcg[item] for item in of_row)
    assert 1.35 < codes[1] / ids[1] < 1.4 and 1 / 12 < codes[0] / hstu[0] - 1 < 1 / 10 and 1 / 8 < codes[1] / hstu[1] - 1 < 1 / 6
    assert 0.18 < codes[0] / small[0] - 1 < 0.22 and 0.22 < codes[1] / small[1] - 1 < 0.28
    assert 1 / 32 < codes[0] / bsarec[0] - 1 < 1 / 28 and 1 / 20 < codes[1] / bsarec[1] - 1 < 1 / 18
    told = "codes have {}, BSARec {}, HSTU {}, ids {}".format(*(shown([values[1]]) for values in (codes, bsarec, hstu, ids)))
    assert told in words_of("README.md") and "over BSARec from a thirtieth to a nineteenth (p .04 and .001 over" in words_of("docs/results.md")
    for studies, over_users in ((("dense", "ids"), ".04"), (("ties", "ties"), ".001")):
        sides = zip(studies, (("R3GR-dense[OPQ]", "codes and text"), ("BSARec", "more patience" if "ids" in studies else None)))
        mine, its = (
            user_metric(run.ranks("left_out"), "ndcg@10") for study, row in sides for run in read_runs(ROOT / "results" / study / "runs" / "amazon-beauty")[0]
            if (run.name, run.label) == row and run.seed == 2020
        )  # fmt: skip
        p = users_test(mine, its)[0]
        assert over_users == (f"{p:.3f}" if p < 0.01 else f"{p:.2f}")[1:]


def test_split_by_time():
    """Each row and its slices, the leads, and README's figures."""
    board, file = leaderboard_of("time/amazon-beauty"), "results/time/leaderboard_amazon-beauty.md"
    known = {row["name"]: row["test"]["left_out"] for row in board["rows"]}
    sliced = {name: cells[:4] for name, *cells in rows(file, "\nNDCG@10:\n", None)}  # cold, rare, medium, popular
    found = rows("docs/results.md", "### Split by time", "* All figures fall")
    assert [name for _, name, *_ in found] == [row["name"] for row in board["rows"]]
    for _, name, recall, ndcg, *slices in found:
        assert [recall, ndcg] == [shown([known[name][metric]["mean"]]) for metric in ("recall@10", "ndcg@10")]
        assert slices == [cell.replace("0.", ".") for cell in sliced[name]]
    page, names = words_of("docs/results.md"), {("R3GR-dense[OPQ]", "codes and text"), ("HSTU", None), ("WindowSASRec", None)}
    assert f"each of {board['users']:,} users" in page and round(board["cold"], 2) == 0.19 and "and 19 % of these targets have no" in page
    codes, bsarec, hstu, ids = (known[name]["ndcg@10"]["mean"] for name in ("R3GR-dense[OPQ]", "BSARec", "HSTU", "WindowSASRec"))
    assert all(0.37 < codes / its - 1 < 0.45 for its in (bsarec, hstu)) and 0.63 < codes / ids - 1 < 0.70
    assert "two fifths over BSARec and HSTU, two thirds over ids (p below .001 over users). BSARec and HSTU cannot be told apart (p .63)" in page
    runs = {run.name: run for run in read_runs(ROOT / "results/time/runs/amazon-beauty")[0]}
    users = {name: user_metric(run.ranks("left_out"), "ndcg@10") for name, run in runs.items()}
    assert max(users_test(users["R3GR-dense[OPQ]"], users[name])[0] for name in ("BSARec", "HSTU", "WindowSASRec")) < 0.001
    assert f"{users_test(users['BSARec'], users['HSTU'])[0]:.2f}" == "0.63"
    assert max(found, key=lambda row: float(row[5]))[1] == "ItemKNN", "finds rare targets best"
    assert all(max(found, key=lambda row: float(row[column]))[1] == "R3GR-dense[OPQ]" for column in (2, 3, 4, 6, 7))
    whole = {row["name"]: row["test"]["left_out"]["ndcg@10"] for row in leaderboard_of("dense/amazon-beauty")["rows"] if (row["name"], row["label"]) in names}
    assert len(whole) == 3 and all(known[name]["ndcg@10"]["mean"] / whole[name]["mean"] < 0.25 for name in whole)
    assert "codes have {}, BSARec {}, HSTU {}, ids {}".format(*map(shown, ([codes], [bsarec], [hstu], [ids]))) in words_of("README.md")


def test_where_people_return():
    """Each row, and that the prior moves repeated and new targets in opposite directions."""
    labels = {"32 text codes, text vector; prior": "with prior", "32 text codes, text vector": "without prior"}
    labels |= {"its id; prior": "ids, with prior", "its id": "ids, without prior", "its id, by HSTU": "HSTU, without prior"}
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results" / "runs" / "yelp-2019").glob("[!s]*.json")]
    known = {(run["name"], run.get("label")): run for run in runs}
    found = rows("docs/results.md", "## Where people return: `yelp-2019`", "* A prior on repeats")
    assert len(found) == len(known)
    repeated, new = {}, {}
    for item, name, left_out, recall, ndcg, of_repeated, of_new in found:
        run = known[name, labels.get(item)]
        assert left_out == shown([run["test"]["left_out"]["ndcg@10"]])
        assert [recall, ndcg] == [shown([run["test"]["stay"][metric]]) for metric in ("recall@10", "ndcg@10")]
        parts = [run["by_repeat"][part]["stay"] for part in ("repeated", "new")]
        assert [of_repeated, of_new] == [shown([part["ndcg@10"]]) for part in parts]
        repeated[item], new[item] = (part["recall@10"] for part in parts)
    for plain in ("32 text codes, text vector", "its id"):
        assert repeated[f"{plain}; prior"] > repeated[plain] and new[f"{plain}; prior"] < new[plain]
    new = {name: shown([known[name, label]["by_repeat"]["new"]["left_out"]["ndcg@10"]]) for name, label in
           (("LightGCN", None), ("R3GR-dense[OPQ]", "without prior"), ("HSTU", "HSTU, without prior"))}  # fmt: skip
    assert "of new ones it has {}, codes {}, HSTU {}".format(*new.values()) in words_of("docs/results.md")
    ranks = {(run.name, run.label): run for run in read_runs(ROOT / "results/runs/yelp-2019")[0]}
    for rule, (least, most) in {"stay": (0.105, 0.895), "left_out": (0, 0.001)}.items():
        users = {key: user_metric(run.ranks(rule), "ndcg@10") for key, run in ranks.items() if key[0] not in ("Recency", "Pop", "ItemKNN")}
        graph = users.pop(("LightGCN", None))
        assert all(least < users_test(graph, its)[0] < most for its in users.values()) and all(rule == "stay" or graph.mean() > its.mean() for its in users.values())
    epochs = known["LightGCN", None]["valid_history"]
    assert max(epochs, key=lambda entry: entry[2])[0] == 285 and known["LightGCN", None]["epochs"] == 300
    told = {item: [float(cell) for cell in figures[3:]] for item, _, *figures in found}
    hstu, codes = told["its id, by HSTU"], told["32 text codes, text vector"]
    assert hstu[0] > codes[0] and hstu[1] < codes[1]


def test_where_people_return_split_by_time():
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results/time/runs/yelp-2019").glob("[!s]*.json")]
    known, found = {run["name"]: run for run in runs}, rows("docs/results.md", "### Split by time, `yelp-2019`", "As under leave-one-out, the list")
    assert len(found) == len(known) == len(runs)
    for _, name, *figures in found:
        parts = [known[name]["test"]["stay"], *(known[name]["by_repeat"][part]["stay"] for part in ("repeated", "new"))]
        assert figures == [shown([parts[0]["recall@10"]]), *(shown([part["ndcg@10"]]) for part in parts)], name
    assert {run["repeated_targets"] for run in runs} == {646} and "646 targets are places" in words_of("docs/results.md")
    assert max(found, key=lambda row: float(row[5]))[1] == "R3GR-dense[OPQ]", "codes find most of what is new"


def test_models_of_item_ids_lead_on_the_other_datasets():
    for dataset in ("amazon-toys", "lastfm", "ml-100k"):
        known = leaderboard_of(dataset)["rows"]
        best = {rule: max(known, key=lambda row: row["test"][rule]["ndcg@10"]["mean"])["family"] for rule in RULES}
        assert "generative" not in best.values(), dataset
    assert "On `amazon-toys`, `lastfm` and `ml-100k` models of item ids lead this default too" in words_of("README.md")


def test_the_switches_of_r3gr():
    variants = json.loads((ROOT / "results" / "r3gr_switches_amazon-beauty.json").read_text(encoding="utf-8"))["variants"]
    order = (
        "default", "encoder: transformer", "item_inputs: codes", "item_inputs: text", "tied_heads", "sid_dropout 0.1", "label_smoothing 0.1",
        "item_inputs: codes, text, id (hybrid)", "hybrid, id_dropout 0.2",
    )  # fmt: skip
    found = rows("docs/results.md", "| R3GR | validation NDCG@10 |", "All rows of the grid")
    assert set(order) == set(variants)
    for (name, cell), variant in zip(found, order, strict=True):
        assert cell.partition(",")[0] == shown([variants[variant]["ndcg@10"]]), name


def test_what_r3vae_is_worth():
    page, file = "docs/results.md", "results/r3vae_parts_amazon-beauty.md"
    found = rows(page, "### What R3-VAE is worth", "The differences to the default, *p* of a paired test over users, and in brackets the paper's (another")
    assert found == rows(file, "SC and PD are means", "## Beside")
    signs = {name: cells for name, *cells in rows(page, "(another generator and text encoder: only its sign can compare)", "* **R3-VAE is ahead")}
    assert signs == {name: cells for name, *cells in rows(file, "## Beside", None)}
    test = {name: float(cells[3].split()[0]) for name, *cells in found}
    assert (test["default"], test["RKMeans"], test["rating replaced by STE"]) == (0.0387, 0.0369, 0.0371)
    assert 1 / 22 < test["default"] / test["RKMeans"] - 1 < 1 / 18 and "(.0387 to .0369" in words_of(page) and "(.0371; p below" in words_of(page)
    assert all("p < .01" in signs[name][1] for name in ("RKMeans", "rating replaced by STE"))
    for name in ("no reference vector", "no SC", "no PD", "OPQ"):
        assert float(re.search(r"p (\d\.\d\d)", signs[name][1])[1]) > 0.05, "nothing that these users could tell"
    assert max(test, key=test.get) == "no reference vector"
    known = {}
    for run in read_runs(ROOT / "results/parts/runs/amazon-beauty")[0]:
        if run.label is None:
            known.setdefault(run.tokenizer, []).append(run)
    users = {name: np.stack([user_metric(run.ranks("left_out"), "ndcg@10") for run in some]) for name, some in known.items()}
    valid = {name: [run.valid["ndcg@10"] for run in some] for name, some in known.items()}
    for name, share, over_seeds in (("RKMeans", 20, ".03"), ("RQVAE", 20, ".04"), ("CoST", 20, ".02"), ("LETTER", 10, ".005")):
        mine, its = users["R3VAE"], users[name]
        assert len(mine) == len(its) == 3 and min(mine.mean(1)) > max(its.mean(1)) and min(valid["R3VAE"]) > max(valid[name]), name
        assert abs(mine.mean() / its.mean() - 1 - 1 / share) < 0.01 and users_test(mine.mean(0), its.mean(0))[0] < 0.001, name
        p = seeds_test(mine.mean(1), its.mean(1))
        assert over_seeds == (f"{p:.3f}" if p < 0.01 else f"{p:.2f}")[1:], name
    assert 1 / 15 < np.mean(valid["R3VAE"]) / np.mean(valid["RKMeans"]) - 1 < 1 / 13
    assert "(p below .001 over users each; .04, .02 and .005 over seeds)" in words_of(page)
    unique = {name: float(cells[6].split()[0]) for name, *cells in found}
    assert unique["default"] < min(unique[name] for name in ("RQVAE", "CoST", "LETTER"))
    assert "three of them are a twentieth ahead of residual k-means, RQ-VAE and CoST, sixteen a twenty-seventh of k-means" in words_of("README.md")


def test_the_parts_of_r3vae_in_recommendations():
    page, file = "docs/results.md", "results/r3vae_ablation_lastfm.md"
    assert rows(page, "every unit trained to its end", "No variant can") == rows(file, "SC and PD are means", "## Beside")
    signs = rows(page, "No variant can be told", "The paper has every part help")
    assert signs == rows(file, "## Beside", None)
    p_values = [float(found) for cells in signs for found in re.findall(r"p (\d\.\d\d)", " ".join(cells))]
    assert len(p_values) == 12 and min(p_values) > 0.05, "no variant can be told from the default"
    against = [name for name, recall, *_ in signs if recall.startswith("+")]
    assert len(against) == 5, "the signs of accuracy are against the paper for five of six"


def test_from_random_codebooks():
    page = words_of("docs/results.md")
    found = rows("docs/results.md", "## From random codebooks", "* **The claim holds.**")
    small, large = (rows(f"results/stability_amazon-beauty{more}.md", "*Lowest usage*", None) for more in ("", "_2048"))
    assert found == small + large and {row[2] for row in small + large} == {"5"}
    usage, of_2048 = ({name: float(cells[2].split(" ± ")[0]) for name, *cells in some} for some in (small, large))
    assert max(share for name, share in of_2048.items() if name != "R3VAE") <= 0.001 and round(100 * of_2048["R3VAE"]) == 47
    assert "a thousandth of 2,048; R3-VAE keeps 47 % of those" in page and "of 2,048 a thousandth is left" in page
    collapsed = {name for name, share in usage.items() if share < 2 / 256}
    assert collapsed == {"R3VAE, rating replaced by STE", "RQVAE, codebook loss (TIGER's formula)"}
    assert round(100 * usage["R3VAE"]) == 86 and "R3-VAE keeps 86 % of its codes in use" in page and usage["R3VAE, rating softmax"] == 1
    assert round(100 * usage["RQVAE, moving averages and restarts"]) == 62 and "RQ-VAE's default here, keep 62 %" in page
    assert min(share for name, share in usage.items() if "k-means" in name) > 0.99


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
