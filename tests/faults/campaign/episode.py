"""One run from its start to its verdict, with a list of faults in between."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.store.run import load_plan
from evalkit.store.survey import survey_run
from tests.faults.campaign.catalogue import CATALOGUE
from tests.faults.campaign.ledger import Bill, make_bill, paid_again
from tests.faults.campaign.stage import SINGLE_CALL, TASKS, Mode, Stage, StuckError, living_pids
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
    from collections.abc import Sequence
    from pathlib import Path

    from tests.faults.campaign.catalogue import Fault

BETWEEN = (40, 700)
"""Tokens between two faults: from before the first chunk of a stream to several finished calls."""
FAST = 5000.0
MAX_ROUNDS = 6
INCOMPLETE = 10
"""Code of a gather that finds units missing."""
ENDS = frozenset({0, 1, 5, 6, -9, -12, -15})
"""Codes that a worker may end with: done, drained, disk, server, and killed (by USR2 and TERM too
while it does not heed them yet)."""


@dataclass
class Injected:
    """A fault that was played."""

    kind: str
    t: float
    stops: bool
    recovered_s: float | None = None
    """Time until the first token of a request that was sent after it."""


@dataclass
class Checkpoint:
    """What was in the journals at some moment."""

    line: int
    """Of the ledger."""
    finished: frozenset[str]
    shared: bool
    """From here on two workers may do the same calls."""


@dataclass
class Outcome:
    """What came of an episode."""

    mode: str
    injected: list[Injected]
    bill: Bill
    run_counts: dict[str, int]
    refused: int
    cut: int
    shared_again: int
    """Finished calls that were asked for again by two workers that shared them."""
    seconds: tuple[float, ...]
    """Faults, the rest of the run, and the verdict."""


@dataclass
class Episode:
    """Plays faults on one stage."""

    stage: Stage
    injected: list[Injected] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)

    def play(self, kinds: Sequence[str]) -> list[str]:
        """Inject faults as long as there is work; returns those that were not played."""
        left = list(kinds)
        while left:
            fault = CATALOGUE[left[0]]
            if not self.stage.wait_for_tokens(self.stage.rng.randint(*BETWEEN)):
                if not self._go_on():
                    return left
                continue
            if not self._inject(fault):
                left.append(left.pop(0))
                if not self._go_on():
                    return left
                continue
            left.pop(0)
            self._recover(fault)
        return left

    def _inject(self, fault: Fault) -> bool:
        injected = Injected(fault.name, time.time(), fault.stops)
        try:
            done = fault.inject(self.stage)
        except StuckError:
            if self.stage.alive():
                raise
            done = False  # the run was over before it
        if done:
            if fault.stops:  # some take their time to do it
                injected.t = time.time()
            self.injected.append(injected)
            self._note_journals(fault.shares)
        return done

    def _note_journals(self, shares: bool) -> None:
        """A checkpoint: nothing that is in the journals now may be asked for again."""
        finished = finished_calls(self.stage.folder)
        line = self.stage.account().lines
        alone = len(self.stage.alive()) <= 1
        before = bool(self.checkpoints) and self.checkpoints[-1].shared and not alone
        self.checkpoints.append(Checkpoint(line, finished, shares or before))

    def _recover(self, fault: Fault) -> None:
        """Wait until tokens come again, with a new worker where the old ones have ended."""
        injected = self.injected[-1]
        after = injected.t
        while (first := self.stage.account().first_token_after(after)) is None:
            if not self.stage.alive():
                self._check_ends()
                if not self._owed():
                    return
                self._note_journals(shares=False)
                self.stage.enlist()
            self._wait_for_life(after)
        injected.recovered_s = first - after

    def _wait_for_life(self, t: float) -> None:
        stage = self.stage
        stage.wait(
            lambda: not stage.alive() or stage.account().first_token_after(t),
            "a token after a fault",
        )

    def _go_on(self) -> bool:
        """Another worker, unless all is done."""
        if self.stage.alive():
            return True
        self._check_ends()
        if not self._owed():
            return False
        self._note_journals(shares=False)
        self.stage.enlist()
        return True

    def _check_ends(self) -> None:
        for one in self.stage.crew:
            code = one.process.poll()
            assert code is None or code in ENDS, f"{one.replica} ended with {code}:\n{one.said()}"

    def _owed(self) -> bool:
        """Whether the journals lack a unit."""
        folder = self.stage.folder
        return survey_run(folder, load_plan(folder), SINGLE_CALL).total > 0

    def finish(self) -> None:
        """Without further faults: workers until the gather finds nothing missing."""
        stage, text = self.stage, ""
        for _ in range(MAX_ROUNDS):
            while stage.alive():
                stage.switch(tokens_per_s=FAST, fail_times=1)
                stage.wait_for_end(0.3)
            self._check_ends()
            gather = stage.place.start("gather", stage.folder.root)
            text = gather.communicate()[0]
            if gather.returncode == 0:
                return
            assert gather.returncode == INCOMPLETE, text
            self._note_journals(shares=False)
            stage.enlist()
        raise StuckError(f"still incomplete after {MAX_ROUNDS} rounds: {text}\n{stage.describe()}")

    def judge(self, undisturbed: dict[str, Any]) -> Outcome:
        """Everything that must hold. Raises AssertionError."""
        stage, folder = self.stage, self.stage.folder
        check_artifacts(folder, TASKS, undisturbed)
        account = stage.account()
        stage.leave()
        known = known_bodies(folder)
        shared = self._check_payments(known)
        assert (left := leftovers(folder)) == [], f"left over: {left}"
        stage.wait(lambda: not living_pids(str(stage.place.root)), "no process is left")
        bill = make_bill(account, set(known.values()), needed_tokens(folder))
        return Outcome(
            mode=stage.mode,
            injected=self.injected,
            bill=bill,
            run_counts=counts(folder, TASKS),
            refused=account.refused,
            cut=account.cut,
            shared_again=shared,
            seconds=(),
        )

    def _check_payments(self, known: dict[str, str]) -> int:
        """No finished call was asked for again, but by two workers that shared it: how often."""
        account, bodies = self.stage.account(), set(known.values())
        prompt_of = {call.body: call.prompt for call in account.calls}
        ends = [point.line for point in self.checkpoints[1:]] + [account.lines]
        shared = 0
        for point, end in zip(self.checkpoints, ends, strict=True):
            finished = {prompt_of[known[digest]] for digest in point.finished if digest in known}
            again = paid_again(account, finished, bodies, point.line, end)
            if point.shared:
                shared += len(again)
            else:
                assert again == [], f"{len(again)} finished calls were paid for again: {again[:3]}"
        return shared


def play_episode(
    root: Path, mode: Mode, kinds: Sequence[str], seed: str, undisturbed: dict[str, Any]
) -> tuple[Outcome, list[str]]:
    """A whole episode, and the faults for which the run was too short. Raises AssertionError."""
    episode = Episode(Stage(root, mode, random.Random(seed)))
    times = [time.monotonic()]
    try:
        episode.stage.begin()
        left = episode.play(kinds)
        times.append(time.monotonic())
        episode.finish()
        times.append(time.monotonic())
        outcome = episode.judge(undisturbed)
        times.append(time.monotonic())
        outcome.seconds = tuple(after - before for before, after in itertools.pairwise(times))
        return outcome, left
    finally:
        episode.stage.leave()


def play_undisturbed(root: Path) -> dict[str, Any]:
    """Artifacts of a run that nothing happens to."""
    stage = Stage(root, "external", random.Random(0))
    try:
        stage.begin()
        stage.switch(tokens_per_s=0)
        stage.wait(lambda: not stage.alive(), "the undisturbed run is over")
        stage.place.evalkit("gather", stage.folder.root)
        return artifacts(stage.folder, TASKS)
    finally:
        stage.leave()
