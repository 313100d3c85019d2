"""What a benchmark may use while it solves and grades: the model, sessions, programs, a judge.

Import these names from `evalkit.benchmarks.contract`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from evalkit.benchmarks.values import Message, Route
    from evalkit.scoring.sandbox import CellOutput, Program, ProgramResult
    from evalkit.store.records import Reply


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
