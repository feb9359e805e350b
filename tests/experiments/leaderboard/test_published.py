"""Published figures stand beside our column of their own rule on met items, and a malformed entry is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.leaderboard.cells import published_cells
from recbole_r3vae.experiments.leaderboard.columns import main_columns
from recbole_r3vae.experiments.leaderboard.markdown import markdown
from recbole_r3vae.experiments.leaderboard.published import published_of, read_published

ENTRY = {"method": "M", "row": "Ours", "source": "S", "rule": "stay", "history": 20, "text": None, "set": [0.2, 0.1]}


def write(path: Path, authors=(), independent=()) -> Path:
    file = path / "published.yaml"
    file.write_text(yaml.safe_dump({"note": "Not comparable.", "authors": list(authors), "independent": list(independent)}))
    return file


def row(name: str) -> dict:
    return {"name": name, "model": name}


def test_an_entry_stands_beside_the_column_of_its_own_rule(tmp_path):
    authors = [{**ENTRY, "method": rule, "rule": rule} for rule in ("left out", "unknown", "stay")]
    later = {**ENTRY, "method": "later"}
    rows = [row("Ours"), row("Other")]
    found = published_of("set", rows, write(tmp_path, [*authors, later], [{**ENTRY, "method": "again"}]))
    ours = {rule: {kind: entry["method"] for kind, entry in kinds.items()} for rule, kinds in rows[0]["published"].items()}
    assert ours == {"left_out": {"authors": "left out"}, "stay": {"authors": "stay", "independent": "again"}}
    assert rows[1]["published"] == {}
    assert [entry["method"] for entry in found["entries"]] == ["left out", "unknown", "stay", "later", "again"], "all are in the table"
    assert [published_cells(entry)[3] for entry in found["entries"]] == ["left out", "unknown", "stay", "stay", "stay"]
    headings = [column.heading for column in main_columns(rows) if column.outside]
    assert headings == [
        "By authors, R@10 / N@10, met items left out", "By authors, R@10 / N@10, met items stay",
        "Reproduced by others, R@10 / N@10, met items stay",
    ]  # fmt: skip
    places = [(column.rule, column.outside) for column in main_columns(rows)]
    assert places == [("left_out", False)] * 2 + [("left_out", True)] + [("stay", False)] * 2 + [("stay", True)] * 2 + [(None, False)]


def test_an_entry_of_unknown_rule_stands_beside_none(tmp_path):
    rows = [row("Ours")]
    found = published_of("set", rows, write(tmp_path, [{**ENTRY, "rule": "unknown"}]))
    assert rows[0]["published"] == {} and len(found["entries"]) == 1 and not any(column.outside for column in main_columns(rows))


@pytest.mark.parametrize("evaluation", [{"split": {"GTS": [0.8, 0.9]}}, {"split": {"LS": "valid_and_test"}, "ties": 2020}])
def test_rows_of_another_split_stand_beside_none(tmp_path, evaluation):
    """What others published is of leave-one-out, in the order of the file."""
    by_time = {**row("Ours"), "config": {"eval_args": evaluation}}
    assert published_of("set", [by_time], write(tmp_path, [ENTRY])) is None and by_time["published"] == {}
    assert published_of("set", [by_time, row("Ours")], write(tmp_path, [ENTRY])) is not None and by_time["published"] == {}


def test_other_datasets_have_none(tmp_path):
    assert published_of("another", [row("Ours")], write(tmp_path, [ENTRY])) is None


@pytest.mark.parametrize("change, told", [
    ({"rule": ...}, "has no rule; give one of left out, stay, unknown"),
    ({"rule": "left_out"}, "rule is 'left_out'; give one of left out, stay, unknown"),
    ({"rule": True}, "rule is True; give one of"),
    ({"history": ...}, "has no history; give a whole number, or ~"),
    ({"history": "20"}, "history is '20'; give a whole number, or ~"),
    ({"history": True}, "history is True"),
    ({"text": ...}, "has no text; give the text encoder"),
    ({"text": 5}, "text is 5"),
    ({"source": ...}, "has no source"),
    ({"row": 7}, "row is 7"),
    ({"set": ...}, "has no figures"),
    ({"set": [0.2]}, "set is [0.2]; give [Recall@10, NDCG@10]"),
    ({"set": [0.2, "0.1"]}, "set is [0.2, '0.1']"),
    ({"set": [20.5, 0.1]}, "set is [20.5, 0.1]"),
    ({"sett": 0.2}, "sett is 0.2"),
])  # fmt: skip
def test_a_malformed_entry_is_an_error_that_names_it(tmp_path, change, told):
    entry = {key: value for key, value in {**ENTRY, **change}.items() if value is not ...}
    with pytest.raises(UserError) as error:
        read_published(write(tmp_path, [ENTRY], [ENTRY, entry]))
    assert told in str(error.value) and "entry 2 of independent" in str(error.value) and "'M'" in str(error.value)


@pytest.mark.parametrize("change, told", [
    ({"note": None}, "note in"), ({"authors": None}, "authors in"), ({"independent": {"a": 1}}, "independent in"),
    ({"authors": ["TIGER"]}, "entry 1 of authors"),
])  # fmt: skip
def test_a_malformed_file_is_an_error(tmp_path, change, told):
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump({"note": "Not comparable.", "authors": [ENTRY], "independent": []} | change))
    with pytest.raises(UserError, match=told):
        read_published(file)


# -- the file of the package ---------------------------------------------------------------------------------------------------


LEFT_OUT = ("RecBoard", "BSARec, arXiv", "CoSeRec", "MARIUS", "eSASRec")
STAY = ("RPG", "LETTER", "LIGER", "PRISM", "cornac", "genrec", "OpenOneRec")
UNKNOWN = ("ACERec", "TIGER, arXiv", "COBRA", "MMQ", "R3-VAE, arXiv")


def test_every_entry_has_the_rule_of_its_sources_code():
    _, entries = read_published()
    assert len(entries) > 40
    for entry in entries:
        [rule] = {
            rule
            for rule, sources in (("left_out", LEFT_OUT), ("stay", STAY), (None, UNKNOWN))
            if any(s in entry["source"] for s in sources)
        }
        assert entry["rule"] == rule, entry
        for recall, ndcg, *deviation in entry["figures"].values():
            assert recall is None or ndcg is None or 0 < ndcg < recall < 0.2
            assert len(deviation) == ("RecBoard" in entry["source"])
        assert set(entry["figures"]) <= {"amazon-beauty", "amazon-sports", "amazon-toys"}


def test_figures_beside_rows_of_beauty():
    rows = [row(name) for name in ("SASRec", "HSTU", "BSARec", "TIGER[RQVAE]", "TIGER[R3VAE]", "R3GR[R3VAE]")]
    published_of("amazon-beauty", rows)
    told = {
        row["name"]: {
            (rule, kind): (entry["method"], entry["recall@10"]) for rule, kinds in row["published"].items() for kind, entry in kinds.items()
        }
        for row in rows
    }
    assert told["SASRec"] == {
        ("left_out", "authors"): ("SASRec + sampled softmax", 0.0921), ("left_out", "independent"): ("SASRec (BCE)", 0.0668),
        ("stay", "independent"): ("SASRec, tuned", 0.0740),
    }  # fmt: skip
    assert told["HSTU"][("left_out", "independent")][1] == 0.0945 and told["HSTU"][("stay", "independent")][1] == 0.0708
    assert told["BSARec"] == {("left_out", "authors"): ("BSARec", 0.1008), ("left_out", "independent"): ("BSARec (CE)", 0.1002)}
    assert set(told["TIGER[R3VAE]"]) == {("left_out", "independent")}, "the paper's R3-VAE is of unknown rule"
    assert told["TIGER[RQVAE]"][("stay", "authors")] == ("TIGER", None), "LETTER's paper has its NDCG@10 alone"
    assert ("left_out", "authors") not in told["TIGER[RQVAE]"], "TIGER's paper is of unknown rule"
    assert told["R3GR[R3VAE]"] == {}, "nobody published that generator"


def test_the_pages_say_what_stands_beside_what():
    report = json.loads((Path(__file__).parents[3] / "results" / "leaderboard_amazon-beauty.json").read_text(encoding="utf-8"))
    text = markdown(report)
    assert "(SASRec (BCE), MTandHJ/RecBoard) |" in text  # whose loss is not that of the row
    assert "Entries whose rule is unknown stand in the table of published values alone." in text and "Not comparable with our rows" in text
    listed = [line for line in text.splitlines() if line.startswith("| TIGER |") and "2305.05065" in line]
    assert listed == [
        "| TIGER | 0.0648 | 0.0384 | unknown | 20 | Sentence-T5 | TIGER[RQVAE] | By authors | TIGER, arXiv 2305.05065 (secondary summary) |"
    ]
