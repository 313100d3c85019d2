"""One real vLLM for all integration tests: it takes the better part of a minute to start.

Ask for `vllm_server`. Such a test gets the marker `vllm` and time enough for the start by itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.recipe.serving import VllmServing
from evalkit.serving.deployment import Deployment, ServerFacts, make_deployment
from tests.unit.serving.support import make_context, make_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.serving.endpoint import Endpoint

REPOSITORY = Path(__file__).parents[2]
SERVED_NAME = "demo"
START_TIMEOUT_S = 700


@dataclass(frozen=True, slots=True)
class VllmServer:
    """A running vLLM with the demo checkpoint."""

    endpoint: Endpoint
    deployment: Deployment
    facts: ServerFacts
    checkpoint: Path
    log_path: Path


def vllm_serving(**changes: Any) -> VllmServing:
    """How vLLM is served on a small machine without a GPU; the memory is the host's."""
    values: dict[str, Any] = {
        "gpu_memory_utilization": 0.15,
        "enforce_eager": True,
        # Long answers: the model has no positions, so the length of its training binds nobody.
        "env": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"},
        "dtype": "float32",
        "max_model_len": 32_768,
        # vLLM's CPU build fails on Mamba prompts above 256 tokens with it.
        "enable_prefix_caching": False,
        "reasoning_parser": "deepseek_r1",
        "tool_call_parser": "hermes",
        "stream_interval": 64,
        "ready_timeout_s": START_TIMEOUT_S - 60,
    }
    return VllmServing(**{**values, **changes})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts the server, and let it take the time that takes."""
    for item in items:
        if "vllm_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.vllm)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(START_TIMEOUT_S))


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    """The last checkpoint of the demo training."""
    folders = sorted((REPOSITORY / "checkpoints" / "demo").glob("step-*"))
    assert folders, "checkpoints/demo is empty: run scripts/train_demo_checkpoint.py"
    return folders[-1]


@pytest.fixture(scope="session")
def vllm_server(
    demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServer]:
    """A vLLM that serves the demo checkpoint until the last test is over."""
    folder = tmp_path_factory.mktemp("vllm")
    plan = make_plan(vllm_serving(), model=str(demo_checkpoint), name=SERVED_NAME)
    context = make_context(folder)
    deployment = make_deployment(plan, context, presence=True)
    endpoint = asyncio.run(deployment.start())
    try:
        facts = asyncio.run(deployment.facts())
        yield VllmServer(endpoint, deployment, facts, demo_checkpoint, context.log_path)
    finally:
        asyncio.run(deployment.stop())
