"""Calls through real HTTP: what is retried, what stops everything, and how much is in flight."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from aiohttp import web

from evalkit.client.calls import MAX_FAILURES_IN_A_ROW, CallClient
from evalkit.client.target import Target
from evalkit.clock import SYSTEM_CLOCK, Clock
from evalkit.errors import EndpointError, InfraError
from evalkit.recipe.schema import Client
from evalkit.recipe.serving import Price
from evalkit.store.records import Outcome
from tests.unit.client.servers import (
    MODEL,
    Gate,
    Script,
    ask,
    client_of,
    cut_short,
    drops,
    refuses,
    says,
    serve,
    serve_anything,
)


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between tries, which then take no time."""
    waited: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds:
            waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    return waited


async def test_answer() -> None:
    """A reply with its timing; the client counts what it completed."""
    async with serve(Script(says("The answer"))) as url, client_of(url) as client:
        answer = await client.call(ask(), None)
        assert answer.reply.content == "The answer"
        assert answer.timing.retries == 0
        assert answer.timing.latency_s > 0
        assert (client.completed, client.completion_tokens, client.in_flight) == (1, 2, 0)


@pytest.mark.parametrize(
    "fault",
    [refuses(500), refuses(503), refuses(408), refuses(409), cut_short],
    ids=["500", "503", "408", "409", "cut"],
)
async def test_passing_fault_is_retried(fault: Any, delays: list[float]) -> None:
    """What passes costs retries and nothing else, and the answer says how many."""
    script = Script(fault, fault, says())
    async with serve(script) as url, client_of(url) as client:
        answer = await client.call(ask(), None)
    assert answer.reply.outcome is Outcome.OK
    assert answer.timing.retries == 2 == len(delays)
    assert script.received == 3


async def test_retry_after_is_kept(delays: list[float]) -> None:
    """The client waits at least as long as the server asked."""
    script = Script(refuses(500, **{"Retry-After": "30"}), says())
    async with serve(script) as url, client_of(url) as client:
        await client.call(ask(), None)
    assert len(delays) == 1
    assert delays[0] >= 30


async def test_retries_end(delays: list[float]) -> None:
    """A fault that stays is ours in the end, with the last reason and the number of retries."""
    script = Script(refuses(500, "engine dead"))
    async with serve(script) as url, client_of(url, max_retries=3) as client:
        with pytest.raises(InfraError) as caught:
            await client.call(ask(), None)
        assert client.in_flight == 0
    assert str(caught.value) == "status 500: engine dead (after 3 retries)"
    assert script.received == 4
    assert len(delays) == 3


async def test_nobody_listens(delays: list[float], unused_tcp_port: int) -> None:
    """A connection that is refused is retried, and the error names the URL."""
    url = f"http://127.0.0.1:{unused_tcp_port}/v1"
    async with client_of(url, max_retries=2) as client:
        with pytest.raises(InfraError, match=rf"no answer from {url}(.|\n)*after 2 retries"):
            await client.call(ask(), None)
    assert len(delays) == 2


async def test_total_timeout(delays: list[float]) -> None:
    """With a timeout in the recipe, a request that takes longer is a passing fault."""
    async with serve(Gate(2)) as url, client_of(url, timeout_s=0.05, max_retries=0) as client:
        with pytest.raises(InfraError, match="TimeoutError"):
            await client.call(ask(), None)


async def test_context_overflow_is_the_models() -> None:
    """A request that does not fit is an outcome, sent once."""
    script = Script(refuses(400, "This model's maximum context length is 8 tokens."))
    async with serve(script) as url, client_of(url) as client:
        answer = await client.call(ask(), None)
    assert answer.reply.outcome is Outcome.CONTEXT_OVERFLOW
    assert script.received == 1


async def test_bad_request_is_not_retried() -> None:
    """A request that was refused costs its unit, with the server's words, and no other."""
    script = Script(refuses(400, "unknown parameter"), says())
    async with serve(script) as url, client_of(url) as client:
        with pytest.raises(InfraError) as caught:
            await client.call(ask(), None)
        assert str(caught.value) == (
            f"{url}/chat/completions refused with status 400: unknown parameter"
        )
        assert (await client.call(ask(1), None)).reply.outcome is Outcome.OK
    assert script.received == 2


@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_refusal_of_everything(status: int) -> None:
    """A wrong key, model or path stops the engine at once, with what to check."""
    script = Script(refuses(status, "not you"))
    async with serve(script) as url, client_of(url) as client:
        with pytest.raises(EndpointError) as caught:
            await client.call(ask(), None)
    assert str(caught.value) == (
        f"{url}/chat/completions refused with status {status}: not you\n"
        "Check the key, the model id and the base URL."
    )
    assert script.received == 1


async def test_another_models_answer() -> None:
    """Our own server must answer with our model's name; a hosted one may call it as it likes."""
    script = Script(says(model="stranger"))
    async with serve(script) as url:
        async with client_of(url) as client:
            with pytest.raises(EndpointError, match="asked 'tiny', answered by 'stranger'"):
                await client.call(ask(), None)
        async with client_of(url, is_ours=False) as client:
            assert (await client.call(ask(), None)).reply.content == "42"


async def test_failures_in_a_row() -> None:
    """Failures without a success between them stop the engine; a success starts the count anew."""
    script = Script(*[refuses(400)] * 10, says(), refuses(400))
    async with serve(script) as url, client_of(url) as client:
        for number in range(10):
            with pytest.raises(InfraError):
                await client.call(ask(number), None)
        await client.call(ask(), None)
        for number in range(MAX_FAILURES_IN_A_ROW - 1):
            with pytest.raises(InfraError):
                await client.call(ask(number), None)
        with pytest.raises(EndpointError, match=f"{MAX_FAILURES_IN_A_ROW} calls in a row failed"):
            await client.call(ask(), None)


@pytest.mark.parametrize("parallelism", [1, 7, 150])
async def test_parallelism_is_reached_and_never_exceeded(parallelism: int) -> None:
    """As many requests are in flight as the recipe allows (aiohttp's own limit is 100), and no more."""
    gate = Gate(parallelism)
    async with serve(gate) as url, client_of(url, parallelism=parallelism) as client:
        async with asyncio.timeout(30):
            calls = [
                asyncio.create_task(client.call(ask(n), None)) for n in range(2 * parallelism + 5)
            ]
            while not gate.open.is_set():
                assert client.in_flight <= parallelism
                await asyncio.sleep(0)
            await asyncio.gather(*calls)
        assert client.completed == 2 * parallelism + 5
    assert gate.most == parallelism


async def test_cancelled_call_frees_its_place() -> None:
    """A call that is given up leaves nothing in flight."""
    gate = Gate(2)
    async with serve(gate) as url, client_of(url, parallelism=1) as client:
        call = asyncio.create_task(client.call(ask(), None))
        while not gate.now:
            await asyncio.sleep(0)
        assert client.in_flight == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert client.in_flight == 0
        gate.open.set()
        assert (await client.call(ask(), None)).reply.content == "42"


async def test_headers_and_bytes() -> None:
    """The key goes along, and the body is the one that was hashed, byte for byte."""
    seen: dict[str, Any] = {}

    async def keep(request: Any) -> Any:
        seen.update(body=await request.read(), headers=dict(request.headers))
        return says()()

    headers = {"Authorization": "Bearer key"}
    async with serve(keep) as url, client_of(url, headers=headers) as client:
        await client.call(ask(), None)
    assert seen["body"] == ask().payload
    assert seen["headers"]["Authorization"] == "Bearer key"
    assert seen["headers"]["Content-Type"] == "application/json"


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
async def test_the_environment_names_no_proxy(
    name: str, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    """Calls go straight to the server unless the target says otherwise, whatever variables say."""
    monkeypatch.setenv(name, f"http://127.0.0.1:{unused_tcp_port}")
    async with serve(Script(says())) as url, client_of(url) as client:
        assert (await client.call(ask(), None)).reply.content == "42"


async def test_proxy_of_the_target() -> None:
    """Calls to an endpoint behind a proxy are asked of the proxy, by their full address."""
    seen: list[str] = []

    async def relay(request: Any) -> Any:
        seen.append(request.raw_path)
        return says()()

    async with (
        serve_anything(relay) as proxy,
        client_of("http://outside.example/v1", proxy=proxy) as client,
    ):
        assert (await client.call(ask(), None)).reply.content == "42"
    assert seen == ["http://outside.example/v1/chat/completions"]


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation"])
async def test_content_filter_is_an_answer(status: int, code: str) -> None:
    """A question that a hosted model's filter refuses is refused, not owed for ever."""
    body = {"error": {"message": "The prompt was filtered.", "code": code}}
    script = Script(lambda: web.json_response(body, status=status))
    async with serve(script) as url, client_of(url, is_ours=False) as client:
        reply = (await client.call(ask(), None)).reply
    assert (reply.outcome, reply.detail) == (Outcome.REFUSED, "The prompt was filtered.")
    assert script.received == 1


async def test_first_drop_is_sent_again_at_once(delays: list[float]) -> None:
    """A dropped connection costs no retry and no wait, once per call; the next one costs both."""
    script = Script(drops, drops, says())
    async with serve(script) as url, client_of(url, max_retries=1) as client:
        answer = await client.call(ask(), None)
    assert answer.timing.retries == 2
    assert len(delays) == 1


async def test_budget_starts_with_the_first_failure(delays: list[float]) -> None:
    """A call that fails after hours of generation is tried again for as long as any other."""
    now = [0.0]

    async def slow(request: Any) -> Any:
        now[0] += 5000.0
        return (refuses(503) if now[0] < 6000 else says())()

    settings = Client(retry_budget_s=900, max_retries=1)
    clock = Clock(wall=lambda: now[0], monotonic=lambda: now[0])
    async with serve(slow) as url, CallClient(Target(url, MODEL), settings, clock) as client:
        answer = await client.call(ask(), None)
    assert answer.timing.latency_s == 10_000.0
    assert len(delays) == 1


async def test_redirects_are_not_followed() -> None:
    """A key is never sent to another address than the recipe's."""
    script = Script(refuses(307, Location="http://elsewhere.example/"))
    async with serve(script) as url, client_of(url) as client:
        with pytest.raises(EndpointError, match="refused with status 307"):
            await client.call(ask(), None)


def limits(after: str = "0.01", **options: Any) -> Any:
    """A refusal for rate."""
    return refuses(429, "Too many requests", **{"Retry-After": after}, **options)


async def test_a_limit_is_waited_out_and_no_failure(delays: list[float]) -> None:
    """However often a call is refused for rate it is answered in the end, with no retry of its own used
    up and no wait of its own; others wait with it."""
    script = Script(*[limits()] * 3, says())
    async with serve(script) as url, client_of(url, is_ours=False, max_retries=0) as client:
        answers = await asyncio.gather(*(client.call(ask(n), None) for n in range(3)))
        assert client.pace is not None
        assert "3 refused so far" in client.pace
    assert sum(answer.timing.retries for answer in answers) == 3
    assert delays == []
    assert script.received == 6


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (402, {"message": "Insufficient credits. Add more."}),
        (429, {"message": "You exceeded your current quota.", "code": "insufficient_quota"}),
        (200, {"message": "Add credits: insufficient credits.", "code": 402}),
    ],
)
async def test_credits_that_are_gone_stop_the_engine(status: int, error: dict[str, Any]) -> None:
    """Nobody waits for credits: the run stops at once, says why, and that nothing is lost."""
    script = Script(lambda: web.json_response({"error": error}, status=status))
    async with serve(script) as url, client_of(url, is_ours=False) as client:
        with pytest.raises(EndpointError) as caught:
            await client.call(ask(), None)
    assert "no credits or quota left" in str(caught.value)
    assert error["message"] in str(caught.value)
    assert "Nothing is lost: top it up" in str(caught.value)
    assert script.received == 1


async def test_a_limit_that_lasts_for_hours_stops_the_engine() -> None:
    """A daily limit is not slept through: the run stops with the time, and goes on when it is started."""
    async with serve(Script(limits("30000"))) as url, client_of(url, is_ours=False) as client:
        with pytest.raises(
            EndpointError, match=r"asks to wait 30,000 s, longer than client\.retry_bu"
        ):
            await client.call(ask(), None)


async def test_an_endpoint_that_accepts_nothing_stops_the_engine() -> None:
    """Short waits without end are a limit, too: the budget of a retry bounds them."""
    now = itertools.count(0.0, 50.0)
    clock = Clock(wall=lambda: 0.0, monotonic=lambda: next(now))
    async with serve(Script(limits("0"))) as url:
        target = Target(url, MODEL, is_ours=False)
        async with CallClient(target, Client(), clock) as client:
            with pytest.raises(EndpointError, match=r"has accepted no call for [\d,]+ s, longer"):
                await client.call(ask(), None)


async def test_error_inside_of_a_200() -> None:
    """What a provider behind the endpoint says counts as if the endpoint had said it."""
    inside = {
        "error": {"code": 429, "message": "slow", "metadata": {"headers": {"Retry-After": "0"}}}
    }
    flagged = {"error": {"code": 400, "message": "unknown field top_k"}}
    script = Script(lambda: web.json_response(inside), says(), lambda: web.json_response(flagged))
    async with serve(script) as url, client_of(url, is_ours=False) as client:
        assert (await client.call(ask(), None)).timing.retries == 1
        with pytest.raises(InfraError, match="refused with status 400: unknown field top_k"):
            await client.call(ask(1), None)


async def test_answer_that_is_promised_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """202 with a number: the answer is asked for below the recipe's URL until it is there."""
    monkeypatch.setattr("evalkit.client.transport.POLL_S", 0)
    asked: list[str] = []

    async def pending(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(f"{request.method} {request.path} {request.headers['Authorization']}")
        if len(asked) < 3:
            return web.Response(status=202, headers={"NVCF-REQID": "a-1"})
        return says("late")()

    headers = {"Authorization": "Bearer key"}
    async with (
        serve_anything(pending) as url,
        client_of(f"{url}/v1", is_ours=False, headers=headers) as client,
    ):
        assert (await client.call(ask(), None)).reply.content == "late"
    assert asked == [
        "POST /v1/chat/completions Bearer key",
        *["GET /v1/status/a-1 Bearer key"] * 2,
    ]


async def test_answers_are_charged() -> None:
    """By the recipe's price, cached tokens by theirs."""
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 60},
    }
    body = {"choices": [{"message": {"content": "42"}}], "usage": usage}
    price = Price(input=1.0, output=10.0, cached=0.5)
    async with serve(Script(lambda: web.json_response(body))) as url:
        target = Target(url, MODEL, is_ours=False, price=price)
        async with CallClient(target, Client(), SYSTEM_CLOCK) as client:
            await client.call(ask(), None)
            await client.call(ask(1), None)
            assert client.cost == pytest.approx(2 * (40 * 1 + 60 * 0.5 + 10 * 10) / 1e6)
