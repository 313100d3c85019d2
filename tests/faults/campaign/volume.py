"""The volume campaign: many faults on this machine, with the fault server in the place of vLLM."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from tests.faults.campaign.catalogue import CATALOGUE
from tests.faults.campaign.episode import Outcome, play_episode, play_undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.campaign.stage import Mode

PER_EPISODE = 12
MODES: tuple[Mode, ...] = ("vllm", "vllm", "command", "external", "old vllm")
"""vLLM twice: it is what evalkit is mostly used with."""


def draw(seed: int, count: int, only: str = "", mode: str = "") -> list[tuple[Mode, str]]:
    """`count` faults with the servers they are played on: every kind before any comes again."""
    rng = random.Random(seed)
    kinds = [name for name in CATALOGUE if only in name]
    drawn: list[tuple[Mode, str]] = []
    while len(drawn) < count:
        rng.shuffle(kinds)
        for kind in kinds:
            fits = [m for m in MODES if m in CATALOGUE[kind].modes and mode in ("", m)]
            if fits:
                drawn.append((rng.choice(fits), kind))
    return drawn[:count]


class Progress:
    """Says what goes on."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say

    def episode(self, outcome: Outcome, done: int, count: int) -> None:
        """After each episode."""
        bill = outcome.bill
        self._say(
            f"{done}/{count} faults; {outcome.mode}: {len(outcome.injected)} faults, "
            f"{bill.saved} tokens saved, {bill.lost} lost, {bill.lost_calls} calls lost"
        )


def play_volume(
    root: Path, seed: int, count: int, progress: Progress, only: str = "", mode: str = ""
) -> list[Outcome]:
    """Play `count` faults in as many episodes as it takes. Raises AssertionError."""
    undisturbed = play_undisturbed(root / "undisturbed")
    bag: dict[Mode, list[str]] = {}
    for where, kind in draw(seed, count, only, mode):
        bag.setdefault(where, []).append(kind)
    outcomes: list[Outcome] = []
    played: Counter[str] = Counter()
    number = 0
    while any(bag.values()):
        for where in [m for m, kinds in bag.items() if kinds]:
            kinds, bag[where] = bag[where][:PER_EPISODE], bag[where][PER_EPISODE:]
            number += 1
            folder = root / f"episode-{number}"
            outcome, left = play_episode(folder, where, kinds, f"{seed}.{number}", undisturbed)
            bag[where] += left
            outcomes.append(outcome)
            played.update(fault.kind for fault in outcome.injected)
            progress.episode(outcome, played.total(), count)
    return outcomes
