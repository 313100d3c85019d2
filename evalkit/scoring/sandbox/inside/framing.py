"""Length-prefixed JSON: four bytes of length, big-endian, then one JSON document in UTF-8.

Exists because three processes speak it over sockets and pipes, and one of them runs a model's code:
whatever comes from there may be torn, huge or nonsense, and each of these is a `FramingError`, never
a wrong value. It does not know about time; a caller's `read` may raise when its deadline has passed.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = struct.Struct(">I")
MOST_BYTES = 2**29
"""A job with its files and input. The largest test inputs of code benchmarks are tens of megabytes."""


class FramingError(Exception):
    """What was read is not a frame."""


def encode_frame(value: dict[str, Any]) -> bytes:
    """One frame. Raises FramingError where it would be larger than a reader takes."""
    body = json.dumps(value, separators=(",", ":")).encode()
    if len(body) > MOST_BYTES:
        raise FramingError(f"a frame of {len(body)} bytes; at most {MOST_BYTES}")
    return HEADER.pack(len(body)) + body


def read_frame(read: Callable[[int], bytes], most: int = MOST_BYTES) -> dict[str, Any] | None:
    """The next frame, or None where the other side closed between two.

    `read(n)` gives 1 to n bytes, or none at the end. Raises FramingError.
    """
    header = _read_exactly(read, HEADER.size)
    if not header:
        return None
    if len(header) < HEADER.size:
        raise FramingError("the other side closed within a frame's length")
    (length,) = HEADER.unpack(header)
    if length > most:
        raise FramingError(f"a frame of {length} bytes; at most {most}")
    body = _read_exactly(read, length)
    if len(body) < length:
        raise FramingError(f"the other side closed after {len(body)} of {length} bytes")
    return _parse(body)


def _read_exactly(read: Callable[[int], bytes], count: int) -> bytes:
    parts = []
    while count:
        part = read(min(count, 2**20))
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FramingError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FramingError(f"not an object: {type(value).__name__}")
    return value


def pack_bytes(data: bytes) -> str:
    """Bytes as a JSON string."""
    return base64.b64encode(data).decode()


def unpack_bytes(text: str) -> bytes:
    """The reverse of `pack_bytes`. Raises FramingError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FramingError(f"not base64: {error}") from error
