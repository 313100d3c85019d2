"""Gradings: what a sandbox or a judge found about finished units, in journals of their own.

They lie beside the run's journals, one folder for each grader (code version, parameters, judge), so
that answers can be graded again, by another one, and nothing that was found before is lost. A grading
names the hash of the answer that it is of: where another answer wins later, it is not taken for that
one's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.plan.fingerprint import fingerprint
from evalkit.store.codec import CorruptLineError, decode, unit_key
from evalkit.store.journal import JournalProblem, read_journal
from evalkit.store.records import CallRecord, GradingRecord, Outcome
from evalkit.store.union import list_journals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.plan.model import Plan, Shard, TaskPlan, UnitKey
    from evalkit.store.layout import RunFolder
    from evalkit.store.parts import PartKey
    from evalkit.store.union import FinishedUnit


def grader_identity(task: TaskPlan, params: Sequence[str]) -> dict[str, Any]:
    """Everything that may move what is found about a task's answers, by key.

    `params` names the parameters that the benchmark's `grade` reads.
    """
    return {
        "answers": task.fingerprint,
        "benchmark": {"name": task.benchmark, "version": task.benchmark_version},
        "params": {name: task.params[name] for name in params},
        "judge": None if task.judge is None else task.judge.identity,
    }


def grading_plan(plan: Plan, task: TaskPlan, params: Sequence[str]) -> Plan:
    """The plan that journals of a grading belong to: the task alone, under the grader's fingerprint."""
    identity = fingerprint(grader_identity(task, params))
    return plan.model_copy(update={"tasks": (task,), "fingerprint": identity})


def solution_hash(unit: FinishedUnit) -> str:
    """Names an answer: 32 hexadecimal digits."""
    return answer_hash(unit.text, unit.outcome.value, unit.data)


def answer_hash(text: str, outcome: str, data: Any) -> str:
    """The same, of an answer's parts as an artifact has them."""
    content = orjson.dumps([text, outcome, data], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:32]


@dataclass(slots=True)
class ShardGradings:
    """What was found about one shard's units, over all attempts; the first finding stands."""

    found: dict[tuple[UnitKey, str], Any] = field(default_factory=dict)
    """By unit and hash of its answer."""
    failures: dict[tuple[UnitKey, str], tuple[Outcome, str]] = field(default_factory=dict)
    """Last failure, of those that nothing was found about."""
    calls: dict[UnitKey, dict[PartKey, CallRecord]] = field(default_factory=dict)
    """Calls of the judge."""
    problems: list[JournalProblem] = field(default_factory=list)

    @classmethod
    def read(cls, folder: RunFolder, plan: Plan, shard: Shard) -> ShardGradings:
        """Read all journals; `folder` and `plan` are the grading's. Raises StoreError."""
        gradings = cls()
        for path in list_journals(folder, shard):
            for payload in read_journal(path, plan, shard, gradings.problems):
                try:
                    gradings._add(unit_key(payload), decode(payload))
                except (CorruptLineError, KeyError) as error:
                    gradings.problems.append(JournalProblem(path, 0, f"not a record: {error}"))
        return gradings

    def _add(self, key: UnitKey, record: object) -> None:
        if isinstance(record, GradingRecord) and record.anew:
            self.calls.pop(key, None)
        match record:
            case CallRecord():
                calls = self.calls.setdefault(key, {})
                calls.setdefault((record.call, record.request), record)
            case GradingRecord() if record.outcome.is_models_own:
                self.found.setdefault((key, record.solution), record.found)
                self.failures.pop((key, record.solution), None)
            case GradingRecord() if (key, record.solution) not in self.found:
                failure = (record.outcome, record.detail or "")
                self.failures[key, record.solution] = failure
            case _:
                pass

    def owed(self, units: Mapping[UnitKey, FinishedUnit]) -> list[tuple[FinishedUnit, str]]:
        """Units, with the hash of their answer, that nothing was found about yet."""
        hashed = ((unit, solution_hash(unit)) for unit in units.values())
        return [(unit, name) for unit, name in hashed if (unit.key, name) not in self.found]
