"""The status of several runs at once: one squeue and one sacct for all of them.

A folder of runs is mostly one of finished runs, of which Slurm has nothing to add: about the jobs of a
run that is complete nobody is asked. A controller that hangs costs its time once, not once per run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from evalkit.cluster.accounting import History
from evalkit.cluster.env import read_environment
from evalkit.cluster.live import Answer, Question, ask_all, on_slurm
from evalkit.cluster.slurm import JobRow, SlurmCommands
from evalkit.cluster.states import JobState
from evalkit.cluster.status import StatusReader
from evalkit.errors import ClusterError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from evalkit.clock import Clock
    from evalkit.cluster.attempt_status import Parts
    from evalkit.cluster.jobs import JobRecord
    from evalkit.cluster.status import RunStatus
    from evalkit.store.layout import RunFolder

COMPLETE = "nobody was asked: the run is complete"


class Seen(NamedTuple):
    """A run as its files have it, and what is asked about it."""

    reader: StatusReader
    parts: Parts
    question: Question
    settled: Sequence[JobRecord]
    """Slurm's jobs of a complete run, which are not asked about."""


def survey(
    folders: Iterable[RunFolder],
    *,
    clock: Clock,
    on_problem: Callable[[StoreError], None],
    env: Mapping[str, str] | None = None,
) -> list[RunStatus]:
    """Status of each run; `on_problem` is told of those that cannot be read, which hide no others."""
    seen: list[Seen] = []
    for folder in folders:
        try:
            seen.append(_look(StatusReader(folder, clock=clock, env=env)))
        except StoreError as error:
            on_problem(error)
    commands = SlurmCommands(read_environment() if env is None else env)
    answers = _ask([each.question for each in seen], commands, clock.wall())
    statuses = []
    for each, answer in zip(seen, answers, strict=True):
        rows = {**answer.rows, **_settled_rows(each.settled)}
        try:
            statuses.append(each.reader.tell(each.parts, answer._replace(rows=rows)))
        except StoreError as error:
            on_problem(error)
    return statuses


def _look(reader: StatusReader) -> Seen:
    parts = reader.look()
    settled = on_slurm(parts.records) if reader.is_complete() else []
    asked = [record for record in parts.records if record not in settled]
    return Seen(reader, parts, Question(asked, parts.unexplained, parts.reports), settled)


def _ask(questions: Sequence[Question], commands: SlurmCommands, now: float) -> Iterable[Answer]:
    try:
        return ask_all(questions, commands, now=now)
    except ClusterError as error:
        return [_unanswered(question, commands, error, now) for question in questions]


def _unanswered(
    question: Question, commands: SlurmCommands, error: ClusterError, now: float
) -> Answer:
    """What is known of a run while Slurm does not answer: all, where Slurm has nothing to do with it."""
    if question.on_slurm:
        return Answer({}, History({}), error.message)
    [answer] = ask_all([question], commands, now=now)
    return answer


def _settled_rows(records: Iterable[JobRecord]) -> dict[str, JobRow]:
    """Nothing is claimed of these jobs, not even that they ended well."""
    elements = (element for record in records for element in record.elements)
    return {element: JobRow(element, JobState.UNKNOWN, "", COMPLETE) for element in elements}
