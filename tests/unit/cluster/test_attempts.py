"""Attempt records: what an attempt says of itself, also when it is killed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import orjson
import pytest

from evalkit.clock import Clock
from evalkit.cluster.attempts import (
    AttemptRecord,
    begin_attempt,
    read_attempts,
    write_attempt,
)
from evalkit.cluster.failures import Failure, FailureKind
from evalkit.cluster.recorder import RECORD_EVERY_S, Recorder
from evalkit.errors import StoreError
from evalkit.store.layout import RunFolder

if TYPE_CHECKING:
    from pathlib import Path


def make_record(replica: str = "r0", attempt: int = 1, **changes: object) -> AttemptRecord:
    """The record of an attempt that has just begun, with these changes."""
    record = AttemptRecord(
        replica=replica,
        attempt=attempt,
        executor="slurm",
        job_id="7_0",
        restart_count=0,
        host="n1",
        nodes=("n1", "n2"),
        gpus=8,
        started=1000.0,
        last=1000.0,
    )
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]


def test_record_through_an_attempt(tmp_path: Path) -> None:
    """Written at the start and at the end; in between it is due every RECORD_EVERY_S."""
    folder = RunFolder(tmp_path)
    attempt = begin_attempt(folder, "r0")
    now = [0.0]
    clock = Clock(wall=lambda: 1000.0 + now[0], monotonic=lambda: now[0])
    recorder = Recorder(folder.attempt_record("r0", attempt.number), make_record(), clock)
    recorder.write()
    assert read_attempts(folder) == [make_record()]
    now[0] = RECORD_EVERY_S - 1
    recorder.server_starts(1, 1)
    recorder.update(units=1, completion_tokens=10, startup_s=20.04, restart_s=0.0)
    assert not recorder.is_due
    now[0] = RECORD_EVERY_S
    recorder.server_starts(3, 2)
    recorder.update(units=2, completion_tokens=30, startup_s=20.0, restart_s=5.0)
    assert recorder.is_due
    recorder.write()
    assert not recorder.is_due
    killed = read_attempts(folder)[0]
    assert (killed.ended, killed.last, killed.wall_s) == (None, 1030.0, 30.0)
    assert killed.has_kept
    assert killed.restarts == 1
    now[0] = 40.0
    failure = Failure(FailureKind.OOM, "no memory", "n1", "logs/x", ("line",))
    recorder.end("failed", reason="SIGTERM", failure=failure)
    assert read_attempts(folder) == [
        make_record(
            last=1040.0,
            ended=1040.0,
            end="failed",
            reason="SIGTERM",
            server_starts=3,
            deployments=2,
            startup_s=20.0,
            restart_s=5.0,
            units=2,
            completion_tokens=30,
            failure=failure,
        )
    ]


def test_records_in_their_order(tmp_path: Path) -> None:
    """Records come by replica and number; what cannot be read is left out, one replica alone works."""
    folder = RunFolder(tmp_path)
    for replica, number in (("r10", 1), ("r2", 10), ("r2", 9)):
        write_attempt(folder, make_record(replica, number))
    torn = folder.attempt_record("r2", 11)
    torn.parent.mkdir()
    torn.write_bytes(make_record("r2", 11).render()[:40])
    (folder.attempt_logs("r2", 12)).mkdir()
    assert [record.id for record in read_attempts(folder)] == ["r2.a9", "r2.a10", "r10.a1"]
    assert [record.id for record in read_attempts(folder, "r2")] == ["r2.a9", "r2.a10"]
    assert read_attempts(folder, "r1") == []
    assert read_attempts(RunFolder(tmp_path / "none")) == []


def test_record_of_another_version(tmp_path: Path) -> None:
    """Unknown keys are passed over; a missing one makes it no record."""
    path = tmp_path / "attempt.json"
    fields = orjson.loads(make_record().render())
    path.write_bytes(orjson.dumps({**fields, "colour": "red"}))
    assert AttemptRecord.parse(path.read_bytes()) == make_record()
    del fields["started"]
    with pytest.raises(ValueError, match="started"):
        AttemptRecord.parse(orjson.dumps(fields))


def test_clock_that_was_set_back() -> None:
    """No attempt has a negative length; nothing kept is nothing kept."""
    assert make_record(last=900.0).wall_s == 0.0
    assert not make_record().has_kept
    assert make_record(completion_tokens=1).has_kept


def test_record_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that cannot be written is said to be so."""
    (tmp_path / "logs").touch()
    with pytest.raises(StoreError, match="cannot write"):
        write_attempt(RunFolder(tmp_path), make_record())
