"""Hosted endpoints with limits: nothing is lost, and hardly anything is asked in vain."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tests.faults.harness import N_CALLS, REPOSITORY, TASKS, Place, free_port, serving, wait_for
from tests.faults.rate_proxy import STYLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder for one run."""
    return Place(tmp_path)


@contextmanager
def limited(upstream: str, *options: str) -> Iterator[str]:
    """Root URL of a proxy with limits in front of `upstream`."""
    port = free_port()
    argv = [sys.executable, "-m", "tests.faults.rate_proxy", "--port", str(port)]
    with subprocess.Popen([*argv, "--upstream", upstream, *options], cwd=REPOSITORY) as proxy:
        try:
            root = f"http://127.0.0.1:{port}"
            wait_for(lambda: ledger(root) is not None, proxy)
            yield root
        finally:
            proxy.kill()


def ledger(root: str) -> dict[str, Any] | None:
    """What a proxy let through and refused; null while it is not up."""
    try:
        with urllib.request.urlopen(f"{root}/_ledger") as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError:
        return None


def results(place: Place, task: str) -> dict[str, Any]:
    """A task's results.json."""
    found: dict[str, Any] = orjson.loads(place.folder.results(task).read_bytes())
    return found


def test_a_limit_costs_no_unit_and_few_calls(place: Place) -> None:
    """Requests and tokens are limited, refusals speak as five providers do: every call is answered, each
    once, most tries are let through, and the run says what it cost."""
    styles = ",".join(style for style in STYLES if style != "date")
    limits = ("--requests-per-s", "40", "--burst", "20", "--tokens-per-s", "4000")
    with serving() as server, limited(server.base_url[:-3], *limits, "--styles", styles) as root:
        price = {"input": 1_000_000, "output": 0}
        recipe = place.write_recipe(
            {"kind": "external", "base_url": f"{root}/v1", "price": price},
            client={"parallelism": 64},
        )
        place.evalkit("run", recipe)
        told, counts = ledger(root), server.counts()
    assert told is not None
    assert len(told["accepted"]) == N_CALLS + 1, "one is the preflight"
    assert max(counts["answered_by_hash"].values()) <= 2, "of a preflight and its unit"
    assert 0 < len(told["refused"]) < len(told["accepted"]) / 3
    for task in TASKS:
        found = results(place, task)
        assert found["complete"]
        assert found["cost"]["value"] == found["tokens"]["prompt"]["total"]
        assert found["cost"]["uncounted"] == 0
    spent = sum(results(place, task)["cost"]["value"] for task in TASKS)
    status = orjson.loads(place.evalkit("status", str(place.folder.root), "--json"))
    assert status[0]["usage"]["cost"] == pytest.approx(spent)
