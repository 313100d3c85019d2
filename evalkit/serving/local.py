"""A server that evalkit starts: the life from a free port to the last process gone.

Kinds differ in a `Program` alone: what is started. vLLM's is made in `evalkit.serving.vllm`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from typing import TYPE_CHECKING

from evalkit.errors import FailureKind, ServerStartError, ServingError
from evalkit.redaction import redact
from evalkit.serving import logs
from evalkit.serving.assembly import Assembly
from evalkit.serving.contract import ServerContext, ServerFacts
from evalkit.serving.endpoint import Endpoint
from evalkit.serving.gpus import UNUSABLE, gpu_names
from evalkit.serving.ports import Claim, claim_port, listens, plan_ports
from evalkit.serving.program import EVERYWHERE, LOCALHOST, Program
from evalkit.serving.ready import IdentityError, server_root, wait_ready
from evalkit.serving.server import describe_code
from evalkit.serving.trouble import explain_start
from evalkit.serving.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.plan.model import DeploymentPlan
    from evalkit.recipe.serving import LocalServing
    from evalkit.serving.parts import WholeServer
    from evalkit.serving.trouble import Trouble

# Each start of a large model takes minutes; ports that are taken after a free probe are rare.
MAX_STARTS = 4
PROGRESS_S = 30.0
# A server that is not ready has no call to finish; vLLM does not even heed SIGTERM while it loads,
# and a drain must not wait for it.
UNREADY_GRACE_S = 2.0


class LocalDeployment:
    """One server, in one or several parts. Implements `Deployment`."""

    def __init__(
        self,
        plan: DeploymentPlan,
        serving: LocalServing,
        context: ServerContext,
        make_program: Callable[[], Program],
    ) -> None:
        """`make_program` may look at the interpreter that has the server; it runs in a thread."""
        self._plan = plan
        self._serving = serving
        self._context = context
        self._make_program = make_program
        self._program: Program | None = None
        self._server: WholeServer | None = None
        self._claim: Claim | None = None
        self._endpoint: Endpoint | None = None
        self._argv: tuple[str, ...] = ()
        self._secrets = (
            context.api_key,
            *(value for n in serving.secrets if (value := context.env.get(n))),
        )

    async def start(self) -> Endpoint:
        """See `Deployment.start`."""
        if self._server is not None:
            raise RuntimeError("the server was started before: stop it first")
        self._require_secrets()
        self._endpoint = None
        self._program = await asyncio.to_thread(self._make_program)
        assembly = Assembly(self._serving, self._context, self._program)
        await assembly.prepare()
        deadline = asyncio.get_running_loop().time() + self._serving.ready_timeout_s
        listen = EVERYWHERE if self._serving.expose else LOCALHOST
        starts = 0
        for port in plan_ports(self._context.port_base):
            self._claim = claim_port(listen, port)
            if self._claim is None:
                continue
            starts += 1
            try:
                endpoint = await self._start_on(assembly, listen, port, deadline)
            except BaseException as error:
                again = starts < MAX_STARTS and self._is_port_taken(error, port)
                await self.stop()
                if not again:
                    raise
                self._context.on_progress(f"port {port} is taken: trying the next")
                continue
            presence = endpoint.can_continue and self._program.continues_presence
            endpoint = dataclasses.replace(endpoint, can_continue_presence=presence)
            self._endpoint = endpoint
            return endpoint
        raise ServerStartError(
            f"no free port from {self._context.port_base} on",
            hint="Too many servers on this node, or it does not let us listen.",
        )

    async def stop(self, within_s: float | None = None) -> None:
        """See `Deployment.stop`."""
        if self._server is not None:
            grace_s = self._serving.shutdown_timeout_s
            if self._endpoint is None:
                grace_s = min(grace_s, UNREADY_GRACE_S)
            within_s = math.inf if within_s is None else within_s
            await self._server.stop(min(grace_s, within_s), within_s)
            self._server = None
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def failure(self) -> Trouble | None:
        """See `Deployment.failure`."""
        return None if self._server is None else self._server.explain_exit(self._secrets)

    async def facts(self) -> ServerFacts:
        """See `Deployment.facts`."""
        program, endpoint = self._program, self._endpoint
        if program is None or endpoint is None:
            raise RuntimeError("a server has facts after it was ready")
        names = await asyncio.to_thread(gpu_names, self._context.env)
        return ServerFacts(
            kind=program.kind,
            version=await self._ask_version(endpoint) or program.version,
            argv=tuple(redact(part, self._secrets) for part in self._argv),
            launcher=program.launcher,
            max_model_len=endpoint.max_model_len,
            gpus=names * max(1, len(self._context.nodes)),
            nodes=() if self._server is None else self._server.nodes,
            python=program.python,
        )

    async def _start_on(
        self, assembly: Assembly, listen: str, port: int, deadline: float
    ) -> Endpoint:
        host = self._context.host if self._serving.expose else LOCALHOST
        place = assembly.place(listen, port)
        self._argv = assembly.argv(place)
        self._server = server = assembly.start_first(place, host)
        assembly.start_others(server, place, host)
        self._context.on_progress(f"server starts on {host}:{port}")
        root = f"http://{bracket(host)}:{port}"
        endpoint = Endpoint(
            base_url=f"{root}/v1",
            health_url=root + assembly.program.health_path,
            model=self._plan.served_model_name,
            api_key=self._context.api_key,
            max_model_len=assembly.program.max_model_len,
        )
        endpoint = await wait_ready(endpoint, self._make_check(server, deadline))
        self._context.on_progress(f"server is ready on {host}:{port}")
        return endpoint

    def _make_check(self, server: WholeServer, deadline: float) -> Callable[[], None]:
        """Raises ServerStartError when the server is dead or late; reports progress meanwhile."""
        clock = asyncio.get_running_loop().time
        started = clock()
        report = started + PROGRESS_S

        def check() -> None:
            nonlocal report
            if not server.is_alive:
                raise self._start_error(server, "died before it was ready", clock() - started)
            if clock() >= deadline:
                raise self._start_error(server, "was not ready in time", clock() - started)
            if clock() >= report:
                report += PROGRESS_S
                self._context.on_progress(f"server is not ready after {clock() - started:.0f} s")

        return check

    def _start_error(self, server: WholeServer, what: str, seconds: float) -> ServerStartError:
        part = server.culprit() or server.first
        lines, log_path, code = part.server.log(), part.server.log_path, part.exit_code
        node = part.node if len(server.parts) > 1 else None
        how = f"still running, ready_timeout_s is {self._serving.ready_timeout_s:g}"
        if code is not None:
            how = describe_code(code) if node is None else f"{describe_code(code)} on node {node}"
        if part.server.was_oom_killed:
            how = f"{how}, killed for its memory"
        end = logs.tail(lines, self._secrets) or "(it wrote nothing)"
        trouble = explain_start(
            f"the server for {self._plan.served_model_name!r} {what} ({seconds:.0f} s, {how}); "
            f"last lines of its log:\n{end}",
            lines,
            log_path,
            oom_killed=part.server.was_oom_killed,
            secrets=self._secrets,
        )
        hint = "" if trouble.hint is None else f"{trouble.hint}\n"
        seen = "" if trouble.cause is None else f"Seen: {trouble.cause}\n"
        return ServerStartError(
            trouble.reason,
            hint=f"{hint}{seen}Whole log: {log_path}",
            kind=FailureKind.GPU_PREFLIGHT if code == UNUSABLE else trouble.kind,
            evidence=trouble.evidence,
            node=node,
        )

    def _is_port_taken(self, error: BaseException, port: int) -> bool:
        """Whether another port may help: the server could not listen, or somebody else answers."""
        server = self._server
        if server is None:
            return False
        if isinstance(error, IdentityError):
            return not listens([p.pid for p in server.first.server.find_processes()], port)
        return (
            isinstance(error, ServerStartError)
            and not server.is_alive
            and any(logs.says_address_in_use(part.server.log()) for part in server.parts)
        )

    def _require_secrets(self) -> None:
        absent = [name for name in self._serving.secrets if not self._context.env.get(name)]
        if absent:
            raise ServingError(
                f"serving.secrets names variables that are not set: {', '.join(absent)}",
                hint="Export them where you submit, or give a file with --env-file.",
            )

    async def _ask_version(self, endpoint: Endpoint) -> str | None:
        """vLLM's `/version`."""
        async with Wire(endpoint) as wire:
            answer = await wire.get(f"{server_root(endpoint.base_url)}/version", key=False)
        body = answer.json() if answer.ok else None
        version = body.get("version") if isinstance(body, dict) else None
        return version if isinstance(version, str) else None


def bracket(host: str) -> str:
    """A host as it stands in a URL: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host
