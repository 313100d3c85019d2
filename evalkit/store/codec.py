"""Journal lines: records to bytes and back.

A line is one JSON object that starts with the CRC-32 of the rest of it, so that a torn or altered
line is told from a whole one even where it still parses. Keys that would be null are left out.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from evalkit.plan.model import UnitKey
from evalkit.store.records import (
    RECORD_VERSION,
    CallRecord,
    Continuation,
    GradingRecord,
    Outcome,
    PartialRecord,
    Reply,
    StepRecord,
    Timing,
    UnitRecord,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Record: TypeAlias = CallRecord | StepRecord | UnitRecord | PartialRecord | GradingRecord
_CRC_PREFIX = b'{"crc":"'
_CRC_END = len(_CRC_PREFIX) + 8 + 2  # 8 hexadecimal digits, then `",`


class CorruptLineError(ValueError):
    """A line that is not what a writer wrote."""


def seal(payload: dict[str, Any]) -> bytes:
    """One journal line, newline included."""
    body = orjson.dumps(payload)[1:]
    return b'%b%08x",%b\n' % (_CRC_PREFIX, zlib.crc32(body), body)


def unseal(line: bytes) -> dict[str, Any]:
    """The payload of a line without its newline. Raises CorruptLineError."""
    if not line.startswith(_CRC_PREFIX):
        raise CorruptLineError("no checksum")
    crc = b'%08x",' % zlib.crc32(memoryview(line)[_CRC_END:])
    if line[len(_CRC_PREFIX) : _CRC_END] != crc:
        raise CorruptLineError("checksum does not match")
    try:
        payload: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise CorruptLineError(f"not JSON: {error}") from error
    return payload


def header(plan_fingerprint: str, task: str, shard: int, attempt: str) -> dict[str, Any]:
    """First payload of a journal: what it belongs to."""
    return {
        "kind": "header",
        "version": RECORD_VERSION,
        "plan": plan_fingerprint,
        "task": task,
        "shard": shard,
        "attempt": attempt,
    }


def encode(record: Record) -> dict[str, Any]:
    """Payload of a record."""
    match record:
        case CallRecord():
            return _encode_call(record)
        case StepRecord():
            return _encode_step(record)
        case UnitRecord():
            return _encode_unit(record)
        case GradingRecord():
            return _encode_grading(record)
        case PartialRecord():
            return _encode_partial(record)


def decode(payload: dict[str, Any]) -> Record:
    """Record of a payload. Raises CorruptLineError for a kind or shape this version does not know."""
    try:
        kind = payload["kind"]
        read = _DECODERS.get(kind)
        if read is not None:
            return read(payload)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptLineError(f"not a record: {error!r}") from error
    raise CorruptLineError(f"unknown kind of record {kind!r}")


def unit_key(payload: dict[str, Any]) -> UnitKey:
    """The unit a payload belongs to."""
    return UnitKey(payload["sample"], payload["repeat"])


def _encode_call(record: CallRecord) -> dict[str, Any]:
    payload = {
        "kind": "call",
        "sample": record.sample,
        "repeat": record.repeat,
        "call": record.call,
        "request": record.request,
        **_encode_reply(record.reply),
        "started": record.timing.started,
        "latency_s": record.timing.latency_s,
    }
    if record.timing.retries:
        payload["retries"] = record.timing.retries
    if record.server:
        payload["server"] = record.server
    if record.lender is not None:
        payload["lender"] = record.lender
    if record.continued:
        payload["continued"] = _encode_continued(record.continued)
    return payload


def _encode_continued(continued: tuple[Continuation, ...]) -> list[list[int | None]]:
    return [[each.at, each.seed] for each in continued]


def _decode_continued(payload: dict[str, Any]) -> tuple[Continuation, ...]:
    return tuple(Continuation(int(at), seed) for at, seed in payload.get("continued", ()))


def _encode_reply(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"content": reply.content}
    if reply.reasoning is not None:
        message["reasoning"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = reply.tool_calls
    payload: dict[str, Any] = {"outcome": reply.outcome.value, "message": message}
    usage = {
        "prompt_tokens": reply.usage.prompt_tokens,
        "completion_tokens": reply.usage.completion_tokens,
        "reasoning_tokens": reply.usage.reasoning_tokens,
        "cached_tokens": reply.usage.cached_tokens,
    }
    optional = {
        "finish_reason": reply.finish_reason,
        "usage": {k: v for k, v in usage.items() if v is not None} or None,
        "logprobs": reply.logprobs,
        "detail": reply.detail,
    }
    payload.update((k, v) for k, v in optional.items() if v is not None)
    return payload


def _decode_call(payload: dict[str, Any]) -> CallRecord:
    return CallRecord(
        sample=int(payload["sample"]),
        repeat=int(payload["repeat"]),
        call=int(payload["call"]),
        request=str(payload["request"]),
        reply=_decode_reply(payload),
        timing=Timing(payload["started"], payload["latency_s"], payload.get("retries", 0)),
        server=payload.get("server", 0),
        lender=payload.get("lender"),
        continued=_decode_continued(payload) if "continued" in payload else (),
    )


def _decode_reply(payload: dict[str, Any]) -> Reply:
    message = payload["message"]
    return Reply(
        outcome=Outcome(payload["outcome"]),
        content=str(message["content"]),
        reasoning=message.get("reasoning"),
        tool_calls=tuple(message.get("tool_calls", ())),
        finish_reason=payload.get("finish_reason"),
        usage=Usage(**payload.get("usage", {})),
        logprobs=payload.get("logprobs"),
        detail=payload.get("detail"),
    )


def _encode_step(record: StepRecord) -> dict[str, Any]:
    payload = {
        "kind": "step",
        "sample": record.sample,
        "repeat": record.repeat,
        "step": record.step,
        "digest": record.digest,
        "name": record.name,
        "result": record.result,
        "started": record.started,
        "seconds": record.seconds,
    }
    if record.arguments is not None:
        payload["arguments"] = record.arguments
    return payload


def _decode_step(payload: dict[str, Any]) -> StepRecord:
    return StepRecord(
        sample=int(payload["sample"]),
        repeat=int(payload["repeat"]),
        step=int(payload["step"]),
        digest=str(payload["digest"]),
        name=str(payload["name"]),
        result=payload["result"],
        started=payload["started"],
        seconds=payload["seconds"],
        arguments=payload.get("arguments"),
    )


def _encode_unit(record: UnitRecord) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "kind": "unit",
        "sample": record.sample,
        "repeat": record.repeat,
        "outcome": record.outcome.value,
        "text": record.text,
        "calls": record.calls,
    }
    if record.data is not None:
        payload["data"] = record.data
    if record.unanswered:
        payload["unanswered"] = record.unanswered
    if record.relayed:
        payload["relayed"] = record.relayed
    if record.steps:
        payload["steps"] = record.steps
    if record.undone:
        payload["undone"] = record.undone
    if record.detail is not None:
        payload["detail"] = record.detail
    if record.kind is not None:
        payload["failure"] = record.kind
    return payload


def _decode_unit(payload: dict[str, Any]) -> UnitRecord:
    return UnitRecord(
        sample=int(payload["sample"]),
        repeat=int(payload["repeat"]),
        outcome=Outcome(payload["outcome"]),
        text=str(payload["text"]),
        data=payload.get("data"),
        calls=int(payload["calls"]),
        unanswered=tuple(payload.get("unanswered", ())),
        relayed=tuple(payload.get("relayed", ())),
        steps=int(payload.get("steps", 0)),
        undone=tuple(payload.get("undone", ())),
        detail=payload.get("detail"),
        kind=payload.get("failure"),
    )


def _encode_partial(record: PartialRecord) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "kind": "partial",
        "sample": record.sample,
        "repeat": record.repeat,
        "call": record.call,
        "request": record.request,
        "start": record.start,
        "tokens": record.tokens,
        "elapsed_s": record.elapsed_s,
    }
    if record.prompt:
        payload["prompt"] = record.prompt
    if record.continued:
        payload["continued"] = _encode_continued(record.continued)
    if record.finish_reason is not None:
        payload["finish_reason"] = record.finish_reason
    if record.stuck:
        payload["stuck"] = record.stuck
    if record.begun:
        payload["begun"] = record.begun
    return payload


def _decode_partial(payload: dict[str, Any]) -> PartialRecord:
    return PartialRecord(
        sample=int(payload["sample"]),
        repeat=int(payload["repeat"]),
        call=int(payload["call"]),
        request=str(payload["request"]),
        start=int(payload["start"]),
        tokens=tuple(payload["tokens"]),
        prompt=tuple(payload.get("prompt", ())),
        continued=_decode_continued(payload),
        elapsed_s=payload.get("elapsed_s", 0.0),
        finish_reason=payload.get("finish_reason"),
        stuck=int(payload.get("stuck", 0)),
        begun=int(payload.get("begun", 0)),
    )


def _encode_grading(record: GradingRecord) -> dict[str, Any]:
    payload = {
        "kind": "grading",
        "sample": record.sample,
        "repeat": record.repeat,
        "solution": record.solution,
        "outcome": record.outcome.value,
    }
    if record.found is not None:
        payload["found"] = record.found
    if record.detail is not None:
        payload["detail"] = record.detail
    if record.anew:
        payload["anew"] = True
    return payload


def _decode_grading(payload: dict[str, Any]) -> GradingRecord:
    return GradingRecord(
        sample=payload["sample"],
        repeat=payload["repeat"],
        solution=payload["solution"],
        outcome=Outcome(payload["outcome"]),
        found=payload.get("found"),
        detail=payload.get("detail"),
        anew=payload.get("anew", False),
    )


_DECODERS: dict[str, Callable[[dict[str, Any]], Record]] = {
    "call": _decode_call,
    "step": _decode_step,
    "unit": _decode_unit,
    "partial": _decode_partial,
    "grading": _decode_grading,
}
