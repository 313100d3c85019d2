"""One real request per task before the first unit: what would fail for hours fails in seconds.

Its body is the one a unit would send. The answer is streamed and dropped after its first chunk: the
server has then accepted context length, sampling, tools and seed, and has generated one token instead
of a hundred thousand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from evalkit.client.replies import filtered_reply, overflow_reply
from evalkit.client.retry import REDIRECT_STATUS
from evalkit.client.trial import send_trial
from evalkit.errors import EndpointError, FailureKind, InfraError

if TYPE_CHECKING:
    from evalkit.client.request import Request
    from evalkit.client.target import Target

TOOLS_HINT = (
    "Its calls offer tools, which vLLM takes with a parser only: set serving.tool_call_parser (vLLM's "
    "--enable-auto-tool-choice --tool-call-parser NAME), or start the endpoint with these options."
)


async def preflight(target: Target, request: Request, *, task: str) -> None:
    """Send a chat request and wait for its first chunk.

    Raises EndpointError when the endpoint refuses it, InfraError when it cannot be reached.
    """
    try:
        answered = await send_trial(target, request, stream=True)
    except (EndpointError, InfraError) as error:
        error.message = f"preflight of tasks.{task}: {error.message}"
        raise
    if answered.status == 200 or filtered_reply(answered.status, answered.body) is not None:
        return  # of a filter: an endpoint that has an answer of its own to this very question
    has_tools = "tools" in orjson.loads(request.payload)
    raise _refused(task, answered.status, answered.body, has_tools=has_tools)


def _refused(task: str, status: int, content: bytes, *, has_tools: bool) -> EndpointError:
    text = content.decode("utf-8", "replace")[:600]
    overflow = overflow_reply(status, content)
    if overflow is not None:
        return EndpointError(
            f"preflight of tasks.{task}: the task does not fit the context: {overflow.detail}",
            hint=f"Raise serving.max_model_len, or lower tasks.{task}.generation.max_tokens.",
            kind=FailureKind.CONTEXT_WINDOW,
        )
    if status in (401, 403):
        hint = "Check the key: serving.api_key_env names the variable that holds it."
    elif status == 404 or status in REDIRECT_STATUS:
        hint = "Check the model id and serving.base_url."
    else:
        hint = f"Check tasks.{task}.generation and the serving settings."
        if has_tools:
            hint += f" {TOOLS_HINT}"
    return EndpointError(
        f"preflight of tasks.{task}: the endpoint refused it with {status}: {text}", hint=hint
    )
