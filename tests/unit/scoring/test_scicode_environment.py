"""What SciCode's programs need: another Python is refused with what to type, another file by its hash."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evalkit.errors import FailureKind, ScorerError
from evalkit.scoring import scicode_environment as environment
from evalkit.scoring.scicode_environment import (
    PYTHON,
    REQUIREMENTS,
    require_interpreter,
    require_test_data,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT = b"targets"


def write_python(path: Path, **versions: str | None) -> Path:
    """A Python that says it has these packages."""
    have: Mapping[str, str | None] = {
        "numpy": "1.26.4",
        "scipy": "1.10.1",
        "h5py": "3.16.0",
        "sympy": "1.14.0",
        "matplotlib": "3.11.2",
        **versions,
    }
    path.write_text(f"#!{sys.executable}\nimport json\nprint(json.dumps({have!r}))\n")
    path.chmod(0o755)
    return path


def test_the_installed_python_will_do() -> None:
    """`scripts/setup_env --extras scicode` made it, beside evalkit's own."""
    assert require_interpreter(PYTHON) == PYTHON
    assert PYTHON.is_relative_to(sys.prefix)


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"numpy": "2.0.0"}, "has numpy 2.0.0"),
        ({"scipy": "1.14.0rc1"}, "has scipy 1.14.0rc1"),
        ({"scipy": "2"}, "has scipy 2"),
        ({"h5py": None, "sympy": None}, "has no h5py, no sympy"),
    ],
)
def test_another_python_is_refused(
    versions: dict[str, str | None], words: str, tmp_path: Path
) -> None:
    """With what it has and what to type; the last versions that do are accepted."""
    with pytest.raises(ScorerError, match=words) as caught:
        require_interpreter(write_python(tmp_path / "python", **versions))
    assert f"--require-hashes -r {REQUIREMENTS}" in str(caught.value)
    assert caught.value.kind is FailureKind.CONFIG
    fine = write_python(tmp_path / "fine", numpy="1.99", scipy="1.13.1")
    assert require_interpreter(fine) == fine


def test_a_python_that_is_not_there_or_does_not_run(tmp_path: Path) -> None:
    """Two sentences, the first with the command that makes it."""
    with pytest.raises(ScorerError, match="there is no Python") as caught:
        require_interpreter(tmp_path / "none")
    assert f"-m venv {environment.FOLDER}" in str(caught.value)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/false\n")
    broken.chmod(0o755)
    with pytest.raises(ScorerError, match="broken does not run: exit code 1"):
        require_interpreter(broken)


def test_requirements_are_pinned_below_what_is_too_new() -> None:
    """Every package has one version per Python and checksums; those of numpy and scipy are old enough."""
    text = REQUIREMENTS.read_text()
    pins = re.findall(r"^(\S+)==(\S+)", text, re.MULTILINE)
    assert {"numpy", "scipy", "h5py", "sympy", "matplotlib"} <= {name for name, _ in pins}
    for name, version in pins:
        if name in environment._TOO_NEW:
            assert environment._release(version) < environment._TOO_NEW[name]
    assert text.count("--hash=sha256:") >= 2 * len(pins)


@pytest.fixture
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file, taken for the real one."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setattr(environment, "TEST_DATA_SHA256", digest)
    path = tmp_path / "test_data.h5"
    path.write_bytes(CONTENT)
    return path


def test_targets_are_read_once(targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte is hashed once per process, and again when the file changes."""
    read: list[Path] = []
    original = Path.open

    def opened(path: Path, mode: str = "r") -> object:
        read.append(path)
        return original(path, mode)

    monkeypatch.setattr(Path, "open", opened)
    for _ in range(3):
        assert require_test_data(targets) == targets
    assert read == [targets]
    os.utime(targets, ns=(0, 1))
    assert require_test_data(targets) == targets
    assert read == [targets] * 2


def test_other_targets_are_refused(targets: Path) -> None:
    """Both checksums and where to get the file; so does one that changed after it was accepted."""
    assert require_test_data(targets) == targets
    targets.write_bytes(b"x" * 8)
    digest = hashlib.sha256(b"x" * 8).hexdigest()
    with pytest.raises(ScorerError, match=f"has sha256 {digest}, wanted is") as caught:
        require_test_data(targets)
    assert "17G_k65N_6yFFZ2O-jQH00Lh6iaw3z-AW" in str(caught.value)


def test_missing_targets_are_refused(tmp_path: Path) -> None:
    """None named, or a name of nothing."""
    with pytest.raises(ScorerError, match=r"without test_data\.h5"):
        require_test_data(None)
    with pytest.raises(ScorerError, match=r"params\.test_data: .*No such file"):
        require_test_data(tmp_path / "none.h5")


def test_the_real_checksum_is_that_of_the_authors_file() -> None:
    """Written down twice: a typing error must not refuse everybody's file."""
    assert environment.TEST_DATA_SHA256.startswith("48b0272a88b17dbd29777c217e1b4fb2")
    assert environment.TEST_DATA_SHA256.endswith("b019b92e11cc2add847409db9541b890")
