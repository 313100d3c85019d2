"""Under which addresses the nodes of a replica reach each other.

A node's own name is a bad answer: on many systems it resolves to a loopback address there. So the others
are looked up, as Slurm knows them, and this node's address is the one from which it talks to them.
Which network that is, the site has decided by the addresses it gave its nodes.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

from evalkit.errors import FailureKind, ServingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TIMEOUT_S = 60.0
DISCARD_PORT = 9
"""Nothing is sent there: connecting a datagram socket only chooses a route."""
NODE = re.compile(r"\bNodeName=(\S+)")
ADDRESS = re.compile(r"\bNodeAddr=(\S+)")


def find_addresses(nodes: Sequence[str], env: Mapping[str, str]) -> tuple[str, ...]:
    """IP addresses of `nodes`, this one first, at least one other. Raises ServingError."""
    names = slurm_addresses(nodes[1:], env)
    others = [resolve(names.get(node, node)) for node in nodes[1:]]
    return (source_address(others[0]), *others)


def slurm_addresses(nodes: Sequence[str], env: Mapping[str, str]) -> dict[str, str]:
    """Address or name that Slurm reaches each node under; without those it does not tell."""
    program = shutil.which("scontrol", path=env.get("PATH"))
    if program is None:
        return {}
    try:
        done = subprocess.run(
            [program, "--oneliner", "show", "node", ",".join(nodes)],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return parse_nodes(done.stdout)


def parse_nodes(text: str) -> dict[str, str]:
    """Addresses by node, from `scontrol --oneliner show node`."""
    pairs = ((NODE.search(line), ADDRESS.search(line)) for line in text.splitlines())
    return {node[1]: address[1] for node, address in pairs if node and address}


def resolve(name: str) -> str:
    """An IP address, version 4 where there is one. Raises ServingError."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ServingError(
            f"cannot find the address of node {name}: {error.strerror or error}",
            hint="The nodes of a replica must know each other by name, or by an address in Slurm's "
            "configuration (`scontrol show node`).",
            kind=FailureKind.SERVER_START,
        ) from error
    return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])


def source_address(other: str) -> str:
    """Address of this node on the way to another one. Raises ServingError."""
    family = socket.AF_INET6 if ":" in other else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((other, DISCARD_PORT))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ServingError(
            f"no route to {other}, another node of this replica: {error.strerror or error}",
            kind=FailureKind.SERVER_START,
        ) from error
