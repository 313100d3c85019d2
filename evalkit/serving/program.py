"""What a deployment starts, as values: the same for vLLM and for any command."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LOCALHOST = "127.0.0.1"
EVERYWHERE = "0.0.0.0"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one part of a server runs."""

    listen: str
    """Address to listen on, for the part that answers."""
    port: int
    """Port of the part that answers; the ports after it are the server's too."""
    rank: int = 0
    """Number of the node; the part on node 0 answers."""
    address: str = LOCALHOST
    """Where other nodes reach node 0."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is started."""

    kind: Literal["vllm", "command"]
    render: Callable[[Place], tuple[str, ...]]
    """argv of a part, without the prefix."""
    nodes: int = 1
    """Nodes on which evalkit starts a part. A command starts its further parts itself."""
    health_path: str = "/health"
    launcher: str | None = None
    version: str | None = None
    python: str | None = None
    python_path: str | None = None
    """Folder of what its interpreter shall find besides its own."""
    continues_presence: bool = False
    """It goes on with a presence penalty where a generation was interrupted."""
    local_model: bool = False
    """The model is a folder, so nothing has to be fetched."""
    max_model_len: int | None = None


def render_command(command: tuple[str, ...], values: Mapping[str, str]) -> tuple[str, ...]:
    """argv with `{name}` filled in. Other braces stay as they are: commands may hold JSON."""
    names = re.compile("{(" + "|".join(map(re.escape, values)) + ")}")
    return tuple(names.sub(lambda found: values[found[1]], part) for part in command)
