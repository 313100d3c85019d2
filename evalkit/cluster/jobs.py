"""What was submitted for a run: one JSON line per sbatch call, appended to `cluster/jobs.jsonl`.

It tells status, cancel and a second submit which job ids to ask about. It says nothing about what is
done: journals do. A line is written right after its job exists; a submit that is killed in between
leaves a job with the run's name that `squeue --name` still finds.

Beside it lies the fence that a cancel leaves: the number of the last submission that was cancelled.
Jobs up to it neither requeue themselves nor work on, whatever Slurm makes of them.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from evalkit.errors import StoreError
from evalkit.store.layout import RunFolder
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.plan.model import Plan

Role = Literal["replicas", "gather"]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job of a run."""

    submission: int
    """Number of the `submit` it belongs to, from 1."""
    time: float
    """When it was submitted, Unix time (s)."""
    host: str
    """Where it was submitted."""
    executor: Literal["slurm", "local"]
    name: str
    """Job name, the same for all jobs of a run."""
    job_id: str
    """Slurm's id without an array index; the process id of a local job."""
    role: Role
    replicas: tuple[str, ...]
    """Replicas it runs, in the order of the array; () for a gather."""
    is_array: bool
    script: str | None
    """Batch script relative to the run folder; null for a local job."""
    started: float | None = None
    """Start of the local process, Unix time (s): proves that a process id is still ours."""
    gpus: str | None = None
    """CUDA_VISIBLE_DEVICES that a local replica was given; null for any other job."""
    shared: tuple[str, ...] = ()
    """Folders of the other runs that it works for, relative to this one."""
    owner: str = "."
    """Folder of the run that it was submitted for, relative to this one: its files are there."""
    gone: bool = False
    """A cancel has seen it gone. Comes from the fence when records are read, and is not in the file."""

    @property
    def elements(self) -> tuple[str, ...]:
        """Slurm ids of its parts: `123_0`, `123_1`, ... or `123`."""
        if not self.is_array:
            return (self.job_id,)
        return tuple(f"{self.job_id}_{index}" for index in range(len(self.replicas)))


def job_name(plan: Plan) -> str:
    """Name of all jobs of a run: not the same for two runs. Slurm's lists of names are split at commas."""
    return f"evalkit-{re.sub(r'[^A-Za-z0-9._-]+', '-', plan.run)}-{plan.run_id}"


def append_job(folder: RunFolder, record: JobRecord) -> None:
    """Add a job to the run's list, on disk when this returns. Raises StoreError."""
    fields = asdict(record)
    del fields["gone"]
    line = orjson.dumps(fields) + b"\n"
    try:
        folder.cluster.mkdir(parents=True, exist_ok=True)
        with folder.jobs.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(
            f"cannot write {folder.jobs}: {error.strerror}",
            hint=f"Job {record.job_id} was submitted; cancel it by its id if you do not want it.",
        ) from error


def read_jobs(folder: RunFolder) -> list[JobRecord]:
    """All jobs ever submitted for the run, oldest first. Raises StoreError."""
    try:
        lines = folder.jobs.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot read {folder.jobs}: {error.strerror}") from error
    fence = read_fence(folder)
    # the last line is empty or torn
    return [_record(folder, line, fence) for line in lines[:-1] if line]


def owner_of(folder: RunFolder, job: JobRecord) -> RunFolder:
    """The run in whose folder a job's files are."""
    return folder if job.owner == "." else RunFolder((folder.root / job.owner).resolve())


def note_turn(first: RunFolder, job_id: str, run: Path) -> None:
    """Say which of the runs that share a job it works for now; a hint for status and aftermath. `first`
    is the job's owner."""
    turn = os.path.relpath(run, first.root)
    with contextlib.suppress(StoreError):
        publish(first.turn(job_id), f"{turn}\n".encode())


def whose_turn(first: RunFolder, job_id: str) -> RunFolder:
    """The run that a job works for; `first` where it is not shared, or has not said yet."""
    try:
        turn = first.turn(job_id).read_text().strip()
    except OSError:
        return first
    return first if turn == "." else RunFolder((first.root / turn).resolve())


def is_wanted_elsewhere(folder: RunFolder, job: JobRecord) -> bool:
    """Whether another run that a job works for wants it still. Raises StoreError."""
    others = [RunFolder((folder.root / other).resolve()) for other in job.shared]
    return any(not is_cancelled(other, job.job_id) for other in others)


def find_replica(folder: RunFolder, job_id: str) -> str | None:
    """The replica that a Slurm job or array element runs; None when it is not on record. Raises StoreError."""
    job = _find_job(folder, job_id)
    return None if job is None else job.replicas[job.elements.index(job_id)]


def _find_job(folder: RunFolder, job_id: str) -> JobRecord | None:
    found = None
    for job in read_jobs(folder):  # ids start again when a controller is reset: the last one counts
        if job.executor == "slurm" and job_id in job.elements and job.replicas:
            found = job
    return found


def goes_on_after(owner: RunFolder, folder: RunFolder, job_id: str) -> bool:
    """Whether a job of `owner` works for other runs when it is done with this one. Raises StoreError."""
    job = _find_job(owner, job_id)
    if job is None or not job.shared:
        return False
    roots = [owner.root, *((owner.root / other).resolve() for other in job.shared)]
    later = roots[roots.index(folder.root) + 1 :] if folder.root in roots else []
    return any(not is_cancelled(RunFolder(root), job_id) for root in later)


def latest_submission(records: list[JobRecord]) -> list[JobRecord]:
    """The jobs of the last submit."""
    last = max((record.submission for record in records), default=0)
    return [record for record in records if record.submission == last]


class Fence(NamedTuple):
    """What a cancel left."""

    submission: int = 0
    """All jobs up to this submission are cancelled; 0 before the first cancel."""
    gone: bool = False
    """They were seen to be gone."""


def write_fence(folder: RunFolder, fence: Fence) -> None:
    """Fence off all jobs up to a submission. Raises StoreError."""
    publish(folder.cancelled, orjson.dumps(fence._asdict()) + b"\n")


def read_fence(folder: RunFolder) -> Fence:
    """What the last cancel left; as before the first one when nobody can say."""
    try:
        fields: dict[str, Any] = orjson.loads(folder.cancelled.read_bytes())
        return Fence(int(fields["submission"]), bool(fields["gone"]))
    except (OSError, ValueError, TypeError, KeyError):
        return Fence()


def is_cancelled(folder: RunFolder, job_id: str) -> bool:
    """Whether a cancel came over this job, `123`, `123_4` or a process id. Raises StoreError.

    A job that is not on record is not: its submit was killed, or it works here in the foreground.
    """
    last = read_fence(folder).submission
    if last == 0:
        return False
    main = job_id.partition("_")[0]
    mine = [job.submission for job in read_jobs(folder) if job.job_id == main]
    return bool(mine) and mine[-1] <= last  # ids start again when a controller is reset


def _record(folder: RunFolder, line: bytes, fence: Fence) -> JobRecord:
    try:
        fields: dict[str, Any] = orjson.loads(line)
        gone = fence.gone and fields["submission"] <= fence.submission
        lists = {key: tuple(fields.get(key, ())) for key in ("replicas", "shared")}
        return JobRecord(**{**fields, **lists, "gone": gone})
    except (orjson.JSONDecodeError, TypeError, KeyError) as error:
        raise StoreError(f"{folder.jobs}: a line is not a job: {error}") from error
