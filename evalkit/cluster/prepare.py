"""From plans to runs on disk: requests frozen, plan written, what is there compared.

The plan of an existing run is never changed: the one that the recipe means now is compared with it, and
another fingerprint is refused with the keys that differ. What may differ (how models are served and
asked, where it runs) is kept beside the plan, for replicas that start from now on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.benchmarks.frozen import write_frozen
from evalkit.cluster.planning import Planned, plan_runs, recipe_folder
from evalkit.cluster.provenance import collect_provenance
from evalkit.cluster.resolved import (
    cluster_settings,
)
from evalkit.errors import (
    FingerprintMismatchError,
    StoreError,
)
from evalkit.plan.fingerprint import ONLY_HERE, ONLY_THERE, describe_difference, differences
from evalkit.recipe.document import Document
from evalkit.recipe.files import moved
from evalkit.recipe.secret_text import mask
from evalkit.recipe.yaml_text import render_yaml
from evalkit.report.artifacts import render_json
from evalkit.report.steps import find_step
from evalkit.report.sweep import Cell, write_cells
from evalkit.store.alone import alone
from evalkit.store.registry import note_runs, registry_path
from evalkit.store.run import (
    check_creatable,
    create_run,
    is_run,
    load_plan,
    save_cluster,
    save_execution,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from evalkit.clock import Clock
    from evalkit.plan.model import Plan
    from evalkit.recipe.load import LoadedRecipe
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder

SHOWN_DIFFERENCES = 12
LOCK_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run on disk, and where it is to be executed."""

    folder: RunFolder
    plan: Plan
    cluster: Cluster
    is_new: bool


def prepare_runs(
    loaded: LoadedRecipe,
    *,
    env: Mapping[str, str],
    command: Sequence[str],
    clock: Clock,
    on_progress: Callable[[str], None],
) -> list[PreparedRun]:
    """Runs of all models of a recipe, on disk.

    Those that exist are compared, and go on with the servers, client and cluster of this recipe.
    Raises RecipeError, DataError, PlanError, FingerprintMismatchError, StoreError.
    """
    clusters = {cell.variant: cluster_settings(cell, env) for cell in loaded.cells}
    provenance = collect_provenance(command, loaded.path, dict(loaded.sources), clock.wall())
    # A comment, or a value that an override replaced, may hold what is refused in values.
    given = mask(loaded.given).encode()
    planned = plan_runs(loaded, on_progress)
    for run in planned:
        _check(run)
    prepared = []
    for run in planned:
        cell, cluster = run.loaded, clusters[run.loaded.variant]
        # another one would replace the frozen requests of a plan not yet written
        with alone(run.folder.root / ".prepare.lock", f"prepares {run.folder.root}", LOCK_WAIT_S):
            is_new = not is_run(run.folder)
            if is_new:
                folder = run.folder
                texts = {
                    folder.recipe_as_given: given,
                    folder.provenance: render_json(provenance),
                    folder.recipe: _recipe_text(cell, folder),
                }
                _write(run, texts)
            _check(run)
            save_execution(run.folder, run.plan)
            save_cluster(run.folder, cluster)
        prepared.append(PreparedRun(run.folder, load_plan(run.folder), cluster, is_new))
    if cells := [_cell(run) for run in planned if run.label]:
        write_cells(recipe_folder(loaded), cells)
    try:
        note_runs(registry_path(env), [(r.folder, r.plan) for r in prepared], clock.wall())
    except StoreError as error:
        on_progress(f"warning: {error}")  # they are found by their folder all the same
    return prepared


def _cell(run: Planned) -> Cell:
    model = run.plan.model
    return Cell(run.label, model.name, run.loaded.variant, find_step(model))


def _check(run: Planned) -> None:
    """Refuse what would not become, or is not, the run that the recipe means."""
    if not is_run(run.folder):
        check_creatable(run.folder)
        return
    existing = load_plan(run.folder)
    found = differences(existing, run.plan)
    if not found:
        return
    lines = [f"  {describe_difference(key, values)}" for key, values in found.items()]
    if len(lines) > SHOWN_DIFFERENCES:
        lines[SHOWN_DIFFERENCES:] = [f"  ... and {len(lines) - SHOWN_DIFFERENCES} more"]
    raise FingerprintMismatchError(
        f"{run.folder.root} was made with other settings:\n" + "\n".join(lines),
        found,
        hint=_way_on(run, existing, found),
    )


def _way_on(run: Planned, existing: Plan, found: Mapping[str, tuple[str, str]]) -> str:
    """What to do about an existing run that is not the one the recipe means."""
    root = run.folder.root
    if not set(found.values()) <= {ONLY_THERE, ONLY_HERE}:
        return (
            "Nothing was changed. Go back to those settings, `evalkit resume` the run as it is, or "
            "start another one with -o output.name=NAME."
        )
    held = ", ".join(task.name for task in existing.tasks)
    others = [task.name for task in run.plan.tasks if f"tasks.{task.name}" in found]
    name = "-".join((root.name, *(others or [task.name for task in run.plan.tasks])[:3]))
    chosen = " ".join(f"-t {task}" for task in others)
    what = f"{chosen} -o output.name={name}" if chosen else f"-o output.name={name}"
    return (
        f"Nothing was changed. A run's tasks are settled when it is made, by -t too; this one has {held}. "
        f"`evalkit resume {root}` finishes it. The same command with {what} makes a run of its own, and "
        f"`evalkit report {root} {root.parent / name}` shows both side by side."
    )


def _recipe_text(loaded: LoadedRecipe, folder: RunFolder) -> bytes:
    """The merged recipe, with its relative paths starting at the run folder."""
    return render_yaml(moved(Document(loaded.raw), loaded.base, folder.root).data).encode()


def _write(run: Planned, texts: Mapping[Path, bytes]) -> None:
    for name, frozen in run.frozen.items():
        write_frozen(run.folder.requests(name), frozen)
    create_run(run.folder, run.plan, texts)
