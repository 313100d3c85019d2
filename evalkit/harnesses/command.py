"""Any command that asks an OpenAI-compatible endpoint: `benchmark: command`, with the command in `params`.

A unit is one run of the command, or one of its `shards` where it can do a part of its samples. What it asks
goes through the gateway, so a run that was killed is run again and answered from the journal. evalkit knows of
the command's numbers what `params.results` says; a number that is not there is never 0.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, StringConstraints, model_validator

from evalkit.benchmarks.contract import BenchmarkParams, Dataset, Sample, Solution
from evalkit.benchmarks.harness import Harness, HarnessTask
from evalkit.errors import RecipeError, ScorerError
from evalkit.harnesses.command_reading import combine, read_results, result_files
from evalkit.harnesses.command_results import Results  # noqa: TC001 - pydantic needs it
from evalkit.harnesses.driven import (
    LOG,
    DrivenBenchmark,
    folders_of,
    keep,
    passed_variables,
    program_environment,
    run_program,
    shard_folder,
    solution_data,
    unit_error,
)
from evalkit.plan.model import DataProvenance

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from evalkit.benchmarks.contract import Answered, Driving, ModelHandle
    from evalkit.benchmarks.data import DataAccess
    from evalkit.benchmarks.native import NativeResult
    from evalkit.recipe.schema import Profile

PLACES = frozenset(
    {"base_url", "api_key", "model", "output", "python", "recipe", "shard", "shards"}
)
LIMIT = "limit"
_PLACE = re.compile(r"(?<![{$])\{([a-z_]+)\}(?!\})")
"""`{name}`, but neither `${name}` of a shell nor `{{name}}`, which stands for `{name}` itself."""
_ESCAPED = re.compile(r"\{(\{[a-z_]+\})\}")

Argument = Annotated[str, StringConstraints(min_length=1)]


class CommandParams(BenchmarkParams):
    """What is run, and where its numbers are."""

    command: tuple[Argument, ...] | Argument
    """Program and arguments. `{base_url}`, `{api_key}`, `{model}`, `{output}` (the empty folder that it runs in),
    `{python}` (evalkit's own), `{recipe}` (the recipe's folder), `{shard}` (from 0) and `{shards}` are filled in.
    One text for `bash -c` with `shell: true`."""
    shell: bool = False
    """The command is a text for `bash -c`."""
    with_limit: tuple[Argument, ...] = ()
    """Arguments that are added where the recipe has a `limit`, with `{limit}` in them."""
    env: dict[str, str] = Field(default_factory=dict)
    """Variables that it gets besides, with the same places; `OPENAI_BASE_URL` and `OPENAI_API_KEY` are set."""
    pass_env: tuple[str, ...] = ()
    """Names of variables that are passed through, such as the key of a judge. Of the rest it sees paths,
    languages, proxies and the hub's settings alone."""
    shards: int = Field(1, ge=1, le=1000)
    """Parts that replicas can share. The command does its `{shard}` of `{shards}`."""
    results: Results
    """Where its numbers are."""
    version: str = "1"
    """Of the program. Raise it when its numbers can change: a run goes on with the same one alone."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.shell != isinstance(self.command, str):
            raise ValueError(
                "shell: true takes a command that is one text, and shell: false a list of texts"
            )
        used = _places((*_words(self.command), *self.env.values()))
        limited = _places(self.with_limit)
        if unknown := (used - PLACES) | (limited - PLACES - {LIMIT}):
            raise ValueError(
                f"{{{min(unknown)}}} is none of {', '.join(f'{{{each}}}' for each in sorted(PLACES))}, and "
                f"{{limit}} in with_limit; {{{{{min(unknown)}}}}} is the text itself"
            )
        if self.with_limit and LIMIT not in limited:
            raise ValueError("with_limit has no {limit}")
        if self.shards > 1 and "shard" not in used:
            raise ValueError(f"shards is {self.shards}, and there is no {{shard}} in the command")
        if self.shards > 1 and (lacking := self.results.cannot_be_combined()):
            raise ValueError(
                f"shards is {self.shards}, and results does not say how the parts of {lacking[0]!r} become "
                "one number: give results.weight, or the same score of results.samples"
            )
        return self


class Command(DrivenBenchmark[CommandParams]):
    """One command as a benchmark."""

    name = "command"
    version = "1"
    title = "A command"
    description = (
        "Any program that asks an OpenAI-compatible endpoint and writes its numbers to files."
    )
    licence = "that of the program's data"
    no_repeats: ClassVar[str | None] = (
        "Have the command repeat its questions (equal ones get different seeds), or name the task twice."
    )
    params_type = CommandParams

    def __init__(self, params: CommandParams, profile: Profile) -> None:
        super().__init__(params, profile)
        self.metric = "score" if params.results.parser else params.results.first()

    def load(self, access: DataAccess) -> Dataset:
        """One sample for each shard. Raises RecipeError for a limit that would have no effect."""
        params = self.params
        if access.limit is not None and not params.with_limit:
            raise RecipeError(
                "limit: evalkit cannot shorten what a command does by itself",
                hint="Set params.with_limit to the arguments that do, such as ['--limit', '{limit}'].",
            )
        texts = (*_words(params.command), *params.with_limit, *params.env.values())
        # fewer items than parts would leave parts without any
        shards = min(params.shards, access.limit or params.shards)
        common = {
            "shards": shards,
            LIMIT: access.limit,
            # A path of this machine is a part of what is run where the command has it, and nowhere else.
            "recipe": str(access.base.resolve()) if "recipe" in _places(texts) else None,
        }
        samples = [
            Sample(id=f"{index:04}", data={"shard": index, **common}) for index in range(shards)
        ]
        digest = hashlib.sha256(params.model_dump_json().encode()).hexdigest()
        provenance = DataProvenance(
            source="command",
            sha256=digest,
            n_rows=shards,
            licence=self.licence,
            unchecked="what the command reads is known to it alone",
        )
        return Dataset(samples, provenance)

    def parts(self, sample: Sample) -> Mapping[str, int]:
        """One command."""
        return {"commands": 1}

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """Run it. Raises InfraError where it fails, or leaves no results that can be read."""
        async with model.drive() as driving:
            values = self._values(sample, driving)
            command = self._command(values)
            await run_program(driving, command, self._environment(driving, values))
            try:
                read_results(self.params.results, driving.folder)
            except ScorerError as error:
                raise unit_error(error.message, driving.folder) from error
            return Solution("", data=solution_data(driving))

    def conclude(self, answers: Sequence[Answered], run: Path, out: Path) -> NativeResult:
        """The numbers of all shards together. Raises ScorerError where files are gone or not readable."""
        folders = folders_of(answers, run)
        for index, folder in enumerate(folders):
            kept = [*result_files(self.params.results, folder), folder / LOG]
            for file in filter(Path.is_file, kept):
                name = shard_folder(index, len(folders)) + str(file.relative_to(folder))
                keep(file, out, name, self.params.pass_env)
        found = combine([read_results(self.params.results, folder) for folder in folders])
        return replace(found, versions={**found.versions, "program": self.params.version})

    def _values(self, sample: Sample, driving: Driving) -> dict[str, str]:
        values = {
            "base_url": driving.base_url,
            "api_key": driving.api_key,
            "model": driving.model,
            "output": driving.folder,
            "python": sys.executable,
            **sample.data,
        }
        return {name: str(value) for name, value in values.items() if value is not None}

    def _command(self, values: Mapping[str, str]) -> list[str]:
        params = self.params
        more = [_fill(each, values) for each in params.with_limit] if LIMIT in values else []
        if isinstance(params.command, str):
            quoted = {name: shlex.quote(value) for name, value in values.items()}
            text = " ".join((_fill(params.command, quoted), *map(shlex.quote, more)))
            return ["bash", "-c", text]
        return [*(_fill(each, values) for each in params.command), *more]

    def _environment(self, driving: Driving, values: Mapping[str, str]) -> dict[str, str]:
        passed = passed_variables(self.params.pass_env)
        own = {name: _fill(text, values) for name, text in self.params.env.items()}
        env = program_environment(driving, {})
        # A program of one's own may import the files beside it.
        env.pop("PYTHONSAFEPATH", None)
        return {**env, **passed, **own}


class CommandHarness(Harness):
    """Any command."""

    name = "command"
    title = "A command"
    description = "Any program that asks an OpenAI-compatible endpoint; params say what is run."
    licence = "that of the program"
    benchmark_type = Command
    needs_task = False

    def tasks(self) -> Sequence[HarnessTask]:
        """It is one task, whose parameters say what is run."""
        return [HarnessTask(self.name, "chat", self.description)]


def _words(command: Iterable[str] | str) -> tuple[str, ...]:
    return (command,) if isinstance(command, str) else tuple(command)


def _places(texts: Iterable[str]) -> set[str]:
    return {name for text in texts for name in _PLACE.findall(text)}


def _fill(text: str, values: Mapping[str, Any]) -> str:
    filled = _PLACE.sub(lambda match: str(values[match[1]]), text)
    return _ESCAPED.sub(r"\1", filled)
