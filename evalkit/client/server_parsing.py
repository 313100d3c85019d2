"""From token ids to an answer, by the server's own parsers: what it would have said itself.

vLLM's `derender` route runs the detokenizer and the reasoning and tool parsers that its chat route
runs. What the chat route does besides is done here: the token that ends an answer is not part of its
text, and special tokens are left out of it unless a parser needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from evalkit.client.continuable import PRESENCE
from evalkit.client.replies import MalformedReplyError, WrongModelError, read_reply
from evalkit.errors import EvalkitError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.client.replies import ThinkTags
    from evalkit.client.target import Target
    from evalkit.client.transport import Transport
    from evalkit.store.records import Reply
    from evalkit.store.tokens import TokenChain

STATEFUL = frozenset({PRESENCE, "frequency_penalty", "stop", "bad_words", "repetition_detection"})
"""Sampling parameters that look at what was generated. A server may have them from its checkpoint."""
IDS_AT_ONCE = 1000
"""Token ids whose texts are asked for in one request."""


class Rules(NamedTuple):
    """How the server treats requests with tools, or those without."""

    keeps_special: bool
    """A parser needs special tokens in the text."""
    is_constrained: bool
    """What is generated depends on more than the tokens before: a grammar, or what the server adds to
    a request on its own, such as penalties of the checkpoint."""


class ServerParsing:
    """Questions to one server about tokens. What it answers about single ids is remembered."""

    def __init__(self, transport: Transport, target: Target) -> None:
        self._transport = transport
        self._target = target
        self._rules: dict[bytes, Rules] = {}
        self._special: dict[int, bool] = {}
        self._tags: dict[str, int | None] = {}

    async def is_constrained(self, body: Mapping[str, Any]) -> bool:
        """Whether the server adds to a chat request what a continuation would lack. Raises as
        `Transport.post`."""
        return (await self._rules_of(body)).is_constrained

    async def most_tokens(self, body: Mapping[str, Any]) -> int | None:
        """Tokens that the answer may have: of the request, the context and the server's own limits the
        lowest. Null where it does not say. Raises as `Transport.post`."""
        limit = (await self._render(body)).get("max_tokens")
        return limit if isinstance(limit, int) else None

    async def _rules_of(self, body: Mapping[str, Any]) -> Rules:
        kind = _kind_of(body)
        if kind not in self._rules:
            sampling = await self._render(body)
            added = {name: value for name, value in sampling.items() if name in STATEFUL}
            asked = {PRESENCE: body.get(PRESENCE) or 0}
            self._rules[kind] = Rules(
                keeps_special=sampling.get("skip_special_tokens") is False,
                is_constrained=sampling.get("structured_outputs") is not None
                or any(value not in (None, [], asked.get(name, 0)) for name, value in added.items())
                or (bool(asked[PRESENCE]) and sampling.get("repetition_penalty") not in (None, 1)),
            )
        return self._rules[kind]

    async def _render(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """What the server samples a chat request with: its own defaults are filled in."""
        url = f"{self._target.base_url}/chat/completions/render"
        sampling = (await self._ask(url, body)).get("sampling_params")
        if not isinstance(sampling, dict):
            raise MalformedReplyError(f"{url} names no sampling parameters")
        return sampling

    async def parse(
        self, body: Mapping[str, Any], chain: TokenChain, think_tags: ThinkTags | None
    ) -> Reply:
        """The reply that a whole generation is. Raises as `Transport.post`."""
        tokens = chain.tokens.tolist()
        # an answer that ended by itself ended with a token that is no text
        ended_itself = chain.finish_reason == "stop"
        spoken = await self._without_special(body, tokens[:-1] if ended_itself else tokens)
        answer = await self._derender(body, chain, spoken) if spoken else _nothing(self._target)
        choice = _only_choice(answer, self._target)
        called = choice["message"].get("tool_calls")
        choice["finish_reason"] = "tool_calls" if called else chain.finish_reason
        answer["usage"] = chain.usage or await self._usage(chain, choice["message"], think_tags)
        return read_reply(answer, think_tags, None)

    async def _derender(
        self, body: Mapping[str, Any], chain: TokenChain, spoken: Sequence[int]
    ) -> dict[str, Any]:
        prompt = chain.prompt.tolist()
        generated = {
            "request_id": "evalkit",
            "choices": [{"index": 0, "token_ids": spoken, "finish_reason": chain.finish_reason}],
            "prompt_token_ids": prompt,
        }
        fields = {
            "model": self._target.model,
            "generate_response": generated,
            "prompt_tokens": len(prompt),
            "prompt_token_ids": prompt,
            "chat_request": {**body, "stream": False},
        }
        return await self._ask(f"{self._target.url}/derender", fields)

    async def _without_special(
        self, body: Mapping[str, Any], tokens: Sequence[int]
    ) -> Sequence[int]:
        if (await self._rules_of(body)).keeps_special:
            return tokens
        unknown = sorted(set(tokens) - self._special.keys())
        for start in range(0, len(unknown), IDS_AT_ONCE):
            await self._learn(unknown[start : start + IDS_AT_ONCE])
        return [token for token in tokens if not self._special[token]]

    async def _learn(self, tokens: Sequence[int]) -> None:
        """Which ids are special: those that have a text, and none when special ones are skipped."""
        kept = await self._texts(tokens, skip_special=False)
        skipped = await self._texts(tokens, skip_special=True)
        for token, text, rest in zip(tokens, kept, skipped, strict=True):
            self._special[token] = bool(text) and not rest

    async def _texts(self, tokens: Sequence[int], *, skip_special: bool) -> list[str]:
        fields = {
            "model": self._target.model,
            "generate_responses": [
                {"request_id": "evalkit", "choices": [{"index": 0, "token_ids": [token]}]}
                for token in tokens
            ],
            "completion_request": {
                "model": self._target.model,
                "prompt": "1",
                "skip_special_tokens": skip_special,
            },
        }
        answer = await self._ask(f"{self._target.base_url}/completions/derender", fields)
        choices = [c for c in answer.get("choices") or () if isinstance(c, dict)]
        texts = [text for c in choices if isinstance(text := c.get("text"), str)]
        if len(texts) != len(tokens):
            raise MalformedReplyError(f"{len(texts)} texts of {len(tokens)} tokens")
        return texts

    async def _usage(
        self, chain: TokenChain, message: Mapping[str, Any], think_tags: ThinkTags | None
    ) -> dict[str, Any]:
        """Tokens of prompt and answer, as if there had been no interruption."""
        usage: dict[str, Any] = {
            "prompt_tokens": len(chain.prompt),
            "completion_tokens": len(chain.tokens),
        }
        count = await self._reasoning(chain, message, think_tags)
        if count is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": count}
        return usage

    async def _reasoning(
        self, chain: TokenChain, message: Mapping[str, Any], think_tags: ThinkTags | None
    ) -> int | None:
        if not message.get("reasoning"):
            return 0 if self._target.counts_reasoning else None
        opening, closing = [await self._tag(tag) for tag in (think_tags or ("", ""))[:2]]
        return None if closing is None else count_reasoning(chain.tokens, opening, closing)

    async def _tag(self, tag: str | None) -> int | None:
        """The token that a tag is; null when it is not one token, or the server does not say."""
        if not tag:
            return None
        if tag not in self._tags:
            fields = {"model": self._target.model, "prompt": tag, "add_special_tokens": False}
            try:
                answer = await self._ask(f"{self._target.root}/tokenize", fields)
            except EvalkitError:
                answer = {}  # there is no such route: the count stays unknown
            tokens = answer.get("tokens") or []
            self._tags[tag] = tokens[0] if len(tokens) == 1 else None
        return self._tags[tag]

    async def abort(self, names: Sequence[str]) -> None:
        """Have the server end requests by the names they were sent under. Raises as `post`."""
        ids = [f"{kind}-{name}" for name in names for kind in ("chatcmpl", "cmpl")]
        ids += [f"cmpl-{name}-0" for name in names]  # a completion numbers its prompts
        await self._transport.post(
            f"{self._target.root}/inference/v1/abort_requests",
            orjson.dumps({"request_ids": ids}),
            {"Connection": "close"},
        )

    def check_model(self, event: Mapping[str, Any]) -> None:
        """Raise WrongModelError for an answer by another model, from a server of ours."""
        if self._target.is_ours and event.get("model") != self._target.model:
            raise WrongModelError(
                f"asked {self._target.model!r}, answered by {event.get('model')!r}"
            )

    async def _ask(self, url: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        content = await self._transport.post(url, orjson.dumps(fields))
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            shown = self._target.hide_in(content)[:200]
            raise MalformedReplyError(f"{url} answers no JSON object: {shown!r}")
        return answer


def count_reasoning(tokens: Sequence[int], opening: int | None, closing: int) -> int:
    """Tokens inside reasoning tags, the tags not counted. Templates may have put the first opening
    tag into the prompt: a closing one without it ends what began there."""
    count, depth = 0, 0
    first = next((token for token in tokens if token in (opening, closing)), None)
    if first != opening or opening is None:
        depth = 1
    for token in tokens:
        if token == opening:
            depth += 1
        elif token == closing:
            depth = max(0, depth - 1)
        elif depth:
            count += 1
    return count


def _kind_of(body: Mapping[str, Any]) -> bytes:
    """Requests of one kind are treated alike: equal in all but questions, seeds and which tools."""
    kind = {name: value for name, value in body.items() if name not in ("messages", "seed")}
    tools = body.get("tools") or ()
    kind["tools"] = sorted({bool((tool.get("function") or {}).get("strict")) for tool in tools})
    return orjson.dumps(kind, option=orjson.OPT_SORT_KEYS)


def _only_choice(answer: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """The choice with its message. Raises MalformedReplyError where there is none."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise MalformedReplyError(f"no parsed answer: {target.hide(str(answer))[:200]}")
    return choice


def _nothing(target: Target) -> dict[str, Any]:
    """The answer of a model that ended at once."""
    return {"model": target.model, "choices": [{"message": {"content": ""}}]}
