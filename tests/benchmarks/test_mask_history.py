"""The benchmark of the rule on met items: figures of both rules against runs of their own, and places that change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_r3vae.errors import UserError
from recbole_r3vae.quick_start.run import run_recbole_r3vae


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import mask_history

    return mask_history


def write_run(name: str, hash_: str, test: dict, **more) -> None:
    record = {"schema": 1, "dataset": "tiny", "name": name, "model": name, "seed": 2020, "hash": hash_, "config": {}, "test": test, **more}
    Path("results/runs/tiny").mkdir(parents=True, exist_ok=True)
    Path(f"results/runs/tiny/{name}-2020-{hash_}.json").write_text(json.dumps({"mask_history": False, "error": None, **record}))


def test_the_same_models_under_both_rules(script, tiny_settings, capsys):
    settings = {**tiny_settings, "metrics": ["Recall", "NDCG"], "topk": [10], "train_batch_size": 1}
    unit = {"mask_history": False, "run_dir": "saved/tiny/Pop-2020-abc"}
    met = run_recbole_r3vae("Pop", "tiny", config_dict={**settings, **unit})["test_result"]
    write_run("Pop", "abc", met)
    write_run("BPR", "def", met)  # its checkpoint was deleted
    write_run("ItemKNN", "fed", met, mask_history=True)  # of a grid under the other rule
    left_out = run_recbole_r3vae("Pop", "tiny", config_dict={**settings, "mask_history": True})["test_result"]
    assert left_out["ndcg@10"] > met["ndcg@10"]
    capsys.readouterr()
    script.main(["--dataset", "tiny"])
    page = Path("results/mask_history_tiny.md").read_text(encoding="utf-8")
    cells = [f"{found[metric]:.4f}" for metric in ("ndcg@10", "recall@10") for found in (met, left_out)]
    assert f"| Pop | 1 | {' | '.join(cells)} | 1 → 1 |" in page.splitlines()
    assert "None of 60 test targets" in page and "Without checkpoints, so not tested: BPR." in page and "ItemKNN" not in page
    assert page in capsys.readouterr().out


def test_places_and_deviations(script):
    def seeds(*values: float) -> list[dict]:
        return [dict.fromkeys(script.METRICS, value) for value in values]

    *_, first, second = script.table([("a|b", seeds(0.2, 0.4), seeds(0.3, 0.5)), ("c", seeds(0.1), seeds(0.6))])
    assert first == "| c | 1 | 0.1000 | 0.6000 | 0.1000 | 0.6000 | 2 → 1 |"
    assert second == r"| a\|b | 2 | 0.3000 ± 0.1414 | 0.4000 ± 0.1414 | 0.3000 ± 0.1414 | 0.4000 ± 0.1414 | 1 → 2 |"


def test_nothing_to_test_is_said(script):
    with pytest.raises(UserError, match="results has no run of tiny with its checkpoint under saved"):
        script.main(["--dataset", "tiny"])
