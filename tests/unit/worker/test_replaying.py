"""Output of programs that is lost: written again from the journal, or not at all."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from filelock import SoftFileLock

from evalkit.benchmarks.contract import Sample
from evalkit.benchmarks.frozen import freeze, write_frozen
from evalkit.benchmarks.registry import benchmark_for
from evalkit.client.calls import Answer
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster import replaying
from evalkit.cluster.driving import SharedGateway
from evalkit.cluster.replaying import Replayed, replay_lost
from evalkit.cluster.units import do_unit
from evalkit.errors import StoreError
from evalkit.plan.model import UnitKey
from evalkit.report.gather import gather_task
from evalkit.store.layout import RunFolder
from evalkit.store.records import Outcome, Reply, Timing
from evalkit.store.work import OpenShard, WorkItem
from tests.unit.report.run_builder import NO_FACTS, TestRun, make_plan, make_task

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.report.results import Results

# Asks the same twice, and its own question, and writes what it was told under a name of its own.
PROGRAM = """
import json, os, sys, time, urllib.request

def ask(text):
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}]}
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]

said = [ask("the same"), ask("the same"), ask(sys.argv[1])]
with open(f"told-{time.time_ns()}.json", "w") as file:
    json.dump({"sum": sum(map(float, said))}, file)
"""
KEY = UnitKey(0, 0)


class Client:
    """Answers calls with their number."""

    keeps_tokens = False
    max_model_len = None
    calls = 0

    async def call(self, request: object, think_tags: object, tokens: object = None) -> Answer:
        """As a CallClient."""
        self.calls += 1
        return Answer(Reply(Outcome.OK, str(self.calls)), Timing(float(self.calls), 0.5))


def make(folder: Path, question: str) -> TestRun:
    """A run of one unit, whose program asks a question of its own."""
    samples = [Sample(id="0000", data={"shard": 0, "shards": 1, "limit": None, "recipe": None})]
    params: dict[str, Any] = {
        "command": ["{python}", "-c", PROGRAM, question],
        "results": {"file": "*.json", "metrics": {"sum": "sum"}},
    }
    task = make_task(
        samples, benchmark="command", params=params, metric="sum", repeats=1, n_shards=1
    )
    run = TestRun(RunFolder(folder), make_plan(task), samples)
    write_frozen(run.folder.requests(task.name), freeze(samples))
    return run


async def answer(run: TestRun) -> None:
    """Have the program ask a model, as a worker does."""
    shared = SharedGateway(SYSTEM_CLOCK)
    replay = replaying._Replay(run.folder, run.plan, shared, replaying._NoModel(None), print)
    kept = replaying._Kept()
    shard = OpenShard(run.task.shards()[0], kept, {KEY}, {}, {}, {})  # type: ignore[arg-type]
    try:
        await do_unit(replaying._work(replay, run.task), WorkItem(KEY, shard), Client())
    finally:
        await shared.close()
    run.write(kept.records)


def gather(run: TestRun) -> Results:
    """Gather the task."""
    return gather_task(
        run.folder, run.plan, run.task, benchmark_for(run.task), NO_FACTS, lambda _: None
    )


def replay(run: TestRun) -> tuple[Replayed, list[str]]:
    """Have what is lost written again; what was told."""
    told: list[str] = []
    tasks, clock = run.plan.tasks, SYSTEM_CLOCK
    return replay_lost(run.folder, run.plan, tasks, env={}, clock=clock, tell=told.append), told


def test_lost_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same result from the journal alone; a program that asks otherwise is ended, and makes none."""
    run = make(tmp_path, "another")
    with monkeypatch.context() as patch:
        patch.setattr(replaying, "ATTEMPT", "r0.a1")
        asyncio.run(answer(run))
    before = gather(run)
    assert before.headline.value == 1 + 2 + 3
    for file in [path for path in (tmp_path / "harness").rglob("*") if path.is_file()]:
        file.unlink()  # as who purges a file system does
    (tmp_path / "harness/echo/0-0/r0.a1/empty").mkdir()
    emptied = gather(run)
    assert "1 of 1 folders" in str(emptied.missing.by_reason["scorer_error"].message)
    shutil.copytree(tmp_path / "harness", tmp_path / "emptied")
    shutil.rmtree(tmp_path / "harness")

    lost = gather(run)
    assert not lost.complete
    message = lost.missing.by_reason["scorer_error"].message
    assert message is not None
    assert "1 of 1 folders that programs wrote are gone: " in message
    assert f"`evalkit gather {tmp_path} --replay`" in message

    found, told = replay(make(tmp_path, "something else"))
    assert (found.lost, told) == (1, [])
    [failure] = found.failures
    assert str(failure).startswith(
        "tasks.echo, unit 0-0: its program could not write harness/echo/0-0/r0.a1 again: the program asks "
        "what it did not ask when its unit was answered"
    )
    assert not gather(run).complete
    assert not list((tmp_path / "harness/echo/0-0").iterdir()), "nothing is left of what failed"

    (tmp_path / "harness/echo/0-0/replay").mkdir()  # of one that was killed
    shutil.copytree(tmp_path / "emptied", tmp_path / "harness", dirs_exist_ok=True)
    found, told = replay(run)
    assert (found.lost, found.failures) == (1, [])
    assert told == ["tasks.echo, unit 0-0: harness/echo/0-0/r0.a1 is back: 3 calls of the journal"]
    after = gather(run)
    assert sorted(path.name for path in (tmp_path / "harness/echo/0-0").iterdir()) == ["r0.a1"]
    assert after.native is not None
    assert before.native is not None
    assert [text for text in after.native.problems if text not in before.native.problems] == [
        "the files of 1 of 1 units were lost and written again by a replay: judges that their programs ask "
        "themselves were asked again"
    ]
    assert after.native.files != before.native.files, "names that are others each time"
    assert after.model_copy(update={"native": None}) == before.model_copy(update={"native": None})
    assert replay(run) == (Replayed(), [])


def test_one_at_a_time(tmp_path: Path) -> None:
    """A second replay of a run is refused, and says where the first one is."""
    run = make(tmp_path, "another")
    with (
        SoftFileLock(tmp_path / ".replay.lock"),
        pytest.raises(StoreError, match="another evalkit has lost output of") as caught,
    ):
        replay(run)
    assert str(tmp_path / ".replay.lock") in str(caught.value.hint)


def test_context_of_the_tasks_deployment(tmp_path: Path) -> None:
    """Servers of other deployments do not count, nor those that said nothing."""
    run = make(tmp_path, "another")
    own = run.plan.deployments[0]
    other = own.model_copy(update={"served_model_name": "other"})
    plan = run.plan.model_copy(update={"deployments": (own, other)})
    facts = [
        {"argv": ["serve", own.served_model_name], "max_model_len": 4096},
        {"argv": ["serve", own.served_model_name], "max_model_len": None},
        {"argv": ["serve", "other"], "max_model_len": 512},
    ]
    path = run.folder.server_facts("r0", 1)
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in facts))
    shared = SharedGateway(SYSTEM_CLOCK)
    found = replaying._Replay(run.folder, plan, shared, replaying._NoModel(None), print)
    assert replaying._context(found, run.task) == 4096
