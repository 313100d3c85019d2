"""vLLM's command line: rendered, never edited afterwards; and which form of it an interpreter has.

vLLM can be started as `vllm serve` and, on builds whose distribution is not called `vllm` (the CPU
build), only as the older module. Which one works is looked up in the interpreter that will run it,
without importing vLLM there: that takes longer than everything else before the start.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from evalkit.errors import FailureKind, RecipeError, ServingError
from evalkit.recipe.section import Scalar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.recipe.serving import VllmServing

Launcher: TypeAlias = Literal["serve", "module"]
Option: TypeAlias = Scalar | list[Scalar] | None

# Set by evalkit from the plan and the attempt; the key must never be in a recipe.
RESERVED = (
    *("model", "host", "port", "served-model-name", "api-key", "revision", "uds", "headless"),
    # Which part of a server of several nodes is started: `cluster.nodes` and the parallel sizes.
    *("nnodes", "node-rank", "master-addr", "master-port", "data-parallel-size-local"),
    *("data-parallel-address", "data-parallel-rpc-port", "data-parallel-start-rank"),
)
PLUGIN_FOLDER = str(Path(__file__).parent / "vllm_plugin")
"""What runs inside vLLM: no package of ours, but a folder for PYTHONPATH."""
PLUGIN = "evalkit_penalties:ContinuedPenalties"
PROCESSORS = "logits-processors"
OPTION_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
SERVE_MODULE = "vllm.entrypoints.cli.main"
API_MODULE = "vllm.entrypoints.openai.api_server"
# Container images start slowly the first time; a plain interpreter needs a fraction of a second.
PROBE_TIMEOUT_S = 300.0
PROBE = """
import importlib.metadata as metadata, importlib.util, json, os, platform
spec = importlib.util.find_spec("vllm")
here = list(spec.submodule_search_locations or []) if spec and spec.origin else []
has = lambda *parts: any(os.path.isfile(os.path.join(p, "entrypoints", *parts)) for p in here)
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
def has_token_routes(place):  # older versions have some of them, without the option and the order to abort
    routes = os.path.join(place, "entrypoints", "scale_out")
    return os.path.isdir(os.path.join(routes, "derender")) and any(
        "/inference/v1/abort_requests" in open(os.path.join(folder, file), encoding="utf-8").read()
        for folder, _, files in os.walk(routes)
        for file in files
        if file.endswith(".py")
    )
names = [] if version("vllm") else metadata.packages_distributions().get("vllm", [])
print("evalkit-probe " + json.dumps({
    "found": bool(here),
    "version": version("vllm") or next(map(version, names), None),
    "serve": version("vllm") is not None and has("cli", "main.py"),
    "module": has("openai", "api_server.py"),
    "python": platform.python_version(),
    "plugin": importlib.util.find_spec("evalkit_penalties") is not None,
    "salvage": any(map(has_token_routes, here)),
}))
"""


class _Probed(NamedTuple):
    found: bool
    version: str | None
    serve: bool
    module: bool
    python: str
    salvage: bool
    plugin: bool


@dataclass(frozen=True, slots=True)
class VllmInstallation:
    """What an interpreter has."""

    launcher: Launcher
    version: str | None
    python: str
    can_salvage: bool
    """It has the routes that take and give tokens."""
    finds_plugin: bool = False
    """It finds what is in `PLUGIN_FOLDER`, where PYTHONPATH names that: a container may hide it."""


def render_vllm_command(  # noqa: PLR0913 - each is one fact of the command, by keyword
    serving: VllmServing,
    *,
    model: str,
    revision: str | None,
    served_model_name: str,
    host: str,
    port: int,
    launcher: Launcher,
    python: str,
    can_salvage: bool = False,
    continues_presence: bool = False,
    part: Mapping[str, Option] | None = None,
) -> tuple[str, ...]:
    """argv of the server, or of a part of it. `part` are the options of that part alone, see
    `evalkit.serving.nodes`; a part that answers no calls has no host and port.

    Raises RecipeError for an option in `extra_args` that cannot be.
    """
    if launcher == "serve":
        start = (python, "-m", SERVE_MODULE, "serve", model)
    else:
        start = (python, "-m", API_MODULE, "--model", model)
    part = part or {}
    listens = "headless" not in part
    own: dict[str, Option] = {
        "served-model-name": served_model_name,
        "host": host if listens else None,
        "port": port if listens else None,
        "revision": revision,
        "enable-scale-out": can_salvage or None,
        "stream-interval": serving.stream_interval if can_salvage else None,
        # vLLM starts a front end per copy, and an order to abort reaches one of them.
        "api-server-count": 1
        if can_salvage and serving.data_parallel_size > 1 and listens
        else None,
    }
    options = {**own, **plan_options(serving), **part}
    if continues_presence:
        options[PROCESSORS] = [PLUGIN, *_as_list(options.get(PROCESSORS))]
    return (*start, *(part for name, value in options.items() for part in _render(name, value)))


def plan_options(serving: VllmServing) -> dict[str, Option]:
    """Options by their long name: the recipe's own keys, then `extra_args` over them."""
    options: dict[str, Option] = {
        "tensor-parallel-size": _unless(1, serving.tensor_parallel_size),
        "pipeline-parallel-size": _unless(1, serving.pipeline_parallel_size),
        "data-parallel-size": _unless(1, serving.data_parallel_size),
        "max-model-len": serving.max_model_len,
        "gpu-memory-utilization": serving.gpu_memory_utilization,
        "max-num-seqs": serving.max_num_seqs,
        "dtype": serving.dtype,
        "kv-cache-dtype": serving.kv_cache_dtype,
        "quantization": serving.quantization,
        "load-format": serving.load_format,
        "reasoning-parser": serving.reasoning_parser,
        "enable-auto-tool-choice": True if serving.tool_call_parser else None,
        "tool-call-parser": serving.tool_call_parser,
        "enable-prefix-caching": serving.enable_prefix_caching,
        "enforce-eager": serving.enforce_eager or None,
        "trust-remote-code": serving.trust_remote_code or None,
    }
    return {**options, **_read_extra_args(serving)}


def can_load_plugin(serving: VllmServing) -> bool:
    """Whether vLLM takes processors of others: not beside speculative decoding."""
    return not any(name.startswith("speculative") for name in plan_options(serving))


def _as_list(option: Option) -> list[Scalar]:
    if option is None:
        return []
    return option if isinstance(option, list) else [option]


def _unless(default: int, value: int) -> int | None:
    return None if value == default else value


def _read_extra_args(serving: VllmServing) -> dict[str, Option]:
    options: dict[str, Option] = {}
    for key, value in serving.extra_args.items():
        name, option = _normalise(key, value)
        if not OPTION_NAME.match(key) or name in RESERVED:
            raise RecipeError(
                f"serving.extra_args.{key}: "
                + ("evalkit sets this itself" if name in RESERVED else "not the name of an option"),
                hint=f"Long names without dashes at the start; not {', '.join(RESERVED)}.",
            )
        if name in options:
            raise RecipeError(f"serving.extra_args.{key}: given twice, in two spellings of {name}")
        if isinstance(option, list) and any(str(part).startswith("-") for part in option):
            raise RecipeError(
                f"serving.extra_args.{key}: a part of the list starts with '-'",
                hint="The command line would take it for an option of its own.",
            )
        options[name] = option
    return options


def _normalise(key: str, value: Option) -> tuple[str, Option]:
    """One spelling per option: dashes (in the part before a dot), and `no-x` as the false `x`."""
    head, dot, rest = key.partition(".")
    name = head.replace("_", "-") + dot + rest
    if name.startswith("no-") and isinstance(value, bool):
        return name.removeprefix("no-"), not value
    return name, value


def _render(name: str, value: Option) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, bool):
        return (f"--{name}",) if value else (f"--no-{name}",)
    if isinstance(value, list):
        return (f"--{name}", *map(_text, value)) if value else ()
    text = _text(value)
    return (f"--{name}={text}",) if text.startswith("-") else (f"--{name}", text)


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def find_installation(
    python: str,
    *,
    env: Mapping[str, str] | None,
    prefix: tuple[str, ...] = (),
    launcher: Literal["auto", "serve", "module"] = "auto",
) -> VllmInstallation:
    """Look into the interpreter (behind `prefix`). Raises ServingError when it has no such vLLM."""
    facts = _probe(python, env, prefix)
    works = [form for form, has in (("serve", facts.serve), ("module", facts.module)) if has]
    if not facts.found or not works:
        raise ServingError(
            f"no vLLM in {python} (Python {facts.python})",
            hint="Install it there (pip install vllm), or point serving.python at an interpreter "
            "that has it.",
        )
    form = works[0] if launcher == "auto" else launcher
    if form not in works:
        raise ServingError(
            f"serving.launcher: {launcher!r} does not work in {python}; works: {', '.join(works)}",
            hint="Use launcher: auto. `serve` needs a distribution that is called vllm.",
        )
    return VllmInstallation(
        launcher="serve" if form == "serve" else "module",
        version=facts.version,
        python=facts.python,
        can_salvage=facts.salvage,
        finds_plugin=facts.plugin,
    )


def _probe(python: str, env: Mapping[str, str] | None, prefix: tuple[str, ...]) -> _Probed:
    command = [*prefix, python, "-c", PROBE]
    try:
        done = subprocess.run(
            command,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _probe_error(python, str(error)) from error
    for line in done.stdout.splitlines():
        if line.startswith("evalkit-probe "):
            return _Probed(**json.loads(line.removeprefix("evalkit-probe ")))
    raise _probe_error(python, done.stderr.strip()[-500:] or f"exit code {done.returncode}")


def _probe_error(python: str, why: str) -> ServingError:
    """An interpreter or container that does not run here may run on another node: a folder that is
    not mounted, a disk or driver that hangs. `max_failures` bounds what a misspelt path costs."""
    return ServingError(
        f"cannot run {python} to look for vLLM: {why}",
        hint="Check serving.python and cluster.server_prefix, and the node.",
        kind=FailureKind.SERVER_START,
    )


def default_python(prefix: tuple[str, ...]) -> str:
    """The interpreter that has vLLM when the recipe does not say: ours, or a container's own."""
    return "python3" if prefix else sys.executable
