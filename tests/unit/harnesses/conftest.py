"""Environments for harnesses that cost a second, and no network."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evalkit.benchmarks import registry
from evalkit.clock import Clock
from evalkit.harnesses.environments import HarnessPython, Manifest
from evalkit.harnesses.install import Wanted, install, wanted_harness
from tests.unit.harnesses.toy import PINS, Toy, make_wheel, spec

if TYPE_CHECKING:
    from evalkit.benchmarks.harness import EnvironmentSpec

CLOCK = Clock(wall=lambda: 0.0)
MODULE = "def main():\n    print('toys')\n"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels."""
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("1.0", "1.1"):
        make_wheel(
            folder, "toy_harness", version, {"toy_harness.py": MODULE}, "toy=toy_harness:main"
        )
    make_wheel(
        folder, "broken_harness", "1.0", {"broken_harness.py": "import nothing_of_that_name"}
    )
    framework = "framework: {name: toys}\n"
    make_wheel(folder, "nvidia_toys", "26.1", {"core_evals/toys/framework.yml": framework})
    return folder


@pytest.fixture(scope="session")
def quick_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What makes an environment in a moment, when it is called as `python -m venv FOLDER`.

    Its pip is the one of this Python: to unpack another one would take seconds.
    """
    folder = tmp_path_factory.mktemp("quick")
    (folder / "packages").mkdir()
    (folder / "packages" / "pip").symlink_to(Path(str(find_spec("pip").origin)).parent)
    script = folder / "python"
    script.write_text(
        f'#!/bin/sh\n"{sys.executable}" -m venv --without-pip "$3"\n'
        f'echo "{folder}/packages" >"$(echo "$3"/lib/python3*/site-packages)/pip.pth"\n'
    )
    script.chmod(0o755)
    return str(script)


@pytest.fixture(scope="session")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> EnvironmentSpec:
    """The toy's environment with a file of pins."""
    path = tmp_path_factory.mktemp("pins") / "toy.txt"
    path.write_text(PINS)
    return spec(path)


def configure(monkeypatch: pytest.MonkeyPatch, folder: Path, wheels: Path) -> Path:
    """Environments are in `folder`, and pip asks no index."""
    monkeypatch.setenv("EVALKIT_HARNESSES", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return folder


@pytest.fixture(scope="session")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    wheels: Path,
    pinned: EnvironmentSpec,
    quick_python: str,
) -> Path:
    """A folder of environments in which the toy is installed: to be looked at only."""
    folder = tmp_path_factory.mktemp("made") / "harnesses"
    with pytest.MonkeyPatch.context() as monkeypatch:
        configure(monkeypatch, folder, wheels)
        install(wanted_harness(pinned), quick_python, CLOCK, lambda _: None)
    return folder


@pytest.fixture
def place(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of environments of this test, empty."""
    return configure(monkeypatch, tmp_path / "harnesses", wheels)


@pytest.fixture
def installed(place: Path, made: Path) -> HarnessPython:
    """A toy of this test's own."""
    shutil.copytree(made, place, symlinks=True)
    manifest = Manifest.model_validate_json((place / "toy" / "harness.json").read_bytes())
    return HarnessPython(place / "toy" / "bin" / "python", "1.0", manifest)


@pytest.fixture
def toys(pinned: EnvironmentSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the two toys are harnesses; the toy has the pins."""
    points = tuple(
        EntryPoint(name, f"tests.unit.harnesses.toy:{cls}", registry.HARNESSES)
        for name, cls in (("toy", "Toy"), ("plain", "Plain"))
    )
    real = registry.registered
    monkeypatch.setattr(
        registry,
        "registered",
        lambda group: points if group == registry.HARNESSES else real(group),
    )
    monkeypatch.setattr(Toy, "environment", pinned)


@pytest.fixture
def own() -> HarnessPython:
    """evalkit's own Python."""
    return HarnessPython(Path(sys.executable), "0")


def wanted(requirement: str, module: str | None = "toy_harness") -> Wanted:
    """The toy from one requirement."""
    return Wanted("toy", requirement, (requirement,), requirement.partition("==")[0], module)
