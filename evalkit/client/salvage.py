"""Generations that survive their server: their tokens are kept as they come, and gone on from.

For servers that hand out token ids, can be told to stop a request and give what they have, and
parse tokens into an answer (vLLM with `--enable-scale-out`). A long answer is streamed, so that its
tokens are journaled chunk by chunk; a short one is asked for as usual. When the worker has to end,
`interrupt` takes the tokens of everything in flight. Who does such a call next sends prompt and
tokens as a completion, and has the server parse the whole as it would have parsed an undisturbed
answer: reasoning, tool calls, limits and usage are those of one generation.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.client.continuable import (
    continuation,
    continued_seed,
    is_continuable,
    most_tokens,
    streamed,
)
from evalkit.client.kept_tokens import Salvaged
from evalkit.client.replies import INTERRUPTED, MalformedReplyError, read_reply
from evalkit.client.server_parsing import ServerParsing
from evalkit.client.transport import AnsweredError, PassingFaultError
from evalkit.errors import EvalkitError, InfraError
from evalkit.store.records import Continuation

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.client.kept_tokens import Tokens
    from evalkit.client.replies import ThinkTags
    from evalkit.client.request import Request
    from evalkit.client.target import Target
    from evalkit.client.transport import Transport
    from evalkit.store.records import Reply
    from evalkit.store.tokens import TokenChain

log = logging.getLogger("evalkit.worker")

MAX_STUCK = 2
"""Servers in a row that failed on a continuation before its first token, before the call starts again
from nothing: they may die of this very prompt, and must not take the run with them."""
UNIT_ENDED = "the unit has ended"
"""Message of a cancel that says nothing about the server."""
ABORT_AGAIN_S = 0.2
"""A server of several processes passes each connection to one of them: ask until all have heard."""


class Salvager:
    """Calls of one endpoint whose tokens are kept. Use it from one event loop."""

    def __init__(
        self,
        transport: Transport,
        target: Target,
        clock: Callable[[], float],
        on_tokens: Callable[[int], None],
    ) -> None:
        """`clock` measures seconds; `on_tokens` hears of tokens as they come."""
        self._transport = transport
        self._target = target
        self._clock = clock
        self._on_tokens = on_tokens
        self._parsing = ServerParsing(transport, target)
        # Two workers of one endpoint must not give up each other's requests.
        self._prefix = f"evalkit-{secrets.token_hex(4)}"
        self._numbers = itertools.count()
        self._open: set[str] = set()
        self._suspects = asyncio.Lock()
        self._interrupting = False

    async def answer(
        self, request: Request, think_tags: ThinkTags | None, tokens: Tokens
    ) -> Salvaged | None:
        """The answer to a request; null when it is not one that can be continued.

        Raises as `Transport.post`; tokens that came are kept then, and the next call goes on from
        them. After `interrupt` it does not return: it waits to be cancelled.
        """
        body: dict[str, Any] = orjson.loads(request.payload)
        presence = self._target.can_continue_presence
        if not is_continuable(body, presence=presence) or await self._parsing.is_constrained(body):
            return None
        name = f"{self._prefix}-{next(self._numbers)}"
        try:
            return await self._answer(name, body, think_tags, tokens)
        finally:
            self._open.discard(name)

    async def _answer(
        self, name: str, body: dict[str, Any], think_tags: ThinkTags | None, tokens: Tokens
    ) -> Salvaged:
        chain = self._usable(body, tokens.load())
        if chain is None and self._is_short(body):
            return await self._ask(name, body, think_tags, tokens)
        began, before = self._clock(), 0.0 if chain is None else chain.elapsed_s
        try:
            if chain is None:
                chain = tokens.begin()
                await self._read(name, self._target.url, body, chain, tokens, AsyncExitStack())
            elif chain.finish_reason is None:
                await self._go_on(name, body, chain, tokens)
            self._open.add(name)
            reply = await self._parse(body, chain, think_tags)
        except BaseException:
            # a cancelled task too: the server has died, or the worker ends
            if chain is not None:
                chain.elapsed_s = before + self._clock() - began
            tokens.save()
            raise
        return Salvaged(reply, chain.continued, before + self._clock() - began)

    async def _parse(
        self, body: dict[str, Any], chain: TokenChain, think_tags: ThinkTags | None
    ) -> Reply:
        """The server's reading of a whole generation. One that it refuses says nothing of the model:
        the call begins anew, once."""
        try:
            return await self._parsing.parse(body, chain, think_tags)
        except (AnsweredError, InfraError) as error:
            chain.stuck = MAX_STUCK
            refused = f"the server does not parse what it generated: {_said(error)}"
            if chain.begun:
                raise InfraError(refused) from error
            raise PassingFaultError(refused) from error

    def _is_short(self, body: dict[str, Any]) -> bool:
        most = most_tokens(body, 0, self._target.max_model_len)
        return most is not None and most <= self._target.stream_interval

    async def _ask(
        self, name: str, body: dict[str, Any], think_tags: ThinkTags | None, tokens: Tokens
    ) -> Salvaged:
        """The server's whole answer in one piece: there is no chunk to wait for."""
        payload = orjson.dumps({**body, "stream": False, "return_token_ids": True})
        await self._open_or_park(name)
        content = await self._transport.post(self._target.url, payload, {"X-Request-Id": name})
        try:
            answer = orjson.loads(content)
            choice = answer["choices"][0]
            if choice["finish_reason"] in INTERRUPTED:
                chain = tokens.begin()
                chain.begin(answer.get("prompt_token_ids") or [])
                chain.add(choice.get("token_ids") or [])
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
            shown = self._target.hide_in(content)[:200]
            raise MalformedReplyError(f"not a chat completion: {shown!r}") from None
        if choice["finish_reason"] in INTERRUPTED:
            await self._end_interrupted(name, tokens)
        self._parsing.check_model(answer)
        reply = read_reply(answer, think_tags, None, content)
        self._on_tokens(reply.usage.completion_tokens or 0)
        return Salvaged(reply)

    async def _go_on(
        self, name: str, body: dict[str, Any], chain: TokenChain, tokens: Tokens
    ) -> None:
        at = len(chain.tokens)
        left = (await self._most_tokens(body, chain) or at) - at
        if left <= 0:
            chain.finish_reason = "length"
            return
        seed = continued_seed(body.get("seed"), at)
        before = tuple(
            each for each in chain.continued if each.at != at
        )  # a try that brought nothing
        chain.continued, chain.usage = (*before, Continuation(at, seed)), None
        url = f"{self._target.base_url}/completions"
        fields = continuation(body, chain, left, seed)
        async with AsyncExitStack() as alone:
            if chain.stuck:  # one suspect at a time, so that it takes no other along
                await alone.enter_async_context(self._suspects)
            try:
                await self._read(name, url, fields, chain, tokens, alone)
            except (asyncio.CancelledError, PassingFaultError) as error:
                if len(chain.tokens) == at and self._may_have_killed(error):
                    chain.blame(self._target.server)
                raise
            except (AnsweredError, InfraError) as error:
                chain.stuck = MAX_STUCK  # what is refused once is refused again
                raise PassingFaultError(f"the continuation was refused: {_said(error)}") from error

    async def _most_tokens(self, body: dict[str, Any], chain: TokenChain) -> int | None:
        """Tokens that the whole answer may have, on this server: another one may have ended it later."""
        known = most_tokens(body, len(chain.prompt), self._target.max_model_len)
        said = await self._parsing.most_tokens(body)
        limits = [limit for limit in (known, said) if limit is not None]
        return min(limits) if limits else None

    async def _read(
        self,
        name: str,
        url: str,
        fields: dict[str, Any],
        chain: TokenChain,
        tokens: Tokens,
        until_first: AsyncExitStack,
    ) -> None:
        """Read a stream into the chain until the server ends it; `until_first` is closed with the
        first token."""
        payload = orjson.dumps(streamed(fields, self._target.stream_interval))
        await self._open_or_park(name)
        events = self._transport.stream(url, payload, {"X-Request-Id": name})
        async with aclosing(events):
            async for event in events:
                if self._take(event, chain):
                    await until_first.aclose()
                    if chain.finish_reason is None:
                        tokens.save()
        if chain.finish_reason is None:
            raise PassingFaultError(f"a stream of {url} ended in the middle", dropped=True)
        if chain.finish_reason in INTERRUPTED:
            chain.finish_reason = None
            await self._end_interrupted(name, tokens)

    def _take(self, event: dict[str, Any], chain: TokenChain) -> bool:
        """Whether an event brought tokens. Raises MalformedReplyError."""
        try:
            self._parsing.check_model(event)
            choice: dict[str, Any] = next(iter(event["choices"]), {})
            if not chain.prompt:
                prompt = event.get("prompt_token_ids") or choice.get("prompt_token_ids") or []
                chain.begin(prompt)
            new = choice.get("token_ids") or []
            chain.add(new)
            ended = choice.get("finish_reason") or chain.finish_reason
            # what the tokens call is for the parser of the whole to say
            chain.finish_reason = "stop" if ended == "tool_calls" else ended
            if event.get("usage") and not chain.continued:
                chain.usage = event["usage"]
        except (KeyError, TypeError, AttributeError, OverflowError):
            shown = self._target.hide(repr(event))[:300]
            raise MalformedReplyError(f"not a chunk of a completion: {shown}") from None
        self._on_tokens(len(new))
        return bool(new)

    async def _end_interrupted(self, name: str, tokens: Tokens) -> None:
        tokens.save()
        self._open.discard(name)
        await self._open_or_park(name)
        raise PassingFaultError("the server interrupted the generation")

    async def _open_or_park(self, name: str) -> None:
        """Note a request that is sent now. While the worker ends nothing is: wait to be cancelled."""
        if self._interrupting:
            await asyncio.Event().wait()
        self._open.add(name)

    def _usable(self, body: dict[str, Any], chain: TokenChain | None) -> TokenChain | None:
        """The chain, where there is something to go on from and no reason not to."""
        if chain is None or not chain.tokens or not chain.prompt:
            return None
        if most_tokens(body, len(chain.prompt), self._target.max_model_len) is None:
            return None  # nobody knows how many tokens may follow
        if chain.stuck >= MAX_STUCK:
            log.warning(
                "a generation of %d tokens begins anew: no server goes on from them",
                len(chain.tokens),
            )
            return None
        return chain

    async def interrupt(self, within_s: float) -> int:
        """Have the server give up all that is in flight and keep the tokens of it.

        Returns how many calls did not answer in time; their tokens up to the last chunk are kept.
        """
        self._interrupting = True
        said = False
        deadline = self._clock() + within_s
        while self._open and (left := deadline - self._clock()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._parsing.abort(sorted(self._open))
                    await asyncio.sleep(min(ABORT_AGAIN_S, left))
            except (PassingFaultError, EvalkitError, TimeoutError) as error:
                if not said:
                    log.warning("the server did not hand out tokens: %r", error)
                said = True
                await asyncio.sleep(min(ABORT_AGAIN_S, max(0.0, deadline - self._clock())))
        return len(self._open)

    def _may_have_killed(self, error: BaseException) -> bool:
        """Whether a server that had taken the request may have died of it: not where the worker, or
        the unit, only gave it up."""
        if isinstance(error, PassingFaultError):
            return error.dropped or error.status == 500
        return not self._interrupting and UNIT_ENDED not in error.args


def _said(error: AnsweredError | InfraError) -> str:
    """What the server said."""
    return (error.reply.detail or "") if isinstance(error, AnsweredError) else error.message
