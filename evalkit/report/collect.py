"""Takes the finished units of a task, shard by shard, and keeps what its artifacts need.

What is expected comes from the plan, never from a listing: every planned unit ends up either scored
or missing for a named reason. Replies go to the spill file; a few dozen bytes per unit stay in memory.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

from evalkit.benchmarks.contract import Answered, Solution
from evalkit.errors import ScorerError
from evalkit.plan.model import UnitKey
from evalkit.report.aggregate import RepeatScores
from evalkit.report.replied import Replied
from evalkit.report.results import Missing, MissingReason, MissingUnit, Reason
from evalkit.report.sample_lines import Missed, render_sample_line
from evalkit.report.traffic import TrafficTally
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evalkit.benchmarks.contract import Sample
    from evalkit.plan.model import Shard, TaskPlan
    from evalkit.report.findings import ShardFindings
    from evalkit.report.scorer import Scorer
    from evalkit.report.spill import Spill
    from evalkit.store.union import FinishedUnit, ShardUnion

REASONS: tuple[Reason, ...] = (
    "no_record",
    "infra_error",
    "judge_error",
    "scorer_error",
    "ungraded",
)
_SCORED = len(REASONS)
UNSCORED = RepeatScores(None, {})
"""Of a unit that has no score by itself."""
FIRST_MISSING = 20
"""Missing units that are named; all of them are counted."""


class Collector:
    """Everything one task's journals say, with scores."""

    def __init__(
        self, root: Path, task: TaskPlan, samples: Sequence[Sample], *, publishable: bool
    ) -> None:
        """`root` is the folder of the run, from which problems are named."""
        self.answers: list[Answered] = []
        """All finished units, shard by shard, where they are scored as a whole."""
        self._root = root
        self.task = task
        self.samples = samples
        self.scores: list[RepeatScores | None] = [None] * task.n_units
        """By position: sample by sample, repeat after repeat."""
        self.scored = 0
        self.by_outcome: Counter[str] = Counter()
        self.no_answer = 0
        self.duplicates = 0
        self.problems: list[str] = []
        self.replied = Replied(task)
        self.traffic = TrafficTally()
        self.continued = 0
        self._publishable = publishable
        self._states = array("B", bytes(task.n_units))  # index into REASONS, or _SCORED
        self._messages: dict[int, str] = {}
        self._values: dict[tuple[tuple[str, float], ...], Mapping[str, float]] = {}
        self._answers: dict[str, str] = {}

    @property
    def missing(self) -> int:
        """Planned units without a score."""
        return self.task.n_units - self.scored

    def take(
        self,
        shard: Shard,
        union: ShardUnion,
        findings: ShardFindings,
        scorer: Scorer | None,
        spill: Spill,
    ) -> None:
        """Score and keep all units of one shard; without a scorer only keep them, for they are scored as a
        whole. Raises StoreError on a full disk."""
        self.duplicates += union.duplicates
        self.problems.extend(
            f"{problem.path.relative_to(self._root)}:{problem.line}: {problem.reason}"
            for problem in (*union.problems, *findings.problems)
            if not problem.torn  # every kill may leave one: nothing that anybody should look at
        )
        units = [u for key in self.task.units(shard) if (u := union.finished.get(key)) is not None]
        items = []
        for unit in units:
            solution = findings.solution(unit)
            if isinstance(solution, Solution):
                items.append((unit, solution))
            else:
                self._put(unit, None, Missed(*solution), spill)
        if scorer is None:
            self._keep_unscored(items, spill)
            items = []
        pairs = [(self.samples[u.key.sample], solution) for u, solution in items]
        scores = [] if scorer is None else scorer.score(pairs)
        for (unit, solution), score in zip(items, scores, strict=True):
            if isinstance(score, ScorerError):
                missed = Missed("scorer_error", score.message)
                self._put(unit, solution, missed, spill)
            else:
                self._put(unit, solution, score, spill)
        for key, (outcome, message) in union.errors.items():
            self._owe(self._position(key), outcome, message)

    def _keep_unscored(self, items: Sequence[tuple[FinishedUnit, Solution]], spill: Spill) -> None:
        for unit, solution in items:
            sample = self.samples[unit.key.sample]
            self.answers.append(Answered(sample, unit.key.repeat, solution, unit.reply))
            self._put(unit, solution, UNSCORED, spill)

    def owe_all(self, reason: Reason, message: str) -> None:
        """Take back that any unit is scored: what they are scored by together failed."""
        for position, state in enumerate(self._states):
            if state == _SCORED:
                self._states[position] = REASONS.index(reason)
                self._messages[position] = message
                self.scores[position] = None
        self.by_outcome = Counter({reason: self.scored})
        self.scored = 0

    def _put(
        self,
        unit: FinishedUnit,
        solution: Solution | None,
        score: RepeatScores | Missed,
        spill: Spill,
    ) -> None:
        position, sample = self._position(unit.key), self.samples[unit.key.sample]
        grading = None if solution is None else solution.grading
        line = render_sample_line(sample, unit, score, grading, publishable=self._publishable)
        spill.put(position, line)
        if isinstance(score, Missed):
            self._states[position] = REASONS.index(score.reason)
            self._messages[position] = score.message
            if score.reason != "ungraded":
                self.by_outcome[score.reason] += 1
            return
        self._keep(position, unit, score)

    def _keep(self, position: int, unit: FinishedUnit, score: RepeatScores) -> None:
        self._states[position] = _SCORED
        self.scored += 1
        self.scores[position] = self._share(score)
        self.by_outcome[unit.outcome.value] += 1
        self.no_answer += score.answer is None and score is not UNSCORED
        self.continued += any(call.continued for call in unit.calls)
        for call in unit.calls:
            self.replied.add(call)
            self.traffic.add(call, truncated=call.reply.outcome is Outcome.TRUNCATED)

    def _owe(self, position: int, outcome: Outcome, message: str) -> None:
        self._states[position] = REASONS.index(_reason(outcome))
        self._messages[position] = message
        self.by_outcome[outcome.value] += 1

    def _share(self, score: RepeatScores) -> RepeatScores:
        """The same, of shared parts: a million units have few different values, maybe few answers."""
        values = self._values.setdefault(tuple(score.values.items()), score.values)
        answer = score.answer
        if answer is not None:
            answer = self._answers.setdefault(answer, answer)
        return RepeatScores(answer, values)

    def _position(self, key: UnitKey) -> int:
        return key.sample * self.task.repeats + key.repeat

    def list_missing(self) -> Missing:
        """What is missing, by reason and shard, the first units by name."""
        by_reason: Counter[Reason] = Counter()
        by_shard: Counter[int] = Counter()
        last: dict[Reason, str] = {}
        first: list[MissingUnit] = []
        for position, state in enumerate(self._states):
            if state == _SCORED:
                continue
            unit = self._missing_unit(position, REASONS[state])
            by_reason[unit.reason] += 1
            by_shard[unit.shard] += 1
            if unit.message is not None:
                last[unit.reason] = unit.message
            if len(first) < FIRST_MISSING:
                first.append(unit)
        return Missing(
            count=self.missing,
            by_reason={
                reason: MissingReason(count=by_reason[reason], message=last.get(reason))
                for reason in REASONS
                if by_reason[reason]
            },
            by_shard={f"{index:05d}": by_shard[index] for index in sorted(by_shard)},
            first=tuple(first),
        )

    def _missing_unit(self, position: int, reason: Reason) -> MissingUnit:
        sample, repeat = divmod(position, self.task.repeats)
        return MissingUnit(
            sample=self.samples[sample].id,
            repeat=repeat,
            shard=self.task.shard_of(UnitKey(sample, repeat)),
            reason=reason,
            message=self._messages.get(position),
        )


def _reason(outcome: Outcome) -> Reason:
    """The reason of a failure of ours."""
    if outcome is Outcome.JUDGE_ERROR:
        return "judge_error"
    return "scorer_error" if outcome is Outcome.SCORER_ERROR else "infra_error"
