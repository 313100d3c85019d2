"""What attempts wrote down about their servers."""

from pathlib import Path

import orjson
import pytest

from evalkit.report.facts import read_run_facts
from evalkit.store.layout import RunFolder


def write(folder: RunFolder, replica: str, attempt: int, *rows: object) -> None:
    """The server facts of one attempt."""
    path = folder.server_facts(replica, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))


def test_servers_come_by_replica_and_attempt(tmp_path: Path) -> None:
    """Numbers are sorted by value, and every server of an attempt is there."""
    folder = RunFolder(tmp_path)
    for replica, attempt in (("r10", 1), ("r2", 10), ("r2", 9)):
        write(folder, replica, attempt, {"n": 1}, {"n": 2})
    servers = read_run_facts(folder).servers
    order = [(s.replica, s.attempt, s.facts["n"]) for s in servers]
    assert order == [(r, a, n) for r, a in (("r2", 9), ("r2", 10), ("r10", 1)) for n in (1, 2)]


def test_nothing_written_is_nothing_known(tmp_path: Path) -> None:
    """A run without logs has no servers, no provenance and no GPU time; that is no problem."""
    facts = read_run_facts(RunFolder(tmp_path))
    assert (facts.made_by, facts.servers, facts.problems, facts.gpu_seconds) == (None, (), (), None)


def test_unreadable_facts_are_problems(tmp_path: Path) -> None:
    """A torn line and a wrong shape are named by file and line; the rest is read."""
    folder = RunFolder(tmp_path)
    write(folder, "r0", 1, {"n": 1}, ["not an object"])
    path = folder.server_facts("r0", 1)
    path.write_bytes(path.read_bytes() + b'{"n":')
    folder.provenance.write_text("[]")
    facts = read_run_facts(folder)
    assert [server.facts for server in facts.servers] == [{"n": 1}]
    assert [problem.split(": ")[0] for problem in facts.problems] == [
        "provenance.json",
        "logs/r0/attempt-1/server.json:2",
        "logs/r0/attempt-1/server.json:3",
    ]
    folder.provenance.write_text("{")
    assert read_run_facts(folder).made_by is None


GPUS = ["H100", "H100"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"gpus": GPUS, "started": 10.0, "ended": 15.0}], 10.0),
        ([{"gpus": GPUS, "started": 10.0, "ended": 15.0}, {"gpus": []}], 10.0),
        ([{"gpus": GPUS, "started": 10.0}, {"ended": 15.0}], 10.0),
        ([{"ended": 15.0}], None),
        ([{"gpus": [], "started": 10.0, "ended": 15.0}], None),
        ([{"gpus": GPUS, "started": 10.0, "ended": 15.0}, {"gpus": GPUS, "started": 0.0}], None),
        ([{"kind": "external"}], None),
    ],
)
def test_gpu_seconds_are_a_sum_or_unknown(
    tmp_path: Path, rows: list[dict[str, object]], expected: float | None
) -> None:
    """GPUs times seconds over all servers; one without an end makes the sum unknown."""
    folder = RunFolder(tmp_path)
    write(folder, "r0", 1, *rows)
    assert read_run_facts(folder).gpu_seconds == expected
