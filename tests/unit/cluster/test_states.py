"""Slurm's states in our words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.cluster.states import (
    HOLD_REASONS,
    ON_NODES,
    SLURM_STATES,
    JobState,
    job_state,
    what_to_do,
)

ENDED = "COMPLETED FAILED TIMEOUT OUT_OF_MEMORY CANCELLED BOOT_FAIL DEADLINE NODE_FAIL PREEMPTED REVOKED"
LIVE = "PENDING CONFIGURING RUNNING COMPLETING REQUEUED REQUEUE_HOLD REQUEUE_FED RESIZING SUSPENDED"
LIVE_TOO = "STAGE_OUT SIGNALING SPECIAL_EXIT STOPPED RESV_DEL_HOLD LAUNCH_FAILED RECONFIG_FAIL"


@pytest.mark.parametrize("raw", ENDED.split())
def test_terminal_states_are_over(raw: str) -> None:
    """A terminal state is over and not live."""
    assert job_state(raw).is_over
    assert not job_state(raw).is_live


@pytest.mark.parametrize("raw", [*LIVE.split(), *LIVE_TOO.split()])
def test_other_states_are_live(raw: str) -> None:
    """A job in any other documented state may still run."""
    assert job_state(raw).is_live
    assert not job_state(raw).is_over


def test_only_completed_is_done() -> None:
    """No other word of Slurm means success."""
    assert [raw for raw, state in SLURM_STATES.items() if state is JobState.DONE] == ["COMPLETED"]


def test_every_state_of_ours_is_used() -> None:
    """Each of our words has a word of Slurm's, but unknown."""
    assert set(SLURM_STATES.values()) | {JobState.UNKNOWN} == set(JobState)


@pytest.mark.parametrize(
    ("raw", "state"),
    [
        ("CANCELLED by 1000", JobState.CANCELLED),
        ("CANCELLED+", JobState.CANCELLED),
        (" running ", JobState.RUNNING),
        ("OUT_OF_MEMORY", JobState.OOM),
        ("", JobState.UNKNOWN),
        ("A_STATE_OF_2030", JobState.UNKNOWN),
    ],
)
def test_words_around_a_state(raw: str, state: JobState) -> None:
    """Slurm's additions are understood, and what is not known is unknown."""
    assert job_state(raw) is state


@pytest.mark.parametrize("reason", sorted(HOLD_REASONS))
def test_a_pending_job_that_never_starts_is_held(reason: str) -> None:
    """Reasons that need somebody make a pending job held; others do not."""
    assert job_state("PENDING", reason) is JobState.HELD
    assert job_state("PENDING", "Priority") is JobState.PENDING
    assert job_state("RUNNING", reason) is JobState.RUNNING


@pytest.mark.parametrize("raw", ["LAUNCH_FAILED", "RECONFIG_FAIL"])
def test_flags_of_a_requeue_are_no_end(raw: str) -> None:
    """They mark a job that Slurm puts back into the queue."""
    assert job_state(raw) is JobState.REQUEUED


@pytest.mark.parametrize(
    ("raw", "advice"),
    [("SUSPENDED", "scontrol resume 7_0"), ("STOPPED", "scancel --signal=CONT 7_0")],
)
def test_a_suspended_job_is_not_held(raw: str, advice: str) -> None:
    """It has its processes on its nodes, and a release would do nothing for it."""
    state = job_state(raw)
    assert state is JobState.SUSPENDED
    assert state in ON_NODES
    said = what_to_do("7_0", state, raw, "None")
    assert said is not None
    assert advice in said
    assert "release" not in said


def test_nothing_to_do_for_a_job_that_runs() -> None:
    """Advice is only for jobs that wait for somebody."""
    assert what_to_do("7_0", JobState.RUNNING, "RUNNING", "None") is None


@given(st.text())
def test_no_text_is_success_by_accident(raw: str) -> None:
    """Any text has a state, and only COMPLETED is done."""
    state = job_state(raw)
    assert state is not JobState.DONE or raw.strip().upper().startswith("COMPLETED")
    assert not (state.is_live and state.is_over)
