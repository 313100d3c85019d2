"""Where calls go, as the client needs to know it: one value for preflight and calls alike.

Nothing here reads the environment or opens a connection: who makes a target has decided about keys and
proxies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

from evalkit.redaction import HIDDEN, redact, request_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.recipe.serving import Price

Route: TypeAlias = Literal["chat/completions", "completions"]
"""Where a request goes, below the base URL."""


@dataclass(frozen=True, slots=True)
class Target:
    """One endpoint."""

    base_url: str
    """Up to and including the version, without a slash at the end."""
    model: str
    """The model id in requests."""
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    """All headers beyond the protocol's own, the key's included."""
    proxy: str | None = field(default=None, repr=False)
    """URL of the proxy to go through; null goes straight there, whatever the environment says."""
    is_ours: bool = True
    """A server that this worker started: it must answer with our model id."""
    server: int = 0
    """How many servers its attempt started before this one."""
    lender: str | None = None
    """The attempt that started it, where that is another one, which lends it."""

    can_continue: bool = False
    """The server hands out the tokens of what it is interrupted in, and goes on from such tokens."""
    can_continue_presence: bool = False
    """It lays a presence penalty on the tokens that it goes on from."""
    max_model_len: int | None = None
    """Context length in tokens, where it is known."""
    stream_interval: int = 1
    """Tokens between two chunks of a streamed answer."""
    price: Price | None = None
    """What it takes for tokens, where that is known."""
    counts_reasoning: bool = False
    """The server says how many tokens of each answer are reasoning, also when none is."""

    secrets: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """What an endpoint may repeat and no record may show."""

    def __post_init__(self) -> None:
        """Derive what is to be hidden."""
        object.__setattr__(self, "secrets", request_secrets(self.headers, self.proxy))

    def hide(self, text: str) -> str:
        """Text from the endpoint without what it was sent in headers."""
        return redact(text, self.secrets)

    def hide_in(self, body: bytes) -> bytes:
        """As `hide`, for an answer's body: before it is cut, so that no half of a key is left."""
        for secret in self.secrets:
            body = body.replace(secret.encode(), HIDDEN.encode())
        return body

    @property
    def root(self) -> str:
        """The base URL without its version."""
        return self.base_url.removesuffix("/v1")

    @property
    def url(self) -> str:
        """Where chat requests go."""
        return self.url_of("chat/completions")

    def url_of(self, route: Route) -> str:
        """Where requests of a route go."""
        return f"{self.base_url}/{route}"
