"""A chat endpoint that answers after a lognormal time: `python -m bench.slow_mock --port P`.

The time is a function of the request's body, so every client that sends the same requests meets the
same latencies. It is the least of a server (asyncio and nothing else) and counts by how much it is
late itself: `GET /lateness` says so. A request that asks for a stream is answered at once.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import orjson

from bench.nginx import MODEL, REPLY

if TYPE_CHECKING:
    from collections.abc import Sequence

MEDIAN_S = 0.5
SIGMA = 0.6
"""With 1.0 the longest of ten thousand answers takes longer than all the rest together: then that one
answer is measured and not the client."""
_NORMAL = NormalDist()
_CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
_STREAM = orjson.dumps(
    {**_CHUNK, "choices": [{"index": 0, "delta": {"content": "1"}, "finish_reason": "stop"}]}
)


def latency_s(body: bytes, sigma: float) -> float:
    """Lognormal latency of a request (s), drawn by its hash."""
    number = int.from_bytes(hashlib.sha256(body).digest()[:8], "big")
    uniform = (number + 0.5) / 2**64
    return MEDIAN_S * math.exp(sigma * _NORMAL.inv_cdf(uniform))


def _response(body: bytes, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


_COMPLETION = _response(orjson.dumps(REPLY))


class Lateness:
    """By how much answers left later than drawn (s)."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def summary(self) -> dict[str, float]:
        """Count, mean and 99th percentile; what was counted is forgotten."""
        late, self.seconds = sorted(self.seconds), []
        if not late:
            return {"n": 0}
        return {"n": len(late), "mean": sum(late) / len(late), "p99": quantile(late, 0.99)}


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time, as clients without pipelining send them."""

    def __init__(self, lateness: Lateness, sigma: float) -> None:
        self._lateness = lateness
        self._sigma = sigma
        self._loop = asyncio.get_running_loop()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("not a stream")
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request once it is whole."""
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < _content_length(head):
            return
        self._buffer = b""
        if head.startswith(b"GET"):
            self._transport.write(_response(self._lookup(head)))
        elif b'"stream":true' in body.replace(b" ", b""):
            stream = b"data: " + _STREAM + b"\n\ndata: [DONE]\n\n"
            self._transport.write(_response(stream, "text/event-stream"))
        else:
            due = self._loop.time() + latency_s(body, self._sigma)
            self._loop.call_at(due, self._answer, due)

    def _answer(self, due: float) -> None:
        if not self._transport.is_closing():
            self._transport.write(_COMPLETION)
            self._lateness.seconds.append(self._loop.time() - due)

    def _lookup(self, head: bytes) -> bytes:
        if b"/lateness" in head.split(b"\r\n", 1)[0]:
            return orjson.dumps(self._lateness.summary())
        return orjson.dumps({"object": "list", "data": [{"id": MODEL}]})


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


async def serve(port: int, sigma: float) -> None:
    """Serve until the process ends; prints a line of JSON when it listens."""
    lateness = Lateness()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(lateness, sigma), "127.0.0.1", port, backlog=4096
    )
    async with server:
        print(json.dumps({"listening": port}), flush=True)
        await server.serve_forever()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sigma", type=float, default=SIGMA)
    args = parser.parse_args()
    asyncio.run(serve(args.port, args.sigma))


if __name__ == "__main__":
    main()
