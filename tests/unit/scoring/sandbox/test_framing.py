"""Length-prefixed JSON: what is written is read, and everything else is refused."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.scoring.sandbox.inside.framing import (
    HEADER,
    FramingError,
    encode_frame,
    pack_bytes,
    read_frame,
    unpack_bytes,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
frames = st.dictionaries(st.text(), json_values, max_size=3)


class Trickle:
    """A stream that gives at most a few bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        self._stream = io.BytesIO(data)
        self._most = most

    def read(self, count: int) -> bytes:
        return self._stream.read(min(count, self._most))


@given(st.lists(frames, max_size=3), st.integers(1, 50))
def test_frames_come_through(values: list[dict[str, Any]], most: int) -> None:
    """Any sequence of objects, however the stream is cut, then a clean end."""
    stream = Trickle(b"".join(map(encode_frame, values)), most)
    assert [read_frame(stream.read) for _ in values] == values
    assert read_frame(stream.read) is None


@given(frames, st.data())
def test_torn_frames_are_refused(value: dict[str, Any], data: st.DataObject) -> None:
    """A frame that ends early is an error and never a shorter value."""
    whole = encode_frame(value)
    torn = whole[: data.draw(st.integers(1, len(whole) - 1))]
    with pytest.raises(FramingError):
        read_frame(io.BytesIO(torn).read)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_an_error(data: bytes) -> None:
    """Nothing but a FramingError comes of nonsense."""
    try:
        value = read_frame(io.BytesIO(data).read)
    except FramingError:
        return
    assert value is None or isinstance(value, dict)


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b"\xff", b"[" * 100_000])
def test_other_bodies_are_refused(body: bytes) -> None:
    """A body that is not a JSON object is refused, even one that exhausts the parser."""
    with pytest.raises(FramingError, match="not "):
        read_frame(io.BytesIO(HEADER.pack(len(body)) + body).read)


def test_size_is_limited() -> None:
    """A length above the limit is refused before anything is read."""
    asked: list[int] = []

    def read(count: int) -> bytes:
        asked.append(count)
        return HEADER.pack(11)

    with pytest.raises(FramingError, match="a frame of 11 bytes; at most 10"):
        read_frame(read, most=10)
    assert asked == [HEADER.size]


@given(st.binary())
def test_bytes_come_through(data: bytes) -> None:
    """Any bytes survive JSON."""
    assert unpack_bytes(pack_bytes(data)) == data


@pytest.mark.parametrize("text", ["x", "ä", "====", "ab\ncd="])
def test_bytes_that_were_not_packed(text: str) -> None:
    """Other texts are refused."""
    with pytest.raises(FramingError, match="not base64"):
        unpack_bytes(text)
