"""Programs that ask the model, as units of one worker have them: one gateway, a folder for each try.

So many programs run at once as there are cores: each may have hundreds of calls in flight, and all of
them wait for the same server.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from evalkit.client.drive import Drive, Place
from evalkit.cluster.runlog import note
from evalkit.errors import StoreError
from evalkit.serving.driven import run_program
from evalkit.store.hiding import redact_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from evalkit.client.drive import Driven
    from evalkit.client.relayed import Traffic
    from evalkit.clock import Clock
    from evalkit.plan.model import UnitKey
    from evalkit.serving.gateway import Gateway
    from evalkit.store.layout import RunFolder

log = logging.getLogger("evalkit.worker")


def places() -> int:
    """Programs that may run at once on this node."""
    return len(os.sched_getaffinity(0))


class SharedGateway:
    """The gateway of a worker, open from its first use on, and what else all its programs share."""

    def __init__(
        self, clock: Clock, idle_s: float | None = None, secrets: Sequence[str] = ()
    ) -> None:
        """A program that does nothing for `idle_s` is ended; `secrets` are shown in no log of one."""
        self.clock = clock
        self.idle_s = idle_s
        self.secrets = secrets
        self.places = asyncio.Semaphore(places())
        """Programs that may run at once."""
        self._gateway: Gateway | None = None
        self._opening = asyncio.Lock()

    async def gateway(self) -> Gateway:
        """The gateway."""
        async with self._opening:
            if self._gateway is None:
                # an HTTP server, which few runs have
                from evalkit.serving.gateway import Gateway

                gateway = Gateway(self.clock)
                await gateway.__aenter__()
                self._gateway = gateway
        return self._gateway

    async def close(self) -> None:
        """Close it, if it is open."""
        if self._gateway is not None:
            gateway, self._gateway = self._gateway, None
            await gateway.__aexit__(None, None, None)


class TaskDriver:
    """What programs of one task need. Implements `evalkit.client.drive.Driver`."""

    def __init__(
        self,
        shared: SharedGateway,
        folder: RunFolder,
        task: str,
        model: str,
        attempt: str,
        mark: str,
    ) -> None:
        """`mark` begins the names of its processes, see `evalkit.serving.leftovers`."""
        self._shared = shared
        self._run = folder
        self._task = task
        self._model = model
        self._attempt = attempt
        self._mark = mark
        self._numbers = itertools.count()

    @asynccontextmanager
    async def drive(self, key: UnitKey, unit: Driven) -> AsyncIterator[Drive]:
        """A place for a program of this unit, as soon as one is free. Raises StoreError."""
        from evalkit.serving.gateway import Guest  # with the gateway, see above

        async with self._shared.places, AsyncExitStack() as stack:
            gateway = await self._shared.gateway()
            guest = Guest(self._model, unit.relays, unit.max_model_len)
            secret = stack.enter_context(gateway.admit(guest))
            folder = self._make_folder(key)
            # a worker that was killed has taken nothing out of the logs of its programs
            before = [each for each in folder.parent.glob("*/*.log") if each.parent != folder]
            await asyncio.to_thread(_redact_or_warn, before, self._shared.secrets)
            place = Place(
                base_url=gateway.base_url,
                api_key=secret,
                model=self._model,
                folder=folder,
                name=str(folder.relative_to(self._run.root)),
                mark=f"{self._mark}:{self._task}-{key.sample}-{key.repeat}-{next(self._numbers)}",
            )
            yield Drive(self, place, unit, self._shared.idle_s)
        self._tell(key, unit.relays.traffic)

    async def run(
        self, place: Place, command: Sequence[str], env: Mapping[str, str], log: str
    ) -> int:
        """Run a program to its end, and take secrets out of its log. Raises InfraError, StoreError."""
        hidden = (*self._shared.secrets, place.api_key)
        try:
            code = await run_program(command, env, place.folder, log, place.mark)
        except asyncio.CancelledError:  # which no error may take the place of
            await asyncio.to_thread(_redact_or_warn, [place.folder / log], hidden)
            raise
        except Exception:
            await asyncio.to_thread(redact_file, place.folder / log, hidden)
            raise
        await asyncio.to_thread(redact_file, place.folder / log, hidden)
        return code

    async def close(self) -> None:
        """Close the gateway."""
        await self._shared.close()

    def _make_folder(self, key: UnitKey) -> Path:
        """A new one: the attempt may try a unit several times."""
        for number in itertools.count(1):
            name = self._attempt if number == 1 else f"{self._attempt}-{number}"
            path = self._run.harness(self._task, *key, name)
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise StoreError(f"cannot make {path}: {error.strerror or error}") from error
            return path
        raise AssertionError

    def _tell(self, key: UnitKey, traffic: Traffic) -> None:
        """What came of the requests, in the worker's log; in the run's, that a restart was of no use."""
        unit = f"tasks.{self._task}, unit {key.sample}-{key.repeat}"
        log.info("%s: %s", unit, traffic)
        if traffic.unasked:
            known = traffic.unasked + traffic.replayed
            how = (
                "asks differently every time" if not traffic.replayed else "asks partly differently"
            )
            text = (
                f"{unit}: not resumable: its program {how}. Of {known} answers in the journal "
                f"{traffic.unasked} were not asked for again"
            )
            log.warning("%s", text)
            note(self._run, self._shared.clock, f"{self._attempt}: {text}")


def _redact_or_warn(files: Sequence[Path], secrets: Sequence[str]) -> None:
    """Take secrets out of logs, where something else matters more than one that cannot be read."""
    for path in files:
        try:
            redact_file(path, secrets)
        except StoreError as error:
            log.warning("secrets may be left in a log: %s", error.message)
