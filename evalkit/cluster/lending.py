"""Servers that replicas lend each other for driven tasks: see docs/adr/0029-lent-servers.md.

A loan is a hint in a file: where the server is, and its key. Who reads it finds out by asking whether it
still holds.
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

from evalkit.cluster.replica_report import ENDED, read_reports
from evalkit.cluster.targets import target_of
from evalkit.serving.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evalkit.client.spread import SpreadClient
    from evalkit.client.target import Target
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
    deployment: int
    host: str
    """Where it runs."""
    base_url: str
    model: str
    api_key: str
    max_model_len: int | None

    def reaches(self, host: str) -> bool:
        """Whether it can be asked from a host."""
        return host == self.host or urlsplit(self.base_url).hostname not in LOOPBACK

    def target(self, serving: AnyServing) -> Target:
        """Where calls go. Nothing of what an interrupted call had is asked of it."""
        endpoint = Endpoint(
            base_url=self.base_url,
            model=self.model,
            api_key=self.api_key,
            max_model_len=self.max_model_len,
        )
        return target_of(endpoint, serving)


class Lending:
    """What one replica lends and borrows, while it serves one deployment."""

    def __init__(
        self, folder: RunFolder, report: ReplicaReport, deployment: int, serving: AnyServing
    ) -> None:
        self._folder = folder
        self._report = report
        self._deployment = deployment
        self._serving = serving

    def can_lend(self, endpoint: Endpoint) -> bool:
        """Whether another replica of the run could ask this server.

        A hosted endpoint is the same for all of them, and its key is the user's: it goes into no file here.
        """
        if endpoint.api_key is None or self._serving.kind == "external":
            return False
        if urlsplit(endpoint.base_url).hostname not in LOOPBACK:
            return True
        return any(
            report.host == self._report.host and report.state not in ENDED
            for name, report in read_reports(self._folder).items()
            if name != self._report.replica
        )

    async def lend(self, endpoint: Endpoint, queue: WorkQueue, tasks: frozenset[str]) -> None:
        """Lend the server while there is nothing for it to do, and stay for `tasks`; until cancelled."""
        path = self._folder.loan(self._report.replica)
        _remove(path)  # of an attempt before, which was killed
        lent = False
        try:
            while True:
                if not queue.stay_for and await asyncio.to_thread(self.can_lend, endpoint):
                    queue.stay_for = tasks
                idle = bool(queue.stay_for) and queue.is_idle
                if lent != idle:
                    lent = idle
                    if lent:
                        await asyncio.to_thread(self._write, path, endpoint)
                    else:
                        _remove(path)
                    self._report.detail = "lends its server to a driven task" if lent else None
                await asyncio.sleep(POLL_S)
        finally:
            _remove(path)

    async def borrow(self, spread: SpreadClient) -> None:
        """Tell `spread` what is lent, as it changes; until cancelled."""
        while True:
            await spread.borrow(await asyncio.to_thread(self._lent))
            await asyncio.sleep(POLL_S)

    def _lent(self) -> Mapping[str, Target]:
        found = {}
        for path in self._folder.loans():
            loan = _read(path)
            if loan is None or loan.replica == self._report.replica:
                continue
            if loan.deployment == self._deployment and loan.reaches(self._report.host):
                found[loan.api_key] = loan.target(self._serving)
        return found

    def _write(self, path: Path, endpoint: Endpoint) -> None:
        loan = Loan(
            replica=self._report.replica,
            deployment=self._deployment,
            host=self._report.host,
            base_url=endpoint.base_url,
            model=endpoint.model,
            api_key=endpoint.api_key or "",
            max_model_len=endpoint.max_model_len,
        )
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # never readable by others, not even for a moment
            with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
                file.write(orjson.dumps(loan))
            temporary.replace(path)
        except OSError as error:
            log.warning("cannot lend the server: %s: %s", path, error.strerror)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a hint: who asks finds out
        path.unlink(missing_ok=True)


def _read(path: Path) -> Loan | None:
    try:
        return Loan(**orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError, TypeError):
        return None
