"""Builds runs with artifacts for the tests of the report: real results, and samples by the thousand."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.plan.model import ModelIdentity, UnitKey
from evalkit.report.artifacts import read_results, write_samples
from evalkit.report.page.sources import Held, RunReport, TaskReport
from evalkit.report.traffic import Traffic, TrafficTally
from evalkit.store.records import CallRecord, Outcome, Reply, Timing, Usage
from tests.unit.report.run_builder import make_failure, make_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.report.run_builder import TestRun

START = 1_700_000_000.0
HOSTILE = (
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "line\u2028separator\u2029and <!-- comment --> ]]> {{ 7 * 7 }} {% raw %}",
    "\u202etxt.exe\u202c \x00\x07 \ud7ff \U0001f600 & &lt; \" ' `",
)
TEXT = """therefore let the sum of all roots be equal to seven and consider that each prime divides
the product hence we find by induction a contradiction which proves the claim for every n"""
WORDS = TEXT.split()


def make_report(
    root: Path, *, restricted: bool = False, missing: int = 0, **model: Any
) -> RunReport:
    """A run of four samples twice, gathered, with a wrong one; the last `missing` units have failed."""
    run = make_run(root)
    keys = run.units()
    failed = keys[len(keys) - missing :] if missing else []
    run.write(make_failure(key) for key in failed)
    run.write(
        run.answer(key, "no" if key == UnitKey(0, 1) else None) for key in keys if key not in failed
    )
    run.gather()
    return as_report(run, restricted=restricted, **model)


def as_report(run: TestRun, *, restricted: bool = False, **model: Any) -> RunReport:
    """The report's view of a gathered run."""
    task = TaskReport(
        plan=run.task,
        results=read_results(run.folder.results(run.task.name)),
        traffic=Traffic.model_validate_json(run.folder.traffic(run.task.name).read_bytes()),
        title="Echo <b>",
        is_restricted=restricted,
    )
    values = {"name": "tiny", "source": "tiny", **model}
    plan = run.plan.model_copy(update={"model": ModelIdentity(**values)})
    held = Held("r0", 1, "node1", 4, 1, START, START + 3600, "done")
    return RunReport(run.folder, plan, (task,), (held,))


def with_units(report: RunReport, n: int, letters: int = 300, task: str = "echo") -> RunReport:
    """The report's task with `n` made-up units of about so many letters, half of them right."""
    write_samples(report.folder.samples(task), make_lines(n, letters))
    found = report.tasks[0]
    assert found.results is not None
    counts = found.results.counts.model_copy(
        update={"expected": n, "scored": n, "by_outcome": {"ok": n - n // 20, "truncated": n // 20}}
    )
    results = found.results.model_copy(update={"counts": counts, "task": task})
    plan = found.plan.model_copy(update={"name": task, "n_samples": n, "repeats": 1})
    own = replace(found, plan=plan, results=results, traffic=make_traffic(n, task))
    return RunReport(report.folder, report.plan, (own,), report.attempts)


def make_lines(n: int, letters: int) -> Iterator[bytes]:
    """Lines of samples.jsonl.zst; every 500th unit, from the first on, tries to break out."""
    rng = random.Random(1)
    for i in range(n):
        text = " ".join(rng.choices(WORDS, k=letters // 6))
        if i % 500 == 0:
            text = f"{text}\n{' '.join(HOSTILE)}\n{text}"
        unit = {
            "id": f"s{i:05d}",
            "sample": i,
            "repeat": 0,
            "subset": None,
            "outcome": "truncated" if i % 20 == 7 else "ok",
            "answer": str(i),
            "target": str(i + i % 2),
            "scores": {"correct": float(i % 2 == 0)},
            "detail": None,
            "content": f"The answer is {i}. {text[: letters // 4]}",
            "data": None,
            "grading": {"verdict": "yes", "text": HOSTILE[0]} if i % 500 == 0 else None,
            "reasoning": f"{text} needle{i}",
            "tool_calls": [],
            "finish_reason": "stop",
            "usage": {
                "prompt_tokens": 20,
                "completion_tokens": letters // 4,
                "reasoning_tokens": None,
            },
            "calls": 1,
            "steps": [],
            "messages": [{"role": "user", "content": f"What is {i} + {i % 2}? {text[:60]}"}],
        }
        yield orjson.dumps(unit, option=orjson.OPT_APPEND_NEWLINE)


def make_traffic(n: int, task: str = "echo") -> Traffic:
    """Calls over an hour, with lognormal lengths."""
    rng, tally = random.Random(2), TrafficTally()
    for i in range(n):
        tokens = min(8192, int(rng.lognormvariate(6.5, 1.0)))
        timing = Timing(START + 3000 * i / n, tokens / 40)
        reply = Reply(Outcome.OK, "", usage=Usage(20, tokens))
        tally.add(CallRecord(i, 0, 0, "hash", reply, timing), truncated=tokens == 8192)
    return tally.traffic(task)
