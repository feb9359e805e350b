"""What the rule on items that users have met already does to a leaderboard: the same trained models tested under both rules.

    recbole-r3vae benchmark --config=properties/benchmark/lastfm.yaml --data_path=dataset
    python benchmarks/mask_history.py --dataset lastfm --data_path dataset

Under ``mask_history: False``, the rule of the leaderboards and of the papers on semantic IDs, what a user met before stays a candidate;
under ``True`` it is none. Where nobody meets an item twice it can never be the target, and a model that fits what its users met, as
matrix factorisation does, gives it the best places. Models are those that the grid left in ``saved/``, each chosen by its validation
under the grid's rule; none is trained again. Writes ``results/mask_history_<dataset>.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from recbole_r3vae.benchmark.run_files import Run, grouped, read_runs
from recbole_r3vae.benchmark.statistics import mean_std
from recbole_r3vae.benchmark.tables import escaped, markdown_table
from recbole_r3vae.errors import UserError
from recbole_r3vae.io import atomic_write
from recbole_r3vae.quick_start.lookup import get_trainer
from recbole_r3vae.quick_start.run import load_data_and_model

METRICS = ("ndcg@10", "recall@10")
HEAD = ("Model", "Seeds", "NDCG@10, met items stay", "NDCG@10, left out", "Recall@10, met items stay", "Recall@10, left out", "Place")
NOTE = (
    "Test figures of the same trained models under both rules, mean ± sample standard deviation over seeds, and their places by NDCG@10. "
    "Nothing was trained or chosen anew: each model is the one that its validation chose while all items were candidates. {repeated} of "
    "{users:,} test targets are items that their user had met before; these are candidates under both rules."
)


def tested(checkpoint: Path, keys: dict) -> tuple[dict[str, float], int, int]:
    """A trained model where items met before are no candidates.

    Args:
        checkpoint: a run's ``best.pth``.
        keys: settings that differ from those of training.

    Returns:
        Test metrics, number of test targets that their users met before, and of test users.
    """
    config, model, _, _, _, test_data = load_data_and_model(checkpoint, {**keys, "mask_history": True})
    found = get_trainer(config)(config, model).evaluate(test_data, load_best_model=False)
    targets = test_data.dataset.inter_feat
    users, items = (targets[config[field]].tolist() for field in ("USER_ID_FIELD", "ITEM_ID_FIELD"))
    return found, int((test_data.seen[users, items] != 0).sum()), len(users)


def table(rows: list[tuple[str, list[dict[str, float]], list[dict[str, float]]]]) -> list[str]:
    """Lines of the table, best without met items first.

    Args:
        rows: name of a model, its test metrics of each seed with met items and without.
    """

    def shown(seeds: list[dict[str, float]], metric: str) -> str:
        found = mean_std([metrics[metric] for metrics in seeds])
        return f"{found['mean']:.4f}" + ("" if found["std"] is None else f" ± {found['std']:.4f}")

    def places(rule: int) -> list[int]:
        means = [mean_std([metrics[METRICS[0]] for metrics in row[rule]])["mean"] for row in rows]
        return [1 + sum(other > mean for other in means) for mean in means]

    lines = []
    for (name, stay, out), first, last in zip(rows, places(1), places(2)):
        figures = [shown(seeds, metric) for metric in METRICS for seeds in (stay, out)]
        lines.append((last, [escaped(name), str(len(stay)), *figures, f"{first} → {last}"]))
    return markdown_table(HEAD, [cells for _, cells in sorted(lines)])


def best_of(run: Run, saved: list[Path]) -> Path | None:
    """The checkpoint that a unit of the grid left behind."""
    found = [path for folder in saved for path in (folder / run.record["dataset"]).glob(f"*-{run.record['hash']}/best.pth")]
    return found[0] if found else None


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_path", help="where the dataset lies, if not where it lay in training")
    parser.add_argument("--saved", nargs="+", type=Path, default=[Path("saved")], help="folders of the grid's checkpoints")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder of the grid's results")
    options = parser.parse_args(words)
    groups = [runs for runs in grouped(read_runs(options.output / "runs" / options.dataset)[0], []) if not runs[0].record["mask_history"]]
    checkpoints = [[best_of(run, options.saved) for run in runs] for runs in groups]
    whole = [(runs, paths) for runs, paths in zip(groups, checkpoints) if all(paths)]
    if not whole:
        raise UserError(f"{options.output} has no run of {options.dataset} with its checkpoint under {', '.join(map(str, options.saved))}")
    keys = {"device": "cpu", "metrics": ["NDCG", "Recall"], "topk": [10], "show_progress": False, "state": "warning"}
    keys |= {"data_path": options.data_path} if options.data_path else {}
    rows = []
    for runs, paths in tqdm(whole, desc="met items left out"):
        found, repeated, users = zip(*(tested(path, keys) for path in paths))
        rows.append((runs[0].record["name"], [run.record["test"] for run in runs], list(found)))
    without = sorted(runs[0].record["name"] for runs, paths in zip(groups, checkpoints) if not all(paths))
    text = [
        f"# What items met before do to the ranking: {options.dataset}",
        NOTE.format(repeated=repeated[0] or "None", users=users[0]),
        "\n".join(table(rows)),
        *([f"Without checkpoints, so not tested: {', '.join(map(escaped, without))}."] if without else []),
        f"`python benchmarks/mask_history.py --dataset {options.dataset}`\n",
    ]
    path = options.output / f"mask_history_{options.dataset}.md"
    with atomic_write(path) as file:
        file.write("\n\n".join(text))
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
