"""One real request per task before the first unit: what would fail for hours fails in seconds.

It goes through the official `openai` client, so that an endpoint which passes speaks the protocol as
everybody else understands it, and it carries all of the task's parameters. The answer is streamed and
dropped after its first chunk: the server has then accepted context length, sampling and tools, and
has generated one token instead of a hundred thousand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.client.replies import overflow_reply
from evalkit.client.request import fixed_fields
from evalkit.errors import EndpointError, InfraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.recipe.schema import Generation

PREFLIGHT_TIMEOUT_S = 600.0
"""The first request of a large model may compile kernels for minutes."""


async def preflight(
    base_url: str,
    api_key: str | None,
    headers: Mapping[str, str],
    body: Mapping[str, Any],
    *,
    task: str,
) -> None:
    """Send a chat request and wait for its first chunk.

    Raises EndpointError when the endpoint refuses it, InfraError when it cannot be reached.
    """
    import openai

    client = openai.AsyncOpenAI(
        base_url=base_url,
        api_key=api_key or "none",
        default_headers=dict(headers),
        max_retries=3,
        timeout=PREFLIGHT_TIMEOUT_S,
    )
    extra = {k: v for k, v in body.items() if k not in ("model", "messages", "stream")}
    try:
        async with client:
            stream = await client.chat.completions.create(
                model=body["model"], messages=body["messages"], stream=True, extra_body=extra
            )
            async with stream:
                async for _ in stream:
                    return
    except openai.APIStatusError as error:
        raise _refused(task, error.status_code, error.response.content) from error
    except openai.APIConnectionError as error:
        raise InfraError(
            f"preflight of tasks.{task}: no answer from {base_url}: {error}"
        ) from error
    except openai.OpenAIError as error:
        raise EndpointError(f"preflight of tasks.{task}: {error}") from error
    raise EndpointError(f"preflight of tasks.{task}: {base_url} answered with an empty stream")


def preflight_body(
    messages: Sequence[Mapping[str, Any]], generation: Generation, model: str
) -> dict[str, Any]:
    """Body of a task's preflight: as its units, for the first repeat."""
    body = {**fixed_fields(generation), "model": model, "messages": list(messages)}
    if generation.system_message is not None:
        system = {"role": "system", "content": generation.system_message}
        body["messages"] = [system, *messages]
    return body


def _refused(task: str, status: int, content: bytes) -> EndpointError:
    text = content.decode("utf-8", "replace")[:600]
    overflow = overflow_reply(status, content)
    if overflow is not None:
        return EndpointError(
            f"preflight of tasks.{task}: the task does not fit the context: {overflow.detail}",
            hint=f"Raise serving.max_model_len, or lower tasks.{task}.generation.max_tokens.",
        )
    if status in (401, 403):
        hint = "Check the key: serving.api_key_env names the variable that holds it."
    elif status == 404:
        hint = "Check the model id and serving.base_url."
    else:
        hint = f"Check tasks.{task}.generation and the serving settings."
    return EndpointError(
        f"preflight of tasks.{task}: the endpoint refused it with {status}: {text}", hint=hint
    )
