"""What a benchmark is. Everything evalkit asks of one fits on this page; what it is given and gives back
is in `evalkit.benchmarks.handles` and `evalkit.benchmarks.values`, and importable from here.

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
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from evalkit.benchmarks.handles import Driving, GradingTools, ModelHandle, Session
from evalkit.benchmarks.values import (
    Answered,
    BenchmarkParams,
    Dataset,
    Message,
    Question,
    Route,
    Sample,
    SandboxNeeds,
    Score,
    ServedModel,
    Solution,
    served_model,
)
from evalkit.errors import ScorerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evalkit.benchmarks.data import DataAccess, DataSource
    from evalkit.benchmarks.native import NativeResult
    from evalkit.recipe.schema import Profile

__all__ = [
    "Answered",
    "Benchmark",
    "BenchmarkParams",
    "Dataset",
    "Driving",
    "GradingTools",
    "Message",
    "ModelHandle",
    "P",
    "Question",
    "Route",
    "Sample",
    "SandboxNeeds",
    "Score",
    "ServedModel",
    "Session",
    "Solution",
    "served_model",
]

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
