"""An endpoint that somebody else runs: checked, never started or stopped."""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING

from evalkit.errors import EndpointError, FailureKind
from evalkit.serving.contract import ServerFacts
from evalkit.serving.endpoint import Endpoint
from evalkit.serving.proxy import find_proxy
from evalkit.serving.ready import confirm_model, find_features
from evalkit.serving.wire import Answer, Wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.plan.model import DeploymentPlan
    from evalkit.recipe.serving import ExternalServing

# A rate limit or a restart on the other side passes; a wrong address does not.
TRIES = 5
PAUSE_S = 1.0


class ExternalDeployment:
    """A hosted model. Implements `Deployment`."""

    def __init__(
        self, plan: DeploymentPlan, serving: ExternalServing, env: Mapping[str, str]
    ) -> None:
        self._plan = plan
        self._serving = serving
        self._env = env
        self._endpoint: Endpoint | None = None

    def endpoint(self) -> Endpoint:
        """The endpoint as the recipe has it; nobody is asked. Raises EndpointError without its key."""
        base_url = self._serving.base_url.rstrip("/")
        return Endpoint(
            base_url=base_url,
            model=self._plan.served_model_name,
            api_key=self._read_key(),
            headers=MappingProxyType(dict(self._serving.headers)),
            max_model_len=self._serving.max_model_len,
            proxy=find_proxy(self._env, base_url),
        )

    async def start(self) -> Endpoint:
        """Check the key, and the model id when the recipe wants it. Raises EndpointError."""
        endpoint = self.endpoint()
        if self._serving.check_models:
            async with Wire(endpoint) as wire:
                endpoint = confirm_model(endpoint, await self._ask_models(wire, endpoint))
                endpoint = await find_features(wire, endpoint)
        self._endpoint = endpoint
        return endpoint

    async def stop(self, within_s: float | None = None) -> None:
        """Nothing is ours to stop."""

    def failure(self) -> None:
        """Always None: only calls can tell."""

    async def facts(self) -> ServerFacts:
        """What the endpoint told about itself."""
        length = None if self._endpoint is None else self._endpoint.max_model_len
        return ServerFacts(kind="external", max_model_len=length)

    def _read_key(self) -> str | None:
        name = self._serving.api_key_env
        if name is None:
            return None
        if not (key := self._env.get(name)):
            raise EndpointError(
                f"serving.api_key_env: the variable {name} is not set",
                hint=f"Export {name} where you submit, or give a file with --env-file.",
            )
        return key

    async def _ask_models(self, wire: Wire, endpoint: Endpoint) -> Answer:
        answer = await wire.models()
        for number in range(1, TRIES):
            if not answer.passing:
                return answer
            await asyncio.sleep(PAUSE_S * number)
            answer = await wire.models()
        if not answer.passing:
            return answer
        raise EndpointError(
            f"{endpoint.base_url}/models gives no answer: {answer.brief()}",
            hint="Check serving.base_url and the network of this node; check_models: false leaves "
            "this check out.",
            kind=FailureKind.ENDPOINT,
        )
