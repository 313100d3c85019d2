"""Environments are made whole or not at all, from what was asked for."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from evalkit.errors import PlanError, UsageError
from evalkit.harnesses.call import call
from evalkit.harnesses.env import install_environment
from evalkit.harnesses.environments import find_python, wheel_manifests
from evalkit.harnesses.install import install, leftovers, remove, wanted_wheel
from evalkit.serving.tree import find_processes
from tests.unit.harnesses.conftest import CLOCK, wanted

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.benchmarks.harness import EnvironmentSpec
    from evalkit.harnesses.environments import HarnessPython


def test_what_is_made(made: Path, pinned: EnvironmentSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found, says what is in it, its commands run in their place, and nothing lies beside it but a log."""
    monkeypatch.setenv("EVALKIT_HARNESSES", str(made))
    found = find_python(pinned)
    assert (found.folder, found.path) == (made / "toy", made / "toy" / "bin" / "python")
    assert found.manifest is not None
    assert found.manifest.model_dump(exclude={"python"}) == {
        "name": "toy",
        "requirement": "toy.txt",
        "package": "toy_harness",
        "version": "1.0",
        "versions": {"toy-harness": "1.0"},
        "installed": "1970-01-01T00:00:00+00:00",
        "frameworks": {},
        "is_wheel": False,
    }
    said = subprocess.run([made / "toy" / "bin" / "toy"], capture_output=True, check=True)
    assert said.stdout == b"toys\n"
    assert sorted(path.name for path in made.iterdir()) == ["toy", "toy.install.log"]
    assert "Successfully installed toy-harness-1.0" in (made / "toy.install.log").read_text()
    assert (made / "toy").stat().st_mode & 0o777 == 0o755, "others may use it"


def test_its_python_has_its_packages_alone(installed: HarnessPython) -> None:
    """A script in there finds the harness and nothing of evalkit."""
    for module, there in (("toy_harness", True), ("evalkit", False)):
        assert call(installed, "look.py", {"module": module})["has_module"] is there


@pytest.mark.parametrize(
    ("requirement", "module", "message"),
    [
        ("toy_harness==9", "toy_harness", "No matching distribution found for toy_harness==9"),
        ("broken_harness==1.0", "broken_harness", "No module named 'nothing_of_that_name'"),
    ],
)
def test_what_cannot_be_made(
    installed: HarnessPython,
    pinned: EnvironmentSpec,
    place: Path,
    quick_python: str,
    requirement: str,
    module: str,
    message: str,
) -> None:
    """The error has pip's or Python's own words and names the log; what was there before stays."""
    with pytest.raises(PlanError) as caught:
        install(wanted(requirement, module), quick_python, CLOCK, lambda _: None)
    assert message in caught.value.message or message in (place / "toy.install.log").read_text()
    assert str(place / "toy.install.log") in str(caught.value.hint)
    assert find_python(pinned) == installed
    assert leftovers() == []


def test_no_python_to_make_it_with(place: Path) -> None:
    """Named, with nothing left behind."""
    with pytest.raises(PlanError, match="/no/python: No such file or directory"):
        install(wanted("toy_harness==1.0"), "/no/python", CLOCK, lambda _: None)
    assert leftovers() == []


def test_interrupted(place: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle ends pip and its children, and leaves no half environment."""
    script = tmp_path / "slow"
    script.write_text('#!/bin/sh\nmkdir -p "$3/bin"\nsleep 1000 &\necho half $!\nwait\n')
    script.chmod(0o755)
    child = []

    def interrupt(line: str) -> None:
        child.append(int(line.removeprefix("half ")))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install(wanted("toy_harness==1.0"), str(script), CLOCK, interrupt)
    assert child[0] not in find_processes()
    assert [path.name for path in place.iterdir()] == ["toy.install.log"]


def test_replaced(installed: HarnessPython, place: Path, quick_python: str, tmp_path: Path) -> None:
    """Another version takes the place of the first one, whole."""
    install(wanted("toy_harness==1.1"), quick_python, CLOCK, lambda _: None)
    assert call(installed, "look.py", {"module": None})["versions"]["toy-harness"] == "1.1"
    assert leftovers() == []


def test_wheel_of_nvidia(place: Path, quick_python: str) -> None:
    """Any wheel with a framework.yml: named like it, with the path of that file."""
    manifest = install(wanted_wheel("nvidia_toys == 26.1"), quick_python, CLOCK, lambda _: None)
    assert wheel_manifests() == [manifest]
    assert (manifest.name, manifest.version, manifest.is_wheel) == ("nvidia-toys", "26.1", True)
    path = place / "nvidia-toys" / manifest.frameworks["toys"]
    assert path.read_text() == "framework: {name: toys}\n"
    assert remove("nvidia-toys") == [place / "nvidia-toys", place / "nvidia-toys.install.log"]
    assert list(place.iterdir()) == []


def test_wheel_that_is_no_harness(place: Path, wheels: Path, quick_python: str) -> None:
    """It says so, and nothing stays."""
    file = wheels / "toy_harness-1.1-py3-none-any.whl"
    with pytest.raises(PlanError, match=r"toy-harness 1\.1 has no core_evals"):
        install(wanted_wheel(str(file)), quick_python, CLOCK, lambda _: None)
    assert [path.name for path in place.iterdir()] == ["toy-harness.install.log"]


@pytest.mark.parametrize(
    "text", ["nvidia-toys", "nvidia-toys>=1", "--index-url=x", "a==1 b==2", ""]
)
def test_wheel_without_a_version(text: str) -> None:
    """The version decides the numbers; and no option reaches pip this way."""
    with pytest.raises(UsageError, match="expected NAME==VERSION"):
        wanted_wheel(text)


def test_wheel_file_that_is_not_there() -> None:
    """Said at once."""
    with pytest.raises(UsageError, match="there is no such file"):
        wanted_wheel("/nowhere/nvidia_toys-26.1-py3-none-any.whl")


def test_what_interrupted_installations_left(place: Path) -> None:
    """A killed installation leaves a hidden folder: it is no environment, and removing the harness takes it."""
    (place / ".toy.abc" / "environment").mkdir(parents=True)
    assert leftovers() == leftovers("toy") == [place / ".toy.abc"]
    assert leftovers("other") == []
    assert remove("toy") == [place / ".toy.abc"]


def test_what_pip_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's configuration, but nothing that would install elsewhere or bring packages of others."""
    for name in ("PIP_INDEX_URL", "PIP_TARGET", "PYTHONPATH"):
        monkeypatch.setenv(name, "x")
    env = install_environment()
    assert env["PIP_INDEX_URL"] == "x"
    assert not {"PIP_TARGET", "PYTHONPATH"} & set(env)
