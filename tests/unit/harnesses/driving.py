"""A gateway without a model behind it, for programs that ask one: answers come from a function."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

KEY = "key-of-this-unit"
MODEL = "tiny"


@dataclass
class FakeDriving:
    """What `drive()` gives: programs are started as they are, in a folder of their own."""

    run_folder: Path
    name: str
    base_url: str
    api_key: str = KEY
    model: str = MODEL

    @property
    def folder(self) -> Path:
        return self.run_folder / self.name

    async def run(self, command: Sequence[str], env: Mapping[str, str], log: str) -> int:
        with (self.folder / log).open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=self.folder, env=dict(env), stdout=file, stderr=file
            )
            try:
                return await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()


@dataclass
class FakeModel:
    """A handle of which driven benchmarks use `drive` alone."""

    run_folder: Path
    answer: Callable[[dict[str, Any], int], str | int]
    """Of a request's body and how many equal questions came before: a text, or an HTTP status."""
    repeat: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    prepare: Callable[[Path], None] | None = None
    """Puts something into the folder before the program starts."""
    _asked: Counter[str] = field(default_factory=Counter)
    _drives: int = 0

    @contextlib.asynccontextmanager
    async def drive(self) -> AsyncIterator[FakeDriving]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            driving = FakeDriving(
                self.run_folder, f"driven/{self._drives:03}", f"http://127.0.0.1:{port}/v1"
            )
            self._drives += 1
            driving.folder.mkdir(parents=True)
            if self.prepare is not None:
                self.prepare(driving.folder)
            yield driving
        finally:
            await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "wrong key"}}, status=401)
        body = await request.json()
        self.bodies.append(body)
        question = str(body["messages"])
        before = self._asked[question]
        self._asked[question] += 1
        said = self.answer(body, before)
        if isinstance(said, int):
            return web.json_response({"error": {"message": "no answer"}}, status=said)
        return web.json_response(_completion(body["model"], said))


def _completion(model: str, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
