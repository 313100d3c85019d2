"""What a recipe says of where a command's numbers are: JMESPath expressions into its files, or a function."""

from __future__ import annotations

from typing import Annotated, Self

import jmespath
from pydantic import AfterValidator, Field, model_validator

from evalkit.base import Frozen


def _expression(text: str) -> str:
    try:
        jmespath.compile(text)
    except jmespath.exceptions.JMESPathError as error:
        raise ValueError(f"{text!r} is no JMESPath expression: {error}") from error
    return text


Expression = Annotated[str, AfterValidator(_expression)]


class SampleFields(Frozen):
    """Where each line of a file of samples has what; every value is a JMESPath expression."""

    file: str
    """JSON Lines below the output folder; with a wildcard, all files that match."""
    scores: dict[str, Expression] = Field(min_length=1)
    """Scores by name: numbers, or true and false."""
    id: Expression = "id"
    repeat: Expression | None = None
    """Number of the answer to the same sample; by default in the order of the lines."""
    subset: Expression | None = None
    messages: Expression | None = None
    """What was asked: a text, or messages."""
    content: Expression | None = None
    """What was answered."""
    answer: Expression | None = None
    """What was extracted from it."""
    target: Expression | None = None


class Results(Frozen):
    """Where a command's numbers are."""

    file: str | None = None
    """JSON or YAML below the output folder; a wildcard must match one file."""
    metrics: dict[str, Expression] = Field(default_factory=dict)
    """Numbers by name: JMESPath expressions into `file`. By default the means of the samples' scores."""
    stderr: dict[str, Expression] = Field(default_factory=dict)
    """Standard errors in `file`, by the name of their metric."""
    weight: Expression | None = None
    """The number of samples behind the metrics, in `file`: shards are averaged by it."""
    headline: str | None = None
    """The metric that stands for the task; by default the first."""
    samples: SampleFields | None = None
    """Where its samples are, if it writes them."""
    parser: str | None = None
    """`package.module:function` in evalkit's Python, in place of all else: it takes the output folder and returns
    the fields of a NativeResult as a mapping."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        others = self.model_dump(exclude_defaults=True, exclude={"parser"})
        if self.parser is not None:
            if others:
                raise ValueError(f"{next(iter(others))} has no effect beside parser")
            if self.parser.count(":") != 1:
                raise ValueError("parser is written package.module:function")
            return self
        if not self.metrics and self.samples is None:
            raise ValueError("give metrics, samples or parser")
        if (self.file is None) != (not self.metrics):
            raise ValueError("file and metrics need each other")
        if unknown := self.stderr.keys() - self.metrics.keys():
            raise ValueError(f"stderr.{min(unknown)}: there is no such metric")
        if self.headline is not None and self.headline not in self._names():
            raise ValueError(f"headline: {self.headline!r} is none of {', '.join(self._names())}")
        return self

    def _names(self) -> list[str]:
        return list(self.metrics or (self.samples.scores if self.samples else ()))

    def cannot_be_combined(self) -> list[str]:
        """Metrics of which nothing says how those of several shards become one."""
        scored = set(self.samples.scores) if self.samples else set()
        return [] if self.weight else [name for name in self.metrics if name not in scored]

    def first(self) -> str:
        """The headline's name."""
        return self.headline or self._names()[0]
