"""Programs that ask the model: whatever is killed, what is journaled is not asked again, and no program
outlives its worker."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

import pytest

from evalkit.cluster.replica_report import read_reports
from evalkit.report.frames import iter_samples
from evalkit.serving.tree import find_processes, read_marker
from evalkit.store.run import load_plan
from tests.faults.harness import Place, differing, finish, journaled_calls, serving, wait_for
from tests.faults.test_durability import stop_after

pytestmark = pytest.mark.timeout(240)
N, CALLS = 4, 9
TASKS: dict[str, Any] = {"driven": {"params": {"n": N, "calls": CALLS}}}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Artifacts of a run that nothing happens to."""
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    with serving() as server:
        place.evalkit("run", place.external(server, tasks=TASKS))
        assert server.counts()["received"] == N * CALLS
    for line in iter_samples(place.folder, "driven"):
        assert line["calls"] == CALLS
        said = line["data"]["said"]
        assert len(set(said[-4:-1])) == 3, (
            "the same question three times: three seeds, three answers"
        )
    return place.artifacts(TASKS)


def programs_of(place: Place) -> list[str]:
    """Marks of the programs that live, in folders of this run: another may have its id."""
    run_id, root = load_plan(place.folder).run_id, place.folder.root.resolve()
    found = []
    for pid in find_processes():
        mark = read_marker(pid) or ""
        with contextlib.suppress(OSError):
            if mark.startswith(f"{run_id}-") and folder_of(pid).is_relative_to(root):
                found.append(mark)
    return found


def folder_of(pid: int) -> Path:
    """Where a process works. Raises OSError where it has ended."""
    return Path(f"/proc/{pid}/cwd").readlink()


def test_interrupted_twice(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """SIGKILL, then SIGTERM: the programs are gone, journaled answers are used, nothing differs."""
    place = Place(tmp_path)
    with serving() as server:
        place.evalkit("prepare", place.external(server, tasks=TASKS))
        process = place.start_worker("r0")
        stop_after(process, server, 5, signal.SIGKILL)
        finish(process, -signal.SIGKILL)
        wait_for(lambda: not programs_of(place) and server.counts()["in_flight"] == 0)
        process = place.start_worker("r0", "--kill-wait-s", "5")
        stop_after(process, server, 8, signal.SIGTERM)
        finish(process, 1)
        assert programs_of(place) == []
        kept = journaled_calls(place.folder)["driven"]
        wait_for(lambda: server.counts()["in_flight"] == 0)
        before = server.counts()["received"]
        server.go_on()
        finish(place.start_worker("r0"))
        assert server.counts()["received"] - before == N * CALLS - len(kept)
    answered = N * CALLS - len(kept)
    detail = read_reports(place.folder)["r0"].detail
    assert detail == f"{answered} calls answered by this server"
    place.evalkit("gather", place.folder.root)
    assert differing(place.artifacts(TASKS), undisturbed) == {}
    calls = journaled_calls(place.folder)["driven"]
    assert len(calls) == len({(c.sample, c.call) for c in calls}) == N * CALLS
    folders = {path.name for path in (place.folder.root / "harness/driven").glob("*/*")}
    assert {"r0.a1", "r0.a3"} <= folders <= {"r0.a1", "r0.a2", "r0.a3"}


def test_failed_call(tmp_path: Path) -> None:
    """A call that gets no answer ends its program, and the unit is owed, whatever the program says."""
    place = Place(tmp_path)
    with serving("--fail-status", "400", "--fail-every", "7", "--fail-times", "2") as server:
        text = place.evalkit("run", place.external(server, tasks=TASKS), code=10)
    assert "fault on demand" in text
    assert programs_of(place) == []
