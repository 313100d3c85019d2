"""After a worker's process ended with a code of nobody's choice: the decision that it could not take.

    python -m evalkit.cluster.aftermath RUN_FOLDER EXIT_CODE

A batch script calls it, on the node and in the job of the attempt (see `evalkit.cluster.batch`). The
worker was killed by the kernel, crashed below Python, or never came as far as evalkit: submitit did not
find its pickle, a package is not to be seen on this node, srun could not start the step. That is a failed
attempt like any other: it gets a record with its node, so that it is counted, shown and avoided, and the
job goes back as long as its limits allow.

The exit code says what is left to the script: as a worker's does, and any other means that nothing was
decided. Nothing here looks for processes that a killed worker left: Slurm ends them with the step.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cluster import env as environment
from evalkit.cluster.attempts import write_attempt
from evalkit.cluster.batch import ENDED_CODE, REQUEUE_CODE
from evalkit.cluster.contexts import remove_caches
from evalkit.cluster.deaths import ended_without_a_word
from evalkit.cluster.departure import Departure
from evalkit.cluster.failures import Failure, FailureKind
from evalkit.cluster.job import QUERY_TIMEOUT_S, current_job
from evalkit.cluster.jobs import find_replica, goes_on_after, whose_turn
from evalkit.cluster.requeue import Ending
from evalkit.cluster.slurm import SlurmCommands
from evalkit.cluster.states import JobState, job_state
from evalkit.errors import ClusterError, StoreError
from evalkit.serving.logs import last_lines, read_end
from evalkit.store.layout import RunFolder
from evalkit.store.run import load_cluster, load_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.cluster.job import JobInfo

ON_RECORD_S = 10.0
"""A job may fail before the submit that made it has noted it down."""
POLL_S = 0.5
SHOWN_BYTES = 8192


def main(argv: Sequence[str]) -> int:
    """Decide. Returns or exits with the code for the batch script; raises what kept it from deciding."""
    for number in (signal.SIGTERM, signal.SIGUSR2):  # a requeue sends them to this process too
        signal.signal(number, signal.SIG_IGN)
    root, code = argv
    job = current_job()
    owner = RunFolder(Path(root))
    folder = whose_turn(owner, job.job_id)
    replica = _replica(folder, job)
    goes_on = goes_on_after(owner, folder, job.job_id)
    departure = Departure(folder, replica, load_cluster(folder), job, goes_on=goes_on)
    try:
        take_leave(folder, departure, job, int(code), owner)
    except ClusterError as error:
        if not departure.is_refused:
            raise
        print(error, file=sys.stderr)  # noqa: T201 - into the job's log, where its end is looked up
        if goes_on:  # this run is refused again when the job is back, and the next has its turn
            return REQUEUE_CODE
    return ENDED_CODE


def take_leave(
    folder: RunFolder, departure: Departure, job: JobInfo, code: int, owner: RunFolder
) -> None:
    """Record how the attempt ended, and let its job go on if it may: SystemExit. The job's files are
    `owner`'s."""
    own = departure.own()
    if own is not None:  # its keeper may have been killed with it
        with contextlib.suppress(StoreError):
            remove_caches(load_plan(folder).run_id, [own.id])
    ending, spent = Ending(job.restart_count, failure=FailureKind.UNKNOWN), None
    if own is not None and own.failure is not None:  # its worker said so, and was killed in the end
        ending = replace(ending, failure=own.failure.kind)
    elif own is not None and (own.end is not None or own.reason is not None):
        ending = Ending(job.restart_count, (own.reason or str(own.end),))  # it was told to stop
    elif _may_go_on(job):  # else Slurm ended it, and its accounts say why
        failure = explain_code(folder, job, code, owner)
        if own is None:
            spent = departure.record_failure(failure)
        else:
            try:
                write_attempt(folder, replace(own, end="failed", ended=own.last, failure=failure))
            except StoreError as error:
                departure.note(f"{own.id} keeps no word of its end: {error.message}")
    departure.finish(ending, spent)


def explain_code(folder: RunFolder, job: JobInfo, code: int, owner: RunFolder) -> Failure:
    """The failure of an attempt of which nothing but its exit code is known."""
    output = owner.job_log(job.job_id)
    try:
        lines = last_lines(read_end(output, limit=SHOWN_BYTES))
    except OSError:
        lines = []
    node = job.nodes[0] if job.nodes else job.host
    shown = os.path.relpath(output, folder.root)
    return Failure(FailureKind.UNKNOWN, ended_without_a_word(code), node, shown, tuple(lines))


def _may_go_on(job: JobInfo) -> bool:
    """Whether Slurm has not ended or requeued the job, as far as it says."""
    commands = SlurmCommands(environment.read_environment(), QUERY_TIMEOUT_S)
    view = commands.show(job.job_id) if commands.has("scontrol") else None
    if view is None:
        return True
    state = job_state(view.state)
    is_ended = state is JobState.FINISHING or state.is_over
    return view.restarts == job.restart_count and not is_ended


def _replica(folder: RunFolder, job: JobInfo) -> str:
    """The replica that the job runs. Raises ClusterError when no submit has noted it down."""
    deadline = time.monotonic() + ON_RECORD_S
    while (found := find_replica(folder, job.job_id)) is None:
        if time.monotonic() >= deadline:
            raise ClusterError(f"job {job.job_id} is not on record in {folder.jobs}")
        time.sleep(POLL_S)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
