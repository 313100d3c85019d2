"""Request bodies: what is sent, byte for byte, and the hash it is journaled under.

A body is encoded once. Its hash is over everything that is sent but the model id, which names a
server of ours and not the question; the model's identity is in the run's fingerprint.

Bodies of others are relayed: the fields they share with the task's own are known by different names on
the two routes, and what is nested in them keeps its order, which templates and grammars may show.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from evalkit.errors import ScorerError
from evalkit.recipe.document import merge
from evalkit.recipe.request import RequestSettings
from evalkit.recipe.values import SENT_AS_IS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.client.target import Route
    from evalkit.recipe.schema import Generation

UNCHANGED = RequestSettings()
NOT_ASKED = frozenset({"model", "stream", "stream_options", "user"})
"""Fields of a relayed body that say nothing about the question."""
LIMITS = ("max_tokens", "max_completion_tokens")
"""Names of one field: the first is that of completions, the second that of chats."""


@dataclass(frozen=True, slots=True)
class Request:
    """One encoded request."""

    payload: bytes
    """JSON body, model id included."""
    digest: str
    """Hash of the body without the model id, and of a relayed one's route: 32 hexadecimal digits."""
    route: Route = "chat/completions"
    measured: Measured | None = None
    """What is kept of the log-probabilities of its prompt; null where the answer is what counts."""


class Measured(NamedTuple):
    """Tokens of a prompt, by place, whose log-probabilities are summed."""

    start: int
    end: int


class RequestBuilder:
    """Builds the bodies of one task for one endpoint."""

    def __init__(
        self, generation: Generation, model: str, changes: RequestSettings = UNCHANGED
    ) -> None:
        """`changes` fit each finished body to what the endpoint takes."""
        self._fixed = fixed_fields(generation)
        self.max_tokens = generation.max_tokens
        self._seed = generation.seed
        self._changes = changes
        self.model = model
        self._model = b'{"model":' + orjson.dumps(model) + b","

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        repeat: int,
        tools: Sequence[Mapping[str, Any]] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Request:
        """A chat request. `overrides` replaces fields; null removes one. Raises ScorerError where a field
        that is renamed would take the place of one that this call sends."""
        body: dict[str, Any] = dict(self._fixed)
        if self._seed is not None:
            body["seed"] = repeat if self._seed == "repeat" else self._seed + repeat
        if tools:
            # In the order given: chat templates show a tool's parameters in theirs.
            body["tools"] = orjson.Fragment(orjson.dumps(tools))
        for key, value in (overrides or {}).items():
            if value is None:
                body.pop(key, None)
            else:
                body[key] = value
        body = changed(body, self._changes)
        if (system := self._changes.system_message) is not None:
            messages = [{"role": "system", "content": system}, *messages]
        body["messages"] = messages
        encoded = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
        return Request(self._model + encoded[1:], _digest(encoded))

    def relay(self, route: Route, body: Mapping[str, Any], repeat: int, nth: int = 0) -> Request:
        """A request whose body somebody else made, the `nth` (from 0) of equal ones.

        The task's settings replace its fields where they are set, and the recipe's `request` changes the
        whole. Raises ScorerError for a body that cannot be sent.
        """
        if body.get("n") not in (None, 1):
            raise ScorerError(f"a request for n: {body['n']} answers: each is a call of its own")
        fixed = dict(self._fixed)
        asked = relayed_fields(body)
        asked.pop("n", None)
        if self.max_tokens is not None:
            asked = {name: value for name, value in asked.items() if name not in LIMITS}
            if route == "completions":
                fixed[LIMITS[0]] = fixed.pop(LIMITS[1])
        merged = asked | fixed
        if self._seed is not None:
            own = repeat if self._seed == "repeat" else self._seed + repeat
            merged.setdefault("seed", own)
        if isinstance(merged.get("seed"), int):
            merged["seed"] += nth
        sent = changed(merged, self._changes)
        system = self._changes.system_message
        if system is not None and isinstance(messages := sent.get("messages"), list):
            sent["messages"] = [{"role": "system", "content": system}, *messages]
        return self._encode(route, sent)

    def loglikelihood(self, context: Sequence[int], continuation: Sequence[int]) -> Request:
        """A request for the log-probabilities of `continuation` after `context` (token ids), as lm-eval
        0.4 sends it. Of the task's settings none applies: it samples nothing. Raises ScorerError."""
        if not continuation:
            raise ScorerError("an empty continuation: there is nothing that could be likely")
        prompt = [*context, *continuation]
        body = {"echo": True, "logprobs": 1, "max_tokens": 1, "prompt": prompt, "stream": False}
        sent = changed(body | {"temperature": 0}, self._changes)
        measured = Measured(max(1, len(context)), len(prompt))
        return self._encode("completions", sent, measured)

    def _encode(
        self, route: Route, body: Mapping[str, Any], measured: Measured | None = None
    ) -> Request:
        encoded = encode_fields(body)
        digest = _digest(f"{route} {measured or ''}\n".encode() + encoded)
        return Request(self._model + encoded[1:], digest, route, measured)


def relayed_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a body of others asks: null is what the endpoint takes for a field that is not sent."""
    return {k: v for k, v in body.items() if k not in NOT_ASKED and v is not None}


def encode_fields(body: Mapping[str, Any]) -> bytes:
    """JSON with the fields in the order of their names, and all below as it is."""
    fields = {name: orjson.Fragment(orjson.dumps(value)) for name, value in body.items()}
    return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)


def _digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()[:32]


def changed(body: Mapping[str, Any], changes: RequestSettings) -> dict[str, Any]:
    """A body without `remove`, with `add` merged into it, under the names of `rename`: at its top level
    only, for a tool may have a parameter of the same name. Raises ScorerError."""
    kept = {name: value for name, value in body.items() if name not in changes.remove}
    kept = merge(kept, changes.add)
    for old, new in changes.rename.items():
        if old in kept and new in kept:
            raise ScorerError(
                f"request.rename: {old} would take the place of {new}, which this call sends, too"
            )
    return {changes.rename.get(name, name): value for name, value in kept.items()}


def fixed_fields(generation: Generation) -> dict[str, Any]:
    """Body fields that all requests of a task share. What is not set is not sent."""
    fields = {name: getattr(generation, name) for name in SENT_AS_IS}
    fields["max_completion_tokens"] = generation.max_tokens
    fields["stop"] = list(generation.stop) if generation.stop is not None else None
    body = {name: value for name, value in fields.items() if value is not None}
    return {"stream": False, **body, **generation.extra_body}
