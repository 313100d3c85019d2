"""The shape of `results.json` and `summary.json`: what a person or a tool reads after a gather.

Values only: nothing here computes, reads or writes. The JSON Schema in `schemas/` is generated from
these classes. A number that does not exist is null, never 0; all values are fractions, and where a
percent is given too the field's name says so. Nothing in a result depends on when it was gathered.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from evalkit.base import Frozen
from evalkit.benchmarks.native import NativeMetric
from evalkit.plan.model import DataProvenance, ModelIdentity
from evalkit.recipe.schema import Profile
from evalkit.report.aggregate import ScoreStatistics
from evalkit.report.statistics import Interval

SCHEMA_VERSION: Literal[1] = 1

Reason = Literal["no_record", "infra_error", "judge_error", "scorer_error", "ungraded"]
"""Why a unit has no score: no journal has it finished, something of ours failed on it, or its answer
waits for a sandbox or a judge."""


class Headline(Frozen):
    """The one number of a task; without value while units are missing."""

    name: str
    """As the field quotes it: `pass@1[avg-of-8] symbolic_correct`."""
    mode: str
    metric: str
    value: float | None
    """Fraction."""
    percent: float | None
    """`value` in percent; null also for a number that is no share, such as a perplexity."""
    standard_error: float | None
    """Fraction; null for a single independent item, or while units are missing."""
    standard_error_method: str | None
    """Name of the statistic in `statistics`, or that it is a harness's own."""
    interval: Interval | None
    """[low, high], fractions, at `level`."""
    interval_method: str | None
    level: float
    """Confidence level of `interval`."""
    bounds: Interval | None
    """[every missing unit wrong, every missing unit right]; null when complete, or when the metric
    has no known range."""
    n_samples: int
    repeats: int
    is_share: bool = True
    """`value` is a fraction of something, and can be shown in percent."""

    @property
    def scale(self) -> float:
        """By what people are shown `value` and its errors multiplied."""
        return 100.0 if self.is_share else 1.0

    @property
    def shown(self) -> float | None:
        """`value` as people are shown it: in percent, or as it is."""
        return None if self.value is None else self.scale * self.value

    def text(self, number: float) -> str:
        """A number on the scale of `shown`: percent with two digits, others with four that count."""
        return f"{number:.2f}" if self.is_share else f"{number:.4g}"

    @property
    def words(self) -> str:
        """What is shown of it: `51.25`, which is percent, or `8.873e+26`; `withheld` without value."""
        return "withheld" if self.shown is None else self.text(self.shown)


class Breakdown(Frozen):
    """All metrics over a set of samples."""

    n_samples: int
    metrics: dict[str, dict[str, float]]
    """Mode (`pass@1[avg-of-8]`, `majority@8`, ...) -> score name or `no_answer` -> fraction."""
    statistics: dict[str, ScoreStatistics]
    """Score name -> statistics over all repeats."""
    totals: dict[str, float]
    """Number of parts (steps, instructions) of scores that count parts."""


class Counts(Frozen):
    """Where all planned units went: `expected` = `scored` + `missing`."""

    expected: int
    scored: int
    missing: int
    by_outcome: dict[str, int]
    """Scored units by outcome (`ok`, `truncated`, `empty`, ...); units missing for a failure of ours
    by that failure. Units without any record are not here."""
    no_answer: int
    """Scored units from which no answer could be extracted."""
    duplicates: int
    """Finished units journaled more than once; one of each was scored."""
    calls: int
    """Finished model calls of the scored units."""
    retries: int
    """Requests that were sent again for these calls."""
    continued: int = 0
    """Scored units of which a generation was interrupted and went on where it had stopped."""


class MissingUnit(Frozen):
    """One planned unit without a score."""

    sample: str
    """The sample's own id."""
    repeat: int
    shard: int
    reason: Reason
    message: str | None
    """What failed, in the words of the last failure."""


class MissingReason(Frozen):
    """How many units are missing for one reason."""

    count: int
    message: str | None
    """Of the last such unit in sample order."""


class Missing(Frozen):
    """Exactly what is missing, counted; the first units by name."""

    count: int
    by_reason: dict[Reason, MissingReason]
    by_shard: dict[str, int]
    """Shards with missing units (names of journal folders)."""
    first: tuple[MissingUnit, ...]
    """The first of them, by sample, then repeat."""


class Distribution(Frozen):
    """Exact statistics of one number over all calls of the scored units."""

    count: int
    """Calls for which the number is known."""
    unknown: int
    """Calls for which the server did not say it; in no other field."""
    total: int | float | None
    mean: float | None
    p50: int | float | None
    """Nearest rank: the least value that is not below half of all values."""
    p95: int | float | None
    max: int | float | None


class Tokens(Frozen):
    """Tokens per call, as the server counted them."""

    prompt: Distribution
    completion: Distribution
    """Reasoning included."""
    reasoning: Distribution
    cached: Distribution | None = None
    """Tokens of the prompt that the server had in its cache."""
    saved: int = 0
    """Tokens that interrupted generations had when they went on: none of them was generated again."""


class ReasoningStatistics(Frozen):
    """Reasoning of the calls of the scored units, as far as servers showed it."""

    calls: int
    """Calls whose answer has reasoning."""
    finished: int
    """Those in which something came after it: an answer, or a tool call."""
    finished_share: float | None
    """`finished` / `calls`; null without any."""
    words: Distribution
    """Words of it, split at white space; calls without reasoning are `unknown`."""


class Cost(Frozen):
    """What calls cost, by the recipe's prices. A task's own are those of the scored units: calls of failed
    tries, and of units that were done twice, are not in it."""

    value: float | None
    """In the currency of the prices; null where the endpoint counted no call's tokens."""
    price: dict[str, float | None]
    """Per million tokens: `input`, `output`, `cached` (null: as `input`)."""
    uncounted: int
    """Calls without the endpoint's count of tokens: what they cost is not in `value`."""


class Difference(Frozen):
    """A setting that is not what the profile of the benchmark says."""

    key: str
    """`params.<name>`, `generation.<name>`, `request.<name>`, `reasoning.<name>`, `repeats` or `limit`."""
    profile: Any
    """Value of the profile, or the benchmark's default."""
    value: Any
    """Value of this run."""


class ServerFacts(Frozen):
    """What one attempt recorded about a server it started."""

    replica: str
    attempt: int
    facts: dict[str, Any]


class Settings(Frozen):
    """Everything the numbers were made with."""

    profile: Profile
    differs_from_profile: tuple[Difference, ...]
    params: dict[str, Any]
    generation: dict[str, Any]
    """As sent; null was not sent, so the server's default applied."""
    request: dict[str, Any] = Field(default_factory=dict)
    """How requests were changed for the endpoint."""
    reasoning: dict[str, Any] = Field(default_factory=dict)
    """How reasoning was taken out of the content."""
    serving: dict[str, Any]
    """The deployment."""
    served_model_name: str
    prompts: dict[str, str]
    """Prompt template -> sha256."""
    stand_ins: dict[str, str] = Field(default_factory=dict)
    """Prompt template -> the prompt that it stands in for, because that was never published."""
    identity: dict[str, Any]
    """Everything that may move a score of this task, by key: what `fingerprint` hashes."""
    fingerprint: str
    grader: str | None = None
    """What found what the scores are made of (`gradings/<task>/<its first 12 digits>/grader.json`);
    null for benchmarks that need none."""
    judge: dict[str, Any] | None = None
    """Who judged: model, serving and sampling."""
    plan_fingerprint: str
    requests_sha256: str


class JudgeTokens(Frozen):
    """What a judge read and wrote, over all its journaled calls, as its server counted."""

    prompt: int
    completion: int
    """Reasoning included."""
    reasoning: int
    unknown: int
    """Calls for which its server did not say it; in no other field."""


class JudgeFacts(Frozen):
    """Who judged a task's answers, and what that has cost so far."""

    name: str
    """In the recipe."""
    model: str
    """Model id that was asked for."""
    kind: Literal["hosted", "served"]
    """By somebody else, or by evalkit."""
    url: str | None
    """Of a hosted judge, without user, password and query."""
    servers: tuple[ServerFacts, ...]
    """What each grader recorded about the judge: version, command line and GPUs of one that was served."""
    gpu_seconds: float | None
    """GPUs times seconds of those servers; null without GPUs, and where a grader was killed."""
    calls: int
    """Journaled calls, also those whose verdict could not be read, and those done twice."""
    tokens: JudgeTokens
    cost: Cost | None = None
    """Of these calls, by `serving.price` of the judge; null without it."""


class Provenance(Frozen):
    """Where model, data and code came from."""

    model: ModelIdentity
    data: DataProvenance
    servers: tuple[ServerFacts, ...]
    """All servers of the run: tasks share them."""
    run_gpu_seconds: float | None
    """GPU time of the whole run, all tasks; null without GPUs or where an attempt did not say. What a
    judge needed is not in it."""
    made_by: dict[str, Any] | None
    """provenance.json: versions, commit and command that made the plan."""
    judge: JudgeFacts | None = None
    """Null where no judge is asked."""


class NativeDifference(Frozen):
    """A number of a harness that is not the mean of its samples' scores."""

    subset: str
    metric: str
    native: float
    recomputed: float


class NativeFacts(Frozen):
    """What a harness found, in its own words."""

    harness: str
    """Name of the benchmark: `lm-eval/hellaswag`."""
    versions: dict[str, str]
    metrics: tuple[NativeMetric, ...]
    """All of its numbers."""
    differences: tuple[NativeDifference, ...]
    files: tuple[str, ...]
    """Its own files, below `artifacts/<task>/native`."""
    problems: tuple[str, ...]
    title: str = ""
    """Of the benchmark."""
    publishable: bool = True
    """Its data may be republished."""


class Results(Frozen):
    """One task's `results.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run: str
    run_id: str
    recipe: str
    task: str
    benchmark: str
    benchmark_version: str
    complete: bool
    """Every planned unit is scored. Only then is there a headline value."""
    headline: Headline
    metrics: dict[str, dict[str, float]] | None
    """As in `Breakdown`, over all samples; null while units are missing."""
    statistics: dict[str, ScoreStatistics] | None
    totals: dict[str, float] | None
    subsets: dict[str, Breakdown] | None
    not_run: tuple[str, ...] = ()
    """Subsets of the benchmark of which this task has no samples; the headline does not count them."""
    counts: Counts
    missing: Missing
    tokens: Tokens
    reasoning: ReasoningStatistics | None = None
    cost: Cost | None = None
    """Null without `serving.price`."""
    native: NativeFacts | None = None
    """Of a task that a harness scores as a whole; null while units are missing. `counts` then counts what
    was sent (requests, or runs of the harness), and `headline.n_samples` what the harness counts."""
    latency_s: Distribution
    """Seconds from sending a call to its answer, retries included."""
    settings: Settings
    provenance: Provenance
    samples_sha256: str
    """Checksum of the lines of samples.jsonl.zst, uncompressed."""
    problems: tuple[str, ...]
    """What the journals' reader had to skip, by file (from the run's folder) and line. None of it
    was counted. A last line that a kill cut off is no problem."""


class TaskSummary(Frozen):
    """One task in `summary.json`; what is null has not been gathered."""

    task: str
    benchmark: str
    profile: Profile
    expected: int
    complete: bool | None = None
    headline: Headline | None = None
    counts: Counts | None = None
    cost: Cost | None = None
    """Of the model's calls; what its judge cost is in `judge`."""
    judge: JudgeFacts | None = None
    """Who judged it, and what that has cost."""


class Summary(Frozen):
    """A run's `summary.json`, from the results of its tasks."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run: str
    run_id: str
    recipe: str
    model: str
    complete: bool
    """Every task has complete results."""
    run_gpu_seconds: float | None
    unavailable: dict[str, str] = Field(default_factory=dict)
    """Tasks that the recipe names and that could not be run, with the reason; `complete` is of the
    others."""
    tasks: tuple[TaskSummary, ...] = Field(min_length=1)
