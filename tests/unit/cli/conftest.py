"""A folder with a recipe in it, and `evalkit` called as from a shell there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from evalkit.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

RECIPE: dict[str, Any] = {
    "name": "test",
    "models": {"m": {"id": "m"}},
    "serving": {"kind": "external", "base_url": "http://127.0.0.1:9/v1"},
    "tasks": {"addition": {"params": {"n": 4}}},
    "output": {"dir": "runs"},
    "cluster": {"executor": "local"},
}


@dataclass
class Said:
    """How a command ended, and what it said where."""

    code: int
    out: str
    err: str


@dataclass
class Shell:
    """A current folder with `recipe.yaml`."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def write(self, **changes: Any) -> None:
        """The recipe with some top-level keys replaced."""
        text = yaml.safe_dump({**RECIPE, **changes}, sort_keys=False)
        (self.folder / "recipe.yaml").write_text(text)

    def __call__(self, *arguments: str) -> Said:
        """Run a command."""
        self.capture.readouterr()
        try:
            code = main(arguments)
        except SystemExit as error:
            code = int(str(error.code))
        said = self.capture.readouterr()
        return Said(code, said.out, said.err)

    def files(self) -> dict[str, bytes]:
        """Everything on disk, to see that nothing was touched."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """An empty folder with the recipe, and no terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    made = Shell(tmp_path, capsys)
    made.write()
    return made
