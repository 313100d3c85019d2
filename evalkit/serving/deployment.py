"""From a plan's deployment to something that can be started: the one place that knows all kinds."""

from __future__ import annotations

import dataclasses
import os.path
from typing import TYPE_CHECKING, assert_never

from evalkit.recipe.serving import CommandServing, ExternalServing, VllmServing
from evalkit.serving.contract import Deployment, ServerContext, ServerFacts
from evalkit.serving.environment import add_python_path
from evalkit.serving.external import ExternalDeployment
from evalkit.serving.local import LocalDeployment
from evalkit.serving.nodes import node_options, plan_layout
from evalkit.serving.program import Place, Program, render_command
from evalkit.serving.vllm import (
    PLUGIN_FOLDER,
    can_load_plugin,
    default_python,
    find_installation,
    render_vllm_command,
)

if TYPE_CHECKING:
    from evalkit.plan.model import DeploymentPlan

__all__ = ["Deployment", "ServerContext", "ServerFacts", "make_deployment"]


def make_deployment(
    plan: DeploymentPlan, context: ServerContext, *, presence: bool = False
) -> Deployment:
    """The deployment of a plan on this node. Starts nothing.

    `presence`: requests will have a presence penalty, with which a vLLM shall go on after interruptions.
    """
    serving = plan.serving
    fill = {"run_dir": str(context.run_dir), "model": plan.model_source}
    context = dataclasses.replace(context, prefix=render_command(context.prefix, fill))
    match serving:
        case VllmServing():
            return LocalDeployment(
                plan, serving, context, lambda: _make_vllm(plan, serving, context, presence)
            )
        case CommandServing():
            return LocalDeployment(
                plan, serving, context, lambda: _make_command(plan, serving, context)
            )
        case ExternalServing():
            return ExternalDeployment(plan, serving, context.env)
    assert_never(serving)


def _make_vllm(
    plan: DeploymentPlan, serving: VllmServing, context: ServerContext, presence: bool
) -> Program:
    """Raises ServingError when the interpreter has no vLLM, RecipeError for impossible sizes."""
    nodes = max(1, len(context.nodes))
    layout = plan_layout(serving, nodes) if nodes > 1 else None
    python = serving.python or default_python(context.prefix)
    # Parts that do not answer calls are something that only `vllm serve` starts.
    found = find_installation(
        python,
        env=add_python_path(context.env, PLUGIN_FOLDER) if presence else context.env,
        prefix=context.prefix,
        launcher="serve" if layout else serving.launcher,
    )
    presence = presence and found.can_salvage and found.finds_plugin and can_load_plugin(serving)

    def render(place: Place) -> tuple[str, ...]:
        return render_vllm_command(
            serving,
            model=plan.model_source,
            revision=plan.revision,
            served_model_name=plan.served_model_name,
            host=place.listen,
            port=place.port,
            launcher=found.launcher,
            python=python,
            can_salvage=found.can_salvage,
            continues_presence=presence,
            part=None if layout is None else node_options(layout, place),
        )

    return Program(
        kind="vllm",
        render=render,
        nodes=nodes,
        launcher=found.launcher,
        version=found.version,
        python=found.python,
        python_path=PLUGIN_FOLDER if presence else None,
        continues_presence=presence,
        local_model=os.path.isabs(plan.model_source),  # noqa: PTH117 - a text that may be a hub id
        max_model_len=serving.max_model_len,
    )


def _make_command(plan: DeploymentPlan, serving: CommandServing, context: ServerContext) -> Program:
    values = {
        "model": plan.model_source,
        "served_model_name": plan.served_model_name,
        "api_key": context.api_key,
    }
    return Program(
        kind="command",
        render=lambda place: render_command(
            serving.command, {**values, "host": place.listen, "port": str(place.port)}
        ),
        health_path=serving.health_path,
        local_model=os.path.isabs(plan.model_source),  # noqa: PTH117 - a text that may be a hub id
        max_model_len=serving.max_model_len,
    )
