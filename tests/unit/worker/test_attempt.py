"""What an attempt is made of: its number, its log, its heartbeat, its end."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from evalkit.clock import Clock
from evalkit.cluster import attempts as attempts_module
from evalkit.cluster import heartbeat as heartbeat_module
from evalkit.cluster.attempts import AttemptRecord, begin_attempt, last_attempt
from evalkit.cluster.drain import FLUSH_S, Drain, DrainedError, fit_drain, grace_before_end
from evalkit.cluster.heartbeat import HEARTBEAT_S, Heartbeat
from evalkit.cluster.provenance import collect_provenance, git_state
from evalkit.cluster.recorder import Recorder
from evalkit.cluster.replica_report import ReplicaReport, TaskTally
from evalkit.cluster.runlog import attempt_logging, note
from evalkit.cluster.session import until_done
from evalkit.errors import StoreError
from evalkit.serving.server import Server
from evalkit.store.layout import RunFolder
from evalkit.store.records import Outcome
from tests.unit.cluster.test_attempts import make_record


def test_attempts_are_numbered(tmp_path: Path) -> None:
    """Each attempt has the next number, whatever the last one left; `latest` is the newest."""
    folder = RunFolder(tmp_path)
    assert last_attempt(folder, "r0") == 0
    assert begin_attempt(folder, "r0").id == "r0.a1"
    (folder.replica_logs("r0") / "attempt-7").mkdir()
    (folder.replica_logs("r0") / "attempt-x").mkdir()
    assert begin_attempt(folder, "r0").id == "r0.a8"
    assert begin_attempt(folder, "r1").id == "r1.a1"
    assert (folder.replica_logs("r0") / "latest").readlink() == Path("attempt-8")
    assert last_attempt(folder, "r0") == 8


def _begin(root: Path, start: Any, numbers: Any) -> None:
    start.wait()
    numbers.put(begin_attempt(RunFolder(root), "r0").number)


def test_two_executions_of_one_replica(tmp_path: Path) -> None:
    """Executions that begin at the same time never share a number."""
    context = multiprocessing.get_context("spawn")
    start, numbers = context.Barrier(3), context.Queue()
    racers = [context.Process(target=_begin, args=(tmp_path, start, numbers)) for _ in range(3)]
    for racer in racers:
        racer.start()
    found = sorted(numbers.get() for _ in racers)
    for racer in racers:
        racer.join()
    numbers.close()
    numbers.join_thread()
    assert found == [1, 2, 3]


def test_listing_that_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that does not show the newest folders yet makes no two attempts share one."""
    folder = RunFolder(tmp_path)
    monkeypatch.setattr(attempts_module, "last_attempt", lambda folder, replica: 0)
    assert [begin_attempt(folder, "r0").number for _ in range(3)] == [1, 2, 3]


def test_logs_that_cannot_be_written(tmp_path: Path) -> None:
    """A run folder that cannot be written where the replica runs is said to be so."""
    folder = RunFolder(tmp_path)
    (tmp_path / "logs").touch()
    with pytest.raises(StoreError) as caught:
        begin_attempt(folder, "r0")
    assert str(caught.value) == (
        f"cannot create logs in {tmp_path}/logs/r0: Not a directory\n"
        "The output folder must be writable where the replica runs."
    )
    with pytest.raises(StoreError, match=f"cannot write {folder.stdout}"):
        note(folder, Clock(), "text")
    with (
        pytest.raises(StoreError, match=f"cannot write {tmp_path}/gone/worker.log"),
        attempt_logging(tmp_path / "gone" / "worker.log"),
    ):
        pass


def test_log_of_an_attempt(tmp_path: Path) -> None:
    """Records of evalkit go to the file while the block lasts, and not after."""
    path = tmp_path / "worker.log"
    with attempt_logging(path):
        logging.getLogger("evalkit.worker").info("inside")
    logging.getLogger("evalkit.worker").warning("outside")
    [line] = path.read_text().splitlines()
    assert line.split(" ", 2)[2] == "INFO inside"
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}[+-]\d{4} ", line), "its zone, too"


def test_note(tmp_path: Path) -> None:
    """Events of a run are lines with their time, in the order they came."""
    folder = RunFolder(tmp_path)
    for text in ("first", "second é"):
        note(folder, Clock(wall=lambda: 0.0), text)
    lines = folder.stdout.read_text("utf-8").splitlines()
    assert [line[20:] for line in lines] == ["first", "second é"]


def report() -> ReplicaReport:
    """A report of an attempt that has just begun."""
    return ReplicaReport("r0", 1, "host", 7, None, 100.0)


def test_tally() -> None:
    """Units that are not the model's own are shown and are not done."""
    tally = TaskTally()
    for outcome in (Outcome.OK, Outcome.EMPTY, Outcome.TRUNCATED, Outcome.INFRA_ERROR):
        tally.add(outcome)
    tally.add_score(1.0, 1.0)
    tally.add_score(2.0, 5.0)
    outcomes = {"ok": 1, "empty": 1, "truncated": 1, "infra_error": 1}
    assert tally == TaskTally(3, 2, 3.0, 6.0, outcomes)


def test_heartbeat(tmp_path: Path) -> None:
    """The file holds the report, the time, and the rates of tokens and units."""
    now = [0.0]
    clock = Clock(wall=lambda: 1000.0 + now[0], monotonic=lambda: now[0])
    mine = report()
    beat = Heartbeat(tmp_path / "r0.json", mine, clock)
    mine.tally("sums")
    beat.write()
    now[0] = 10 * HEARTBEAT_S
    for _ in range(40):
        mine.tally("sums").add(Outcome.OK)
    beat.completion_tokens = 2000
    beat.write()
    found = orjson.loads((tmp_path / "r0.json").read_bytes())
    assert found["heartbeat"] == 1020.0
    assert found["tokens_per_s"] == 100.0
    assert found["tasks"]["sums"]["done"] == 40
    assert found["tasks"]["sums"]["rate_per_s"] == 2.0


async def test_time_of_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first start of each deployment's server and later ones are told apart in the record."""
    now = [0.0]
    clock = Clock(wall=lambda: 1000.0 + now[0], monotonic=lambda: now[0])
    mine = report()
    path = tmp_path / "attempt.json"
    recorder = Recorder(path, make_record(), clock)
    beat = Heartbeat(tmp_path / "r0.json", mine, clock, recorder)
    course = [
        ("starting", 0, 2.0),
        ("loading", 0, 30.0),
        ("ready", 0, 100.0),
        ("stopping", 0, 3.0),
        ("loading", 0, 20.0),
        ("ready", 0, 50.0),
        ("stopping", 1, 1.0),
        ("loading", 1, 8.0),
        ("ready", 1, 10.0),
        ("draining", 1, 4.0),
    ]
    for mine.state, mine.phase, seconds in course:
        now[0] += seconds
        beat.write()
    assert recorder.record.startup_s == 2.0 + 30.0 + 8.0
    assert recorder.record.restart_s == 20.0
    assert recorder.record.wall_s == sum(seconds for _, _, seconds in course)
    monkeypatch.setattr(heartbeat_module, "HEARTBEAT_S", 1e-9)
    beating = asyncio.create_task(beat.beat())
    while not path.exists():
        await asyncio.sleep(0)
    beating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beating
    assert AttemptRecord.parse(path.read_bytes()).restart_s == 20.0


async def test_heartbeat_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat is a hint: where it cannot be written the work goes on, and says so."""
    monkeypatch.setattr(heartbeat_module, "HEARTBEAT_S", 0.0)
    (tmp_path / "file").touch()
    mine = report()
    beating = asyncio.create_task(Heartbeat(tmp_path / "file" / "r0.json", mine, Clock()).beat())
    while mine.detail is None:
        await asyncio.sleep(0)
    beating.cancel()
    assert mine.detail is not None
    assert mine.detail.startswith("heartbeat not written: cannot write ")
    with pytest.raises(asyncio.CancelledError):
        await beating


async def test_drain_ends_waiting() -> None:
    """Work that is waited for is given up when a drain is requested, from another thread too."""
    drain = Drain()
    drain.attach()
    assert await drain.unless(asyncio.sleep(0, "done")) == "done"
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(drain.unless(work()))
    await asyncio.sleep(0)
    threading.Thread(target=drain.request, args=("SIGTERM",)).start()
    with pytest.raises(DrainedError, match="interrupted: SIGTERM"):
        await waiting
    assert ended.is_set()
    drain.request("again")
    assert drain.reason == "SIGTERM"


@pytest.mark.parametrize(
    ("left_s", "shutdown_s", "grace_s"),
    [(180.0, 30.0, 130.0), (60.0, 30.0, 10.0), (45.0, 30.0, 0.0), (0.0, 0.0, 0.0)],
)
def test_grace_before_the_end_of_a_job(left_s: float, shutdown_s: float, grace_s: float) -> None:
    """Calls may take what the stop of the server and the requeue leave of the job."""
    assert grace_before_end(left_s, shutdown_s) == grace_s


async def test_strictest_order_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls in flight end with the earliest of all graces; a later, longer one gives nothing back."""
    now = [100.0]
    drain = Drain(Clock(monotonic=lambda: now[0]))
    drain.attach()
    drain.request("SIGUSR2", 130.0)
    passed: list[float] = []
    sleep = asyncio.sleep

    async def pass_time(seconds: float) -> None:
        now[0] += seconds
        passed.append(seconds)
        if now[0] == 110.0:
            drain.request("SIGTERM", 8.0)
            drain.request("SIGUSR2", 130.0)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", pass_time)
    await drain.end_of_grace()
    assert sum(passed) == 18.0
    assert drain.reason == "SIGUSR2"


async def test_drain_before_the_loop() -> None:
    """A drain that was requested before anybody listened is heard at once."""
    drain = Drain()
    drain.request("early")
    drain.attach()
    await drain.wait()
    assert drain.requested


async def test_until_done_ends_with_the_last_feeder() -> None:
    """Guards end with the feeders; what a feeder raises comes out."""
    ended: list[str] = []

    async def guard() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("guard")

    async def feeder(name: str) -> None:
        await asyncio.sleep(0)
        ended.append(name)

    async def broken() -> None:
        raise StoreError("disk full")

    await until_done([feeder("a"), feeder("b")], [guard()])
    assert ended == ["a", "b", "guard"]
    with pytest.raises(StoreError, match="disk full"):
        await until_done([guard(), broken()], [guard()])
    assert ended == ["a", "b", "guard", "guard", "guard"]


async def test_until_done_ends_with_a_guard() -> None:
    """A guard that raises stops every feeder before it is told."""
    stopped: list[int] = []

    async def feeder(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(number)

    async def guard() -> None:
        await asyncio.sleep(0)
        raise StoreError("the server hangs")

    with pytest.raises(StoreError, match="hangs"):
        await until_done([feeder(n) for n in range(3)], [guard()])
    assert sorted(stopped) == [0, 1, 2]


def test_provenance(tmp_path: Path) -> None:
    """Versions, command and commit of a plan; outside of a repository there is no commit."""
    recipe = tmp_path / "recipe.yaml"
    found = collect_provenance(["evalkit", "run", "a b.yaml"], recipe, {"name": "x:1"}, 0.0)
    assert found["created"] == "1970-01-01T00:00:00+00:00"
    assert found["command"] == "evalkit run 'a b.yaml'"
    assert found["recipe"] == {"file": "recipe.yaml", "git": None, "sources": {"name": "x:1"}}
    assert "pydantic" in found["packages"]
    assert str(tmp_path) not in orjson.dumps(found).decode()
    state = git_state(Path(__file__).parent)
    assert state is None or len(state["commit"]) == 40


@pytest.mark.parametrize("kill_wait_s", [5.0, 10.0, 30.0, 60.0])
async def test_parts_of_a_drain_fit_into_kill_wait(tmp_path: Path, kill_wait_s: float) -> None:
    """Grace, salvage, flush, the keeper's margin and all: what the server may take is a limit for all
    of its end."""
    times = fit_drain(kill_wait_s)
    waited: list[float] = []

    class Deaf(Server):
        is_alive = True  # type: ignore[assignment]

        def _ask_to_stop(self, grace_s: float) -> None:
            return

        async def _wait(self, limit_s: float) -> None:
            waited.append(limit_s)

    process = subprocess.Popen(["true"])
    server = Deaf(process, "none-has-this-marker", tmp_path / "log", 0)
    await server.stop(min(60.0, times.stop_s), times.stop_s)
    process.wait()
    assert times.grace_s + times.salvage_s + FLUSH_S + sum(waited) <= kill_wait_s
    assert waited == [times.stop_s]


async def test_request_after_the_loop() -> None:
    """A signal at the very end, when the loop is just closed, is no error."""
    drain = Drain()

    class Closing:
        def is_closed(self) -> bool:
            return False

        def call_soon_threadsafe(self, _call: object) -> None:
            raise RuntimeError("Event loop is closed")

    drain._loop = Closing()  # type: ignore[assignment]
    drain.request("SIGTERM")
    assert drain.reason == "SIGTERM"


def test_log_without_secrets(tmp_path: Path) -> None:
    """Secrets are in no line of an attempt's log, and in no traceback."""
    path = tmp_path / "worker.log"
    with attempt_logging(path, ["the-secret"]):
        try:
            raise ValueError("said the-secret")
        except ValueError:
            logging.getLogger("evalkit.worker").exception("of %s", "the-secret")
    text = path.read_text()
    assert "ValueError: said ***" in text
    assert "the-secret" not in text
