"""What every kind of deployment promises, and what it is given.

Values and one protocol; the kinds are in modules of their own. Import these names from
`evalkit.serving.deployment`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from evalkit.serving.endpoint import Endpoint
    from evalkit.serving.trouble import Trouble


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Where and as what a server is started: everything that is not in the plan."""

    log_path: Path
    """Output of the server, appended; a file of this attempt alone."""
    attempt: str
    """Name of the attempt; the marker in the environment of every process of the server."""
    host: str
    """Name or address under which other nodes reach this one; used with `expose`."""
    port_base: int
    """First port to try; see `evalkit.serving.ports`."""
    prefix: tuple[str, ...]
    """argv before the server's own, such as a container's, with `{run_dir}` and `{model}` to be
    filled in; empty for none."""
    env: Mapping[str, str] = field(repr=False)
    """The environment to start from."""
    run_dir: Path
    """Folder of the run."""
    cache_dir: Path
    """Node-local folder for compile caches, made with the first server. Whoever names it removes it;
    where that process is killed, the server's keeper does."""
    api_key: str = field(repr=False)
    """Random key that this server shall ask for."""
    on_progress: Callable[[str], None]
    """Called with a short sentence while the server starts."""
    nodes: tuple[str, ...] = ()
    """Nodes of the replica as Slurm calls them, this one first; empty where there is only this one."""
    srun_args: tuple[str, ...] = ()
    """Arguments of the srun that starts something on one further node, without the node itself."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Provenance of a server that was ready."""

    kind: str
    version: str | None = None
    """The server's own version, where it tells."""
    argv: tuple[str, ...] = ()
    """The command as started, secrets replaced; empty for an external endpoint."""
    launcher: str | None = None
    """How vLLM was started: `serve` or `module`."""
    max_model_len: int | None = None
    """Context length in tokens."""
    gpus: tuple[str, ...] = ()
    """Names of the GPUs of this replica; further nodes are taken to have what the first has."""
    nodes: tuple[str, ...] = ()
    """Nodes that parts of the server ran on, as far as evalkit started them; the first answers."""
    python: str | None = None
    """Version of the interpreter that runs the server."""

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        return {
            "kind": self.kind,
            "version": self.version,
            "argv": list(self.argv),
            "launcher": self.launcher,
            "max_model_len": self.max_model_len,
            "gpus": list(self.gpus),
            "nodes": list(self.nodes),
            "python": self.python,
        }


class Deployment(Protocol):
    """One server, or an endpoint that somebody else runs. Start it once; then stop it."""

    async def start(self) -> Endpoint:
        """Return when it is ready.

        Raises ServerStartError when it died or missed the deadline, EndpointError when it answers
        but not as it must. Nothing is left running then.
        """

    async def stop(self, within_s: float | None = None) -> None:
        """End every process of the server. May be called at any time, and again.

        `within_s` shortens the time that it has to end by itself (s).
        """

    def failure(self) -> Trouble | None:
        """Why the server is dead, with the end of its log; None while it lives. Cheap."""

    async def facts(self) -> ServerFacts:
        """Provenance; after `start`."""
