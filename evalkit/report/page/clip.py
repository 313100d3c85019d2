"""Long texts lose their middle: an answer of 131,072 tokens is half a megabyte, of which nobody reads all.

The beginning says how the model went about it, the end what it made of it; what is between is counted
and lies whole in `samples.jsonl.zst`. Pure.
"""

from __future__ import annotations

from typing import Any

import orjson

LIMITS = (24_000, 6_000, 1_500, 400)
"""Letters of one text, the first of them with which a whole unit is below `UNIT_LIMIT`."""
UNIT_LIMIT = 100_000
"""Bytes of one unit as JSON."""


def clip_unit(unit: dict[str, Any]) -> tuple[bytes, bool]:
    """The unit as JSON, and whether texts of it were cut. What is too large even so is left out by key,
    with its size, the largest first."""
    whole = orjson.dumps(unit)
    if len(whole) <= LIMITS[0]:
        return whole, False
    for limit in LIMITS:
        line = orjson.dumps(clip(unit, limit))
        if len(line) <= UNIT_LIMIT:
            return line, line != whole
    return _without_largest(clip(unit, LIMITS[-1])), True


def _without_largest(unit: dict[str, Any]) -> bytes:
    sizes = {key: len(orjson.dumps(value)) for key, value in unit.items()}
    for key in sorted(sizes, key=lambda key: -sizes[key]):
        unit[key] = f"[{sizes[key]:,} bytes left out here]"
        line = orjson.dumps(unit)
        if len(line) <= UNIT_LIMIT:
            return line
    return orjson.dumps(unit)


def clip(value: Any, limit: int) -> Any:
    """The same JSON, every text of it at most about `limit` letters long."""
    match value:
        case str():
            return _clip_text(value, limit)
        case list() | tuple():
            return [clip(each, limit) for each in value]
        case dict():
            return {key: clip(each, limit) for key, each in value.items()}
        case _:
            return value


def _clip_text(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    left_out = len(text) - head - tail
    return f"{text[:head]}\n\n[ {left_out:,} letters left out here ]\n\n{text[-tail:]}"
