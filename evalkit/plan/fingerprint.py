"""Fingerprints: hashes of everything that may move a score, and the difference between two of them.

What is in: the model (weights, tokenizer, chat template), the kind of endpoint and those serving
settings that change what is generated, the rendered requests, sampling and seeds, the data, the
benchmark's version, parameters and profile. What is out: anything that only changes speed or place.
Another version of the server, or another image that it runs in, is not seen here either: server facts
record what really served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from evalkit.plan.model import ModelIdentity, Plan
    from evalkit.recipe.request import Adapters
    from evalkit.recipe.serving import AnyServing

_SERVING_KEYS = (
    "kind",
    "max_model_len",
    "dtype",
    "kv_cache_dtype",
    "quantization",
    "load_format",
    "reasoning_parser",
    "tool_call_parser",
    "trust_remote_code",
    "extra_args",
    "command",
    "env",
)
"""Settings of a deployment that change what is generated. Parallel sizes, memory, batch limits and
prefix caching are left out: they change speed, and results only by rounding. A server's variables are
in, for many choose kernels or number formats; those that only say where it runs belong into
`cluster.env`."""

ONLY_THERE = ("there", "not in this recipe")
ONLY_HERE = ("not there", "in this recipe")

# Which other keys of a task make a checksum differ, so that it need not be shown beside them.
_EXPLAINED_BY = {
    "requests_sha256": ("benchmark.", "params.", "profile", "prompts.", "samples", "data."),
    "data.sha256": ("benchmark.", "params."),
}


def fingerprint(value: Any) -> str:
    """sha256 of a JSON value, keys sorted: 64 hexadecimal digits."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def serving_identity(serving: AnyServing, asked_for: str) -> dict[str, Any]:
    """The part of a deployment's settings that may move a score.

    `asked_for` is the model id in requests: at somebody else's endpoint it chooses the model.
    """
    dumped = serving.model_dump(mode="json")
    identity = {k: dumped[k] for k in _SERVING_KEYS if dumped.get(k) not in (None, {}, [], False)}
    if serving.kind == "external":
        identity["served_model_name"] = asked_for
    return identity


def adapter_identity(adapters: Adapters) -> dict[str, Any]:
    """How requests are changed and answers cleaned, as far as a recipe says other than the default."""
    said = {
        name: part.model_dump(mode="json", exclude_defaults=True)
        for name, part in adapters._asdict().items()
    }
    return {name: value for name, value in said.items() if value}


def model_identity(model: ModelIdentity, *, is_hub: bool = False) -> dict[str, Any]:
    """What of a model may move a score.

    Not its name in the recipe, and for weights that are hashed not where they lie. A hub model
    (`is_hub`) is its commit: what is known of its files depends on this machine's cache.
    """
    if is_hub:
        return model.model_dump(mode="json", include={"source", "revision"}, exclude_none=True)
    dumped = model.model_dump(mode="json", exclude={"name"}, exclude_none=True)
    if model.weights is not None:
        dumped.pop("source")
    return dumped


def differences(old: Plan, new: Plan) -> dict[str, tuple[str, str]]:
    """Dotted keys of the identity in which two plans differ, with both values as text.

    A task that only one of them has is one key, `tasks.NAME`. A checksum that differs because of
    another key of its task is left out.
    """
    before = {task.name: task.identity for task in old.tasks}
    after = {task.name: task.identity for task in new.tasks}
    found: dict[str, tuple[str, str]] = {}
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            found[f"tasks.{name}"] = ONLY_THERE
        elif name not in before:
            found[f"tasks.{name}"] = ONLY_HERE
        else:
            changed = _unexplained(_changed(before[name], after[name]))
            found |= {f"tasks.{name}.{key}": values for key, values in changed.items()}
    return found


def describe_difference(key: str, values: tuple[str, str]) -> str:
    """One of the `differences` as a line for a person."""
    if values in (ONLY_THERE, ONLY_HERE):
        return f"{key}: {values[0]}, {values[1]}"
    return f"{key}: {values[0]} there, {values[1]} now"


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    flat_old, flat_new = flatten(old), flatten(new)
    return {
        key: (_show(flat_old, key), _show(flat_new, key))
        for key in sorted(flat_old.keys() | flat_new.keys())
        if _show(flat_old, key) != _show(flat_new, key)
    }


def _unexplained(changed: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    def is_explained(key: str) -> bool:
        return any(other.startswith(_EXPLAINED_BY.get(key, ())) for other in changed)

    return {key: values for key, values in changed.items() if not is_explained(key)}


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        path = f"{prefix}{key}"
        if isinstance(inner, Mapping):
            flat.update(flatten(inner, f"{path}."))
        else:
            flat[path] = inner
    return flat


def _show(flat: Mapping[str, Any], key: str) -> str:
    return orjson.dumps(flat[key]).decode() if key in flat else "(not set)"
