"""`submit --wait`: how it ends, and that it says why."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.jobs import JobRecord, append_job
from evalkit.cluster.submit import Submission
from evalkit.store.layout import RunFolder
from tests.builders import answer_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.cluster.share import SweepRun
    from tests.unit.cli.conftest import Shell

GONE = 2**22 + 1
"""No process has this id."""
ERROR = (
    "the server for 'm' died before it was ready; last lines of its log:\n"
    "many lines\nUse fewer GPUs.\nSeen: out of memory\nWhole log: /logs/server.log"
)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A submit whose only process is gone at once; the values are its worker's last report."""
    report: dict[str, Any] = {"replica": "r0", "attempt": 1, "host": "h", "pid": GONE}

    def submit(folder: RunFolder) -> Submission:
        now = SYSTEM_CLOCK.wall()
        job = JobRecord(
            submission=1,
            time=now,
            host=socket.gethostname(),
            executor="local",
            name="n",
            job_id=str(GONE),
            role="replicas",
            replicas=("r0",),
            is_array=False,
            script=None,
            started=1.0,
        )
        append_job(folder, job)
        folder.replicas.mkdir()
        times = {"job_id": str(GONE), "started": now, "heartbeat": now + 1}
        folder.replica("r0").write_bytes(orjson.dumps({**report, **times}))
        return Submission("submitted", {"addition": 4}, (job,))

    def submit_runs(runs: Sequence[SweepRun], **_: object) -> list[Submission]:
        return [submit(run.folder) for run in runs]

    monkeypatch.setattr("evalkit.cluster.share.submit_runs", submit_runs)
    return report


def test_a_run_that_fails(shell: Shell, ended: dict[str, Any]) -> None:
    """Code 6, the cause in the progress line and in the error, without the server's whole log."""
    ended |= {"state": "failed", "error": ERROR}
    said = shell("submit", "recipe.yaml", "--wait")
    assert said.code == 6
    cause = "r0 failed: the server for 'm' died before it was ready. Seen: out of memory."
    assert f"test failed: addition 0/4; {cause} Use fewer GPUs. Whole log: " in said.err
    assert f"error: test: {cause}" in said.err
    assert "many lines" not in said.err
    assert "withheld" in said.out


def test_a_failure_as_json(shell: Shell, ended: dict[str, Any]) -> None:
    """The phase, its message and what there is of results are in the run's document."""
    ended |= {"state": "failed", "error": ERROR}
    said = shell("submit", "recipe.yaml", "--wait", "--json")
    [document] = orjson.loads(said.out)
    assert (said.code, document["phase"], document["jobs"]) == (6, "failed", [str(GONE)])
    assert "out of memory" in document["message"]
    assert document["results"][0]["complete"] is False


def test_a_run_that_is_killed(shell: Shell, ended: dict[str, Any]) -> None:
    """A run that stopped ends with the gather's code, and says what became of its process."""
    ended |= {"state": "ready"}
    said = shell("submit", "recipe.yaml", "--wait")
    assert said.code == 10
    assert "killed while it was ready" in said.err
    assert "error: addition: 4 of 4 units are missing" in said.err


def test_the_worst_of_a_sweep_counts(shell: Shell, ended: dict[str, Any]) -> None:
    """Each run of a sweep is waited for and gathered; the highest code is the command's."""
    shell.write(models={"a": {"id": "x"}, "b": {"id": "y"}})
    shell("prepare", "recipe.yaml")
    answer_all(RunFolder(shell.folder / "runs" / "test" / "b"))
    ended |= {"state": "failed", "error": ERROR}
    said = shell("submit", "recipe.yaml", "--wait")
    assert said.code == 6
    assert "100.00" in said.out
