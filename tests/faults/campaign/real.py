"""The real campaign: real Slurm, and either real vLLM or the fault server in its place."""

from __future__ import annotations

import itertools
import json
import os
import random
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.campaign.episode import Checkpoint, Injected, Outcome
from tests.faults.campaign.ledger import Bill, make_bill, paid_again
from tests.faults.campaign.slurm_faults import SLURM_CATALOGUE
from tests.faults.campaign.slurm_stage import ServerKind, SlurmStage, run_here
from tests.faults.campaign.stage import StuckError, living_pids
from tests.faults.campaign.verdict import (
    artifacts,
    check_artifacts,
    counts,
    finished_calls,
    known_bodies,
    leftovers,
    needed_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.faults.campaign.volume import Choice
    from tests.slurm.conftest import SlurmCluster

BETWEEN = (3, 12)
"""Records between two faults."""
OPTIONS = ("--nodes", "3", "--gpus", "0", "--grace-time", "0")
MAX_ROUNDS = 4


@dataclass
class RealEpisode:
    """Plays faults on one run of a cluster."""

    stage: SlurmStage
    say: Callable[[str], object]
    injected: list[Injected] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)

    def play(self, kinds: Sequence[str]) -> list[str]:
        """Inject faults as long as there is work; returns those that were not played."""
        left = list(kinds)
        self.stage.submit()
        while left:
            if not self.stage.wait_for_lines(self.stage.rng.randint(*BETWEEN)):
                if not self.stage.owed():
                    return left
                self._resume()
                continue
            self._play_one(left.pop(0))
        return left

    def _play_one(self, kind: str) -> None:
        stage, fault = self.stage, SLURM_CATALOGUE[kind]
        before = set(stage.server_pids())
        t = time.time()
        fault.inject(stage)
        injected = Injected(kind, t, fault.stops)
        self.injected.append(injected)
        self._note_journals(fault.shares)
        injected.recovered_s = self._recover(before, t, new_server=fault.stops)
        stage.mend_nodes()
        took = "-" if injected.recovered_s is None else f"{injected.recovered_s:.1f} s"
        self.say(f"  {kind}: {took}")

    def _recover(self, before: set[int], t: float, *, new_server: bool) -> float | None:
        """Seconds until records come again, of a server that was not there; None when all is done."""
        stage = self.stage
        while new_server and not set(stage.server_pids()) - before:
            if not stage.owed():
                return None
            if not stage.replicas():
                self._resume()
            time.sleep(0.5)
            if time.time() - t > 300:
                raise StuckError(f"no server after a fault\n{stage.describe()}")
        lines = stage.lines()
        stage.wait(lambda: stage.lines() > lines or not stage.owed(), "a record after a fault")
        return time.time() - t

    def _resume(self) -> None:
        self._note_journals(shares=False)
        self.stage.submit()

    def _note_journals(self, shares: bool) -> None:
        line = self.stage.ledger.read().lines
        several = bool(self.checkpoints) and self.checkpoints[-1].shared
        shared = shares or (several and len(self.stage.server_pids()) > 1)
        self.checkpoints.append(Checkpoint(line, finished_calls(self.stage.folder), shared))

    def finish(self) -> None:
        """Without further faults: until nothing is owed and no job is left."""
        stage = self.stage
        for _ in range(MAX_ROUNDS):
            while stage.jobs():
                stage.hasten()
                time.sleep(0.5)
            if not stage.owed():
                break
            self._resume()
        stage.wait(lambda: not stage.server_pids(), "no server is left")
        stage.evalkit("gather", stage.folder.root)

    def judge(self, undisturbed: dict[str, Any]) -> Outcome:
        """Everything that must hold. Raises AssertionError."""
        stage, folder = self.stage, self.stage.folder
        check_artifacts(folder, stage.tasks, undisturbed)
        stage.wait(lambda: not living_pids(str(stage.place.root)), "no process is left")
        assert (left := leftovers(folder) + stage.caches()) == [], f"left over: {left}"
        shared = 0
        if stage.server == "vllm":
            bill = self._bill_of_journals()
        else:
            known = known_bodies(folder)
            shared = self._check_payments(known)
            bill = make_bill(stage.ledger.read(), set(known.values()), needed_tokens(folder))
        return Outcome(
            mode=f"slurm, {stage.server}",
            injected=self.injected,
            bill=bill,
            run_counts=counts(folder, stage.tasks),
            refused=0,
            cut=0,
            shared_again=shared,
            seconds=(),
        )

    def _check_payments(self, known: dict[str, str]) -> int:
        account, bodies = self.stage.ledger.read(), set(known.values())
        prompt_of = {call.body: call.prompt for call in account.calls}
        ends = [point.line for point in self.checkpoints[1:]] + [account.lines]
        shared = 0
        for point, end in zip(self.checkpoints, ends, strict=True):
            finished = {prompt_of[known[digest]] for digest in point.finished if digest in known}
            again = paid_again(account, finished, bodies, point.line, end)
            shared += len(again) if point.shared else 0
            assert point.shared or again == [], f"{len(again)} finished calls were paid for again"
        return shared

    def _bill_of_journals(self) -> Bill:
        """For a real vLLM, whose tokens nobody counts from outside: what its logs and journals say."""
        stage = self.stage
        texts = [
            path.read_text(errors="replace")
            for path in stage.folder.root.glob("logs/*/attempt-*/server.log")
        ]
        sent = sum(text.count("POST /v1/chat/completions HTTP") for text in texts)
        went_on = sum(text.count("POST /v1/completions HTTP") for text in texts)
        finished = len(finished_calls(stage.folder))
        self.say(
            f"  vLLM's log: {sent} chat requests and {went_on} completions (continuations, and one "
            f"probe of each server) for {finished} calls"
        )
        saved = counts(stage.folder, stage.tasks)["saved"]
        return Bill(needed_tokens(stage.folder), 0, saved, 0, 0, 0, 0, is_counted=False)


@contextmanager
def private_cluster(*options: str) -> Iterator[SlurmCluster]:
    """A cluster of our own, outside of pytest."""
    from tests.slurm.conftest import (
        OUTER_SLURM,
        START_LIMIT_S,
        STOP_LIMIT_S,
        SlurmCluster,
        run_script,
    )

    folder = tempfile.mkdtemp(prefix="evalkit-slurm-")
    try:
        text = run_script("start", "--json", "--dir", folder, *options, limit_s=START_LIMIT_S)
        facts = json.loads(text)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(OUTER_SLURM)}
        yield SlurmCluster(Path(facts["dir"]), tuple(facts["nodes"]), clean | facts["env"])
    finally:
        run_script("stop", "--dir", folder, limit_s=STOP_LIMIT_S)


def draw_real(seed: int, count: int, choice: Choice) -> list[str]:
    """`count` faults: every kind before any comes again."""
    rng = random.Random(seed)
    kinds = choice.names(SLURM_CATALOGUE)
    if not kinds:
        raise ValueError(f"no fault fits {choice}; there are: {', '.join(SLURM_CATALOGUE)}")
    drawn: list[str] = []
    while len(drawn) < count:
        rng.shuffle(kinds)
        drawn += kinds
    return drawn[:count]


def play_real(
    cluster: SlurmCluster,
    root: Path,
    server: ServerKind,
    kinds: Sequence[str],
    seed: int,
    say: Callable[[str], object],
) -> list[Outcome]:
    """Play faults on as many runs as it takes. Raises AssertionError."""
    here = SlurmStage(cluster, root / "undisturbed", server, random.Random(0))
    run_here(here)
    undisturbed = artifacts(here.folder, here.tasks)
    say("undisturbed run done")
    outcomes: list[Outcome] = []
    left = list(kinds)
    for number in itertools.count(1):
        if not left:
            return outcomes
        rng = random.Random(f"{seed}.{number}")
        stage = SlurmStage(cluster, root / f"run-{number}", server, rng)
        episode = RealEpisode(stage, say)
        try:
            left = episode.play(left)
            episode.finish()
            outcomes.append(episode.judge(undisturbed))
        finally:
            stage.leave()
        assert outcomes[-1].injected, "a run ended before its first fault"
        say(f"run {number}: {len(outcomes[-1].injected)} faults, {len(left)} left")
    return outcomes
