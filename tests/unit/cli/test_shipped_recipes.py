"""Shipped recipes from the command line: planned without a hub, down to what would be submitted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from tests.unit.vectors import SHARED, TESTS

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Shell

CHECKPOINTS = Path(__file__).parents[3] / "checkpoints" / "demo"


def local(**data: Path) -> list[str]:
    """Overrides that take a checkpoint and data from this machine."""
    checkpoint = sorted(CHECKPOINTS.glob("step-*"))[-1]
    values = {"models.nano-bf16.path": checkpoint, "cluster.executor": "local"}
    for task, path in data.items():
        values |= {f"{task}.data.path": path, f"{task}.data.allow_altered": "true"}
    return [word for key, value in values.items() for word in ("-o", f"{key}={value}")]


def test_nano_tools(shell: Shell) -> None:
    """Two tasks of many calls on one server, no token limit, and answers that can be continued."""
    overrides = local(
        aime2025_tools=SHARED / "aime2025" / "aime2025.jsonl",
        gpqa_diamond_tools=TESTS / "data" / "samples" / "gpqa_diamond.csv",
    )
    said = shell("submit", "nano-tools", "--dry-run", *overrides)
    assert said.code == 0, said.err
    assert "local: 1 replica x 2 GPUs" in said.out
    assert "begins anew" not in said.out + said.err
    [document] = orjson.loads(shell("prepare", "nano-tools", "--dry-run", "--json", *overrides).out)
    plan, counts = document["plan"], document["counts"]
    assert counts["aime2025_tools"] == {
        "units": 1920,
        "shards": 44,
        "tokens": None,
        "not_continued": [],
    }
    tasks = {task["name"]: task for task in plan["tasks"]}
    assert tasks["aime2025_tools"]["params"]["prompt"] == "generic/math"
    assert tasks["gpqa_diamond_tools"]["params"]["prompt"] == "eval/aai/mcq-4choices"
    for task in tasks.values():
        assert task["generation"]["max_tokens"] is None
        assert task["generation"]["presence_penalty"] == 1.0
        assert (task["params"]["timeout_s"], task["params"]["round_limit"]) == (10, 200)
    assert len(plan["deployments"]) == 1
    assert plan["scoring"] == {"unsafe": False, "image": None}
