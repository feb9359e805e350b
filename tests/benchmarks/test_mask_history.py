"""The benchmark of the rule on met items: figures of both rules against runs of their own, and places that change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start.run import run_recbole_r3vae

METRICS = ["Recall", "NDCG", "ItemCoverage"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import mask_history

    return mask_history


def run(settings: dict, rule: bool, **more) -> dict:
    keys = {**settings, "metrics": METRICS, "topk": [10, 20], "train_batch_size": 1, "mask_history": rule}
    return run_recbole_r3vae("Pop", "tiny", config_dict={**keys, **more})


def write_run(result: dict, name: str = "Pop", hash_: str = "abc", **more) -> None:
    folder = Path("results/runs/tiny")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"split-{result['split']['split']}.json").write_text(json.dumps({"schema": 1, "dataset": "tiny", **result["split"]}))
    record = {
        "schema": 1, "dataset": "tiny", "name": name, "model": name, "tokenizer": None, "family": "general", "seed": 2020, "hash": hash_,
        "config": {"mask_history": False}, "valid": result["best_valid_result"], "test": result["test_result"], "users": result["users"],
        "mask_history": False, "error": None, "seconds": {"training": 1.0}, **more,
    }  # fmt: skip
    (folder / f"{name}-2020-{hash_}.json").write_text(json.dumps(record))


def test_the_same_models_under_both_rules(script, tiny_settings, capsys):
    stay, out = run(tiny_settings, False, run_dir="saved/tiny/Pop-2020-abc"), run(tiny_settings, True)
    assert out["test_result"]["ndcg@10"] > stay["test_result"]["ndcg@10"]
    write_run(stay)
    write_run(stay, "BPR", "def")  # its checkpoint was deleted
    write_run(stay, "ItemKNN", "fed", mask_history=True)  # of a grid under the other rule
    write_run(stay, "GRU4Rec", "cba", error="out of memory")
    capsys.readouterr()
    script.main(["--dataset", "tiny"])
    page = Path("results/mask_history_tiny.md").read_text(encoding="utf-8")
    cells = [f"{found['test_result'][metric]:.4f}" for metric in ("ndcg@10", "recall@10") for found in (stay, out)]
    assert [line for line in page.splitlines() if "Pop" in line] == [f"| Pop | 1 | {' | '.join(cells)} | 1 → 1 |"]
    assert "other seeds: BPR-2020-def." in page and "ItemKNN" not in page and "GRU4Rec" not in page
    assert page in capsys.readouterr().out
    [row] = json.loads(Path("results/mask_history/leaderboard_tiny.json").read_text(encoding="utf-8"))["rows"]
    assert row["name"] == "Pop" and row["mask_history"] is True and not row["valid"]
    assert all(row["test"][metric]["mean"] == pytest.approx(value) for metric, value in out["test_result"].items() if metric in row["test"])
    again = json.loads(Path("results/mask_history/runs/tiny/Pop-2020-abc.json").read_text(encoding="utf-8"))
    assert again["users"] == out["users"] != stay["users"] and again["test"] == out["test_result"]


def test_what_is_there_is_not_tested_again(script, tiny_settings, monkeypatch):
    write_run(run(tiny_settings, False, run_dir="saved/tiny/Pop-2020-abc"))
    script.main(["--dataset", "tiny"])
    page = Path("results/mask_history_tiny.md").read_bytes()
    monkeypatch.setattr(script, "tested", lambda *_: pytest.fail("tested again"))
    script.main(["--dataset", "tiny"])
    assert Path("results/mask_history_tiny.md").read_bytes() == page


def test_a_unit_that_was_run_again_is_tested_again(script, tiny_settings):
    made, result = Path("results/mask_history/runs/tiny/Pop-2020-abc.json"), run(tiny_settings, False, run_dir="saved/tiny/Pop-2020-abc")
    write_run(result)
    script.main(["--dataset", "tiny"])
    first = json.loads(made.read_text(encoding="utf-8"))
    write_run(result, seconds={"training": 2.0})
    script.main(["--dataset", "tiny", "--saved", "elsewhere", "saved"])
    assert json.loads(made.read_text(encoding="utf-8")) == {**first, "seconds": {"training": 2.0}}


def test_results_whose_unit_is_gone_are_removed(script, tiny_settings):
    write_run(run(tiny_settings, False, run_dir="saved/tiny/Pop-2020-abc"))
    script.main(["--dataset", "tiny"])
    output = Path("results/mask_history/runs/tiny")
    stale = output / "Pop-2020-before.json"
    stale.write_bytes((output / "Pop-2020-abc.json").read_bytes())
    script.main(["--dataset", "tiny"])
    assert (output / "Pop-2020-abc.json").exists() and not stale.exists() and list(output.glob("split-*.json"))


def test_a_checkpoint_of_an_earlier_run_is_not_taken(script, tiny_settings):
    """Two runs of a unit have one name; validation says which of them left the checkpoint."""
    result = run(tiny_settings, False, run_dir="saved/tiny/Pop-2020-abc")
    write_run(result)
    write_run({**result, "best_valid_result": {"ndcg@10": 0.5}}, "BPR", "abc")
    write_run({**result, "best_valid_result": None}, "GRU4Rec", "abc")  # stopped before its first validation
    script.main(["--dataset", "tiny"])
    assert "other seeds: BPR-2020-abc, GRU4Rec-2020-abc." in Path("results/mask_history_tiny.md").read_text(encoding="utf-8")


def test_places_and_deviations(script):
    def row(name: str, *values: float) -> dict:
        found = {"mean": sum(values) / len(values), "std": 0.1414 if len(values) > 1 else None}
        return {"name": name, "variant": "", "seeds": values, "hashes": [name], "test": dict.fromkeys(script.METRICS, found)}

    stay = [row("a|b", 0.2, 0.4), row("c", 0.1), row("untested", 0.9), row("d", 0.1)]
    _, _, *lines = script.comparison(stay, [row("a|b", 0.3, 0.5), row("c", 0.60001), row("d", 0.6)])
    assert lines == [
        "| c | 1 | 0.1000 | 0.6000 | 0.1000 | 0.6000 | 2 → 1 |",
        "| d | 1 | 0.1000 | 0.6000 | 0.1000 | 0.6000 | 2 → 1 |",
        r"| a\|b | 2 | 0.3000 ± 0.1414 | 0.4000 ± 0.1414 | 0.3000 ± 0.1414 | 0.4000 ± 0.1414 | 1 → 3 |",
    ]


def test_targets_that_were_met_before_are_refused(script, tiny_settings, monkeypatch):
    write_run(run(tiny_settings, False, run_dir="saved/tiny/Pop-2020-abc"))
    monkeypatch.setattr(script, "meetings", lambda part: csr_matrix(np.ones((part.user_num, part.item_num))))
    with pytest.raises(UserError, match="test targets of tiny are items that their users had met before; .*rm_dup_inter"):
        script.main(["--dataset", "tiny"])


def test_nothing_to_test_is_said(script):
    with pytest.raises(UserError, match="results has no run of tiny with its checkpoint under saved"):
        script.main(["--dataset", "tiny"])
