"""The traffic of a run over time, all tasks together, and what its attempts held meanwhile. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.report.page.plots import Series, time_plot
from evalkit.report.traffic import Bins, cover

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from markupsafe import Markup

    from evalkit.report.page.sources import Held, RunReport
    from evalkit.report.traffic import Traffic


def run_span(run: RunReport) -> tuple[float, float] | None:
    """From the first thing that is known of a run to the last (Unix time, s); null for nothing."""
    begins = [t.start for t in _traffic(run) if t.start is not None]
    ends = [t.start + t.width_s * len(t.finished) for t in _traffic(run) if t.start is not None]
    begins += [int(held.started) for held in run.attempts]
    ends += [int(held.ended) + 1 for held in run.attempts]
    return (float(min(begins)), float(max(ends))) if begins else None


def time_plots(run: RunReport) -> list[Markup]:
    """Throughput, calls in flight, GPUs that were held and how busy they were; what is not known is not
    drawn."""
    span = run_span(run)
    if span is None:
        return []
    plots = []
    for label, name, pick in (
        ("Generated tokens per second over time", "tokens per second", "tokens_per_s"),
        ("Calls in flight over time", "calls in flight", "in_flight"),
    ):
        series = _together(name, _traffic(run), pick, span)
        if series is not None:
            plots.append(time_plot(label, name, series, span))
    unit = "GPUs" if any(held.gpus for held in run.attempts) else "nodes"
    held = _held(run.attempts, unit, span)
    if held is not None:
        plots.append(time_plot(f"{unit} held over time", f"{unit} held", held, span))
    for label, name, kind in (
        ("How busy GPUs were over time", "GPUs busy, percent", "busy"),
        ("GPU memory in use over time", "GPU memory, percent", "memory"),
    ):
        series = _use(run.attempts, name, kind, span)
        if series is not None:
            plots.append(time_plot(label, name, series, span, top=100.0))
    return plots


def _traffic(run: RunReport) -> list[Traffic]:
    return [task.traffic for task in run.tasks if task.traffic is not None]


def _together(
    name: str, traffic: Iterable[Traffic], pick: str, span: tuple[float, float]
) -> Series | None:
    """The sum over tasks, whose bins differ."""
    start, width, n = cover(*span)
    bins = Bins(start, width, n)
    for task in traffic:
        for number, rate in enumerate(getattr(task, pick)):
            begin = (task.start or 0) + number * task.width_s
            bins.add(begin, begin + task.width_s, rate * task.width_s)
    rates = bins.rates()
    return Series(name, start, width, rates) if any(rates) else None


def _held(attempts: Sequence[Held], unit: str, span: tuple[float, float]) -> Series | None:
    start, width, n = cover(*span)
    bins = Bins(start, width, n)
    for held in attempts:
        number = held.gpus if unit == "GPUs" else held.nodes
        bins.add(held.started, held.ended, number * (held.ended - held.started))
    return Series(f"{unit} held", start, width, bins.rates()) if attempts else None


def _use(
    attempts: Sequence[Held], name: str, kind: str, span: tuple[float, float]
) -> Series | None:
    """The mean over all GPUs that said something in a bin; null where none did."""
    start, width, n = cover(*span)
    sums, counts = [0.0] * n, [0] * n
    for held in attempts:
        for use in held.use:
            number = int(use.time - start) // width
            if 0 <= number < n:
                values: tuple[float, ...] = getattr(use, kind)
                sums[number] += sum(values)
                counts[number] += len(values)
    if not any(counts):
        return None
    means = (100 * a / n if n else None for a, n in zip(sums, counts, strict=True))
    return Series(name, start, width, tuple(means))
