"""Whatever is killed, whenever: no answer is lost or asked for twice, and the artifacts are the same."""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tests.faults.harness import (
    N_CALLS,
    PARALLELISM,
    TASKS,
    Place,
    Server,
    bodies_of,
    differing,
    finish,
    journaled_calls,
    serving,
    wait_for,
)

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

LONG = pytest.mark.long
PREFLIGHTS = len([task for task in TASKS if task == "addition"])
"""Tasks whose first prompt is known before they start get a request of their own."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder for one run."""
    return Place(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Artifacts of a run that nothing happens to."""
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    with serving() as server:
        place.evalkit("run", place.external(server))
        assert server.counts()["received"] == N_CALLS + PREFLIGHTS
    return place.artifacts()


def call_hashes(place: Place) -> Counter[str]:
    """How often each request is in the journals, by its hash there."""
    return Counter(c.request for calls in journaled_calls(place.folder).values() for c in calls)


def stop_after(process: subprocess.Popen[str], server: Server, answers: int, how: int) -> None:
    """Send a signal once the server has answered so many requests more; it answers few behind them,
    so that the signal finds a run that has work."""
    goal = server.counts()["answered"] + answers
    server.hang_after(answers + PARALLELISM)
    wait_for(lambda: server.counts()["answered"] >= goal, process)
    process.send_signal(how)


@pytest.mark.parametrize("answered", [3, *(pytest.param(n, marks=LONG) for n in (40, 90, 140))])
def test_killed_worker(place: Place, undisturbed: dict[str, Any], answered: int) -> None:
    """SIGKILL at any point: what was journaled then is never asked again, and nothing is missing."""
    with serving() as server:
        recipe = place.external(server)
        process = place.start("run", recipe)
        stop_after(process, server, answered, signal.SIGKILL)
        finish(process, -signal.SIGKILL)
        journaled = call_hashes(place)
        wait_for(lambda: server.counts()["in_flight"] == 0)
        before = server.counts()["received_by_hash"]
        assert answered - 10 < sum(journaled.values()) <= sum(before.values())
        server.go_on()
        place.evalkit("run", recipe)
        after = server.counts()["received_by_hash"]
    assert differing(place.artifacts(), undisturbed) == {}
    bodies = bodies_of(place.folder)
    assert len(bodies) == N_CALLS
    assert {bodies[digest] for digest in journaled} <= before.keys()
    again = {digest: after[bodies[digest]] for digest in journaled if after[bodies[digest]] != 1}
    assert again == {}, "answers that were in the journal were asked for again"
    assert set(call_hashes(place).values()) == {1}


def test_killed_again_and_again(place: Place, undisturbed: dict[str, Any]) -> None:
    """Progress survives every one of several kills, and adds up to the whole run."""
    done: list[int] = []
    with serving() as server:
        recipe = place.external(server)
        for _ in range(3):
            process = place.start("run", recipe)
            stop_after(process, server, 35, signal.SIGKILL)
            finish(process, -signal.SIGKILL)
            done.append(sum(call_hashes(place).values()))
        server.go_on()
        place.evalkit("run", recipe)
    assert done == sorted(set(done))
    assert differing(place.artifacts(), undisturbed) == {}


def test_drained_worker(place: Place, undisturbed: dict[str, Any]) -> None:
    """SIGTERM: what is in flight is finished, exit code 130, and no request at all is sent twice."""
    with serving() as server:
        recipe = place.external(server)
        process = place.start("run", recipe)
        stop_after(process, server, 30, signal.SIGTERM)
        server.go_on()
        text = finish(process, 130)
        assert "interrupted; nothing done is lost. Go on with: evalkit resume" in text
        counts = server.counts()
        assert counts["received"] == counts["answered"] < N_CALLS
        assert sum(call_hashes(place).values()) == counts["answered"] - PREFLIGHTS
        place.evalkit("resume", place.folder.root, "--here")
        after = server.counts()["received_by_hash"]
    assert differing(place.artifacts(), undisturbed) == {}
    assert {after[body] for body in bodies_of(place.folder).values()} == {1}


def test_two_workers_share_a_run(place: Place, undisturbed: dict[str, Any]) -> None:
    """Two replicas divide the work between them: no unit is done twice, and the result is the same."""
    with serving() as server:
        place.evalkit("prepare", place.external(server))
        team = place.start_two(server)
        server.go_on()
        for process in team:
            finish(process)
        counts = server.counts()
    place.evalkit("gather", place.folder.root)
    assert differing(place.artifacts(), undisturbed) == {}
    assert counts["received"] == N_CALLS + len(team) * PREFLIGHTS
    authors = {path.stem for path in place.folder.root.glob("journal/*/*/*.jsonl")}
    assert authors == {"r0.a1", "r1.a1"}


def test_split_brain(place: Place, undisturbed: dict[str, Any]) -> None:
    """Two replicas that both believe they own every shard write everything twice, and change nothing."""
    with serving() as server:
        place.evalkit("prepare", place.external(server))
        team = place.start_two(server, "--no-leases")
        server.go_on()
        for process in team:
            finish(process)
    place.evalkit("gather", place.folder.root)
    found = place.artifacts()
    duplicates = 0
    for task in TASKS:
        duplicates += found[f"{task}/results"]["counts"].pop("duplicates")
        found[f"{task}/results"]["counts"]["duplicates"] = 0
    assert differing(found, undisturbed) == {}
    assert duplicates > 0
    assert max(call_hashes(place).values()) == 2


def test_killed_beside_a_living_one(place: Place, undisturbed: dict[str, Any]) -> None:
    """When one of two replicas is killed, the other does its shards too, without being told."""
    with serving() as server:
        place.evalkit("prepare", place.external(server))
        first, second = place.start_two(server)
        server.hang_after(20)
        wait_for(
            lambda: len({p.stem for p in place.folder.root.glob("journal/*/*/*.jsonl")}) == 2,
            first,
            second,
        )
        first.kill()
        server.go_on()
        finish(first, -signal.SIGKILL)
        finish(second)
    place.evalkit("gather", place.folder.root)
    assert differing(place.artifacts(), undisturbed) == {}


@pytest.mark.parametrize("room", [0, 5_000, *(pytest.param(n, marks=LONG) for n in (300, 20_000))])
def test_full_disk(place: Place, undisturbed: dict[str, Any], room: int) -> None:
    """A disk that fills up ends the attempt with the reason; with room again the run goes on."""
    with serving() as server:
        recipe = place.external(server)
        place.evalkit("prepare", recipe)
        text = finish(place.start_worker("r0", "--disk-bytes", str(room)), 5)
        assert "No space left on device" in text
        assert "free space or quota, then `evalkit resume`" in text
        journaled = call_hashes(place)
        place.evalkit("run", recipe)
        after = server.counts()["received_by_hash"]
    found = place.artifacts()
    assert differing(found, undisturbed) == {}
    bodies = bodies_of(place.folder)
    assert {after[bodies[digest]] for digest in journaled} <= {1}


@pytest.mark.parametrize(
    "switches",
    [
        ("--fail-status", "500", "--fail-every", "3"),
        pytest.param(
            ("--fail-status", "429", "--fail-every", "4", "--retry-after", "0.1"), marks=LONG
        ),
        ("--truncate-every", "3"),
    ],
    ids=["500", "429", "truncated"],
)
def test_passing_faults(
    place: Place, undisturbed: dict[str, Any], switches: tuple[str, ...]
) -> None:
    """Faults that pass cost time and retries, never an answer."""
    with serving(*switches) as server:
        place.evalkit("run", place.external(server, client={"parallelism": 64}))
        assert server.counts()["received"] > N_CALLS + PREFLIGHTS
    found = place.artifacts()
    assert sum(found[f"{task}/results"]["counts"].pop("retries") for task in TASKS) > 0
    assert {key.split(".", 1)[1] for key in differing(found, undisturbed)} == {"counts.retries"}


def same_answers(place: Place, undisturbed: dict[str, Any]) -> None:
    """Samples and metrics are those of the undisturbed run, which had a server of another kind."""
    for task in TASKS:
        assert place.folder.samples(task).read_bytes() == undisturbed[f"{task}/samples"]
        assert place.folder.metrics(task).read_bytes() == undisturbed[f"{task}/metrics"]
        counts = orjson.loads(place.folder.results(task).read_bytes())["counts"]
        assert counts == undisturbed[f"{task}/results"]["counts"]


def test_server_that_dies(place: Place, undisturbed: dict[str, Any]) -> None:
    """A server that dies every sixty requests is started again each time, until all is done."""
    recipe = place.command("--die-after", "60", "--latency-s", "0.01")
    place.evalkit("run", recipe)
    same_answers(place, undisturbed)
    calls = [call for calls in journaled_calls(place.folder).values() for call in calls]
    assert max(call.server for call in calls) >= 2, "three servers and more took part"
    assert set(call_hashes(place).values()) == {1}, "a journaled call was made again"


def test_server_that_hangs(place: Place, undisturbed: dict[str, Any]) -> None:
    """A server that is healthy and answers nothing is found out, and another one takes over."""
    client = {"parallelism": 8, "stall_timeout_s": 1.0}
    recipe = place.command("--hang-after", "100", client=client)
    place.evalkit("prepare", recipe)
    finish(place.start_worker("r0", "--probe-s", "5"))
    place.evalkit("gather", place.folder.root)
    same_answers(place, undisturbed)
    log = place.folder.worker_log("r0", 1).read_text()
    assert "the server hangs: 8 requests in flight, and no answer" in log
    assert set(call_hashes(place).values()) == {1}, "a journaled call was made again"


def test_server_that_dies_in_preflight(place: Place) -> None:
    """A server that dies before the first unit is started again like any other."""
    recipe = place.command("--die-after", "2", serving={"max_restarts": 1})
    text = place.evalkit("run", recipe, code=6)
    assert "error: the server died in the preflight of tasks.addition: no answer from" in text
    log = place.folder.worker_log("r0", 1).read_text()
    assert "starting a new server; 0 restarts left" in log


def test_server_that_dies_for_good(place: Place) -> None:
    """A server that has no restarts left ends the run with the reason, and what is done stays."""
    recipe = place.command("--die-after", "60", serving={"max_restarts": 0})
    text = place.evalkit("run", recipe, code=6)
    assert "error: the server failed while calls were in flight" in text
    assert "exit code 3" in text
    assert sum(call_hashes(place).values()) > 0


def test_proxy_of_the_cluster(place: Place, unused_tcp_port: int) -> None:
    """Variables of a proxy, and of other clients' settings, do not come between us and our server."""
    proxy = f"http://127.0.0.1:{unused_tcp_port}"
    names = ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy")
    place.env |= dict.fromkeys(names, proxy) | {"OPENAI_ORG_ID": "other"}
    place.evalkit("run", place.command())
    assert sum(call_hashes(place).values()) == N_CALLS
