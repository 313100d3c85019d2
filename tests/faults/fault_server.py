"""A server of the OpenAI API that misbehaves on demand: it stands beside the real vLLM in tests.

Its answers are a function of the request, so results are reproducible: the sum for "A + B" (wrong
for one question in four), else a letter and a number made from a hash. Faults that pass (500, 429,
broken JSON) hit the same requests in every run, each a fixed number of times; `/_counts` tells how
often each request came and was answered. `POST /_switches` changes switches at run time. With
`--scale-out 200` it aborts and continues generations as vLLM 0.32 does, field for field.

    python -m tests.faults.fault_server --port 8000 --api-key KEY --model NAME [switches]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

if not __package__:  # run as a file: recipes of tests start it so
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.faults.fault_engine import Asked, Engine
from tests.faults.fault_options import (
    Switches,
    body_hash,
    hits,
    parse_args,
    parse_vllm_args,
    switches_of,
)
from tests.faults.fault_replies import (
    Chat,
    Cut,
    Reply,
    Text,
    break_off,
    derender_chat,
    derender_text,
    error,
    render,
    send_events,
    send_whole,
    tokenize,
)
from tests.faults.fault_tokens import chat_prompt, prompt_key, split_prompt, text_prompt

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FaultServer", "Switches", "body_hash"]


NO_TOOLS = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'


class FaultServer:
    """The application, its switches and its counts."""

    def __init__(self, model: str, api_key: str, switches: Switches) -> None:
        self.model, self.api_key, self.switches = model, api_key, switches
        self.engine = Engine(switches)
        self.state = self.engine.state
        self.started = 0.0
        self.port = 0
        self._numbers = 0

    def make_app(self) -> web.Application:
        """An application to run, here or inside a test."""
        app = web.Application(middlewares=[self._gate], client_max_size=1 << 28)
        app.on_startup.append(self._on_startup)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/version", self._version),
                web.get("/metrics", self._metrics),
                web.get("/_counts", self._counts),
                web.post("/_switches", self._set_switches),
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._complete),
                web.post("/inference/v1/abort_requests", self._abort),
                web.post("/v1/chat/completions/render", self._scale_out(self._render)),
                web.post("/v1/chat/completions/derender", self._scale_out(self._derender)),
                web.post("/v1/completions/derender", self._scale_out(derender_text)),
                web.post("/tokenize", self._scale_out(tokenize)),
            ]
        )
        return app

    async def _on_startup(self, _: web.Application) -> None:
        self.started = asyncio.get_running_loop().time()
        self.engine.ledger.note("server", port=self.port)

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        up = asyncio.get_running_loop().time() - self.started
        if up < self.switches.ready_after_s and not request.path.startswith("/_"):
            return error(503, "still loading")
        wanted = f"Bearer {self.api_key}"
        guarded = bool(self.api_key) and request.path.startswith(("/v1", "/inference"))
        if guarded and request.headers.get("Authorization") != wanted:
            return error(401, "Unauthorized")
        response: web.StreamResponse = await handler(request)
        return response

    async def _health(self, _: web.Request) -> web.Response:
        is_ill = self.switches.health_status and self.state.generations
        return web.Response(status=self.switches.health_status if is_ill else 200)

    async def _version(self, _: web.Request) -> web.Response:
        if not self.switches.version:
            return error(404, "Not Found")
        return web.json_response({"version": self.switches.version})

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
                "tokens": state.tokens,
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

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, Chat)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if not self.switches.completions:
            return error(404, "Not Found")
        return await self._generate(request, Text)

    async def _abort(self, request: web.Request) -> web.Response:
        """As vLLM: always 200 at once, and the generations end a moment later."""
        status = self.switches.abort_status or self.switches.scale_out
        if status != 200:
            return error(status, "not here")
        ids = (await request.json())["request_ids"]
        delay = self.switches.abort_delay_s
        asyncio.get_running_loop().call_later(delay, self.engine.abort, ids)
        return web.Response()

    def _scale_out(self, answer: Callable[[dict[str, Any], str], Any]) -> Any:
        """A route about tokens, where the server has them."""

        async def handle(request: web.Request) -> web.Response:
            if self.switches.scale_out != 200:
                return error(self.switches.scale_out, "not here")
            body = await request.json()
            if body.get("model", self.model) != self.model:
                return error(404, f"The model `{body['model']}` does not exist.")
            try:
                return web.json_response(answer(body, self.switches.reasoning))
            except ValueError as problem:
                return error(400, str(problem))

        return handle

    def _render(self, body: dict[str, Any], mode: str) -> dict[str, Any]:
        rendered = render(body, mode) | {"token_ids": self._prompt(body)}
        sampling = rendered["sampling_params"]
        own = self.switches.max_new_tokens
        sampling["max_tokens"] = min(filter(None, (sampling["max_tokens"], own)), default=None)
        sampling["presence_penalty"] = sampling["presence_penalty"] or self.switches.penalty
        return rendered

    def _derender(self, body: dict[str, Any], mode: str) -> dict[str, Any]:
        if not self.switches.parses:
            raise ValueError("max_model_len is too small to parse this")
        return derender_chat(body, mode)

    async def _generate(self, request: web.Request, kind: type[Reply]) -> web.StreamResponse:
        body = await request.json()
        if body.get("model") != (self.switches.served_as or self.model):
            return error(404, f"The model `{body.get('model')}` does not exist.")
        if body.get("tools") and not self.switches.takes_tools:
            return error(400, NO_TOOLS)
        name = body_hash(body)
        self.state.received[name] += 1
        self.state.generations += 1
        arrival = self.state.generations
        self.state.in_flight += 1
        try:
            if (fault := self._misbehave(name)) is not None:
                return fault
            if self.switches.drop_at_once and self._passing(name, self.switches.drop_every):
                self.engine.ledger.note("cut", body=name, abruptly=True)
                break_off(request)
                return web.Response()
            with contextlib.suppress(ConnectionResetError):  # the client is gone
                return await self._respond(request, body, name, kind, arrival)
            return web.Response()
        finally:
            self.state.in_flight -= 1

    def _misbehave(self, name: str) -> web.Response | None:
        switches = self.switches
        if switches.die_after and self.state.generations >= switches.die_after:
            os._exit(3)
        if switches.fail_status and self._passing(name, switches.fail_every):
            self.engine.ledger.note("refused", body=name, status=switches.fail_status)
            headers = {"Retry-After": switches.retry_after} if switches.retry_after else None
            return error(switches.fail_status, "fault on demand", headers)
        return None

    def _passing(self, name: str, every: int) -> bool:
        """Whether a fault that passes hits this request now."""
        return hits(name, every) and self.state.received[name] <= self.switches.fail_times

    def _prompt(self, body: dict[str, Any]) -> list[int]:
        return chat_prompt(body, self.switches.reads)

    async def _respond(
        self, request: web.Request, body: dict[str, Any], name: str, kind: type[Reply], arrival: int
    ) -> web.StreamResponse:
        self._numbers += 1
        number = request.headers.get("X-Request-Id") or f"{os.getpid()}-{self._numbers}"
        prompt = text_prompt(body["prompt"]) if "prompt" in body else self._prompt(body)
        stranger = self._passing(name, self.switches.wrong_model_every)
        reply = kind("stranger" if stranger else body["model"], number, body, prompt)
        # of the prompt alone, or a continuation would be of another answer
        empty = hits(prompt_key(split_prompt(prompt)[0]), self.switches.empty_every)
        if isinstance(reply, Chat):
            reply.mode = self.switches.reasoning
            reply.is_null = hits(name, self.switches.null_every)
            empty = empty or reply.is_null
        asked = Asked(kind.abort_id(number), name, body, arrival, stranger)
        generation = self.engine.make(asked, prompt, empty=empty)
        cut = self._cut(name)
        if body.get("stream"):
            interval = int(body.get("stream_interval") or self.switches.stream_interval)
            outputs = self.engine.run(generation, interval)
            half = len(generation.tokens) // 2
            response = await send_events(request, reply, outputs, half, cut)
        else:
            finish = ""
            async for output in self.engine.run(generation, 10**9):
                reply.tokens += output.tokens
                finish = output.finish or finish
            whole = reply.whole(finish)
            if not self.switches.counts:
                del whole["usage"]
            payload = json.dumps(whole)
            response = await send_whole(request, payload, cut)
        self.state.answered[name] += cut is None
        return response

    def _cut(self, name: str) -> Cut | None:
        drops = self._passing(name, self.switches.drop_every)
        if not drops and not self._passing(name, self.switches.truncate_every):
            return None
        self.engine.ledger.note("cut", body=name, abruptly=drops)
        return Cut(drops)


def main(*, as_vllm: bool = False) -> None:
    """Serve until a signal comes."""
    args = parse_vllm_args() if as_vllm else parse_args()
    if args.say:
        print(args.say, flush=True)
    if args.exit_at_start is not None:
        sys.exit(args.exit_at_start)
    switches, mood = switches_of(args)
    if "exit" in mood:
        sys.exit(int(mood["exit"]))
    taken = [socket.create_server((args.host, args.port))] if "port_taken" in mood else []
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    for _ in range(switches.spawn):
        child = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
        print(f"child {child.pid}", flush=True)
    if switches.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = FaultServer(args.model, args.api_key, switches)
    server.port = args.port
    web.run_app(
        server.make_app(),
        host=args.host,
        port=args.port,
        print=None,
        handle_signals=not switches.ignore_term,
        handler_cancellation=True,
        shutdown_timeout=1.0,
        access_log=None,
    )
    for listener in taken:
        listener.close()


if __name__ == "__main__":
    main()
