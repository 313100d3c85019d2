"""The only door to Slurm's commands: argument lists in, rows out, with a deadline for each.

What a person has set for their own use of the commands (SQUEUE_STATES and the like) is left out, for
it would hide jobs here.

Slurm answers late or not at all on a busy controller, forgets a job minutes after its end (squeue) or
never knew it (sacct without accounting). None of that is a fact about the job: a job that neither
command knows is `unknown`. Nothing here submits: submitit does.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from evalkit.cluster import slurm_times
from evalkit.cluster.slurm_times import parse_time
from evalkit.cluster.states import JobState, job_state
from evalkit.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

COMMAND_TIMEOUT_S = 60.0
"""A loaded slurmctld answers within its own MessageTimeout (10 s by default) or not at all."""
DEFAULT_MAX_ARRAY_SIZE = 1001
"""Slurm's own default."""
FILTERS = ("SQUEUE_", "SACCT_", "SCANCEL_")
"""How variables begin that choose what these commands show, or how."""
WHOLE_IDS = {"SLURM_BITSTR_LEN": "0"}
"""Indices of an array in full: `7_[0-9,...]` could not be expanded."""
QUEUE_FORMAT = "%i|%T|%r|%N|%x|%V|%j"
CLOCK_MARGIN_S = 3600.0
"""The submit host's clock may be off against the controller's."""


class JobRow(NamedTuple):
    """What Slurm says of one job or array element."""

    job_id: str
    """`123`, or `123_4` for an element of an array."""
    state: JobState
    raw: str
    reason: str = ""
    nodes: str = ""
    exit_code: str = ""
    excluded: str = ""
    """Nodes it stays off, as Slurm writes them (`n[1-2]`)."""


class JobView(NamedTuple):
    """What the controller says of one job at one moment, as a decision to requeue needs it."""

    state: str
    """Slurm's word: RUNNING, COMPLETING (ends, for whatever reason), PENDING, ..."""
    reason: str
    restarts: int
    """Requeues so far. Counted when a requeue is ordered, while the old attempt still runs."""
    may_requeue: bool
    is_preempted: bool
    """Something with a higher priority wants its nodes, and it is in its grace time."""
    excluded: str
    """ExcNodeList as Slurm writes it; empty for none."""
    partition: str

    @property
    def is_running(self) -> bool:
        """Nobody has ended it: neither cancelled nor requeued nor at its time limit."""
        return job_state(self.state) is JobState.RUNNING

    @property
    def has_timed_out(self) -> bool:
        """It is being ended because it reached its time limit."""
        return self.state in ("COMPLETING", "TIMEOUT") and self.reason == "TimeLimit"


class Queue(NamedTuple):
    """What squeue printed, for the jobs of any number of runs."""

    text: str = ""

    def of(self, name: str, since: float) -> dict[str, JobRow]:
        """Rows of jobs with this name, one per array element. None of jobs that it has forgotten.

        Rows submitted before `since` (Unix time, s) are left out: ids start again when a controller
        is reset.
        """
        return parse_queue(self.text, name, since)


class Finished(NamedTuple):
    """A command that ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class SlurmCommands:
    """Slurm's commands with a fixed environment."""

    env: Mapping[str, str]
    timeout_s: float = COMMAND_TIMEOUT_S

    def has(self, program: str) -> bool:
        """Whether a command is on PATH."""
        return shutil.which(program, path=self.env.get("PATH", "")) is not None

    def run(self, *argv: str) -> Finished:
        """Run a command to its end. Raises ClusterError when it is absent or does not answer."""
        program = shutil.which(argv[0], path=self.env.get("PATH", ""))
        if program is None:
            raise ClusterError(
                f"no Slurm on this machine: {argv[0]} is not on PATH",
                hint="Work on a login node of the cluster, or load its Slurm module.",
            )
        try:
            ended = subprocess.run(
                [program, *argv[1:]],
                env=_for_slurm(self.env),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.timeout_s,
                check=False,
                encoding="utf-8",
                errors="replace",
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(
                f"{argv[0]} did not answer within {self.timeout_s:g} s",
                hint="The Slurm controller is busy or down; try again in some minutes.",
            ) from error
        except OSError as error:
            raise ClusterError(f"cannot run {program}: {error.strerror}") from error
        return Finished(ended.returncode, ended.stdout, ended.stderr.strip())

    def queue(self, job_ids: Sequence[str]) -> Queue:
        """Ask squeue for these jobs, once. Raises ClusterError."""
        if not job_ids:
            return Queue()
        ids = ",".join(job_ids)
        ended = self.run("squeue", "-h", "-r", "--all", "-j", ids, "-o", QUEUE_FORMAT)
        if ended.returncode and "invalid job id" not in ended.stderr.lower():
            raise ClusterError(f"squeue failed: {ended.stderr or ended.returncode}")
        return Queue(ended.stdout)

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel jobs, whole arrays. Jobs that have ended are no error. Raises ClusterError."""
        ended = self.run("scancel", *job_ids)
        said = ended.stderr.lower()
        if ended.returncode and "invalid job id" not in said and "already" not in said:
            raise ClusterError(f"scancel failed: {ended.stderr or ended.returncode}")

    def requeue(self, job_id: str, *, even_ended: bool = False) -> None:
        """Put a running job back into the queue. Raises ClusterError with Slurm's words.

        "Job is pending execution" is success: Slurm requeued it first (preemption). With
        `even_ended` also a job that is being ended; without, Slurm refuses to revive a cancelled one.
        """
        option = [] if even_ended else ["incomplete"]
        ended = self.run("scontrol", "requeue", *option, job_id)
        if ended.returncode and "pending execution" not in ended.stderr.lower():
            raise ClusterError(
                f"Slurm did not requeue job {job_id}: {ended.stderr or ended.returncode}",
                hint="Everything finished is kept: `evalkit submit` continues the run.",
            )

    def show(self, job_id: str) -> JobView | None:
        """What the controller says of a job or array element now; None when it does not answer."""
        try:
            ended = self.run("scontrol", "-o", "show", "job", job_id)
        except ClusterError:
            return None
        return parse_job(ended.stdout) if ended.returncode == 0 else None

    def exclude(self, job_id: str, nodes: Sequence[str]) -> None:
        """Keep a job off these nodes and no others. Only for a job that waits or was just requeued.

        Slurm refuses it for a running job. Raises ClusterError.
        """
        ended = self.run("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={','.join(nodes)}")
        if ended.returncode:
            raise ClusterError(f"Slurm did not exclude {', '.join(nodes)}: {ended.stderr}")

    def host_names(self, hostlist: str) -> tuple[str, ...]:
        """Nodes of a list as Slurm writes it (`n[1-3,7]`). Raises ClusterError."""
        if not hostlist:
            return ()
        return tuple(self.run("scontrol", "show", "hostnames", hostlist).stdout.split())

    def partition_size(self, partition: str) -> int | None:
        """Number of nodes in a partition; None if unknown. Raises ClusterError."""
        ended = self.run("scontrol", "-o", "show", "partition", partition)
        found = re.search(r"\bTotalNodes=(\d+)", ended.stdout)
        return int(found[1]) if found else None

    def end_time(self, job_id: str) -> float | None:
        """Projected end of a running job, Unix time (s); None if unknown.

        `job_id` is the plain one. Of one element of an array it is the array's, too, and Slurm answers
        with all elements.
        """
        try:
            ended = self.run("squeue", "-h", "-r", "--all", "-j", job_id, "-o", "%A|%e")
        except ClusterError:
            return None
        ends = dict(line.strip().split("|", 1) for line in ended.stdout.splitlines() if "|" in line)
        return parse_time(ends.get(job_id, ""))

    def require_controller(self) -> None:
        """Raise ClusterError, in Slurm's own words, where no controller answers."""
        ended = self.run("scontrol", "show", "config")
        if ended.returncode:
            said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
            raise ClusterError(said[-1])

    def max_array_size(self) -> int:
        """Most elements of one array (Slurm's MaxArraySize)."""
        if not self.has("scontrol"):
            return DEFAULT_MAX_ARRAY_SIZE
        return self._configured("MaxArraySize") or DEFAULT_MAX_ARRAY_SIZE

    def kill_wait_s(self) -> float | None:
        """Time between TERM and KILL on this cluster (s); None where nobody says."""
        try:
            found = self._configured("KillWait")
        except ClusterError:
            return None
        return None if found is None else float(found)

    def _configured(self, key: str) -> int | None:
        text = self.run("scontrol", "show", "config").stdout
        found = re.search(rf"^{key}\s*=\s*(\d+)", text, re.M)
        return int(found[1]) if found else None


def parse_queue(text: str, name: str, since: float) -> dict[str, JobRow]:
    """Rows of `squeue -o` QUEUE_FORMAT by element, of jobs with this name submitted `since` then."""
    rows: dict[str, JobRow] = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 7 or fields[6] != name:
            continue
        job_id, raw, reason, nodes, excluded, submitted, _ = fields
        when = parse_time(submitted)
        if when is not None and when < since - CLOCK_MARGIN_S:
            continue
        for element in expand_job_id(job_id):
            state = job_state(raw, reason)
            said = (_said(reason), _said(nodes), "", _said(excluded))
            rows[element] = JobRow(element, state, raw, *said)
    return rows


def parse_job(text: str) -> JobView | None:
    """The job of `scontrol -o show job`; None when the text is of no job.

    Values may hold blanks, and free ones (a comment) come late: the first of equal keys counts.
    """
    found: dict[str, str] = {}
    for word in text.split():
        key, is_pair, value = word.partition("=")
        if is_pair:
            found.setdefault(key, _said(value))
    restarts = found.get("Restarts", "")
    if "JobState" not in found or not restarts.isdecimal():
        return None
    return JobView(
        state=found["JobState"],
        reason=found.get("Reason", ""),
        restarts=int(restarts),
        may_requeue=found.get("Requeue") != "0",
        is_preempted=bool(found.get("PreemptTime")),
        excluded=found.get("ExcNodeList", ""),
        partition=found.get("Partition", ""),
    )


def expand_job_id(text: str) -> Iterable[str]:
    """Elements of an id as Slurm prints it: `7`, `7_3`, `7_[0-2,5%4]`."""
    found = re.fullmatch(r"(\d+)_\[([0-9,:-]+)(?:%\d+)?\]", text)
    if found is None:
        return [text]
    return [f"{found[1]}_{index}" for part in found[2].split(",") for index in _indices(part)]


def _indices(part: str) -> Iterable[int]:
    numbers, _, step = part.partition(":")
    first, _, last = numbers.partition("-")
    return range(int(first), int(last or first) + 1, int(step or 1))


def _for_slurm(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command, which then answers as this module reads it."""
    own = {key: value for key, value in env.items() if not key.startswith(FILTERS)}
    return own | WHOLE_IDS | slurm_times.SETTINGS


def _said(text: str) -> str:
    """Slurm's words for nothing, as nothing."""
    return "" if text in ("None", "(null)", "None assigned") else text
