"""From what a person types to run folders: a path, a run id or its beginning, a name, or a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import UsageError
from evalkit.store.layout import RunFolder
from evalkit.store.run import is_run, load_plan

if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_PREFIX = 3


def find_runs(text: str, output: Path) -> list[RunFolder]:
    """The run that `text` means, or the runs of a sweep; `output` is the folder runs lie in.

    Raises UsageError when there is none, or more than one thing it could mean.
    """
    path = Path(text).expanduser()
    if path.is_dir() and (found := runs_below(path)):
        return found
    named = output / text
    if named.is_dir() and (found := runs_below(named)):
        return found
    known = list(all_runs(output))
    if len(text) >= MIN_PREFIX:
        matches = [run for run in known if load_plan(run).run_id.startswith(text)]
        if len(matches) == 1:
            return matches
        if matches:
            names = ", ".join(f"{load_plan(run).run_id} ({run.root.name})" for run in matches)
            raise UsageError(f"{text!r} begins the ids of several runs: {names}")
    top = output.absolute()
    names = ", ".join(f"{run.root.relative_to(top)}" for run in known[:20]) or "none"
    raise UsageError(
        f"no run {text!r}",
        hint=f"Give a run folder, a run's name or id, or a recipe. Runs in {output}: {names}.",
    )


def all_runs(output: Path) -> Iterable[RunFolder]:
    """All runs of an output folder, by name."""
    if not output.is_dir():
        return
    for child in sorted(output.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            yield from runs_below(child)


def runs_below(path: Path) -> list[RunFolder]:
    """The run at `path`, or the runs of a sweep there."""
    here = RunFolder(path.absolute())
    if is_run(here):
        return [here]
    children = (RunFolder(child.absolute()) for child in sorted(path.iterdir()) if child.is_dir())
    return [run for run in children if is_run(run)]
