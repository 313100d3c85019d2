"""Builders for tests of servers: a context in a temporary folder, plans that start the fault server."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from evalkit.plan.model import DeploymentPlan
from evalkit.recipe.serving import AnyServing, CommandServing
from evalkit.serving import tree
from evalkit.serving.deployment import ServerContext
from evalkit.serving.ports import is_free, plan_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FAULT_SERVER = Path(__file__).parents[2] / "faults" / "fault_server.py"
KEY = "key-that-nobody-may-see"
MODEL = "tiny"


def make_context(folder: Path, **changes: Any) -> ServerContext:
    """A context whose ports differ between test processes, and begin with one that is free now."""
    first = 20000 + os.getpid() * 16 % 12000
    values: dict[str, Any] = {
        "log_path": folder / "server.log",
        "attempt": f"test-{os.getpid()}-{folder.name}",
        "host": "127.0.0.1",
        "port_base": next(port for port in plan_ports(first) if is_free("127.0.0.1", port)),
        "prefix": (),
        "env": dict(os.environ),
        "run_dir": folder,
        "cache_dir": folder / "cache",
        "api_key": KEY,
        "on_progress": lambda text: None,
    }
    return ServerContext(**{**values, **changes})


def make_plan(
    serving: AnyServing, model: str = "/nowhere/tiny", name: str = MODEL
) -> DeploymentPlan:
    """A deployment of one model."""
    return DeploymentPlan(serving=serving, model_source=model, served_model_name=name)


def fault_command(*switches: str) -> tuple[str, ...]:
    """argv of the fault server, as a recipe would write it."""
    server = (sys.executable, str(FAULT_SERVER), "--host", "{host}", "--port", "{port}")
    return (*server, "--model", "{served_model_name}", "--api-key", "{api_key}", *switches)


def fault_serving(*switches: str, **changes: Any) -> CommandServing:
    """The fault server as a deployment."""
    values: dict[str, Any] = {"ready_timeout_s": 200, "shutdown_timeout_s": 5, **changes}
    command = values.pop("command", fault_command(*switches))
    return CommandServing(kind="command", command=command, **values)


def marked(attempt: str) -> list[psutil.Process]:
    """Living processes that servers of attempts of this name's beginning consist of.

    By their marker, and, for those that hide it, by their parents and the log that a
    marked one writes to: as evalkit finds them, but for any number of servers.
    """
    processes = tree.find_processes()
    spared = tree.find_spared(processes)
    own = [p for p in processes.values() if p.pid not in spared and tree.is_own(p.pid)]
    found = {p.pid for p in own if (tree.read_marker(p.pid) or "").startswith(attempt)}
    logs = {path for pid in found for path in tree.find_outputs(pid) if path.endswith(".log")}
    found |= {p.pid for p in own if tree.find_outputs(p.pid) & logs}
    found = tree.find_below(processes, found) - spared
    alive = []
    for pid in sorted(found):
        with contextlib.suppress(psutil.NoSuchProcess):
            alive.append(psutil.Process(pid))
    return alive


def writing_to(folder: Path) -> list[tree.Process]:
    """Living processes of ours whose output goes to a file below a folder, whatever they call themselves."""
    below = f"{folder.resolve()}/"
    return [
        process
        for process in tree.find_processes().values()
        if tree.is_own(process.pid)
        and any(p.startswith(below) for p in tree.find_outputs(process.pid))
    ]


def collect(into: list[str], *then: Callable[[str], None]) -> Callable[[str], None]:
    """A progress callback that keeps what it is told, and passes it on."""

    def keep(text: str) -> None:
        into.append(text)
        for call in then:
            call(text)

    return keep


def starts(progress: Sequence[str]) -> int:
    """How often a server was started, from what was reported."""
    return sum("starts on" in text for text in progress)
