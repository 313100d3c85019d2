"""What goes into a benchmark and comes out of it, as values.

Import these names from `evalkit.benchmarks.contract`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from evalkit.base import Frozen
from evalkit.store.records import Outcome, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.plan.model import DataProvenance, DeploymentPlan

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


@dataclass(frozen=True, slots=True)
class SandboxNeeds:
    """What programs and sessions of a benchmark find in their sandbox, besides the system."""

    interpreter: Path | None = None
    """Python that runs them; by default evalkit's own."""
    readonly: tuple[Path, ...] = ()
    """Files and folders that they may read."""
    preload: tuple[str, ...] = ()
    """Modules that must be there, and are imported ahead, once for all programs."""


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
