"""Fingerprints: hashes of everything that may move a score, and the difference between two of them.

What is in: the model (weights, tokenizer, chat template), the kind of endpoint and those serving
settings that change what is generated, the rendered requests, sampling and seeds, the data, the
benchmark's version, parameters and profile. What is out: anything that only changes speed or place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from evalkit.plan.model import ModelIdentity, Plan
    from evalkit.recipe.schema import AnyServing

_SERVING_KEYS = (
    "kind",
    "max_model_len",
    "dtype",
    "kv_cache_dtype",
    "quantization",
    "load_format",
    "reasoning_parser",
    "tool_call_parser",
    "extra_args",
    "command",
)
"""Settings of a deployment that change what is generated. Parallel sizes, memory, batch limits and
prefix caching are left out: they change speed, and results only by rounding."""


def fingerprint(value: Any) -> str:
    """sha256 of a JSON value, keys sorted: 64 hexadecimal digits."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def serving_identity(serving: AnyServing) -> dict[str, Any]:
    """The part of a deployment's settings that may move a score."""
    dumped = serving.model_dump(mode="json")
    return {k: dumped[k] for k in _SERVING_KEYS if dumped.get(k) not in (None, {}, [])}


def model_identity(model: ModelIdentity) -> dict[str, Any]:
    """What of a model may move a score: not its name in the recipe, and for weights that are hashed
    not where they lie."""
    dumped = model.model_dump(mode="json", exclude={"name"}, exclude_none=True)
    if model.weights is not None:
        dumped.pop("source")
    return dumped


def differences(old: Plan, new: Plan) -> dict[str, tuple[str, str]]:
    """Dotted keys of the identity in which two plans differ, with both values as text."""
    before = {task.name: task.identity for task in old.tasks}
    after = {task.name: task.identity for task in new.tasks}
    flat_old, flat_new = flatten({"tasks": before}), flatten({"tasks": after})
    return {
        key: (_show(flat_old, key), _show(flat_new, key))
        for key in sorted(flat_old.keys() | flat_new.keys())
        if _show(flat_old, key) != _show(flat_new, key)
    }


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
