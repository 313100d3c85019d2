"""A program that asks the model on behalf of a unit: what it is given, and how long it may run.

The gateway and the process are made elsewhere (`Driver`). Here is what joins them to the unit: a failed
call of the unit ends its program, for nothing that it makes of the error could count; and so does a
program that does nothing any more, which would hold its unit and a server as long as the job may run.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from evalkit.errors import ProgramHungError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from evalkit.client.relayed import Relays
    from evalkit.errors import EvalkitError
    from evalkit.plan.model import UnitKey

LOOK_S = 5.0
"""Between two looks at whether a program does something."""
LOOKS = 10
"""Looks within a shorter limit."""


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

    def __init__(
        self, driver: Driver, place: Place, unit: Driven, idle_s: float | None = None
    ) -> None:
        """A program that does nothing for `idle_s` is ended; null waits for ever."""
        self.base_url, self.api_key, self.model, self.folder, self.name, _ = place
        self._driver, self._place, self._unit, self._idle_s = driver, place, unit, idle_s

    async def run(self, command: Sequence[str], env: Mapping[str, str], log: str) -> int:
        """Run a program in `folder` until it ends.

        Raises what the first failed call of the unit raised, and ProgramHungError: the program is ended
        then, before this raises.
        """
        running = asyncio.ensure_future(self._driver.run(self._place, command, env, log))
        failing = asyncio.ensure_future(self._unit.failed())
        hanging = asyncio.ensure_future(self._idle(self.folder / log))
        try:
            await asyncio.wait({running, failing, hanging}, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                raise failing.result()
            if hanging.done() and not running.done():
                raise self._hung(Path(command[0]).name, log)
            return running.result()
        finally:
            for task in (running, failing, hanging):
                task.cancel()
            await asyncio.wait({running, failing, hanging})

    async def _idle(self, log: Path) -> None:
        """Return when the program has done nothing for `idle_s`.

        What it does are requests and words in its log. Time in which this process did not run itself (a
        machine that slept) is not counted against it.
        """
        relays, limit_s = self._unit.relays, self._idle_s
        if limit_s is None:
            await asyncio.get_running_loop().create_future()
            return
        step_s = min(LOOK_S, limit_s / LOOKS)
        idle_s, seen = 0.0, (-1, -1)
        while idle_s < limit_s:
            now = (relays.moves, await asyncio.to_thread(_size, log))
            idle_s = 0.0 if relays.in_flight or now != seen else idle_s + step_s
            seen = now
            await asyncio.sleep(step_s)

    def _hung(self, program: str, log: str) -> ProgramHungError:
        return ProgramHungError(
            f"{program} hung and was ended: for {self._idle_s:,g} s it had no request in flight, made none "
            f"and wrote nothing into its log {self.name}/{log}. `evalkit resume` runs it again, with what "
            "was answered from the journal; a program that works so long in silence needs a longer "
            "client.program_idle_s, or null"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
