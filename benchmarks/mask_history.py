"""What the rule on items that users have met already does to a leaderboard: the same trained models tested under the other rule.

    recbole-r3vae benchmark --config=properties/benchmark/lastfm.yaml --data_path=dataset
    python benchmarks/mask_history.py --dataset lastfm --data_path dataset

Under ``mask_history: False``, the rule of the leaderboards and of the papers on semantic IDs, what a user met before stays a candidate;
under ``True`` it is none. Where nobody meets an item twice it can never be the target, and a model that fits what its users met, as
matrix factorisation does, gives it the best places. Models are those that the grid left in ``saved/``, each chosen by its validation
under the grid's rule; none is trained again.

Writes result files and leaderboards as the grid's own into ``results/mask_history/``, and the comparison of both rules,
``results/mask_history_<dataset>.md``. What is there already is not tested again, unless its unit was run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_r3vae.benchmark.leaderboard import leaderboard, write_leaderboards
from recbole_r3vae.benchmark.leaderboard_text import label
from recbole_r3vae.benchmark.tables import escaped, markdown_table
from recbole_r3vae.data.split import held_out, meetings
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write, write_json
from recbole_r3vae.quick_start.lookup import get_trainer
from recbole_r3vae.quick_start.run import load_data_and_model
from recbole_r3vae.trainer.checkpoint_file import load_checkpoint

METRICS = ("ndcg@10", "recall@10")
HEAD = ("Model", "Seeds", "NDCG@10, met items stay", "NDCG@10, left out", "Recall@10, met items stay", "Recall@10, left out", "Place")
NOTE = (
    "Test figures of the same trained models under both rules, mean ± sample standard deviation over seeds, and their places by NDCG@10. "
    "Nothing was trained or chosen anew: each model is the one that its validation chose while all items were candidates. "
    "All metrics without met items, and which differences are more than noise: `results/mask_history/`."
)


def tested(record: dict[str, Any], checkpoint: Path, keys: dict[str, Any], command: str) -> dict[str, Any]:
    """The result file of a trained unit where items met before are no candidates.

    Args:
        record: the unit's result file.
        checkpoint: its ``best.pth``.
        keys: settings that differ from those of training.
        command: that made the new file.

    Raises:
        UserError: a user's target is an item that he met before, so that the two rules ask different questions.
    """
    config, model, _, train_data, valid_data, test_data = load_data_and_model(checkpoint, {**keys, "mask_history": True})
    repeated = meetings(test_data.dataset).multiply(test_data.seen).nnz
    if repeated:
        what = f"{repeated:,} test targets of {record['dataset']} are items that their users had met before"
        raise UserError(f"{what}; this comparison is for data in which nobody meets an item twice (rm_dup_inter: first)")
    trainer = get_trainer(config)(config, model)
    trainer.eval_collector.data_collect(train_data)
    found = trainer.evaluate(test_data, load_best_model=False)
    users = held_out(valid_data, test_data).ranks(trainer.evaluator.target_ranks(), max(config["topk"]))
    changed = {"mask_history": True, "valid": {}, "valid_history": None, "test": found, "users": users, "command": command}
    return {**record, **changed, "config": {**record["config"], "mask_history": True}}


def test_again(runs: Path, output: Path, saved: list[Path], keys: dict[str, Any], command: str) -> list[str]:
    """Test every unit that has a checkpoint.

    Args:
        runs: folder of the grid's result files of a dataset.
        output: folder of the new ones.
        saved: folders of checkpoints.
        keys: as of :func:`tested`.
        command: likewise.

    Returns:
        Names of the result files whose units have none.
    """
    without = []
    output.mkdir(parents=True, exist_ok=True)
    for path in runs.glob("split-*.json"):
        shutil.copy(path, output)
    for path in output.glob("*.json"):
        if not (runs / path.name).exists():  # of a unit that was run again with other settings
            path.unlink()
    for path in tqdm(sorted(set(runs.glob("*.json")) - set(runs.glob("split-*.json"))), desc="met items left out"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("error", "") is not None or record["mask_history"] is not False:
            continue  # of a failed unit, of before the benchmark, of the other rule
        if (output / path.name).exists() and json.loads((output / path.name).read_text(encoding="utf-8"))["seconds"] == record["seconds"]:
            continue
        found = [file for folder in saved for file in (folder / record["dataset"]).glob(f"*-{record['hash']}/best.pth")]
        found = [file for file in found if chosen_by(file) in (record["valid"] or {}).values()]  # a unit that was run twice has left two
        if found:
            write_json(output / path.name, tested(record, found[0], keys, command))
        else:
            (output / path.name).unlink(missing_ok=True)
            without.append(path.stem)
    return without


def chosen_by(checkpoint: Path) -> float:
    """The validation figure that chose a checkpoint."""
    return load_checkpoint(checkpoint)["best_valid_score"]


def comparison(stay: list[dict[str, Any]], out: list[dict[str, Any]]) -> list[str]:
    """Lines of the table of both rules, the best without met items first.

    Args:
        stay: rows of the leaderboard with met items.
        out: rows of the one without.
    """
    before = {tuple(row["hashes"]): row for row in stay}
    pairs = [(before[tuple(row["hashes"])], row) for row in out if tuple(row["hashes"]) in before]

    def shown(row: dict[str, Any], metric: str) -> str:
        found = row["test"][metric]
        return f"{found['mean']:.4f}" + ("" if found["std"] is None else f" ± {found['std']:.4f}")

    def place(row: dict[str, Any], rows: list[dict[str, Any]]) -> int:
        means = [round(other["test"][METRICS[0]]["mean"], 4) for other in (row, *rows)]  # equal where the figures shown are
        return 1 + sum(mean > means[0] for mean in means)

    cells = []
    for old, new in sorted(pairs, key=lambda pair: -pair[1]["test"][METRICS[0]]["mean"]):
        places = [place(row, [pair[rule] for pair in pairs]) for rule, row in enumerate((old, new))]
        figures = [shown(row, metric) for metric in METRICS for row in (old, new)]
        cells.append([escaped(label(new)), str(len(new["seeds"])), *figures, " → ".join(map(str, places))])
    return markdown_table(HEAD, cells)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_path", help="where the dataset lies, if not where it lay in training")
    parser.add_argument("--saved", nargs="+", type=Path, default=[Path("saved")], help="folders of the grid's checkpoints")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder of the grid's results")
    options = parser.parse_args(words)
    keys = {"device": "cpu", "show_progress": False, "state": "warning"}
    keys |= {"data_path": options.data_path} if options.data_path else {}
    command = f"python benchmarks/mask_history.py --dataset {options.dataset}"
    folder = Path("runs") / options.dataset
    without = test_again(options.output / folder, options.output / "mask_history" / folder, options.saved, keys, command)
    rows = [leaderboard(place / folder)["rows"] for place in (options.output, options.output / "mask_history")]
    if not all(rows):
        raise UserError(f"{options.output} has no run of {options.dataset} with its checkpoint under {', '.join(map(str, options.saved))}")
    write_leaderboards(options.output / "mask_history")
    text = [f"# What items met before do to the ranking: {options.dataset}", NOTE, "\n".join(comparison(*rows)), f"`{command}`"]
    text += [f"Without a checkpoint or its validation, so not tested again, nor shown above under their other seeds: {', '.join(map(escaped, without))}."] if without else []
    path = options.output / f"mask_history_{options.dataset}.md"
    with atomic_write(path) as file:
        file.write("\n\n".join(text) + "\n")
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
