"""What `evalkit new` writes works at once: installed, tested by its own tests, planned and run."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import orjson
import pytest

from evalkit.scaffold import write_plugin
from tests.faults.harness import serving

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.timeout(240)


def run(command: Sequence[str], folder: Path, site: Path) -> str:
    """What a Python says in which the new packages are installed; it must end well."""
    env = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-m", *command]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_new_plugins(tmp_path: Path) -> None:
    """A benchmark and a harness, from their wheels: all that they need is in there."""
    site, names = tmp_path / "site", {"benchmark": "word_counts", "harness": "my_sums"}
    folders = [tmp_path / name for name in names.values()]
    for (kind, name), folder in zip(names.items(), folders, strict=True):
        write_plugin(kind, name, folder)  # type: ignore[arg-type]  # the keys are the two kinds
    pip = ["pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run([*pip, "--target", str(site), *map(str, folders)], tmp_path, site)
    pytest_command = ["pytest", "-q", "-p", "no:cacheprovider", *map(str, folders)]
    assert "11 passed" in run(pytest_command, tmp_path, site)

    recipe = str(folders[0] / "recipe.yaml")
    with serving() as server:
        changes = ["-o", f"serving.base_url={server.base_url}", "-o", "models.mine.id=m"]
        run(["evalkit", "run", recipe, *changes], tmp_path, site)
    path = tmp_path / "runs" / "word_counts" / "artifacts" / "word_counts" / "results.json"
    results = orjson.loads(path.read_bytes())
    assert results["complete"]
    assert results["headline"]["n_samples"] == 3
