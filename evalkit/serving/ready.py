"""Ready: healthy, serving our model under our key, and one real token generated.

A health page alone proves nothing: some servers answer 200 before an engine is there, and the port
may belong to somebody else's server. The process is watched all the while, through `check`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from evalkit.errors import EndpointError
from evalkit.serving.wire import Answer, Wire, has_token_counters, parse_models

if TYPE_CHECKING:
    from evalkit.serving.endpoint import Endpoint

POLL_S = 0.5
FORBIDDEN = (401, 403)

Check = Callable[[], None]
"""Raises when it is pointless to wait any longer: the process is dead, or the deadline passed."""


class IdentityError(EndpointError):
    """The endpoint is not the server that was asked for: another model, or another key."""


async def wait_ready(endpoint: Endpoint, check: Check) -> Endpoint:
    """Wait until `endpoint` is ready; returns it with what the server told about itself.

    Raises IdentityError, EndpointError when it refuses a plain request, and what `check` raises.
    """
    async with Wire(endpoint) as wire:
        health_url = endpoint.health_url or server_root(endpoint.base_url)
        while not (await _ask(wire.get(health_url, key=False), check)).ok:
            await _pause(check)
        endpoint = await _wait_for_model(wire, endpoint, check)
        while not (answer := await _ask(wire.one_token(), check)).ok:
            if not answer.passing:
                raise EndpointError(
                    f"{endpoint.base_url} refuses to generate one token: {answer.brief()}",
                    hint="The server lists the model but cannot use it: see its log.",
                )
            await _pause(check)
        return await find_features(wire, endpoint)


async def _wait_for_model(wire: Wire, endpoint: Endpoint, check: Check) -> Endpoint:
    while (answer := await _ask(wire.models(), check)).passing:
        await _pause(check)
    return confirm_model(endpoint, answer)


def confirm_model(endpoint: Endpoint, answer: Answer) -> Endpoint:
    """The endpoint with its context length, when `/models` lists its model. Raises IdentityError."""
    where = f"{endpoint.base_url}/models"
    if answer.status in FORBIDDEN:
        raise IdentityError(
            f"{where} does not accept our key ({answer.brief()})",
            hint="Check the key; on a shared node another server may have taken the port.",
        )
    models = parse_models(answer)
    if models is None:
        raise IdentityError(
            f"{where} does not list models: {answer.brief()}",
            hint="The URL must end where the API's version ends (usually /v1).",
        )
    if endpoint.model not in models:
        raise IdentityError(
            f"{endpoint.base_url} answers with another model's name: asked for {endpoint.model!r}, "
            f"it serves {', '.join(map(repr, models)) or 'none'}",
            hint="Set served_model_name to a name it serves, or start it with ours.",
        )
    length = models[endpoint.model]
    return endpoint if length is None else dataclasses.replace(endpoint, max_model_len=length)


async def find_features(wire: Wire, endpoint: Endpoint) -> Endpoint:
    """The endpoint with what it has beyond the OpenAI API: a vLLM has token counters, and routes
    that take and give tokens."""
    url = f"{server_root(endpoint.base_url)}/metrics"
    has_counters = has_token_counters(await wire.get(url, key=False))
    return dataclasses.replace(
        endpoint,
        metrics_url=url if has_counters else None,
        can_continue=has_counters and await _can_continue(wire, endpoint),
    )


async def _can_continue(wire: Wire, endpoint: Endpoint) -> bool:
    """Whether requests can be given up with their tokens, and tokens be parsed into answers."""
    nothing = f"{server_root(endpoint.base_url)}/inference/v1/abort_requests"
    if not (await wire.post(nothing, {"request_ids": []})).ok:
        return False
    one_token = {
        "model": endpoint.model,
        "generate_responses": [
            {"request_id": "evalkit", "choices": [{"index": 0, "token_ids": [0]}]}
        ],
        "completion_request": {"model": endpoint.model, "prompt": "1"},
    }
    return (await wire.post(f"{endpoint.base_url}/completions/derender", one_token)).ok


def server_root(base_url: str) -> str:
    """The URL without its version: `http://host:1/v1` -> `http://host:1`."""
    return base_url.rstrip("/").removesuffix("/v1")


async def _ask(question: Awaitable[Answer], check: Check) -> Answer:
    """The answer, unless `check` raises first: a dead server is seen at once, not at a timeout."""
    task = asyncio.ensure_future(question)
    try:
        while not task.done():
            check()
            await asyncio.wait({task}, timeout=POLL_S)
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _pause(check: Check) -> None:
    check()
    await asyncio.sleep(POLL_S)
    check()
