"""A server of the OpenAI API that misbehaves on demand: it stands beside the real vLLM in tests.

Its answers are a function of the request, so results are reproducible: the sum for "A + B" (wrong
for one question in four), else a letter and a number made from a hash. Faults that pass (500, 429,
broken JSON) hit the same requests in every run, each a fixed number of times; `/_counts` tells how
often each request came and was answered. `POST /_switches` changes switches at run time.

    python -m tests.faults.fault_server --port 8000 --api-key KEY --model NAME [switches]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from aiohttp import web

LETTERS = "ABCD"


@dataclass
class Switches:
    """What goes wrong, and when. `every` counts request bodies by their hash: 1 means all."""

    ready_after_s: float = 0.0
    """503 from everything until then."""
    die_after: int = 0
    """The process ends, mid-request, at the n-th generation; 0 never."""
    hang_after: int = 0
    """Generations after the n-th never end, `/health` stays 200; 0 never."""
    fail_status: int = 0
    """Answer with this status (500, 429 ...); 0 never."""
    fail_every: int = 1
    """One body in so many fails."""
    fail_times: int = 1
    """So many times each, then it is answered."""
    retry_after: str = ""
    """Retry-After header of failures."""
    truncate_every: int = 0
    """One body in so many gets half of its JSON, `fail_times` times; 0 never."""
    null_every: int = 0
    """One body in so many has `content: null`, always; 0 never."""
    empty_every: int = 0
    """One body in so many has `content: ""`, always; 0 never."""
    reasoning: str = "none"
    """`reasoning` or `reasoning_content` (fields), `inline` (<think> in the content), `none`."""
    served_as: str = ""
    """A model id to serve instead of --model."""
    latency_s: float = 0.0
    """Time of one generation."""
    ignore_term: bool = False
    """Survive SIGTERM."""
    spawn: int = 0
    """Child processes in sessions of their own that ignore SIGTERM."""
    metrics: bool = True
    """Serve vLLM's token counters."""
    completions: bool = True
    """Serve `/v1/completions` beside the chat; some servers do not."""


@dataclass
class State:
    """What happened so far."""

    received: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    generations: int = 0
    tokens: int = 0
    in_flight: int = 0


def body_hash(body: dict[str, Any]) -> str:
    """Names a request: equal bodies, equal hashes."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def last_text(body: dict[str, Any]) -> str:
    """The prompt, or the last user message as text."""
    if "prompt" in body:
        return str(body["prompt"])
    content = [m.get("content") for m in body.get("messages", []) if m.get("role") == "user"]
    return str(content[-1]) if content else ""


def answer_text(body: dict[str, Any]) -> str:
    """The answer to a request, a function of it alone."""
    text, name = last_text(body), body_hash(body)
    number = int(name, 16)
    if (sum_of := re.search(r"(\d+) \+ (\d+)", text)) is not None:
        total = int(sum_of[1]) + int(sum_of[2]) + (number % 4 == 0)
        options = dict(re.findall(r"^([A-J])\) (\d+)$", text, re.MULTILINE))
        letter = next((x for x, option in options.items() if option == str(total)), "A")
        return f"The answer is ({letter})." if options else rf"The answer is \boxed{{{total}}}."
    return rf"The answer is ({LETTERS[number % 4]}), that is \boxed{{{number % 1000}}}."


class FaultServer:
    """The application, its switches and its counts."""

    def __init__(self, model: str, api_key: str, switches: Switches) -> None:
        self.model, self.api_key, self.switches = model, api_key, switches
        self.state = State()
        self.started = 0.0

    def make_app(self) -> web.Application:
        """An application to run, here or inside a test."""
        app = web.Application(middlewares=[self._gate], client_max_size=1 << 28)
        app.on_startup.append(self._on_startup)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/_counts", self._counts),
                web.post("/_switches", self._set_switches),
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._generate),
                web.post("/v1/completions", self._complete),
            ]
        )
        return app

    async def _on_startup(self, _: web.Application) -> None:
        self.started = asyncio.get_running_loop().time()

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        up = asyncio.get_running_loop().time() - self.started
        if up < self.switches.ready_after_s and not request.path.startswith("/_"):
            return error(503, "still loading")
        wanted = f"Bearer {self.api_key}"
        guarded = bool(self.api_key) and request.path.startswith("/v1")
        if guarded and request.headers.get("Authorization") != wanted:
            return error(401, "Unauthorized")
        response: web.StreamResponse = await handler(request)
        return response

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _: web.Request) -> web.Response:
        if not self.switches.metrics:
            return error(404, "no metrics")
        return web.Response(
            text=f'vllm:num_requests_running{{engine="0"}} {float(self.state.in_flight)}\n'
            f'vllm:num_requests_waiting{{engine="0"}} 0.0\n'
            f'vllm:generation_tokens_total{{engine="0"}} {float(self.state.tokens)}\n'
            f'vllm:generation_tokens_created{{engine="0"}} 1.7e9\n'
        )

    async def _counts(self, _: web.Request) -> web.Response:
        state = self.state
        return web.json_response(
            {
                "received": sum(state.received.values()),
                "answered": sum(state.answered.values()),
                "received_by_hash": state.received,
                "answered_by_hash": state.answered,
                "in_flight": state.in_flight,
            }
        )

    async def _set_switches(self, request: web.Request) -> web.Response:
        for name, value in (await request.json()).items():
            if name not in {f.name for f in fields(Switches)}:
                return error(400, f"no switch {name}")
            setattr(self.switches, name, value)
        return web.json_response(vars(self.switches))

    async def _models(self, _: web.Request) -> web.Response:
        name = self.switches.served_as or self.model
        return web.json_response(
            {"object": "list", "data": [{"id": name, "object": "model", "max_model_len": 4096}]}
        )

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if not self.switches.completions:
            return error(404, "Not Found")
        return await self._generate(request)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body.get("model") != (self.switches.served_as or self.model):
            return error(404, f"The model `{body.get('model')}` does not exist.")
        name = body_hash(body)
        self.state.received[name] += 1
        self.state.generations += 1
        self.state.in_flight += 1
        try:
            if (fault := await self._misbehave(name)) is not None:
                return fault
            await asyncio.sleep(self.switches.latency_s)
            return await self._respond(request, body, name)
        finally:
            self.state.in_flight -= 1

    async def _misbehave(self, name: str) -> web.Response | None:
        switches = self.switches
        if switches.die_after and self.state.generations >= switches.die_after:
            os._exit(3)
        if switches.hang_after and self.state.generations > switches.hang_after:
            await asyncio.Event().wait()
        again = self.state.received[name] <= switches.fail_times
        if switches.fail_status and again and hits(name, switches.fail_every):
            headers = {"Retry-After": switches.retry_after} if switches.retry_after else None
            return error(switches.fail_status, "fault on demand", headers)
        return None

    async def _respond(
        self, request: web.Request, body: dict[str, Any], name: str
    ) -> web.StreamResponse:
        chat = "messages" in body
        message = self._message(body, name)
        text = message["content"] or ""
        used = {
            "prompt_tokens": len(last_text(body).split()),
            "completion_tokens": len(text.split()),
        }
        used["total_tokens"] = sum(used.values())
        self.state.tokens += used["completion_tokens"]
        head = {"id": f"fault-{name}", "created": 0, "model": body["model"]}
        part = {"message": message} if chat else {"text": text}
        choice = {"index": 0, "finish_reason": "stop", **part}
        if body.get("stream"):
            self.state.answered[name] += 1
            return await stream(request, head, choice, used)
        payload = json.dumps({**head, "object": "completion", "choices": [choice], "usage": used})
        if hits(name, self.switches.truncate_every) and (
            self.state.received[name] <= self.switches.fail_times
        ):
            return web.Response(text=payload[: len(payload) // 2], content_type="application/json")
        self.state.answered[name] += 1
        return web.Response(text=payload, content_type="application/json")

    def _message(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer_text(body)}
        if hits(name, self.switches.null_every):
            message["content"] = None
        elif hits(name, self.switches.empty_every):
            message["content"] = ""
        elif self.switches.reasoning == "inline":
            message["content"] = f"<think>I add.</think>{message['content']}"
        if self.switches.reasoning in ("reasoning", "reasoning_content"):
            message[self.switches.reasoning] = "I add."
        return message


def hits(name: str, every: int) -> bool:
    """Whether a body is the one in `every`; 0 hits none."""
    return every > 0 and int(name, 16) % every == 0


def error(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error as the OpenAI API writes it."""
    body = {"error": {"message": text, "type": "fault", "code": status}}
    return web.json_response(body, status=status, headers=headers)


async def stream(
    request: web.Request, head: dict[str, Any], choice: dict[str, Any], used: dict[str, int]
) -> web.StreamResponse:
    """The same answer as server-sent events, word by word."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)

    async def send(delta: dict[str, Any], finish: str | None) -> None:
        part = {"index": 0, "finish_reason": finish, **delta}
        await response.write(f"data: {json.dumps({**head, 'choices': [part]})}\n\n".encode())

    message = choice.get("message")
    text = (choice["text"] if message is None else message["content"]) or ""
    if message is not None:
        rest = {key: value for key, value in message.items() if key != "content"}
        await send({"delta": rest}, None)
    for word in re.findall(r"\S+\s*", text):
        await send({"text": word} if message is None else {"delta": {"content": word}}, None)
    await send({"text": ""} if message is None else {"delta": {}}, choice["finish_reason"])
    await response.write(f"data: {json.dumps({**head, 'choices': [], 'usage': used})}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Every switch is an option too."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--model", default="model")
    parser.add_argument("--exit-at-start", type=int, help="end at once with this code")
    parser.add_argument("--say", default="", help="a line for the log, before anything else")
    for switch in fields(Switches):
        option, default = f"--{switch.name.replace('_', '-')}", switch.default
        if isinstance(default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(option, type=type(default), default=default)
    return parser.parse_args(argv)


def main() -> None:
    """Serve until a signal comes."""
    args = parse_args()
    if args.say:
        print(args.say, flush=True)
    if args.exit_at_start is not None:
        sys.exit(args.exit_at_start)
    switches = Switches(**{f.name: getattr(args, f.name) for f in fields(Switches)})
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    for _ in range(switches.spawn):
        child = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
        print(f"child {child.pid}", flush=True)
    if switches.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = FaultServer(args.model, args.api_key, switches)
    web.run_app(
        server.make_app(),
        host=args.host,
        port=args.port,
        print=None,
        handle_signals=not switches.ignore_term,
        shutdown_timeout=1.0,
        access_log=None,
    )


if __name__ == "__main__":
    main()
