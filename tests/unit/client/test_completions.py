"""Bodies of others on both routes, texts, and how likely a text is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from evalkit.benchmarks.contract import Question
from evalkit.client.calls import CallClient
from evalkit.client.completions import NoLogprobsError, measure, parse_answer
from evalkit.client.preflight import preflight
from evalkit.client.replies import MalformedReplyError, ThinkTags, WrongModelError
from evalkit.client.request import Measured, Request, RequestBuilder
from evalkit.client.target import Target
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.startup import first_request
from evalkit.errors import EndpointError, ScorerError
from evalkit.recipe.request import Reasoning, RequestSettings
from evalkit.recipe.schema import Client, Generation
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

UNSET = Generation(seed=None)
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "temperature": 1.5}
TAGS = ThinkTags("<t>", "</t>")


def sent(request: Request) -> dict[str, Any]:
    """The body without what all have."""
    body: dict[str, Any] = orjson.loads(request.payload)
    assert body.pop("model") == "m"
    assert body.pop("stream") is False
    return body


def completion(text: str = "four", **changes: Any) -> bytes:
    """A completion's body."""
    choice = {"text": text, "finish_reason": "stop", **changes}
    used = {"prompt_tokens": 3, "completion_tokens": 2}
    return orjson.dumps({"model": "m", "choices": [choice], "usage": used})


def logprobs(tokens: list[float | None], tops: list[dict[str, float] | None]) -> dict[str, Any]:
    """As vLLM gives them."""
    return {"token_logprobs": tokens, "top_logprobs": tops}


def test_settings_win_where_they_are_set() -> None:
    """What the task sets replaces the body's field, under the name that the route has for it; what it
    does not set stays."""
    body = CHAT | {"max_tokens": 5, "top_p": 0.3, "user": "me", "stream": True, "stop": None}
    kept = sent(RequestBuilder(UNSET, "m").relay("chat/completions", body, repeat=0))
    assert kept == CHAT | {"max_tokens": 5, "top_p": 0.3}
    generation = Generation(temperature=0.2, max_tokens=9, seed=None, extra_body={"x": 1})
    builder = RequestBuilder(generation, "m")
    chat = sent(builder.relay("chat/completions", body, repeat=0))
    assert chat == CHAT | {
        "temperature": 0.2,
        "max_completion_tokens": 9,
        "top_p": 0.3,
        "x": 1,
    }
    text = sent(builder.relay("completions", {"prompt": "p", "max_tokens": 5}, repeat=0))
    assert text == {"prompt": "p", "max_tokens": 9, "temperature": 0.2, "x": 1}


@pytest.mark.parametrize(
    ("own", "given", "seeds"),
    [
        ("repeat", None, [3, 4, 5]),
        (100, None, [103, 104, 105]),
        (None, None, [None, None, None]),
        ("repeat", 7, [7, 8, 9]),
    ],
)
def test_seeds(own: Any, given: int | None, seeds: list[int | None]) -> None:
    """Equal requests get seeds that follow each other, from the body's own where it has one."""
    builder = RequestBuilder(Generation(seed=own), "m")
    body = CHAT if given is None else CHAT | {"seed": given}
    requests = [builder.relay("chat/completions", body, 3, nth) for nth in range(3)]
    assert [sent(request).get("seed") for request in requests] == seeds
    assert len({request.digest for request in requests}) == len(set(seeds))


def test_request_section_applies() -> None:
    """Its changes and its system message are those of any call."""
    changes = RequestSettings(
        add={"provider": "x"},
        remove=("seed",),
        rename={"max_completion_tokens": "max_tokens"},
        system_message="Be brief.",
    )
    builder = RequestBuilder(Generation(max_tokens=9), "m", changes)
    found = sent(builder.relay("chat/completions", CHAT, repeat=0))
    assert found["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (found["max_tokens"], found["provider"]) == (9, "x")
    assert "seed" not in found
    text = sent(builder.loglikelihood([1, 2], [3]))
    assert text["provider"] == "x"
    assert "seed" not in text


def test_digest_tells_routes_and_bodies_apart() -> None:
    """The order of fields says nothing, that below them does; the model is not in it."""
    builder, other = RequestBuilder(UNSET, "m"), RequestBuilder(UNSET, "other")
    one = builder.relay("completions", {"prompt": "p", "a": {"x": 1, "y": 2}}, 0)
    same = other.relay("completions", {"a": {"x": 1, "y": 2}, "prompt": "p", "user": "u"}, 0)
    assert one.digest == same.digest
    assert one.payload != same.payload
    turned = builder.relay("completions", {"prompt": "p", "a": {"y": 2, "x": 1}}, 0)
    elsewhere = builder.relay("chat/completions", {"prompt": "p", "a": {"x": 1, "y": 2}}, 0)
    assert len({one.digest, turned.digest, elsewhere.digest}) == 3


def test_loglikelihood_samples_nothing() -> None:
    """The request is that of lm-eval, whatever the task's settings are."""
    generation = Generation(
        temperature=1.0, max_tokens=99, presence_penalty=1.0, extra_body={"x": 1}
    )
    request = RequestBuilder(generation, "m").loglikelihood([1, 2], [3, 4, 5])
    assert sent(request) == {
        "prompt": [1, 2, 3, 4, 5],
        "echo": True,
        "logprobs": 1,
        "max_tokens": 1,
        "temperature": 0,
    }
    assert (request.route, request.measured) == ("completions", Measured(2, 5))
    other = RequestBuilder(generation, "m").loglikelihood([1], [2, 3, 4, 5])
    assert sent(other) == sent(request)
    assert other.digest != request.digest, "the same text, and another part of it is measured"
    assert RequestBuilder(UNSET, "m").loglikelihood([], [1, 2]).measured == Measured(1, 2)
    with pytest.raises(ScorerError, match="empty continuation"):
        RequestBuilder(UNSET, "m").loglikelihood([1], [])


numbers = st.floats(-50, 0, allow_nan=False)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=9), st.data())
def test_measure(tokens: list[tuple[float, float]], data: st.DataObject) -> None:
    """The sum and whether each is the likeliest, over the continuation alone: neither the first token,
    which has none, nor the generated one at the end counts."""
    end = len(tokens)
    start = data.draw(st.integers(1, end - 1))
    said = [None, *(own for own, _ in tokens[1:]), -0.5]
    tops = [None, *({"a": own, "b": best} for own, best in tokens[1:]), {"c": -0.5}]
    found = measure(logprobs(said, tops), Measured(start, end))  # type: ignore[arg-type]
    assert found["sum"] == pytest.approx(sum(own for own, _ in tokens[start:]))
    assert found["is_greedy"] == all(own >= best for own, best in tokens[start:])


@pytest.mark.parametrize(
    "said",
    [None, {}, logprobs([-1.0], [{"a": -1.0}]), logprobs([None, -1.0, None], [None, {}, None])],
)
def test_what_is_not_measured(said: Any) -> None:
    """Anything but a number for each token is no answer, and never a sum of what is there."""
    with pytest.raises(NoLogprobsError):
        measure(said, Measured(1, 3))


def test_texts() -> None:
    """A text is taken literally, unless the recipe says how reasoning stands in it."""
    request = RequestBuilder(UNSET, "m").relay("completions", {"prompt": "p"}, 0)
    text = "<think>hm</think>four<t>x</t>"
    default = ThinkTags.of(Reasoning())
    assert parse_answer(request, completion(text), default).content == text
    read = parse_answer(request, completion("<t>hm</t>four"), TAGS)
    assert (read.content, read.reasoning, read.outcome) == ("four", "hm", Outcome.OK)
    assert read.usage.completion_tokens == 2
    cut = parse_answer(request, completion(finish_reason="length"), None)
    assert cut.outcome is Outcome.TRUNCATED
    with pytest.raises(MalformedReplyError):
        parse_answer(request, b'{"choices": [{"message": {}}]}', None, "m")
    with pytest.raises(MalformedReplyError):
        parse_answer(request, completion(finish_reason="abort"), None)
    with pytest.raises(WrongModelError):
        parse_answer(request, completion(), None, "other")


async def serve_and(
    answer: Callable[[dict[str, Any]], web.Response], use: Callable[[str], Any]
) -> Any:
    """Use a server whose completions are made by `answer`."""

    async def complete(request: web.Request) -> web.Response:
        return answer(await request.json())

    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    async with TestServer(app) as server:
        return await use(str(server.make_url("/v1")))


def likely(body: dict[str, Any]) -> web.Response:
    """All tokens are as likely as they are large."""
    prompt = body["prompt"]
    said = logprobs(
        [None, *(-float(p) for p in prompt[1:]), -9.0], [{"x": -2.0}] * (len(prompt) + 1)
    )
    return web.Response(body=completion("", logprobs=said, finish_reason="length"))


def unlikely(body: dict[str, Any]) -> web.Response:
    """Only what was generated has a log-probability, as many hosted endpoints have it."""
    said = logprobs([-1.0], [{"x": -1.0}])
    return web.Response(body=completion("", logprobs=said))


async def call(url: str) -> Any:
    """The likelihood of two tokens after one."""
    request = RequestBuilder(UNSET, "m").loglikelihood([1], [2, 2])
    async with CallClient(Target(url, "m"), Client(max_retries=0), SYSTEM_CLOCK) as client:
        return (await client.call(request, None)).reply


async def try_first(url: str) -> None:
    """The preflight of a task that asks so."""
    body = {"prompt": [1, 2, 2], "echo": True, "logprobs": 1, "max_tokens": 1}
    question = Question((), body=body, route="completions")
    request = first_request(RequestBuilder(Generation(max_tokens=2**15), "m"), question)
    await preflight(Target(url, "m"), request, task="lines")


async def test_likelihood_from_an_endpoint() -> None:
    """Of all that the server says the sum is kept."""
    reply = await serve_and(likely, call)
    assert reply.logprobs == {"sum": -4.0, "is_greedy": True}
    assert (reply.outcome, reply.content, reply.usage.prompt_tokens) == (Outcome.OK, "", 3)
    await serve_and(likely, try_first)


@pytest.mark.parametrize("use", [call, try_first])
async def test_endpoint_without_logprobs(use: Callable[[str], Any]) -> None:
    """It is refused, at the first request already, with what to set."""
    with pytest.raises(EndpointError) as caught:
        await serve_and(unlikely, use)
    assert "log-probabilities of 0 of 2 tokens" in str(caught.value) or "of 0 of 1" in str(
        caught.value
    )
    assert "serving.kind: vllm" in str(caught.value)
    assert ("preflight of tasks.lines" in str(caught.value)) == (use is try_first)


async def test_endpoint_without_the_route() -> None:
    """The refusal says what the task needs."""

    def refuse(body: dict[str, Any]) -> web.Response:
        error = {"message": "echo is not supported", "param": "echo"}
        return web.json_response({"error": error}, status=400)

    with pytest.raises(EndpointError, match="on /completions with echo and logprobs"):
        await serve_and(refuse, try_first)
