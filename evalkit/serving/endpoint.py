"""Where calls go: the one value that the rest of evalkit needs to know about a server.

Nothing here opens a connection. The key stays out of every representation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that speaks the OpenAI API, ready for calls."""

    base_url: str
    """URL up to and including the version, without a slash at the end: `http://host:port/v1`."""
    model: str
    """The model id in requests."""
    api_key: str | None = field(default=None, repr=False)
    """Sent as `Authorization: Bearer`; null sends no such header."""
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """More request headers."""
    max_model_len: int | None = None
    """Context length in tokens, where it is known."""
    metrics_url: str | None = None
    """vLLM's Prometheus page; null where there is none."""
    health_url: str | None = field(default=None, compare=False)
    """Where a server of ours tells how it is; null for another's, which is not ours to examine."""
    can_continue: bool = False
    """It hands out the tokens of interrupted requests and goes on from them (`client.salvage`)."""
    can_continue_presence: bool = False
    """It lays a presence penalty on the tokens that it goes on from."""
    proxy: str | None = field(default=None, repr=False)
    """URL of the proxy that every request goes through; null for none, as for all servers of ours."""

    def request_headers(self) -> dict[str, str]:
        """All headers of a request, the key included."""
        key = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        return {**self.headers, **key}
