"""Where faults happen: one run, its workers and servers, and what can be seen and done from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import psutil

from tests.faults.campaign.ledger import LedgerFile
from tests.faults.fault_options import write_vllm
from tests.faults.harness import FAULT_SERVER, POLL_S, WORKER, Place, Server, free_port
from tests.unit.serving.support import writing_to

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.faults.campaign.ledger import Account

Mode: TypeAlias = Literal["vllm", "old vllm", "command", "external"]
"""Who serves: a vLLM of ours, one without the routes that continue, a program of ours, others."""
TASKS: dict[str, Any] = {
    "chain": {"params": {"n": 5, "calls": 4}, "repeats": 2},
    "fan": {"params": {"n": 5, "calls": 4}},
    "talk": {"benchmark": "chain", "params": {"n": 6, "calls": 3, "tokens": 300}},
    "essay": {"params": {"n": 16, "tokens": 500}},
    "addition": {"params": {"n": 40, "digits": 6}},
}
SINGLE_CALL = {name: name in ("essay", "addition") for name in TASKS}
ANSWERS = {"reasoning": "reasoning", "empty_every": 11}
"""Switches that shape answers: the same for every run, disturbed or not."""
SLOW = 150.0
"""Tokens per second of one generation while faults happen: an essay takes some seconds."""
PATIENCE_S = 90.0
"""Longest time without any progress before a campaign gives up."""


class StuckError(AssertionError):
    """A run does not go on, or not as it must."""


def options(**switches: Any) -> list[str]:
    """Switches as options of the fault server."""
    return [
        part
        for name, value in switches.items()
        for part in (f"--{name.replace('_', '-')}", f"{value}")
    ]


@dataclass(eq=False)
class Crew:
    """One worker process."""

    replica: str
    process: subprocess.Popen[bytes]
    output: Path
    flags: tuple[str, ...]

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def said(self) -> str:
        """The end of what it wrote."""
        return self.output.read_text(errors="replace")[-3000:]


class Stage:
    """One run and everything around it."""

    def __init__(self, root: Path, mode: Mode, rng: random.Random) -> None:
        self.place = Place(root)
        self.mode, self.rng = mode, rng
        self.folder = self.place.folder
        self.ledger = LedgerFile(root / "ledger.jsonl")
        self.mood = root / "mood.json"
        self.crew: list[Crew] = []
        self._started = 0
        self._external: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        write_vllm(root / "plugin")

    # What it is made of

    def write_recipe(self, tokens_per_s: float = SLOW) -> Path:
        """The recipe of this mode."""
        switches = {**ANSWERS, "tokens_per_s": tokens_per_s, "ledger": str(self.ledger.path)}
        switches["mood"] = str(self.mood)
        client = {"parallelism": 8, "stall_timeout_s": 1.0, "retry_budget_s": 60}
        changes: dict[str, Any] = {
            "tasks": TASKS,
            "client": client,
            "generation": {"temperature": 0, "max_tokens": 3000},
            "cluster": {"executor": "local", "signal_delay_s": 10},
        }
        own = {"gpus": 0, "shutdown_timeout_s": 2, "max_restarts": 30, "ready_timeout_s": 60}
        if self.mode == "external":
            url = f"http://127.0.0.1:{self._port}/v1"
            return self.place.write_recipe({"kind": "external", "base_url": url}, **changes)
        if self.mode == "command":
            return self.place.command(*options(**switches), serving=own, **changes)
        extra = {name.replace("_", "-"): value for name, value in switches.items()}
        if self.mode == "old vllm":
            extra["scale-out"] = 403
        vllm = {"kind": "vllm", **own, "stream_interval": 32, "extra_args": extra}
        return self.place.write_recipe(vllm, **changes)

    def begin(self) -> None:
        """Prepare the run, and start the first worker."""
        if self.mode == "external":
            self.start_external()
        self.place.evalkit("prepare", self.write_recipe())
        self.enlist()

    def start_external(self, **switches: Any) -> None:
        """The server that is not evalkit's to start."""
        if self._external is not None:
            self._external.wait(PATIENCE_S)
        given = {**ANSWERS, "tokens_per_s": SLOW, "ledger": str(self.ledger.path), **switches}
        argv = [sys.executable, str(FAULT_SERVER), "--port", str(self._port), "--model", "m"]
        self._external = subprocess.Popen([*argv, *options(**given)])
        self.wait(lambda: Server(self._port).is_up(), "the endpoint is up")

    # Workers

    def enlist(self, *flags: str, replica: str | None = None) -> Crew:
        """Start a worker; one that finds a hang soon and drains within five seconds."""
        name = replica or f"r{len(self.crew) % 3}"
        usual = ("--probe-s", "0.5", "--kill-wait-s", "5")
        output = self.place.root / f"worker-{self._started}.log"
        self._started += 1
        argv = [sys.executable, str(WORKER), str(self.folder.root), name, *usual, *flags]
        with output.open("wb") as log:
            process = subprocess.Popen(
                argv, env=self.place.env, cwd=self.place.root, stdout=log, stderr=log
            )
        self.crew.append(Crew(name, process, output, flags))
        return self.crew[-1]

    def alive(self) -> list[Crew]:
        """Workers that still run."""
        return [one for one in self.crew if one.alive]

    def pick(self) -> Crew:
        """One of the living."""
        if not (found := self.alive()):
            raise StuckError("no worker is alive")
        return self.rng.choice(found)

    def dismiss(self, how: int = signal.SIGKILL) -> None:
        """End all workers and wait for that."""
        for one in self.alive():
            with contextlib.suppress(ProcessLookupError):
                one.process.send_signal(how)
        for one in self.crew:
            one.process.wait(PATIENCE_S)

    # Servers

    def account(self) -> Account:
        """What the servers did up to now."""
        return self.ledger.read()

    def servers(self) -> list[tuple[int, Server]]:
        """Living servers: process id and address."""
        pids = {event["pid"]: event["port"] for event in self.account().servers}
        return [
            (pid, Server(port)) for pid, port in pids.items() if _runs(pid) and Server(port).is_up()
        ]

    def server(self) -> tuple[int, Server]:
        """One of them, the youngest."""
        youngest: tuple[int, Server] = self.wait(self.servers, "a server is there")[-1]
        return youngest

    def switch(self, **switches: Any) -> None:
        """Change what all living servers do."""
        for _, server in self.servers():
            with contextlib.suppress(OSError):
                server.switch(**switches)

    # Time

    def wait(self, probe: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        """The first truthy value of `probe`."""
        deadline = time.monotonic() + patience_s
        while not (value := probe()):
            if time.monotonic() > deadline:
                raise StuckError(f"not within {patience_s:.0f} s: {what}\n{self.describe()}")
            time.sleep(POLL_S)
        return value

    def wait_for_tokens(self, count: int) -> bool:
        """Wait until so many more tokens were generated; False when the workers ended before."""
        goal = self.account().tokens + count
        self.wait(lambda: self.account().tokens >= goal or not self.alive(), f"{count} tokens")
        return self.account().tokens >= goal

    def wait_for_end(self, seconds: float) -> None:
        """Wait until no worker is left, or so long."""
        deadline = time.monotonic() + seconds
        while self.alive() and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def describe(self) -> str:
        """What is going on, for somebody who looks for a mistake."""
        lines = [f"{self.mode} in {self.place.root}; {self.account().tokens} tokens so far"]
        for one in self.crew[-3:]:
            lines.append(f"{one.replica} {one.flags} -> {one.process.poll()}\n{one.said()}")
        return "\n".join(lines)

    # The end

    def leave(self) -> None:
        """End everything that is left, however it is left."""
        for one in self.crew:
            if one.alive:
                one.process.kill()
            one.process.wait(PATIENCE_S)
        if self._external is not None:
            self._external.kill()
            self._external.wait(PATIENCE_S)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def living_pids(marker: str) -> list[int]:
    """Processes whose environment or command line names `marker`, ourselves excepted; or which write to
    a file below it, for vLLM's engine cores show neither."""
    found = (
        {process.pid for process in writing_to(Path(marker))} if marker.startswith("/") else set()
    )
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            named = [*process.environ().values(), *process.cmdline()]
            if marker in " ".join(named) and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return sorted(found - {os.getpid()})
