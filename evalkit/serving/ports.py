"""Ports for servers on nodes that are shared, where every fixed port is taken one day.

A bind probe alone is a race: two replicas on one node may probe the same free port and start, and
vLLM listens with SO_REUSEPORT, so both would listen and the kernel would share calls out among
them. So a port is also *claimed* by binding a name in the abstract namespace of Unix sockets: it
excludes other evalkits of the same network namespace, needs no file, and ends with the process.
Other programs may still take the port in between; the caller tries the next one then.

A server gets a block of `BLOCK` ports: its own, and those that vLLM and torch open beside it.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FIRST, LAST = 20000, 49999
BLOCK = 16
TRIES = 64


def derive_port_base(job: int, index: int) -> int:
    """First port to try for an array index of a job: different for neighbours, stable in a job."""
    blocks = (LAST + 1 - FIRST) // BLOCK
    return FIRST + ((job * 64 + index) % blocks) * BLOCK


def plan_ports(base: int) -> Iterator[int]:
    """The ports to try, in order: the base, then the following blocks, round the range."""
    yield base
    blocks = (LAST + 1 - FIRST) // BLOCK
    start = max(base - FIRST, 0) // BLOCK
    for step in range(1, TRIES):
        yield FIRST + (start + step) % blocks * BLOCK


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on the port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do, so that connections of a predecessor in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


@dataclass(slots=True)
class Claim:
    """A port that no other evalkit on this node takes while this is held."""

    port: int
    _socket: socket.socket

    def release(self) -> None:
        """Let others have it. May be called again."""
        self._socket.close()


def claim_port(host: str, port: int) -> Claim | None:
    """Claim a port that is free to listen on; None when it is taken."""
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        held.bind(f"\0evalkit-port-{port}")
        if is_free(host, port):
            return Claim(port, held)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            held.close()
            raise
    held.close()
    return None


def listens(pids: Iterable[int], port: int) -> bool:
    """Whether one of the processes listens on the TCP port."""
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            for connection in psutil.Process(pid).net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return True
    return False
