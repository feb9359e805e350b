"""Scatter plots as SVG for the leaderboard's page: text in, text out, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 58, 26, 12, 46  # margins, in pixels of the SVG's own width
CHARACTER, LINE = 6.9, 14  # about the size of a label's letters
Box = tuple[float, float, float, float]  # left, top, right, bottom
FAR = 10  # from the mark, from where on a line leads to the name
# Where a name may stand: its anchor, and the anchor's distance from the mark, near places first
NEAR_PLACES = [("start", 9, 4), ("end", -9, 4), ("middle", 0, -10), ("middle", 0, 18)]
FAR_PLACES = [
    (anchor, sign * dx, 4 + dy)
    for dx in (16, 28)
    for dy in (-16, 16, -32, 32, -48, 48, -64, 64)
    for anchor, sign in (("start", 1), ("end", -1))
]
WIDE = 600  # pixels of width from which on there is room for names far from their marks
FAMILIES = ("generative", "sequential", "general")


@dataclass(frozen=True)
class Point:
    """A mark: name, family (form and colour), place, and the spread of y."""

    name: str
    family: str
    x: float
    y: float
    spread: float = 0.0


def scatter(points: Sequence[Point], x_title: str, y_title: str, width: int, height: int, log_x: bool = False) -> str:
    """Draw points with names and whiskers.

    A name is left out where it would cover another one or leave the plot; pointing at the mark still shows it.

    Args:
        points: at least one; with ``log_x``, their x is positive.
        x_title: what x is.
        y_title: what y is.
        width: of the SVG's coordinates, in pixels; it scales to its place.
        height: likewise.
        log_x: logarithmic x axis.

    Returns:
        An ``<svg>`` element.
    """
    scale = math.log10 if log_x else float
    x_low, x_high = _range([scale(point.x) for point in points])
    y_low, y_high = _range([point.y + sign * point.spread for point in points for sign in (-1, 1)])

    def left(x: float) -> float:
        return LEFT + (scale(x) - x_low) / (x_high - x_low) * (width - LEFT - RIGHT)

    def top(y: float) -> float:
        return height - BOTTOM - (y - y_low) / (y_high - y_low) * (height - TOP - BOTTOM)

    floor, right = height - BOTTOM, width - RIGHT
    parts = []
    for value in _ticks(y_low, y_high):
        parts.append(f'<path class="grid" d="M{LEFT} {top(value):.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{top(value) + 4:.1f}" text-anchor="end">{_tick(value)}</text>')
    for value in _log_ticks(x_low, x_high) if log_x else _ticks(x_low, x_high):
        parts.append(f'<path class="grid" d="M{left(value):.1f} {TOP}V{floor}"/>')
        parts.append(f'<text x="{left(value):.1f}" y="{floor + 18}" text-anchor="middle">{_tick(value)}</text>')
    parts.append(f'<text class="axis" x="{(LEFT + right) / 2:.0f}" y="{height - 8}" text-anchor="middle">{escape(x_title)}</text>')
    middle = (TOP + floor) / 2
    parts.append(
        f'<text class="axis" x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">{escape(y_title)}</text>'
    )
    places = [(left(point.x), top(point.y)) for point in points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for point, (x, y) in zip(points, places):
        family = point.family if point.family in FAMILIES else "other"
        ends = (top(point.y - point.spread), top(point.y + point.spread))
        whisker = f'<path class="whisker" d="M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}"/>' if point.spread else ""
        tip = f"{point.name}: {y_title} {point.y:.4f}, {x_title} {point.x:,.4g}"
        name = _name(point.name, x, y, taken, (LEFT, TOP, right, floor))
        drawn = f"<title>{escape(tip)}</title>{whisker}{mark(family, x, y)}{name}"
        parts.append(f'<g class="point {family}" data-family="{family}">{drawn}</g>')
    title = escape(f"{y_title} against {x_title}")
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{"".join(parts)}</svg>'


def mark(family: str, x: float, y: float) -> str:
    """The form of a family, so that it is told from the others without colour: circle, square, triangle, diamond."""
    if family == "generative":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    corners = {
        "sequential": [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        "general": [(0, -5), (5, 4), (-5, 4)],
    }.get(family, [(0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)])
    return f'<path d="M{"L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners)}Z"/>'


def _name(name: str, x: float, y: float, taken: list[Box], plot: Box) -> str:
    """A label at the first place where it covers nothing; its box is added to those taken."""
    wide = len(name) * CHARACTER
    for anchor, dx, dy in NEAR_PLACES + FAR_PLACES * (plot[2] > WIDE):
        begin = x + dx - {"start": 0, "end": wide, "middle": wide / 2}[anchor]
        box = (begin, y + dy - LINE + 4, begin + wide, y + dy + 3)
        inside = box[0] >= plot[0] and box[1] >= plot[1] and box[2] <= plot[2] and box[3] <= plot[3]
        if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            taken.append(box)
            far = f'<path class="leader" d="M{x:.1f} {y:.1f}L{x + dx:.1f} {y + dy - 4:.1f}"/>' if abs(dx) > FAR else ""
            return f'{far}<text class="name" x="{x + dx:.1f}" y="{y + dy:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
    return ""


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The values' range with some room; never empty."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 4.5
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(step * magnitude for step in (1, 2, 2.5, 5, 10) if step * magnitude >= rough)
    return [round(index * step, 10) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; their 2- and 5-fold too where there would be few."""
    factors = (1,) if high - low > 2 else (1, 2, 5)
    exponents = range(math.floor(low), math.ceil(high) + 1)
    return [factor * 10.0**exponent for exponent in exponents for factor in factors if low <= math.log10(factor * 10.0**exponent) <= high]


def _tick(value: float) -> str:
    return f"{value:,.10g}".replace("-", "−")
