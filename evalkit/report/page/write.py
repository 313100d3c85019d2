"""Makes a report's page and publishes it: after every gather, or when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.report.page.html import render_html
from evalkit.report.page.selection import select
from evalkit.report.page.sources import read_run
from evalkit.report.page.units import Source
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.plan.model import Plan
    from evalkit.report.page.sources import RunReport
    from evalkit.store.layout import RunFolder

MEGABYTE = 1_000_000
GATHER_MB = 16
"""Largest samples, as they lie in the page, of a report that a gather makes: a mail takes it, and it costs
a few seconds where there is so much."""


def make_page(
    runs: Sequence[RunReport], title: str, *, max_mb: float, include_restricted: bool = False
) -> bytes:
    """The page, with at most about `max_mb` of samples. Raises StoreError for damaged artifacts."""
    sources = [
        Source(number, run, task, include_restricted)
        for number, run in enumerate(runs)
        for task in run.tasks
        if task.results is not None
    ]
    return render_html(runs, title, select(sources, max_mb * MEGABYTE))


def write_report(folder: RunFolder, plan: Plan) -> None:
    """Publish `report.html` over the published results of all tasks. Raises StoreError."""
    run = read_run(folder, plan)
    publish(folder.report, make_page([run], plan.run, max_mb=GATHER_MB))
