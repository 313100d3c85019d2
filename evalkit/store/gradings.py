"""Gradings: what a sandbox or a judge found about finished units, in journals of their own.

They lie beside the run's journals, one folder for each grader (code version, parameters, judge), so
that answers can be graded again, by another one, and nothing that was found before is lost. A grading
names the hash of the answer that it is of: where another answer wins later, it is not taken for that
one's.

A shard whose answers are all graded gets a marker, a hint for status: how many there are, and their
scores. It is believed while the journals of the findings and of the answers are those that it names.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.errors import StoreError
from evalkit.plan.fingerprint import fingerprint
from evalkit.store.codec import CorruptLineError, decode, unit_key
from evalkit.store.layout import JOURNAL_SUFFIX
from evalkit.store.markers import read_marker, write_marker
from evalkit.store.reading import JournalProblem, read_journal
from evalkit.store.records import CallRecord, GradingRecord, Outcome
from evalkit.store.union import list_journals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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


def scored_as(task: TaskPlan) -> str:
    """Names what the scores of a task's findings depend on besides them."""
    return fingerprint({"profile": task.profile, "params": task.params})


def _does(_found: Any) -> bool:
    """Every finding is enough, where nobody says which is not."""
    return True


@dataclass(slots=True)
class JudgeUsage:
    """What asking a judge has cost, as it was journaled: calls of no use and done twice included."""

    calls: int = 0
    unknown: int = 0
    """Calls for which its server did not count tokens."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Reasoning included."""
    reasoning_tokens: int = 0
    uncounted: int = 0
    """Calls of which its server did not count the prompt or the answer, so that nobody knows what they cost."""
    charged_prompt: int = 0
    """Tokens of the prompts of all other calls."""
    charged_completion: int = 0
    charged_cached: int = 0

    def add(self, record: CallRecord) -> None:
        """Count one call."""
        usage = record.reply.usage
        self.calls += 1
        self.unknown += usage.completion_tokens is None
        self.prompt_tokens += usage.prompt_tokens or 0
        self.completion_tokens += usage.completion_tokens or 0
        self.reasoning_tokens += usage.reasoning_tokens or 0
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            self.uncounted += 1
            return
        self.charged_prompt += usage.prompt_tokens
        self.charged_completion += usage.completion_tokens
        self.charged_cached += min(usage.cached_tokens or 0, usage.prompt_tokens)

    def take(self, other: JudgeUsage) -> None:
        """Count what another one counted."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(slots=True)
class GradingCounters:
    """Counts of one shard's graded units."""

    units: int = 0
    scored: int = 0
    """Those of them whose score is in `score_sum`."""
    score_sum: float = 0.0
    score_weight: float = 0.0
    """What `score_sum` is a share of: `scored`, or the parts that the scores count."""

    def add(self, score: float | None, weight: float = 1.0) -> None:
        """Count a graded unit."""
        self.units += 1
        if score is not None:
            self.scored += 1
            self.score_sum += score
            self.score_weight += weight


@dataclass(slots=True)
class ShardGradings:
    """What was found about one shard's units, over all attempts; the first finding that does stands."""

    found: dict[tuple[UnitKey, str], Any] = field(default_factory=dict)
    """By unit and hash of its answer."""
    failures: dict[tuple[UnitKey, str], tuple[Outcome, str]] = field(default_factory=dict)
    """Last failure, of those that nothing was found about."""
    calls: dict[UnitKey, dict[PartKey, CallRecord]] = field(default_factory=dict)
    """Calls of the judge."""
    problems: list[JournalProblem] = field(default_factory=list)
    usage: JudgeUsage = field(default_factory=JudgeUsage)
    suffices: Callable[[Any], bool] = _does

    @classmethod
    def read(
        cls,
        folder: RunFolder,
        plan: Plan,
        shard: Shard,
        suffices: Callable[[Any], bool] = _does,
    ) -> ShardGradings:
        """Read all journals; `folder` and `plan` are the grading's, and findings that do not do for the
        scorer (`suffices`) are none. Raises StoreError."""
        gradings = cls(suffices=suffices)
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
                self.usage.add(record)
                calls = self.calls.setdefault(key, {})
                calls.setdefault((record.call, record.request), record)
            case GradingRecord() if record.outcome.is_models_own:
                if not self.suffices(record.found):
                    return
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


def mark_graded(
    run: RunFolder, place: RunFolder, shard: Shard, counters: GradingCounters, label: str
) -> None:
    """Mark a shard of which every planned answer is there and graded; `label` is from `scored_as`.

    Raises StoreError.
    """
    counts = {each.name: getattr(counters, each.name) for each in fields(counters)}
    try:
        answers = _sizes(run, shard)
    except OSError as error:
        raise StoreError(f"cannot list {run.journals(shard)}: {error.strerror}") from error
    write_marker(place, shard, {**counts, "as": label, "answers": answers})


def read_graded(run: RunFolder, place: RunFolder, shard: Shard) -> dict[str, Any] | None:
    """The marker of a graded shard (`GradingCounters`, and `as`); null when there is none that can be
    believed."""
    marker = read_marker(place, shard)
    if marker is None or not isinstance(marker.get("units"), int):
        return None
    try:
        return marker if marker.get("answers") == _sizes(run, shard) else None
    except OSError:
        return None


def _sizes(run: RunFolder, shard: Shard) -> dict[str, int]:
    return {
        path.name: path.stat().st_size
        for path in run.journals(shard).iterdir()
        if path.name.endswith(JOURNAL_SUFFIX)
    }
