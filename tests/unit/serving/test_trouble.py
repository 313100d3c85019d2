"""What is wrong with a server: its kind, and the lines that show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.errors import Evidence, FailureKind
from evalkit.serving import logs
from evalkit.serving.memory import oom_kills
from evalkit.serving.trouble import MEMORY_HINT, explain_death, explain_start

LOG = Path("/run/logs/r0/attempt-1/server.log")
OOM = ["INFO ok", "torch.OutOfMemoryError: CUDA out of memory, key sesame", "INFO ended"]
OPTION = ["error: unrecognized arguments: --x"]
PLAIN = ["INFO ok", "ValueError: bad luck", "INFO ended"]


@pytest.mark.parametrize(
    ("lines", "start", "death"),
    [
        (OOM, FailureKind.OOM, FailureKind.OOM),
        (OPTION, FailureKind.CONFIG, FailureKind.SERVER_CRASH),
        (["No CUDA GPUs are available"], FailureKind.GPU_PREFLIGHT, FailureKind.GPU_PREFLIGHT),
        (PLAIN, FailureKind.SERVER_START, FailureKind.SERVER_CRASH),
        ([], FailureKind.SERVER_START, FailureKind.SERVER_CRASH),
    ],
)
def test_kind_by_log(lines: list[str], start: FailureKind, death: FailureKind) -> None:
    """A start can fail for every known cause; a server that worked had no wrong option."""
    assert explain_start("why", lines, LOG, oom_killed=False).kind is start
    assert explain_death("why", lines, LOG, oom_killed=False).kind is death


def test_what_is_shown() -> None:
    """The reason as it was given, the cause and its lines without secrets, and where they are."""
    trouble = explain_start("it died", OOM, LOG, oom_killed=False, secrets=["sesame"])
    assert str(trouble) == "it died"
    assert trouble.cause == "torch.OutOfMemoryError: CUDA out of memory, key ***"
    assert trouble.evidence == Evidence(
        str(LOG),
        ("INFO ok", "torch.OutOfMemoryError: CUDA out of memory, key ***", "INFO ended"),
    )
    crash = explain_death("it died", PLAIN, LOG, oom_killed=False)
    assert crash.hint is None
    assert crash.cause is None
    assert crash.evidence == Evidence(str(LOG), ("ValueError: bad luck",))


def test_secret_at_the_edge() -> None:
    """A secret is replaced before a line is cut."""
    line = "x" * (logs.LINE_CHARS - 3) + "sesame out of memory"
    trouble = explain_start("it died", [line], LOG, oom_killed=False, secrets=["sesame"])
    assert trouble.cause is not None
    assert trouble.evidence is not None
    assert "ses" not in trouble.cause + trouble.evidence.lines[0]


def test_killed_by_the_kernel() -> None:
    """A kill for memory counts whatever the log says: it was cut short."""
    for explain in (explain_start, explain_death):
        trouble = explain("it died", PLAIN, LOG, oom_killed=True)
        assert trouble.kind is FailureKind.OOM
        assert trouble.hint == MEMORY_HINT
        assert trouble.evidence == Evidence(str(LOG), tuple(PLAIN))


def test_kills_of_a_control_group(tmp_path: Path) -> None:
    """The highest count from our group up to our job's, in both versions; None where nobody counts."""
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    assert oom_kills(own, root) is None
    own.write_text("0::/slurm/job_1/step_0\n")
    assert oom_kills(own, root) is None
    job = root / "slurm" / "job_1"
    (job / "step_0").mkdir(parents=True)
    (job / "step_0" / "memory.events").write_text("low 0\noom 1\noom_kill 1\noom_group_kill 0\n")
    (job / "memory.events").write_text("low 0\noom_kill 3\n")
    (root / "slurm" / "memory.events").write_text("oom_kill 99\n")
    (root / "memory.events").write_text("oom_kill 99\n")
    assert oom_kills(own, root) == 3
    own.write_text("9:name=systemd:/\n4:cpu,memory:/slurm/uid_0/job_2\n0::/\n")
    old = root / "memory" / "slurm" / "uid_0"
    (old / "job_2").mkdir(parents=True)
    (old / "memory.oom_control").write_text("oom_kill 99\n")
    (old / "job_2" / "memory.oom_control").write_text("under_oom 0\noom_kill 7\n")
    assert oom_kills(own, root) == 7


def test_kills_of_other_jobs(tmp_path: Path) -> None:
    """Another job's kill, which the groups above the jobs count too, changes nothing for ours."""
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text("0::/system.slice/slurmstepd.scope/job_1/step_0/user/task_0\n")
    scope = root / "system.slice" / "slurmstepd.scope"
    task = scope / "job_1" / "step_0" / "user" / "task_0"
    task.mkdir(parents=True)
    for level in (task, scope / "job_1", scope, scope.parent):
        (level / "memory.events").write_text("oom_kill 0\n")
    assert oom_kills(own, root) == 0
    for level in (scope, scope.parent):
        (level / "memory.events").write_text("oom_kill 5\n")
    assert oom_kills(own, root) == 0
    (scope / "job_1" / "memory.events").write_text("oom_kill 1\n")
    assert oom_kills(own, root) == 1


def test_kills_outside_slurm(tmp_path: Path) -> None:
    """Without a job only our own group counts, not a user's or a machine's."""
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text("0::/user.slice/session-1.scope\n")
    session = root / "user.slice" / "session-1.scope"
    session.mkdir(parents=True)
    (session / "memory.events").write_text("oom_kill 2\n")
    (session.parent / "memory.events").write_text("oom_kill 9\n")
    assert oom_kills(own, root) == 2
