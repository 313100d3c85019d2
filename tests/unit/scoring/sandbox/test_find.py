"""Which sandbox is chosen, and what is said where there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evalkit.errors import FailureKind, ScorerError
from evalkit.scoring.sandbox import find_sandbox
from evalkit.scoring.sandbox.backends import Apptainer, Bubblewrap, Namespaces, safe_backends
from evalkit.scoring.sandbox.view import SYSTEM, image_view, outermost

NOTHING_WORKS = "evalkit.scoring.sandbox.find._say_hello"


def test_backends_in_order(tmp_path: Path) -> None:
    """bubblewrap from the PATH, then our own namespaces; with an image Apptainer and nothing else."""
    (tmp_path / "bwrap").touch(mode=0o755)
    (tmp_path / "apptainer").touch(mode=0o755)
    env = {"PATH": str(tmp_path)}
    assert safe_backends(env, None) == [Bubblewrap(f"{tmp_path}/bwrap"), Namespaces()]
    assert safe_backends(env, Path("/i.sif")) == [Apptainer(f"{tmp_path}/apptainer", "/i.sif")]


@pytest.mark.parametrize("unsafe", [False, True])
def test_error_is_the_manual(monkeypatch: pytest.MonkeyPatch, unsafe: bool) -> None:
    """It says of each backend why it does not work and what to do, and what the last resort is."""
    monkeypatch.setattr(NOTHING_WORKS, lambda sandbox: f"{sandbox.name} is broken")
    with pytest.raises(ScorerError) as caught:
        find_sandbox({}, unsafe=unsafe)
    assert caught.value.kind is FailureKind.CONFIG
    lines = caught.value.message.splitlines()
    assert lines[:3] == [
        "no sandbox for model-written code works on this machine:",
        "  bwrap: bwrap is broken; then bwrap (single) is broken",
        "  namespaces: namespaces is broken; then namespaces (single) is broken",
    ]
    assert lines[3:] == (["  unsafe: unsafe is broken"] if unsafe else [])
    hint = caught.value.hint or ""
    assert re.findall(r"^\w+(?=: )", hint, re.MULTILINE) == ["bwrap", "namespaces", "unsafe"]
    for words in ("apt-get install bubblewrap", "user.max_user_namespaces", "`unsafe: true`"):
        assert words in hint


def test_unsafe_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the recipe says so, and only where nothing else works."""
    monkeypatch.setattr(NOTHING_WORKS, lambda sandbox: None if sandbox.mode == "unsafe" else "no")
    assert find_sandbox({}, unsafe=True).name == "unsafe"
    with pytest.raises(ScorerError):
        find_sandbox({})
    monkeypatch.setattr(NOTHING_WORKS, lambda sandbox: None)
    assert find_sandbox({}, unsafe=True).name == "bwrap"


def test_single_mode_is_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where namespaces cannot be nested, each program gets a sandbox of its own."""
    monkeypatch.setattr(NOTHING_WORKS, lambda sandbox: None if sandbox.mode == "single" else "no")
    assert find_sandbox({}).name == "bwrap (single)"


def test_outermost() -> None:
    """A folder within another one is shown with it, a neighbour with a longer name is not."""
    paths = map(Path, ["/opt/python/lib", "/opt/python", "/opt/python3", "/a/b/c", "/opt/python"])
    assert outermost(paths) == [Path("/a/b/c"), Path("/opt/python"), Path("/opt/python3")]


def test_system_shows_nothing_private() -> None:
    """None of the fixed paths is a home, holds accounts, or is the whole of /etc."""
    assert all(not path.startswith(("/home", "/root", "/var", "/run")) for path in SYSTEM)
    assert "/etc" not in SYSTEM


def test_image_view(tmp_path: Path) -> None:
    """With an image only the caller's paths and our own code are bound."""
    view = image_view(Path("/usr/bin/python3"), [tmp_path])
    assert [target for _, target in view.binds] == [str(tmp_path), "/evalkit/inside"]
    assert view.links == ()
