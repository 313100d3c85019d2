"""Journal lines: what goes in comes out, and nothing else does."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.plan.model import UnitKey
from evalkit.store.codec import CorruptLineError, Record, decode, encode, header, seal, unseal
from tests.builders import make_call, make_step
from tests.unit.store.strategies import records


@given(records)
def test_record_survives_the_journal(record: Record) -> None:
    """A record read back equals the one written, fields that are null included."""
    line = seal(encode(record))
    assert line.count(b"\n") == 1, "a line is a line, whatever the texts hold"
    assert decode(unseal(line[:-1])) == record


def test_every_change_of_a_byte_is_found() -> None:
    """Whatever byte of a line becomes whatever other byte, the line is refused."""
    line = seal(encode(make_call(UnitKey(3, 1), 'a "quoted" é answer')))[:-1]
    for position, old in enumerate(line):
        for new in {0, 32, 48, 65, 97, 255, old ^ 0x20, old ^ 1} - {old}:
            changed = line[:position] + bytes([new]) + line[position + 1 :]
            with pytest.raises(CorruptLineError):
                unseal(changed)


@given(st.binary(max_size=80))
def test_noise_is_refused(noise: bytes) -> None:
    """Bytes that no writer wrote are a corrupt line, never another exception."""
    with pytest.raises(CorruptLineError):
        unseal(noise)


@given(records, st.data())
def test_cut_line_is_refused(record: Record, data: st.DataObject) -> None:
    """A line that lost its end is refused at every length."""
    line = seal(encode(record))[:-1]
    length = data.draw(st.integers(0, len(line) - 1))
    with pytest.raises(CorruptLineError):
        unseal(line[:length])


@pytest.mark.parametrize(
    "payload",
    [
        {"kind": "call"},
        {"kind": "judge"},
        {"kind": "unit", "sample": 1, "repeat": 0, "outcome": "fine", "text": "", "calls": 1},
        {"kind": "unit", "sample": "x", "repeat": 0, "outcome": "ok", "text": "", "calls": 1},
        {},
    ],
    ids=["no fields", "unknown kind", "unknown outcome", "no number", "empty"],
)
def test_payload_that_is_no_record(payload: dict[str, object]) -> None:
    """A whole line that is not a record of this version says so."""
    with pytest.raises(CorruptLineError):
        decode(payload)


def test_line_bytes() -> None:
    """The format on disk, byte for byte: a change of it needs another RECORD_VERSION."""
    assert seal(header("p" * 4, "addition", 7, "r0.a1")) == (
        b'{"crc":"e10e7cd7","kind":"header","version":1,"plan":"pppp","task":"addition",'
        b'"shard":7,"attempt":"r0.a1"}\n'
    )
    assert orjson.loads(seal(encode(make_call(UnitKey(3, 1))))) == {
        "crc": "d08ff211",
        "kind": "call",
        "sample": 3,
        "repeat": 1,
        "call": 0,
        "request": "hash",
        "outcome": "ok",
        "message": {"content": "42"},
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
        "started": 1.0,
        "latency_s": 0.5,
    }
    assert orjson.loads(seal(encode(make_step(UnitKey(3, 1), {"text": "4"}, arguments=[2])))) == {
        "crc": "720cdee1",
        "kind": "step",
        "sample": 3,
        "repeat": 1,
        "step": 0,
        "digest": "hash",
        "name": "tool",
        "result": {"text": "4"},
        "started": 1.0,
        "seconds": 0.5,
        "arguments": [2],
    }
