"""How often `evalkit verify` errs, over run folders made by the real gather: the formulas have their own
simulation in `tests/unit/report`, and here is all that lies between journals and an exit code."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import yaml
from scipy.stats import binom, norm

from evalkit.benchmarks.frozen import load_frozen
from evalkit.benchmarks.registry import benchmark_for
from evalkit.cli.main import main
from evalkit.report.facts import RunFacts
from evalkit.report.gather import gather_task
from evalkit.store.layout import RunFolder
from evalkit.store.run import load_plan
from tests.builders import make_call, write_journal

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from evalkit.benchmarks.contract import Benchmark
    from evalkit.plan.model import Plan
    from tests.unit.cli.conftest import Shell

N, K, OFF = 100, 8, 0.05
RUNS = 20
"""At the card's rates, and as many off them."""
ALPHA, SURE = 0.05, 0.001
"""What verify promises, and how seldom a count beyond the bounds below would be chance."""


NO_FACTS = RunFacts(None, ())
"""No worker ran."""


class Maker(NamedTuple):
    """What run folders are made from: one plan, and the right answers to its samples."""

    first: RunFolder
    plan: Plan
    benchmark: Benchmark[Any]
    gold: list[str]

    def make(self, root: Path, right: NDArray[Any]) -> None:
        """A gathered run with these answers right, by sample and repeat."""
        folder, [task] = RunFolder(root), self.plan.tasks
        shutil.copytree(self.first.root, root)
        for shard in task.shards():
            records = [
                make_call(key, self.gold[key.sample] if right[key] else "no idea")
                for key in task.units(shard)
            ]
            write_journal(folder, self.plan, shard, "r0.a1", records)
        gather_task(folder, self.plan, task, self.benchmark, NO_FACTS, lambda _: None)


@pytest.fixture
def maker(shell: Shell) -> Maker:
    """A prepared run without an answer."""
    shell.write(tasks={"addition": {"params": {"n": N}, "repeats": K}})
    assert shell("prepare", "recipe.yaml").code == 0
    folder = RunFolder(shell.folder / "runs" / "test")
    plan = load_plan(folder)
    benchmark = benchmark_for(plan.tasks[0])
    gold = [benchmark.gold(sample) for sample in load_frozen(folder, plan.tasks[0])]
    return Maker(folder, plan, benchmark, [answer.text for answer in gold if answer is not None])


def write_card(path: Path, value: float) -> None:
    """A card of one score, rounded as scores are published."""
    entry = {"value": round(100 * value, 1), "metric": "correct", "samples": N, "repeats": K}
    card = {"name": "Tiny", "source": ["here"], "models": ["m"], "profile": "card"}
    path.write_text(yaml.safe_dump({**card, "benchmarks": {"addition": entry}}))


def test_verdicts_err_as_often_as_they_say(shell: Shell, maker: Maker) -> None:
    """Runs at the card's rates are refused as often as 5 % allow, and those that are 5 points off are found
    as often as the errors of both scores let them be; each beside a card that was measured anew."""
    rng = np.random.default_rng(2026)
    rates = rng.beta(1.2, 0.4, N)  # most questions are easy, some are hopeless
    lower = rates * (1 - OFF / rates.mean())
    refused = {"at": 0, "off": 0}
    for index in range(RUNS):
        for name, ours in (("at", rates), ("off", lower)):
            root, card = shell.folder / "runs" / f"{name}-{index}", shell.folder / "card.yaml"
            write_card(card, float(rng.binomial(K, rates).mean()) / K)
            maker.make(root, rng.random((N, K)) < ours[:, None])
            code = main(["verify", str(root), "--card", str(card)])
            assert code in (0, 12)
            refused[name] += code == 12
    variance = sum((p * (1 - p)).sum() / (K * N * N) for p in (rates, lower))
    power = norm.sf(norm.isf(ALPHA / 2) - OFF / math.sqrt(variance))
    assert refused["at"] <= binom.isf(SURE, RUNS, ALPHA)
    assert binom.ppf(SURE, RUNS, power) <= refused["off"] <= binom.isf(SURE, RUNS, power)
