r"""The Python tool of the card's tool-using variants: the model calls it, sees what it prints, goes on.

What the model is offered and told is a constant of the method, quirks included: the description
speaks of 120 seconds and a cell has 10, and what a wrong call is answered with says no more than that
it failed. Scored is the content of all rounds together. Added is a limit of rounds, for a model that
never stops calling. Source: NeMo-Skills (PythonTool) as of December 2025.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from evalkit.benchmarks.contract import (
    Benchmark,
    BenchmarkParams,
    Question,
    SandboxNeeds,
    Score,
    Solution,
)
from evalkit.benchmarks.replay import thoughtful_reply
from evalkit.errors import ScorerError
from evalkit.scoring.sandbox import CellEnding
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.contract import Message, ModelHandle, Sample, Session
    from evalkit.store.records import Reply

TOOL_NAME = "stateful_python_code_exec"
PYTHON_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": TOOL_NAME,
        "description": "Call this function to execute Python code in a stateful Jupyter notebook "
        "environment. Python will respond with the output of the execution or time out after 120.0 "
        "seconds.",
        "parameters": {
            "properties": {
                "code": {"description": "Code to execute", "title": "Code", "type": "string"}
            },
            "required": ["code"],
            "title": "stateful_python_code_execArguments",
            "type": "object",
        },
    },
}
BAD_ARGUMENTS = json.dumps({"error": "Tool argument parsing failed."})
FAILED = json.dumps({"error": "Tool execution failed."})
PACKAGES = (
    "IPython.terminal.interactiveshell",
    "h5py",
    "numpy",
    "pandas",
    "scipy",
    "sympy",
    "tqdm",
)
"""What the sandbox behind the card had, as far as it moves scores of mathematics and science."""


class PythonToolParams(BenchmarkParams):
    """How the tool is used."""

    timeout_s: int = Field(10, ge=1)
    """Seconds that a cell may take. The number is in what the model is told of a time-out."""
    round_limit: int = Field(200, ge=1)
    """Most calls of the model for one sample; one that wants more is truncated."""


@dataclass(slots=True)
class ToolUse:
    """What a sample's tool calls were, for its data; the calls themselves are its steps."""

    rounds: int = 0
    """Calls of the model."""
    tool_calls: int = 0
    refused: int = 0
    """Those without a cell to run: arguments that are no JSON, another tool, no code."""
    failed_cells: int = 0
    """Cells that raised, or ended their interpreter."""
    timeouts: int = 0
    characters_cut: int = 0
    """Of output, what the model did not see."""


class PythonToolBenchmark(Benchmark[Any]):
    """Gives a benchmark of one call per sample the tool; stands before it among the base classes."""

    single_call = False
    uses_sessions = True
    tools = (PYTHON_TOOL,)
    params: Any

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """Call after call with the tool, until one calls nothing."""
        async with model.session() as session:
            return await _Dialogue(model, session, self.params).run(sample.messages)

    def replayed_call(self, samples: Sequence[Sample]) -> Question | None:
        """The call behind a first cell."""
        reply = thoughtful_reply(TOOL_NAME, {"code": "print(1 + 1)"})
        call = reply.tool_calls[0]
        result = {"role": "tool", "name": TOOL_NAME, "tool_call_id": call["id"], "content": "2"}
        question = {"role": "user", "content": "What is 1 + 1?"}
        return Question([question, replayed(reply), result], [PYTHON_TOOL])

    def sandbox(self) -> SandboxNeeds:
        """The packages that models expect."""
        return SandboxNeeds(preload=PACKAGES)

    def score(self, sample: Sample, solution: Solution) -> Score:
        """As without the tool, with tool calls and time-outs per sample beside it."""
        score = super().score(sample, solution)
        use = asdict(ToolUse()) if solution.data is None else solution.data  # gold answers use none
        counts = {
            "tool_calls": float(use["tool_calls"]),
            "tool_timeouts": float(use["timeouts"]),
        }
        return replace(score, values={**score.values, **counts})


class _Dialogue:
    """One sample's rounds."""

    def __init__(self, model: ModelHandle, session: Session, params: PythonToolParams) -> None:
        self._model = model
        self._session = session
        self._params = params
        self._use = ToolUse()
        self._contents: list[str] = []
        self._generated = 0

    async def run(self, messages: Sequence[Message]) -> Solution:
        """The content of all rounds, with the outcome of the last."""
        conversation = list(messages)
        for _ in range(self._params.round_limit):
            left = self._tokens_left()
            if left is not None and left <= 0:
                return self._solution(Outcome.TRUNCATED, "max_tokens are used up by the rounds")
            reply = await self._ask(conversation, left)
            if not reply.tool_calls:
                return self._solution(reply.outcome, reply.detail)
            results = await asyncio.gather(*(self._use_tool(call) for call in reply.tool_calls))
            conversation += [replayed(reply), *results]
        limit = self._params.round_limit
        return self._solution(Outcome.TRUNCATED, f"no end within round_limit={limit}")

    def _solution(self, outcome: Outcome, detail: str | None) -> Solution:
        return Solution("".join(self._contents), outcome, asdict(self._use), detail)

    def _tokens_left(self) -> int | None:
        """Of a limit, which is one for all rounds together."""
        most = self._model.max_tokens
        return None if most is None else most - self._generated

    async def _ask(self, conversation: Sequence[Message], left: int | None) -> Reply:
        overrides = None if left is None else {"max_completion_tokens": left}
        reply = await self._model.chat(conversation, tools=[PYTHON_TOOL], overrides=overrides)
        self._use.rounds += 1
        self._contents.append(reply.content)
        if left is not None and reply.tool_calls:
            if reply.usage.completion_tokens is None:
                raise ScorerError(
                    "the server counts no tokens, so max_tokens cannot be kept over several rounds",
                    hint="Set generation.max_tokens of the task to null.",
                )
            self._generated += reply.usage.completion_tokens
        return reply

    async def _use_tool(self, call: Mapping[str, Any]) -> Message:
        """The message that answers a tool call."""
        function = call["function"]
        return {
            "role": "tool",
            "name": function["name"],
            "tool_call_id": call["id"],
            "content": await self._result(function["name"], function["arguments"]),
        }

    async def _result(self, name: str, arguments: str) -> str:
        self._use.tool_calls += 1
        try:
            found = json.loads(arguments)
        except (ValueError, RecursionError):
            self._use.refused += 1
            return BAD_ARGUMENTS
        code = _code_in(name, found)
        if code is None:
            self._use.refused += 1
            return FAILED
        cell = await self._session.execute(code, self._params.timeout_s)
        self._use.timeouts += cell.ended is CellEnding.TIMEOUT
        self._use.failed_cells += cell.ended in (CellEnding.ERROR, CellEnding.DIED)
        self._use.characters_cut += cell.cut
        return cell.text


def replayed(reply: Reply) -> Message:
    """A reply as the assistant's message of the next request.

    Reasoning stands under both of its names: servers read one of them, vLLM since 0.16 another one
    than before, and drop the other without a word.
    """
    message: Message = {
        "role": "assistant",
        "content": reply.content or None,
        "tool_calls": list(reply.tool_calls),
    }
    if reply.reasoning is not None:
        message |= {"reasoning": reply.reasoning, "reasoning_content": reply.reasoning}
    return message


def _code_in(name: str, arguments: Any) -> str | None:
    """The code of a call that can be carried out; half of a surrogate pair cannot even be sent."""
    code = arguments.get("code") if isinstance(arguments, dict) else None
    if name != TOOL_NAME or not isinstance(code, str):
        return None
    try:
        code.encode()
    except UnicodeEncodeError:
        return None
    return code
