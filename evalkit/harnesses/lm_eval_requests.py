"""lm-eval's requests as frozen samples: one for each request and repeat, in lm-eval's own order.

A sample is known by what lm-eval will look its answer up under: the hash of method and arguments, and how
many equal ones came before. What is sent is as lm-eval's models for APIs send it, but for the seed: theirs
is the same for all repeats, so that a server that heeds it gives k times one answer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from evalkit.benchmarks.contract import Sample
from evalkit.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from evalkit.benchmarks.contract import Route, ServedModel
    from evalkit.harnesses.lm_eval_params import LmEvalParams

GENERATE = "generate_until"
LIKELIHOOD = "loglikelihood"
ROLLING = "loglikelihood_rolling"
MAX_TOKENS = 256
"""What lm-eval's models for APIs ask for where a task says nothing."""

MOST_STOPS = 4
"""Stop texts that OpenAI's API takes. lm-eval's models for chat send so many whatever the server, its models
for completions send all."""
STRICT_HOSTS = ("api.openai.com", ".openai.azure.com")

ALONE = "runs_code_by_itself"
"""Of a sample: its task runs what the model wrote in lm-eval's own process. Known before any of it exists."""


def answer_key(sample: Sample) -> str:
    """Under which lm-eval looks its answer up."""
    return f"{sample.data['base']}#{sample.data['rep']}"


def route_of(params: LmEvalParams) -> Route:
    """Where requests to generate go."""
    return "chat/completions" if params.apply_chat_template else "completions"


def to_samples(
    requests: Iterable[Mapping[str, Any]],
    params: LmEvalParams,
    limit: int | None,
    alone: Collection[str] = (),
) -> Iterator[Sample]:
    """`limit` is the recipe's, of documents; `alone` are tasks that run the model's code by themselves.

    Raises RecipeError for what cannot be asked by chat.
    """
    limited = {} if limit is None else {"limit": limit}
    seen: dict[str, int] = {}
    for request in requests:
        name = f"{request['task']}/{request['doc']}"
        if request["idx"]:
            name += f".{request['idx']}"
        nth = seen[name] = seen.get(name, -1) + 1
        yield Sample(
            id=f"{name}#{nth}" if nth else name,
            data={
                "method": request["method"],
                "base": request["base"],
                "rep": request["rep"],
                "doc": request["doc"],
                **limited,
                **({ALONE: True} if request["task"] in alone else {}),
                **_asked(request, params),
            },
            subset=request["task"],
            cluster=f"{request['task']}/{request['doc']}",
        )


def refuse_many_stops(model: ServedModel, samples: Iterable[Sample]) -> None:
    """Raises RecipeError for more stop texts than a hosted endpoint is known to take."""
    host = urlsplit(model.base_url or "").hostname or ""
    if not host.endswith(STRICT_HOSTS):
        return
    for sample in samples:
        stops = sample.data.get("body", {}).get("stop", ())
        if len(stops) > MOST_STOPS:
            raise RecipeError(
                f"{sample.subset} ends its answers at {len(stops)} texts {list(stops)}, and {host} takes "
                f"{MOST_STOPS}",
                hint=f"Set params.gen_kwargs: {{until: [...]}} to {MOST_STOPS} of them or fewer.",
            )


def _asked(request: Mapping[str, Any], params: LmEvalParams) -> dict[str, Any]:
    method, args = request["method"], request["args"]
    if method == GENERATE:
        context, settings = args
        return {"body": to_body(context, settings, params, request["rep"])}
    if params.apply_chat_template:
        raise RecipeError(
            f"task {request['task']} asks how likely a text is, which no chat endpoint tells",
            hint="Leave params.apply_chat_template out, or take a task that generates its answers.",
        )
    if method == ROLLING:
        return {"text": args[0]}
    return {"context": args[0], "continuation": args[1]}


def to_body(
    context: str, settings: Mapping[str, Any], params: LmEvalParams, repeat: int
) -> dict[str, Any]:
    """The body of a request to generate, without a model."""
    rest = dict(settings)
    samples = rest.pop("do_sample", None)
    until = rest.pop("until", None)
    limit = rest.pop("max_gen_toks", MAX_TOKENS)
    limit = rest.pop("max_completion_tokens", rest.pop("max_tokens", limit))
    temperature = rest.pop("temperature", 0)
    body = {
        **{name: value for name, value in rest.items() if value is not None},
        "temperature": 0 if samples is False else temperature,
        "seed": params.seed + repeat,
    }
    if until:
        body["stop"] = _stops(until, params)
    if not params.apply_chat_template:
        return {**body, "prompt": context, "max_tokens": limit}
    messages = json.loads(context)
    if messages and messages[-1]["role"] == "assistant":
        # The task gives the beginning of the answer.
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    return {**body, "messages": messages, "max_completion_tokens": limit}


def _stops(until: str | Sequence[str], params: LmEvalParams) -> list[str]:
    texts = [until] if isinstance(until, str) else list(until)
    return texts[:MOST_STOPS] if params.apply_chat_template else texts
