"""What `evalkit status` shows, as values: a run at one moment. Made by `evalkit.cluster.status`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from evalkit.cluster.failures import Failure, FailureKind
    from evalkit.cluster.usage import Usage


@dataclass(frozen=True, slots=True)
class GradingStatus:
    """How far the answers to one task are graded."""

    grader: Literal["sandbox", "judge"]
    folder: str
    """Where what was found lies."""
    expected: int
    """Planned units."""
    graded: int
    """Units that something was found about."""
    ungraded: int
    """Answers that are there, and that nobody has graded or tried to."""
    judge_error: int
    """Answers on which the judge failed: `evalkit score` tries them again."""
    scorer_error: int
    """Answers on which the sandbox or the benchmark's own code failed: likewise."""
    graders: int
    """Who grade it now."""
    rate_per_s: float | None
    """Units per second now; null when nobody does."""
    eta_s: float | None
    """Seconds until the answers that are there are graded at this rate."""
    state: str | None
    """The word of the latest grader (see `ReplicaReport.state`); null before the first."""
    detail: str | None
    """What a grader waits for, in words."""
    error: str | None
    """Why the latest grader could not grade the task, or some of its answers; null while one works."""
    log: str | None
    """Path of the latest grader's log."""

    @property
    def owed(self) -> int:
        """Answers that are there, and that nothing was found about."""
        return self.ungraded + self.judge_error + self.scorer_error


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One task."""

    name: str
    expected: int
    """Planned units."""
    done: int
    outcomes: dict[str, int]
    shards: int
    shards_done: int
    score: float | None
    """Mean score so far, over `scored` units; null while none is known."""
    scored: int
    rate_per_s: float | None
    """Units per second now; null when nobody works on the task."""
    eta_s: float | None
    """Seconds until the task is done at this rate."""
    grading: GradingStatus | None = None
    """Null for a task that needs no sandbox and no judge to be scored."""
    score_note: str | None = None
    """Why there is no score yet, or what it is of where that is not all that is done."""
    result: str | None = None
    """The headline of a complete run, once it is gathered: `51.25`, which is percent, or a number that is
    no share as it is, such as `8.873e+26`."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica."""

    name: str
    state: str
    """The worker's own word (see `ReplicaReport.state`); `waiting` before its first, `suspended` while
    its job is, `silent` when its heartbeat stands still and nobody says why, `ended` when its job is
    known to be over and it did not say so."""
    job_id: str | None
    node: str | None
    log: str | None
    """Path of the attempt's log, or of the job's output before the first attempt."""
    is_alive: bool = False
    """Its worker was heard lately, and its job is not known to be over."""
    attempt: int | None = None
    """Number of its latest attempt."""
    attempts: int = 0
    """Attempts on record."""
    restarts: int = 0
    """Servers that were started again inside an attempt, over all attempts."""
    server: dict[str, Any] = field(default_factory=dict)
    """`state`, `log` and `restarts` of its server, as the worker sees it."""
    detail: str | None = None
    """What it is doing, in words, while it runs."""
    tokens_per_s: float = 0.0
    in_flight: int = 0
    warnings: tuple[str, ...] = ()
    """What its worker warns of, and goes on."""
    heartbeat_age_s: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job or array element, as Slurm says."""

    job_id: str
    role: str
    replica: str | None
    state: str
    raw: str
    """Slurm's own word."""
    reason: str
    nodes: str
    log: str | None
    """Path of the job's own output, where a worker that never started says why."""
    advice: str | None = None
    """What to do for a job that is held or suspended."""
    works_for: str | None = None
    """The other run that a shared job works for now."""
    excluded: str = ""
    """Nodes it stays off, as Slurm writes them: failed ones, and those of cluster.exclude."""


@dataclass(frozen=True, slots=True)
class AttemptStatus:
    """One attempt of one replica. Times are Unix times (s)."""

    id: str
    """`r0.a1`"""
    replica: str
    attempt: int
    job_id: str
    node: str
    gpus: int
    started: float
    ended: float
    """When it ended, or was last heard."""
    is_alive: bool
    end: str | None
    """Its own word: done, drained, failed or over_budget; null while it runs, and when it was killed."""
    units: int
    completion_tokens: int
    server_starts: int
    failure: Failure | None
    """Why it did not end as done; null too while nobody can say whether it runs."""
    restart_count: int = 0
    """Requeues of its job before it."""


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """All failures of one kind, with the last of them."""

    kind: FailureKind
    of: Literal["attempt", "job", "unit"]
    """What failed; units are still owed."""
    count: int
    where: str
    """The last one: an attempt (`r0.a1`), a job's id, or a task."""
    time: float | None
    """When the last one was, Unix time (s)."""
    reason: str
    node: str | None
    log: str | None
    """Path of the log that shows it."""
    lines: tuple[str, ...]
    """The lines of it that show the cause."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Everything at one moment."""

    run: str
    run_id: str
    folder: str
    time: float
    """Unix time (s)."""
    phase: str
    """One word: not_submitted, waiting, starting, running, silent, grading, gathering, complete,
    stopped, failed, unknown."""
    message: str
    """The phase in a sentence, with the reason and a log path when something is wrong."""
    is_over: bool
    """Nothing of the run lives any more."""
    is_blind: bool
    """Whether it is over cannot be told here: there is no Slurm to ask, and no replica is heard."""
    expected: int
    done: int
    rate_per_s: float | None
    eta_s: float | None
    tasks: tuple[TaskStatus, ...]
    replicas: tuple[ReplicaStatus, ...]
    jobs: tuple[JobStatus, ...]
    attempts: tuple[AttemptStatus, ...]
    failures: tuple[FailureGroup, ...]
    """The latest first."""
    usage: Usage | None
    """Null before the first attempt."""
    bad_nodes: tuple[str, ...]
    """Nodes on which attempts failed repeatedly: requeued jobs stay off them where they can."""
    slurm_error: str | None = None
    """Why the jobs' states are not known, or not all."""
    stage: Literal["generating", "grading", "gathering", "done"] = "generating"
    """What is to be done next, whether somebody is at it (`phase`) or not."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)
