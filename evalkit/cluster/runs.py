"""From what a person types to run folders: a path, a run id or its beginning, a name, or a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import StoreError, UsageError
from evalkit.store.layout import RunFolder
from evalkit.store.registry import Entry, read_registry
from evalkit.store.run import is_run, load_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from evalkit.plan.model import Plan

MIN_PREFIX = 3


def _quiet(_problem: StoreError) -> None:
    """Nobody is told."""


def find_runs(
    text: str,
    output: Path,
    on_problem: Callable[[StoreError], None] = _quiet,
    registry: Path | None = None,
) -> list[RunFolder]:
    """The run that `text` means, or the runs of a sweep; `output` is the folder runs lie in, `registry`
    the user's file of all runs, which is asked where nothing there has that name or id.

    Runs beside it that cannot be read are skipped, and `on_problem` is told. Raises UsageError when
    there is none, or more than one thing it could mean.
    """
    path = Path(text).expanduser()
    if path.is_dir() and (found := runs_below(path)):
        return found
    named = output / text
    if named.is_dir() and (found := runs_below(named)):
        return found
    known = dict(readable_runs(output, on_problem))
    if len(text) >= MIN_PREFIX:
        matches = [run for run, plan in known.items() if plan.run_id.startswith(text)]
        if len(matches) == 1:
            return matches
        if matches:
            names = ", ".join(f"{known[run].run_id} ({run.root.name})" for run in matches)
            raise UsageError(f"{text!r} begins the ids of several runs: {names}")
    if found := _find_noted(text, read_registry(registry)):
        return found
    top = output.absolute()
    names = ", ".join(f"{run.root.relative_to(top)}" for run in list(known)[:20]) or "none"
    raise UsageError(
        f"no run {text!r}",
        hint=f"Give a run folder, a run's name or id, or a recipe. Runs in {output}: {names}.",
    )


def _find_noted(text: str, entries: Iterable[Entry]) -> list[RunFolder]:
    """The runs of that name or id among those noted elsewhere; none where nothing was noted.

    Raises UsageError where several could be meant, or where what was meant is no longer there.
    """
    meant = [entry for entry in entries if _means(text, entry)]
    there = [entry for entry in meant if is_there(entry)]
    if meant and not there:
        places = ", ".join(f"{entry.folder} on {entry.host}" for entry in meant)
        raise UsageError(
            f"run {text!r} is no longer where it was: {places}",
            hint="Name its folder where it was moved to; `evalkit ls runs` lists the runs.",
        )
    # runs of one sweep have one name and lie side by side
    tops = {entry.root.parent if _is_in_sweep(entry) else entry.root for entry in there}
    if len(tops) > 1:
        names = ", ".join(f"{entry.run_id} ({entry.folder})" for entry in there)
        raise UsageError(f"{text!r} means several runs: {names}", hint="Name one by its folder.")
    return [RunFolder(entry.root) for entry in there]


def is_there(entry: Entry) -> bool:
    """Whether the run that was noted is where it was, as seen from this machine."""
    folder = RunFolder(entry.root)
    try:
        return is_run(folder) and load_plan(folder).run_id == entry.run_id
    except StoreError:
        return False


def _means(text: str, entry: Entry) -> bool:
    name = entry.root.name
    by_id = len(text) >= MIN_PREFIX and entry.run_id.startswith(text)
    if not _is_in_sweep(entry):
        return by_id or text in (entry.run, name)
    sweep = entry.root.parent.name
    return by_id or text in (entry.run, sweep, f"{sweep}/{name}")


def _is_in_sweep(entry: Entry) -> bool:
    return is_cell(entry.root, entry.run)


def is_cell(root: Path, run: str) -> bool:
    """Whether the run of this name lies in the folder of a sweep."""
    return run == f"{root.parent.name}-{root.name}"


def readable_runs(
    output: Path, on_problem: Callable[[StoreError], None] = _quiet
) -> Iterator[tuple[RunFolder, Plan]]:
    """All runs of an output folder with their plans, by name; `on_problem` is told of the others."""
    for child in _folders(output) if output.is_dir() else []:
        try:
            runs = runs_below(child)
        except StoreError as error:
            on_problem(error)
            continue
        for run in runs:
            try:
                yield run, load_plan(run)
            except StoreError as error:
                on_problem(error)


def runs_below(path: Path) -> list[RunFolder]:
    """The run at `path`, or the runs of a sweep there. Raises StoreError where nobody may look."""
    here = RunFolder(path.absolute())
    if is_run(here):
        return [here]
    return [run for child in _folders(path) if is_run(run := RunFolder(child.absolute()))]


def _folders(path: Path) -> Iterable[Path]:
    try:
        return [c for c in sorted(path.iterdir()) if c.is_dir() and not c.name.startswith(".")]
    except OSError as error:
        raise StoreError(f"cannot look into {path}: {error.strerror}") from error
