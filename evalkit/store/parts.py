"""The finished calls, or the finished steps, of a shard's units, as its journals are read one by one.

Both have a number in their unit and a digest of what was asked, and both belong to a unit by the same
rule: an attempt that got an answer itself went on from its own, whatever another one, live at the
same time, was told for the same number; else the first in the order of attempts counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from evalkit.store.records import CallRecord, StepRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from evalkit.plan.model import UnitKey

PartKey: TypeAlias = tuple[int, str]
"""(number in its unit, digest of what was asked) of a call or a step."""
R = TypeVar("R", bound=CallRecord | StepRecord)


def part_key(record: CallRecord | StepRecord) -> PartKey:
    """What a call or step is found by when its unit is solved again."""
    if isinstance(record, CallRecord):
        return record.call, record.request
    return record.step, record.digest


@dataclass(slots=True)
class Parts(Generic[R]):
    """Records of one kind, by unit."""

    open: dict[UnitKey, dict[PartKey, R]] = field(default_factory=dict)
    """Those of units that are not finished."""
    _own: dict[UnitKey, dict[int, R]] = field(default_factory=dict)
    """By number, those that the attempt which is being read made itself."""
    _unseen: dict[UnitKey, set[int]] = field(default_factory=dict)
    """Numbers of finished units whose records are in a journal yet to be read: the attempt that
    finished the unit leased the shard when they were there."""

    def begin_journal(self) -> None:
        """What comes now is another attempt's."""
        self._own.clear()

    def add(self, key: UnitKey, record: R) -> None:
        """Take a record of a unit that is not finished."""
        number, _ = part = part_key(record)
        self.open.setdefault(key, {}).setdefault(part, record)
        self._own.setdefault(key, {})[number] = record

    def finish(
        self, key: UnitKey, count: int, given_up: Iterable[int], named: Iterable[int] = ()
    ) -> tuple[R, ...]:
        """The records of a unit that ended with so many of them and those that are `named`, by number;
        those that are not there yet, and were not given up, are waited for."""
        known: dict[int, R] = {}
        for (number, _), record in self.open.get(key, {}).items():
            known.setdefault(number, record)
        known |= self._own.get(key, {})
        counted = set(range(count))
        wanted = counted | set(named)
        if unseen := wanted - known.keys() - (counted & set(given_up)):
            self._unseen[key] = unseen
        return tuple(known[number] for number in sorted(wanted & known.keys()))

    def complete(self, key: UnitKey, parts: tuple[R, ...], record: R) -> tuple[R, ...]:
        """The records of a finished unit, with one that it waited for."""
        number, _ = part_key(record)
        if number not in self._unseen.get(key, ()):
            return parts
        self._unseen[key].discard(number)
        return tuple(sorted((*parts, record), key=part_key))

    def incomplete(self) -> Collection[UnitKey]:
        """Finished units that still wait for a record."""
        return {key for key, unseen in self._unseen.items() if unseen}

    def reopen(self, key: UnitKey, parts: tuple[R, ...]) -> None:
        """A unit is not finished after all; these of its records are known."""
        if parts:
            self.open[key] = {part_key(record): record for record in parts}
