"""Units that failed because of us: which attempt, which node, which log, which lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from evalkit.cluster.progress import ProgressReader
from evalkit.cluster.status_values import JobStatus
from evalkit.cluster.unit_failures import UnitFailures, UnitSources, unit_failures
from evalkit.store.journal import JournalSet
from evalkit.store.records import Outcome, UnitRecord
from evalkit.store.run import load_plan
from tests.unit.cluster.builders import write_json
from tests.unit.cluster.test_troubles import attempt

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.store.layout import RunFolder

ATTEMPTS = [attempt(1, node="n1"), attempt(2, node="n2")]
GATHER = JobStatus("9", "gather", None, "failed", "FAILED", "", "cpu1", None)
TRACEBACK = """2026-01-31 23:59:58,000 INFO before
2026-01-31 23:59:59,000 ERROR solve of sums failed on sample s1
Traceback (most recent call last):
  File "x.py", line 1, in solve
KeyError: 'answer'
2026-01-31 23:59:59,500 INFO after
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


async def fail(
    folder: RunFolder, outcome: Outcome, detail: str, by: str = "r0.a2", kind: str | None = None
) -> None:
    """A unit of the first shard fails."""
    plan = load_plan(folder)
    task = plan.tasks[0]
    shard = next(iter(task.shards()))
    key = next(iter(task.units(shard)))
    journals = JournalSet()
    writer = journals.open(folder.journal(shard, by), plan, shard, by)
    writer.append(UnitRecord(key.sample, key.repeat, outcome, "", detail=detail, kind=kind))
    await journals.close()


def found(folder: RunFolder) -> UnitFailures:
    """The only failure."""
    plan = load_plan(folder)
    reader = ProgressReader(folder, plan)
    progress = {task.name: reader.read(task) for task in plan.tasks}
    [only] = unit_failures(folder, UnitSources(progress, {}, ATTEMPTS, [GATHER]))
    return only


@pytest.mark.parametrize("source", ["worker", "server"])
async def test_an_endpoints_words_in_a_log(run_folder: RunFolder, source: str) -> None:
    """The lines that have them, of the attempt whose call it was, and its node."""
    logs = run_folder.attempt_logs("r0", 2)
    write(run_folder.worker_log("r0", 2), "starts\n")
    write(logs / f"{source}.log", "starts\nERROR engine is dead: no blocks\nINFO 500\n")
    await fail(run_folder, Outcome.INFRA_ERROR, "status 500: engine is dead (after 3 retries)")
    failure = found(run_folder).failure
    assert (failure.kind, failure.node) == ("endpoint", "n2")
    assert failure.log == f"logs/r0/attempt-2/{source}.log"
    assert failure.lines == ("ERROR engine is dead: no blocks",)


@pytest.mark.parametrize("detail", ["status 503: no slot is free", "", "status 503: no"])
async def test_words_that_no_log_has(run_folder: RunFolder, detail: str) -> None:
    """The worker's log is named, without lines that say something else."""
    write(run_folder.worker_log("r0", 2), "nothing is wrong\n")
    await fail(run_folder, Outcome.INFRA_ERROR, detail)
    failure = found(run_folder).failure
    assert failure.reason == (detail or "see the worker's log")
    assert (failure.node, failure.log) == ("n2", "logs/r0/attempt-2/worker.log")
    assert failure.lines == ()


async def test_an_attempt_that_left_nothing_else(run_folder: RunFolder) -> None:
    """Without a log and a record nothing is claimed."""
    await fail(run_folder, Outcome.JUDGE_ERROR, "judge is down", by="r7.a1")
    failure = found(run_folder).failure
    assert (failure.kind, failure.reason) == ("judge", "judge is down")
    assert (failure.node, failure.log, failure.lines) == (None, None, ())


async def test_a_benchmark_that_failed(run_folder: RunFolder) -> None:
    """The last record of its task, and how its traceback ends."""
    write(run_folder.worker_log("r0", 2), TRACEBACK.replace("answer", "old") + TRACEBACK)
    await fail(run_folder, Outcome.SCORER_ERROR, "solve failed: KeyError('answer')")
    failure = found(run_folder).failure
    assert failure.lines == (
        "2026-01-31 23:59:59,000 ERROR solve of sums failed on sample s1",
        '  File "x.py", line 1, in solve',
        "KeyError: 'answer'",
    )


async def test_a_traceback_is_of_no_endpoint(run_folder: RunFolder) -> None:
    """A call that failed is not explained by a bug in the same log."""
    write(run_folder.worker_log("r0", 2), TRACEBACK)
    await fail(run_folder, Outcome.INFRA_ERROR, "status 500: engine is dead")
    assert found(run_folder).failure.lines == ()


def test_what_a_gather_could_not_score(run_folder: RunFolder) -> None:
    """Its job's output where it has the words, and its node; else the result that does."""
    reasons = {"judge_error": {"count": 3, "message": "status 401: no such key"}}
    write_json(run_folder.results("sums"), {"missing": {"by_reason": reasons}})
    only = found(run_folder)
    assert (only.n, only.failure.kind, only.failure.node) == (3, "judge", None)
    assert only.failure.log == "artifacts/sums/results.json"
    write(run_folder.job_log("9"), "gathers\njudge: no such key\n")
    failure = found(run_folder).failure
    assert (failure.node, failure.log) == ("cpu1", "cluster/9_0_log.out")
    assert failure.lines == ("judge: no such key",)


@pytest.mark.parametrize(("said", "shown"), [("client_error", "client_error"), ("new", "endpoint")])
async def test_kind_is_the_worker_s(run_folder: RunFolder, said: str, shown: str) -> None:
    """A refusal is not shown as a storm; a kind that is not known here is as good as none."""
    await fail(run_folder, Outcome.INFRA_ERROR, "refused with status 400", kind=said)
    assert found(run_folder).failure.kind == shown
