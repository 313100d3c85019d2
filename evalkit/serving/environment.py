"""The environment a server is started with. Pure: a mapping in, a mapping out.

Later entries win: the job's environment, what every server needs, the recipe's `serving.env`, and
last what evalkit relies on itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.serving.tree import MARKER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOCAL_HOSTS = ("127.0.0.1", "localhost")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
# vLLM counts up from VLLM_PORT for its own sockets; torch's rendezvous gets the last of the block.
VLLM_PORT_OFFSET = 1
MASTER_PORT_OFFSET = 15


def quiet_environment() -> dict[str, str]:
    """No usage statistics, and a log that is written line by line."""
    return {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}


def cache_environment(base: Mapping[str, str], cache_dir: Path) -> dict[str, str]:
    """Compile caches on node-local disk: shared ones are corrupted by jobs that start together.

    The hub cache is different: large and read-mostly. It stays where it was, although its default
    place is below XDG_CACHE_HOME.
    """
    hub = base.get("HF_HOME")
    if hub is None:
        cache = base.get("XDG_CACHE_HOME") or f"{base.get('HOME', '')}/.cache"
        hub = f"{cache}/huggingface"
    return {
        "VLLM_CACHE_ROOT": str(cache_dir / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache_dir / "inductor"),
        "TRITON_CACHE_DIR": str(cache_dir / "triton"),
        "XDG_CACHE_HOME": str(cache_dir / "xdg"),
        "HF_HOME": hub,
    }


def no_proxy(base: Mapping[str, str], host: str) -> dict[str, str]:
    """NO_PROXY with this host in it, in both spellings."""
    names = [n for n in base.get("NO_PROXY", base.get("no_proxy", "")).split(",") if n]
    names += [n for n in (*LOCAL_HOSTS, host) if n not in names]
    return {"NO_PROXY": ",".join(names), "no_proxy": ",".join(names)}


def port_environment(port: int) -> dict[str, str]:
    """Further ports of the server, from its own block."""
    return {
        "VLLM_PORT": str(port + VLLM_PORT_OFFSET),
        "MASTER_PORT": str(port + MASTER_PORT_OFFSET),
    }


def server_environment(
    base: Mapping[str, str],
    *,
    cache_dir: Path,
    local_model: bool,
    host: str,
    recipe_env: Mapping[str, str],
    api_key: str,
) -> dict[str, str]:
    """Everything but what changes with each start (`start_environment`)."""
    return {
        **base,
        **quiet_environment(),
        **cache_environment(base, cache_dir),
        **no_proxy(base, host),
        **(OFFLINE if local_model else {}),
        **recipe_env,
        "VLLM_API_KEY": api_key,
    }


def add_python_path(env: Mapping[str, str], folder: str) -> dict[str, str]:
    """An interpreter finds the modules in `folder`, behind those it was to find anyway."""
    return {**env, "PYTHONPATH": ":".join(filter(None, (env.get("PYTHONPATH"), folder)))}


def start_environment(env: Mapping[str, str], port: int, marker: str) -> dict[str, str]:
    """The environment of one start: its ports, and the marker that its processes are known by.

    vLLM's processes name themselves with setproctitle, which takes the environment's memory for the
    name unless it is told not to: the marker could be seen no more.
    """
    return {**env, **port_environment(port), "SPT_NOENV": "1", MARKER: marker}
