"""A running sandbox of each kind, and what must be true after every program in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from evalkit.scoring.sandbox import Ending, Program, Sandbox, SandboxPool
from tests.integration.sandbox.sandboxes import CHOICES, LONG, make_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "a-key-that-nobody-may-see"
GONE_S = 100


PARAMS = [pytest.param(x, marks=[pytest.mark.long] if x in LONG else []) for x in CHOICES]


@pytest.fixture(scope="session", params=PARAMS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Each backend, mode and user in turn, with a secret in the environment it is started from."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    os.environ["EVALKIT_TEST_SECRET"] = SECRET
    yield make_sandbox(request.param, folder)
    del os.environ["EVALKIT_TEST_SECRET"]
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def warm_pool(sandbox: Sandbox) -> Iterator[SandboxPool]:
    """One pool for all tests of a sandbox: what a program leaves behind, the next test meets."""
    with SandboxPool(sandbox, workers=2) as running:
        yield running


@pytest.fixture
def pool(warm_pool: SandboxPool) -> Iterator[SandboxPool]:
    """The warm pool; afterwards the sandbox works, and no process of the test is left."""
    before = set(psutil.Process().children(recursive=True))
    yield warm_pool
    after = warm_pool.run_one(Program(source="print(6 * 7)"))
    assert (after.ended, after.stdout) == (Ending.OK, b"42\n")
    expect_gone(before)


def kill_all(processes: set[psutil.Process]) -> None:
    """One may be gone by the death of another."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=GONE_S)


def expect_gone(before: set[psutil.Process]) -> None:
    """Every child process that was not there before ends soon."""
    new = set(psutil.Process().children(recursive=True)) - before
    _, alive = psutil.wait_procs(new, timeout=GONE_S)
    assert alive == []
