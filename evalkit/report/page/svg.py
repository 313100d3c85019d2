"""Plots as SVG: bars, lines, and points with error bars, in a frame with two axes.

Text only: no colour, font or size is set here but by class, so that the page's style sheet decides them
for light, dark and paper. Coordinates are rounded to a tenth of a pixel, so that equal numbers are equal
bytes. Everything that comes from outside is escaped by markupsafe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH = 380.0
"""Width of every plot in its own units: shrunk to the 330 pixels of a phone its text stays readable."""
LEFT, RIGHT, TOP, BOTTOM = 48.0, 14.0, 10.0, 40.0
COLOURS = 6
"""Classes `c0` to `c5`, and as many shapes: no two that a colour-blind reader takes for one."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, in data units, and what stands there."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Frame:
    """Two linear axes."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: float = 190.0

    def px(self, x: float) -> float:
        """Horizontal place of a data value."""
        low, high = self.x
        return LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def py(self, y: float) -> float:
        """Vertical place of a data value."""
        low, high = self.y
        return self.height - BOTTOM - (y - low) / (high - low) * (self.height - TOP - BOTTOM)


def number(value: float) -> str:
    """A coordinate."""
    return f"{value:.1f}".removesuffix(".0")


def plot(label: str, height: float, parts: Iterable[Markup]) -> Markup:
    """A whole plot. `label` says to who cannot see it what it shows."""
    return Markup(
        '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(number(WIDTH), number(height), label, Markup("").join(parts))


def axes(frame: Frame, x: Sequence[Tick], y: Sequence[Tick], *, x_name: str, y_name: str) -> Markup:
    """Grid, ticks and the names of both axes."""
    left, right = number(LEFT), number(WIDTH - RIGHT)
    parts = []
    for tick in y:
        at = frame.py(tick.at)
        parts.append(_line("grid", left, number(at), right, number(at)))
        parts.append(text(LEFT - 6, at + 4, tick.text, "tick end"))
    base = frame.height - BOTTOM
    for tick in x:
        at = frame.px(tick.at)
        parts.append(_line("axis", number(at), number(base), number(at), number(base + 4)))
        parts.append(text(at, base + 16, tick.text, "tick mid"))
    parts.append(_line("axis", left, number(base), right, number(base)))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, frame.height - 6, x_name, "name mid"))
    middle = (TOP + base) / 2
    turned = Markup('<text class="name mid" transform="translate(12 {}) rotate(-90)">{}</text>')
    parts.append(turned.format(number(middle), y_name))
    return Markup("").join(parts)


def text(x: float, y: float, content: str, css: str) -> Markup:
    """A piece of text; `css` holds `mid` or `end` for its anchor."""
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(
        css, number(x), number(y), content
    )


def bar(x: tuple[float, float], y: tuple[float, float], css: str, title: str) -> Markup:
    """A rectangle between two corners, with what it means for who points at it."""
    (left, right), (top, bottom) = sorted(x), sorted(y)
    return Markup(
        '<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
    ).format(css, number(left), number(top), number(right - left), number(bottom - top), title)


def line(points: Iterable[tuple[float, float]], css: str) -> Markup:
    """A line through points."""
    return Markup('<polyline class="{}" points="{}"/>').format(css, _points(points))


def area(points: Sequence[tuple[float, float]], base: float, css: str) -> Markup:
    """The area between a line and a height."""
    if not points:
        return Markup("")
    closed = [(points[0][0], base), *points, (points[-1][0], base)]
    return Markup('<polygon class="{}" points="{}"/>').format(css, _points(closed))


def whisker(low: tuple[float, float], high: tuple[float, float], css: str) -> Markup:
    """An error bar between two points that share a coordinate, with caps."""
    (x1, y1), (x2, y2) = low, high
    dx, dy = (4.0, 0.0) if x1 == x2 else (0.0, 4.0)
    caps = [
        _line(css, number(x - dx), number(y - dy), number(x + dx), number(y + dy))
        for x, y in (low, high)
    ]
    return Markup("").join([_line(css, number(x1), number(y1), number(x2), number(y2)), *caps])


def mark(x: float, y: float, index: int, title: str) -> Markup:
    """A point; colour and shape go by the number of its series."""
    shapes = (
        '<circle class="{}" cx="{x}" cy="{y}" r="4.5">{t}</circle>',
        '<path class="{}" d="M{x} {y}m-4.2-4.2h8.4v8.4h-8.4z">{t}</path>',
        '<path class="{}" d="M{x} {y}m0-5.5l5 9h-10z">{t}</path>',
        '<path class="{}" d="M{x} {y}m0-5.8l5.8 5.8l-5.8 5.8l-5.8-5.8z">{t}</path>',
        '<path class="{}" d="M{x} {y}m0 5.5l5-9h-10z">{t}</path>',
        '<path class="{}" d="M{x} {y}m-5.5-1.5h4v-4h3v4h4v3h-4v4h-3v-4h-4z">{t}</path>',
    )
    css, inside = f"mark c{index % COLOURS}", Markup("<title>{}</title>").format(title)
    return Markup(shapes[index % COLOURS]).format(css, x=number(x), y=number(y), t=inside)


def _line(css: str, x1: str, y1: str, x2: str, y2: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(css, x1, y1, x2, y2)


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in points)
