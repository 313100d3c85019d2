"""The faults that can be done to a run from outside, by name.

Each is a function of the stage. It returns False when there was nothing to do it to; who plays it
tries again later then. A fault that changes a server's switches changes them back itself.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tests.faults.campaign.damage import corrupt_line, delete_one, tear_tail

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.campaign.stage import Mode, Stage

Action: TypeAlias = "Callable[[Stage], bool]"
OURS: tuple[Mode, ...] = ("vllm", "old vllm", "command")
ALL: tuple[Mode, ...] = (*OURS, "external")
STORM_S = 0.8
STORM = {"fail_every": 2, "fail_times": 10**6}


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    modes: tuple[Mode, ...]
    inject: Action
    stops: bool
    """Work stops until somebody does something: the time to the next token is of interest."""
    shares: bool
    """Two workers may do the same calls from then on: what they pay for twice is counted apart."""


CATALOGUE: dict[str, Fault] = {}


def fault(
    name: str, modes: tuple[Mode, ...] = ALL, *, stops: bool = False, shares: bool = False
) -> Callable[[Action], Action]:
    """Enter a function into the catalogue."""

    def enter(inject: Action) -> Action:
        CATALOGUE[name] = Fault(name, modes, inject, stops, shares)
        return inject

    return enter


# Workers


@fault("worker: SIGKILL", stops=True)
def kill_worker(stage: Stage) -> bool:
    """As the node's kernel, or Slurm after KillWait."""
    stage.dismiss(signal.SIGKILL)
    return True


@fault("worker: SIGTERM", stops=True)
def terminate_worker(stage: Stage) -> bool:
    """As a preemption or a cancel: there are five seconds."""
    stage.dismiss(signal.SIGTERM)
    return True


@fault("worker: SIGUSR2", stops=True)
def warn_worker(stage: Stage) -> bool:
    """As before a time limit: the calls in flight do not fit."""
    stage.dismiss(signal.SIGUSR2)
    return True


@fault("worker: SIGTERM, then SIGKILL", stops=True)
def hurry_worker(stage: Stage) -> bool:
    """A drain that is cut short."""
    for one in stage.alive():
        one.process.send_signal(signal.SIGTERM)
    time.sleep(stage.rng.uniform(0.0, 0.4))
    stage.dismiss(signal.SIGKILL)
    return True


@fault("worker: frozen for a while")
def freeze_worker(stage: Stage) -> bool:
    """A replica that is slow, as on a node that swaps."""
    one = stage.pick()
    one.process.send_signal(signal.SIGSTOP)
    time.sleep(stage.rng.uniform(0.5, 1.5))
    one.process.send_signal(signal.SIGCONT)
    return True


@fault("replica: joins late")
def join_late(stage: Stage) -> bool:
    """One more worker takes shards of the same run."""
    stage.enlist()
    return True


@fault("replica: leaves early")
def leave_early(stage: Stage) -> bool:
    """One of two workers is preempted; the other goes on."""
    if len(stage.alive()) < 2:
        stage.enlist()
    one = stage.pick()
    one.process.send_signal(signal.SIGTERM)
    one.process.wait(90)
    return True


@fault("replica: slow server", OURS)
def slow_server(stage: Stage) -> bool:
    """One server at a fifth of its speed from now on."""
    _, server = stage.server()
    server.switch(tokens_per_s=30.0)
    return True


@fault("split brain", shares=True)
def split_brain(stage: Stage) -> bool:
    """Two live attempts of one replica believe that all shards are theirs."""
    stage.dismiss()
    for _ in range(2):
        stage.enlist("--no-leases", replica="r0")
    stage.wait_for_tokens(3000)
    return True


# Servers


@fault("server: SIGKILL", OURS, stops=True)
def kill_server(stage: Stage) -> bool:
    """The process is gone without a word."""
    pid, _ = stage.server()
    os.kill(pid, signal.SIGKILL)
    return True


@fault("endpoint: gone and back", ("external",), stops=True)
def restart_endpoint(stage: Stage) -> bool:
    """The endpoint goes away, and comes back at the same address."""
    pid, _ = stage.server()
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.3)
    stage.start_external()
    return True


@fault("server: dies at a token", OURS, stops=True)
def die_at_token(stage: Stage) -> bool:
    """It ends in the middle of a step."""
    _, server = stage.server()
    server.switch(die_at_token=1)
    return True


@fault("server: hangs, health 200", OURS, stops=True)
def hang_server(stage: Stage) -> bool:
    """No token comes any more; every page answers."""
    _, server = stage.server()
    server.switch(hang_at_token=1)
    return True


@fault("server: stopped (SIGSTOP)", OURS, stops=True)
def stop_server(stage: Stage) -> bool:
    """Nothing answers, the process lives."""
    pid, _ = stage.server()
    os.kill(pid, signal.SIGSTOP)
    return True


@fault("server: hangs, abort fails", ("vllm",), stops=True)
def hang_deaf_server(stage: Stage) -> bool:
    """A hang in which the server does not hand out tokens either."""
    _, server = stage.server()
    server.switch(abort_status=500, hang_at_token=1)
    return True


def _restart_in_a_mood(stage: Stage, **mood: object) -> bool:
    pid, _ = stage.server()
    stage.mood.write_text(json.dumps(mood))
    os.kill(pid, signal.SIGKILL)
    return True


@fault("server: slow start", OURS, stops=True)
def slow_start(stage: Stage) -> bool:
    """The next server loads for two seconds."""
    return _restart_in_a_mood(stage, ready_after_s=2.0)


@fault("server: port taken", OURS, stops=True)
def port_taken(stage: Stage) -> bool:
    """Somebody listens on the port of the next server before it does."""
    return _restart_in_a_mood(stage, port_taken=True)


@fault("server: dies at its start", OURS, stops=True)
def dies_at_start(stage: Stage) -> bool:
    """The next server ends before it is ready."""
    return _restart_in_a_mood(stage, exit=1)


@fault("drain: abort fails", ("vllm",), stops=True)
def abort_fails(stage: Stage) -> bool:
    """A server that refuses to hand out tokens when the worker has to go."""
    stage.switch(abort_status=500)
    stage.dismiss(signal.SIGTERM)
    return True


@fault("drain: abort is slow", ("vllm",), stops=True)
def abort_is_slow(stage: Stage) -> bool:
    """A server that takes a second to hand out tokens."""
    stage.switch(abort_delay_s=1.0)
    stage.dismiss(signal.SIGTERM)
    return True


# Answers


def _storm(stage: Stage, **switches: object) -> bool:
    stage.switch(**STORM, **switches)
    time.sleep(STORM_S)
    stage.switch(fail_times=1, **dict.fromkeys(switches, 0))
    return True


@fault("endpoint: storm of 429")
def storm_429(stage: Stage) -> bool:
    """Every second request is refused for a while."""
    return _storm(stage, fail_status=429)


@fault("endpoint: storm of 500")
def storm_500(stage: Stage) -> bool:
    """As above."""
    return _storm(stage, fail_status=500)


@fault("endpoint: storm of 503")
def storm_503(stage: Stage) -> bool:
    """As above."""
    return _storm(stage, fail_status=503)


@fault("endpoint: connections dropped")
def drop_connections(stage: Stage) -> bool:
    """Every second connection is reset before the answer begins."""
    stage.switch(drop_at_once=True)
    _storm(stage, drop_every=2)
    stage.switch(drop_at_once=False)
    return True


@fault("endpoint: answers cut off")
def drop_streams(stage: Stage) -> bool:
    """Every second connection is reset in the middle of the answer."""
    return _storm(stage, drop_every=2)


@fault("endpoint: truncated JSON")
def truncate(stage: Stage) -> bool:
    """Every second answer ends in the middle of its JSON."""
    return _storm(stage, truncate_every=2)


@fault("endpoint: reply of another model", OURS, stops=True)
def wrong_model(stage: Stage) -> bool:
    """Answers come in another model's name: our port is somebody else's."""
    return _storm(stage, wrong_model_every=2)


# Storage


@fault("storage: full disk", stops=True)
def full_disk(stage: Stage) -> bool:
    """A worker whose journals have room for a few records more."""
    stage.dismiss()
    one = stage.enlist("--disk-bytes", str(stage.rng.choice((0, 300, 5_000))))
    stage.wait(lambda: not one.alive, "a worker without room ends")
    return True


@fault("storage: read-only folder", stops=True)
def read_only(stage: Stage) -> bool:
    """A worker that may not create a journal."""
    stage.dismiss()
    one = stage.enlist("--read-only")
    stage.wait(lambda: not one.alive, "a worker in a read-only folder ends")
    return True


@fault("storage: stale listings", shares=True)
def stale_listings(stage: Stage) -> bool:
    """A worker that sees for three seconds what folders held at first."""
    stage.dismiss()
    stage.enlist("--stale-s", "3")
    return True


@fault("storage: torn journal", stops=True)
def torn_journal(stage: Stage) -> bool:
    """The end of a journal did not reach the disk."""
    stage.dismiss()
    return tear_tail(stage.folder, stage.rng) is not None


@fault("storage: corrupt line", stops=True)
def corrupted_journal(stage: Stage) -> bool:
    """A byte of a journal changed."""
    stage.dismiss()
    return corrupt_line(stage.folder, stage.rng) is not None


@fault("storage: marker deleted", stops=True)
def marker_deleted(stage: Stage) -> bool:
    """A finished shard does not say so any more."""
    stage.dismiss()
    return delete_one(stage.folder, stage.rng, ".done") is not None


@fault("storage: lease deleted", shares=True)
def lease_deleted(stage: Stage) -> bool:
    """A shard that is being worked on looks free, and somebody comes."""
    if delete_one(stage.folder, stage.rng, ".lock") is None:
        return False
    stage.enlist()
    return True
