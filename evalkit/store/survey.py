"""What a run still owes, looked up as fast as a login node can: the first step of every resume.

A shard with a marker that its journals bear out is not read. Of the others only what tells that a
unit is finished is looked at, a third of the cost of a `ShardUnion`, and a complete one gets its marker
back, so that no worker reads it again. Nothing is scored or published from here: a gather reads
everything, whatever the markers say.

What is found damaged on the way is named, with what it means: never a wrong answer, at most units that
are generated again.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.errors import StoreError
from evalkit.store.codec import CorruptLineError, unit_key
from evalkit.store.markers import doubt_marker, read_marker, write_marker
from evalkit.store.reading import JournalProblem, read_journal
from evalkit.store.records import Outcome
from evalkit.store.union import ShardUnion, list_journals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evalkit.plan.model import Plan, Shard, UnitKey
    from evalkit.store.layout import RunFolder

OWN = frozenset(outcome.value for outcome in Outcome if outcome.is_models_own)


@dataclass(slots=True)
class Survey:
    """What was found."""

    owed: dict[str, int] = field(default_factory=dict)
    """Unfinished units by task."""
    problems: list[str] = field(default_factory=list)
    """Damage, by path in the run folder and line, and what it means."""

    @property
    def total(self) -> int:
        """Unfinished units of the run."""
        return sum(self.owed.values())


def survey_run(folder: RunFolder, plan: Plan, single_call: Mapping[str, bool]) -> Survey:
    """Look up what is owed, and mark what is not. `single_call` says by task name whether its units
    are one call each. Raises StoreError when a journal cannot be read."""
    survey = Survey()
    for task in plan.tasks:
        survey.owed[task.name] = sum(
            _owed_of(folder, plan, shard, survey, single_call=single_call[task.name])
            for shard in task.shards()
        )
    return survey


def _owed_of(
    folder: RunFolder, plan: Plan, shard: Shard, survey: Survey, *, single_call: bool
) -> int:
    if read_marker(folder, shard) is not None:
        return 0
    problems: list[JournalProblem] = []
    finished = find_finished(folder, plan, shard, problems, single_call=single_call)
    if problems and not single_call:  # of a finished unit, a call may be what was lost
        union = ShardUnion.read(folder, plan, shard, single_call=False)
        finished = {key: unit.outcome.value for key, unit in union.finished.items()}
    planned = list(plan.task(shard.task).units(shard))
    done = Counter(finished[key] for key in planned if key in finished)
    survey.problems += _named(folder, shard, problems)
    if done.total() == len(planned):
        _mark(folder, shard, done)
    return len(planned) - done.total()


def _named(folder: RunFolder, shard: Shard, problems: Sequence[JournalProblem]) -> Iterator[str]:
    """Damage in words. A torn last line is none: every kill leaves one."""
    prefix = f"{folder.root}/"
    if (doubt := doubt_marker(folder, shard)) is not None:
        yield f"{doubt.removeprefix(prefix)}: what is left of the shard's answers was looked through"
    for problem in problems:
        if not problem.torn:
            yield (
                f"{str(problem).removeprefix(prefix)}: skipped; a unit that has no other record "
                "is generated again"
            )


def find_finished(
    folder: RunFolder,
    plan: Plan,
    shard: Shard,
    problems: list[JournalProblem],
    *,
    single_call: bool,
) -> dict[UnitKey, str]:
    """The first outcome of each unit that some journal of the shard has finished; units that are not
    planned included. Raises StoreError."""
    kind = "call" if single_call else "unit"
    finished: dict[UnitKey, str] = {}
    for path in list_journals(folder, shard):
        for payload in read_journal(path, plan, shard, problems):
            try:
                if payload["kind"] == kind and payload["outcome"] in OWN:
                    finished.setdefault(unit_key(payload), payload["outcome"])
            except (KeyError, TypeError, CorruptLineError):
                continue  # whole, but no record of this version: a gather names it
    return finished


def _mark(folder: RunFolder, shard: Shard, outcomes: Mapping[str, int]) -> None:
    """Give a complete shard its marker back. Scores were in it, too, which nobody knows here; a
    marker that cannot be written only costs the next resume this reading."""
    counters: dict[str, Any] = {"units": sum(outcomes.values()), "outcomes": dict(outcomes)}
    with contextlib.suppress(StoreError):
        write_marker(folder, shard, {**counters, "scored": 0, "score_sum": 0.0})
