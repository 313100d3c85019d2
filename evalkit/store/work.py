"""What the queue hands out: units of a leased shard, with what earlier attempts left of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evalkit.store.parts import part_key
from evalkit.store.tokens import TokenChain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.plan.model import Shard, UnitKey
    from evalkit.store.journal import JournalWriter
    from evalkit.store.parts import PartKey
    from evalkit.store.records import CallRecord, StepRecord


@dataclass(slots=True, eq=False)
class OpenShard:
    """A leased shard with the units that are still to be done."""

    shard: Shard
    writer: JournalWriter
    open: set[UnitKey]
    calls: dict[UnitKey, dict[PartKey, CallRecord]]
    """Finished calls of many-call units that are not finished."""
    partial: dict[UnitKey, dict[PartKey, TokenChain]]
    """Tokens of calls that are not finished."""
    outcomes: dict[str, int]
    """Finished units by outcome, earlier attempts included."""
    steps: dict[UnitKey, dict[PartKey, StepRecord]] = field(default_factory=dict)
    """Finished steps of units that are not finished."""
    scored: int = 0
    score_sum: float = 0.0
    score_weight: float = 0.0
    """What `score_sum` is a share of: `scored`, or the parts that the scores count."""
    failed: int = 0
    """Units that ended with an error of ours: the shard stays owed."""
    unanswered: list[UnitKey] = field(default_factory=list)
    """Those of them that got no answer in the first pass."""
    is_second_pass: bool = False

    def add_score(self, value: float, weight: float) -> None:
        """Count the score of one unit; what comes after the shard's last unit is not in its marker."""
        self.scored += 1
        self.score_sum += value
        self.score_weight += weight


@dataclass(frozen=True, slots=True, eq=False)
class WorkItem:
    """One unit to do."""

    key: UnitKey
    shard: OpenShard

    @property
    def finished_calls(self) -> Mapping[PartKey, CallRecord]:
        """Calls of this unit that are journaled, by earlier attempts or with `keep`."""
        return self.shard.calls.get(self.key, {})

    @property
    def finished_steps(self) -> Mapping[PartKey, StepRecord]:
        """Steps of this unit that are journaled, by earlier attempts or with `keep_step`."""
        return self.shard.steps.get(self.key, {})

    def keep(self, record: CallRecord) -> None:
        """Journal a finished call; if the unit is interrupted and given back, it is not made again."""
        self.shard.writer.append(record)
        call = part_key(record)
        self.shard.calls.setdefault(self.key, {})[call] = record
        if self.shard.partial:
            self.shard.partial.get(self.key, {}).pop(call, None)

    def keep_step(self, record: StepRecord) -> None:
        """Journal a finished step, as `keep` does a call."""
        self.shard.writer.append(record)
        self.shard.steps.setdefault(self.key, {})[part_key(record)] = record

    def tokens(self, call: int, request: str) -> CallTokens:
        """The tokens of one call of this unit, kept from attempt to attempt until it is finished."""
        return CallTokens(self, call, request)


@dataclass(frozen=True, slots=True)
class CallTokens:
    """Where the tokens of one unfinished call are kept."""

    item: WorkItem
    call: int
    request: str

    def load(self) -> TokenChain | None:
        """The tokens that are there, of earlier attempts or of a server before; null for none."""
        return self.item.shard.partial.get(self.item.key, {}).get((self.call, self.request))

    def begin(self) -> TokenChain:
        """Start from nothing; what was there is given up."""
        before = self.load()
        # one that has no token yet was itself begun anew: its predecessors stay given up
        begun = 0 if before is None else before.begun + bool(before.tokens)
        chain = TokenChain(begun=begun)
        chains = self.item.shard.partial.setdefault(self.item.key, {})
        chains[self.call, self.request] = chain
        return chain

    def save(self) -> None:
        """Journal the tokens that came since the last time."""
        chain = self.load()
        if chain is not None and (record := chain.unsaved(*self.item.key, self.call, self.request)):
            self.item.shard.writer.append(record)
