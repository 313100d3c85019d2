"""How a vLLM server is laid out over the nodes of a replica: pure, options in vLLM's own words.

vLLM knows two ways, and which one it is follows from the recipe's parallel sizes:

- *model*: one copy of the model is split over all nodes (tensor and pipeline parallel sizes). Ranks
  are numbered node by node, so with as many tensor-parallel ranks as a node has GPUs the pipeline alone
  crosses the network. vLLM's own multi-node launch over torch.distributed; no Ray.
- *copies*: every node holds whole copies (data parallel size). The first node answers for all.

Several copies that each need several nodes are not laid out: replicas do that, and share the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from evalkit.errors import RecipeError

if TYPE_CHECKING:
    from evalkit.recipe.section import Scalar
    from evalkit.recipe.serving import VllmServing
    from evalkit.serving.program import Place

Options: TypeAlias = "dict[str, Scalar | list[Scalar] | None]"

FIXED = frozenset(
    {
        "tensor-parallel-size",
        "pipeline-parallel-size",
        "data-parallel-size",
        "distributed-executor-backend",
    }
)
"""Options that a layout is made of: in `extra_args` they would be missed."""
# Offsets into the server's block of ports, below that of MASTER_PORT in the environment.
MASTER_PORT_OFFSET = 13
RPC_PORT_OFFSET = 14


@dataclass(frozen=True, slots=True)
class Layout:
    """What each node holds."""

    how: Literal["model", "copies"]
    nodes: int
    gpus: int
    """GPUs on each node."""
    copies: int
    """Whole copies of the model on each node; 0 for parts of one."""


def plan_layout(serving: VllmServing, nodes: int) -> Layout:
    """The layout over `nodes` > 1 nodes. Raises RecipeError where the sizes do not fit them."""
    _check_keys(serving)
    copy = serving.tensor_parallel_size * serving.pipeline_parallel_size
    copies = serving.data_parallel_size
    sizes = (
        f"tensor_parallel_size {serving.tensor_parallel_size} x pipeline_parallel_size "
        f"{serving.pipeline_parallel_size} x data_parallel_size {copies}"
    )
    if copies == 1 and copy % nodes == 0:
        return Layout("model", nodes, copy // nodes, 0)
    if copies == 1:
        raise RecipeError(
            f"cluster.nodes is {nodes}, which does not divide the server's {sizes}",
            hint="Every node holds as many ranks: tensor_parallel_size as many as a node has GPUs, "
            f"and pipeline_parallel_size {nodes}, is the usual choice. For a model that fits on one "
            "node set cluster.nodes: 1 and use cluster.replicas.",
        )
    if copies % nodes == 0:
        return Layout("copies", nodes, copy * copies // nodes, copies // nodes)
    raise RecipeError(
        f"cluster.nodes is {nodes}, and {copies} copies cannot be shared out evenly ({sizes})",
        hint="Make data_parallel_size a multiple of cluster.nodes. Copies that need several nodes "
        "each are replicas: data_parallel_size 1, cluster.nodes for one of them, cluster.replicas.",
    )


def _check_keys(serving: VllmServing) -> None:
    if serving.launcher == "module":
        raise RecipeError(
            "serving.launcher: module cannot start the parts of a server of several nodes",
            hint="Use launcher: auto or serve; it needs a distribution that is called vllm.",
        )
    hidden = [key for key in serving.extra_args if key.replace("_", "-") in FIXED]
    if hidden:
        raise RecipeError(
            f"serving.extra_args.{hidden[0]}: not for a server of several nodes, whose layout depends "
            "on it",
            hint="Use serving.tensor_parallel_size, pipeline_parallel_size and data_parallel_size; "
            "evalkit chooses the rest.",
        )


def node_options(layout: Layout, place: Place) -> Options:
    """vLLM's options for the part at `place`, beside those that all parts share."""
    follower: Options = {"headless": True} if place.rank else {}
    if layout.how == "model":
        return {
            "nnodes": layout.nodes,
            "node-rank": place.rank,
            "master-addr": place.address,
            "master-port": place.port + MASTER_PORT_OFFSET,
            "distributed-executor-backend": "mp",
            **follower,
        }
    if place.rank:
        follower["data-parallel-start-rank"] = place.rank * layout.copies
    return {
        "data-parallel-size-local": layout.copies,
        "data-parallel-address": place.address,
        "data-parallel-rpc-port": place.port + RPC_PORT_OFFSET,
        **follower,
    }
