"""How much of each task is graded, without reading what need not be read: see `evalkit.cluster.progress`.

A graded shard has a marker; the others' journals of findings are read line by line, once. Answers are not
read here: of an answer that came after its unit was graded, a status may count the finding; a gather
does not. Graders that live say at what rate they work.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from evalkit.benchmarks.registry import benchmark_class, benchmark_for
from evalkit.cluster.processes import START_TOLERANCE_S
from evalkit.cluster.progress import OpenJournal, OpenJournals, UnitDetail
from evalkit.cluster.replica_report import ENDED, read_reports_by_file
from evalkit.errors import EvalkitError
from evalkit.store.codec import decode
from evalkit.store.gradings import grading_plan, read_graded, scored_as
from evalkit.store.records import GradingRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.benchmarks.contract import Benchmark
    from evalkit.cluster.progress import Signature
    from evalkit.cluster.replica_report import ReplicaReport
    from evalkit.plan.model import Plan, Shard, TaskPlan, UnitKey
    from evalkit.store.layout import RunFolder
    from evalkit.store.records import Outcome


@dataclass(slots=True)
class GradingCounts:
    """Counts of one task over all its shards, and who grades it."""

    place: RunFolder
    """Of the grading."""
    grader: str
    """`sandbox` or `judge`."""
    graded: int = 0
    """Units that something was found about."""
    errors: Counter[str] = field(default_factory=Counter)
    """Units by the failure of ours that keeps them ungraded."""
    details: dict[str, UnitDetail] = field(default_factory=dict)
    """By failure: the last of them."""
    scored: int = 0
    score_sum: float = 0.0
    score_weight: float = 0.0
    reports: list[ReplicaReport] = field(default_factory=list)
    """Of all graders, the latest first."""


@dataclass(slots=True)
class OpenGradings(OpenJournals):
    """The counts of a shard without a marker, kept up to date."""

    suffices: Callable[[Any], bool] = field(kw_only=True)
    graded: set[UnitKey] = field(default_factory=set)
    errors: dict[UnitKey, Outcome] = field(default_factory=dict)
    details: dict[str, UnitDetail] = field(default_factory=dict)

    def _forget(self) -> None:
        for known in (self.graded, self.errors, self.details):
            known.clear()

    def _count(self, key: UnitKey, payload: dict[str, Any], journal: OpenJournal) -> None:
        record = decode(payload)
        if not isinstance(record, GradingRecord):
            return
        if not record.outcome.is_models_own:
            words = (record.detail or "").partition("\n")[0]
            self.details[str(record.outcome)] = UnitDetail(words, journal.path.stem)
            if key not in self.graded:
                self.errors[key] = record.outcome
        elif self.suffices(record.found):
            self.graded.add(key)
            self.errors.pop(key, None)


class _Task(NamedTuple):
    """What does not change of one task."""

    benchmark: Benchmark[Any]
    place: RunFolder
    plan: Plan
    label: str


class GradingReader:
    """Counts of a run's gradings, looked at again and again. Use it from one thread at a time."""

    def __init__(self, folder: RunFolder, plan: Plan) -> None:
        self._folder = folder
        self._plan = plan
        self._tasks: dict[str, _Task | None] = {}
        self._open: dict[Shard, OpenGradings] = {}
        self._graded: dict[Shard, tuple[Signature, dict[str, Any]]] = {}

    def read(self, task: TaskPlan) -> GradingCounts | None:
        """Counts of one task now; null where nothing grades it, and where nobody here can tell (its
        benchmark is not installed). Raises StoreError when a journal cannot be read."""
        known = self._task(task)
        if known is None:
            return None
        counts = GradingCounts(known.place, str(known.benchmark.grader))
        counts.reports = [_seen(report) for report in read_reports_by_file(known.place)]
        if not known.place.root.is_dir():
            return counts
        for shard in task.shards():
            marker = self._marker(known, shard)
            if marker is not None:
                self._open.pop(shard, None)
                counts.graded += marker["units"]
                counts.scored += marker["scored"]
                counts.score_sum += marker["score_sum"]
                counts.score_weight += marker["score_weight"]
            elif known.place.journals(shard).is_dir():
                self._add_journals(counts, known, task, shard)
        return counts

    def _task(self, task: TaskPlan) -> _Task | None:
        if task.name not in self._tasks:
            self._tasks[task.name] = self._find(task)
        return self._tasks[task.name]

    def _find(self, task: TaskPlan) -> _Task | None:
        try:
            if benchmark_class(task.benchmark).grader is None:
                return None
            benchmark = benchmark_for(task)
        except EvalkitError:
            return None
        plan = grading_plan(self._plan, task, benchmark.grading_params)
        place = self._folder.grading(task.name, plan.fingerprint)
        return _Task(benchmark, place, plan, scored_as(task))

    def _marker(self, task: _Task, shard: Shard) -> dict[str, Any] | None:
        """The shard's marker; once believed it is until its file changes."""
        try:
            about = task.place.marker(shard).stat()
        except OSError:
            self._graded.pop(shard, None)
            return None
        signature = (about.st_ino, about.st_mtime_ns, about.st_size)
        known = self._graded.get(shard)
        if known is not None and known[0] == signature:
            return known[1]
        marker = read_graded(self._folder, task.place, shard)
        if marker is None or marker.get("as") != task.label:
            return None
        self._graded[shard] = (signature, marker)
        return marker

    def _add_journals(
        self, counts: GradingCounts, known: _Task, task: TaskPlan, shard: Shard
    ) -> None:
        state = self._open.get(shard)
        if state is None:
            planned = frozenset(task.units(shard))
            state = OpenGradings(known.plan, shard, planned, suffices=known.benchmark.suffices)
            self._open[shard] = state
        state.update(known.place)
        counts.graded += len(state.graded)
        counts.errors.update(str(outcome) for outcome in state.errors.values())
        counts.details |= state.details


def _seen(report: ReplicaReport) -> ReplicaReport:
    """A report, which is not of a living grader where its process, of this machine, is gone."""
    if report.state in ENDED or report.host != socket.gethostname():
        return report
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(report.pid)
        is_its = process.create_time() < report.started + START_TOLERANCE_S
        if is_its and process.status() != psutil.STATUS_ZOMBIE:
            return report
    return replace(report, state="interrupted")
