"""The door to Slurm's commands: parsing, absence, refusal, silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.cluster.slurm import (
    JobRow,
    JobView,
    SlurmCommands,
    expand_job_id,
    parse_job,
    parse_queue,
)
from evalkit.cluster.states import JobState
from evalkit.errors import ClusterError
from tests.unit.cluster.test_accounting import stamp

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cluster.conftest import FakeSlurm


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("7", ["7"]),
        ("7_3", ["7_3"]),
        ("7_[0-2]", ["7_0", "7_1", "7_2"]),
        ("7_[0,2-3%4]", ["7_0", "7_2", "7_3"]),
        ("7_[0-6:3]", ["7_0", "7_3", "7_6"]),
        ("7+0", ["7+0"]),
        ("7_[0-1,...]", ["7_[0-1,...]"]),
    ],
)
def test_ids_of_arrays_are_expanded(text: str, elements: list[str]) -> None:
    """Every way Slurm prints an id gives its elements; one that is not understood stays itself."""
    assert list(expand_job_id(text)) == elements


def test_queue_rows_of_other_jobs_are_ignored() -> None:
    """A job id that was used again after a reset of the controller is not ours, by name or by time."""
    text = (
        f"7_0|RUNNING|None|n[1-2]|n[7-8]|{stamp(90_000)}|ours\n"
        f"8|RUNNING|None|n3||N/A|theirs\n9|RUNNING|None|n3||{stamp(50_000)}|ours\nhello\n"
    )
    assert parse_queue(text, "ours", 90_500.0) == {
        "7_0": JobRow("7_0", JobState.RUNNING, "RUNNING", "", "n[1-2]", "", "n[7-8]")
    }


@given(st.text())
def test_no_output_breaks_the_parsers(text: str) -> None:
    """Whatever a command prints, parsing it raises nothing."""
    parse_queue(text, "ours", 0.0)
    parse_job(text)


def test_an_absent_command_says_where_to_go(no_slurm: dict[str, str]) -> None:
    """Without Slurm the error names the command."""
    with pytest.raises(ClusterError, match="squeue is not on PATH"):
        SlurmCommands(no_slurm).queue(["1"])


def test_a_command_that_never_answers_is_an_error(tmp_path: Path) -> None:
    """A query has a deadline."""
    program = tmp_path / "squeue"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    with pytest.raises(ClusterError, match=r"squeue did not answer within 0\.2 s"):
        SlurmCommands({"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout_s=0.2).queue(["1"])


def test_nobodys_own_settings_hide_jobs(tmp_path: Path) -> None:
    """Variables that choose rows or their form do not reach the commands; other ones do."""
    for name in ("squeue", "sacct", "scancel"):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\nenv > "{tmp_path}/{name}.env"\necho "$*" > "{tmp_path}/{name}.args"\n'
        )
        program.chmod(0o755)
    mine = {
        "SQUEUE_STATES": "R", "SQUEUE_PARTITION": "cpu", "SQUEUE_FORMAT": "%i", "SACCT_FEDERATION": "1",
        "SCANCEL_STATE": "PENDING", "SLURM_TIME_FORMAT": "relative", "TZ": "Asia/Tokyo",
    }  # fmt: skip
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_CONF": "/etc/slurm.conf", **mine}
    commands = SlurmCommands(env)
    commands.queue(["7"])
    commands.cancel(["7"])
    commands.run("sacct")
    for name in ("squeue", "sacct", "scancel"):
        got = dict(
            line.split("=", 1) for line in (tmp_path / f"{name}.env").read_text().splitlines()
        )
        assert not [key for key in got if key.startswith(("SQUEUE", "SACCT", "SCANCEL"))]
        assert got["SLURM_CONF"] == "/etc/slurm.conf"
        assert (got["SLURM_TIME_FORMAT"], got["SLURM_BITSTR_LEN"]) == ("standard", "0")
        assert got["TZ"] == "UTC0"
    assert "--all" in (tmp_path / "squeue.args").read_text(), "jobs of hidden partitions"


def test_a_forgotten_job_is_no_error(fake_slurm: FakeSlurm) -> None:
    """squeue exits 1 for a purged job: that means to ask sacct."""
    assert SlurmCommands(fake_slurm.env).queue(["1"]).of("x", 0.0) == {}


def test_a_controller_that_is_down_is_an_error(fake_slurm: FakeSlurm) -> None:
    """A failing squeue is not an empty queue."""
    fake_slurm.switch("broken")
    with pytest.raises(ClusterError, match="Unable to contact slurm controller"):
        SlurmCommands(fake_slurm.env).queue(["1"])


def test_the_end_of_a_job(tmp_path: Path) -> None:
    """The projected end is a time; a job without one has none, and elements of an array have their own."""
    program = tmp_path / "squeue"
    commands = SlurmCommands({"PATH": f"{tmp_path}:/usr/bin:/bin"})
    noon = 1_769_860_800.0
    said_when = [
        ("7|2026-01-31T12:00:00", noon),
        ("8|2026-01-31T11:00:00\n7|2026-01-31T12:00:00", noon),
        ("7|N/A", None),
        ("", None),
    ]
    for said, when in said_when:
        program.write_text(f"#!/bin/sh\necho '{said}'\n")
        program.chmod(0o755)
        assert commands.end_time("7") == when
    program.unlink()
    assert commands.end_time("7") is None


def test_a_job_as_the_controller_shows_it() -> None:
    """What a requeue needs is read, and a comment that looks like a field changes nothing."""
    text = (
        "JobId=12 ArrayJobId=10 ArrayTaskId=2 JobName=evalkit-demo JobState=COMPLETING "
        "Reason=TimeLimit Dependency=(null) Requeue=1 Restarts=3 PreemptTime=2026-11-23T11:39:05 "
        "Partition=low ReqNodeList=(null) ExcNodeList=n[1-2] Comment=take Restarts=9 Requeue=0"
    )
    view = parse_job(text)
    assert view == JobView("COMPLETING", "TimeLimit", 3, True, True, "n[1-2]", "low")
    assert (view.is_running, view.has_timed_out) == (False, True)
    plain = parse_job(
        "JobId=12 JobState=RUNNING Reason=None Requeue=0 Restarts=0 PreemptTime=None "
        "Partition=low ExcNodeList=(null)"
    )
    assert plain == JobView("RUNNING", "", 0, False, False, "", "low")
    assert plain.is_running
    assert parse_job("slurm_load_jobs error: Invalid job id specified") is None


def test_kill_wait_is_unknown_where_nobody_says(
    fake_slurm: FakeSlurm, no_slurm: dict[str, str]
) -> None:
    """Without an answer, and without Slurm, the time between TERM and KILL is not known."""
    assert SlurmCommands(no_slurm).kill_wait_s() is None
    fake_slurm.switch("broken")
    assert SlurmCommands(fake_slurm.env).kill_wait_s() is None
    assert SlurmCommands(fake_slurm.env).show("1") is None
    assert SlurmCommands(no_slurm).show("1") is None


def test_a_cancelled_job_is_revived_only_on_demand(fake_slurm: FakeSlurm) -> None:
    """An ordinary requeue leaves it to Slurm to refuse a job that has ended."""
    fake_slurm.switch("requeue", "Job is pending execution for the job 1")
    commands = SlurmCommands(fake_slurm.env)
    commands.requeue("1")
    commands.requeue("1", even_ended=True)
    assert fake_slurm.calls("scontrol") == [["requeue", "incomplete", "1"], ["requeue", "1"]]


def test_refused_exclusion_is_an_error(tmp_path: Path) -> None:
    """Slurm refuses it for a job that runs, in its own words."""
    program = tmp_path / "scontrol"
    program.write_text("#!/bin/sh\necho $* Job is no longer pending execution >&2\nexit 1\n")
    program.chmod(0o755)
    said = "did not exclude n1, n2: update JobId=7_1 ExcNodeList=n1,n2 Job is no longer pending"
    with pytest.raises(ClusterError, match=said):
        SlurmCommands({"PATH": f"{tmp_path}:/usr/bin:/bin"}).exclude("7_1", ["n1", "n2"])


def test_requeue_of_a_job_that_slurm_requeued_is_success(fake_slurm: FakeSlurm) -> None:
    """ "Job is pending execution" means that it is done already."""
    fake_slurm.switch("requeue", "Job is pending execution for the job 1")
    SlurmCommands(fake_slurm.env).requeue("1")


def test_refused_requeue_is_an_error_with_slurms_words(fake_slurm: FakeSlurm) -> None:
    """Any other answer of scontrol is an error that says what to do."""
    fake_slurm.switch("requeue", "Requested operation is presently disabled for job 1")
    with pytest.raises(ClusterError, match="presently disabled") as caught:
        SlurmCommands(fake_slurm.env).requeue("1")
    assert "evalkit submit" in (caught.value.hint or "")


def test_array_size_is_the_sites(fake_slurm: FakeSlurm) -> None:
    """MaxArraySize is read from the configuration; Slurm's default where nobody says."""
    env = {**fake_slurm.env, "FAKE_MAX_ARRAY": "40"}
    assert SlurmCommands(env).max_array_size() == 40
    SlurmCommands(env).require_controller()
    fake_slurm.switch("broken")
    assert SlurmCommands(env).max_array_size() == 1001
    with pytest.raises(ClusterError, match=r"\w"):
        SlurmCommands(env).require_controller()
