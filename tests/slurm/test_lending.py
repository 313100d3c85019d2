"""A program on one node asks the server of another node's replica, on a real Slurm with networks of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.replica_report import read_reports
from evalkit.cluster.status import run_status
from evalkit.store.layout import RunFolder
from tests.faults.harness import journaled_calls
from tests.slurm.test_end_to_end import evalkit, results

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.cluster.status import RunStatus
    from tests.slurm.conftest import SlurmCluster

REPOSITORY = Path(__file__).parents[2]
NAMES = tuple(f"evalkit{os.getpid()}n{number}" for number in range(2))
# In place of Python: a node's own name and network, whose loopback no other node reaches.
AS_NODE = """#!/bin/sh
[ -n "$SLURM_ARRAY_TASK_ID" ] || exec {python} "$@"  # it gathers
exec env SLURM_CONF=/nowhere ip netns exec {node}$SLURM_ARRAY_TASK_ID unshare --uts \\
  sh -c 'hostname "$0" && exec "$@"' {node}$SLURM_ARRAY_TASK_ID {python} "$@"
"""
# Asks on and on, sixteen at once, until it is told that that is enough.
PROGRAM = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
from openai import OpenAI

client, model, enough = OpenAI(), *sys.argv[1:]

def ask(number):
    question = [{"role": "user", "content": f"What is {number} + 1?"}]
    client.chat.completions.create(model=model, messages=question)

number = 0
with ThreadPoolExecutor(16) as pool:
    while not os.path.exists(enough):
        list(pool.map(ask, range(number, number + 16)))
        number += 16
json.dump({"asked": number}, open("said.json", "w"))
"""


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def networks() -> Iterator[None]:
    """Two networks with a line between them, in which the nodes know each other by name."""
    hosts = "".join(f"10.231.77.{number + 1} {name}\n" for number, name in enumerate(NAMES))
    folders = [Path("/etc/netns") / name for name in NAMES]
    try:
        for folder, name in zip(folders, NAMES, strict=True):
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
            ip("netns", "add", name)
        ip(
            *("-n", NAMES[0], "link", "add", "line", "type", "veth"),
            *("peer", "name", "line", "netns", NAMES[1]),
        )
        for number, name in enumerate(NAMES):
            ip("-n", name, "address", "add", f"10.231.77.{number + 1}/24", "dev", "line")
            for link in ("lo", "line"):
                ip("-n", name, "link", "set", link, "up")
        yield
    finally:
        for folder, name in zip(folders, NAMES, strict=True):
            subprocess.run(["ip", "netns", "del", name], check=False)
            (folder / "hosts").unlink(missing_ok=True)
            folder.rmdir()


class LentRun:
    """A run of one program on two replicas, each with a node of its own."""

    def __init__(self, cluster: SlurmCluster, folder: Path, *, expose: bool) -> None:
        self.cluster, self.folder = cluster, folder
        python = folder / "python"
        python.write_text(AS_NODE.format(node=NAMES[0][:-1], python=sys.executable))
        python.chmod(0o755)
        (folder / "program.py").write_text(PROGRAM)
        self.enough = folder / "enough"
        server = ("-m", "tests.faults.fault_server", "--api-key", "{api_key}", "--latency-s", "0.2")
        where = ("--host", "{host}", "--port", "{port}", "--model", "{served_model_name}")
        command = ["{python}", str(folder / "program.py"), "{model}", str(self.enough)]
        recipe: dict[str, Any] = {
            "models": {"demo": {"path": str(REPOSITORY / "checkpoints" / "demo" / "step-1600")}},
            "serving": {
                "kind": "command",
                "command": [sys.executable, *server, *where],
                "gpus": 4,  # all of a node
                "max_model_len": 4096,
                "expose": expose,
            },
            "client": {"parallelism": 4, "stall_timeout_s": 2},
            "tasks": {
                "asked": {
                    "benchmark": "command",
                    "params": {
                        "command": command,
                        "results": {"file": "said.json", "metrics": {"asked": "asked"}},
                    },
                }
            },
            "cluster": {
                "replicas": 2,
                "time_min": 10,
                "mem": "400MB",
                "gather": {"mem": "400MB"},
                "python": str(python),
                "env": {"PYTHONPATH": str(REPOSITORY)},
            },
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        self.run = RunFolder(folder / "runs" / "recipe")

    def submit(self) -> None:
        """Send it off."""
        done = evalkit("submit", "recipe.yaml", cwd=self.folder, env=self.cluster.env)
        assert done.returncode == 0, done.stderr

    def status(self) -> RunStatus:
        """The run now."""
        return run_status(self.run, clock=SYSTEM_CLOCK, env=self.cluster.env)

    def answers_of(self, lender: str | None) -> int:
        """Journaled answers of a borrowed server, or of the own one."""
        return sum(call.lender == lender for call in journaled_calls(self.run)["asked"])

    def wait_for_answers(self, lender: str | None) -> None:
        """Until there are ten more of them."""
        before = self.answers_of(lender)
        self.cluster.wait_for(
            f"answers of {lender or 'the own server'}",
            lambda: self.answers_of(lender) >= before + 10,
        )

    def wait_for_detail(self, replica: str, text: str) -> None:
        """Until the status says so of a replica."""

        def is_said() -> bool:
            details = {each.name: each.detail or "" for each in self.status().replicas}
            return text in details[replica]

        self.cluster.wait_for(f"{replica}: {text}", is_said)

    def replicas(self) -> tuple[str, str]:
        """Who runs the program, and who has nothing to do."""
        [journal] = self.cluster.wait_for(
            "the program runs", lambda: list((self.run.root / "journal").rglob("*.jsonl"))
        )
        busy = journal.stem.partition(".")[0]
        return busy, "r1" if busy == "r0" else "r0"

    def finish(self) -> int:
        """End the program and wait for the end of the run; how much it asked."""
        self.enough.touch()
        self.cluster.wait_for("the run is over", lambda: self.status().is_over)
        found = results(self.run.root, "asked")
        assert found["complete"]
        return int(found["headline"]["value"])


@pytest.mark.long  # a minute, half of it until Slurm has requeued what was killed
def test_a_server_on_another_node(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """It answers, under its own number. When its line is cut and when its replica is killed, what it was asked is
    asked of the own server, and nothing twice; the replica's next server is borrowed again."""
    with networks():
        run = LentRun(slurm_cluster, tmp_path, expose=True)
        run.submit()
        busy, idle = run.replicas()
        run.wait_for_answers(f"{idle}.a1")
        run.wait_for_detail(idle, "lends its server to a task of another replica")
        run.wait_for_detail(busy, " by borrowed ones")
        ip("-n", NAMES[int(idle[1:])], "link", "set", "line", "down")
        log = run.run.worker_log(busy, 1)
        slurm_cluster.wait_for("it is given up", lambda: "is given up" in log.read_text())
        run.wait_for_answers(None)
        ip("-n", NAMES[int(idle[1:])], "link", "set", "line", "up")
        os.kill(read_reports(run.run)[idle].pid, signal.SIGKILL)
        run.wait_for_answers(f"{idle}.a2")
        asked = run.finish()
    calls = journaled_calls(run.run)["asked"]
    assert len(calls) == len({call.call for call in calls}) == asked
    assert {call.lender for call in calls} == {None, f"{idle}.a1", f"{idle}.a2"}
    assert {call.server for call in calls} == {0}
    assert [path.stem for path in (run.run.root / "journal").rglob("*.jsonl")] == [f"{busy}.a1"]
    assert list(run.run.replicas.glob("*.loan")) == []


@pytest.mark.long
def test_nothing_is_lent_to_another_node_unless_it_is_exposed(
    slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    """The other replica ends, and gives its node back, while the program goes on."""
    with networks():
        run = LentRun(slurm_cluster, tmp_path, expose=False)
        run.submit()
        busy, idle = run.replicas()

        def has_ended() -> bool:
            report = read_reports(run.run).get(idle)
            return report is not None and report.state == "done"

        slurm_cluster.wait_for("the idle one ends", has_ended)
        run.wait_for_answers(None)
        asked = run.finish()
    assert run.answers_of(None) == asked
    facts = run.run.server_facts(busy, 1).read_bytes().splitlines()
    assert "127.0.0.1" in json.loads(facts[-1])["argv"]
