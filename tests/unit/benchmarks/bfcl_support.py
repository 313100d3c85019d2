"""What the tests of BFCL share: its samples, a model that answers as told, simulators in this process.

Gold calls are trusted, so the tests of all of them spare the sandbox, which tests/integration uses.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.bfcl_v4 import BfclV4
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.frozen import FrozenSamples, freeze
from evalkit.benchmarks.registry import make_benchmark
from evalkit.recipe.schema import DataOverride
from evalkit.scoring import bfcl_driver
from evalkit.scoring.sandbox import Ending, Program, ProgramResult
from evalkit.store.records import Outcome, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    import pytest

    from evalkit.benchmarks.contract import Dataset, Message, Sample
    from evalkit.recipe.schema import Profile

RUNNABLE = (
    "single_turn",
    "multi_turn",
    "memory_kv",
    "memory_rec_sum",
)
"""What needs neither the web nor weights: 4751 of the 5106 entries."""


def make(profile: Profile = "card", **params: Any) -> BfclV4:
    """The benchmark as a recipe makes it."""
    benchmark = make_benchmark("bfcl_v4", params, profile)
    assert isinstance(benchmark, BfclV4)
    return benchmark


def load(benchmark: BfclV4) -> Dataset:
    """Its data set."""
    return benchmark.load(DataAccess("bfcl_v4", DataOverride(), Path()))


@lru_cache(maxsize=4)
def frozen(profile: Profile, *categories: str) -> tuple[Sample, ...]:
    """Samples as a worker finds them in the run folder, in the order of the plan."""
    samples = FrozenSamples(freeze(load(make(profile, categories=list(categories))).samples))
    return tuple(samples[:])


@lru_cache(maxsize=4)
def by_id(profile: Profile, *categories: str) -> Mapping[str, Sample]:
    """The same by id."""
    return {sample.id: sample for sample in frozen(profile, *categories)}


def reply(step: Any, **fields: Any) -> Reply:
    """The reply that makes a step: calls, or a text."""
    if isinstance(step, str):
        return Reply(Outcome.OK, step, **fields)
    calls = tuple(
        {
            "id": f"call-{number}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for number, call in enumerate(step)
        for name, arguments in call.items()
    )
    return Reply(Outcome.OK, "", tool_calls=calls, **fields)


@dataclass
class ScriptedModel:
    """A model handle that gives replies in order, and keeps what it was asked."""

    replies: list[Reply]
    programs: Callable[[Program], Awaitable[ProgramResult]] | None = None
    repeat: int = 0
    asked: list[tuple[list[Message], list[dict[str, Any]]]] = field(default_factory=list)
    steps: list[tuple[str, Any, Any]] = field(default_factory=list)

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Reply:
        assert overrides is None
        self.asked.append((list(messages), [dict(tool) for tool in tools or ()]))
        return self.replies.pop(0)

    async def step(self, name: str, arguments: Any, run: Callable[[], Awaitable[Any]]) -> Any:
        """What the journal would say, which keeps no order of keys."""
        result = json.loads(json.dumps(await run(), sort_keys=True))
        self.steps.append((name, arguments, result))
        return result

    async def run(self, program: Program) -> ProgramResult:
        assert self.programs is not None
        return await self.programs(program)

    def session(self) -> Any:
        raise AssertionError("BFCL opens no session")


@contextlib.contextmanager
def simulators_here(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Inside, the driver can be used in this process; nothing of it is left afterwards."""
    before, path = set(sys.modules), list(sys.path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.chdir(folder)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "bfcl_eval":
                del sys.modules[name]
        time.tzset()


async def run_here(program: Program) -> ProgramResult:
    """A driver's program in this process. When a dialogue begins and before a verdict, the modules of
    earlier programs are forgotten, because simulators change what they share; otherwise only the
    simulators are, because it takes time."""
    request = json.loads(program.stdin)
    if "bfcl_eval.utils" not in sys.modules:
        bfcl_driver.prepare(request["package"])
    if request["do"] == "check" or len(request["steps"]) == 1:
        for name in [name for name in sys.modules if ".multi_turn_eval." in name]:
            del sys.modules[name]
    bfcl_driver.import_simulators(request["classes"])
    utils = sys.modules["bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils"]
    for name in [name for name in vars(utils) if name.endswith("_instance")]:
        del vars(utils)[name]
    operation = {
        "execute": bfcl_driver.execute,
        "memory": bfcl_driver.memory,
        "check": bfcl_driver.check,
    }[request["do"]]
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if "memory" in request:  # only memories are files
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(contextlib.chdir(folder))
        answer = operation(request)
    out = f"{bfcl_driver.READY}\n{json.dumps(answer)}".encode()
    return ProgramResult(Ending.OK, 0, None, out, b"", 0, 0, 0.0, 0.0)


@dataclass
class Tools:
    """What `grade` is given."""

    run: Callable[[Program], Awaitable[ProgramResult]]

    async def judge(self, messages: Any, *, overrides: Any = None) -> Reply:
        raise AssertionError("BFCL asks no judge")
