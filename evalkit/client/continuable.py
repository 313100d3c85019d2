"""Which requests can go on after an interruption, and the request that goes on. Pure.

A continuation is a completion of prompt and tokens so far. That equals an undisturbed generation only
where nothing but the next token's distribution counts: not with a frequency penalty or bad words (they
look at what was generated, which is prompt now), not with a grammar or a stop text (both have a state
that would begin anew), not with log-probabilities (those of the first part are gone), not with images.
Such requests are sent again. A presence penalty goes on where the server has our logits processor for it.
"""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.store.tokens import TokenChain

SAMPLING = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "logit_bias",
        "stop_token_ids",
        "ignore_eos",
        "allowed_token_ids",
        "priority",
    }
)
"""Fields that go on as they are. The repetition penalty counts prompt and answer alike."""
ABOUT_THE_PROMPT = frozenset(
    {
        "messages",
        "tools",
        "chat_template",
        "chat_template_kwargs",
        "reasoning_effort",
        "documents",
        "add_generation_prompt",
        "add_special_tokens",
    }
)
"""Fields whose work is done when the prompt's tokens are there, or that only matter to parsers."""
OURS = frozenset({"model", "stream", "max_completion_tokens", "max_tokens", "seed", "min_tokens"})
PRESENCE = "presence_penalty"
NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "n": (None, 1),
        PRESENCE: (None, 0),
        "frequency_penalty": (None, 0),
        "stop": (None, []),
        "logprobs": (None, False),
        "top_logprobs": (None, 0),
        "tool_choice": (None, "auto", "none"),
        "include_reasoning": (True,),
        "skip_special_tokens": (True,),
        "parallel_tool_calls": (None, True),
        "echo": (None, False),
    }
)
"""Fields that stand in no way with these values, and do with any other."""
LARGEST_SEED = 2**31


def is_continuable(body: Mapping[str, Any], *, presence: bool = False) -> bool:
    """Whether a chat request can be continued; `presence`: the server can go on with that penalty.

    A field that is not known here says no.
    """
    return all(map(_is_text, body.get("messages", ()))) and not find_obstacles(
        body, presence=presence
    )


def find_obstacles(fields: Mapping[str, Any], *, presence: bool = False) -> list[str]:
    """The fields of a request that keep it from being continued."""
    return [
        name
        for name, value in fields.items()
        if name not in SAMPLING | ABOUT_THE_PROMPT | OURS
        and value not in NEUTRAL.get(name, ())
        and not (name == PRESENCE and presence and _commutes(fields))
    ]


def _commutes(fields: Mapping[str, Any]) -> bool:
    """Whether it does not matter what comes first, the penalty on the first part or the other one."""
    return fields.get("repetition_penalty") in (None, 1)


def _is_text(message: Mapping[str, Any]) -> bool:
    """A prompt's tokens say all of text, and nothing of what an image shows."""
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    return all(isinstance(part, dict) and part.get("type") == "text" for part in parts)


def most_tokens(
    body: Mapping[str, Any], prompt_tokens: int, max_model_len: int | None
) -> int | None:
    """Tokens that the whole answer may have; null when nothing bounds it that is known here."""
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    room = None if max_model_len is None else max_model_len - prompt_tokens
    known = [limit for limit in (asked, room) if limit is not None]
    return min(known) if known else None


def continued_seed(seed: int | None, at: int) -> int | None:
    """The seed from token `at` on: the same one again would repeat the start's random numbers."""
    if seed is None:
        return None
    digest = hashlib.sha256(f"{seed}:{at}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % LARGEST_SEED


def continuation(
    body: Mapping[str, Any], chain: TokenChain, left: int, seed: int | None
) -> dict[str, Any]:
    """A completion request for the rest of a chat request's answer: at most `left` tokens more."""
    fields = {name: value for name, value in body.items() if name in SAMPLING}
    fields |= {"model": body["model"], "max_tokens": left}
    fields["prompt"] = chain.prompt.tolist() + chain.tokens.tolist()
    if seed is not None:
        fields["seed"] = seed
    if body.get(PRESENCE):
        fields[PRESENCE] = body[PRESENCE]
        fields["vllm_xargs"] = {
            "evalkit_generated": sorted(set(chain.tokens)),
            "evalkit_prompt": len(fields["prompt"]),
        }
    if body.get("min_tokens"):
        fields["min_tokens"] = max(0, body["min_tokens"] - len(chain.tokens))
    return fields


def streamed(fields: Mapping[str, Any], interval: int) -> dict[str, Any]:
    """A request whose answer comes in chunks of `interval` tokens, with their ids."""
    return {
        **fields,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "stream_interval": interval,
    }
