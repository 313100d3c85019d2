"""Rules for all tests: the same examples every time in CI, and there no test may be skipped.

A skipped test proves nothing and looks like a passed one. With EVALKIT_CI=1, which `.ci/run` sets, a
skip is reported as a failure with its reason, whether a test asked for it or a whole module.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator

IN_CI = os.environ.get("EVALKIT_CI") == "1"

# Speed is not what property tests are about, and a busy machine is not a failure.
settings.register_profile(
    "evalkit", deadline=None, derandomize=IN_CI, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("evalkit")


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
