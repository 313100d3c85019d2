"""A close look at the environment of a harness, for `evalkit doctor`: its Python runs, and nothing changed.

`find_python` looks at files only, and at one version: it is asked for every plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from evalkit.errors import PlanError
from evalkit.harnesses.call import InsideError, call
from evalkit.harnesses.environments import (
    SHOWN,
    HarnessPython,
    find_python,
    install_command,
    look_at,
)

if TYPE_CHECKING:
    from evalkit.benchmarks.harness import EnvironmentSpec

ANSWER_S = 60.0


class Finding(NamedTuple):
    """What a close look found."""

    state: Literal["ok", "note", "bad"]
    """`note`: not installed, which only matters to those who use it."""
    text: str


def examine(spec: EnvironmentSpec) -> Finding:
    """The Python of a harness."""
    there = look_at(spec.name, spec) is not None
    try:
        python = find_python(spec)
    except PlanError as error:
        if there:
            return Finding("bad", f"{error.message}. {error.hint}")
        return Finding(
            "note", f"{error.message}; needed for its tasks: {install_command(spec.name)}"
        )
    return _run(python, spec.module, f"Make it anew: {install_command(spec.name)} --force")


def examine_wheel(name: str) -> Finding:
    """An environment that no harness asks for: one of a wheel, or of a plug-in that is gone."""
    found = look_at(name)
    again = f"Remove it: evalkit harness remove {name}"
    if found is None or found.manifest is None or found.wrong is not None:
        wrong = "is gone" if found is None else f"in {found.folder} {found.wrong}"
        return Finding("bad", f"the environment {wrong}. {again}")
    manifest = found.manifest
    if not manifest.is_wheel:
        return Finding("note", f"no harness uses {found.folder}. {again}")
    python = HarnessPython(found.folder / "bin" / "python", manifest.version, manifest)
    again = f"Make it anew: evalkit harness install --wheel '{manifest.requirement}' --force"
    return _run(python, None, again)


def _run(python: HarnessPython, module: str | None, again: str) -> Finding:
    try:
        answer = call(python, "look.py", {"module": module}, timeout_s=ANSWER_S)
    except InsideError as error:
        return Finding("bad", f"{python.path} does not run: {error.message}. {again}")
    if not answer["has_module"]:
        return Finding("bad", f"{python.path} has no module {module}. {again}")
    where = str(python.folder or "evalkit's own Python")
    if python.manifest is None:
        return Finding("ok", f"{python.version} in {where}")
    now, then = answer["versions"], python.manifest.versions
    other = [
        f"{name} {now.get(name, '(none)')}, installed was {version}"
        for name, version in then.items()
        if now.get(name) != version
    ]
    if other:
        more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
        return Finding("bad", f"{where} has {'; '.join(other[:SHOWN])}{more}. {again}")
    return Finding("ok", f"{python.version} in {where}")
