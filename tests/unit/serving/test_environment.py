"""The environment of a server, its ports, and the endpoint that comes out."""

from __future__ import annotations

import socket
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from evalkit.serving import ports
from evalkit.serving.endpoint import Endpoint
from evalkit.serving.environment import server_environment, start_environment
from evalkit.serving.gpus import gpu_names
from evalkit.serving.program import render_command


def environment(
    base: dict[str, str] | None = None,
    recipe: dict[str, str] | None = None,
    *,
    local_model: bool = True,
) -> dict[str, str]:
    """The environment of a server on 10.0.0.1."""
    return server_environment(
        base or {},
        cache_dir=Path("/scratch/job"),
        local_model=local_model,
        host="10.0.0.1",
        recipe_env=recipe or {},
        api_key="key",
    )


def test_compile_caches_are_node_local() -> None:
    """Caches that concurrent jobs would corrupt move; the hub cache stays where it was."""
    env = environment({"HOME": "/home/u", "VLLM_CACHE_ROOT": "/shared"})
    for name in (
        "VLLM_CACHE_ROOT",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "XDG_CACHE_HOME",
    ):
        assert env[name].startswith("/scratch/job/")
    assert env["HF_HOME"] == "/home/u/.cache/huggingface"
    assert environment({"XDG_CACHE_HOME": "/x"})["HF_HOME"] == "/x/huggingface"
    assert environment({"HF_HOME": "/hub"})["HF_HOME"] == "/hub"


def test_offline_only_for_local_models() -> None:
    """A hub model may still have to be fetched."""
    assert environment()["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment(local_model=False)


def test_recipe_wins_but_not_over_the_key() -> None:
    """`serving.env` changes what evalkit sets for convenience, never what it relies on."""
    env = environment(
        {"A": "base", "B": "base"},
        {"A": "recipe", "VLLM_CACHE_ROOT": "/mine", "VLLM_API_KEY": "x"},
    )
    assert (env["A"], env["B"], env["VLLM_CACHE_ROOT"]) == ("recipe", "base", "/mine")
    assert env["VLLM_API_KEY"] == "key"
    started = start_environment({**env, "EVALKIT_ATTEMPT": "x", "VLLM_PORT": "1"}, 20000, "a:20000")
    assert started["EVALKIT_ATTEMPT"] == "a:20000"
    assert started["VLLM_PORT"] == "20001"
    assert started["MASTER_PORT"] == "20015"


def test_no_proxy_for_ourselves() -> None:
    """What NO_PROXY held stays; this node is added once, in both spellings."""
    env = environment({"NO_PROXY": "corp,localhost"})
    assert env["NO_PROXY"] == env["no_proxy"] == "corp,localhost,127.0.0.1,10.0.0.1"
    assert environment({"no_proxy": "corp"})["NO_PROXY"].startswith("corp,")


def test_command_templates() -> None:
    """Names are filled in anywhere in a part; other braces stay, and values are not read again."""
    command = ("serve", "{model}", "--json", '{"a": {port}, "b": {}}', "{unknown}")
    assert render_command(command, {"model": "m {port}", "port": "1"}) == (
        "serve",
        "m {port}",
        "--json",
        '{"a": 1, "b": {}}',
        "{unknown}",
    )


@given(st.integers(0, 2**31), st.integers(0, 1000))
def test_port_bases_are_valid_and_apart(job: int, index: int) -> None:
    """Neighbours of an array get different blocks, all inside the range."""
    base = ports.derive_port_base(job, index)
    assert base >= ports.FIRST
    assert base + ports.BLOCK - 1 <= ports.LAST
    assert base != ports.derive_port_base(job, index + 1)


@given(st.integers(1024, 65535))
def test_ports_to_try(base: int) -> None:
    """The base comes first, then other blocks of the range, none twice."""
    tried = list(ports.plan_ports(base))
    assert tried[0] == base
    assert len(set(tried)) == len(tried) == ports.TRIES
    assert all(ports.FIRST <= port <= ports.LAST for port in tried[1:])


def test_claims_exclude_each_other() -> None:
    """A claimed port is not given twice, and is free again after its release."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ports.claim_port("127.0.0.1", port) is None
    first = ports.claim_port("127.0.0.1", port)
    assert first is not None
    assert ports.claim_port("127.0.0.1", port) is None
    first.release()
    second = ports.claim_port("127.0.0.1", port)
    assert second is not None
    second.release()


def test_endpoint_hides_its_key() -> None:
    """The key is in the header of a request and nowhere else."""
    endpoint = Endpoint("http://h:1/v1", "m", "key", {"X-A": "b"})
    assert "key" not in repr(endpoint).replace("api_key", "")
    assert endpoint.request_headers() == {"X-A": "b", "Authorization": "Bearer key"}
    assert Endpoint("http://h:1/v1", "m").request_headers() == {}


def test_names_of_gpus(tmp_path: Path) -> None:
    """Only the visible GPUs are asked for; no GPU, no nvidia-smi and a broken one are empty."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *--id=0,1*) echo "GPU A"; echo "GPU B";; *) exit 9;; esac'
    )
    program.chmod(0o755)
    path = {"PATH": f"{tmp_path}:/bin"}
    assert gpu_names({**path, "CUDA_VISIBLE_DEVICES": "0,1"}) == ("GPU A", "GPU B")
    assert gpu_names({**path, "CUDA_VISIBLE_DEVICES": ""}) == ()
    assert gpu_names(path) == ()
    assert gpu_names({"PATH": "/nowhere"}) == ()
