"""`deployment` and `target`: which model is evaluated, and how it is served.

vLLM's deployments become `serving.kind: vllm`, started by evalkit and laid out over nodes by its sizes;
SGLang, TensorRT-LLM, generic and any other command become `kind: command`; no deployment is
`kind: external`. Containers are named in notes: what runs in one is a template's business.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.recipe.nemo.env_vars import check_host, read_variables
from evalkit.recipe.nemo.interpolation import MISSING
from evalkit.recipe.nemo.vllm_args import parse_vllm_args
from evalkit.recipe.problems import found_value

if TYPE_CHECKING:
    from evalkit.recipe.document import Path
    from evalkit.recipe.nemo.source import Source

VLLM = ("vllm", "vllm_ray")
COMMANDS = ("sglang", "trtllm", "generic")
TYPES = ("none", *VLLM, *COMMANDS)
ENDPOINT: Path = ("target", "api_endpoint")
CHAT = "/chat/completions"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TO_FILL_IN = re.compile(r"<[^<>]+>")
"""How files of 2025 write a value that is left to their user."""
SHELL = re.compile(r"[$`|&;<>\n]")
LEFT = "MISSING"
"""Stands for a name or a folder that the file leaves to its user, where a recipe cannot be without."""
LEFT_URL = "http://missing.invalid"
SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


@dataclass
class Served:
    """A model and its serving, as parts of a recipe."""

    model: dict[str, Any] = field(default_factory=dict)
    serving: dict[str, Any] = field(default_factory=dict)
    path: Path = ()
    """Where both are from."""

    @property
    def name(self) -> str:
        """Where the model is: what a name for it is made of."""
        return str(next(iter(self.model.values()), "model"))


def read_target(source: Source) -> Served:
    """The model under evaluation."""
    kind = source.get("deployment", "type", default="none")
    if kind == "none":
        return _hosted(source)
    if source.is_given(*ENDPOINT, "api_key_name"):
        source.ignore(
            (*ENDPOINT, "api_key_name"), "evalkit makes a key for each server that it starts"
        )
    for key in ("url", "model_id"):
        if source.peek(*ENDPOINT, key) is not None:
            source.problem((*ENDPOINT, key), "not with a deployment: its server is what is asked")
    return read_deployment(source, ("deployment",))


def read_deployment(source: Source, root: Path) -> Served:
    """A server that is started: the deployment itself, or an auxiliary one at `root`."""
    kind = source.get(*root, "type")
    if kind not in TYPES or kind == "none":
        hint = (
            "NIM lives in its container: start it, and use deployment: none with target.api_endpoint"
            if kind == "nim"
            else f"evalkit reads {', '.join(TYPES)}"
        )
        source.problem(
            (*root, "type"), f"evalkit cannot start a deployment of type '{kind}'. {hint}"
        )
        return Served(path=root)
    served = Served(_model(source, root), path=root)
    if kind in VLLM and not _own_command(source, root):
        served.serving = _vllm(source, root, served.model)
    else:
        served.serving = _command(source, root)
    name = source.get(*root, "served_model_name")
    if name is not None:
        served.serving.setdefault("served_model_name", str(name))
    _environment(source, root, served.serving)
    _container(source, root)
    return served


def endpoint_url(source: Source, path: Path, value: Any) -> str | None:
    """A URL as evalkit takes it, up to the version; a problem and null for what is none."""
    url = "" if value is None else str(value).strip().rstrip("/")
    if not re.match(r"https?://[^\s/]", url):
        if source.only_shows and TO_FILL_IN.fullmatch(url):
            source.missing(path, f"a URL is required in place of {url}")
        elif value is not None:
            source.problem(
                path, f"expected a URL with http:// or https://, found {found_value(value)}"
            )
        return None
    if url.endswith(CHAT):
        return url.removesuffix(CHAT)
    if url.endswith("/completions"):
        source.problem(
            path,
            f"evalkit asks chat endpoints, and this one takes completions. Give one with {CHAT}",
        )
    return url


def key_variable(source: Source, path: Path, value: Any) -> str | None:
    """The name of a variable with a key; a problem and null for what is none."""
    if value in (None, ""):
        return None
    if not VARIABLE.fullmatch(str(value)):
        source.problem(path, "expected the name of an environment variable that holds the key")
        return None
    return str(value)


def _hosted(source: Source) -> Served:
    url = endpoint_url(source, (*ENDPOINT, "url"), source.get(*ENDPOINT, "url"))
    model = source.get(*ENDPOINT, "model_id")
    key = key_variable(source, (*ENDPOINT, "api_key_name"), source.get(*ENDPOINT, "api_key_name"))
    serving: dict[str, Any] = {"kind": "external", "base_url": url or LEFT_URL}
    if key is not None:
        serving["api_key_env"] = key
    if source.get(*ENDPOINT, "type") not in (None, "chat"):
        source.problem((*ENDPOINT, "type"), "evalkit asks chat endpoints alone")
    return Served({"id": LEFT if model is None else str(model)}, serving, ENDPOINT)


def _model(source: Source, root: Path) -> dict[str, Any]:
    hub = source.get(*root, "hf_model_handle")
    # The group requires a path, which a file with a handle need not set to null.
    needs_path = hub is None or source.is_given(*root, "checkpoint_path")
    path = source.get(*root, "checkpoint_path") if needs_path else None
    if path is not None and hub is not None:
        source.problem(
            (*root, "checkpoint_path"), "give one of checkpoint_path and hf_model_handle, not both"
        )
    is_left = any(source.is_missing(*root, key) for key in ("checkpoint_path", "hf_model_handle"))
    if path is None and hub is None and not is_left:
        source.problem(
            (*root, "checkpoint_path"), "give one of checkpoint_path and hf_model_handle"
        )
    if hub is not None:
        return {"hub": str(hub)}
    return {"path": f"/{LEFT}" if path is None else str(path)}


def _own_command(source: Source, root: Path) -> bool:
    """Whether the file replaces vLLM's command by one that evalkit has to start as it is."""
    given = [key for key in ("command", "base_command") if source.is_given(*root, key)]
    if not given:
        return False
    nodes = source.peek("execution", "num_nodes") or 1
    instances = source.peek("execution", "num_instances") or 1
    text = str(source.peek(*root, given[0]))
    if nodes == instances or "vllm serve" not in text:
        return True
    for key in given:
        source.ignore(
            (*root, key),
            "evalkit starts vLLM on several nodes itself, from the parallel sizes",
            important=True,
        )
    return False


def _vllm(source: Source, root: Path, model: dict[str, Any]) -> dict[str, Any]:
    # The launcher's own command line has it always.
    serving: dict[str, Any] = {"kind": "vllm", "trust_remote_code": True}
    for key in (*SIZES, "gpu_memory_utilization"):
        value = source.get(*root, key)
        if value is not None:
            serving[key] = value
    _ignore_layout(source, root)
    args = parse_vllm_args(str(source.get(*root, "extra_args") or ""))
    for text in args.problems:
        source.problem((*root, "extra_args"), text)
    for name, reason in args.without_effect.items():
        source.note((*root, "extra_args"), f"--{name} has no effect: {reason}")
    if args.revision is not None:
        model["revision"] = args.revision
    serving |= args.keys
    if args.extra:
        serving["extra_args"] = args.extra
    return serving


def _ignore_layout(source: Source, root: Path) -> None:
    """Say that nodes are laid out by the parallel sizes alone."""
    if source.is_given(*root, "data_parallel_size_local"):
        source.ignore(
            (*root, "data_parallel_size_local"),
            "neither the launcher's own command nor evalkit reads it; "
            "the copies are data_parallel_size",
        )
    if source.is_given(*root, "distributed_executor_backend"):
        source.ignore(
            (*root, "distributed_executor_backend"),
            "evalkit lays servers out over nodes without Ray",
        )


def _command(source: Source, root: Path) -> dict[str, Any]:
    """Any command, with what evalkit fills in where the launcher fills in its own."""
    filled = dict(source.document.data)
    section = dict(source.peek(*root))
    placeholders = {"port": "{port}", "served_model_name": "{served_model_name}"}
    if section.get("hf_model_handle") is not None:
        placeholders["hf_model_handle"] = "{model}"
    if root == ("deployment",):
        filled["deployment"] = {**section, **placeholders}
        text = source.fork(filled).get(*root, "command")
    else:
        text = source.get(*root, "command")
    for key in (*SIZES, "extra_args", "base_command", "port"):
        source.use(*root, key)
    text = "" if text is None else str(text).replace("/checkpoint", "{model}")
    serving: dict[str, Any] = {"kind": "command", "command": _argv(source, root, text)}
    health = source.get(*root, "endpoints", "health")
    if health not in (None, "/health"):
        serving["health_path"] = str(health)
    serving["gpus"] = _gpus(source, root)
    if "{port}" not in text and not source.is_missing(*root, "command"):
        source.problem(
            (*root, "command"),
            "names no port. evalkit tells servers theirs: write ${deployment.port} in it",
        )
    return serving


def _argv(source: Source, root: Path, text: str) -> list[str]:
    if SHELL.search(text):
        return ["bash", "-c", text]
    try:
        return shlex.split(text) or ["false"]
    except ValueError as error:
        source.problem((*root, "command"), f"cannot be split into words: {error}")
        return ["false"]


def _gpus(source: Source, root: Path) -> int:
    """GPUs of a command: what its sizes need, else what the job asks for."""
    sizes = [source.peek(*root, key) for key in SIZES]
    known = [size for size in sizes if isinstance(size, int)]
    if known:
        product = 1
        for size in known:
            product *= size
        return product
    each = source.peek("execution", "gpus_per_node")
    asked = re.search(r"(\d+)$", str(source.peek("execution", "gres") or ""))
    return each if isinstance(each, int) else int(asked[1]) if asked else 1


def _environment(source: Source, root: Path, serving: dict[str, Any]) -> None:
    variables = read_variables(source, (), root)
    check_host(source, variables)
    own = (*root, "env_vars")
    literal = {
        name: each.text
        for name, each in variables.items()
        if each.kind == "lit" and each.path[: len(own)] == own
    }
    if literal:
        serving["env"] = literal
    secrets = []
    for name, each in variables.items():
        if each.is_renamed:
            source.problem(
                each.path,
                f"evalkit hands variables on under their own names: set {name}, and write host:{name}",
            )
        elif each.kind == "host":
            secrets.append(name)
    if secrets:
        serving["secrets"] = secrets


def _container(source: Source, root: Path) -> None:
    image = source.peek(*root, "image")
    if source.is_given(*root, "image") and image not in (None, MISSING):
        tag = str(image).rpartition(":")[2]
        source.ignore(
            (*root, "image"),
            f"no container is started. Install the server's version {tag}, or use a template "
            "with a container (cluster.template)",
            important=True,
        )
    else:
        source.use(*root, "image")
    if source.get(*root, "pre_cmd"):
        source.problem(
            (*root, "pre_cmd"),
            "evalkit runs no shell text of a configuration. Put the lines into cluster.setup, and "
            f"delete it: -o '~{'.'.join(map(str, root))}.pre_cmd'",
        )
