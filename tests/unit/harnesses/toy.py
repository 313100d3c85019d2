"""A harness of two tasks, and wheels that pip installs without any index."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from typing import TYPE_CHECKING, Any

from pydantic import Field

from evalkit.benchmarks.contract import Benchmark, BenchmarkParams, Dataset
from evalkit.benchmarks.data import DataSource
from evalkit.benchmarks.harness import EnvironmentSpec, Harness, HarnessTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evalkit.benchmarks.data import DataAccess
    from evalkit.recipe.schema import Profile

PINS = "# pins\ntoy-harness==1.0\n"


def spec(requirements: str | Path = "", **changes: Any) -> EnvironmentSpec:
    """The environment of the toy."""
    values = {
        "name": "toy",
        "package": "toy_harness",
        "module": "toy_harness",
        "requirements": str(requirements),
    }
    return EnvironmentSpec(**{**values, **changes})


class ToyParams(BenchmarkParams):
    """What a task takes."""

    task: str
    """The task."""
    shots: int = Field(3, ge=0)
    """Examples before the question."""


class ToyTask(Benchmark[ToyParams]):
    """A task of the toy: what describes it is set on the instance only."""

    whole = True
    params_type = ToyParams
    source = DataSource(generated=True)

    def __init__(self, params: ToyParams, profile: Profile) -> None:
        super().__init__(params, profile)
        self.name, self.version = f"toy/{params.task}", "1"

    def load(self, access: DataAccess) -> Dataset:
        """Nothing is loaded in these tests."""
        raise NotImplementedError


class Toy(Harness):
    """Two tasks."""

    name = "toy"
    title = "Toy harness"
    description = "Toys, and nothing else."
    licence = "MIT"
    environment = spec()
    benchmark_type = ToyTask

    def tasks(self) -> Sequence[HarnessTask]:
        """Known without the package."""
        return [
            HarnessTask("hello_swag", "generate_until", "What comes next?", {"shots": 3}),
            HarnessTask("sums", "chat", "Sums of two numbers."),
        ]


class Plain(Toy):
    """One without tasks of its own, and without an environment."""

    name = "plain"
    description = "Runs a command."
    environment = None
    needs_task = False


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str],
    command: str | None = None,
) -> Path:
    """A wheel of pure Python, as a backend would build it; `command` is `NAME=module:function`."""
    info = f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: toy\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if command is not None:
        contents[f"{info}/entry_points.txt"] = f"[console_scripts]\n{command}\n"
    record = "".join(f"{path},{_digest(text)},{len(text)}\n" for path, text in contents.items())
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for each, text in contents.items():
            wheel.writestr(each, text)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
