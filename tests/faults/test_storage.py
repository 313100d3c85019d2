"""Storage that fills up, turns read-only, lies about what it holds, or damages what it kept.

Whatever it does: it is named, no answer is scored wrong for it, nothing already written is lost, and
the same run ends with the artifacts of an undisturbed one. Tests with a real full or read-only disk
mount one, which needs root, like the tests on a real Slurm.
"""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from evalkit.errors import EvalkitError
from evalkit.plan.model import Shard
from evalkit.report.artifacts import read_results
from evalkit.store.run import load_plan
from tests.faults.harness import (
    N_CALLS,
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
from tests.faults.storage_faults import fill, read_only, small_disk

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from evalkit.store.layout import RunFolder

LONG = pytest.mark.long
FULL = "No space left on device"
READ_ONLY = "Read-only file system"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all runs of this module, with a little latency."""
    with serving("--latency-s", "0.002") as running:
        yield running


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Place:
    """A run that nothing happened to."""
    place = Place(tmp_path_factory.mktemp("done"))
    place.evalkit("run", place.external(server))
    return place


@pytest.fixture(scope="module")
def undisturbed(done: Place) -> dict[str, Any]:
    """Its artifacts."""
    return done.artifacts()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder for one run."""
    return Place(tmp_path)


@pytest.fixture
def worked(place: Place, done: Place, server: Server) -> Place:
    """A run whose every unit is journaled and marked, and of which nothing was gathered yet."""
    place.external(server)
    shutil.copytree(done.folder.root, place.folder.root, symlinks=True)
    shutil.rmtree(place.folder.artifacts())
    return place


def calls_of(folder: RunFolder) -> set[str]:
    """Hashes of all requests that a run has an answer to."""
    return {call.request for calls in journaled_calls(folder).values() for call in calls}


def run_again(place: Place, undisturbed: dict[str, Any], server: Server) -> tuple[str, int]:
    """Finish a run and compare it; what was said, and how many requests that took."""
    before = server.counts()["received"]
    text = place.evalkit("run", place.root / "recipe.yaml")
    found = place.artifacts()
    for task in TASKS:
        found[f"{task}/results"]["problems"] = []
        found[f"{task}/results"]["counts"]["duplicates"] = 0
    assert differing(found, undisturbed) == {}
    return text, server.counts()["received"] - before


def problems(place: Place) -> list[str]:
    """What the results name as damaged."""
    return [
        problem
        for task in TASKS
        for problem in orjson.loads(place.folder.results(task).read_bytes())["problems"]
    ]


# full and read-only


@pytest.mark.parametrize("pages", [0, *(pytest.param(n, marks=LONG) for n in (6, 16, 30, 60))])
def test_really_full_disk(
    place: Place, undisturbed: dict[str, Any], server: Server, pages: int
) -> None:
    """A disk without room, from the first file of the attempt to the last of its journals: the run ends
    with the path and the reason, keeps every whole answer, and goes on when there is room."""
    with small_disk(place.root / "runs", "4m") as disk:
        recipe = place.external(server)
        place.evalkit("prepare", recipe)
        ballast = fill(disk, pages * 4096)
        text = place.evalkit("run", recipe, code=5)
        assert FULL in text
        assert str(place.folder.root) in text
        assert "Traceback" not in text
        kept = calls_of(place.folder)
        before = server.counts()["received_by_hash"]
        ballast.unlink()
        run_again(place, undisturbed, server)
        after = server.counts()["received_by_hash"]
        bodies = bodies_of(place.folder)
        again = {
            bodies[digest] for digest in kept if after[bodies[digest]] != before[bodies[digest]]
        }
        assert again == set(), "answers that were on the disk were paid for again"


def test_full_disk_before_the_plan(place: Place, server: Server) -> None:
    """Where not even a plan fits there is no run afterwards, and the error says what to do."""
    with small_disk(place.root / "runs", "4m") as disk:
        recipe = place.external(server)
        fill(disk, 0)
        text = place.evalkit("prepare", recipe, code=5)
        assert FULL in text
        assert not place.folder.plan.exists()


def test_full_disk_under_a_gather(worked: Place, undisturbed: dict[str, Any]) -> None:
    """Artifacts that do not fit are not there at all; with room the next gather writes them."""
    root = worked.folder.root
    content = worked.root / "content"
    root.rename(content)
    with small_disk(root, "4m") as disk:
        shutil.copytree(content, root, symlinks=True, dirs_exist_ok=True)
        ballast = fill(disk, 8192)
        text = worked.evalkit("gather", root, code=5)
        assert FULL in text
        assert not worked.folder.results("addition").exists()
        ballast.unlink()
        worked.evalkit("gather", root)
        assert differing(worked.artifacts(), undisturbed) == {}


def test_old_artifacts_outlive_a_gather_without_room(worked: Place) -> None:
    """A complete result stays as it is when a later gather cannot write."""
    worked.evalkit("gather", worked.folder.root)
    before = worked.artifacts()
    with read_only(worked.folder.artifacts()):
        text = worked.evalkit("gather", worked.folder.root, code=5)
        assert READ_ONLY in text
    assert worked.artifacts() == before


def test_read_only_run_folder(place: Place, undisturbed: dict[str, Any], server: Server) -> None:
    """A run folder that nobody can write to: named before the first request is sent."""
    recipe = place.external(server)
    place.evalkit("prepare", recipe)
    before = server.counts()["received"]
    with read_only(place.folder.root):
        text = place.evalkit("run", recipe, code=5)
    assert READ_ONLY in text
    assert str(place.folder.root) in text
    assert server.counts()["received"] == before
    run_again(place, undisturbed, server)


def test_read_only_in_the_middle(place: Place, undisturbed: dict[str, Any], server: Server) -> None:
    """Journals that cannot be made any more end the attempt with the reason; what was written stays."""
    recipe = place.external(server)
    place.evalkit("prepare", recipe)
    server.hang_after(20)
    try:
        process = place.start("run", recipe)
        wait_for(lambda: len(calls_of(place.folder)) > 5, process)
        with read_only(place.folder.root / "journal"):
            server.go_on()
            text = finish(process, 5)
    finally:
        server.go_on()
    assert READ_ONLY in text
    kept = calls_of(place.folder)
    assert len(kept) > 5
    _, asked = run_again(place, undisturbed, server)
    assert asked <= N_CALLS - len(kept) + 1, "one preflight, and nothing that was on the disk"


@pytest.mark.parametrize("folder", ["replicas", "leases"])
def test_hints_that_cannot_be_written(
    place: Place, undisturbed: dict[str, Any], server: Server, folder: str
) -> None:
    """Heartbeats are hints: without them the run goes on. Leases share work: without them it says so."""
    recipe = place.external(server)
    place.evalkit("prepare", recipe)
    path = place.folder.root / folder
    path.mkdir(exist_ok=True)
    with read_only(path):
        text = finish(place.start("run", recipe), 0 if folder == "replicas" else 5)
    if folder == "leases":
        assert READ_ONLY in text
        assert "evalkit resume" in text
    run_again(place, undisturbed, server)


# listings


def test_gather_under_a_stale_listing(worked: Place, undisturbed: dict[str, Any]) -> None:
    """Journals that a folder does not list yet are found by the names in the markers."""
    finish(_stale(worked, 3600, "gather", worked.folder.root))
    assert differing(worked.artifacts(), undisturbed) == {}


def test_gather_under_a_stale_listing_without_markers(
    worked: Place, undisturbed: dict[str, Any]
) -> None:
    """Where nothing tells of a hidden journal its units are missing, not wrong; later they are there."""
    shutil.rmtree(worked.folder.leases)
    text = finish(_stale(worked, 3600, "gather", worked.folder.root), 10)
    assert "40 of 40 units are missing" in text
    assert (
        orjson.loads(worked.folder.results("addition").read_bytes())["headline"]["percent"] is None
    )
    worked.evalkit("gather", worked.folder.root)
    assert differing(worked.artifacts(), undisturbed) == {}


def test_resume_under_a_stale_listing(
    worked: Place, undisturbed: dict[str, Any], server: Server
) -> None:
    """A resume that does not see the journals of others does their work again, and changes nothing."""
    shutil.rmtree(worked.folder.leases)
    finish(_stale(worked, 3600, "run", worked.root / "recipe.yaml"), 10)
    run_again(worked, undisturbed, server)


def _stale(place: Place, seconds: float, *arguments: str | Path) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("storage_faults.py")
    return place._start([sys.executable, str(script), str(seconds), *map(str, arguments)])


# damage


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def bit_flip(lines: list[bytes], at: int) -> list[bytes]:
    """One bit of an answer."""
    line = bytearray(lines[at])
    line[len(line) // 2] ^= 1
    return [*lines[:at], bytes(line), *lines[at + 1 :]]


def zeros(lines: list[bytes], at: int) -> list[bytes]:
    """A hole that a crashed file server leaves: line breaks go with it."""
    return [*lines[:at], bytes(len(lines[at])), *lines[at + 1 :]]


def half_line(lines: list[bytes], at: int) -> list[bytes]:
    """A line that was cut off and written on behind."""
    return [*lines[:at], lines[at][: len(lines[at]) // 2], *lines[at + 1 :]]


def alien(lines: list[bytes], at: int) -> list[bytes]:
    """A whole line of somebody else's."""
    return [*lines[:at], b'{"hello": "world"}\n', *lines[at + 1 :]]


def twice(lines: list[bytes], at: int) -> list[bytes]:
    """A block that was written two times."""
    return [*lines[: at + 1], *lines[1 : at + 1], *lines[at + 1 :]]


DAMAGE: list[Callable[[list[bytes], int], list[bytes]]] = [bit_flip, zeros, half_line, alien, twice]


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        *((damage, "middle") for damage in DAMAGE),
        (half_line, "end"),
        *(pytest.param(d, "end", marks=LONG) for d in DAMAGE if d is not half_line),
    ],
)
def test_damaged_line(
    worked: Place,
    undisturbed: dict[str, Any],
    server: Server,
    where: str,
    damage: Callable[[list[bytes], int], list[bytes]],
) -> None:
    """A damaged line is named by file and number, costs its own answer alone, and changes nothing, of
    units of one call or of many."""
    whole = calls_of(worked.folder)
    names = []
    for task in ("addition", "chain"):
        path = longest_journal(worked, task)
        lines = lines_of(path)
        at = len(lines) // 2 if where == "middle" else len(lines) - 1
        path.write_bytes(b"".join(damage(lines, at)))
        names.append(f"{path.relative_to(worked.folder.root)}:{at + 1}: ")
    lost = len(whole - calls_of(worked.folder))
    shutil.rmtree(worked.folder.leases)
    text, asked = run_again(worked, undisturbed, server)
    if damage is twice:
        assert (asked, problems(worked)) == (0, [])
        return
    assert asked <= lost + 1, "lost answers, and a preflight"
    torn = where == "end" and damage in (half_line, zeros)
    assert [f"warning: {name}" in text for name in names] == [not torn] * 2
    assert ("warning: 2 damaged lines or files of the run left out" in text) is not torn
    assert [any(p.startswith(n) for p in problems(worked)) for n in names] == [not torn] * 2


def longest_journal(place: Place, task: str) -> Path:
    """The journal of a task that has the most lines."""
    paths = (place.folder.root / "journal" / task).glob("*/*.jsonl")
    return max(paths, key=lambda path: (path.stat().st_size, path.name))


def test_damaged_header(worked: Place, undisturbed: dict[str, Any], server: Server) -> None:
    """A journal that does not say whose it is counts for nothing, is named, and its units are done
    again."""
    path = longest_journal(worked, "addition")
    path.write_bytes(b"".join(zeros(lines_of(path), 0)))
    text, asked = run_again(worked, undisturbed, server)
    name = str(path.relative_to(worked.folder.root))
    assert f"warning: {name}:1: no header" in text
    assert asked > 0
    assert any(problem.startswith(f"{name}:1: no header") for problem in problems(worked))


def test_deleted_marker(worked: Place, undisturbed: dict[str, Any], server: Server) -> None:
    """Markers only save time: without them nothing is asked, no server started, and they are back."""
    shutil.rmtree(worked.folder.leases)
    text, asked = run_again(worked, undisturbed, server)
    assert asked == 0
    assert "nothing is left to do, no server is started" in text
    plan = load_plan(worked.folder)
    assert all(worked.folder.marker(s).is_file() for task in plan.tasks for s in task.shards())


def test_torn_marker(worked: Place, undisturbed: dict[str, Any], server: Server) -> None:
    """A marker that is none is named, and the journals decide."""
    marker = worked.folder.marker(Shard("chain", 0))
    marker.write_bytes(marker.read_bytes()[:9])
    text, asked = run_again(worked, undisturbed, server)
    assert asked == 0
    assert "warning: leases/chain/00000.done: not a marker" in text


@pytest.mark.parametrize("keeps", [0.0, 0.5], ids=["deleted", "truncated"])
def test_lost_journal(
    worked: Place, undisturbed: dict[str, Any], server: Server, keeps: float
) -> None:
    """A journal that is gone, or shorter than its marker says, is named, and its units are done again."""
    path = longest_journal(worked, "chain")
    content = path.read_bytes()
    if keeps:
        path.write_bytes(content[: int(len(content) * keeps)])
    else:
        path.unlink()
    text, asked = run_again(worked, undisturbed, server)
    name = str(path.relative_to(worked.folder.root))
    assert f"warning: {name}: {'gone' if not keeps else ''}" in text
    assert "that 0" in text, "the marker is named too"
    assert 0 < asked <= len(content.splitlines())


@pytest.mark.parametrize("name", ["results.json", "samples.jsonl.zst", "metrics.json"])
def test_truncated_artifact(worked: Place, undisturbed: dict[str, Any], name: str) -> None:
    """An artifact that was cut is made again, the same."""
    worked.evalkit("gather", worked.folder.root)
    path = worked.folder.artifacts("chain") / name
    path.write_bytes(path.read_bytes()[:-20])
    if name == "results.json":
        with pytest.raises(EvalkitError, match=r"results\.json"):
            read_results(path)
    worked.evalkit("gather", worked.folder.root)
    assert differing(worked.artifacts(), undisturbed) == {}


# where locks do not exclude


def test_leases_that_vanish(place: Place, undisturbed: dict[str, Any], server: Server) -> None:
    """Two workers whose leases somebody deletes all the time do some work twice, and change nothing."""
    place.evalkit("prepare", place.external(server))
    server.switch(latency_s=0.02)
    try:
        team = [place.start_worker(replica) for replica in ("r0", "r1")]
        while any(process.poll() is None for process in team):
            for lease in place.folder.leases.glob("*/*.lock"):
                lease.unlink(missing_ok=True)
        for process in team:
            finish(process)
    finally:
        server.switch(latency_s=0.002)
    _, asked = run_again(place, undisturbed, server)
    assert asked == 0


def test_killed_under_a_stale_listing(
    place: Place, undisturbed: dict[str, Any], server: Server
) -> None:
    """A worker that is killed, and one that does not see its journals, work on the same shards."""
    recipe = place.external(server)
    place.evalkit("prepare", recipe)
    server.hang_after(60)
    try:
        first = place.start_worker("r0")
        wait_for(lambda: len(calls_of(place.folder)) > 40, first)
        first.send_signal(signal.SIGKILL)
        finish(first, -signal.SIGKILL)
    finally:
        server.go_on()
    finish(_stale(place, 3600, "run", recipe), 10)
    run_again(place, undisturbed, server)
