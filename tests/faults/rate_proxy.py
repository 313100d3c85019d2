"""A proxy with a provider's limits in front of any endpoint: token buckets for requests and for tokens.

It keeps a ledger, so that a test can say how close to the allowed rate a client came, and how often it
was refused. Refusals take turns in how they say when to come back, as providers do.

    python -m tests.faults.rate_proxy --port 8001 --upstream http://127.0.0.1:8000 --requests-per-s 5
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import aiohttp
from aiohttp import web

STYLES = ("seconds", "ms", "reset", "inside", "date", "none")
"""How a refusal says when to come back: Retry-After, retry-after-ms, x-ratelimit headers, an error inside
of a 200 with the provider's headers in its metadata, Retry-After as a date, or not at all."""


@dataclass
class Bucket:
    """Fills at a rate, up to a size; may be overdrawn."""

    per_s: float
    size: float
    level: float = field(init=False)
    filled: float | None = None

    def __post_init__(self) -> None:
        self.level = self.size

    def fill(self, now: float) -> None:
        """Up to now."""
        if self.filled is not None:
            self.level = min(self.size, self.level + (now - self.filled) * self.per_s)
        self.filled = now

    def lacks_s(self, amount: float) -> float:
        """Seconds until so much is there."""
        return max(0.0, (amount - self.level) / self.per_s)


class RateProxy:
    """The application, its buckets and its ledger."""

    def __init__(
        self, upstream: str, requests: Bucket, tokens: Bucket | None, styles: tuple[str, ...]
    ) -> None:
        self.upstream, self.requests, self.tokens = upstream.rstrip("/"), requests, tokens
        self.styles = itertools.cycle(styles)
        self.accepted: list[float] = []
        """When calls were let through, on the monotonic clock."""
        self.refused: list[float] = []
        self.spent = 0
        """Tokens of all answers and their prompts."""
        self._session: aiohttp.ClientSession | None = None

    def make_app(self) -> web.Application:
        """An application to run."""
        app = web.Application(client_max_size=1 << 28)
        app.cleanup_ctx.append(self._connect)
        app.router.add_get("/_ledger", self._ledger)
        app.router.add_route("*", "/{path:.*}", self._forward)
        return app

    async def _connect(self, _: web.Application) -> Any:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            self._session = session
            yield

    async def _ledger(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"accepted": self.accepted, "refused": self.refused, "tokens": self.spent}
        )

    async def _forward(self, request: web.Request) -> web.Response:
        body = await request.read()
        is_call = request.method == "POST" and request.path.endswith("/chat/completions")
        if is_call and (wait := self._take()) > 0:
            return self._refuse(wait)
        assert self._session is not None
        kept = {k: v for k, v in request.headers.items() if k in ("Authorization", "Content-Type")}
        url = f"{self.upstream}{request.path_qs}"
        async with self._session.request(request.method, url, data=body, headers=kept) as answer:
            content = await answer.read()
            if is_call and answer.content_type == "application/json":
                self._charge(await answer.json())
            return web.Response(
                body=content, status=answer.status, content_type=answer.content_type
            )

    def _take(self) -> float:
        """Let a call through, or say in how many seconds one will be."""
        now = time.monotonic()
        buckets = [(self.requests, 1.0)] + ([(self.tokens, 1.0)] if self.tokens else [])
        for bucket, _ in buckets:
            bucket.fill(now)
        wait = max(bucket.lacks_s(amount) for bucket, amount in buckets)
        if wait > 0:
            self.refused.append(now)
            return wait
        self.requests.level -= 1
        self.accepted.append(now)
        return 0.0

    def _charge(self, answer: dict[str, Any]) -> None:
        total = (answer.get("usage") or {}).get("total_tokens") or 0
        self.spent += total
        if self.tokens is not None:
            self.tokens.level -= total

    def _refuse(self, wait: float) -> web.Response:
        style = next(self.styles)
        error: dict[str, Any] = {"message": "Too many requests.", "code": "rate_limit_exceeded"}
        if style == "inside":
            reset = str(round((time.time() + wait) * 1000))
            metadata = {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}}
            return web.json_response({"error": {**error, "code": 429, "metadata": metadata}})
        headers = {
            "seconds": {"Retry-After": str(math.ceil(wait))},
            "ms": {"retry-after-ms": str(math.ceil(1000 * wait))},
            "reset": {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": f"{math.ceil(1000 * wait)}ms",
            },
            "date": {"Retry-After": formatdate(time.time() + wait + 1, usegmt=True)},
            "none": {},
        }[style]
        return web.json_response({"error": error}, status=429, headers=headers)


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description="A rate limit in front of an endpoint.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="URL without /v1")
    parser.add_argument("--requests-per-s", type=float, required=True)
    parser.add_argument("--burst", type=float, default=10)
    parser.add_argument("--tokens-per-s", type=float, default=0)
    parser.add_argument("--token-burst", type=float, default=1000)
    parser.add_argument("--styles", default=",".join(STYLES))
    args = parser.parse_args()
    tokens = Bucket(args.tokens_per_s, args.token_burst) if args.tokens_per_s else None
    requests = Bucket(args.requests_per_s, args.burst)
    proxy = RateProxy(args.upstream, requests, tokens, tuple(args.styles.split(",")))
    web.run_app(
        proxy.make_app(),
        host="127.0.0.1",
        port=args.port,
        print=None,
        access_log=None,
        handler_cancellation=True,
    )


if __name__ == "__main__":
    main()
