"""The Python environments of other harnesses: where they are, and whether they are what they must be.

Harnesses pin packages against each other and against vLLM, so each has an environment of its own, a folder
below `environments_folder()` that `evalkit harness install` makes from a file of pinned versions. What it
holds is told by its `harness.json`, which only a finished one has. Nothing is installed or run here:
`install` makes environments, `call` runs scripts in them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from evalkit.base import Frozen
from evalkit.errors import PlanError
from evalkit.harnesses.env import FOLDER_VARIABLE, environments_folder

if TYPE_CHECKING:
    from evalkit.benchmarks.harness import EnvironmentSpec

MANIFEST = "harness.json"
REQUIREMENTS = Path(__file__).with_name("requirements")
SHOWN = 3
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;#]+)")


class Manifest(Frozen):
    """`harness.json`: what an environment was made from and what is in it. Written last."""

    name: str
    requirement: str
    """What was asked for: the name of a file of pins, or the requirement of a wheel."""
    package: str
    """Distribution whose version is the harness's."""
    version: str
    versions: Mapping[str, str]
    """Of all packages, by normalised name."""
    python: str
    """Version of its Python, as in `3.11.7`."""
    installed: str
    """When, in UTC (ISO 8601)."""
    frameworks: Mapping[str, str] = {}
    """The `core_evals/*/framework.yml` of NVIDIA's wheels: path below the environment's folder, by the name
    of the folder in `core_evals`."""
    is_wheel: bool = False
    """Made from a wheel that the user named: there are no pins of ours for it."""


@dataclass(frozen=True, slots=True)
class HarnessPython:
    """A Python that has a harness."""

    path: Path
    """The interpreter. Commands that the packages bring are beside it."""
    version: str
    """Of the harness's package."""
    manifest: Manifest | None = None
    """Null for evalkit's own Python."""

    @property
    def folder(self) -> Path | None:
        """The environment; null for evalkit's own Python."""
        return None if self.manifest is None else self.path.parent.parent


@dataclass(frozen=True, slots=True)
class Found:
    """What is there in place of an environment: usable, or with what is wrong with it."""

    folder: Path
    manifest: Manifest | None
    wrong: str | None
    """A sentence without its subject: `has lm-eval 0.4.9, wanted is 0.4.13`."""


def install_command(name: str) -> str:
    """What to type for an environment."""
    return f"evalkit harness install {name}"


def find_python(spec: EnvironmentSpec) -> HarnessPython:
    """The Python of a harness: its environment, else evalkit's own where the package is in there.

    Looks at files only. Raises PlanError, with what to type, where there is none, where it is broken and
    where its versions are not the pinned ones: other versions give other numbers.
    """
    found = look_at(spec.name, spec)
    if found is None:
        return _own_python(spec)
    if found.wrong is not None or found.manifest is None:
        raise PlanError(
            f"the environment of the harness {spec.name} in {found.folder} {found.wrong}",
            hint=f"Make it anew: {_install_command(spec)}",
        )
    return HarnessPython(_python(found.folder), found.manifest.version, found.manifest)


def look_at(name: str, spec: EnvironmentSpec | None = None) -> Found | None:
    """The environment of that name with what is wrong with it; null where there is none.

    Without `spec`, or where it has no file of pins, versions are compared with those of its manifest alone.
    """
    folder = environments_folder() / name
    if not folder.exists():
        return None
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        return Found(folder, None, f"is not whole: {MANIFEST}: {error.strerror}")
    except ValidationError as error:
        return Found(
            folder, None, f"is not whole: {MANIFEST} is not valid: {error.errors()[0]['msg']}"
        )
    return Found(folder, manifest, _what_is_wrong(folder, manifest, spec))


def installed_names() -> list[str]:
    """Names of all environments there are, whole or not, sorted."""
    folder = environments_folder()
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def wheel_manifests() -> list[Manifest]:
    """Of the usable environments that were made from wheels which the user named, by name."""
    found = [look_at(name) for name in installed_names()]
    usable = [each.manifest for each in found if each is not None and each.wrong is None]
    return [manifest for manifest in usable if manifest is not None and manifest.is_wheel]


def read_pins(requirements: str) -> dict[str, str]:
    """Versions of a file in `evalkit/harnesses/requirements/`, by normalised name."""
    lines = (REQUIREMENTS / requirements).read_text("utf-8").splitlines()
    return {normalised(pin[1]): pin[2] for line in lines if (pin := _PIN.match(line.strip()))}


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def site_packages(folder: Path, python: str) -> Path:
    """Where the packages of an environment are, for a Python of that version."""
    major, minor, *_ = python.split(".")
    return folder / "lib" / f"python{major}.{minor}" / "site-packages"


def versions_in(site: Path) -> dict[str, str]:
    """Versions of all distributions in a folder, by normalised name."""
    found = metadata.distributions(path=[str(site)])
    return {normalised(each.name): each.version for each in found}


def _what_is_wrong(folder: Path, manifest: Manifest, spec: EnvironmentSpec | None) -> str | None:
    python = _python(folder)
    if not python.exists():
        real = python.resolve()
        return f"has no Python on this machine: {real} is not there"
    now = _version_in(site_packages(folder, manifest.python), manifest.package)
    if now != manifest.version:
        return f"has {manifest.package} {now or 'no more'}, installed was {manifest.version}"
    if spec is None or not spec.requirements:
        return None
    pins = read_pins(spec.requirements)
    other = [
        f"{name} {manifest.versions.get(name, '(none)')}, wanted is {pin}"
        for name, pin in pins.items()
        if manifest.versions.get(name) != pin
    ]
    # the package that gives the harness its version says most
    other.sort(key=lambda text: not text.startswith(f"{normalised(spec.package)} "))
    more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
    return f"has {'; '.join(other[:SHOWN])}{more}" if other else None


def _own_python(spec: EnvironmentSpec) -> HarnessPython:
    version = _own_version(spec)
    wanted = _wanted_version(spec)
    if version is not None and (wanted is None or version == wanted):
        return HarnessPython(Path(sys.executable), version)
    other = ""
    if version is not None:
        other = f": evalkit's own Python has {spec.package} {version}, wanted is {wanted}"
    extra = (
        f"\nOr into evalkit's own Python: pip install 'evalkit[{spec.extra}]'" if spec.extra else ""
    )
    raise PlanError(
        f"the harness {spec.name} is not installed{other}",
        hint=f"Type: {_install_command(spec)}\nIt goes to {environments_folder() / spec.name}; "
        f"{FOLDER_VARIABLE} names another folder, for Slurm one that all nodes share.{extra}",
    )


def _install_command(spec: EnvironmentSpec) -> str:
    if spec.requirements:
        return install_command(spec.name)
    return f"evalkit harness install --wheel '{spec.package}==VERSION'"


def _own_version(spec: EnvironmentSpec) -> str | None:
    """Of the package beside evalkit; null where it, or its module, is not there."""
    if find_spec(spec.module.partition(".")[0]) is None:
        return None
    try:
        return metadata.version(spec.package)
    except metadata.PackageNotFoundError:
        return None


def _wanted_version(spec: EnvironmentSpec) -> str | None:
    return read_pins(spec.requirements).get(normalised(spec.package)) if spec.requirements else None


def _version_in(site: Path, package: str) -> str | None:
    for found in metadata.distributions(name=package, path=[str(site)]):
        return found.version
    return None


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"
