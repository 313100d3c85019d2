"""The status of a run for a terminal: a bar per task, the replicas, and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evalkit.cluster.phase import brief

if TYPE_CHECKING:
    from evalkit.cluster.status import ReplicaStatus, RunStatus, TaskStatus

BAR_WIDTH = 24
OURS = ("infra_error", "scorer_error", "judge_error")


def status_view(status: RunStatus) -> RenderableType:
    """All of a run's status."""
    head = Text.assemble((status.run, "bold"), f" {status.run_id}  ", (status.phase, "bold"))
    parts: list[RenderableType] = [head, Text(status.message)]
    if status.slurm_error:
        parts.append(Text(f"Slurm could not be asked: {status.slurm_error}", style="yellow"))
    parts.append(_tasks(status))
    if status.replicas:
        parts.append(_replicas(status))
        parts += _words(status)
    return Group(*parts)


def _tasks(status: RunStatus) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", overflow="fold")
    table.add_column("")
    for name in ("done", "rate/s", "left", "score", "truncated", "empty", "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in status.tasks:
        table.add_row(
            Text(task.name),
            ProgressBar(total=max(task.expected, 1), completed=task.done, width=BAR_WIDTH),
            f"{task.done:,}/{task.expected:,}",
            "-" if not task.rate_per_s else f"{task.rate_per_s:.1f}",
            duration(task.eta_s) if task.done < task.expected else "",
            _score(task),
            str(task.outcomes.get("truncated", 0)),
            str(task.outcomes.get("empty", 0)),
            str(sum(task.outcomes.get(name, 0) for name in OURS)),
        )
    return table


def _score(task: TaskStatus) -> str:
    """The running score: of the units that are done, so not yet the result."""
    return "-" if task.score is None else f"{100 * task.score:.1f}"


def _replicas(status: RunStatus) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("replica", "state", "server", "node", "job"):
        table.add_column(name, overflow="fold")
    for name in ("in flight", "tokens/s", "heartbeat"):
        table.add_column(name, justify="right", no_wrap=True)
    for replica in status.replicas:
        table.add_row(
            _name(replica),
            Text(replica.state, style=_style(replica)),
            _server(replica),
            replica.node or "-",
            replica.job_id or "-",
            str(replica.in_flight),
            f"{replica.tokens_per_s:,.0f}",
            "-" if replica.heartbeat_age_s is None else f"{replica.heartbeat_age_s:.0f} s ago",
        )
    return table


def _name(replica: ReplicaStatus) -> str:
    return replica.name + (f".a{replica.attempt}" if replica.attempt else "")


def _server(replica: ReplicaStatus) -> str:
    """Of the last heartbeat: a replica that has ended has no server any more."""
    server = replica.server
    if not server:
        return "-"
    state = str(server.get("state", "-")) if replica.is_alive else "-"
    restarts = server.get("restarts", 0)
    return f"{state}, {restarts} restart{'s' * (restarts != 1)}" if restarts else state


def _words(status: RunStatus) -> list[RenderableType]:
    """What replicas say in words: what is wrong with them, unless the run's message is just that, and
    what they wait for."""
    lines: list[RenderableType] = []
    for replica in status.replicas:
        if replica.error:
            error = brief(replica.error)
            if error not in status.message:
                lines.append(Text(f"{_name(replica)}: {error}", style="red"))
        elif replica.detail:
            lines.append(Text(f"{_name(replica)}: {replica.detail}", style="dim"))
    return lines


def _style(replica: ReplicaStatus) -> str:
    if replica.error:
        return "red"
    return "green" if replica.state in ("ready", "done") else "yellow"


def duration(seconds: float | None) -> str:
    """`1:02:03`, `2:03`, or a dash."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def status_line(status: RunStatus) -> str:
    """One line for a log that is no terminal."""
    tasks = ", ".join(f"{t.name} {t.done}/{t.expected}" for t in status.tasks)
    return f"{status.run} {status.phase}: {tasks}; {status.message}"
