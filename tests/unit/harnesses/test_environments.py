"""The Python of a harness: found where it is whole and as pinned, else what to type is said."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evalkit.errors import PlanError
from evalkit.harnesses.environments import (
    REQUIREMENTS,
    find_python,
    installed_names,
    look_at,
    read_pins,
    wheel_manifests,
)
from evalkit.harnesses.examine import examine, examine_wheel
from tests.unit.harnesses.toy import spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.benchmarks.harness import EnvironmentSpec
    from evalkit.harnesses.environments import HarnessPython


def test_not_installed(place: Path, pinned: EnvironmentSpec) -> None:
    """What to type, where it goes, and how another place is named."""
    with pytest.raises(PlanError) as caught:
        find_python(pinned)
    assert str(caught.value) == (
        "the harness toy is not installed\nType: evalkit harness install toy\n"
        f"It goes to {place}/toy; EVALKIT_HARNESSES names another folder, for Slurm one that all nodes share."
    )
    assert look_at("toy", pinned) is None
    assert installed_names() == []
    assert examine(pinned).state == "note"


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below evalkit's own Python, unless the variable says something."""
    monkeypatch.setenv("EVALKIT_HARNESSES", "")
    with pytest.raises(PlanError, match="not installed") as caught:
        find_python(spec("inspect.txt", name="none", module="nothing_of_that_name"))
    assert f"{sys.prefix}/share/evalkit/harnesses/none" in str(caught.value.hint)


def test_in_our_own_python(place: Path, tmp_path: Path) -> None:
    """A package beside evalkit does, in the pinned version only; the extra is named where there is one."""
    pins, here = tmp_path / "pins.txt", version("pydantic")
    ours = spec(pins, package="pydantic", module="pydantic.main", extra="toys")
    pins.write_text(f"pydantic=={here}\n")
    found = find_python(ours)
    assert (found.path, found.version, found.folder) == (Path(sys.executable), here, None)
    assert examine(ours).state == "ok"
    pins.write_text("Pydantic[email]==0.1  # other\n")
    with pytest.raises(PlanError) as caught:
        find_python(ours)
    assert f"evalkit's own Python has pydantic {here}, wanted is 0.1" in caught.value.message
    assert "pip install 'evalkit[toys]'" in str(caught.value.hint)
    with pytest.raises(PlanError, match=r"is not installed\n"):
        find_python(spec(pins, package="nothing-of-that-name", module="pydantic"))


def half(folder: Path) -> None:
    """Somebody copied a part of it."""
    (folder / "harness.json").unlink()


def torn(folder: Path) -> None:
    """Its description is cut off."""
    (folder / "harness.json").write_text('{"name": "toy"')


def headless(folder: Path) -> None:
    """The Python that it was made with is not on this machine."""
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/no/such/python")


def emptied(folder: Path) -> None:
    """Its packages are gone."""
    for path in folder.glob("lib/python3*/site-packages/toy_harness*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def upgraded(folder: Path) -> None:
    """Somebody installed another version into it."""
    [info] = folder.glob("lib/python3*/site-packages/toy_harness-1.0.dist-info")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_harness\nVersion: 1.1\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (half, "is not whole: harness.json: No such file or directory"),
        (torn, "is not whole: harness.json is not valid: Invalid JSON"),
        (headless, "has no Python on this machine: /no/such/python is not there"),
        (emptied, "has toy_harness no more, installed was 1.0"),
        (upgraded, "has toy_harness 1.1, installed was 1.0"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged(
    installed: HarnessPython,
    pinned: EnvironmentSpec,
    place: Path,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    """What is wrong with an environment is said, with what makes it anew; it is never used."""
    damage(place / "toy")
    with pytest.raises(PlanError) as caught:
        find_python(pinned)
    assert f"the environment of the harness toy in {place}/toy {message}" in caught.value.message
    assert caught.value.hint == "Make it anew: evalkit harness install toy"
    assert examine(pinned)[0] == "bad"
    assert examine_wheel("toy")[0] == "bad"
    assert installed_names() == ["toy"]
    assert wheel_manifests() == []


def test_other_pins(installed: HarnessPython, tmp_path: Path) -> None:
    """An environment that another evalkit made has other versions: the harness's own is named first."""
    pins = tmp_path / "pins.txt"
    pins.write_text("a==1\nb==2\nc==3\ntoy_harness==1.1\n")
    with pytest.raises(PlanError) as caught:
        find_python(spec(pins))
    assert (
        "has toy-harness 1.0, wanted is 1.1; a (none), wanted is 1; b (none), wanted is 2 and 1 more"
        in caught.value.message
    )


def test_a_close_look(installed: HarnessPython, pinned: EnvironmentSpec, place: Path) -> None:
    """doctor runs the Python: a package that is missing in it, and a Python that does not run, are found."""
    assert examine(pinned) == ("ok", f"1.0 in {place}/toy")
    assert examine_wheel("toy").state == "note", "no harness asks for it"
    manifest = place / "toy" / "harness.json"
    more = '"versions": {\n    "more": "2.0",'
    manifest.write_text(manifest.read_text().replace('"versions": {', more))
    assert "has more (none), installed was 2.0. Make it anew: " in examine(pinned).text
    assert "has no module toys. Make it anew: evalkit harness install toy --force" in (
        examine(spec(pinned.requirements, module="toys")).text
    )
    python = place / "toy" / "bin" / "python"
    python.unlink()
    python.write_text("#!/bin/sh\necho no library >&2\nexit 127\n")
    python.chmod(0o755)
    state, text = examine(pinned)
    assert state == "bad"
    assert "look.py failed (exit code 127): no library" in text


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.glob("*.txt")), ids=lambda path: path.stem)
def test_shipped_pins(path: Path) -> None:
    """Every line is a comment that tells how the file was made, or one exact version, each package once."""
    lines = path.read_text("utf-8").splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert "pip freeze" in " ".join(comments)
    assert len(read_pins(path.name)) == len(lines) - len(comments) > 20
