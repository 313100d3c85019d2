"""An endpoint that knows the right answers to BFCL: OpenAI's chat API over HTTP, with tool calls.

It keeps nothing between two requests. Each one is found by what the user has said so far, must offer
the tools of that turn and bring the results of the calls before, and is answered with the next of the
gold calls. Several calls of a turn come at once for one half of the entries, one after the other for the
rest. In a memory every conversation leaves a note, and every question first reads the memory, in which
all of the notes must be. What does not fit is answered with 400 and a reason.

The body's `user`, which a task's `extra_body` sets, is `gold` or `wrong`, and what answers are given.
Entries of different categories may ask the same with different right answers: where there are such, the
category follows behind a colon.
"""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson
from aiohttp import web

from evalkit.benchmarks.bfcl_dialogue import MOST_EXECUTIONS
from evalkit.benchmarks.bfcl_gold import (
    DONE,
    UNRELATED,
    gold_solution,
    gold_turns,
    wrong_solution,
)
from evalkit.scoring.bfcl_categories import MEMORY, MULTI_TURN, WEB_SEARCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from evalkit.benchmarks.contract import Sample

MODEL = "gold"
FOUND = "found for "
NO_SUCH_CALL: Any = [{"evalkit_calls_no_such_function": "{}"}]
NOTES = {
    "memory_kv": ("archival_memory_add", "archival_memory_list_keys"),
    "memory_rec_sum": ("memory_append", "memory_retrieve"),
}
"""What writes a note, and what shows all of them."""

Step: TypeAlias = Any
"""As in `bfcl_checks`: calls, or a text."""


class UnexpectedError(Exception):
    """A request that no undisturbed dialogue makes."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What may be asked at one point of a dialogue, and the answers until its end."""

    entry: str
    tools: str
    gold: Sequence[Step]
    wrong: Sequence[Step]
    must_show: Sequence[str] = ()
    """Words that the result of the first call must have."""


@dataclass
class Answers:
    """All turns of all entries, by category, what was said so far, and the tools that are offered."""

    turns: dict[tuple[str, str, str], Turn] = field(default_factory=dict)
    said: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def of(cls, samples: Iterable[Sample], *, by_category: bool) -> Answers:
        """Of frozen samples. Raises AssertionError where one request has two right answers."""
        found = cls()
        for sample in samples:
            category = sample.data["category"] if by_category else ""
            for messages, turn in _turns(sample):
                said = _said(messages)
                found.said.add((category, said))
                known = found.turns.setdefault((category, said, turn.tools), turn)
                assert known.gold == turn.gold, (known.entry, turn.entry)
        return found

    def next_step(self, body: Mapping[str, Any]) -> Step:
        """The answer to one request. Raises UnexpectedError."""
        kind, _, category = body.get("user", "").partition(":")
        right, messages = {"gold": True, "wrong": False}[kind], body["messages"]
        said = _said(messages)
        turn = self.turns.get((category, said, _canonical(body.get("tools") or [])))
        if turn is None:
            wrong = "other tools belong to" if (category, said) in self.said else "nobody says"
            raise UnexpectedError(f"{body['user']}: {wrong} this: {messages[-1]}")
        since = _since_user(messages)
        steps = [m for m in since if m["role"] == "assistant"]
        expected = [call["id"] for m in steps for call in m.get("tool_calls", ())]
        if [m["tool_call_id"] for m in since if m["role"] == "tool"] != expected:
            raise UnexpectedError(f"{turn.entry}: not every call has its result")
        planned = turn.gold if right else turn.wrong
        if len(steps) >= len(planned):
            raise UnexpectedError(f"{turn.entry}: the turn goes on behind its last answer")
        if right and steps:
            shown = json.dumps([m["content"] for m in since if m["role"] == "tool"])
            if missing := [word for word in turn.must_show if word not in shown]:
                raise UnexpectedError(f"{turn.entry}: the memory has no {', '.join(missing)}")
        return planned[len(steps)]


def _turns(sample: Sample) -> Iterator[tuple[list[Any], Turn]]:
    """Each turn with all that was said until then."""
    category = sample.data["category"]
    if category in MEMORY:
        yield from _memory_turns(sample)
    elif category in MULTI_TURN:
        yield from _dialogue_turns(sample)
    elif category in WEB_SEARCH:
        search = [{"search_engine_query": json.dumps({"keywords": _keywords(sample)})}]
        gold = [search, sample.target[0]]
        tools = _canonical(json.loads(sample.data["tools"]))
        yield (
            sample.data["turns"][0],
            Turn(sample.id, tools, gold, [UNRELATED], [FOUND + _keywords(sample)]),
        )
    else:
        right, wrong = gold_solution(sample), wrong_solution(sample)
        step = UNRELATED if right is None else right.data["step"]
        tools = _canonical(json.loads(sample.data["tools"]))
        yield list(sample.messages), Turn(sample.id, tools, [step], [wrong.data["step"]])


def _dialogue_turns(sample: Sample) -> Iterator[tuple[list[Any], Turn]]:
    said: list[Any] = []
    at_once = bool(len(_said(sample.messages)) % 2)
    tools = sample.data["tools"]
    for number, (messages, steps) in enumerate(
        zip(sample.data["turns"], gold_turns(sample), strict=True)
    ):
        said = [*said, *messages]
        tools = sample.data["later_tools"].get(str(number), tools)
        calls = steps[0] if len(steps) > 1 else []
        if not at_once and len(calls) <= MOST_EXECUTIONS:
            steps = [*([call] for call in calls), DONE]
        yield (
            said,
            Turn(sample.id, _canonical(json.loads(tools)), steps, [NO_SUCH_CALL, DONE]),
        )


def _memory_turns(sample: Sample) -> Iterator[tuple[list[Any], Turn]]:
    write, read = NOTES[sample.data["category"]]
    tools = _canonical(json.loads(sample.data["tools"]))
    notes = []
    for conversation in sample.data["conversations"]:
        notes.append(f"note_{conversation['id'].replace('-', '_')}")
        arguments = {"text": notes[-1]}
        if write == "archival_memory_add":
            arguments = {"key": notes[-1], "value": "kept"}
        note = [{write: json.dumps(arguments)}]
        said: list[Any] = []
        for number, messages in enumerate(conversation["turns"]):
            said = [*said, *messages]
            gold = [DONE] if number else [note, DONE]
            yield said, Turn(conversation["id"], tools, gold, [DONE])
    for question in sample.data["questions"]:
        gold = [[{read: "{}"}], sample.target[question["id"]][0]]
        yield question["turns"][0], Turn(question["id"], tools, gold, [UNRELATED], notes)


def _said(messages: Sequence[Mapping[str, Any]]) -> str:
    """One text for what users have said. (A system message may hold a memory, which is not said.)"""
    return json.dumps([m["content"] for m in messages if m["role"] == "user"])


def _since_user(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    last = max(n for n, message in enumerate(messages) if message["role"] == "user")
    return list(messages[last + 1 :])


def _canonical(tools: Any) -> str:
    return json.dumps(tools, sort_keys=True)


def _keywords(sample: Sample) -> str:
    """The same in both categories, which ask the same."""
    return sample.id.rpartition("_")[2]


def write_recording(path: Path, samples: Iterable[Sample]) -> None:
    """What is found for each question."""
    lines = []
    for sample in samples:
        request = {
            "tool": "search",
            "keywords": _keywords(sample),
            "max_results": 10,
            "region": "wt-wt",
        }
        found = [{"title": FOUND + _keywords(sample), "href": "http://h", "body": "b"}]
        lines.append(json.dumps({"request": request, "answer": found}) + "\n")
    path.write_text("".join(lines))


def _reply(step: Step, n_before: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": step}
    if not isinstance(step, str):
        calls = [
            {
                "id": f"call-{n_before}-{number}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for number, call in enumerate(step)
            for name, arguments in call.items()
        ]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
    reason = "stop" if isinstance(step, str) else "tool_calls"
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def make_app(answers: Answers) -> web.Application:
    """The part of the API that evalkit uses."""

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL}]})

    async def chat(request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        if body.get("stream"):  # the preflight, which wants a chunk and no more
            choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
            chunk = {**_reply("", 0), "object": "chat.completion.chunk", "choices": [choice]}
            text = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
            return web.Response(text=text, content_type="text/event-stream")
        try:
            step = answers.next_step(body)
        except UnexpectedError as error:
            return web.json_response({"error": {"message": str(error)}}, status=400)
        reply = _reply(step, len(body["messages"]))
        return web.Response(body=orjson.dumps(reply), content_type="application/json")

    app = web.Application(client_max_size=2**26)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", chat)
    return app


@contextmanager
def serving(answers: Answers) -> Iterator[str]:
    """Inside, it answers at this address from a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="bfcl-endpoint")
    thread.start()

    async def start() -> tuple[web.AppRunner, str]:
        runner = web.AppRunner(make_app(answers), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        return runner, f"http://{host}:{port}/v1"

    runner, address = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield address
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
