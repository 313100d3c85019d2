"""Server-sent events, however the network cuts them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.client.transport import PassingFaultError, parse_event, read_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

bodies = st.lists(st.binary(min_size=1, max_size=20).map(lambda b: b.hex().encode()), max_size=6)


async def cut(content: bytes, places: list[int]) -> AsyncIterator[bytes]:
    """The content in pieces."""
    edges = [0, *sorted(place % (len(content) + 1) for place in places), len(content)]
    for start, end in itertools.pairwise(edges):
        yield content[start:end]


@given(bodies, st.lists(st.integers(0, 10_000), max_size=8), st.sampled_from([b"\n", b"\r\n"]))
async def test_events_survive_any_cut(data: list[bytes], places: list[int], end: bytes) -> None:
    """Each event once and whole; comments and what follows the end of the stream are left out."""
    lines = [b": a comment", *(b"data: " + each for each in data), b"data: [DONE]", b"data: late"]
    content = (end * 2).join(lines) + end * 2
    assert [event async for event in read_events(cut(content, places))] == data


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"error": {"message": "engine died"}}'], ids=["broken", "list", "error"]
)
def test_events_that_are_none(data: bytes) -> None:
    """A broken event and an error in a stream may pass on another try."""
    with pytest.raises(PassingFaultError):
        parse_event(data, bytes)
