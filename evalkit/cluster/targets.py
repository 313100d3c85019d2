"""From a server that is ready to the target of calls, for models and judges alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.client.target import Target
from evalkit.recipe.serving import LocalServing, VllmServing, price_of

if TYPE_CHECKING:
    from evalkit.recipe.serving import AnyServing
    from evalkit.serving.endpoint import Endpoint


def target_of(
    endpoint: Endpoint, serving: AnyServing, *, server: int = 0, lender: str | None = None
) -> Target:
    """Where calls go; `server` is the number of servers that its attempt started before this one, `lender`
    that attempt where it is another one."""
    return Target(
        base_url=endpoint.base_url,
        model=endpoint.model,
        headers=endpoint.request_headers(),
        proxy=endpoint.proxy,
        is_ours=isinstance(serving, LocalServing),
        server=server,
        lender=lender,
        can_continue=endpoint.can_continue,
        can_continue_presence=endpoint.can_continue_presence,
        max_model_len=endpoint.max_model_len,
        stream_interval=serving.stream_interval if isinstance(serving, LocalServing) else 1,
        price=price_of(serving),
        counts_reasoning=isinstance(serving, VllmServing) and bool(serving.reasoning_parser),
    )
