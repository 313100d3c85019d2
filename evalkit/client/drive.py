"""A program that asks the model on behalf of a unit: what it is given, and how long it may run.

The gateway and the process are made elsewhere (`Driver`). Here is what joins them to the unit: a failed
call of the unit ends its program, for nothing that it makes of the error could count.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from evalkit.client.relayed import Relays
    from evalkit.errors import EvalkitError
    from evalkit.plan.model import UnitKey


class Driven(Protocol):
    """The unit, as its program's calls reach it."""

    relays: Relays

    @property
    def max_model_len(self) -> int | None:
        """Context length in tokens, where it is known."""
        ...

    async def failed(self) -> EvalkitError:
        """Return when a call of the unit has failed, with the reason."""
        ...


class Driver(Protocol):
    """What programs need on this node: a gateway, folders, and a way to start and end them."""

    def drive(self, key: UnitKey, unit: Driven) -> AbstractAsyncContextManager[Drive]:
        """A place for a program of this unit, as long as the block lasts."""
        ...

    async def run(
        self, place: Place, command: Sequence[str], env: Mapping[str, str], log: str
    ) -> int:
        """Run a program to its end: its exit code. Raises InfraError where it cannot be started."""
        ...

    async def close(self) -> None:
        """Close what all units share."""
        ...


class Place(NamedTuple):
    """Where a program is, and where it finds the model."""

    base_url: str
    api_key: str
    model: str
    folder: Path
    name: str
    """The folder below the run's."""
    mark: str
    """What its processes are known by."""


class Drive:
    """What a solve has of its program. Implements `evalkit.benchmarks.contract.Driving`."""

    def __init__(self, driver: Driver, place: Place, unit: Driven) -> None:
        self.base_url, self.api_key, self.model, self.folder, self.name, _ = place
        self._driver, self._place, self._unit = driver, place, unit

    async def run(self, command: Sequence[str], env: Mapping[str, str], log: str) -> int:
        """Run a program in `folder` until it ends. Raises what the first failed call of the unit raised:
        the program is ended then."""
        running = asyncio.ensure_future(self._driver.run(self._place, command, env, log))
        failing = asyncio.ensure_future(self._unit.failed())
        try:
            await asyncio.wait({running, failing}, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                raise failing.result()
            return running.result()
        finally:
            running.cancel()
            failing.cancel()
            await asyncio.wait({running, failing})
