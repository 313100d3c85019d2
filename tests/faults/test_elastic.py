"""`submit --replicas` and `cancel` as a person types them, with background processes of this machine."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import orjson
import psutil
import pytest

from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.jobs import read_jobs
from evalkit.store.run import load_plan
from tests.faults.harness import TASKS, Place, finish, server_of, serving, wait_for
from tests.unit.serving.support import marked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A folder for one run, whose processes are gone after the test."""
    place = Place(tmp_path)
    yield place
    place.evalkit("cancel", place.folder.root, "--wait", "1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Samples and metrics of a run that nothing happens to."""
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    with serving() as server:
        place.evalkit("run", place.external(server))
    return answers(place)


def answers(place: Place) -> dict[str, Any]:
    """Samples and metrics, which do not depend on the kind of server."""
    return {
        task: (place.folder.samples(task).read_bytes(), place.folder.metrics(task).read_bytes())
        for task in TASKS
    }


def servers(place: Place) -> list[psutil.Process]:
    """Processes that carry the run's mark, on this machine: keepers, servers and what those started.

    Runs of other tests, which go on beside this one, have the same mark.
    """
    found = []
    for process in marked(f"{load_plan(place.folder).run_id}-r"):
        with contextlib.suppress(psutil.Error):
            if process.environ()["PYTHONPATH"] == place.env["PYTHONPATH"]:
                found.append(process)
    return found


def journals(place: Place) -> set[str]:
    """Attempts that have written something."""
    return {path.stem for path in place.folder.root.glob("journal/*/*/*.jsonl")}


def has_finished_a_unit(place: Place) -> bool:
    """Whether a journal holds the end of a unit of many calls."""
    paths = place.folder.root.glob("journal/*/*/*.jsonl")
    return any(b'"kind":"unit"' in path.read_bytes() for path in paths)


def test_a_replica_joins_and_a_cancel_ends_all(place: Place, undisturbed: dict[str, Any]) -> None:
    """A second replica works beside the first; a cancel leaves no worker, no server, no child of one
    that ignores signals, and no lease; a resume gives what an undisturbed run gives."""
    mood = place.root / "mood.json"
    switches = ("--mood", str(mood), "--spawn", "1")
    # The servers' children ignore SIGTERM.
    ours = {"max_restarts": 0, "shutdown_timeout_s": 2}
    recipe = place.command(*switches, cluster={"executor": "local"}, serving=ours)
    # Both servers stop in the middle of the work, before the second has done all that the first left
    # free; those of the resume do not.
    mood.write_text('{"hang_after": 45}')
    place.evalkit("submit", recipe)
    wait_for(lambda: "r0.a1" in journals(place) and place.folder.server_facts("r0", 1).exists())
    mood.write_text('{"hang_after": 20}')
    assert "`--replicas N` adds N replicas" in place.evalkit("submit", recipe)
    assert "added r1 to what runs" in place.evalkit("submit", recipe, "--replicas", "1")
    wait_for(lambda: "r1.a1" in journals(place) and place.folder.server_facts("r1", 1).exists())
    wait_for(lambda: len(servers(place)) >= 2 * 2)  # two keepers, servers, and their children
    wait_for(lambda: has_finished_a_unit(place))
    cancel = place.start("cancel", place.folder.root)
    wait_for(lambda: all(record.reason for record in read_attempts(place.folder)), cancel)
    for replica in ("r0", "r1"):
        server_of(place.folder, replica).go_on()
    assert "stopped processes" in finish(cancel)
    psutil.wait_procs(servers(place), timeout=60)
    assert servers(place) == []
    assert list(place.folder.leases.glob("*/*.lock")) == []
    [status] = orjson.loads(place.evalkit("status", place.folder.root, "--json"))
    assert (status["is_over"], 0 < status["done"] < status["expected"]) == (True, True)
    place.evalkit("resume", place.folder.root, "--replicas", "2", "--wait")
    assert answers(place) == undisturbed
    last = [job for job in read_jobs(place.folder) if job.submission == 2]
    assert [job.replicas for job in last] == [("r0",), ("r1",), ()]


def test_here_is_one_replica(place: Place) -> None:
    """`--here` with a number of replicas is refused: a process works as one."""
    with serving() as server:
        place.evalkit("prepare", place.external(server))
        text = place.evalkit("resume", place.folder.root, "--here", "--replicas", "2", code=2)
    assert "--here is one replica" in text
