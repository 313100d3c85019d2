"""A worker inside this process, against a server beside it: how it ends, and what it leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
import pytest

from evalkit.clock import SYSTEM_CLOCK, Clock
from evalkit.cluster import recall
from evalkit.cluster.attempts import begin_attempt, read_attempts
from evalkit.cluster.holding import held_gpus
from evalkit.cluster.job import current_job
from evalkit.cluster.session import Session
from evalkit.cluster.worker import (
    Worker,
    drain_before_end,
    request_drain,
    run_replica,
)
from evalkit.errors import EndpointError, EvalkitError, FailureKind, ServerDiedError, UsageError
from evalkit.serving.tree import MARKER
from evalkit.store.run import load_plan
from evalkit.store.survey import survey_run
from evalkit.store.union import ShardUnion
from tests.faults.harness import WORKER, Server, free_port, serving, wait_for
from tests.unit.serving.test_tree import SLEEP, running
from tests.unit.worker.test_prepare import RECIPE, load, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from evalkit.store.layout import RunFolder


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server for all tests here."""
    with serving() as running:
        yield running


def make_run(root: Path, base_url: str, n: int = 30) -> RunFolder:
    """A prepared run against a server."""
    changes = {
        "serving": {**RECIPE["serving"], "base_url": base_url},
        "tasks": {"addition": {"params": {"n": n, "digits": 6}}},
        "client": {"parallelism": 4, "max_retries": 0},
    }
    return prepare(load(root, **changes))[0].folder


def report(folder: RunFolder) -> dict[str, object]:
    """What the replica last said of itself."""
    found: dict[str, object] = orjson.loads(folder.replica("r0").read_bytes())
    return found


def test_from_start_to_end(tmp_path: Path, server: Server) -> None:
    """All units are done, the replica says so, and another attempt has nothing to do and asks nobody."""
    folder = make_run(tmp_path, server.base_url)
    assert run_replica(folder.root, "r0", current_job()) == 0
    assert survey_run(folder, load_plan(folder), {"addition": True}).owed == {"addition": 0}
    assert report(folder)["state"] == "done"
    assert report(folder)["tasks"]["addition"]["done"] == 30  # type: ignore[index]
    asked = server.counts()["received"]
    assert run_replica(folder.root, "r0", current_job()) == 0
    records = read_attempts(folder)
    assert [(r.id, r.end, r.units, r.server_starts) for r in records] == [
        ("r0.a1", "done", 30, 1),
        ("r0.a2", "done", 0, 0),
    ]
    assert all(r.failure is None and r.gpus == 0 and r.ended == r.last for r in records)
    assert server.counts()["received"] == asked
    said = [line[20:] for line in folder.stdout.read_text().splitlines()]
    assert said[0].startswith("r0.a1 starts on ")
    assert [line for line in said if "starts" not in line] == ["r0.a1 done", "r0.a2 done"]
    assert "nothing is owed of addition: no server is started" in (
        folder.worker_log("r0", 2).read_text()
    )


def test_leftovers_of_a_killed_attempt(tmp_path: Path, server: Server) -> None:
    """A starting attempt ends what another one left on its node; its log and the run's log say so."""
    folder = make_run(tmp_path, server.base_url, n=2)
    # a name that no other test has, whose run may have the same id
    marker = f"{load_plan(folder).run_id}-r77.a1-0:20000"
    with running(SLEEP, {MARKER: marker}) as left:
        subprocess.run([sys.executable, str(WORKER), str(folder.root), "r0"], check=True)
        assert left.wait() == -signal.SIGTERM
    said = f"r77.a1, which is over, had left processes on {os.uname().nodename} ({left.pid})"
    assert f"r0.a1: {said}; they are ended" in folder.stdout.read_text()
    assert f"WARNING {said}" in folder.worker_log("r0", 1).read_text()


def test_drain(tmp_path: Path, server: Server) -> None:
    """A drain ends with code 1; what was in flight is journaled, and the leases are free."""
    folder = make_run(tmp_path, server.base_url, n=500)
    before = server.counts()["answered"]
    server.hang_after(40)

    def stop() -> None:
        wait_for(lambda: server.counts()["answered"] >= before + 20)
        request_drain("SIGTERM", wait_s=0)
        server.go_on()

    stopper = threading.Thread(target=stop)
    stopper.start()
    code = run_replica(folder.root, "r0", current_job())
    stopper.join()
    assert code == 1
    assert report(folder)["state"] == "interrupted"
    plan = load_plan(folder)
    unions = [
        ShardUnion.read(folder, plan, shard, single_call=True) for shard in plan.tasks[0].shards()
    ]
    done = sum(len(union.finished) for union in unions)
    # the server counts an answer after it has sent it, and the preflight's if it was read to its end
    wait_for(lambda: server.counts()["answered"] - before - done in (0, 1))
    assert list(folder.leases.rglob("*.lock")) == []
    assert run_replica(folder.root, "r0", current_job()) == 0
    assert report(folder)["attempt"] == 2
    record = read_attempts(folder)[0]
    assert (record.end, record.reason, record.units) == ("drained", "SIGTERM", done)
    assert record.failure is None, "who sent the signal is known to Slurm alone"


@pytest.mark.parametrize(
    ("ends_in_s", "left_s"), [(None, 180.0), (100.0, 100.0), (7200.0, 180.0), (-1.0, 0.0)]
)
def test_time_left(tmp_path: Path, server: Server, ends_in_s: float | None, left_s: float) -> None:
    """What is left to a job that was warned: until its end, and no more than the warning's lead."""
    folder = make_run(tmp_path, server.base_url)
    clock = Clock(wall=lambda: 1000.0)
    job = replace(current_job(), ends=None if ends_in_s is None else 1000.0 + ends_in_s)
    attempt = begin_attempt(folder, "r0")
    worker = Worker(load_plan(folder), attempt, job, clock)
    assert worker.time_left() == left_s
    assert worker.shutdown_s == 0.0, "the server of an external endpoint is not ours to stop"


@pytest.mark.parametrize(("ends_in_s", "owed"), [(180.0, 30 - 4), (15.0, 30)])
def test_warning_before_the_end(
    tmp_path: Path, server: Server, ends_in_s: float, owed: int
) -> None:
    """Calls in flight end, and are journaled, when the job has the time, and are cut when it has not."""
    folder = make_run(tmp_path, server.base_url)
    before = server.counts()["received"]
    server.hang_after(1)

    def warn() -> None:
        wait_for(lambda: server.counts()["received"] >= before + 5)
        drain_before_end("SIGUSR2")

    def end_calls() -> None:
        wait_for(lambda: any(record.reason for record in read_attempts(folder)))
        server.go_on()

    threads = [threading.Thread(target=warn)]
    if owed < 30:
        threads.append(threading.Thread(target=end_calls))
    for thread in threads:
        thread.start()
    job = replace(current_job(), ends=SYSTEM_CLOCK.wall() + ends_in_s)
    code = run_replica(folder.root, "r0", job)
    for thread in threads:
        thread.join()
    server.go_on()
    assert code == 1
    assert survey_run(folder, load_plan(folder), {"addition": True}).owed == {"addition": owed}


def test_failure(tmp_path: Path) -> None:
    """An attempt that cannot work raises, and its report and the run's log say why."""
    folder = make_run(tmp_path, f"http://127.0.0.1:{free_port()}/v1")
    plan = folder.plan.read_text()
    folder.plan.write_text(plan.replace('"check_models": true', '"check_models": false'))
    with pytest.raises(Exception, match=r"preflight of tasks\.addition: no answer from"):
        run_replica(folder.root, "r0", current_job())
    assert report(folder)["state"] == "failed"
    assert "no answer from" in str(report(folder)["error"])
    assert "r0.a1 failed: preflight of tasks.addition" in folder.stdout.read_text()
    record = read_attempts(folder)[0]
    assert record.failure is not None
    assert record.end == "failed"
    assert record.failure.kind is FailureKind.ENDPOINT
    assert record.failure.reason.startswith("preflight of tasks.addition: no answer from")
    assert record.failure.node == record.host
    assert record.failure.log == "logs/r0/attempt-1/worker.log"


def test_server_that_dies_of_our_signal(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends after we were told to stop is no failure of the attempt."""
    folder = make_run(tmp_path, server.base_url)

    async def die(self: Session) -> None:
        signalled = threading.Thread(target=request_drain, args=("SIGTERM", 0))
        signalled.start()
        signalled.join()
        raise ServerDiedError("exit code 1")

    monkeypatch.setattr(Session, "run", die)
    assert run_replica(folder.root, "r0", current_job()) == 1
    [record] = read_attempts(folder)
    assert (record.end, record.reason, record.failure) == ("drained", "SIGTERM", None)
    assert report(folder)["error"] is None
    assert "stopped (SIGTERM): exit code 1" in folder.worker_log("r0", 1).read_text()


@pytest.mark.parametrize(
    ("visible", "planned", "held"),
    [("0,1", 1, 4), ("", 1, 0), ("NoDevFiles", 2, 0), (None, 0, 0), (None, 4, 0)],
)
def test_held_gpus(visible: str | None, planned: int, held: int) -> None:
    """What the job was given, on all its nodes; without a word, what is there of what is needed."""
    job = replace(current_job(), gpus=visible, nodes=("n1", "n2"))
    assert held_gpus(job, planned, {"PATH": ""}) == held


def test_wrong_model_name(tmp_path: Path, server: Server) -> None:
    """An endpoint that serves another model is refused before the first unit."""
    folder = make_run(tmp_path, server.base_url)
    plan = folder.plan.read_text().replace('"served_model_name": "m"', '"served_model_name": "x"')
    folder.plan.write_text(plan)
    with pytest.raises(EndpointError, match="answers with another model's name"):
        run_replica(folder.root, "r0", current_job())


def test_no_run(tmp_path: Path) -> None:
    """A folder that is no run is refused, and nothing is made in it."""
    with pytest.raises(UsageError, match="is not a run"):
        run_replica(tmp_path, "r0", current_job())
    assert list(tmp_path.iterdir()) == []


def test_stop_before_the_work(tmp_path: Path, server: Server) -> None:
    """A reason to stop that comes before there is a worker stops the next one, and only that."""
    folder = make_run(tmp_path, server.base_url)
    before = server.counts()["received"]
    request_drain("SIGTERM")
    drain_before_end("SIGUSR2")
    assert run_replica(folder.root, "r0", current_job()) == 1
    assert server.counts()["received"] == before
    [record] = read_attempts(folder)
    assert (record.end, record.reason, record.units) == ("drained", "SIGTERM", 0)
    assert run_replica(folder.root, "r0", current_job()) == 0


def test_drain_of_the_last_units(tmp_path: Path, server: Server) -> None:
    """A drain in which everything gets finished ends as done: nothing is left to requeue for."""
    folder = make_run(tmp_path, server.base_url, n=3)  # fewer than fit into flight
    before = server.counts()["received"]
    server.hang_after(1)

    def stop() -> None:
        wait_for(lambda: server.counts()["received"] >= before + 4)
        request_drain("SIGTERM", wait_s=0)
        server.go_on()

    stopper = threading.Thread(target=stop)
    stopper.start()
    code = run_replica(folder.root, "r0", current_job())
    stopper.join()
    assert code == 0
    assert report(folder)["state"] == "done"
    [record] = read_attempts(folder)
    assert (record.end, record.reason, record.units) == ("done", None, 3)


def test_reason_is_written_when_the_drain_starts(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that is killed while it drains has left what stopped it, and no end."""
    folder = make_run(tmp_path, server.base_url)
    seen = []

    async def drain(self: Session) -> None:
        threading.Thread(target=request_drain, args=("SIGUSR2", 0)).start()
        while read_attempts(folder)[0].reason is None:
            await asyncio.sleep(0)
        seen.append(read_attempts(folder)[0])

    monkeypatch.setattr(Session, "run", drain)
    assert run_replica(folder.root, "r0", current_job()) == 1
    assert [(record.end, record.reason) for record in seen] == [(None, "SIGUSR2")]


def test_an_attempt_that_nobody_wants_drains(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its job runs elsewhere by now no signal reaches it: it finds out by itself, and stops."""
    folder = make_run(tmp_path, server.base_url)
    monkeypatch.setattr(recall, "RECORD_EVERY_S", 0.05)
    monkeypatch.setattr(recall, "why_recalled", lambda *_: recall.SUPERSEDED)

    async def wait(self: Session) -> None:
        await self._all.drain.wait()

    monkeypatch.setattr(Session, "run", wait)
    assert run_replica(folder.root, "r0", current_job()) == 1
    [record] = read_attempts(folder)
    assert (record.end, record.reason) == ("drained", "superseded")


def test_unforeseen_error(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is raised as an error of ours of an unknown kind, with its cause."""
    folder = make_run(tmp_path, server.base_url)

    async def fail(self: Session) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(Session, "run", fail)
    with pytest.raises(EvalkitError, match="unforeseen: ZeroDivisionError") as caught:
        run_replica(folder.root, "r0", current_job())
    assert caught.value.kind is FailureKind.UNKNOWN
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
