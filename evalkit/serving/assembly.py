"""Start all parts of a server: the one on this node, and those on the further nodes of the replica."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from evalkit.errors import FailureKind, ServerStartError
from evalkit.recipe.serving import VllmServing
from evalkit.serving.addresses import find_addresses
from evalkit.serving.environment import (
    add_python_path,
    server_environment,
    start_environment,
)
from evalkit.serving.followers import FollowerPlan, start_follower, step_environment
from evalkit.serving.gpus import POLL_S, RELEASE_S, find_trouble
from evalkit.serving.parts import Part, WholeServer
from evalkit.serving.program import LOCALHOST, Place
from evalkit.serving.server import start_server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evalkit.recipe.serving import LocalServing
    from evalkit.serving.contract import ServerContext
    from evalkit.serving.program import Program

# vLLM refuses to start with less than it was told to use, which is about so much unless it was told.
VLLM_SHARE = 0.9
COMMAND_SHARE = 0.8
# vLLM counts up from here for its own sockets. Nodes of a test cluster may be one host.
FOLLOWER_PORT_OFFSET = 8


def free_share(serving: LocalServing) -> float:
    """Share of each GPU's memory that must be free before a start; 0 looks at no GPU."""
    if serving.gpus == 0:
        return 0.0
    if serving.min_free_gpu_memory is not None:
        return serving.min_free_gpu_memory
    if isinstance(serving, VllmServing):
        return serving.gpu_memory_utilization or VLLM_SHARE
    return COMMAND_SHARE


class Assembly:
    """One start of one server."""

    def __init__(self, serving: LocalServing, context: ServerContext, program: Program) -> None:
        self._serving = serving
        self._context = context
        self.program = program
        self._nodes = (context.nodes or (context.host,))[: program.nodes]
        self._addresses: tuple[str, ...] = (LOCALHOST,)

    async def prepare(self) -> None:
        """What must be known and well before the first start. Raises ServingError."""
        await self._require_gpus()
        if len(self._nodes) > 1:
            self._addresses = await asyncio.to_thread(
                find_addresses, self._nodes, self._context.env
            )

    def place(self, listen: str, port: int) -> Place:
        """Where the part runs that answers."""
        return Place(listen, port, address=self._addresses[0])

    def argv(self, place: Place) -> tuple[str, ...]:
        """The whole command of a part."""
        return (*self._context.prefix, *self.program.render(place))

    def _marker(self, place: Place) -> str:
        return f"{self._context.attempt}:{place.port}"

    def start_first(self, place: Place, host: str) -> WholeServer:
        """Start the part that answers; `host` is where it is reached."""
        context = self._context
        env = self._environment(context.env, context.cache_dir, host, place)
        server = start_server(
            self.argv(place),
            env,
            context.log_path,
            self._serving.shutdown_timeout_s,
            context.cache_dir,
        )
        return WholeServer(Part(self._nodes[0], server))

    def start_others(self, whole: WholeServer, first: Place, host: str) -> None:
        """Start what runs on further nodes. Raises ServingError; what was started is in `whole`."""
        context = self._context
        for rank, node in enumerate(self._nodes[1:], start=1):
            place = dataclasses.replace(first, rank=rank)
            cache_dir = context.cache_dir.with_name(f"{context.cache_dir.name}-node{rank}")
            plan = FollowerPlan(
                node=node,
                argv=self.argv(place),
                marker=f"{self._marker(place)}:node{rank}",
                srun_args=context.srun_args,
                cache_dir=cache_dir,
                grace_s=self._serving.shutdown_timeout_s,
                free_gpu_memory=free_share(self._serving),
            )
            env = self._environment(step_environment(context.env), cache_dir, host, place)
            follower = start_follower(plan, env, follower_log(context.log_path, rank))
            whole.add(Part(node, follower))

    def _environment(
        self, base: Mapping[str, str], cache_dir: Path, host: str, place: Place
    ) -> dict[str, str]:
        env = server_environment(
            base,
            cache_dir=cache_dir,
            local_model=self.program.local_model,
            host=host,
            recipe_env=self._serving.env,
            api_key=self._context.api_key,
        )
        if self.program.python_path is not None:
            env = add_python_path(env, self.program.python_path)
        own = f":srun{place.rank}" if place.rank else ""
        env = start_environment(env, place.port, self._marker(place) + own)
        if place.rank:
            env["VLLM_PORT"] = str(place.port + FOLLOWER_PORT_OFFSET)
        if len(self._addresses) > 1:
            env["VLLM_HOST_IP"] = self._addresses[place.rank]
        return env

    async def _require_gpus(self) -> None:
        """Raises ServerStartError when this node's GPUs cannot be used; memory may take a moment."""
        share, clock = free_share(self._serving), asyncio.get_running_loop().time
        deadline = clock() + RELEASE_S
        while share and (
            trouble := await asyncio.to_thread(find_trouble, self._context.env, share)
        ):
            if not trouble.may_pass or clock() >= deadline:
                raise ServerStartError(
                    f"the GPUs of node {self._nodes[0]} cannot be used: {trouble.text}",
                    hint="Look at the node, or exclude it. Where several servers share a GPU on "
                    "purpose, set serving.min_free_gpu_memory.",
                    kind=FailureKind.GPU_PREFLIGHT,
                )
            self._context.on_progress(f"waiting for GPU memory: {trouble.text}")
            await asyncio.sleep(POLL_S)


def follower_log(log_path: Path, rank: int) -> Path:
    """`server-node1.log` beside `server.log`."""
    return log_path.with_name(f"{log_path.stem}-node{rank}{log_path.suffix}")
