"""What a benchmark is. Everything evalkit asks of one fits on this page.

A benchmark loads its samples on a machine with data (`load`), is asked to solve them where the model
is (`solve`), and scores what came back on any CPU (`score`). Where scoring means to run programs or to
ask a judge, that is a stage of its own in between (`grade`), whose finding is journaled and handed to
`score`. `solve` is ordinary async code that may
call the model once or forty times, and do other things in between that must not be done again (`step`,
`session`): each finished call or step is journaled, and after an interruption the coroutine runs again
with those answered from the journal. So `solve` must depend on nothing but its arguments and the answers
it gets: no clock, no unseeded randomness.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeAlias, TypeVar

from evalkit.base import Frozen
from evalkit.errors import ScorerError
from evalkit.store.records import Outcome, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from evalkit.benchmarks.data import DataAccess, DataSource
    from evalkit.benchmarks.native import NativeResult
    from evalkit.plan.model import DataProvenance, DeploymentPlan
    from evalkit.recipe.schema import Profile
    from evalkit.scoring.sandbox import CellOutput, Program, ProgramResult

Route: TypeAlias = Literal["chat/completions", "completions"]
"""Where a request goes, below an endpoint's `/v1`."""
Message: TypeAlias = dict[str, Any]
"""One chat message in the OpenAI form: `role`, `content` and, where it has them, tool calls."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One item of a data set, as it is frozen in the run folder. All fields are JSON."""

    id: str
    """Stable id from the data set."""
    messages: tuple[Message, ...] = ()
    """The rendered request of a single-call benchmark; the first one of others, where there is one."""
    target: Any = None
    """The gold answer, in the form `score` wants."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else `solve` and `score` need."""
    subset: str | None = None
    """Metrics are also given per subset."""
    cluster: str | None = None
    """Samples of one cluster are not independent (standard errors)."""


@dataclass(frozen=True, slots=True)
class Question:
    """What one call asks, besides the task's generation settings."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    body: Mapping[str, Any] | None = None
    """In place of messages and tools: the body of a call of `route`, as `relay` takes it."""
    route: Route = "chat/completions"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples in data-set order, and where they come from."""

    samples: Sequence[Sample]
    provenance: DataProvenance
    prompts: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each prompt template that was used, by name."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What `solve` returned for one unit: what the scorer reads."""

    text: str
    outcome: Outcome = Outcome.OK
    data: Any = None
    """JSON beside the text."""
    detail: str | None = None
    grading: Any = None
    """What `grade` found; null before that, and where the benchmark has no `grader`."""

    @classmethod
    def of(cls, reply: Reply) -> Solution:
        """The solution that is one reply's content."""
        return cls(text=reply.content, outcome=reply.outcome, detail=reply.detail)


@dataclass(frozen=True, slots=True)
class Answered:
    """One finished unit, as a benchmark that is `whole` reads it."""

    sample: Sample
    repeat: int
    solution: Solution
    reply: Reply | None
    """Of its last call."""


@dataclass(frozen=True, slots=True)
class Score:
    """Scores of one unit by name; the benchmark's `metric` is among them."""

    values: Mapping[str, float]
    answer: str | None = None
    """The extracted answer; null counts as no answer."""


class Session(Protocol):
    """A Python interpreter in the sandbox that keeps its state from cell to cell."""

    def execute(self, code: str, timeout_s: float) -> Awaitable[CellOutput]:
        """Run a cell, for at most that many seconds, as a durable step: its answer is journaled.

        Cells run one after the other, in the order of these calls. What a model's code does is an
        answer (an exception, a time-out, the end of its process); a sandbox that cannot be had raises
        InfraError. After an interruption the cells that succeeded run again before the first new one.
        """
        ...


class Driving(Protocol):
    """What a program that asks the model is given."""

    @property
    def base_url(self) -> str:
        """OpenAI-compatible, up to and including `/v1`."""
        ...

    @property
    def api_key(self) -> str:
        """Of this unit alone; the gateway refuses every other."""
        ...

    @property
    def model(self) -> str:
        """Model id to ask for."""
        ...

    @property
    def folder(self) -> Path:
        """An empty folder of this attempt for all that the program writes. It stays in the run's folder."""
        ...

    @property
    def name(self) -> str:
        """The folder's name below the run's folder, for `Solution.data`."""
        ...

    def run(self, command: Sequence[str], env: Mapping[str, str], log: str) -> Awaitable[int]:
        """Run a program in `folder` until it ends: its exit code.

        Its output goes to the file `log` in `folder`, its environment is `env` alone. Cancelled, it and
        its children get SIGINT, then SIGTERM, then SIGKILL. Raises InfraError where it cannot be started,
        and ProgramHungError where it did nothing for `client.program_idle_s` and was ended so. Secrets are
        taken out of the log when the program has ended.
        """
        ...


class ModelHandle(Protocol):
    """The model, as a `solve` sees it. Calls and steps are numbered when made, each for themselves, so
    make them in a fixed order."""

    @property
    def repeat(self) -> int:
        """Index of this independent generation."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """The task's limit of one call's answer; null where the server's own is the only one."""
        ...

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Awaitable[Reply]:
        """One durable chat call with the task's generation settings.

        `overrides` replaces keys of the request body. The reply's outcome is one of the model's own
        (`context_overflow` included); an infrastructure failure raises `InfraError` after retries,
        which ends the unit as owed.
        """
        ...

    def relay(self, route: Route, body: Mapping[str, Any]) -> Awaitable[Reply]:
        """One durable call whose body something else made, such as another harness.

        It is known by route and body (without `stream`, `stream_options` and `user`) and by how many equal
        ones came before in this unit: calls may come in any order. The first gets the body's seed or, where
        it has none, the task's; equal ones after it get the numbers that follow. Fields of the task's
        generation that are set replace the body's. A reply of route `completions` has the text as its
        content. Fails as `chat` does.
        """
        ...

    def loglikelihood(
        self, context: Sequence[int], continuation: Sequence[int]
    ) -> Awaitable[Reply]:
        """One durable call that asks how likely `continuation` is after `context` (token ids).

        The reply's `logprobs` are `{"sum": natural logarithm, "is_greedy": each of its tokens is the
        likeliest}`; what the server said of each token is not kept. An empty context means that the
        first token of the continuation is given. Needs an endpoint with `echo` and `logprobs` on
        `/completions`. Fails as `chat` does.
        """
        ...

    def drive(self) -> AbstractAsyncContextManager[Driving]:
        """A gateway to the model, and a place, for a program that asks it; needs `drives`.

        The program's requests are durable calls (`relay`). Where one of them fails, the program is ended
        and the unit is owed, whatever was made of that. The data of the solution are an object or null:
        where the program was interrupted and did not ask the same again, they get a `gateway` that says so.
        """
        ...

    def step(self, name: str, arguments: Any, run: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        """One durable step outside of the model, such as a tool call; for benchmarks of many calls.

        `run` is awaited at most once, and its result (JSON) is journaled before it is returned; after
        an interruption the journal answers. A step is known by its number and by `name` and
        `arguments` (JSON), so all that the result depends on belongs there. An EvalkitError of `run`
        ends the unit as owed, whatever `solve` makes of it; what else it raises is `solve`'s to handle,
        and is not journaled. Within `run` there are no calls and no other steps.
        """
        ...

    def run(self, program: Program) -> Awaitable[ProgramResult]:
        """Run a program in the sandbox, within the `run` of a step, which journals what is made of it;
        needs `uses_programs`. Raises InfraError where the sandbox fails."""
        ...

    def session(self) -> AbstractAsyncContextManager[Session]:
        """A Python session of this unit, at most one at a time; needs `uses_sessions`.

        It starts with its first cell, and ends with its block.
        """
        ...


@dataclass(frozen=True, slots=True)
class SandboxNeeds:
    """What programs and sessions of a benchmark find in their sandbox, besides the system."""

    interpreter: Path | None = None
    """Python that runs them; by default evalkit's own."""
    readonly: tuple[Path, ...] = ()
    """Files and folders that they may read."""
    preload: tuple[str, ...] = ()
    """Modules that must be there, and are imported ahead, once for all programs."""


class GradingTools(Protocol):
    """What a `grade` may use; each where the benchmark's `grader` says so."""

    def run(self, program: Program) -> Awaitable[ProgramResult]:
        """Run a program in the sandbox. Raises InfraError where the sandbox fails."""
        ...

    def judge(
        self, messages: Sequence[Message], *, overrides: Mapping[str, Any] | None = None
    ) -> Awaitable[Reply]:
        """One durable call of the judge, in a fixed order as in `solve`. Raises InfraError."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Where the files of the model that will answer are."""

    kind: Literal["folder", "hub", "hosted"]
    source: str
    """Absolute path, hub repository, or the id that a hosted endpoint knows."""
    revision: str | None = None
    """Of a hub repository."""
    base_url: str | None = None
    """Of a hosted endpoint."""


def served_model(deployment: DeploymentPlan) -> ServedModel:
    """Whose answers a deployment gives."""
    source = deployment.model_source
    if deployment.serving.kind == "external":
        return ServedModel("hosted", source, base_url=deployment.serving.base_url)
    kind: Literal["folder", "hub"] = "folder" if Path(source).is_absolute() else "hub"
    return ServedModel(kind, source, deployment.revision)


class BenchmarkParams(Frozen):
    """Base of a benchmark's parameters. Each field has a default or the profile gives one."""


P = TypeVar("P", bound=BenchmarkParams)


class Benchmark(ABC, Generic[P]):
    """A data set, its prompt, its solve and its scoring, under one name and version."""

    name: str
    version: str
    """Raised by any change that can move a score."""
    title: str
    description: str
    """A sentence for `evalkit ls task`."""
    licence: str
    """Licence of the data."""
    source: DataSource
    """The pinned data set."""
    metric: str
    """The score the headline is made of."""
    # The seven above are a class's; a benchmark whose parameters name a task of a harness sets its own.
    score_weights: ClassVar[Mapping[str, str]] = {}
    """Scores that are shares of a count, with the score that holds the count."""
    subsets: ClassVar[Sequence[str]] = ()
    """All subsets of the whole benchmark: those without samples in a run are named as not run."""
    metric_means: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Metrics that are the plain mean of the metrics of several scores, with those scores."""
    calibration: ClassVar[tuple[str, str] | None] = None
    """A score of right or wrong, and one of the confidence that the answer states (fraction)."""
    votes: ClassVar[bool] = True
    """Repeats of a sample can agree on an answer (`Score.answer`): with several there is a
    `majority@k`. False where the answer only says what became of it, as of a program."""
    single_call: ClassVar[bool] = True
    """One call per unit: the reply's record is the unit's, and no unit record is written."""
    tools: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Tools that every call of `solve` offers: the request that tries a server has them, too. Where samples
    differ in them, see `first_call`."""
    uses_sessions: ClassVar[bool] = False
    """`solve` opens Python sessions: a worker makes sure that there is a sandbox for them before it
    starts a server."""
    uses_programs: ClassVar[bool] = False
    """`solve` runs programs: likewise."""
    parallel_scoring: ClassVar[bool] = False
    """`score` is slow or needs a main thread: it runs in worker processes when the run is gathered,
    and in one beside the work for the running score."""
    grader: ClassVar[Literal["sandbox", "judge"] | None] = None
    """What `grade` needs; null for a benchmark that is scored without a stage of its own."""
    judge_generation: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {}
    """How a judge is asked, by profile, below the recipe's own settings of that judge."""
    grading_params: ClassVar[Sequence[str]] = ()
    """Parameters that `grade` reads: gradings of others are used again, and answers do not depend on
    them, so a run goes on when they change."""
    scoring_params: ClassVar[Sequence[str]] = ()
    """Parameters that `score` reads and neither `load` nor `solve` do: these, and those of `grade`, are
    another profile's when the same answers are scored by it."""
    local_params: ClassVar[Sequence[str]] = ()
    """Those of `grade` that only say where something is which is checked otherwise: no finding depends
    on them either."""
    whole: ClassVar[bool] = False
    """Its scores are of the task as a whole: `conclude` finds them when all answers are there, and no unit
    has a `score`."""
    counts_itself: ClassVar[bool] = False
    """Its samples are requests, and no items that people count: `load` applies the recipe's `limit` to
    the items, and independent answers come from a parameter `repeats`, not from the recipe's key."""
    drives: ClassVar[bool] = False
    """`solve` starts a program that asks the model (`ModelHandle.drive`)."""
    no_repeats: ClassVar[str | None] = None
    """What to set in place of a recipe's `repeats`, where a harness repeats by itself; null where each
    sample can be answered several times."""
    publishable: ClassVar[bool] = True
    """False for data whose authors ask not to republish it: artifacts then hold ids and hashes."""
    params_type: ClassVar[type[BenchmarkParams]] = BenchmarkParams
    knobs: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {}
    """Parameters a profile sets, below those of the recipe."""
    generation: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {}
    """Generation defaults by profile, below those of the recipe."""
    repeats: ClassVar[int] = 1
    """Default number of independent answers per sample."""
    expected_tokens: ClassVar[int] = 2000
    """Typical tokens of a reasoning model's answer: tasks with the longest answers run first."""

    def __init__(self, params: P, profile: Profile) -> None:
        self.params = params
        self.profile = profile

    @abstractmethod
    def load(self, access: DataAccess) -> Dataset:
        """Read the data set and render it. Raises DataError; runs where the plan is made."""

    def check(self, base: Path) -> None:
        """Raise RecipeError for parameters that cannot work, before any data is read; `base` is where
        relative paths start."""

    def meet(self, model: ServedModel, samples: Sequence[Sample]) -> None:
        """Told which model will answer: where the plan is made, and by a worker before the first `solve`.

        For what `solve` needs of the model's own files, such as its tokenizer. Raises PlanError, RecipeError
        where that cannot be had.
        """

    def n_calls(self, sample: Sample) -> int | None:
        """How many calls a `solve` of the sample makes, where that is known: for people who plan."""
        return 1 if self.single_call else None

    def lacks(self) -> str | None:
        """What grading will miss, where that is known beforehand: a sentence for people who plan."""
        return None

    def parts(self, sample: Sample) -> Mapping[str, int]:
        """What a `solve` of the sample consists of where the number of its calls is not known, such as
        `{"dialogues": 1}`: for people who plan."""
        return {}

    def first_call(self, samples: Sequence[Sample]) -> Question | None:
        """What tries a server before the first unit, the longest prompt where that is known; null where
        no sample says it."""
        messages = max((sample.messages for sample in samples), key=_length)
        return Question(messages, self.tools) if messages else None

    def replayed_call(self, samples: Sequence[Sample]) -> Question | None:
        """A later call of a short dialogue as `solve` sends it, with the model's `reasoning` in its
        messages: tells whether a server reads it. Null where none is sent back."""
        return None

    def judge_overrides(self) -> Mapping[str, Any]:
        """Fields of the body that all judge calls of `grade` share: the request that tries a judge has
        them, too."""
        return {}

    def known_weight(self, sample: Sample) -> float | None:
        """What the score that `score_weights` names for `metric` will be for a sample, where that is
        known before it is answered: bounds of a task with missing samples rest on it."""
        return None

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """Answer one sample. By default: one call with the frozen messages."""
        return Solution.of(await model.chat(sample.messages))

    async def grade(self, sample: Sample, solution: Solution, tools: GradingTools) -> Any:
        """What a sandbox or a judge finds about one unit (JSON, not null), for `score` to read.

        Raises ScorerError or JudgeError where that could not be found out, which is never a wrong
        answer. Its judge calls are durable, as those of `solve` are.
        """
        raise ScorerError(f"the benchmark {self.name} has a grader and no grade")

    def suffices(self, found: Any) -> bool:
        """Whether what `grade` found is enough for `score` with these parameters: the answer is graded
        again where it is not. A finding of other `scoring_params` may be too little."""
        return True

    def scores_ungraded(self, sample: Sample) -> bool:
        """Whether `score` needs no finding about this sample's answers: they count in the running score
        while the model answers. By default where there is no `grader`; never of a `whole` benchmark."""
        return self.grader is None and not self.whole

    def sandbox(self) -> SandboxNeeds:
        """What its programs need. Raises ScorerError for something that is not there."""
        return SandboxNeeds()

    def score(self, sample: Sample, solution: Solution) -> Score:
        """Score one unit, pure and on CPU. Raises ScorerError; never scores a failure as wrong.

        Every benchmark has it but those that are `whole`.
        """
        raise ScorerError(f"the benchmark {self.name} has no score for a single answer")

    def conclude(self, answers: Sequence[Answered], run: Path, out: Path) -> NativeResult:
        """The result of a `whole` benchmark, from all answers of the plan, in plan order.

        `run` is the run's folder, where driven programs left their files. What is worth keeping goes into
        `out`, an empty folder that becomes `artifacts/<task>/native`. Sends nothing, and gives the same for
        the same answers. Raises ScorerError where that cannot be had here, which is never a wrong answer.
        """
        raise ScorerError(f"the benchmark {self.name} does not conclude")

    def subset_weights(self, totals: Mapping[str, float]) -> Mapping[str, Mapping[str, float]]:
        """Metrics that are weighted sums of `metric` over subsets: the weight of each subset, by name.

        `totals` are the subsets there are, with their number of samples, or of parts where `metric`
        counts parts. The first name is the headline; with none (the default) it is `metric` itself.
        """
        return {}

    def gold(self, sample: Sample) -> Solution | None:
        """A right answer as a model would give it, or null where the data has none."""
        return None

    def why_no_gold(self, sample: Sample) -> str | None:
        """Why `gold` has none for a sample, where there is more to say than that the data has none."""
        return None

    def wrong(self, sample: Sample) -> Solution | None:
        """An answer in the right form that `score` must not accept, or null where there is none."""
        return None


def _length(messages: Sequence[Message]) -> int:
    return sum(len(str(message.get("content"))) for message in messages)
