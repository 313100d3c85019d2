"""A line per run, from the small files of its folder: cheap enough for hundreds of runs.

Neither Slurm nor a journal is asked, so a state is what the files say: a run whose worker was heard a
moment ago runs, one whose summary is complete is complete, and of any other only how far it once came
is known. `evalkit status` asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import orjson
from pydantic import ValidationError

from evalkit.cluster.replica_report import read_reports
from evalkit.cluster.runs import is_cell, is_there, runs_below
from evalkit.errors import StoreError
from evalkit.report.results import Summary
from evalkit.store.layout import RunFolder
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from evalkit.plan.model import Plan
    from evalkit.store.registry import Entry

State = Literal["complete", "running", "incomplete", "started", "submitted", "prepared", "gone"]
"""`incomplete`: gathered with missing units. `gone`: noted, and not there as seen from this machine."""


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run in a list."""

    id: str
    run: str
    """Its folder's name; `sweep/model` for one of a sweep."""
    model: str
    recipe: str
    state: State
    tasks: int | None
    """Tasks of the plan; null for a run that is gone."""
    tasks_done: int | None
    """Tasks with complete results."""
    units: int | None
    headlines: dict[str, float | None] = field(default_factory=dict)
    """By task that was gathered: percent, or a number that is no share as it is; null while units are missing."""
    words: dict[str, str] = field(default_factory=dict)
    """The same as they are shown."""
    created: str | None = None
    """When the plan was made, or noted (ISO 8601)."""
    path: str = ""
    host: str | None = None
    """Where a run that is gone was noted."""


def list_runs(
    folders: Iterable[Path],
    noted: Iterable[Entry],
    *,
    now: float,
    on_problem: Callable[[StoreError], None],
) -> Iterator[RunLine]:
    """The runs below the folders, each once, then those noted elsewhere; `now` is a Unix time (s).

    `on_problem` is told of runs that cannot be read; they hide no others.
    """
    seen: set[Path] = set()
    for folder in folders:
        for run in _runs_in(folder, on_problem):
            if run.root not in seen:
                seen.add(run.root)
                yield from _line(run, now, on_problem)
    for entry in noted:
        if entry.root in seen:
            continue
        seen.add(entry.root)
        if is_there(entry):
            yield from _line(RunFolder(entry.root), now, on_problem)
        else:
            yield _gone(entry)


def _runs_in(folder: Path, on_problem: Callable[[StoreError], None]) -> Iterator[RunFolder]:
    """The folder's own run, or those below it, also in sweeps."""
    try:
        if not folder.is_dir():
            return
        if is_itself := runs_below(folder):
            yield from is_itself
        children = sorted(c for c in folder.iterdir() if not c.name.startswith("."))
    except (OSError, StoreError) as error:
        on_problem(StoreError(f"cannot look into {folder}: {error}"))
        return
    for child in children:
        try:
            if child.is_dir():
                yield from runs_below(child)
        except StoreError as error:
            on_problem(error)


def _line(
    run: RunFolder, now: float, on_problem: Callable[[StoreError], None]
) -> Iterator[RunLine]:
    try:
        plan = load_plan(run)
    except StoreError as error:
        on_problem(error)
        return
    summary = _summary(run, plan)
    gathered = summary.tasks if summary else ()
    found = {each.task: each.headline for each in gathered if each.headline is not None}
    yield RunLine(
        id=plan.run_id,
        run=run_name(run, plan),
        model=plan.model.name,
        recipe=plan.recipe,
        state=find_state(run, summary, now),
        tasks=len(plan.tasks),
        tasks_done=sum(each.complete is True for each in gathered),
        units=plan.n_units,
        headlines={task: headline.shown for task, headline in found.items()},
        words={task: headline.words for task, headline in found.items()},
        created=_created(run),
        path=str(run.root),
    )


def run_name(run: RunFolder, plan: Plan) -> str:
    """As a person may type it: `name`, or `sweep/model`."""
    root = run.root
    return f"{root.parent.name}/{root.name}" if is_cell(root, plan.run) else root.name


def find_state(run: RunFolder, summary: Summary | None, now: float) -> State:
    """How far the run came, as its files have it."""
    if summary is not None and summary.complete:
        return "complete"
    if any(report.is_fresh(now) for report in read_reports(run).values()):
        return "running"
    if summary is not None:
        return "incomplete"
    if (run.root / "journal").is_dir():
        return "started"
    return "submitted" if run.jobs.is_file() else "prepared"


def read_summary(run: RunFolder) -> Summary | None:
    """The run's summary; null where there is none that can be read."""
    try:
        return Summary.model_validate_json(run.summary.read_bytes())
    except (OSError, ValidationError):
        return None


def _summary(run: RunFolder, plan: Plan) -> Summary | None:
    summary = read_summary(run)
    return summary if summary is not None and summary.run_id == plan.run_id else None


def _created(run: RunFolder) -> str | None:
    try:
        created = orjson.loads(run.provenance.read_bytes())["created"]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return created if isinstance(created, str) else None


def _gone(entry: Entry) -> RunLine:
    return RunLine(
        id=entry.run_id,
        run=entry.run,
        model=entry.model,
        recipe=entry.recipe,
        state="gone",
        tasks=None,
        tasks_done=None,
        units=None,
        created=datetime.fromtimestamp(entry.noted, UTC).isoformat(timespec="seconds"),
        path=entry.folder,
        host=entry.host,
    )
