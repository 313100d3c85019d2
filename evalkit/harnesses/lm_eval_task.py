"""A task of lm-eval as a benchmark.

All its requests are known before the first answer. So they are built where the plan is made, by lm-eval
itself, and frozen; workers answer them in any order; and when all answers are there lm-eval runs again with
a model that only looks them up (docs/adr/0028-harnesses.md). A run is never split by documents, for which
examples a question gets depends on all questions before it.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import orjson

from evalkit.benchmarks.contract import Benchmark, Dataset, Question, Sample, Solution
from evalkit.benchmarks.data import DataSource
from evalkit.errors import DataError, RecipeError, ScorerError
from evalkit.harnesses.environments import normalised, read_pins
from evalkit.harnesses.lm_eval_calls import build_requests, score_answers
from evalkit.harnesses.lm_eval_params import LmEvalParams
from evalkit.harnesses.lm_eval_requests import (
    ALONE,
    GENERATE,
    LIKELIHOOD,
    ROLLING,
    answer_key,
    refuse_many_stops,
    route_of,
    to_samples,
)
from evalkit.harnesses.lm_eval_results import choose, expected_numbers, to_result
from evalkit.harnesses.lm_eval_tokens import Tokens, find_tokenizer
from evalkit.plan.model import DataProvenance
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.contract import Answered, ModelHandle, Route, ServedModel
    from evalkit.benchmarks.data import DataAccess
    from evalkit.benchmarks.harness import EnvironmentSpec
    from evalkit.benchmarks.native import NativeResult
    from evalkit.recipe.schema import Profile
    from evalkit.store.records import Reply

ADAPTER = "1"
"""Version of how requests are made of lm-eval's and its results of answers."""
OPTIONS = (
    "num_fewshot",
    "include_path",
    "apply_chat_template",
    "fewshot_as_multiturn",
    "system_instruction",
    "repeats",
    "seeds",
    "trust_remote_code",
    "bootstrap_iters",
    "add_instruction",
    "instruction_override",
    "downsampling_ratio",
)
"""Parameters that the driver takes by the same name."""

P = TypeVar("P", bound=LmEvalParams)


class AnyLmEvalTask(Benchmark[P], Generic[P]):
    """A task or group of an edition of lm-eval."""

    title = "lm-eval"
    licence = "of the data set: see the task's files"
    source = DataSource(reader="lm-eval")
    whole = True
    counts_itself = True
    single_call = False  # a long text is asked about in windows, each a call
    expected_tokens = 256
    local_params: ClassVar[Sequence[str]] = ("include_path", "bootstrap_iters")
    environment: ClassVar[EnvironmentSpec]

    def __init__(self, params: P, profile: Profile) -> None:
        super().__init__(params, profile)
        spec = self.environment
        self.name = f"{spec.name}/{params.task}"
        self.version = f"{ADAPTER}+{read_pins(spec.requirements)[normalised(spec.package)]}"
        self.description = f"{params.task} of {spec.name}"
        self.metric = params.metric or "its own"
        self._tokens: Tokens | None = None

    @property
    def asked_task(self) -> str:
        """The task by lm-eval's own name."""
        return self.params.task

    def load(self, access: DataAccess) -> Dataset:
        """Have lm-eval build all its requests. Raises PlanError, DataError, RecipeError."""
        self.params = _with_paths(self.resolved(), access.base)
        with tempfile.TemporaryDirectory(prefix="evalkit-lm-eval-") as folder:
            path = Path(folder) / "requests.jsonl"
            told = build_requests(self.environment, self._options(access.limit), path)
            requests = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        names = expected_numbers(told, self.asked_task, self.params.metric)
        if names is not None:
            try:
                self.metric = choose(names, self.params.metric, self.asked_task)
            except ScorerError as error:
                raise RecipeError(error.message, hint=error.hint) from error
        return Dataset(
            samples=list(
                to_samples(requests, self.params, access.limit, told["run_by_themselves"])
            ),
            provenance=_provenance(told, self.licence),
            prompts={name: task["config_sha256"] for name, task in told["tasks"].items()},
        )

    def resolved(self) -> P:
        """The parameters with what stands elsewhere, such as in a framework's table."""
        return self.params

    def meet(self, model: ServedModel, samples: Sequence[Sample]) -> None:
        """Read the model's tokenizer, where likelihoods are asked. Raises RecipeError, PlanError."""
        refuse_many_stops(model, samples)
        if any(sample.data["method"] != GENERATE for sample in samples):
            self._tokens = Tokens.of(find_tokenizer(model, self.params.tokenizer))

    def n_calls(self, sample: Sample) -> int | None:
        """One, but for a text that may need several windows."""
        return None if sample.data["method"] == ROLLING else 1

    def parts(self, sample: Sample) -> Mapping[str, int]:
        """Texts, whose windows depend on the tokenizer."""
        return {"texts": 1} if sample.data["method"] == ROLLING else {}

    def first_call(self, samples: Sequence[Sample]) -> Question | None:
        """The longest request to generate; of others, whose form the server's own trial has, none."""
        bodies = [sample.data["body"] for sample in samples if "body" in sample.data]
        if not bodies:
            return None
        longest = max(bodies, key=lambda body: len(str(body.get("prompt", body.get("messages")))))
        return Question((), body=longest, route=self._route)

    @property
    def _route(self) -> Route:
        return route_of(self.params)

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """Answer one request."""
        data = sample.data
        if data["method"] == GENERATE:
            return Solution.of(await model.relay(self._route, data["body"]))
        tokens, length = self._known_tokens(), self.params.max_length
        if data["method"] == LIKELIHOOD:
            pairs = [tokens.pair(data["context"], data["continuation"], length)]
        else:
            pairs = tokens.windows(data["text"], length)
        replies = [
            await model.loglikelihood(pair.context, pair.continuation)
            for pair in pairs
            if pair.continuation
        ]
        return _likelihood(replies)

    def _known_tokens(self) -> Tokens:
        if self._tokens is None:
            raise ScorerError(f"{self.name}: no model was met")
        return self._tokens

    def conclude(self, answers: Sequence[Answered], run: Path, out: Path) -> NativeResult:
        """Have lm-eval score the answers. Its own files go into `out`."""
        given = {answer_key(each.sample): _answer(each) for each in answers}
        options = self._options(answers[0].sample.data.get("limit"))
        alone = sorted({str(each.sample.subset) for each in answers if ALONE in each.sample.data})
        told = score_answers(self.environment, options, given, run, out, alone)
        return to_result(told, self.asked_task, self.params.metric, out, answers)

    def _options(self, limit: int | None) -> dict[str, Any]:
        """As the driver takes them; the same for requests and results."""
        params = self.params
        options = {name: getattr(params, name, None) for name in OPTIONS}
        if limit is not None and options["downsampling_ratio"] is not None:
            raise RecipeError(
                "limit: has no meaning beside params.downsampling_ratio", hint="Keep one of them."
            )
        options |= {"task": self.asked_task, "limit": limit, "gen_kwargs": dict(params.gen_kwargs)}
        options["confirm_run_unsafe_code"] = params.allow_code_execution
        return {name: value for name, value in options.items() if value not in (None, {}, False)}


def _likelihood(replies: Sequence[Reply]) -> Solution:
    """The sum over windows, as lm-eval adds them. A text of no tokens is certain."""
    for reply in replies:
        if reply.logprobs is None:
            return Solution(text="", outcome=reply.outcome, detail=reply.detail)
    found = [reply.logprobs for reply in replies if reply.logprobs is not None]
    data = {
        "sum": sum(each["sum"] for each in found),
        "is_greedy": all(each["is_greedy"] for each in found),
    }
    return Solution(text="", outcome=Outcome.OK, data=data)


def _answer(answered: Answered) -> Any:
    """As lm-eval's models return it. Raises ScorerError where the model told no likelihood."""
    sample, solution = answered.sample, answered.solution
    if sample.data["method"] == GENERATE:
        return solution.text
    if solution.data is None:
        raise ScorerError(
            f"the model told no likelihood for {sample.id}: {solution.detail or solution.outcome}",
            hint="Where the text is longer than the model's context, set params.max_length to that; "
            "this begins a new run.",
        )
    if sample.data["method"] == LIKELIHOOD:
        return [solution.data["sum"], solution.data["is_greedy"]]
    return solution.data["sum"]


def _with_paths(params: P, base: Path) -> P:
    """Paths as they are found from anywhere. Raises DataError for a folder that is not there."""
    found = {}
    for name in ("include_path", "tokenizer"):
        value = getattr(params, name)
        if value is not None:
            path = (base / Path(value).expanduser()).resolve()
            if not path.exists():
                raise DataError(
                    f"params.{name}: there is no {path}",
                    hint="A relative path starts at the recipe's folder.",
                )
            found[name] = str(path)
    return params.model_copy(update=found)


def _provenance(told: Mapping[str, Any], licence: str) -> DataProvenance:
    tasks = told["tasks"].values()
    sources = dict.fromkeys("/".join(task["dataset"]) or "in Python" for task in tasks)
    revisions = {task["revision"] for task in tasks}
    digest = hashlib.sha256("".join(f"{task['docs_sha256']}\n" for task in tasks).encode())
    return DataProvenance(
        source=" ".join(sources),
        revision=revisions.pop() if len(revisions) == 1 else None,
        sha256=digest.hexdigest(),
        n_rows=sum(task["n_docs"] for task in tasks),
        licence=licence,
    )
