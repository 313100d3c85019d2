"""The plots of a report, each from plain numbers. Pure; a plot of nothing is not drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from evalkit.report.page import svg
from evalkit.report.page.axes import duration, linear_ticks, short_number, time_ticks
from evalkit.report.page.svg import COLOURS, Frame, Tick

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evalkit.report.histogram import Histogram

ROW = 26.0
"""Height of a row of the plot of scores."""
LABEL = 120.0
"""Width of the names beside it."""
LABEL_LETTERS = 18
LEGEND_ROW = 16.0
LEGEND_LETTERS = 54
OUTCOMES = ("ok", "truncated", "empty", "context_overflow", "refused")
"""The model's own outcomes, in the order they are stacked; failures of ours come behind them."""


@dataclass(frozen=True, slots=True)
class ScorePoint:
    """A score, or what it may still become. Percent."""

    task: str
    series: int
    """Number of the run."""
    value: float | None
    low: float | None
    high: float | None
    """Ends of the interval, or of the bounds where there is no value."""
    title: str


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A score at a training step. Percent."""

    step: int
    value: float
    low: float | None
    high: float | None
    title: str


@dataclass(frozen=True, slots=True)
class Curve:
    """The scores of one variant over training steps."""

    label: str
    """What sets it apart from the others; empty where there is one variant."""
    points: Sequence[CurvePoint]


def score_plot(points: Sequence[ScorePoint]) -> Markup:
    """Scores with their intervals, a row for each task of each run; bounds as a bar without a point."""
    height = ROW * len(points) + 44
    left, right = LABEL + 8, svg.WIDTH - 54

    def px(percent: float) -> float:
        return left + min(max(percent, 0.0), 100.0) / 100 * (right - left)

    parts = []
    for tick in range(0, 101, 25):
        parts.append(svg.line([(px(tick), 4), (px(tick), height - 36)], "grid"))
        parts.append(svg.text(px(tick), height - 20, str(tick), "tick mid"))
    before = None
    for number, point in enumerate(points):
        y = ROW * (number + 0.5) + 4
        if point.task != before:
            parts.append(svg.text(LABEL, y + 4, _shortened(point.task), "label end"))
        before = point.task
        parts.append(_score(point, y, px))
    parts.append(svg.text((left + right) / 2, height - 4, "score, percent", "name mid"))
    return svg.plot("Scores with their intervals, by task", height, parts)


def _score(point: ScorePoint, y: float, px: Callable[[float], float]) -> Markup:
    if point.value is None:
        if point.low is None or point.high is None:
            return svg.text(px(0) + 4, y + 4, "no score", "tick")
        span = (px(point.low), px(point.high))
        bounds = svg.bar(span, (y - 6, y + 6), "bounds", point.title)
        return bounds + svg.text(svg.WIDTH - 4, y + 4, "withheld", "tick end")
    parts = []
    if point.low is not None and point.high is not None:
        css = f"whisker c{point.series % COLOURS}"
        parts.append(svg.whisker((px(point.low), y), (px(point.high), y), css))
    parts.append(svg.mark(px(point.value), y, point.series, point.title))
    parts.append(svg.text(svg.WIDTH - 4, y + 4, f"{point.value:.1f}", "tick end"))
    return Markup("").join(parts)


def curve_plot(task: str, curves: Sequence[Curve]) -> Markup:
    """The learning curves of one task: its score over training steps, with intervals, a line and a row of
    the legend for each variant."""
    points = [point for curve in curves for point in curve.points]
    values = [v for p in points for v in (p.value, p.low, p.high) if v is not None]
    steps = [point.step for point in points]
    y = linear_ticks(max(0.0, min(values)), min(100.0, max(values)))
    x = linear_ticks(0.0 if min(steps) < max(steps) / 3 else min(steps), max(steps))
    frame = Frame((x[0], x[-1]), (y[0], y[-1]))
    parts = [
        svg.axes(
            frame,
            [Tick(at, short_number(at)) for at in x],
            [Tick(at, f"{at:g}") for at in y],
            x_name="training step",
            y_name="score, percent",
        )
    ]
    height = frame.height
    for number, curve in enumerate(curves):
        parts += _curve(frame, number, curve)
        if curve.label:
            parts.append(svg.mark(svg.LEFT, height + 8, number, curve.label))
            label = _shortened(curve.label, LEGEND_LETTERS)
            parts.append(svg.text(svg.LEFT + 10, height + 12, label, "tick"))
            height += LEGEND_ROW
    return svg.plot(f"Score of {task} over training steps", height, parts)


def _curve(frame: Frame, number: int, curve: Curve) -> list[Markup]:
    css = f"c{number % COLOURS}"
    ordered = sorted(curve.points, key=lambda point: point.step)
    places = [(frame.px(p.step), frame.py(p.value)) for p in ordered]
    parts = [svg.line(places, f"line {css}")]
    for point, (at, height) in zip(ordered, places, strict=True):
        if point.low is not None and point.high is not None:
            ends = (at, frame.py(point.low)), (at, frame.py(point.high))
            parts.append(svg.whisker(*ends, f"whisker {css}"))
        parts.append(svg.mark(at, height, number, point.title))
    return parts


def histogram_plot(
    label: str, name: str, whole: Histogram, cut: Histogram | None, say: Callable[[float], str]
) -> Markup:
    """Calls by length or time; those that the token limit cut off stand on top in another colour."""
    n = len(whole.counts)
    above = cut.counts if cut else (0,) * n
    y = linear_ticks(0.0, max(1, *(a + b for a, b in zip(whole.counts, above, strict=True))), 4)
    frame = Frame((0.0, float(n)), (0.0, y[-1]))
    base = frame.py(0)
    parts = [
        svg.axes(
            frame,
            _edge_ticks(whole.edges, say),
            [Tick(at, short_number(at)) for at in y if at == int(at)],
            x_name=name,
            y_name="calls",
        )
    ]
    for i, (own, cut_off) in enumerate(zip(whole.counts, above, strict=True)):
        span = (frame.px(i) + 0.5, frame.px(i + 1) - 0.5)
        title = f"{say(whole.edges[i])} to {say(whole.edges[i + 1])}: {own + cut_off:,} calls"
        if cut:
            title += f", {cut_off:,} of them truncated"
        if own:
            parts.append(svg.bar(span, (base, frame.py(own)), "bar c0", title))
        if cut_off:
            top = (frame.py(own), frame.py(own + cut_off))
            parts.append(svg.bar(span, top, "bar c1", title))
    return svg.plot(label, frame.height, parts)


def _edge_ticks(edges: Sequence[float], say: Callable[[float], str]) -> list[Tick]:
    """Some six of the edges."""
    step = max(1, -(-(len(edges) - 1) // 6))
    return [Tick(float(i), say(edges[i])) for i in range(0, len(edges), step)]


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers over time, in equal bins from `start` on; null where nobody knows."""

    name: str
    start: float
    width_s: float
    values: tuple[float | None, ...]


def time_plot(
    label: str, name: str, series: Series, span: tuple[float, float], top: float | None = None
) -> Markup:
    """One series over the time of the run (s since its start); `top` fixes the upper end."""
    begin, end = span
    known = [value for value in series.values if value is not None]
    y = linear_ticks(0.0, top or max(known) or 1.0, 4)
    frame = Frame((0.0, max(end - begin, 1.0)), (0.0, y[-1]), height=160.0)
    parts = [
        svg.axes(
            frame,
            [Tick(at, duration(at)) for at in time_ticks(frame.x[1])],
            [Tick(at, short_number(at)) for at in y],
            x_name="time since the start",
            y_name=name,
        )
    ]
    for points in _stretches(series, begin, frame):
        parts += [svg.area(points, frame.py(0.0), "area c0"), svg.line(points, "line c0")]
    return svg.plot(label, frame.height, parts)


def _stretches(series: Series, begin: float, frame: Frame) -> list[list[tuple[float, float]]]:
    """The points of each stretch in which values are known."""
    found: list[list[tuple[float, float]]] = [[]]
    for i, value in enumerate(series.values):
        if value is None:
            found.append([])
            continue
        at = series.start - begin + i * series.width_s
        edges = (max(at, 0.0), min(at + series.width_s, frame.x[1]))
        found[-1] += [(frame.px(x), frame.py(value)) for x in edges]
    return [points for points in found if points]


def outcome_bar(label: str, counts: Mapping[str, int], expected: int) -> Markup:
    """All planned units of a task by outcome, as one bar; what has no record is left empty."""
    order = [*OUTCOMES, *sorted(set(counts) - set(OUTCOMES))]
    parts = [svg.bar((0.0, svg.WIDTH), (1.0, 17.0), "rest", f"{label}: {expected:,} planned units")]
    done = 0
    for name in order:
        if not (count := counts.get(name, 0)):
            continue
        span = tuple(svg.WIDTH * n / max(expected, 1) for n in (done, done + count))
        css = f"bar {outcome_class(name)}"
        title = f"{name}: {count:,} of {expected:,} units"
        parts.append(svg.bar((span[0], span[1]), (1.0, 17.0), css, title))
        done += count
    return svg.plot(f"Outcomes of {label}", 18.0, parts)


def outcome_class(outcome: str) -> str:
    """Class of an outcome's colour."""
    return f"o-{outcome}" if outcome in OUTCOMES else "o-ours"


def _shortened(name: str, letters: int = LABEL_LETTERS) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}\N{HORIZONTAL ELLIPSIS}"
