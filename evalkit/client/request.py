"""Request bodies: what is sent, byte for byte, and the hash it is journaled under.

A body is encoded once. Its hash is over everything that is sent but the model id, which names a
server of ours and not the question; the model's identity is in the run's fingerprint.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.errors import ScorerError
from evalkit.recipe.document import merge
from evalkit.recipe.request import RequestSettings
from evalkit.recipe.values import SENT_AS_IS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.recipe.schema import Generation

UNCHANGED = RequestSettings()


@dataclass(frozen=True, slots=True)
class Request:
    """One encoded request."""

    payload: bytes
    """JSON body, model id included."""
    digest: str
    """Hash of the body without the model id: 32 hexadecimal digits."""


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
        digest = hashlib.sha256(encoded).hexdigest()[:32]
        return Request(self._model + encoded[1:], digest)


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
