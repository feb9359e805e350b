"""Plots of trained tokenizers: code usage, item maps, training curves, scores side by side. Needs matplotlib, the [viz] extra."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from sklearn.decomposition import PCA, TruncatedSVD

from recbole_r3vae.data.items import ItemVectors
from recbole_r3vae.io import atomic_write
from recbole_r3vae.quick_start.semantic_ids import TrainedTokenizer
from recbole_r3vae.trainer.tokenizer import summary

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow that white paper swallows
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", "-.", ":")
GREY = "#C8C8C8"
WIDTH = 10.0  # inches; with DPI, 1500 pixels: sharp at the width of a README
DPI = 150
LOOK = {
    "font.size": 10, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#E6E6E6",
    "axes.axisbelow": True, "legend.frameon": False, "figure.constrained_layout.use": True, "figure.labelsize": 10,
}  # fmt: skip

MAP_ITEMS = 10_000
"""Items on a map at most; more would cover each other."""
PAIR_ITEMS = 2_000
"""Items whose pairwise cosines are counted at most; two million pairs."""


def draw_plots(output: Path, tokenizers: Sequence[TrainedTokenizer], items: ItemVectors) -> list[tuple[str, str]]:
    """Draw all plots into a folder.

    Args:
        output: the folder.
        tokenizers: at least one, all of the same catalogue.
        items: the catalogue.

    Returns:
        File name and caption of each plot.
    """
    plots = [
        ("scores.png", "Scores of the semantic IDs, all in the space of the item vectors", lambda: _scores(tokenizers)),
        ("usage.png", "How often each code is used, most used first; a uniform tokenizer is the line at 1", lambda: _usage(tokenizers)),
        (
            "map.png",
            "The items, the same map for all; coloured: those of the seven first codes with the most items",
            lambda: _maps(tokenizers, items),
        ),
    ]
    for tokenizer in tokenizers:
        if _has_reference(tokenizer, items):
            name = tokenizer.config.model
            caption = f"{name}: the items before and after the part along the reference vector is taken out"
            plots.append((f"reference_{name}.png", caption, lambda tokenizer=tokenizer: _reference(tokenizer, items)))
    trained = [tokenizer for tokenizer in tokenizers if tokenizer.description.get("history")]
    if trained:
        plots.append(("training.png", "Training, and validation on the whole catalogue", lambda: _training(trained)))
    with rc_context(LOOK):
        for name, _, draw in plots:
            with atomic_write(output / name, "wb") as file:
                draw().savefig(file, format="png", dpi=DPI)
    return [(name, caption) for name, caption, _ in plots]


def _panels(n: int, columns: int, height: float, **keywords: Any) -> tuple[Figure, list[Axes]]:
    """A figure of ``n`` panels of the given height in inches."""
    rows = math.ceil(n / columns)
    figure = Figure(figsize=(WIDTH, rows * height))
    axes = figure.subplots(rows, columns, squeeze=False, **keywords).flatten().tolist()
    for unused in axes[n:]:
        unused.remove()
    return figure, axes[:n]


# -- scores ------------------------------------------------------------------------------------------------------------------


def _scores(tokenizers: Sequence[TrainedTokenizer]) -> Figure:
    def score(name: str) -> Callable[[dict], float]:
        return lambda quality: summary(quality)[name]

    panels = [
        ("unique ratio", "higher is better*", score("unique_ratio")),
        ("lowest usage", "higher is better", lambda quality: min(level["usage_of_reachable"] for level in quality["levels"])),
        ("SC raw", "higher is better", score("sc")),
        ("PD raw", "lower is better", score("pd")),
        ("unexplained share", "lower is better", lambda quality: quality["reconstruction"]["relative"]),
    ]
    names = [tokenizer.config.model for tokenizer in tokenizers][::-1]  # the first at the top
    figure = Figure(figsize=(WIDTH, 1.5 + 0.3 * len(names)))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, direction, value) in zip(axes, panels):
        values = [value(tokenizer.description["quality"]) for tokenizer in tokenizers][::-1]
        values = [math.nan if v is None else v for v in values]
        axis.plot(values, names, "o", color=COLOURS[0], markersize=7)
        axis.set_title(title)
        axis.set_xlabel(direction)
        axis.margins(x=0.15)
        axis.locator_params(axis="x", nbins=4)
        if "ratio" in title or "usage" in title:
            axis.set_xlim(0, 1.05)
        axis.tick_params(axis="y", length=0)
    figure.supxlabel("* only together with a high SC and a small unexplained share: codes without meaning are unique, too", fontsize=9)
    return figure


# -- usage -------------------------------------------------------------------------------------------------------------------


def _usage(tokenizers: Sequence[TrainedTokenizer]) -> Figure:
    figure, axes = _panels(len(tokenizers), 4, 2.3, sharex=True, sharey=True)
    legend_for = None
    for axis, tokenizer in zip(axes, tokenizers):
        raw = tokenizer.raw
        colours = COLOURS if raw.n_levels <= len(COLOURS) else colormaps["cividis"](np.linspace(0, 0.9, raw.n_levels))
        for level, (codes, size) in enumerate(zip(raw.codes[1:].unbind(1), raw.codebook_sizes)):
            counts = torch.bincount(codes, minlength=size).sort(descending=True).values.numpy()
            relative = counts[counts > 0] * size / len(codes)  # 1: the use of every code if all were used alike
            share = np.arange(1, len(relative) + 1) / size  # ends where the used codes end
            label = f"level {level + 1}" if level < len(COLOURS) or level == raw.n_levels - 1 else None
            style = STYLES[level % len(STYLES)] if raw.n_levels <= len(COLOURS) else "-"
            axis.plot(share, relative, style, color=colours[level], linewidth=1.8, label=label)
        axis.axhline(1, color="#777777", linewidth=0.8)
        axis.set_title(tokenizer.config.model)
        axis.set(yscale="log", xlim=(0, 1), xticks=[0, 0.5, 1])
        axis.yaxis.set_major_formatter("{x:g}")
        axis.tick_params(labelbottom=True, labelleft=True)
        if raw.n_levels != legend_for:
            axis.legend(fontsize=8, loc="lower left", handlelength=2.5)
            legend_for = raw.n_levels
    figure.supxlabel("share of the level's codes, most used first")
    figure.supylabel("items of the code / mean")
    return figure


# -- maps --------------------------------------------------------------------------------------------------------------------


def _sample(items: ItemVectors, n: int, seed: int) -> np.ndarray:
    """Rows of at most ``n`` random items, in row order."""
    rows = 1 + np.random.default_rng(seed).permutation(items.n_items - 1)[:n]
    return np.sort(rows)


def _colour_by_first_code(axis: Axes, points: np.ndarray, tokenizer: TrainedTokenizer, items: ItemVectors, rows: np.ndarray) -> None:
    """Items ``points [m, 2]`` of the given rows: the seven most used first codes in colour, above all others in grey."""
    first = tokenizer.raw.align(items.item_ids).codes[:, 0]
    largest = torch.bincount(first[1:]).argsort(descending=True, stable=True)[: len(COLOURS)].tolist()
    codes = first[torch.from_numpy(rows)].numpy()
    axis.scatter(*points[~np.isin(codes, largest)].T, s=2, color=GREY, linewidths=0, rasterized=True)
    for colour, code in zip(COLOURS, largest):
        axis.scatter(*points[codes == code].T, s=9, color=colour, linewidths=0, rasterized=True)
    axis.grid(False)


def _maps(tokenizers: Sequence[TrainedTokenizer], items: ItemVectors) -> Figure:
    seed = tokenizers[0].config["seed"]
    rows = _sample(items, MAP_ITEMS, seed)
    pca = PCA(2, svd_solver="randomized", random_state=seed)
    points = pca.fit_transform(items.gather(rows))
    figure, axes = _panels(len(tokenizers), 4, 2.5)
    for axis, tokenizer in zip(axes, tokenizers):
        _colour_by_first_code(axis, points, tokenizer, items, rows)
        axis.set_title(tokenizer.config.model)
        axis.set(xticks=[], yticks=[])
    first, second = pca.explained_variance_ratio_
    figure.supxlabel(f"first principal component of the item vectors ({first:.1%} of the variance)")
    figure.supylabel(f"second ({second:.1%})")
    return figure


def _has_reference(tokenizer: TrainedTokenizer, items: ItemVectors) -> bool:
    if tokenizer.model.dim != items.dim:  # one that reads another content, such as PRISM
        return False
    with torch.no_grad():
        return tokenizer.model.quantize(torch.from_numpy(items.gather(np.array([1])))).reference is not None


@torch.no_grad()
def _reference(tokenizer: TrainedTokenizer, items: ItemVectors) -> Figure:
    seed = tokenizer.config["seed"]
    rows = _sample(items, MAP_ITEMS, seed)
    x = torch.from_numpy(items.gather(rows))  # [m, d]
    after = torch.cat([tokenizer.model.quantize(part).residuals[0] for part in x.split(4096)])
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:PAIR_ITEMS]
    figure = Figure(figsize=(WIDTH, 3.6))
    *maps, histogram = figure.subplots(1, 3)
    looks = ({"histtype": "stepfilled", "color": COLOURS[0], "alpha": 0.45}, {"histtype": "step", "color": COLOURS[1]})
    for axis, vectors, title, look in zip(maps, (x, after), ("before", "after"), looks):
        svd = TruncatedSVD(2, random_state=seed)  # not centred: cosines are angles at the origin, which has to stay where it is
        _colour_by_first_code(axis, svd.fit_transform(vectors.numpy()), tokenizer, items, rows)
        axis.plot(0, 0, "+", color="black", markersize=12, markeredgewidth=1.5)
        axis.set_title(f"{title} reference projection")
        axis.set(xlabel="first singular vector (+: the origin)", ylabel="second", xticks=[], yticks=[])
        cosines = _pairwise_cosines(vectors[chosen])
        label = f"{title}: mean {cosines.mean():.3f}"
        histogram.hist(cosines, bins=np.linspace(-0.5, 1, 76), density=True, linewidth=1.8, label=label, **look)
    histogram.set_title("cosines of item pairs")
    histogram.set(xlabel="cosine", ylabel="density", yscale="log")
    histogram.legend(fontsize=9, loc="upper right")
    return figure


def _pairwise_cosines(x: torch.Tensor) -> np.ndarray:
    """Cosines of all pairs of different rows of ``x [n, d]``, ``[n (n - 1) / 2]``."""
    unit = torch.nn.functional.normalize(x, dim=-1)
    i, j = torch.triu_indices(len(x), len(x), offset=1)
    return (unit @ unit.T)[i, j].numpy()


# -- training ----------------------------------------------------------------------------------------------------------------


def _training(tokenizers: Sequence[TrainedTokenizer]) -> Figure:
    panels = {
        "loss": "training loss (not comparable)",
        "reconstruction": "reconstruction error",
        "unique_ratio": "unique ratio",
        "usage": "mean usage of codes",
        "sc": "SC raw",
        "pd": "PD raw",
    }
    figure, axes = _panels(len(panels), 3, 2.6, sharex=True)
    for number, tokenizer in enumerate(tokenizers):
        history = tokenizer.description["history"]
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number % len(STYLES)], "label": tokenizer.config.model}
        for axis, name in zip(axes, panels):
            if name == "loss":
                points = [(epoch["epoch"], epoch["loss"]) for epoch in history]
            else:
                points = [(epoch["epoch"], epoch["valid"][name]) for epoch in history if "valid" in epoch]
            points = [point for point in points if point[1] is not None]
            if points:
                axis.plot(*zip(*points), marker=None if name == "loss" else ".", linewidth=1.8, **style)
    for axis, title in zip(axes, panels.values()):
        axis.set_title(title)
        axis.tick_params(labelbottom=True)
    losses = [epoch["loss"] for tokenizer in tokenizers for epoch in tokenizer.description["history"]]
    if 0 < 10 * min(losses) < max(losses):
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter("{x:g}")
        axes[0].yaxis.set_minor_formatter(NullFormatter())
    figure.supxlabel("epoch")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 7))
    return figure
