"""What must hold after a campaign, whatever was done to the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from tests.faults.harness import bodies_of, differing, journaled_calls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evalkit.store.layout import RunFolder

INCIDENTAL = ("duplicates", "retries", "continued")
"""Counts that say what a run went through."""
SETTINGS = ("params", "generation", "prompts", "requests_sha256", "profile")


def artifacts(folder: RunFolder, tasks: Iterable[str]) -> dict[str, Any]:
    """What two runs of one recipe must agree in: samples and metrics to the byte, results parsed."""
    found: dict[str, Any] = {}
    for task in tasks:
        found[f"{task}/samples"] = folder.samples(task).read_bytes()
        found[f"{task}/metrics"] = folder.metrics(task).read_bytes()
        results = orjson.loads(folder.results(task).read_bytes())
        counts = {k: v for k, v in results["counts"].items() if k not in INCIDENTAL}
        tokens = {k: v for k, v in results["tokens"].items() if k != "saved"}
        settings = {k: results["settings"][k] for k in SETTINGS}
        kept = ("complete", "headline", "metrics", "statistics", "totals", "subsets", "missing")
        found[f"{task}/results"] = {
            **{key: results[key] for key in kept},
            "counts": counts,
            "tokens": tokens,
            "settings": settings,
        }
    return found


def check_artifacts(folder: RunFolder, tasks: Iterable[str], undisturbed: dict[str, Any]) -> None:
    """Unit set, outcomes, scores and samples are those of the undisturbed run."""
    found = differing(artifacts(folder, tasks), undisturbed)
    assert found == {}, f"artifacts differ: {str(found)[:2000]}"


def counts(folder: RunFolder, tasks: Iterable[str]) -> dict[str, int]:
    """What the run says it went through, over all tasks."""
    total: dict[str, int] = dict.fromkeys((*INCIDENTAL, "saved", "empty"), 0)
    for task in tasks:
        results = orjson.loads(folder.results(task).read_bytes())
        for name in INCIDENTAL:
            total[name] += results["counts"][name]
        total["saved"] += results["tokens"]["saved"]
        total["empty"] += results["counts"]["by_outcome"].get("empty", 0)
    return total


def needed_tokens(folder: RunFolder) -> int:
    """Tokens of the finished calls, each counted once."""
    calls = {
        (task, call.sample, call.repeat, call.call): call.reply.usage.completion_tokens or 0
        for task, found in journaled_calls(folder).items()
        for call in found
    }
    return sum(calls.values())


def finished_calls(folder: RunFolder) -> frozenset[str]:
    """Hashes of the calls that are in journals now."""
    found = journaled_calls(folder).values()
    return frozenset(call.request for calls in found for call in calls)


def known_bodies(folder: RunFolder) -> dict[str, str]:
    """Hash at the server of each call of a finished run, by its hash in the journal."""
    return bodies_of(folder)


def leftovers(folder: RunFolder) -> list[str]:
    """Files that nobody cleaned up: leases, temporary files.

    A lease beside its shard's done marker holds nobody up: its holder was killed between the two, or
    those who finished the shard did not ask for one (split brain).
    """
    leases = [p for p in folder.leases.rglob("*.lock") if not p.with_suffix(".done").exists()]
    temporary = [path for path in folder.root.rglob(".*") if path.is_file()]
    return sorted(map(str, leases + temporary))
