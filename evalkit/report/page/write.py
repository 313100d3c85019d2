"""Makes a report's page and publishes it: after every gather, or when it is asked for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from evalkit.errors import EvalkitError, UsageError
from evalkit.report.page.html import render_html
from evalkit.report.page.selection import select
from evalkit.report.page.sources import read_run
from evalkit.report.page.units import Source
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evalkit.plan.model import Plan
    from evalkit.report.page.sources import RunReport
    from evalkit.report.page.units import Group
    from evalkit.store.layout import RunFolder

log = logging.getLogger("evalkit.report")

MEGABYTE = 1_000_000
DEFAULT_MB = 16
"""Samples of a page, as they lie in it: a mail takes it, and a gather makes it in some two seconds."""


class Page(NamedTuple):
    """A page, and the units that it holds."""

    content: bytes
    groups: list[Group]


def make_page(
    runs: Sequence[RunReport],
    title: str,
    *,
    max_mb: float = DEFAULT_MB,
    include_restricted: bool = False,
) -> Page:
    """The page, with at most about `max_mb` of samples. Raises StoreError for damaged artifacts."""
    sources = [
        Source(number, run, task, include_restricted)
        for number, run in enumerate(runs)
        for task in run.tasks
        if task.results is not None
    ]
    groups = select(sources, max_mb * MEGABYTE)
    return Page(render_html(runs, title, groups), groups)


def write_report(folder: RunFolder, plan: Plan) -> None:
    """Publish `report.html` over the published results of all tasks. Raises StoreError."""
    publish(folder.report, make_page([read_run(folder, plan)], plan.run).content)


def renew_report(folder: RunFolder, plan: Plan) -> str | None:
    """Publish the page anew; says why there is none.

    A page is read from results and shows nothing that they do not have, so one that cannot be made, such
    as over a task whose plug-in is not installed here, fails no gather. The old one goes then: it would
    show other numbers than the results beside it.
    """
    try:
        write_report(folder, plan)
    except EvalkitError as error:
        problem = f"there is no {folder.report.name}: {error.message}"
        try:
            folder.report.unlink(missing_ok=True)
        except OSError as reason:
            problem = f"{folder.report.name} is an old one: {error.message} ({reason.strerror})"
        log.warning("%s; `evalkit report %s` makes it", problem, folder.root)
        return problem
    return None


def title_of(runs: Sequence[RunReport]) -> str:
    """The run's name, the name of the folder that all runs lie in, or their number."""
    if len(runs) == 1:
        return runs[0].plan.run
    home = _home(runs)
    return f"{len(runs)} runs" if home is None else home.name


def default_path(runs: Sequence[RunReport], *, restricted: bool) -> Path:
    """Where the page of a run, or of a sweep, belongs. Raises UsageError for runs that have no place in
    common."""
    if len(runs) == 1:
        folder = runs[0].folder
        return folder.restricted_report if restricted else folder.report
    home = _home(runs)
    if home is None:
        raise UsageError(
            "these runs are of no one sweep, so their report has no place of its own",
            hint="Say where with --out FILE.",
        )
    return home / (runs[0].folder.restricted_report if restricted else runs[0].folder.report).name


def _home(runs: Sequence[RunReport]) -> Path | None:
    """The folder of the sweep that the runs are of: of one recipe, side by side."""
    parents = {run.folder.root.parent for run in runs}
    recipes = {run.plan.recipe for run in runs}
    return parents.pop() if len(parents) == 1 and len(recipes) == 1 else None
