"""Replies of the fault server as vLLM 0.32 writes them: whole, in chunks, cut off, and derendered.

Field for field what `entrypoints/openai/{chat_completion,completion}/serving.py` and
`entrypoints/scale_out/derender` of vLLM send: where token ids stand, which chunk has the prompt's,
what an abort looks like before the first token.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from aiohttp import web

from tests.faults.fault_tokens import (
    Parser,
    chat_prompt,
    count_thought,
    decode,
    encode,
    message_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from tests.faults.fault_engine import Output

FIELDS = ("reasoning", "reasoning_content")


def error(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error as the OpenAI API writes it."""
    body = {"error": {"message": text, "type": "fault", "code": status}}
    return web.json_response(body, status=status, headers=headers)


def reasoning_field(mode: str) -> str | None:
    """The message's field that takes reasoning; null where it stays in the content."""
    return mode if mode in FIELDS else None


class Reply:
    """An answer on its way to one client."""

    prefix: ClassVar[str]
    part: ClassVar[str]
    """`object` of a chunk."""

    def __init__(
        self, model: str, number: str, body: dict[str, Any], prompt: Sequence[int]
    ) -> None:
        self.head = {"id": f"{self.prefix}-{number}", "created": 0, "model": model}
        self.shows_tokens = bool(body.get("return_token_ids"))
        self.shows_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self.prompt = list(prompt)
        self.tokens: list[int] = []

    @classmethod
    def abort_id(cls, number: str) -> str:
        """The id that ends it: a completion's has the index of its prompt at the end."""
        raise NotImplementedError

    def begin(self) -> dict[str, Any] | None:
        """The chunk before the first token."""
        return None

    def chunk(self, tokens: Sequence[int], finish: str | None) -> dict[str, Any]:
        """A chunk with these tokens."""
        first = not self.tokens
        self.tokens += tokens
        choice = {"index": 0, **self._delta(tokens, finish, first), "logprobs": None}
        choice["token_ids"] = list(tokens) if self.shows_tokens else None
        if finish is not None:
            choice["stop_reason"] = None
        return {**self.head, "object": self.part, "choices": [choice]}

    def usage(self) -> dict[str, Any]:
        """Tokens so far."""
        prompt, answer = len(self.prompt), len(self.tokens)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }

    def _delta(self, tokens: Sequence[int], finish: str | None, first: bool) -> dict[str, Any]:
        raise NotImplementedError

    def whole(self, finish: str) -> dict[str, Any]:
        """The answer in one piece, of the tokens taken so far."""
        raise NotImplementedError


class Chat(Reply):
    """A chat completion."""

    prefix, part = "chatcmpl", "chat.completion.chunk"

    def __init__(
        self, model: str, number: str, body: dict[str, Any], prompt: Sequence[int]
    ) -> None:
        super().__init__(model, number, body, prompt)
        self.mode = "none"
        self.is_null = False
        self._parser: Parser | None = None

    @classmethod
    def abort_id(cls, number: str) -> str:
        """As its own id."""
        return f"{cls.prefix}-{number}"

    def usage(self) -> dict[str, Any]:
        """Tokens so far, those of reasoning too where there is a parser."""
        used: dict[str, Any] = super().usage()
        if reasoning_field(self.mode) is not None:
            used["completion_tokens_details"] = {"reasoning_tokens": count_thought(self.tokens)}
        return used

    def begin(self) -> dict[str, Any]:
        """The role, and the prompt's tokens for the whole reply."""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        shown = self.prompt if self.shows_tokens else None
        return {
            **self.head,
            "object": self.part,
            "choices": [choice],
            "prompt_token_ids": shown,
        }

    def _delta(self, tokens: Sequence[int], finish: str | None, first: bool) -> dict[str, Any]:
        self._parser = self._parser or Parser(reasoning_field(self.mode))
        delta = self._parser.feed(tokens)
        if finish == "stop" and self._parser.called:
            finish = "tool_calls"
        return {"delta": delta, "finish_reason": finish}

    def whole(self, finish: str) -> dict[str, Any]:
        """A chat completion."""
        message = message_of(self.tokens, reasoning_field(self.mode))
        if self.is_null:
            message["content"] = None
        if finish == "stop" and message.get("tool_calls"):
            finish = "tool_calls"
        choice = {"index": 0, "message": message, "finish_reason": finish, "stop_reason": None}
        choice["token_ids"] = self.tokens if self.shows_tokens else None
        return {
            **self.head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self.usage(),
            "prompt_token_ids": self.prompt if self.shows_tokens else None,
        }


class Text(Reply):
    """A completion: text without a parser, markup left out."""

    prefix, part = "cmpl", "text_completion"

    @classmethod
    def abort_id(cls, number: str) -> str:
        """Its id and the index of its prompt."""
        return f"{cls.prefix}-{number}-0"

    def _delta(self, tokens: Sequence[int], finish: str | None, first: bool) -> dict[str, Any]:
        prompt = self.prompt if first and self.shows_tokens else None
        text = decode(tokens, markup=False)
        return {"text": text, "finish_reason": finish, "prompt_token_ids": prompt}

    def whole(self, finish: str) -> dict[str, Any]:
        """A completion."""
        choice = {
            "index": 0,
            "text": decode(self.tokens, markup=False),
            "finish_reason": finish,
            "stop_reason": None,
            "token_ids": self.tokens if self.shows_tokens else None,
            "prompt_token_ids": self.prompt if self.shows_tokens else None,
        }
        return {
            **self.head,
            "object": self.part,
            "choices": [choice],
            "usage": self.usage(),
        }


def render(body: dict[str, Any], mode: str) -> dict[str, Any]:
    """What a chat request becomes for the engine. A parser needs to see the markup."""
    sampling = {
        "skip_special_tokens": mode not in FIELDS,
        "structured_outputs": None,
        "max_tokens": body.get("max_completion_tokens") or body.get("max_tokens"),
        "presence_penalty": body.get("presence_penalty") or 0.0,
        "frequency_penalty": body.get("frequency_penalty") or 0.0,
        "repetition_penalty": body.get("repetition_penalty") or 1.0,
        "stop": body.get("stop") or [],
    }
    return {"token_ids": chat_prompt(body), "sampling_params": sampling}


def derender_chat(body: dict[str, Any], mode: str) -> dict[str, Any]:
    """Tokens of a chat's answer, parsed as if the server had just generated them."""
    generated = body["generate_response"]
    if mode in FIELDS and body.get("chat_request") is None:
        raise ValueError("chat_request is required when a parser is configured")
    shows = bool((body.get("chat_request") or {}).get("return_token_ids"))
    choices = []
    for given in generated["choices"]:
        if not given.get("token_ids"):
            raise ValueError(f"choice {given['index']} has empty or null token_ids")
        part = {"message": message_of(given["token_ids"], reasoning_field(mode))}
        choices.append(_choice(given, part, shows))
    return _derendered(body, generated, choices, body.get("prompt_tokens") or 0)


def derender_text(body: dict[str, Any], mode: str) -> dict[str, Any]:
    """Tokens of completions as text. Markup is special, and may be left out, where it is parsed."""
    skips = (body.get("completion_request") or {}).get("skip_special_tokens", True)
    choices = [
        _choice(given, {"text": decode(given["token_ids"], markup=not (skips and mode in FIELDS))})
        for generated in body["generate_responses"]
        for given in generated["choices"]
    ]
    return _derendered(body, body["generate_responses"][0], choices, 0)


def _choice(given: dict[str, Any], part: dict[str, Any], shows: bool = False) -> dict[str, Any]:
    kept = {name: given.get(name) for name in ("index", "finish_reason", "stop_reason")}
    return {**kept, **part, "token_ids": given["token_ids"] if shows else None}


def _derendered(
    body: dict[str, Any], generated: dict[str, Any], choices: list[dict[str, Any]], prompt: int
) -> dict[str, Any]:
    count = sum(len(given["token_ids"]) for given in generated["choices"])
    used = {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}
    head = {"id": generated.get("request_id"), "created": 0, "model": body.get("model")}
    return {**head, "choices": choices, "usage": used}


def tokenize(body: dict[str, Any], mode: str) -> dict[str, Any]:
    """Tokens of a text."""
    tokens = encode(body["prompt"])
    return {"tokens": tokens, "count": len(tokens)}


class Cut(NamedTuple):
    """Where an answer is broken off."""

    abruptly: bool
    """The connection is reset; otherwise the answer just ends, within a line of JSON."""


async def send_whole(request: web.Request, payload: str, cut: Cut | None) -> web.StreamResponse:
    """A payload, or half of it."""
    if cut is None:
        return web.Response(text=payload, content_type="application/json")
    half = payload[: len(payload) // 2]
    if not cut.abruptly:
        return web.Response(text=half, content_type="application/json")
    response = web.StreamResponse(headers={"Content-Length": str(len(payload.encode()))})
    await response.prepare(request)
    await response.write(half.encode())
    break_off(request)
    return response


async def send_events(
    request: web.Request,
    reply: Reply,
    outputs: AsyncGenerator[Output, None],
    cut_at: int,
    cut: Cut | None,
) -> web.StreamResponse:
    """The same as server-sent events; with `cut` it ends once `cut_at` tokens are sent."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)

    async def send(event: dict[str, Any]) -> None:
        await response.write(f"data: {json.dumps(event)}\n\n".encode())

    begun = False
    async with contextlib.aclosing(outputs):
        async for tokens, finish in outputs:
            if not begun and (first := reply.begin()) is not None:
                await send(first)
            begun = True
            if tokens or reply.tokens:  # aborted before the first token: no chunk says so
                await send(reply.chunk(tokens, finish))
            if cut is not None and len(reply.tokens) >= cut_at:
                await response.write(b'data: {"id": "')
                if cut.abruptly:
                    break_off(request)
                return response
    if reply.shows_usage:
        await send({**reply.head, "object": reply.part, "choices": [], "usage": reply.usage()})
    await response.write(b"data: [DONE]\n\n")
    return response


def break_off(request: web.Request) -> None:
    """Reset the connection."""
    if request.transport is not None:
        request.transport.abort()
