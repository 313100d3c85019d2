"""Servers that replicas lend each other for driven tasks: see docs/adr/0029-lent-servers.md.

A loan is a hint in a file: where the server is, and its key. Who reads it finds out by asking whether it
still holds, and watches the server as its lender does not: a lender has no calls in flight itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from evalkit.cluster.replica_report import read_report, read_reports
from evalkit.cluster.targets import target_of
from evalkit.serving.endpoint import Endpoint
from evalkit.serving.watchdog import ProgressWatchdog

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evalkit.client.spread import SpreadClient
    from evalkit.client.target import Target
    from evalkit.clock import Clock
    from evalkit.cluster.replica_report import ReplicaReport
    from evalkit.recipe.serving import AnyServing
    from evalkit.store.layout import RunFolder
    from evalkit.store.queue import WorkQueue

log = logging.getLogger("evalkit.worker")

POLL_S = 2.0
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Loan:
    """A server that is lent."""

    replica: str
    attempt: int
    server: int
    """Its number within the attempt."""
    deployment: int
    host: str
    """Where it runs."""
    base_url: str
    metrics_url: str | None
    health_url: str | None
    model: str
    api_key: str
    max_model_len: int | None

    def reaches(self, host: str) -> bool:
        """Whether it can be asked from a host."""
        return host == self.host or urlsplit(self.base_url).hostname not in LOOPBACK

    @property
    def endpoint(self) -> Endpoint:
        """The server. Nothing of what an interrupted call had is asked of it."""
        return Endpoint(
            base_url=self.base_url,
            model=self.model,
            api_key=self.api_key,
            max_model_len=self.max_model_len,
            metrics_url=self.metrics_url,
            health_url=self.health_url,
        )

    def target(self, serving: AnyServing) -> Target:
        """Where calls go."""
        lender = f"{self.replica}.a{self.attempt}"
        return target_of(self.endpoint, serving, server=self.server, lender=lender)


class Lending:
    """What one replica lends and borrows, while it serves one deployment."""

    def __init__(
        self,
        folder: RunFolder,
        report: ReplicaReport,
        deployment: int,
        serving: AnyServing,
        server: int,
    ) -> None:
        """`server` is the number within the attempt of the server that is there to be lent."""
        self._folder = folder
        self._report = report
        self._deployment = deployment
        self._serving = serving
        self._server = server
        self._seen: dict[str, Loan] = {}
        self.is_lent = False
        """Nothing is to be done here, and others may ask the server."""

    def can_lend(self, endpoint: Endpoint, now: float) -> bool:
        """Whether another replica of the run could ask this server: any at an address of the network, else
        one on this host that runs a program.

        A hosted endpoint is the same for all of them, and its key is the user's: it goes into no file here.
        """
        if endpoint.api_key is None or self._serving.kind == "external":
            return False
        if urlsplit(endpoint.base_url).hostname not in LOOPBACK:
            return True
        return any(
            report.host == self._report.host and report.programs > 0 and report.is_fresh(now)
            for name, report in read_reports(self._folder).items()
            if name != self._report.replica
        )

    async def lend(
        self, endpoint: Endpoint, queue: WorkQueue, tasks: frozenset[str], clock: Clock
    ) -> None:
        """Lend the server while there is nothing for it to do, and stay for `tasks`; until cancelled."""
        path = self._folder.loan(self._report.replica)
        _remove(path)  # of an attempt before, which was killed
        try:
            while True:
                if not queue.stay_for and await asyncio.to_thread(
                    self.can_lend, endpoint, clock.wall()
                ):
                    queue.stay(tasks)
                idle = bool(queue.stay_for) and queue.is_idle
                if idle and not self.is_lent:
                    self.is_lent = await asyncio.to_thread(self._write, path, endpoint)
                elif self.is_lent and not idle:
                    self.is_lent = False
                    _remove(path)
                await asyncio.sleep(POLL_S)
        finally:
            _remove(path)

    async def borrow(self, spread: SpreadClient, clock: Clock, stall_timeout_s: float) -> None:
        """Tell `spread` what is lent, as it changes, and what does not answer any more; until cancelled."""
        known: dict[str, Loan] = {}
        watches: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                lent = await asyncio.to_thread(self._lent)
                await spread.borrow({key: loan.target(self._serving) for key, loan in lent.items()})
                for key in lent.keys() - known.keys():
                    known[key] = lent[key]
                    watch = _watch(lent[key], spread, clock, stall_timeout_s)
                    watches[key] = group.create_task(watch)
                for key in await asyncio.to_thread(self._lost, known, clock.wall()):
                    spread.give_up(key, f"{known[key].replica} has ended, or is not seen alive")
                    watches[key].cancel()
                await asyncio.sleep(POLL_S)

    def _lent(self) -> dict[str, Loan]:
        """What can be borrowed, by the servers' keys; what it was where a file system does not say."""
        try:
            loans = [_read(path) for path in self._folder.loans()]
        except OSError as error:
            log.warning("cannot look for servers that are lent: %s", error)
            return self._seen
        self._seen = {
            loan.api_key: loan
            for loan in loans
            if loan is not None
            and loan.replica != self._report.replica
            and loan.deployment == self._deployment
            and loan.reaches(self._report.host)
        }
        return self._seen

    def _lost(self, loans: Mapping[str, Loan], now: float) -> list[str]:
        """Keys of those whose lenders have ended or say nothing, such as on a node that is gone: nothing
        closes the connections to it."""
        reports = {
            key: read_report(self._folder.replica(loan.replica)) for key, loan in loans.items()
        }
        return [
            key
            for key, report in reports.items()
            if report is not None
            and not (report.attempt == loans[key].attempt and report.is_fresh(now))
        ]

    def _write(self, path: Path, endpoint: Endpoint) -> bool:
        """Tell others; whether that worked."""
        loan = Loan(
            replica=self._report.replica,
            attempt=self._report.attempt,
            server=self._server,
            deployment=self._deployment,
            host=self._report.host,
            base_url=endpoint.base_url,
            metrics_url=endpoint.metrics_url,
            health_url=endpoint.health_url,
            model=endpoint.model,
            api_key=endpoint.api_key or "",
            max_model_len=endpoint.max_model_len,
        )
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # never readable by others, not even for a moment
            _remove(temporary)  # of a process before that had our number
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(orjson.dumps(loan))
            temporary.replace(path)
        except OSError as error:
            log.warning("cannot lend the server: %s: %s", path, error.strerror)
            return False
        return True


async def _watch(loan: Loan, spread: SpreadClient, clock: Clock, stall_timeout_s: float) -> None:
    """Give a borrowed server up where it hangs or fails."""
    watchdog = ProgressWatchdog(loan.endpoint, stall_timeout_s, clock.monotonic)
    key = loan.api_key
    trouble = await watchdog.watch(lambda: spread.in_flight(key), lambda: spread.progress(key))
    spread.give_up(key, str(trouble))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a hint: who asks finds out
        path.unlink(missing_ok=True)


def _read(path: Path) -> Loan | None:
    try:
        return Loan(**orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError, TypeError):
        return None
