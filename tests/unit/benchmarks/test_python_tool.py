"""The Python tool: what is offered, what goes back and forth, and what is counted."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.benchmarks.aime2025_tools import Aime2025Tools
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.gpqa_diamond_tools import GpqaDiamondTools
from evalkit.benchmarks.python_tool import (
    BAD_ARGUMENTS,
    FAILED,
    PACKAGES,
    PYTHON_TOOL,
    TOOL_NAME,
    PythonToolBenchmark,
)
from evalkit.benchmarks.registry import make_benchmark
from evalkit.client.request import RequestBuilder
from evalkit.errors import ScorerError
from evalkit.recipe.schema import DataOverride, Generation
from evalkit.scoring.sandbox import CellEnding, CellOutput
from evalkit.store.records import Outcome, Reply, Usage
from tests.unit.vectors import SHARED, TESTS, Row, load_rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from evalkit.benchmarks.contract import Dataset, Solution
    from evalkit.recipe.schema import Profile

AIME = SHARED / "aime2025" / "aime2025.jsonl"
GPQA = TESTS / "data" / "samples" / "gpqa_diamond.csv"
RENDERED = [
    row
    for row in load_rows("prompt_render")
    if (row.input["benchmark"], row.input["prompt"]) == ("aime2025", "generic/math")
]
PUBLISHED = (
    '[{"type": "function", "function": {\n'
    '  "name": "stateful_python_code_exec",\n'
    '  "description": "Call this function to execute Python code in a stateful Jupyter notebook '
    "environment. Python will respond with the output of the execution or time out after 120.0 "
    'seconds.",\n'
    '  "parameters": {"properties": {"code": {"description": "Code to execute", "title": "Code", '
    '"type": "string"}},\n'
    '                 "required": ["code"], "title": "stateful_python_code_execArguments", '
    '"type": "object"}}}]'
)


def make(name: str = "aime2025_tools", profile: Profile = "card", **params: Any) -> Any:
    """A variant as a recipe makes it."""
    benchmark = make_benchmark(name, params, profile)
    assert isinstance(benchmark, PythonToolBenchmark)
    return benchmark


def load(benchmark: Any) -> Dataset:
    """Its data set."""
    path = AIME if benchmark.name == "aime2025_tools" else GPQA
    override = DataOverride(path=str(path), allow_altered=path == GPQA)
    dataset: Dataset = benchmark.load(DataAccess("task", override, path.parent))
    return dataset


def call(code: Any, name: str = TOOL_NAME, number: int = 0, **more: Any) -> dict[str, Any]:
    """A tool call with this code, or with these arguments as they are."""
    arguments = more.get("arguments", json.dumps({"code": code}))
    return {
        "id": f"call-{number}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def say(content: str = "", *calls: dict[str, Any], **more: Any) -> Reply:
    """A reply."""
    outcome = more.pop("outcome", Outcome.OK)
    return Reply(outcome, content, tool_calls=calls, **more)


class Model:
    """Says one reply after the other, and has a session that answers with the code it got."""

    repeat = 0

    def __init__(self, *replies: Reply, max_tokens: int | None = None) -> None:
        self.replies = list(replies)
        self.max_tokens = max_tokens
        self.asked: list[tuple[list[dict[str, Any]], Any, Any]] = []
        self.cells: list[tuple[str, float]] = []
        self.open = 0
        self.most = 0
        self.sessions = 0

    async def chat(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Any = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Reply:
        """The next reply."""
        self.asked.append((list(messages), tools, overrides))
        return self.replies.pop(0)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Model]:
        """The session is the model itself."""
        self.sessions += 1
        yield self

    async def execute(self, code: str, timeout_s: float) -> CellOutput:
        """As a cell would end that says so."""
        self.cells.append((code, timeout_s))
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        ended = next((end for end in CellEnding if end.value in code), CellEnding.OK)
        return CellOutput(ended, f"ran {code}\n", "", 5 if "cut" in code else 0)


async def solve(model: Model, **params: Any) -> Solution:
    """The first problem with this model."""
    benchmark = make(**params)
    solution: Solution = await benchmark.solve(load(benchmark).samples[0], model)
    return solution


def test_definition_is_the_published_one() -> None:
    """The tool as it was sent, to the order of its keys."""
    assert json.dumps([PYTHON_TOOL]) == json.dumps(json.loads(PUBLISHED))


def test_definition_is_sent_in_its_order() -> None:
    """A request holds the tool byte for byte, whatever is sorted around it."""
    request = RequestBuilder(Generation(), "m").chat([], 0, [PYTHON_TOOL])
    compact = json.dumps([PYTHON_TOOL], separators=(",", ":"))
    assert f'"tools":{compact}'.encode() in request.payload


async def test_dialogue() -> None:
    """Calls until one calls nothing; what the model said is scored, what it thought is sent back."""
    model = Model(
        say("First. ", call("1 + 1"), reasoning="hm"),
        say("", call("2 + 2", number=1)),
        say(r"So \boxed{70}."),
    )
    solution = await solve(model)
    assert solution.text == r"First. So \boxed{70}."
    assert solution.outcome is Outcome.OK
    assert model.cells == [("1 + 1", 10), ("2 + 2", 10)]
    assert model.sessions == 1
    first, second, third = (messages for messages, _, _ in model.asked)
    assert second == [
        *first,
        {
            "role": "assistant",
            "content": "First. ",
            "tool_calls": [call("1 + 1")],
            "reasoning": "hm",
            "reasoning_content": "hm",
        },
        {"role": "tool", "name": TOOL_NAME, "tool_call_id": "call-0", "content": "ran 1 + 1"},
    ]
    assert third[:-2] == second
    assert third[-2] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [call("2 + 2", number=1)],
    }
    assert all((tools, over) == ([PYTHON_TOOL], None) for _, tools, over in model.asked)
    benchmark = make()
    score = benchmark.score(load(benchmark).samples[0], solution)
    assert score.values == {"symbolic_correct": 1.0, "tool_calls": 2.0, "tool_timeouts": 0.0}


async def test_calls_of_one_reply_run_at_once() -> None:
    """All tool calls of a reply are in the session together; their results keep their order."""
    calls = [call(f"x{number}", number=number) for number in range(3)]
    model = Model(say("", *calls), say("end"))
    await solve(model)
    assert model.most == 3
    results = model.asked[-1][0][-3:]
    assert [(m["tool_call_id"], m["content"]) for m in results] == [
        ("call-0", "ran x0"),
        ("call-1", "ran x1"),
        ("call-2", "ran x2"),
    ]


@pytest.mark.parametrize(
    ("wrong", "content"),
    [
        (call(None, arguments='{"code": '), BAD_ARGUMENTS),
        (call(None, arguments=""), BAD_ARGUMENTS),
        (call(None, arguments="[" * 100_000), BAD_ARGUMENTS),
        (call(None, arguments="[1]"), FAILED),
        (call(None, arguments="null"), FAILED),
        (call(None, arguments='{"source": "1"}'), FAILED),
        (call(7), FAILED),
        (call(None, arguments='{"code": "\\ud800"}'), FAILED),
        (call("1", name="python"), FAILED),
    ],
)
async def test_call_that_cannot_be_carried_out(wrong: dict[str, Any], content: str) -> None:
    """The model is told in the harness's words, and nothing runs."""
    model = Model(say("", wrong), say("end"))
    solution = await solve(model)
    assert model.asked[-1][0][-1]["content"] == content
    assert model.cells == []
    assert solution.data == counted(rounds=2, tool_calls=1, refused=1)
    assert json.loads(content)["error"].startswith("Tool ")


def counted(**numbers: int) -> dict[str, int]:
    """What a sample's data says; what is not named is 0."""
    names = ("rounds", "tool_calls", "refused", "failed_cells", "timeouts", "characters_cut")
    return {name: numbers.get(name, 0) for name in names}


async def test_what_is_counted() -> None:
    """Cells by how they ended, and characters that the model did not see."""
    calls = [call(text) for text in ("ok", "error", "timeout", "died", "cut", "cut timeout")]
    solution = await solve(Model(say("", *calls), say("end")))
    assert solution.data == counted(
        rounds=2, tool_calls=6, failed_cells=2, timeouts=2, characters_cut=10
    )
    benchmark = make()
    score = benchmark.score(load(benchmark).samples[0], solution)
    assert (score.values["tool_calls"], score.values["tool_timeouts"]) == (6.0, 2.0)


async def test_time_out_of_a_cell_is_a_parameter() -> None:
    """What is asked of the session is the parameter as it is."""
    model = Model(say("", call("1")), say("end"))
    await solve(model, timeout_s=3)
    assert model.cells == [("1", 3)]


async def test_rounds_are_limited() -> None:
    """A model that never stops calling is truncated, with what it said so far."""
    model = Model(*(say(f"{number} ", call("1")) for number in range(5)))
    solution = await solve(model, round_limit=3)
    assert (solution.text, solution.outcome) == ("0 1 2 ", Outcome.TRUNCATED)
    assert solution.detail == "no end within round_limit=3"
    assert len(model.asked) == 3
    assert make().params.round_limit == 200


def test_no_limit_of_tokens() -> None:
    """Neither profile has one: a round may fill the context."""
    for profile in ("card", "fixed"):
        for cls in (Aime2025Tools, GpqaDiamondTools):
            assert "max_tokens" not in cls.generation[profile]
    assert Aime2025Tools.generation["card"] == {
        "temperature": 0.99999,
        "top_p": 0.99999,
        "presence_penalty": 1.0,
    }


async def test_limit_of_tokens_is_one_for_all_rounds() -> None:
    """With a limit, each round may have what is left of it; at nothing the sample is truncated."""

    def used(tokens: int | None) -> Usage:
        return Usage(10, tokens)

    model = Model(
        say("a", call("1"), usage=used(60)),
        say("b", call("1"), usage=used(40)),
        max_tokens=100,
    )
    solution = await solve(model)
    assert [over for _, _, over in model.asked] == [
        {"max_completion_tokens": 100},
        {"max_completion_tokens": 40},
    ]
    assert (solution.text, solution.outcome) == ("ab", Outcome.TRUNCATED)
    silent = Model(say("a", call("1"), usage=used(None)), max_tokens=100)
    with pytest.raises(ScorerError, match="counts no tokens"):
        await solve(silent)


@pytest.mark.parametrize(
    "outcome", [Outcome.TRUNCATED, Outcome.EMPTY, Outcome.CONTEXT_OVERFLOW, Outcome.REFUSED]
)
async def test_outcome_is_the_last_calls(outcome: Outcome) -> None:
    """What became of the last call became of the sample; what was said before is kept."""
    model = Model(say("before ", call("1")), say("", outcome=outcome, detail="why"))
    solution = await solve(model)
    assert (solution.text, solution.outcome, solution.detail) == ("before ", outcome, "why")


@pytest.mark.parametrize("name", ["aime2025_tools", "gpqa_diamond_tools"])
def test_gold_and_wrong_answers(name: str) -> None:
    """Right answers score one and wrong ones zero, with no tool used."""
    benchmark = make(name)
    samples = load(benchmark).samples
    assert len(samples) == (30 if name == "aime2025_tools" else len(samples))
    for sample in samples:
        counts = {"tool_calls": 0.0, "tool_timeouts": 0.0}
        gold = benchmark.score(sample, benchmark.gold(sample))
        wrong = benchmark.score(sample, benchmark.wrong(sample))
        assert gold.values == {"symbolic_correct": 1.0, **counts}
        assert wrong.values == {"symbolic_correct": 0.0, **counts}


@pytest.mark.parametrize("row", RENDERED, ids=lambda row: row.id)
def test_prompts_of_aime(row: Row) -> None:
    """The prompt is the harness's own for the data set, to the byte."""
    [sample] = [s for s in load(make()).samples if s.id == row.input["item"]]
    content = sample.messages[0]["content"]
    assert len(content) == row.expected["n_chars_user"]
    assert hashlib.sha256(content.encode()).hexdigest() == row.expected["sha256_of_user"]


def test_variants_share_the_rest() -> None:
    """Data, prompts, samples and extraction are those without a tool, but for AIME's prompt."""
    for name in ("aime2025", "gpqa_diamond"):
        plain, tool = make_benchmark(name, {}, "card"), make(f"{name}_tools")
        assert (tool.source, tool.repeats, tool.metric) == (
            plain.source,
            plain.repeats,
            plain.metric,
        )
        assert tool.publishable == plain.publishable
        assert tool.knobs == plain.knobs
        assert (tool.single_call, tool.uses_sessions) == (False, True)
    plain = make_benchmark("gpqa_diamond", {}, "card")
    override = DataOverride(path=str(GPQA), allow_altered=True)
    expected = plain.load(DataAccess("task", override, GPQA.parent))
    assert load(make("gpqa_diamond_tools")).samples == expected.samples
    assert make("gpqa_diamond_tools").params.prompt == "eval/aai/mcq-4choices"


def test_sandbox_has_the_packages() -> None:
    """What models import is demanded of the sandbox, which would refuse to start without."""
    assert make().sandbox().preload == PACKAGES
    assert {"numpy", "scipy", "sympy", "pandas", "h5py", "tqdm"} < set(PACKAGES)
