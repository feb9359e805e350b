"""All that is measured of semantic IDs in one report, as a dict for files and as a table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recbole_r3vae.sid.quality.clusters import Sampling, Separation, Vectors, cohesion, groups_of, levels_of, row_blocks
from recbole_r3vae.sid.quality.usage import code_usage


def quality_report(
    codes: Tensor,
    codebook_sizes: Sequence[int],
    spaces: Mapping[str, Vectors],
    squared_errors: Tensor | None = None,
    seed: int = 0,
    ordered: bool = True,
) -> dict:
    """Usage, cohesion, separation and reconstruction of one catalogue, as a dict that JSON can hold.

    Args:
        codes: Integers ``[n, L]``.
        codebook_sizes: ``K_1 .. K_L``.
        spaces: Name -> vectors ``[n, d]`` in which SC and PD are measured, for example
            ``{"raw": x, "residual": e0}``.
        squared_errors: ``[n]``, of each item's reconstruction, to be told beside the variance of ``spaces["raw"]``; default: not measured.
        seed: Of the pairs of a sampled PD.
        ordered: Whether each code refines those before it: clusters are made by prefix; otherwise, by digit. Default True.

    Returns:
        ``by``, ``"prefix"`` or ``"digit"``: what makes a cluster (:mod:`recbole_r3vae.sid.quality.clusters`); the keys of
        :func:`~recbole_r3vae.sid.quality.usage.code_usage`, whose ``levels`` also hold ``level`` (from 1), ``clusters``,
        ``clusters_2plus`` and ``spaces``: name -> ``sc``, ``sc_stderr``, ``sc_sampled_clusters``, ``pd``, ``pd_stderr``, ``pd_sampled_pairs``; and
        ``reconstruction``: the dict of :func:`reconstruction_error` or ``None``. Undefined values are
        ``None``.

    Raises:
        UserError: codes that are not in their codebooks.
        ValueError: shapes do not fit, a vector that is not finite, or errors of a reconstruction without the space
            ``"raw"``.
    """
    if squared_errors is not None and "raw" not in spaces:
        raise ValueError(f"a reconstruction is compared with the space 'raw', got only {sorted(spaces)}")
    report = {"by": "prefix" if ordered else "digit"} | code_usage(codes, codebook_sizes)
    groups = groups_of(codes, ordered)
    for number, (level, group) in enumerate(zip(report["levels"], groups), start=1):
        counts = torch.bincount(group)
        level |= {
            "level": number,
            "clusters": len(counts),
            "clusters_2plus": int((counts > 1).sum()),
            "spaces": {},
        }
    for name, x in spaces.items():
        sampling = Sampling(seed=seed)
        separation = Separation(2.0, sampling)
        for level, clusters in zip(reversed(report["levels"]), levels_of(codes, x, ordered, repr(name), sampling, groups)):
            closeness, discrimination = cohesion(clusters), separation.of(clusters)
            level["spaces"][name] = {
                "sc": closeness["sc"],
                "sc_stderr": closeness["stderr"],
                "sc_sampled_clusters": closeness["sampled_clusters"],
                "pd": discrimination["pd"],
                "pd_stderr": discrimination["stderr"],
                "pd_sampled_pairs": discrimination["sampled_pairs"],
            }
    report["reconstruction"] = None if squared_errors is None else reconstruction_error(spaces["raw"], squared_errors)
    return _without_nan(report)


def format_quality(report: dict) -> str:
    """A report of :func:`quality_report` as a fixed-width table for the console.

    Args:
        report: The report, also after a round trip through JSON.

    Returns:
        Several lines without a final line end: one row a level (a digit, where that makes the clusters), one summary line,
        and a note on each mark that occurs (``-`` undefined, ``~`` estimated from sampled pairs).
    """
    levels = report["levels"]
    spaces = list(levels[0]["spaces"])
    by_digit = report.get("by") == "digit"  # reports of earlier versions do not say: all were by prefix
    rows = [["digit" if by_digit else "level", "used codes", "usage", "perplexity", "Gini", "clusters>=2"]]
    rows[0] += [f"{metric} {space}" for space in spaces for metric in ("SC", "PD")]
    for level in levels:
        row = [
            str(level["level"]),
            f"{level['used']}/{level['codebook_size']}",
            f"{level['usage']:.4f}",
            f"{level['perplexity']:.1f}",
            f"{level['gini']:.4f}",
            f"{level['clusters_2plus']}/{level['clusters']}",
        ]
        for space in spaces:
            values = level["spaces"][space]
            mark = "~" if values["pd_sampled_pairs"] else ""
            row += [("~" if values.get("sc_sampled_clusters") else "") + _number(values["sc"]), mark + _number(values["pd"])]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    summary = (
        f"unique SIDs {report['unique_ratio']:.4f}, collision rate {report['collision_rate']:.4f}, "
        f"items per SID {report['items_per_used_sid']:.4f}, largest SID {report['largest_sid']}"
    )
    if report["reconstruction"]:
        error = report["reconstruction"]
        summary += f", reconstruction error {error['mse']:.4g} ({_number(error['relative'])} of the variance)"
    lines.append(summary)
    measured = [values for level in levels for values in level["spaces"].values()]
    if any(values["sc"] is None or values["pd"] is None for values in measured):
        lines.append("- undefined: SC without a cluster of 2 items, PD with fewer than 2 clusters")
    sampled = max((values["pd_sampled_pairs"] for values in measured), default=0)
    if sampled:
        worst = max(values["pd_stderr"] for values in measured)
        drawn = max(values.get("sc_sampled_clusters", 0) for values in measured)  # earlier reports have none
        if drawn:
            error = max(values["sc_stderr"] for values in measured)
            lines.append(f"~ SC estimated from up to {drawn:,} random clusters, standard error <= {error:.1g}")
        lines.append(f"~ {'PD ' if drawn else ''}estimated from {sampled:,} random pairs of clusters, standard error <= {worst:.1g}")
    return "\n".join(lines)


def reconstruction_error(x: Vectors, squared_errors: Tensor) -> dict:
    """How well a tokenizer's decoder gives the items' vectors back.

    Args:
        x: ``[n, d]``.
        squared_errors: ``[n]``, of each item, summed over dimensions.

    Returns:
        ``mse``, their mean; ``variance``, the same of the best constant, the mean vector; ``relative`` = mse / variance (nan where all
        vectors are equal), the unexplained share.

    Raises:
        ValueError: the shapes do not fit.
    """
    if x.ndim != 2 or 0 in x.shape or squared_errors.shape != (len(x),):
        raise ValueError(f"x must have shape [n, d] and squared_errors [n], got {list(x.shape)} and {list(squared_errors.shape)}")
    squares, origin, total = 0.0, None, None
    for _, block in row_blocks(x):
        if origin is None:
            origin, total = block[0].clone(), torch.zeros(x.shape[1], dtype=torch.float64)
        block -= origin  # leaves the variance as it is, and keeps the difference below from cancelling
        total += block.sum(0)
        squares += block.square().sum().item()
    n = len(x)
    error = squared_errors.double().mean().item()
    variance = max(squares / n - (total / n).square().sum().item(), 0.0)
    relative = error / variance if variance > 0 else math.nan
    return {"mse": error, "variance": variance, "relative": relative}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _without_nan(value: object) -> object:
    """The same nested value with ``None``, JSON's null, in place of nan."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
