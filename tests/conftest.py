"""Rules for all tests: the same examples every time in CI, and there no test may be skipped.

With several processes (`-n 3`), tests that need the one Slurm run in one of them, tests that need the
one vLLM in one of them, and those of a file stay together; the longest of these begin first.

A skipped test proves nothing and looks like a passed one. With EVALKIT_CI=1, which `.ci/run` sets, a
skip is reported as a failure with its reason, whether a test asked for it or a whole module.
"""

from __future__ import annotations

import os
import signal
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

IN_CI = os.environ.get("EVALKIT_CI") == "1"

# A shell that has us in its background lets us ignore these, and what a test starts would inherit that.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# Runs of tests are no runs of the person who tests.
os.environ["EVALKIT_REGISTRY"] = "off"

# Speed is not what property tests are about, and a busy machine is not a failure.
settings.register_profile(
    "evalkit", deadline=None, derandomize=IN_CI, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("evalkit")


SLURM = "tests/slurm"
VLLM = "vllm_server"


@cache
def _group(path: Path) -> str:
    """What must run in one process."""
    if path.parent.name == "slurm":
        return SLURM
    return VLLM if VLLM in path.read_text(encoding="utf-8") else str(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of Slurm and vLLM in front."""
    order = {SLURM: 0, VLLM: 1}
    items.sort(key=lambda item: order.get(_group(item.path), len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands tests out by group. (xdist's own groups are not seen by every pytest.)"""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(config.rootpath / nodeid.split("::")[0])

    return GroupScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test becomes a failed one; an expected failure stays what it is."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as a failure in CI: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself while it is imported becomes one that cannot be collected."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as a failure in CI: {report.longrepr}"
    return report
