"""What a run says when it ends: what its result is called, its metrics as a table, and what comes next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_r3vae.config import Config


def result_name(config: Config) -> str:
    """What a run's result is called: ``SASRec``, ``R3GR[R3VAE]``, ``R3GR-hybrid[R3VAE]`` where it reads item ids beside content, or
    ``DeepFM-replace[R3VAE]`` by what semantic IDs as features do to the item id."""
    family = config.contract.result_name(config)
    if config.contract.needs(config).semantic_ids is None:
        return family
    whose = Path(config["sid_file"]).stem if config["sid_file"] else config["tokenizer"].rpartition(":")[2]
    return f"{family}[{whose}]"


def metric_table(config: Config, result: dict[str, Any]) -> str:
    """Validation and test metrics side by side, the test under each rule on items that users have met."""
    columns = {"validation": result["best_valid_result"], "test": result["test_result"]}
    if any(result["test"].values()):
        columns = {"validation": result["best_valid_result"], "test, met left out": result["test"].get("left_out")}
        columns["met stay"] = result["test"].get("stay")
    widths = {name: max(10, len(name)) for name in columns}
    lines = [f"{'':>16}  " + "  ".join(f"{name:>{width}}" for name, width in widths.items())]
    for metric in result["test_result"] or result["best_valid_result"] or {}:
        cells = (
            f"{values[metric]:{widths[name]}.4f}" if values and metric in values else " " * widths[name] for name, values in columns.items()
        )
        lines.append(f"{metric:>16}  {'  '.join(cells)}")
    if any(result["test"].values()) and result["best_valid_result"]:
        lines.append(f"(items that a user has met: validation has them {'left out' if config['valid_rule'] == 'left_out' else 'stay'})")
    if result["by_repeat"]:
        lines.append(_repeats_in_words(config["valid_metric"].lower(), result["by_repeat"], result["repeated_targets"]))
    if result["beam_levels"]:
        lines.append(_levels_in_words(result["beam_levels"]))
    return "\n".join(lines)


def _repeats_in_words(metric: str, by_repeat: dict[str, Any], n_repeated: int) -> str:
    """``7 test targets had been met before: ndcg@10 of these and of the others, met left out 0.31 and 0.12; met stay 0.2 and 0.1``."""
    figures = [
        f"{name} {by_repeat['repeated'][rule][metric]:.4f} and {by_repeat['new'][rule][metric]:.4f}"
        for rule, name in (("left_out", "met left out"), ("stay", "met stay"))
        if metric in (by_repeat["repeated"][rule] or {})
    ]
    told = f": {metric} of these and of the others, {'; '.join(figures)}" if figures else ""
    return f"{n_repeated:,} test targets had been met before, and stay candidates under both rules{told}"


def _levels_in_words(by_rule: dict[str, list[dict[str, float | None]]]) -> str:
    """What became of the targets' prefixes in the beam, a line a level."""
    rule, name = next((rule, name) for rule, name in (("left_out", "left out"), ("stay", "staying")) if rule in by_rule)
    lines = [f"{'level':>16}  {'target in the beam':>18}  {'at rank 1':>10}  {'mean rank':>10}  {'CRP':>10}  (met {name})"]
    for level, of_level in enumerate(by_rule[rule], 1):
        rank, crp = (f"{'':>10}" if of_level[key] is None else f"{of_level[key]:{sign}10.2f}" for key, sign in (("rank", ""), ("crp", "+")))
        lines.append(f"{level:>16}  {of_level['in_beam']:18.4f}  {of_level['first']:10.4f}  {rank}  {crp}".rstrip())
    return "\n".join(lines)


def closing_words(config: Config, result: dict[str, Any], saved: bool) -> str:
    """The last lines of a run's log."""
    budget = "its tokenizer_max_minutes" if config["max_minutes"] is None else f"max_minutes={config['max_minutes']:g}"
    marked = f" (stopped at {budget})" if result["stopped_at_budget"] else ""
    lines = [f"{result['name']} on {config.dataset}{marked}", metric_table(config, result)]
    if saved:
        lines.append(f"checkpoint: {Path(result['run_dir']) / 'best.pth'}")
    if result["sid_file"]:
        lines.append(f"semantic IDs: {result['sid_file']}")
        lines.append(config.contract.next_step(config))
    return "\n".join(lines)
