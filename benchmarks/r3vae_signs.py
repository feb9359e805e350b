"""Whether taking a part of R3-VAE away does to recommendations what its paper reports: the sign of each difference.

    recbole-r3vae benchmark --config=properties/benchmark/lastfm_r3vae.yaml --output=results/r3vae_ablation --data_path=dataset
    python benchmarks/r3vae_signs.py
    python benchmarks/r3vae_signs.py --config=properties/benchmark/amazon-beauty-parts.yaml --runs=results/parts/runs/amazon-beauty \
        --output=results/r3vae_parts_amazon-beauty.md

Reads the records of a grid of one generator: R3VAE, variants of it by the names in ``CHANGES``, and maybe other tokenizers. SC and PD are
those of the quality table in the space of the item vectors, where tokenizers compare; the paper's are presumably of each tokenizer's own
space. A difference counts as found where a paired t-test over users, each user's metric averaged over the seeds, has p below .05. Figures
are those with met items left out where all records have them, and otherwise those with met items among the candidates.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.grid import load_grid
from recbole_r3vae.experiments.leaderboard.records import RULE_NAMES, read_runs, rules_of, split_of
from recbole_r3vae.experiments.leaderboard.rows import grouped
from recbole_r3vae.experiments.statistics import users_test
from recbole_r3vae.experiments.tables import markdown_table
from recbole_r3vae.io import atomic_write
from recbole_r3vae.record import RULES, Record, Rule, user_metric

DEFAULT = {
    "tokenizer_reference_vector": True, "tokenizer_rating_mode": "top1", "tokenizer_sc_weight": 0.01, "tokenizer_pd_weight": 0.01,
}  # fmt: skip
METRICS = ("recall@10", "ndcg@10", "sc_raw", "pd_raw")
# arXiv 2604.11440, ablation on Amazon Beauty: R@10, N@10, SC, PD; of the lambdas it has no SC and PD.
PAPER = {
    "default": (0.0716, 0.0393, 0.97, -1.81),
    "no reference vector": (0.0642, 0.0357, 0.94, -1.73),
    "rating replaced by STE": (0.0640, 0.0351, 0.90, -1.78),
    "no SC": (0.0652, 0.0369, 0.90, -1.85),
    "no PD": (0.0647, 0.0367, 0.96, -1.56),
    "lambda .001": (0.0656, None, None, None),
    "lambda .1": (0.0669, None, None, None),
}
NOTHING = (None,) * len(METRICS)
CHANGES = {
    "default": {},
    "no reference vector": {"tokenizer_reference_vector": False},
    "rating replaced by STE": {"tokenizer_rating_mode": "ste"},
    "no SC": {"tokenizer_sc_weight": 0.0},
    "no PD": {"tokenizer_pd_weight": 0.0},
    "lambda .001": {"tokenizer_sc_weight": 0.001, "tokenizer_pd_weight": 0.001},
    "lambda .1": {"tokenizer_sc_weight": 0.1, "tokenizer_pd_weight": 0.1},
}


def rows_of(grid: dict[str, Any]) -> list[str]:
    """What a grid's tokenizers are here: ``default``, variants by their names, other tokenizers by theirs.

    Raises:
        UserError: a grid of several generators, or a tokenizer of a name that is neither R3VAE, a variant nor another tokenizer's.
    """
    if len(grid["models"]) != 1:
        raise UserError(f"{grid['where']} has {len(grid['models'])} models; the signs are of one generator: choose --config of such a grid")
    (model,) = grid["models"].values()
    names = {"default" if name == "R3VAE" else name: own.get("tokenizer", name) for name, own in model.get("tokenizers", {}).items()}
    unknown = [name for name, tokenizer in names.items() if name not in CHANGES and (tokenizer == "R3VAE" or tokenizer != name)]
    if "default" not in names or unknown:
        lack = f"{unknown[0]!r}, which is no variant" if unknown else "no R3VAE"
        raise UserError(f"{model['where']} has {lack}; it needs R3VAE, and variants are called {', '.join(list(CHANGES)[1:])}")
    return list(names)


def by_variant(groups: list[list[Record]], names: Sequence[str]) -> dict[str, list[Record]]:
    """The runs of each row, over seeds, the default's first.

    Raises:
        UserError: a row has no runs, or one under a seed that the default has not.
    """
    found = {}
    for name in sorted(names, key=lambda name: name != "default"):
        wanted = {"tokenizer": name} if name not in CHANGES else {**DEFAULT, **CHANGES[name], "tokenizer": "R3VAE"}
        having = [runs for runs in groups if all(runs[0].config.get(key) == value for key, value in wanted.items())]
        if len(having) != 1:
            raise UserError(f"{len(having)} rows are of {name}, not 1; run the grid of --config first")
        found[name] = having[0]
        lacking = {run.seed for run in found[name]} - {run.seed for run in found["default"]}
        if lacking:
            raise UserError(f"{name} has seeds {sorted(lacking)}, which the default has not; run the grid to its end")
        if len({split_of(run) for run in (*found[name], *found["default"])}) > 1:
            raise UserError(f"{name} and the default are of different splits, whose users do not pair; run the grid on one dataset's files")
    return found


def common_rule(groups: list[list[Record]]) -> Rule:
    """The rule on met items under which all runs were tested; ``left_out`` where they have both.

    Raises:
        UserError: there is none.
    """
    found = [rule for rule in RULES if all(rule in rules_of(run) for runs in groups for run in runs)]
    if not found:
        raise UserError("some runs were tested with met items only, others without them only; run the grid again")
    return found[0]


def difference(name: str, metric: str, rule: Rule, runs: list[Record], base: list[Record]) -> dict[str, Any]:
    """A variant's mean less the default's, what the paper's figures differ by, and p over users where the metric is one of users."""
    place = METRICS.index(metric)
    reported = None if PAPER.get(name, NOTHING)[place] is None else PAPER[name][place] - PAPER["default"][place]
    if metric.endswith("_raw"):
        values = [[run.quality[metric] for run in some] for some in (runs, base)]
        return {"found": float(np.mean(values[0]) - np.mean(values[1])), "paper": reported, "p": None}
    users = [np.mean([user_metric(run.ranks(rule), metric) for run in some], axis=0) for some in (runs, base)]  # [n_users] each
    return {"found": float(users[0].mean() - users[1].mean()), "paper": reported, "p": users_test(*users)[0]}


def report(groups: list[list[Record]], names: Sequence[str], made_by: Sequence[str]) -> list[str]:
    """Lines of the Markdown page.

    Args:
        groups: the grid's runs, those that differ in their seed together.
        names: of its rows, see :func:`rows_of`.
        made_by: the two commands.
    """
    variants = by_variant(groups, names)
    base = variants["default"]
    rule = common_rule(list(variants.values()))
    figures, signs = [], []
    for name, runs in variants.items():
        cells = []
        for part, metric in (("valid", "ndcg@10"), ("test", "recall@10"), ("test", "ndcg@10"), ("quality", "sc_raw"), ("quality", "pd_raw"),
                             ("quality", "unique_ratio")):  # fmt: skip
            values = [{"valid": run.valid, "test": run.test[rule], "quality": run.quality}[part][metric] for run in runs]
            cells.append(f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""))
        seeds = [run.seed for run in runs]
        figures.append([name, ", ".join(map(str, seeds)), *cells])
        if name != "default":
            same = [run for run in base if run.seed in seeds]
            signs.append([name, *(_cell(difference(name, metric, rule, runs, same)) for metric in METRICS)])
    records = [run for runs in variants.values() for run in runs]
    cut = sum(record.stopped_at_budget for record in records)
    return [
        f"# What the parts of R3-VAE do to recommendations on {base[0].dataset}",
        "",
        ", then ".join(f"`{command}`" for command in made_by),
        "",
        f"{base[0].name.partition('[')[0]} on the semantic IDs of each row: variants of R3VAE, each one change away from the default"
        f"{', and other tokenizers' if set(names) - set(CHANGES) else ''}; "
        "mean ± sample standard deviation over seeds; "
        f"{cut} of {len(records)} units stopped at their budget. "
        f"Rule of the test figures: {RULE_NAMES[rule]}. SC and PD are means over levels in the space of the item vectors.",
        "",
        *markdown_table(("row", "seeds", "valid NDCG@10", "test Recall@10", "test NDCG@10", "SC", "PD", "unique ratio"), figures),
        "",
        "## Beside the paper's signs",
        "",
        "Difference to the default, and in brackets the paper's (arXiv 2604.11440, Amazon Beauty, another generator and text encoder): "
        "only its sign can compare. Both are taken under the seeds of the row. *p* is of a paired t-test over users, each averaged over those "
        "seeds, and uncorrected for the number of "
        "tests; where it is .05 or above, no difference was found, whatever the sign.",
        "",
        *markdown_table(("row", "Recall@10", "NDCG@10", "SC", "PD"), signs),
    ]  # fmt: skip


def _cell(entry: dict[str, Any]) -> str:
    cell = f"{entry['found']:+.4f}" + ("" if entry["p"] is None else ", p < .01" if entry["p"] < 0.005 else f", p {entry['p']:.2f}")
    return f"{cell} ({entry['paper']:+.4f})" if entry["paper"] is not None else cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("properties/benchmark/lastfm_r3vae.yaml"), help="the grid")
    parser.add_argument("--runs", type=Path, default=Path("results/r3vae_ablation/runs/lastfm"), help="the grid's run files")
    parser.add_argument("--output", type=Path, default=Path("results/r3vae_ablation_lastfm.md"))
    options = parser.parse_args()
    runs, failed, _ = read_runs(options.runs)
    if failed:
        raise SystemExit(f"{len(failed)} units failed, such as {failed[0]['name']}, seed {failed[0]['seed']}: run the grid again")
    notes: list[str] = []
    commands = (f"recbole-r3vae benchmark --config={options.config} --output={options.runs.parents[1]}", shlex.join(["python", *sys.argv]))
    lines = report(grouped(runs, notes), rows_of(load_grid(options.config)), commands)
    with atomic_write(options.output) as file:
        file.write("\n".join([*lines, *notes]) + "\n")
    print(options.output)


if __name__ == "__main__":
    main()
