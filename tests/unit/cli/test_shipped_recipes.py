"""Shipped recipes from the command line: planned without a hub, down to what would be submitted."""

from __future__ import annotations

import csv
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
        "calls": None,
        "parts": {},
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


def repeated_jsonl(source: Path, target: Path, key: str, count: int) -> Path:
    """So many rows like the first one of a sample, told apart by a key."""
    row = orjson.loads(source.read_bytes().splitlines()[0])
    lines = (orjson.dumps({**row, key: f"{key}-{n}"}) for n in range(count))
    target.write_bytes(b"\n".join(lines))
    return target


def repeated_csv(source: Path, target: Path, count: int) -> Path:
    """So many rows like the first one of a sample, each with another question."""
    with source.open(newline="") as file:
        reader = csv.DictReader(file)
        row = next(reader)
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, reader.fieldnames or [])
        writer.writeheader()
        writer.writerows({**row, "Question": f"{n}: {row['Question']}"} for n in range(count))
    return target


def test_nano_at_full_size(shell: Shell, tmp_path: Path) -> None:
    """All eight tasks: 26,382 generations, and BFCL. Data that is not at hand has stand-ins of the same size."""
    samples = TESTS / "data" / "samples"
    overrides = local(
        mmlu_pro=SHARED / "mmlu_pro" / "mmlu_pro_test_2024-10.jsonl.gz",
        aime2025=SHARED / "aime2025" / "aime2025.jsonl",
        ifbench=SHARED / "ifbench" / "IFBench_test_294.jsonl",
        scicode=SHARED / "scicode",
        gpqa_diamond=repeated_csv(samples / "gpqa_diamond.csv", tmp_path / "gpqa.csv", 198),
        hle=repeated_jsonl(samples / "hle.jsonl", tmp_path / "hle.jsonl", "id", 2158),
        livecodebench_v6=repeated_jsonl(
            samples / "livecodebench_v6.jsonl", tmp_path / "lcb.jsonl", "question_id", 454
        ),
    )
    more = ["-o", "ifbench.params.without_tagger=true"]
    said = shell("prepare", "nano", "--dry-run", "--json", *overrides, *more)
    assert said.code == 0, said.err
    [document] = orjson.loads(said.out)
    counts = document["counts"]
    calls = {name: task["calls"] for name, task in counts.items()}
    bfcl = calls.pop("bfcl_v4")
    assert calls == {
        "mmlu_pro": 12_032,
        "livecodebench_v6": 3_632,
        "scicode": 2_704,
        "ifbench": 2_352,
        "hle": 2_158,
        "aime2025": 1_920,
        "gpqa_diamond": 1_584,
    }
    assert sum(calls.values()) == 26_382
    assert bfcl is None
    # with web and weights 3,641 single calls, 1,465 dialogues and 111 conversations
    assert counts["bfcl_v4"]["parts"] == {
        "single calls": 3_641,
        "dialogues": 1_465 - 155 - 200,
        "conversations that write a memory": 111 - 37,
    }
    assert counts["scicode"]["units"] == 80 * 8
    judges = {task["name"]: task["judge"] for task in document["plan"]["tasks"]}
    assert judges.pop("hle")["model"]["source"] == "gpt-4o"
    assert set(judges.values()) == {None}
    assert len(document["plan"]["deployments"]) == 1
