"""How much of each task is done, without reading what need not be read.

A finished shard has a marker that names its journals and their sizes; while those are as large as it
says (journals only grow), its counts hold and the journals stay closed: this is what makes the status
of a thousand shards instant. Shards without a valid marker are read line by line, and who looks again
reads only the lines that came since. Nothing is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from evalkit.benchmarks.registry import installed_class
from evalkit.errors import StoreError
from evalkit.store.codec import CorruptLineError, decode, header, unit_key, unseal
from evalkit.store.layout import JOURNAL_SUFFIX
from evalkit.store.markers import read_marker
from evalkit.store.records import (
    RELAYED,
    CallRecord,
    GradingRecord,
    PartialRecord,
    StepRecord,
    UnitRecord,
)
from evalkit.store.union import ShardUnion, attempt_order, list_journals

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TypeAlias

    from evalkit.plan.model import Plan, Shard, TaskPlan, UnitKey
    from evalkit.store.layout import RunFolder
    from evalkit.store.records import Outcome

    Rank: TypeAlias = tuple[tuple[int, str | int], ...]
    """Of an attempt: the first in this order wins a unit, as in `ShardUnion`."""
    Signature: TypeAlias = tuple[int, int, int]


class UnitDetail(NamedTuple):
    """What the last failure of ours said, and who wrote it down."""

    text: str
    """Its first line."""
    attempt: str
    """`r0.a1`"""
    kind: str | None = None
    """What kind of failure the worker called it."""


@dataclass(slots=True)
class TaskProgress:
    """Counts of one task over all its shards."""

    done: int = 0
    """Units with an outcome of the model's own."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Units by outcome; failures of ours are those that are still owed."""
    scored: int = 0
    """Units of finished shards whose score the worker wrote down."""
    score_sum: float = 0.0
    score_weight: float = 0.0
    shards_done: int = 0
    details: dict[str, UnitDetail] = field(default_factory=dict)
    """By outcome that is ours: the last such failure."""


@dataclass(slots=True)
class OpenJournal:
    """One journal as far as it was read."""

    path: Path
    rank: Rank
    offset: int = 0
    is_ours: bool | None = None
    """Whether its header is of this plan and shard; null before the header is there."""

    def new_lines(self) -> list[bytes] | None:
        """Whole lines that came since the last call; null when the file is not the one it was."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self.offset:
                    return None
                file.seek(self.offset)
                block = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror or error}") from error
        block = block[: block.rfind(b"\n") + 1]  # a line without its end may still grow
        self.offset += len(block)
        return block.split(b"\n")[:-1]


@dataclass(slots=True)
class OpenJournals(ABC):
    """Journals of a shard without a marker, of which only what is new is read."""

    plan: Plan
    """What its journals are of."""
    shard: Shard
    planned: frozenset[UnitKey]
    journals: dict[str, OpenJournal] = field(default_factory=dict)
    is_damaged: bool = False
    """A line was refused: calls of finished units may be lost, which only a whole reading tells."""

    def update(self, folder: RunFolder) -> None:
        """Read what is new; everything again when a journal shrank or vanished. Raises StoreError."""
        paths = {path.name: path for path in list_journals(folder, self.shard)}
        if not self._read_new(paths):
            self.journals.clear()
            self._forget()
            self._read_new(paths)

    @abstractmethod
    def _forget(self) -> None:
        """Count from nothing again."""

    @abstractmethod
    def _count(self, key: UnitKey, payload: dict[str, Any], journal: OpenJournal) -> None:
        """Count one record of a planned unit."""

    def _read_new(self, paths: dict[str, Path]) -> bool:
        if not self.journals.keys() <= paths.keys():
            return False
        for name, path in paths.items():
            if name not in self.journals:
                rank = attempt_order(name.removesuffix(JOURNAL_SUFFIX))
                self.journals[name] = OpenJournal(path, rank)
            journal = self.journals[name]
            lines = journal.new_lines()
            if lines is None:
                return False
            for line in lines:
                self._take(journal, line)
        return True

    def _take(self, journal: OpenJournal, line: bytes) -> None:
        """Count one line as a whole reading would; what it skips is skipped, and named by a gather."""
        try:
            payload = unseal(line)
            if journal.is_ours is None:
                journal.is_ours = is_header(payload, self.plan, self.shard)
            elif journal.is_ours and (key := unit_key(payload)) in self.planned:
                self._count(key, payload, journal)
        except (CorruptLineError, KeyError):
            journal.is_ours = bool(journal.is_ours)
            self.is_damaged = True


@dataclass(slots=True)
class OpenShard(OpenJournals):
    """The counts of a shard without a marker, kept up to date."""

    single_call: bool = field(kw_only=True)
    finished: dict[UnitKey, tuple[Rank, Outcome]] = field(default_factory=dict)
    errors: dict[UnitKey, tuple[Rank, Outcome]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of the units in `finished` and `errors`."""
    details: dict[str, UnitDetail] = field(default_factory=dict)

    def _forget(self) -> None:
        for known in (self.finished, self.errors, self.outcomes, self.details):
            known.clear()

    def _count(self, key: UnitKey, payload: dict[str, Any], journal: OpenJournal) -> None:
        record, rank = decode(payload), journal.rank
        if isinstance(record, PartialRecord | StepRecord | GradingRecord):
            return
        if isinstance(record, CallRecord):
            # a relayed call is a part of its unit, also where the harness is gone that could say so
            outcome, ends_unit = record.reply.outcome, self.single_call and record.call < RELAYED
        else:
            outcome, ends_unit = record.outcome, True
        if not outcome.is_models_own:
            kind = record.kind if isinstance(record, UnitRecord) else None
            self.details[str(outcome)] = UnitDetail(_detail(record), journal.path.stem, kind)
            known = self.errors.get(key)
            if key not in self.finished and (known is None or known[0] <= rank):
                self._put(self.errors, key, rank, outcome)
        elif ends_unit:
            self._drop(self.errors, key)
            first = self.finished.get(key)
            if first is None or rank < first[0]:
                self._put(self.finished, key, rank, outcome)

    def _put(
        self,
        units: dict[UnitKey, tuple[Rank, Outcome]],
        key: UnitKey,
        rank: Rank,
        outcome: Outcome,
    ) -> None:
        self._drop(units, key)
        units[key] = (rank, outcome)
        self.outcomes[str(outcome)] += 1

    def _drop(self, units: dict[UnitKey, tuple[Rank, Outcome]], key: UnitKey) -> None:
        before = units.pop(key, None)
        if before is not None:
            self.outcomes[str(before[1])] -= 1


def is_header(payload: dict[str, Any], plan: Plan, shard: Shard) -> bool:
    """Whether this is the first line of a journal of the shard, under this plan."""
    wanted = header(plan.fingerprint, shard.task, shard.index, str(payload.get("attempt")))
    return all(payload.get(name) == value for name, value in wanted.items())


class ProgressReader:
    """Counts of a run's tasks, looked at again and again. Use it from one thread at a time."""

    def __init__(self, folder: RunFolder, plan: Plan) -> None:
        self._folder = folder
        self._plan = plan
        self._open: dict[Shard, OpenShard] = {}
        self._finished: dict[Shard, tuple[Signature, dict[str, Any]]] = {}

    def read(self, task: TaskPlan) -> TaskProgress:
        """Progress of one task now. Raises StoreError when a journal cannot be read."""
        progress = TaskProgress()
        for shard in task.shards():
            marker = self._marker(shard)
            if marker is not None:
                self._open.pop(shard, None)
                _add_marker(progress, marker)
            elif self._folder.journals(shard).is_dir():
                self._add_journals(progress, task, shard)
        return progress

    def _marker(self, shard: Shard) -> dict[str, Any] | None:
        """The shard's marker; once believed it is until its file changes."""
        try:
            about = self._folder.marker(shard).stat()
        except OSError:
            self._finished.pop(shard, None)
            return None
        signature = (about.st_ino, about.st_mtime_ns, about.st_size)
        known = self._finished.get(shard)
        if known is not None and known[0] == signature:
            return known[1]
        marker = read_marker(self._folder, shard)
        if marker is None or not isinstance(marker.get("units"), int):
            return None
        self._finished[shard] = (signature, marker)
        return marker

    def _add_journals(self, progress: TaskProgress, task: TaskPlan, shard: Shard) -> None:
        state = self._open.get(shard)
        if state is None:
            known = installed_class(task.benchmark)
            single_call = known is None or known.single_call
            state = OpenShard(
                self._plan, shard, frozenset(task.units(shard)), single_call=single_call
            )
            self._open[shard] = state
        state.update(self._folder)
        outcomes, done = state.outcomes, len(state.finished)
        if state.is_damaged and not state.single_call:
            union = ShardUnion.read(self._folder, self._plan, shard, single_call=False)
            outcomes = Counter(str(unit.outcome) for unit in union.finished.values())
            outcomes.update(str(outcome) for outcome, _ in union.errors.values())
            done = len(union.finished)
        progress.done += done
        progress.outcomes += outcomes
        progress.details |= state.details
        progress.shards_done += done == len(state.planned)


def _detail(record: CallRecord | UnitRecord) -> str:
    said = record.reply.detail if isinstance(record, CallRecord) else record.detail
    return (said or "").partition("\n")[0]


def _add_marker(progress: TaskProgress, marker: dict[str, Any]) -> None:
    progress.shards_done += 1
    progress.done += marker["units"]
    progress.outcomes.update(marker.get("outcomes", {}))
    progress.scored += marker.get("scored", 0)
    progress.score_sum += marker.get("score_sum", 0.0)
    progress.score_weight += marker.get("score_weight", marker.get("scored", 0))


def read_missing(folder: RunFolder, task: str) -> dict[str, tuple[int, str]]:
    """Units that the last gather of a task could not score, by reason: how many, and the last words.

    A judge and most graders are asked there for the first time. {} where there was no gather.
    """
    try:
        reasons = orjson.loads(folder.results(task).read_bytes())["missing"]["by_reason"]
        return {
            str(reason): (int(each["count"]), str(each["message"] or ""))
            for reason, each in reasons.items()
        }
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError):
        return {}


def is_gathered(folder: RunFolder) -> bool:
    """Whether a gather found every task complete."""
    try:
        return orjson.loads(folder.summary.read_bytes()).get("complete") is True
    except (OSError, orjson.JSONDecodeError, AttributeError):
        return False
