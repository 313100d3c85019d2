"""`adapter_config`: what the launcher's proxy does to requests and answers, as settings of a recipe.

Two steps, kept apart. `read_adapter` understands the launcher's flags and its list of interceptors.
`task_settings` says it in a recipe's words: `tasks.T.generation`, `tasks.T.request` and `tasks.T.reasoning`.

Caching, logging, statistics and reports need no setting: evalkit journals every call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.recipe.values import SENT_AS_IS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.recipe.nemo.source import Layers

ADAPTER = ("target", "api_endpoint", "adapter_config")
ALWAYS_DONE = {
    "use_caching": "every finished call is journaled, and a resume never asks it again",
    "caching_dir": "calls are journaled in the run folder",
    "save_responses": "every answer is kept: samples.jsonl.zst has them all",
    "save_requests": "every request can be read in the run folder",
    "max_saved_requests": "every request is kept",
    "max_saved_responses": "every answer is kept",
    "reuse_cached_responses": "a resume never asks again what was answered",
    "use_request_logging": "requests are frozen in the run folder, all of them",
    "max_logged_requests": "all requests are kept",
    "use_response_logging": "every answer is kept: samples.jsonl.zst has them all",
    "max_logged_responses": "all answers are kept",
    "log_failed_requests": "failed calls are journaled with their error",
    "tracking_requests_stats": "results.json has them always",
    "track_reasoning": "results.json has them always",
    "use_progress_tracking": "`evalkit status` shows progress from the journals",
    "use_raise_client_errors": "answers of 4xx other than 408 and 429 are never asked again",
    "generate_html_report": "evalkit has reports of its own",
}
"""Keys without effect, and what evalkit does in any case."""
SAMPLING = {
    **{name: name for name in SENT_AS_IS},
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
}
"""Fields of a request that have a key in `generation`, and which."""
PAYLOAD = ("params_to_add", "params_to_remove", "params_to_rename")
REASONING = {
    "start_reasoning_token": "start_reasoning_token",
    "end_reasoning_token": "end_reasoning_token",
    "include_if_not_finished": "include_if_reasoning_not_finished",
    "include_if_reasoning_not_finished": "include_if_reasoning_not_finished",
}
INTERCEPTORS: Mapping[str, Mapping[str, str]] = {
    "payload_modifier": {key: key for key in PAYLOAD},
    "system_message": {"system_message": "custom_system_prompt"},
    "reasoning": REASONING,
    "caching": {"cache_dir": "caching_dir"},
    "request_logging": {},
    "response_logging": {},
    "response_stats": {},
    "endpoint": {},
    "progress_tracking": {},
    "raise_client_errors": {},
}
"""The interceptors that are known, with those keys of their `config` that a flag stands for."""


@dataclass(frozen=True)
class Adapter:
    """What is done to the requests and answers of one task."""

    add: Mapping[str, Any] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    system_message: str | None = None
    strip: bool | None = None
    """Take reasoning out of the content; null where the file does not say."""
    start: str | None = None
    end: str = "</think>"
    keep_unfinished: bool | None = None


def read_adapter(layers: Layers) -> Adapter:
    """The adapter of one task, all its layers merged; marks the keys that it reads."""
    flags = {key: layers.get(*ADAPTER, key) for key in _FLAGS}
    for key, text in ALWAYS_DONE.items():
        if layers.get(*ADAPTER, key) is not None:
            layers.ignore((*ADAPTER, key), text)
    flags |= _intercepted(layers)
    asks = [flags[key] for key in ("use_reasoning", "process_reasoning_traces")]
    has_system = bool(flags["use_system_prompt"])
    return Adapter(
        add=flags["params_to_add"] or {},
        remove=tuple(map(str, flags["params_to_remove"] or ())),
        rename=flags["params_to_rename"] or {},
        system_message=flags["custom_system_prompt"] if has_system else None,
        strip=next((each for each in asks if each is not None), None),
        start=flags["start_reasoning_token"],
        end=flags["end_reasoning_token"] or "</think>",
        keep_unfinished=flags["include_if_reasoning_not_finished"],
    )


_FLAGS = (
    *PAYLOAD,
    *("use_system_prompt", "custom_system_prompt", "use_reasoning", "process_reasoning_traces"),
    *("start_reasoning_token", "end_reasoning_token", "include_if_reasoning_not_finished"),
)


def _intercepted(layers: Layers) -> dict[str, Any]:
    """The list form, as the flags it stands for."""
    found: dict[str, Any] = {}
    listed = layers.get(*ADAPTER, "interceptors") or []
    for item in listed if isinstance(listed, list) else []:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or name not in INTERCEPTORS:
            layers.problem(
                (*ADAPTER, "interceptors"),
                f"evalkit has no interceptor '{name}'. Those it knows: {', '.join(INTERCEPTORS)}",
            )
            continue
        if item.get("enabled") is False:
            continue
        config = item.get("config") or {}
        names = INTERCEPTORS[name]
        found |= {names[key]: value for key, value in config.items() if key in names}
        found |= {"use_system_prompt": True} if name == "system_message" else {}
        found |= {"use_reasoning": True} if name == "reasoning" else {}
    found.pop("caching_dir", None)
    return found


def task_settings(adapter: Adapter) -> dict[str, Any]:
    """The adapter as settings of a task."""
    return {**_say_request(adapter), **_say_reasoning(adapter)}


def _say_request(adapter: Adapter) -> dict[str, Any]:
    request: dict[str, Any] = {}
    sampling, free = _parted(adapter.add)
    if free:
        request["add"] = free
    if adapter.remove:
        request["remove"] = list(adapter.remove)
    if adapter.rename:
        request["rename"] = dict(adapter.rename)
    if adapter.system_message is not None:
        request["system_message"] = adapter.system_message
    said = {"generation": sampling, "request": request}
    return {key: value for key, value in said.items() if value}


def _parted(add: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields that `generation` has a key for, under that, and all others."""
    sampling = {SAMPLING[key]: value for key, value in add.items() if key in SAMPLING}
    return sampling, {key: value for key, value in add.items() if key not in SAMPLING}


def _say_reasoning(adapter: Adapter) -> dict[str, Any]:
    if adapter.strip is None:
        return {}
    reasoning: dict[str, Any] = {"strip": adapter.strip}
    if adapter.strip:
        # Without a start the launcher keeps what has no end, as the recipe's own default does.
        asked = {"start": adapter.start, "keep_unfinished": adapter.keep_unfinished}
        reasoning |= {key: value for key, value in asked.items() if value is not None}
        reasoning["end"] = adapter.end
    return {"reasoning": reasoning}
