"""Gather: journals to artifacts, strict about completeness.

What is expected comes from the plan. A gather proves that every planned unit is scored, or says
exactly which are not and why, withholds the headline and raises. It may run at any time, also beside
workers, and as often as one likes: the same journals give the same artifacts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.frozen import load_frozen
from evalkit.benchmarks.registry import benchmark_for
from evalkit.errors import EvalkitError, IncompleteError, StoreError, UsageError
from evalkit.report.artifacts import (
    find_complete,
    hash_lines,
    write_samples,
    write_summary,
    write_task,
)
from evalkit.report.assemble import aggregate_task, as_concluded, make_results
from evalkit.report.collect import Collector
from evalkit.report.facts import RunFacts, read_run_facts
from evalkit.report.findings import Findings
from evalkit.report.judging import judge_facts
from evalkit.report.page.write import renew_report
from evalkit.report.results import Provenance, Results, Summary
from evalkit.report.scorer import Scorer
from evalkit.report.spill import Spill
from evalkit.report.whole import conclude
from evalkit.store.leases import remove_lease
from evalkit.store.markers import remove_marker
from evalkit.store.publish import remove_abandoned
from evalkit.store.union import ShardUnion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from evalkit.benchmarks.contract import Benchmark
    from evalkit.plan.model import Plan, Shard, TaskPlan
    from evalkit.report.whole import Concluded
    from evalkit.store.layout import RunFolder


@dataclass(frozen=True, slots=True)
class GatherProgress:
    """How far the gather of one task is, after each shard."""

    task: str
    shards: int
    """Shards read."""
    of_shards: int
    scored: int
    """Units scored so far."""


@dataclass(frozen=True, slots=True)
class RunResults:
    """What a gather found."""

    tasks: tuple[Results, ...]
    """One for each gathered task, in plan order, as the journals say it now."""
    summary: Summary
    """Over the published results of all tasks of the run."""
    kept: tuple[str, ...] = ()
    """Incomplete tasks whose earlier complete artifacts were left in place."""

    @property
    def complete(self) -> bool:
        """Every gathered task is complete."""
        return all(results.complete for results in self.tasks)

    def require_complete(self) -> None:
        """Raises IncompleteError, saying what is missing in which task."""
        lines = [_describe_missing(r, r.task in self.kept) for r in self.tasks if not r.complete]
        if lines:
            raise IncompleteError(
                "\n".join(lines),
                hint="`evalkit resume` finishes what is missing, `evalkit score` grades what is "
                "ungraded and asks a failed grader again. results.json lists the units.",
            )


def gather_run(
    folder: RunFolder,
    plan: Plan,
    *,
    tasks: Sequence[str] | None = None,
    allow_partial: bool = False,
    on_progress: Callable[[GatherProgress], None],
    clock: Callable[[], float],
) -> RunResults:
    """Score everything finished, publish artifacts, and prove completeness.

    `tasks` names some of the plan's (all by default); `clock` gives seconds since the epoch for the
    run's log. Raises UsageError for an unknown task, StoreError, PlanError for a benchmark of
    another version, and IncompleteError, after all artifacts are written, unless `allow_partial`.
    """
    chosen = choose_tasks(plan, tasks)
    facts = read_run_facts(folder)
    gathered, kept = [], []
    for task in chosen:
        results = gather_task(folder, plan, task, benchmark_for(task), facts, on_progress)
        gathered.append(results)
        if not results.complete and find_complete(folder, plan, task) is not None:
            kept.append(task.name)
    summary = write_summary(folder, plan, facts.gpu_seconds)
    run = RunResults(tuple(gathered), summary, tuple(kept))
    now = clock()
    _log(folder, (_describe(results, results.task in run.kept) for results in run.tasks), now)
    problem = renew_report(folder, plan)
    if problem is not None:
        _log(folder, (problem,), now)
    logs = folder.stdout.parent
    remove_abandoned((folder.replicas, folder.leases, folder.cluster, logs, folder.artifacts()))
    if not allow_partial:
        run.require_complete()
    return run


def gather_task(
    folder: RunFolder,
    plan: Plan,
    task: TaskPlan,
    benchmark: Benchmark[Any],
    facts: RunFacts,
    on_progress: Callable[[GatherProgress], None],
) -> Results:
    """Gather one task with its benchmark; writes its artifacts and returns what results.json says.

    Where earlier complete artifacts exist and units are missing now, nothing is written.
    """
    samples = load_frozen(folder, task)
    findings = Findings.of(folder, plan, task, benchmark)
    found = Collector(folder.root, task, samples, publishable=benchmark.publishable)
    whole = benchmark.whole
    concluded = None
    with (
        Spill(folder.artifacts(task.name), task.n_units) as spill,
        Scorer(benchmark, parallel=benchmark.parallel_scoring) as scorer,
    ):
        for number, shard in enumerate(task.shards(), start=1):
            union = _read_shard(folder, plan, shard, single_call=benchmark.single_call)
            found.take(shard, union, findings.read(shard), None if whole else scorer, spill)
            on_progress(GatherProgress(task.name, number, task.n_shards, found.scored))
        if whole:
            concluded = _conclude(folder, task, found, benchmark)
        aggregate = None if whole else aggregate_task(task, samples, found, benchmark)
        lines = spill.lines()
        if concluded is not None and concluded.native.samples:
            lines = concluded.lines()
        complete = aggregate is not None or concluded is not None
        publishes = complete or find_complete(folder, plan, task) is None
        if publishes:
            samples_sha256 = write_samples(folder.samples(task.name), lines)
        else:
            samples_sha256 = hash_lines(lines)
    provenance = _provenance(plan, found, findings, facts)
    results = make_results(plan, found, aggregate, benchmark, provenance, samples_sha256)
    if concluded is not None:
        results = as_concluded(results, task, concluded)
    if publishes:
        write_task(folder, plan, results, found.traffic.traffic(task.name))
    return results


def _read_shard(folder: RunFolder, plan: Plan, shard: Shard, *, single_call: bool) -> ShardUnion:
    """What the journals of a shard say; hints beside them that are not true are removed."""
    union = ShardUnion.read(folder, plan, shard, single_call=single_call)
    if union.owed(plan.task(shard.task), shard):
        remove_marker(folder, shard)  # a marker that the journals do not bear out
    else:
        remove_lease(folder, shard)  # of a worker that was killed with its last unit done
    return union


def _conclude(
    folder: RunFolder, task: TaskPlan, found: Collector, benchmark: Benchmark[Any]
) -> Concluded | None:
    """What the harness of a task finds; null while units are missing, or where it fails: then none of
    them is scored."""
    if found.missing:
        return None
    place = {sample.id: number for number, sample in enumerate(found.samples)}
    found.answers.sort(key=lambda each: (place[each.sample.id], each.repeat))
    try:
        return conclude(folder, task, benchmark, found.answers)
    except StoreError:
        raise
    except EvalkitError as error:
        hint = f" ({error.hint})" if error.hint else ""
        found.owe_all("scorer_error", f"{error.message}{hint}")
        return None


def choose_tasks(plan: Plan, names: Sequence[str] | None) -> list[TaskPlan]:
    """The tasks of these names, all by default, in plan order. Raises UsageError."""
    known = [task.name for task in plan.tasks]
    for name in names or ():
        if name not in known:
            raise UsageError(f"no task {name!r} in this run", hint=f"Tasks: {', '.join(known)}.")
    return [task for task in plan.tasks if names is None or task.name in names]


def _describe_missing(results: Results, kept: bool) -> str:
    missing = results.missing
    reasons = ", ".join(
        f"{part.count} {reason}" + (f" (last: {part.message})" if part.message else "")
        for reason, part in missing.by_reason.items()
    )
    first = ", ".join(f"{unit.sample} repeat {unit.repeat}" for unit in missing.first[:3])
    more = ", ..." if missing.count > 3 else ""
    text = (
        f"{results.task}: {missing.count} of {results.counts.expected} units are missing: {reasons}; "
        f"in {len(missing.by_shard)} shards; first: {first}{more}"
    )
    return f"{text}; earlier complete artifacts were left as they are" if kept else text


def _log(folder: RunFolder, found: Iterable[str], now: float) -> None:
    """Append what was found to the run's log. Raises StoreError."""
    stamp = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    lines = [f"{stamp} gather {each}\n" for each in found]
    try:
        folder.stdout.parent.mkdir(parents=True, exist_ok=True)
        with folder.stdout.open("a", encoding="utf-8") as file:
            file.writelines(lines)
    except OSError as error:
        raise StoreError(f"cannot write {folder.stdout}: {error.strerror or error}") from error


def _describe(results: Results, kept: bool) -> str:
    headline = results.headline
    if headline.shown is None:
        return _describe_missing(results, kept)
    unit = " %" if headline.is_share else ""
    return f"{results.task}: complete, {headline.name} {headline.words}{unit}"


def _provenance(plan: Plan, found: Collector, findings: Findings, facts: RunFacts) -> Provenance:
    """Where everything came from; what could not be read of it is added to the problems."""
    unread: list[str] = []
    judge = judge_facts(found.task, findings, unread)
    found.problems += [*facts.problems, *unread]
    return Provenance(
        model=plan.model,
        data=found.task.data,
        servers=facts.servers,
        run_gpu_seconds=facts.gpu_seconds,
        made_by=facts.made_by,
        judge=judge,
    )
