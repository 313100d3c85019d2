"""The few HTTP questions that tell whether a server is ready: health, model ids, one token.

Each returns what was answered. Nothing here waits or repeats; that is the deployment's business.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.redaction import redact, request_secrets

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from evalkit.serving.endpoint import Endpoint

# A server that is still loading may accept a connection and say nothing: ask again soon.
QUICK_S = 5.0
# The first completion may compile kernels.
FIRST_TOKEN_S = 600.0
PATIENCE = (408, 425, 429, 500, 502, 503, 504)
NOT_THIS_API = (400, 404, 405, 422, 501)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request came back with. `status` is null when there was no HTTP answer at all."""

    status: int | None
    text: str

    @property
    def ok(self) -> bool:
        """Answered with 200."""
        return self.status == 200

    @property
    def passing(self) -> bool:
        """No answer yet, or one that may be another a moment later."""
        return self.status is None or self.status in PATIENCE

    def json(self) -> Any:
        """The body as JSON; None when it is not JSON."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    def brief(self) -> str:
        """For a message: `HTTP 401: ...`, or why there was no answer."""
        text = " ".join(self.text.split())[:300]
        return text if self.status is None else f"HTTP {self.status}: {text or 'empty body'}"


class Wire:
    """A session with one endpoint. An async context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Wire:
        # what reads a server's words imports this module; only who asks it needs an HTTP client
        from aiohttp import ClientSession

        self._session = ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, url: str, timeout_s: float = QUICK_S, *, key: bool = True) -> Answer:
        """GET a URL, with the endpoint's headers when `key`."""
        return await self._ask("GET", url, None, timeout_s, key)

    async def models(self) -> Answer:
        """GET /models."""
        return await self.get(f"{self._endpoint.base_url}/models")

    async def one_token(self, timeout_s: float = FIRST_TOKEN_S) -> Answer:
        """Generate one token: as a completion, or as a chat where there are no completions."""
        body = {"model": self._endpoint.model, "prompt": "1", "max_tokens": 1, "temperature": 0}
        base_url = self._endpoint.base_url
        answer = await self.post(f"{base_url}/completions", body, timeout_s)
        if answer.status not in NOT_THIS_API:
            return answer
        chat = {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": "1"}],
            "max_tokens": 1,
        }
        return await self.post(f"{base_url}/chat/completions", chat, timeout_s)

    async def post(self, url: str, body: dict[str, Any], timeout_s: float = QUICK_S) -> Answer:
        """POST a JSON body, with the endpoint's headers."""
        return await self._ask("POST", url, body, timeout_s, True)

    async def _ask(
        self, method: str, url: str, body: dict[str, Any] | None, timeout_s: float, key: bool
    ) -> Answer:
        if self._session is None:
            raise RuntimeError("Wire is used as an async context manager")
        from aiohttp import ClientError, ClientTimeout

        try:
            async with self._session.request(
                method,
                url,
                json=body,
                proxy=self._endpoint.proxy,
                headers=self._endpoint.request_headers() if key else None,
                timeout=ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as response:
                text = await response.text(errors="replace")
                # a refusal may repeat the key
                return Answer(response.status, text if response.status == 200 else self._hide(text))
        except TimeoutError:
            return Answer(None, f"no answer within {timeout_s:g} s")
        except (ClientError, OSError) as error:
            return Answer(None, self._hide(str(error)) or type(error).__name__)

    def _hide(self, text: str) -> str:
        endpoint = self._endpoint
        return redact(text, request_secrets(endpoint.request_headers(), endpoint.proxy))


def parse_models(answer: Answer) -> dict[str, int | None] | None:
    """Model ids with context lengths from `/models`; None when it is not such an answer."""
    body = answer.json()
    if not answer.ok or not isinstance(body, dict) or not isinstance(body.get("data"), list):
        return None
    found: dict[str, int | None] = {}
    for entry in body["data"]:
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            length = entry.get("max_model_len")
            found[entry["id"]] = length if isinstance(length, int) else None
    return found


def has_token_counters(answer: Answer) -> bool:
    """Whether this is vLLM's metrics page."""
    return answer.ok and "vllm:generation_tokens" in answer.text
