"""The volume campaign: many faults on this machine, with the fault server in the place of vLLM."""

from __future__ import annotations

import random
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.faults.campaign.catalogue import CATALOGUE
from tests.faults.campaign.episode import Outcome, play_episode, play_undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from tests.faults.campaign.stage import Mode

PER_EPISODE = 12
MODES: tuple[Mode, ...] = ("vllm", "vllm", "command", "external", "old vllm")
"""vLLM twice: it is what evalkit is mostly used with."""


@dataclass(frozen=True)
class Choice:
    """Which faults, on which servers."""

    only: str = ""
    """Parts of names, with commas between them."""
    skip: str = ""
    mode: str = ""

    def names(self, catalogue: Iterable[str]) -> list[str]:
        """Those of a catalogue."""
        wanted = [name for name in catalogue if any(p in name for p in self.only.split(","))]
        return [name for name in wanted if not (self.skip and self.skip in name)]


def draw(seed: int, count: int, choice: Choice) -> list[tuple[Mode, str]]:
    """`count` faults with the servers they are played on: every kind before any comes again."""
    rng = random.Random(seed)
    allowed = {
        kind: [m for m in MODES if m in CATALOGUE[kind].modes and choice.mode in ("", m)]
        for kind in choice.names(CATALOGUE)
    }
    kinds = [kind for kind, modes in allowed.items() if modes]
    if not kinds:
        raise ValueError(f"no fault fits {choice}; there are: {', '.join(CATALOGUE)}")
    drawn: list[tuple[Mode, str]] = []
    while len(drawn) < count:
        rng.shuffle(kinds)
        drawn += [(rng.choice(allowed[kind]), kind) for kind in kinds]
    return drawn[:count]


class Tally:
    """The outcomes so far; episodes run side by side."""

    def __init__(self, count: int, say: Callable[[str], object]) -> None:
        self.outcomes: list[Outcome] = []
        self._count, self._say = count, say

    def add(self, outcome: Outcome) -> None:
        """Take one and say so."""
        self.outcomes.append(outcome)
        done = sum(len(each.injected) for each in self.outcomes)
        bill = outcome.bill
        phases = " + ".join(f"{seconds:.0f}" for seconds in outcome.seconds)
        self._say(
            f"{done}/{self._count} faults; {outcome.mode}: {len(outcome.injected)} in {phases} s, "
            f"{bill.saved} tokens saved, {bill.lost} lost, {bill.lost_calls} calls lost"
        )


def play_volume(
    root: Path,
    drawn: Sequence[tuple[Mode, str]],
    seed: int,
    say: Callable[[str], object],
    jobs: int = 2,
) -> list[Outcome]:
    """Play faults in as many runs as it takes, `jobs` of them at a time. Raises AssertionError."""
    undisturbed = play_undisturbed(root / "undisturbed")
    bag: dict[Mode, list[str]] = {}
    for where, kind in drawn:
        bag.setdefault(where, []).append(kind)
    tally = Tally(len(drawn), say)
    number = 0
    with ThreadPoolExecutor(jobs) as pool:
        while any(bag.values()):
            running: dict[Future[tuple[Outcome, list[str]]], Mode] = {}
            for where, kinds in _portions(bag):
                number += 1
                folder = root / f"episode-{number}"
                job = pool.submit(
                    play_episode, folder, where, kinds, f"{seed}.{number}", undisturbed
                )
                running[job] = where
            bag = {}
            for job in as_completed(running):
                outcome, left = job.result()
                tally.add(outcome)
                bag.setdefault(running[job], []).extend(left)
    return tally.outcomes


def _portions(bag: dict[Mode, list[str]]) -> Iterator[tuple[Mode, list[str]]]:
    for where, kinds in bag.items():
        for start in range(0, len(kinds), PER_EPISODE):
            yield where, kinds[start : start + PER_EPISODE]
