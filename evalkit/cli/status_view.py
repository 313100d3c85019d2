"""The status of a run for a terminal: a bar per task, the replicas, what it cost, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evalkit.cluster.log_tail import printable
from evalkit.cluster.phase_parts import age, brief

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from evalkit.cluster.status_values import (
        FailureGroup,
        GradingStatus,
        ReplicaStatus,
        RunStatus,
        TaskStatus,
    )
    from evalkit.cluster.usage import Usage

BAR_WIDTH = 16
BAR_FROM_COLUMNS = 100
OURS = ("infra_error", "scorer_error", "judge_error")
GOOD = ("ready", "done")
SHOWN_LINES = 3
"""Log lines of one failure; all of them are in --json, and more in the log."""


def status_view(status: RunStatus, *, height: int | None = None) -> RenderableType:
    """All of a run's status; with `height` (lines) only as many replicas as fit beside the rest."""
    return _whole(status) if height is None else Fitted(status, height)


@dataclass(frozen=True, slots=True)
class Fitted:
    """The status in so many lines: of the replicas some are left out, then lines of logs.

    What folds depends on the terminal, so the lines are counted as they are there.
    """

    status: RunStatus
    height: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        free = options.update(height=None)
        view, over = self._fit(console, free, SHOWN_LINES)
        yield view if over <= 0 else self._fit(console, free, 0)[0]

    def _fit(
        self, console: Console, options: ConsoleOptions, evidence: int
    ) -> tuple[RenderableType, int]:
        """A view with as many replicas as fit, at least one, and by how many lines it is too long."""
        room = len(self.status.replicas)
        while True:
            view = _whole(self.status, room, evidence)
            over = len(console.render_lines(view, options)) - self.height
            if over <= 0 or room <= 1:
                return view, over
            room = max(1, room - over)


def _whole(
    status: RunStatus, room: int | None = None, evidence: int = SHOWN_LINES
) -> RenderableType:
    """All parts; `room`: lines for replicas, `evidence`: log lines of each failure."""
    head = Text.assemble((status.run, "bold"), f" {status.run_id}  ", (status.phase, "bold"))
    if status.stage not in (status.phase, "done"):
        head.append(f"  ({status.stage})", "dim")
    parts: list[RenderableType] = [head, Text(status.message)]
    if status.slurm_error:
        said = status.slurm_error.partition("\n")[0]
        parts.append(Text(f"Slurm could not be asked: {said}", style="yellow"))
    parts += ["", TaskTable(status.tasks), *_notes(status.tasks)]
    if any(t.grading is not None and (t.grading.state or t.grading.graded) for t in status.tasks):
        parts += ["", GradingTable(status.tasks)]
    if status.replicas:
        parts += _replicas(status, room)
        parts += _words(status)
    parts += _costs(status)
    if status.failures:
        parts += _failures(status.failures, evidence)
    return Group(*parts)


@dataclass(frozen=True, slots=True)
class TaskTable:
    """A line per task; the bar goes first where the terminal is narrow."""

    tasks: Sequence[TaskStatus]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        has_bar = options.max_width >= BAR_FROM_COLUMNS
        names = ("done", "rate/s", "left", "score", "trunc", "empty", "errors")
        table = _table("task", *([""] if has_bar else []))
        _add_numbers(table, names)
        for task in self.tasks:
            bar = ProgressBar(total=max(task.expected, 1), completed=task.done, width=BAR_WIDTH)
            table.add_row(
                Text(task.name),
                *([bar] if has_bar else []),
                f"{task.done:,}/{task.expected:,}",
                "-" if not task.rate_per_s else f"{task.rate_per_s:.1f}",
                duration(task.eta_s) if task.done < task.expected else "",
                _score(task),
                str(task.outcomes.get("truncated", 0)),
                str(task.outcomes.get("empty", 0)),
                str(sum(task.outcomes.get(name, 0) for name in OURS)),
            )
        yield table


@dataclass(frozen=True, slots=True)
class GradingTable:
    """A line per task that a sandbox or a judge grades."""

    tasks: Sequence[TaskStatus]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        has_bar = options.max_width >= BAR_FROM_COLUMNS
        table = _table("grading", *([""] if has_bar else []))
        _add_numbers(table, ("graded", "rate/s", "left", "ungraded", "judge", "scorer"))
        _add_words(table, ("grader",))
        for task in self.tasks:
            found = task.grading
            if found is None:
                continue
            total = max(found.expected, 1)
            bar = ProgressBar(total=total, completed=found.graded, width=BAR_WIDTH)
            table.add_row(
                Text(task.name),
                *([bar] if has_bar else []),
                f"{found.graded:,}/{found.expected:,}",
                "-" if not found.rate_per_s else f"{found.rate_per_s:.1f}",
                duration(found.eta_s) if found.owed else "",
                f"{found.ungraded:,}",
                f"{found.judge_error:,}",
                f"{found.scorer_error:,}",
                Text(_grader(found)),
            )
        yield table
        for task in self.tasks:
            if task.grading is not None and task.grading.detail:
                yield Text(f"{task.name}: {task.grading.detail}", style="dim")


def _grader(found: GradingStatus) -> str:
    """`judge ready`, `2 x judge ready`, or how the latest one ended."""
    count = f"{found.graders} x " if found.graders > 1 else ""
    return f"{count}{found.grader} {found.state or 'not begun'}"


def _notes(tasks: Sequence[TaskStatus]) -> list[RenderableType]:
    """Why a task has no score yet, or what its score is of."""
    by_note: dict[str, list[str]] = {}
    for task in tasks:
        if task.score_note:
            by_note.setdefault(task.score_note, []).append(task.name)
    return [
        Text(f"score of {', '.join(names)}: {note}", style="dim") for note, names in by_note.items()
    ]


def _score(task: TaskStatus) -> str:
    """The result, or the running score: of the units that are done."""
    if task.result is not None:
        return task.result
    return "-" if task.score is None else f"{100 * task.score:.1f}"


def _replicas(status: RunStatus, room: int | None) -> list[RenderableType]:
    """The table; where there is no room for all, those that are well are left out first."""
    shown = list(status.replicas)
    if room is not None and len(shown) > room:
        by_trouble = sorted(shown, key=lambda replica: replica.state in GOOD)  # stable
        chosen = {replica.name for replica in by_trouble[: max(room - 1, 1)]}
        shown = [replica for replica in shown if replica.name in chosen]
    table = _table("replica", "state", "node", "job")
    _add_numbers(table, ("restarts", "calls", "tokens/s", "heard"))
    for replica in shown:
        table.add_row(
            _name(replica),
            Text(replica.state, style=_style(replica)),
            replica.node or "-",
            replica.job_id or "-",
            str(replica.restarts),
            str(replica.in_flight),
            f"{replica.tokens_per_s:,.0f}",
            "-" if replica.heartbeat_age_s is None else age(replica.heartbeat_age_s),
        )
    hidden = len(status.replicas) - len(shown)
    more = [Text(f"and {_count(hidden, 'more replica')}", style="dim")] if hidden else []
    return ["", table, *more]


def _name(replica: ReplicaStatus) -> str:
    return replica.name + (f".a{replica.attempt}" if replica.attempt else "")


def _words(status: RunStatus) -> list[RenderableType]:
    """What replicas say in words: what is wrong with them, unless the run's message or a failure says
    just that, and what they wait for."""
    lines: list[RenderableType] = []
    known = [status.message, *(group.reason for group in status.failures)]
    for replica in status.replicas:
        if replica.error:
            error = brief(replica.error)
            if not any(error in text or text in error for text in known):
                lines.append(Text(f"{_name(replica)}: {error}", style="red"))
        elif replica.detail:
            lines.append(Text(f"{_name(replica)}: {replica.detail}", style="dim"))
    warnings = dict.fromkeys(text for replica in status.replicas for text in replica.warnings)
    lines += [Text(f"warning: {text}", style="yellow") for text in warnings]
    return lines


def _costs(status: RunStatus) -> list[RenderableType]:
    """Hours, attempts and restarts, and nodes to stay off."""
    if status.usage is None:
        return []
    attempts = _count(len(status.attempts), "attempt")
    restarts = _count(sum(replica.restarts for replica in status.replicas), "server restart")
    lines: list[RenderableType] = ["", Text(hours(status.usage)), Text(f"{attempts}, {restarts}")]
    if status.usage.cost is not None:
        lines.append(Text(f"cost so far, by serving.price: {status.usage.cost:,.4f}"))
    if status.bad_nodes:
        text = f"nodes that failed repeatedly: {', '.join(status.bad_nodes)}"
        lines.append(Text(text, style="yellow"))
    excluded = dict.fromkeys(job.excluded for job in status.jobs if job.excluded)
    if excluded:
        lines.append(Text(f"jobs stay off: {', '.join(excluded)}"))
    return lines


def hours(usage: Usage) -> str:
    """`GPU-hours: 12.40 used, 1.10 wasted (9 %), about 3.0 left`."""
    name = "GPU-hours" if usage.unit == "gpu" else "node-hours"
    share = f" ({100 * usage.wasted_h / usage.used_h:.0f} %)" if usage.used_h else ""
    left = "-" if usage.left_h is None else f"about {usage.left_h:.2f}"
    return f"{name}: {usage.used_h:.2f} used, {usage.wasted_h:.2f} wasted{share}, {left} left"


def _failures(groups: Sequence[FailureGroup], evidence: int) -> list[RenderableType]:
    table = _table("failure", "of")
    _add_numbers(table, ("count",))
    _add_words(table, ("last", "node", "reason"))
    for group in groups:
        table.add_row(
            Text(str(group.kind), style="red"),
            group.of,
            f"{group.count:,}",
            group.where,
            group.node or "-",
            Text(printable(brief(group.reason))),
        )
    parts: list[RenderableType] = ["", table]
    for group in groups:
        if group.log is not None:
            parts.append(Text.assemble((f"{group.kind}: ", "red"), group.log, overflow="fold"))
        parts += [
            Padding(Text(printable(line), style="dim", overflow="fold"), (0, 0, 0, 2), expand=False)
            for line in group.lines[max(len(group.lines) - evidence, 0) :]
        ]
    return parts


def _table(*names: str) -> Table:
    """A table that begins with columns of words."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    _add_words(table, names)
    return table


def _add_words(table: Table, names: Iterable[str]) -> None:
    for name in names:
        table.add_column(name, overflow="fold")


def _add_numbers(table: Table, names: Iterable[str]) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def _style(replica: ReplicaStatus) -> str:
    if replica.error or replica.state == "silent":
        return "red"
    return "green" if replica.state in GOOD else "yellow"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def duration(seconds: float | None) -> str:
    """`1:02:03`, `2:03`, or a dash."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def status_line(status: RunStatus) -> str:
    """One line for a log that is no terminal."""
    tasks = ", ".join(f"{t.name} {t.done}/{t.expected}{_graded(t)}" for t in status.tasks)
    return f"{status.run} {status.phase}: {tasks}; {status.message}"


def _graded(task: TaskStatus) -> str:
    """` (graded 3)`, once something of a task is."""
    found = task.grading
    return f" (graded {found.graded})" if found is not None and found.graded else ""
