"""Runs `evalkit` in processes beside a server that outlives them, and compares what comes out."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import yaml

from evalkit.benchmarks.frozen import load_frozen
from evalkit.client.durable import DurableModel
from evalkit.client.request import Request, RequestBuilder
from evalkit.plan.fingerprint import flatten
from evalkit.plan.model import UnitKey
from evalkit.serving.ports import claim_port
from evalkit.store.codec import decode
from evalkit.store.layout import RunFolder
from evalkit.store.reading import read_journal
from evalkit.store.records import CallRecord, StepRecord
from evalkit.store.run import load_plan
from evalkit.store.union import list_journals
from tests.faults.fault_server import body_hash
from tests.faults.many_calls import ENTRY_POINTS, Chain, Fan, ManyCallsParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from evalkit.plan.model import TaskPlan

R = TypeVar("R", CallRecord, StepRecord)
REPOSITORY = Path(__file__).parents[2]
FAULT_SERVER = REPOSITORY / "tests" / "faults" / "fault_server.py"
WORKER = REPOSITORY / "tests" / "faults" / "worker_process.py"
PORTS = range(61000, 65536)
"""Above those that Linux gives out by itself."""
POLL_S = 0.005
TIMED = ("latency_s", "provenance")
"""Keys of results.json that say when, where and how fast: no two runs agree in them."""
TASKS: dict[str, Any] = {
    "chain": {"params": {"n": 8, "calls": 5}, "repeats": 2},
    "fan": {"params": {"n": 8, "calls": 4}},
    "addition": {"params": {"n": 40, "digits": 6}},
}
N_CALLS = 8 * 2 * 5 + 8 * 4 + 40
PARALLELISM = 8


def free_port() -> int:
    """A port that nobody listens on, and that no other test gets while this process lives.

    Whoever is to listen there does so later, and in between the kernel may give a port of its own range
    to anybody.
    """
    for port in random.sample(PORTS, len(PORTS)):
        if (claim := claim_port("127.0.0.1", port)) is not None:
            atexit.register(claim.release)
            return port
    raise AssertionError(f"no port of {PORTS} is free")


def wait_for(condition: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    """Look again and again; the test's time limit is the deadline. Fails when a process ends first."""
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(POLL_S)


@dataclass(frozen=True)
class Server:
    """A running fault server."""

    port: int

    @property
    def base_url(self) -> str:
        """What a recipe takes."""
        return f"http://127.0.0.1:{self.port}/v1"

    def counts(self) -> dict[str, Any]:
        """What came and what was answered, by hash of the body."""
        found: dict[str, Any] = self._get("/_counts")
        return found

    def switch(self, **switches: Any) -> None:
        """Change what goes wrong from now on."""
        self._get("/_switches", switches)

    def hang_after(self, answers: int) -> None:
        """What has come is answered, and so many requests more; later ones wait until `go_on`."""
        self.switch(hang_after=self.counts()["received"] + answers)

    def hang_at_token(self, tokens: int) -> None:
        """So many tokens more are made, and none after them until `go_on`."""
        self.switch(hang_at_token=self.counts()["tokens"] + tokens)

    def go_on(self) -> None:
        """Hang no more."""
        self.switch(hang_after=0, hang_at_token=0)

    def is_up(self) -> bool:
        """Whether it listens."""
        try:
            self.counts()
        except OSError:
            return False
        return True

    def _get(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data)) as answer:
            return json.load(answer)


def server_of(folder: RunFolder, replica: str, attempt: int = 1) -> Server:
    """The last server of an attempt that was ready."""
    lines = folder.server_facts(replica, attempt).read_bytes().splitlines()
    argv: list[str] = orjson.loads(lines[-1])["argv"]
    return Server(int(argv[argv.index("--port") + 1]))


@contextmanager
def serving(*switches: str, port: int | None = None) -> Iterator[Server]:
    """A fault server of model `m` that lives as long as the block."""
    server = Server(port or free_port())
    argv = [
        sys.executable,
        str(FAULT_SERVER),
        "--port",
        str(server.port),
        "--model",
        "m",
        *switches,
    ]
    with subprocess.Popen(argv) as process:
        try:
            while not server.is_up():
                assert process.poll() is None, "the fault server ended"
                time.sleep(POLL_S)
            yield server
        finally:
            process.kill()


class Place:
    """A folder for runs, with the plug-in that brings the many-call benchmarks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        metadata = root / "plugin" / "many_calls-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: many-calls\nVersion: 1.0\n"
        )
        (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
        self.env = {
            **os.environ,
            "PYTHONPATH": f"{metadata.parent}:{REPOSITORY}",
            "PYTHONWARNINGS": "default",
            "NO_COLOR": "1",
        }
        self.folder = RunFolder(root / "runs" / "test")

    def write_recipe(self, serving: dict[str, Any], **changes: Any) -> Path:
        """The recipe of all tests here, with another server."""
        recipe = {
            "name": "test",
            "models": {"m": {"id": "m"}},
            "serving": serving,
            "generation": {"temperature": 0, "max_tokens": 100},
            "client": {"parallelism": PARALLELISM},
            "tasks": TASKS,
            "cluster": {"executor": "local"},
            "output": {"dir": str(self.root / "runs")},
        }
        path = self.root / "recipe.yaml"
        path.write_text(yaml.safe_dump({**recipe, **changes}))
        return path

    def external(self, server: Server, **changes: Any) -> Path:
        """A recipe against a server that is not ours."""
        return self.write_recipe({"kind": "external", "base_url": server.base_url}, **changes)

    def command(self, *switches: str, **changes: Any) -> Path:
        """A recipe that starts the fault server itself."""
        argv = [sys.executable, str(FAULT_SERVER), "--port", "{port}", "--api-key", "{api_key}"]
        command = [*argv, "--model", "{served_model_name}", *switches]
        own = {"kind": "command", "gpus": 0, "command": command, "max_restarts": 20}
        return self.write_recipe({**own, **changes.pop("serving", {})}, **changes)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """`evalkit` with these arguments, in the background."""
        return self._start([sys.executable, "-m", "evalkit", *map(str, arguments)])

    def start_worker(self, replica: str, *faults: str) -> subprocess.Popen[str]:
        """A worker of the run, in the background."""
        return self._start([sys.executable, str(WORKER), str(self.folder.root), replica, *faults])

    def start_two(self, server: Server, *faults: str) -> tuple[subprocess.Popen[str], ...]:
        """Two workers that both have calls in flight, and no answer until the server may `go_on`."""
        server.hang_after(1)  # a preflight: one works, and the preflight of the other waits
        team = tuple(self.start_worker(replica, *faults) for replica in ("r0", "r1"))
        wait_for(lambda: server.counts()["in_flight"] > PARALLELISM, *team)
        before = server.counts()["received"]
        server.hang_after(0)
        wait_for(lambda: server.counts()["received"] > before + PARALLELISM, *team)
        return team

    def _start(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            env=self.env,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def evalkit(self, *arguments: str | Path, code: int = 0) -> str:
        """What `evalkit` with these arguments says; it must end with this code."""
        return finish(self.start(*arguments), code)

    def artifacts(self, tasks: Iterable[str] = TASKS) -> dict[str, Any]:
        """All artifacts as far as they must be equal: bytes of samples and metrics, results parsed."""
        found: dict[str, Any] = {}
        for task in tasks:
            found[f"{task}/samples"] = self.folder.samples(task).read_bytes()
            found[f"{task}/metrics"] = self.folder.metrics(task).read_bytes()
            results = orjson.loads(self.folder.results(task).read_bytes())
            del results["settings"]["serving"]["base_url"]
            found[f"{task}/results"] = {k: v for k, v in results.items() if k not in TIMED}
        return found


def differing(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which artifacts differ, with both values: {} when nothing was lost or moved."""
    left, right = flatten(found), flatten(expected)
    return {
        key: (left.get(key), right.get(key))
        for key in left.keys() | right.keys()
        if left.get(key, ...) != right.get(key, ...)
    }


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """All output of a process, which must end with this code."""
    text = process.communicate()[0]
    assert process.returncode == code, text
    return text


class Bodies(RequestBuilder):
    """Notes under which hash of the journal the server knows each request."""

    def __init__(self, task: TaskPlan, model: str, known: dict[str, str]) -> None:
        super().__init__(task.generation, model)
        self._known = known

    def chat(self, *arguments: Any, **options: Any) -> Request:
        """As the worker's own, noting both hashes."""
        request = super().chat(*arguments, **options)
        self._known[request.digest] = body_hash(orjson.loads(request.payload))
        return request


def journaled_calls(folder: RunFolder) -> dict[str, list[CallRecord]]:
    """All call records of a run by task, of whole lines only."""
    return journaled(folder, CallRecord)


def journaled(folder: RunFolder, kind: type[R]) -> dict[str, list[R]]:
    """All records of a kind by task, of whole lines only."""
    plan = load_plan(folder)
    found: dict[str, list[R]] = {task.name: [] for task in plan.tasks}
    for task in plan.tasks:
        for shard in task.shards():
            for path in list_journals(folder, shard):
                records = map(decode, read_journal(path, plan, shard, []))
                found[task.name] += [r for r in records if isinstance(r, kind)]
    return found


def bodies_of(folder: RunFolder) -> dict[str, str]:
    """Hash at the server of each request of a finished run, by its hash in the journal.

    Found by solving all units again with their journaled replies.
    """
    calls = journaled_calls(folder)
    known: dict[str, str] = {}
    plan = load_plan(folder)
    for task in plan.tasks:
        samples = load_frozen(folder, task)
        builder = Bodies(task, plan.deployments[0].served_model_name, known)
        finished: dict[UnitKey, dict[tuple[int, str], CallRecord]] = {}
        for call in calls[task.name]:
            key = UnitKey(call.sample, call.repeat)
            finished.setdefault(key, {})[call.call, call.request] = call
        kind = {"chain": Chain, "fan": Fan}.get(task.benchmark)
        if kind is None:
            for key in finished:
                builder.chat(samples[key.sample].messages, key.repeat)
            continue
        solver = kind(ManyCallsParams.model_validate(task.params), "card")
        for key, mine in finished.items():
            handle = DurableModel(NoClient(), builder, None, key, Finished(mine))  # type: ignore[arg-type]
            asyncio.run(_solve(solver, samples[key.sample], handle))
    return known


async def _solve(solver: Chain, sample: Any, handle: DurableModel) -> None:
    await solver.solve(sample, handle)


class NoClient:
    """Nothing may be sent while requests are only looked up."""

    server = 0

    async def call(self, request: Request, think_tags: object, tokens: object = None) -> Any:
        """A finished run has every answer."""
        raise AssertionError("a call of a finished unit is not in the journal")


@dataclass(frozen=True)
class Finished:
    """A unit whose calls are all in the journal."""

    finished_calls: dict[tuple[int, str], CallRecord]

    def tokens(self, call: int, request: str) -> Any:
        """Nothing is generated any more."""
        raise AssertionError(f"call {call} is not in the journal")

    def keep(self, record: CallRecord) -> None:
        """Nor journaled."""
        raise AssertionError(record)
