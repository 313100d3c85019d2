"""Harnesses on the command line: what there is, what they offer, and their environments."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from evalkit.benchmarks import registry
from evalkit.cli import harness as harness_command
from evalkit.errors import EvalkitError
from evalkit.harnesses import install as install_module
from evalkit.harnesses.environments import Manifest, find_python
from tests.unit.harnesses.toy import PINS, Toy, spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.clock import Clock
    from evalkit.harnesses.install import Wanted
    from tests.unit.cli.conftest import Shell

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three harnesses: one with tasks and an environment, one with neither, one that is broken."""
    modules = {"toy": "tests.unit.harnesses.toy:Toy", "plain": "tests.unit.harnesses.toy:Plain"}
    modules["broken"] = "nothing_of_that_name:Broken"
    points = tuple(EntryPoint(n, value, registry.HARNESSES) for n, value in modules.items())

    real = registry.registered

    def found(group: str) -> Any:
        return points if group == registry.HARNESSES else real(group)

    pins = tmp_path / "toy.txt"
    pins.write_text(PINS)
    monkeypatch.setattr(registry, "registered", found)
    monkeypatch.setattr(Toy, "environment", spec(pins))
    monkeypatch.setenv("EVALKIT_HARNESSES", str(tmp_path / "harnesses"))


def listed(shell: Shell, *arguments: str) -> list[dict[str, Any]]:
    """A listing."""
    found: list[dict[str, Any]] = orjson.loads(shell("ls", *arguments, "--json").out)
    return found


def test_harnesses(shell: Shell) -> None:
    """Each with what to type where it is not installed; a broken plug-in hides no other one."""
    rows = {row["harness"]: row for row in listed(shell, "harnesses")}
    assert rows["toy"] == {
        "harness": "toy",
        "installed": False,
        "version": None,
        "where": "not installed: evalkit harness install toy",
        "about": "Toys, and nothing else.",
    }
    assert (rows["plain"]["installed"], rows["plain"]["where"]) == (True, "needs none")
    assert rows["broken"]["where"].startswith(
        "broken: harness 'broken' (nothing_of_that_name:Broken)"
    )
    assert shell("harness", "list").out == shell("ls", "harnesses").out
    assert "not installed: evalkit harness install toy" in shell("ls", "harnesses").out


def test_tasks(shell: Shell) -> None:
    """All of a harness, or those with all of some texts in their name or description."""
    assert listed(shell, "tasks", "--harness", "toy") == [
        {
            "task": "toy/hello_swag",
            "kind": "generate_until",
            "defaults": {"shots": 3},
            "description": "What comes next?",
        },
        {"task": "toy/sums", "kind": "chat", "defaults": {}, "description": "Sums of two numbers."},
    ]
    [row] = listed(shell, "tasks", "--harness", "toy", "NUMBERS", "sum")
    assert row["task"] == "toy/sums"
    shown = shell("ls", "tasks", "--harness", "toy", "swag")
    assert "toy/hello_swag   generate_until   shots 3    What comes next?" in shown.out
    assert shown.err == "1 task; all about one: evalkit ls task toy/TASK\n"
    assert [row["task"] for row in listed(shell, "tasks", "--harness", "plain")] == ["plain"] * 2
    said = shell("ls", "tasks", "--harness", "toy", "xyz", "sums")
    assert said.code == 2
    assert "no task with 'xyz' and 'sums' in its name" in said.err
    assert "`evalkit ls tasks --harness NAME`" in shell("ls", "tasks").err


def test_one_task(shell: Shell, tmp_path: Path) -> None:
    """What the harness says of it, and the parameters that are left to set."""
    found = orjson.loads(shell("ls", "task", "toy/sums", "--json").out)
    assert found["description"] == "Sums of two numbers."
    assert found["version"] is None
    assert found["params"] == {
        "shots": {"default": "3", "meaning": "Examples before the question."}
    }
    assert "Examples before the question. (default: 3)" in shell("ls", "task", "toy/sums").out
    plain = orjson.loads(shell("ls", "task", "plain", "--json").out)
    assert plain["params"]["task"]["default"] == "must be given"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("ls task toy/hellaswag", "no task 'hellaswag'. Did you mean hello_swag?"),
        ("ls task toy", "the harness toy has many tasks, and none is named"),
        ("ls task plain/x", "the harness plain has no tasks of its own"),
        ("ls task toi/sums", "unknown harness 'toi'. Did you mean 'toy'?"),
        ("ls tasks --harness toi", "unknown harness 'toi'. Did you mean 'toy'?"),
        ("ls runs --harness toy", "--harness has no effect with ls runs"),
        ("ls tasks sums", "ls tasks takes no name"),
        ("harness install", "takes the name of a harness, or --wheel"),
        ("harness install toy --wheel a==1", "takes the name of a harness, or --wheel"),
        ("harness install toi", "no harness 'toi' is to be installed. Did you mean 'toy'?"),
        ("harness install plain", "the harness plain needs no environment"),
        ("harness install --wheel toy==1", "toy is a harness of evalkit, with pinned versions"),
        ("harness install --wheel toys", "expected NAME==VERSION"),
        ("harness remove toy", "no environment 'toy' is installed."),
        ("harness remove ../x", "no environment '../x' is installed."),
    ],
)
def test_what_cannot_be_meant(shell: Shell, command: str, message: str) -> None:
    """Said in one line, with what is near; nothing is written."""
    before = shell.files()
    said = shell(*command.split())
    assert said.code == 2
    assert message in said.err
    assert shell.files() == before


def test_install_a_broken_plugin(shell: Shell) -> None:
    """What is wrong with it is said, and not that there is none."""
    said = shell("harness", "install", "broken")
    assert (said.code, "cannot be imported" in said.err) == (4, True)


def test_install_and_remove(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once, and again where that is asked for or where it is broken; then removed."""
    made = []

    def install(wanted: Wanted, python: str, clock: Clock, tell: Callable[[str], None]) -> Manifest:
        folder = tmp_path / "harnesses" / "toy"
        site = folder / "lib" / "python3.11" / "site-packages" / "toy_harness-1.0.dist-info"
        site.mkdir(parents=True, exist_ok=True)
        (site / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_harness\nVersion: 1.0\n")
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / "python").unlink(missing_ok=True)
        (folder / "bin" / "python").symlink_to(sys.executable)
        manifest = Manifest(
            name="toy",
            requirement=wanted.requirement,
            package="toy_harness",
            version="1.0",
            versions={"toy-harness": "1.0"},
            python="3.11.7",
            installed="now",
        )
        (folder / "harness.json").write_text(manifest.model_dump_json())
        tell("pip says something")
        made.append(python)
        return manifest

    monkeypatch.setattr(harness_command, "install", install)
    assert "installed toy 1.0" in shell("harness", "install", "toy", "--python", "py").err
    assert "toy 1.0 is installed in" in shell("harness", "install", "toy").err
    assert made == ["py"]
    assert shell("harness", "install", "toy", "--python", sys.executable).code == 0
    copied = tmp_path / "harnesses" / "toy" / "bin" / "python"
    copied.unlink()
    copied.write_text("a copy, as of `venv --copies`")
    base = Path(sys.executable).resolve()
    (copied.parent.parent / "pyvenv.cfg").write_text(f"home = {base.parent}\nexecutable = {base}\n")
    assert shell("harness", "install", "toy", "--python", sys.executable).code == 0
    said = shell("harness", "install", "toy", "--python", "/bin/sh")
    assert (said.code, made) == (2, ["py"])
    assert "--python /bin/sh: toy is installed already, with " in said.err
    assert "evalkit harness install toy --python /bin/sh --force" in said.err
    shell("harness", "install", "toy", "--force", "--python", "other")
    assert made == ["py", "other"]
    [row] = [row for row in listed(shell, "harnesses") if row["harness"] == "toy"]
    assert (row["version"], row["where"]) == ("1.0", str(tmp_path / "harnesses" / "toy"))
    (tmp_path / "harnesses" / "toy" / "bin" / "python").unlink()
    [row] = [row for row in listed(shell, "harnesses") if row["harness"] == "toy"]
    assert "has no Python on this machine" in row["where"]
    shell("harness", "install", "toy", "--python", "third")
    assert made[-1] == "third"
    (tmp_path / "harnesses" / ".toy.abc").mkdir()
    assert shell("harness", "remove", "toy").err.count("removed ") == 2
    with pytest.raises(EvalkitError, match="not installed"):
        find_python(Toy.environment)
    assert install_module.leftovers() == []


def test_doctor(shell: Shell, tmp_path: Path) -> None:
    """A broken environment is bad, a missing one is not; what interrupted installations left is named."""
    (tmp_path / "harnesses" / "gone").mkdir(parents=True)
    (tmp_path / "harnesses" / ".toy.abc").mkdir()
    said = shell("doctor", "--json")
    found = {each["name"]: each for each in orjson.loads(said.out)}
    assert said.code == 1
    assert found["harness toy"]["state"] == "note"
    assert found["harness plain"]["state"] == "ok"
    assert found["harness broken"]["state"] == "bad"
    assert found["harness gone"]["state"] == "bad"
    assert found["harness gone"]["text"].endswith("Remove it: evalkit harness remove gone")
    assert str(tmp_path / "harnesses" / ".toy.abc") in found["harness leftovers"]["text"]
