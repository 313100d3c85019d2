"""The union of a shard's journals over all attempts: which units are finished, and with what.

Any number of attempts may have written the same unit (a preempted worker that lived on, a lease that
was taken over); the winner is the first finished record in the order of attempts (replica name, then
attempt number), then in the order of the file. The rule needs no clock, and no listing order changes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from evalkit.errors import StoreError
from evalkit.store.codec import CorruptLineError, Record, decode, unit_key
from evalkit.store.layout import JOURNAL_SUFFIX, RunFolder
from evalkit.store.markers import marked_journals
from evalkit.store.parts import Parts
from evalkit.store.reading import JournalProblem, read_journal
from evalkit.store.records import (
    RELAYED,
    CallRecord,
    GradingRecord,
    Outcome,
    PartialRecord,
    Reply,
    StepRecord,
    UnitRecord,
)
from evalkit.store.tokens import TokenChain

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.plan.model import Plan, Shard, TaskPlan, UnitKey
    from evalkit.store.parts import PartKey


@dataclass(frozen=True, slots=True)
class FinishedUnit:
    """A unit whose outcome is the model's own."""

    key: UnitKey
    outcome: Outcome
    text: str
    """What the scorer reads."""
    data: Any
    detail: str | None
    calls: tuple[CallRecord, ...]
    """Its calls in order, for usage and timing."""
    attempt: str
    steps: tuple[StepRecord, ...] = ()
    """Its steps outside of the model, in order."""

    @property
    def reply(self) -> Reply | None:
        """The reply of the last call; of relayed ones, of the one that was sent last."""
        if not self.calls:
            return None
        last = self.calls[-1]
        if last.call >= RELAYED:
            last = max(self.calls, key=lambda call: (call.timing.started, call.call))
        return last.reply


@dataclass(slots=True)
class ShardUnion:
    """What all journals of one shard say together."""

    finished: dict[UnitKey, FinishedUnit] = field(default_factory=dict)
    errors: dict[UnitKey, tuple[Outcome, str]] = field(default_factory=dict)
    """Last failure that was ours, of units that are not finished."""
    partial: dict[UnitKey, dict[PartKey, TokenChain]] = field(default_factory=dict)
    """Tokens of calls that are not finished, from the attempt that has the most of them."""
    duplicates: int = 0
    """Finished units beyond the first of their key."""
    problems: list[JournalProblem] = field(default_factory=list)
    journals: dict[str, int] = field(default_factory=dict)
    """Size of each journal as read, bytes."""
    _calls: Parts[CallRecord] = field(default_factory=Parts)
    _steps: Parts[StepRecord] = field(default_factory=Parts)
    _growing: dict[UnitKey, dict[PartKey, TokenChain]] = field(default_factory=dict)
    """Tokens of unfinished calls in the journal that is being read."""

    @property
    def calls(self) -> dict[UnitKey, dict[PartKey, CallRecord]]:
        """Finished calls of units that are not finished."""
        return self._calls.open

    @property
    def steps(self) -> dict[UnitKey, dict[PartKey, StepRecord]]:
        """Finished steps of units that are not finished."""
        return self._steps.open

    @classmethod
    def read(cls, folder: RunFolder, plan: Plan, shard: Shard, *, single_call: bool) -> ShardUnion:
        """Read all journals of `shard`. Raises StoreError when one cannot be read."""
        union = cls()
        task = plan.task(shard.task)
        for path in list_journals(folder, shard):
            attempt = path.name.removesuffix(JOURNAL_SUFFIX)
            union.journals[path.name] = _size(path)
            union._calls.begin_journal()
            union._steps.begin_journal()
            for payload in read_journal(path, plan, shard, union.problems):
                try:
                    key = unit_key(payload)
                    record = decode(payload)
                except (CorruptLineError, KeyError) as error:
                    union.problems.append(JournalProblem(path, 0, f"not a record: {error}"))
                    continue
                if _is_planned(task, shard, key):
                    union._add(key, record, attempt, single_call=single_call)
            union._keep_longest()
        if union.problems:
            union._reopen_incomplete()
        union._drop_finished()
        return union

    def owed(self, task: TaskPlan, shard: Shard) -> list[UnitKey]:
        """Planned units of the shard that are not finished, in plan order."""
        return [key for key in task.units(shard) if key not in self.finished]

    def _add(self, key: UnitKey, record: Record, attempt: str, *, single_call: bool) -> None:
        match record:
            case CallRecord():
                self._add_call(key, record, attempt, single_call=single_call)
            case StepRecord():
                self._add_step(key, record)
            case UnitRecord():
                self._add_unit(key, record, attempt)
            case PartialRecord():
                call = (record.call, record.request)
                self._growing.setdefault(key, {}).setdefault(call, TokenChain()).take(record)
            case GradingRecord():
                pass  # journals of gradings are read by `evalkit.store.gradings`

    def _add_call(
        self, key: UnitKey, record: CallRecord, attempt: str, *, single_call: bool
    ) -> None:
        if self._growing:
            self._growing.get(key, {}).pop((record.call, record.request), None)
        if not record.reply.outcome.is_models_own:
            if key not in self.finished:
                self.errors[key] = (record.reply.outcome, record.reply.detail or "")
        elif single_call:
            reply = record.reply
            self._finish(
                FinishedUnit(
                    key, reply.outcome, reply.content, None, reply.detail, (record,), attempt
                )
            )
        elif (unit := self.finished.get(key)) is not None:
            calls = self._calls.complete(key, unit.calls, record)
            self.finished[key] = replace(unit, calls=calls)
        else:
            self._calls.add(key, record)

    def _add_step(self, key: UnitKey, record: StepRecord) -> None:
        if (unit := self.finished.get(key)) is not None:
            steps = self._steps.complete(key, unit.steps, record)
            self.finished[key] = replace(unit, steps=steps)
        else:
            self._steps.add(key, record)

    def _add_unit(self, key: UnitKey, record: UnitRecord, attempt: str) -> None:
        if not record.outcome.is_models_own:
            if key not in self.finished:
                self.errors[key] = (record.outcome, record.detail or "")
            return
        if key in self.finished:
            self.duplicates += 1
            return
        calls = self._calls.finish(key, record.calls, record.unanswered, record.relayed)
        steps = self._steps.finish(key, record.steps, record.undone)
        outcome, text, data, detail = record.outcome, record.text, record.data, record.detail
        self._finish(FinishedUnit(key, outcome, text, data, detail, calls, attempt, steps))

    def _keep_longest(self) -> None:
        """After a journal: of a call that several attempts had begun, the most tokens stand."""
        for key, chains in self._growing.items():
            known = self.partial.setdefault(key, {})
            for call, chain in chains.items():
                if call not in known or chain.beats(known[call]):
                    known[call] = chain
        self._growing.clear()

    def _reopen_incomplete(self) -> None:
        """Finished units of which a call's or a step's line may be among those that were lost: it is
        made again."""
        for key in {*self._calls.incomplete(), *self._steps.incomplete()}:
            unit = self.finished.pop(key)
            self._calls.reopen(key, unit.calls)
            self._steps.reopen(key, unit.steps)

    def _drop_finished(self) -> None:
        """Forget tokens of calls that another attempt has finished."""
        for key in list(self.partial):
            done = self.calls.get(key, {})
            left = {c: t for c, t in self.partial[key].items() if c not in done and t.tokens}
            if key in self.finished or not left:
                del self.partial[key]
            else:
                self.partial[key] = left

    def _finish(self, unit: FinishedUnit) -> None:
        if unit.key in self.finished:
            self.duplicates += 1
            return
        self.finished[unit.key] = unit
        self.errors.pop(unit.key, None)
        self.calls.pop(unit.key, None)
        self.steps.pop(unit.key, None)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


def list_journals(folder: RunFolder, shard: Shard) -> list[Path]:
    """The shard's journals in the order of attempts. Raises StoreError.

    A network file system may list a folder as it was a minute ago, and yet open a file in it by name:
    so journals that the shard's marker names are looked up too.
    """
    journals = folder.journals(shard)
    try:
        paths = {p for p in journals.iterdir() if p.name.endswith(JOURNAL_SUFFIX)}
        hidden = {journals / name for name in marked_journals(folder, shard)} - paths
        paths |= {path for path in hidden if path.is_file()}
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot list {journals}: {error.strerror}") from error
    return sorted(paths, key=lambda path: (attempt_order(path.name), path.name))


def attempt_order(name: str) -> tuple[tuple[int, str | int], ...]:
    """Sort key of a journal's name: numbers by value, so that a10 comes after a9."""
    parts = re.split(r"(\d+)", name)
    return tuple((1, int(p)) if p.isdigit() else (0, p) for p in parts)


def _is_planned(task: TaskPlan, shard: Shard, key: UnitKey) -> bool:
    return (
        0 <= key.sample < task.n_samples
        and 0 <= key.repeat < task.repeats
        and task.shard_of(key) == shard.index
    )
