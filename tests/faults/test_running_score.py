"""The running score of a task whose scorer may not run on the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.status import run_status
from tests.faults.harness import Place, finish, serving, wait_for

if TYPE_CHECKING:
    from pathlib import Path

N = 12


def test_mathematics_has_a_running_score(tmp_path: Path) -> None:
    """Answers are scored in a process beside the work, while others are still generated."""
    place, data = Place(tmp_path), tmp_path / "aime.jsonl"
    rows = [{"id": str(n), "problem": f"{n}?", "expected_answer": str(n)} for n in range(N)]
    data.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    with serving() as server:
        task = {"data": {"path": str(data), "allow_altered": True}, "repeats": 1}
        place.evalkit("prepare", place.external(server, tasks={"aime2025": task}))
        server.hang_after(N // 2)
        worker = place.start_worker("r0")

        def scored() -> int:
            [status] = run_status(place.folder, clock=SYSTEM_CLOCK, env={}).tasks
            assert status.score == (0.0 if status.scored else None)  # it answers no problem
            return status.scored

        wait_for(lambda: scored() > 0, worker)
        server.go_on()
        finish(worker)
