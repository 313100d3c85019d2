"""The commands as Python, for notebooks and scripts.

    from evalkit import Run, load_recipe, submit
    from evalkit.api import plan

    recipe = load_recipe("recipes/nano.yaml", overrides=["aime2025.repeats=8"])
    plan(recipe)[0].n_units
    [run] = submit(recipe)
    run.status().phase
    run.results()["aime2025"].headline.percent
    run.samples("aime2025").to_pandas()
    run.report()
    run.export("csv")

Same code, same errors as the command line; nothing is printed. `plan` is here only: `evalkit.plan` is the
package that plans are made in, so that function is called `evalkit.make_plans` there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.cancel import Cancelled, cancel_run
from evalkit.cluster.env import read_environment, refuse_telemetry
from evalkit.cluster.grading import Watching, grade_run
from evalkit.cluster.planning import plan_runs
from evalkit.cluster.prepare import prepare_runs
from evalkit.cluster.runs import find_runs
from evalkit.cluster.share import SweepRun, submit_runs
from evalkit.cluster.status import RunStatus, run_status
from evalkit.cluster.submit import Submission, submit_run
from evalkit.errors import UsageError
from evalkit.recipe.load import LoadedRecipe
from evalkit.recipe.load import load_recipe as _load_recipe
from evalkit.report.artifacts import read_results
from evalkit.report.export.kinds import export_run
from evalkit.report.export.options import ExportOptions
from evalkit.report.export.source import load_export
from evalkit.report.frames import samples_frame, samples_table
from evalkit.report.gather import RunResults, choose_tasks, gather_run
from evalkit.report.page.sources import read_run
from evalkit.report.page.write import DEFAULT_MB, default_path, make_page, title_of
from evalkit.report.rescore import rescored
from evalkit.store.publish import publish
from evalkit.store.registry import registry_path
from evalkit.store.run import load_cluster, load_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

    from evalkit.plan.model import Plan
    from evalkit.recipe.nemo.read import NemoOptions
    from evalkit.recipe.schema import Profile
    from evalkit.report.results import Results
    from evalkit.store.layout import RunFolder


def load_recipe(  # noqa: PLR0913 - each is an argument of the command line
    source: str | Path,
    *,
    serving: str | Path | None = None,
    overrides: Sequence[str] = (),
    tasks: Sequence[str] = (),
    limit: int | None = None,
    env: Mapping[str, str] | None = None,
    nemo: NemoOptions | None = None,
) -> LoadedRecipe:
    """A recipe by path or shipped name; arguments as on the command line. Raises RecipeError.

    `env` is where `${env:NAME}` is looked up, by default the process environment. `nemo` says how a file
    of the NeMo Evaluator launcher is read, as `--skip-unsupported` and `--lenient` do.
    """
    variables = read_environment() if env is None else env
    return _load_recipe(
        source,
        serving=serving,
        overrides=overrides,
        tasks=tasks,
        limit=limit,
        env=variables,
        nemo=nemo,
    )


def plan(recipe: LoadedRecipe) -> list[Plan]:
    """The plan of each model; loads data sets, writes nothing. Raises DataError, PlanError."""
    return [planned.plan for planned in plan_runs(recipe, _quiet)]


make_plans = plan


def prepare(recipe: LoadedRecipe) -> list[Run]:
    """The recipe's runs on disk, one per model; existing ones are only compared.

    Raises DataError, PlanError, FingerprintMismatchError, StoreError.
    """
    prepared = prepare_runs(
        recipe,
        env=read_environment(),
        command=["evalkit.prepare", str(recipe.path)],
        clock=SYSTEM_CLOCK,
        on_progress=_quiet,
    )
    return [Run(run.folder.root) for run in prepared]


def submit(recipe: LoadedRecipe) -> list[Run]:
    """Prepare the recipe's runs and submit what they owe. Raises also ClusterError."""
    runs = prepare(recipe)
    submit_runs(
        [SweepRun(run.folder, run.plan, load_cluster(run.folder)) for run in runs],
        clock=SYSTEM_CLOCK,
        env=read_environment(),
    )
    return runs


class Run:
    """One run on disk."""

    def __init__(self, run: str | Path, *, output: str | Path = "runs") -> None:
        """`run` is a folder, a name or an id; `output` the folder runs lie in. Raises UsageError."""
        found = find_runs(str(run), Path(output), registry=registry_path(read_environment()))
        if len(found) != 1:
            names = ", ".join(str(folder.root) for folder in found)
            raise UsageError(f"{run} is a sweep; name one of its runs: {names}")
        self.folder: RunFolder = found[0]
        self.plan: Plan = load_plan(self.folder)

    def __repr__(self) -> str:
        """Id and folder."""
        return f"Run({self.plan.run_id!r}, {str(self.folder.root)!r})"

    def submit(self, *, replicas: int | None = None) -> Submission:
        """Submit, or resume, with the run's own cluster settings. Raises ClusterError.

        `replicas` is how many to start; where the run is running, they are added.
        """
        return submit_run(
            self.folder,
            self.plan,
            load_cluster(self.folder),
            clock=SYSTEM_CLOCK,
            env=read_environment(),
            replicas=replicas,
        )

    def cancel(self, *, wait_s: float | None = None) -> Cancelled:
        """Stop the run's jobs and see them end; what is left then is in `left`. Raises ClusterError."""
        return cancel_run(self.folder, clock=SYSTEM_CLOCK, env=read_environment(), wait_s=wait_s)

    def status(self) -> RunStatus:
        """What is done and what runs. Raises StoreError."""
        return run_status(self.folder, clock=SYSTEM_CLOCK)

    def gather(self, tasks: Sequence[str] = (), *, allow_partial: bool = False) -> RunResults:
        """Score what needs no grading or has it, and write artifacts.

        Raises IncompleteError unless complete or `allow_partial`.
        """
        return gather_run(
            self.folder,
            self.plan,
            tasks=list(tasks) or None,
            allow_partial=allow_partial,
            on_progress=_quiet,
            clock=SYSTEM_CLOCK.wall,
        )

    def score(self, tasks: Sequence[str] = (), *, profile: Profile | None = None) -> RunResults:
        """Grade (sandbox, judge) what is not graded, then score what is there, complete or not.

        With a `profile` the same answers are scored by it, and the artifacts lie in `rescored/`. Raises
        what kept a whole task, or single answers, from being graded, after all others were scored.
        """
        plan = self.plan if profile is None else rescored(self.plan, profile)
        failures = grade_run(
            self.folder,
            plan,
            tasks=choose_tasks(plan, list(tasks) or None),
            env=read_environment(),
            clock=SYSTEM_CLOCK,
            watching=Watching(_quiet, _quiet),
        )
        found = gather_run(
            replace(self.folder, profile=profile),
            plan,
            tasks=list(tasks) or None,
            allow_partial=True,
            on_progress=_quiet,
            clock=SYSTEM_CLOCK.wall,
        )
        for failure in failures:
            raise failure
        return found

    def results(self) -> dict[str, Results]:
        """Published results by task; tasks that were not gathered yet are left out."""
        found = {t.name: read_results(self.folder.results(t.name)) for t in self.plan.tasks}
        return {name: results for name, results in found.items() if results is not None}

    def report(
        self,
        path: Path | None = None,
        *,
        max_mb: float = DEFAULT_MB,
        include_restricted: bool = False,
    ) -> Path:
        """Write the page of this run's results, and say where. Raises UsageError, StoreError."""
        run = read_run(self.folder, self.plan)
        target = path or default_path([run], restricted=include_restricted)
        page = make_page(
            [run], title_of([run]), max_mb=max_mb, include_restricted=include_restricted
        )
        publish(target, page.content)
        return target

    def export(  # noqa: PLR0913 - each is an argument of the command line
        self,
        kind: str,
        tasks: Sequence[str] = (),
        *,
        profile: Profile | None = None,
        allow_partial: bool = False,
        dest: Path | None = None,
        project: str | None = None,
        entity: str | None = None,
        tracking_uri: str | None = None,
        key_env: str | None = None,
        offline: bool = False,
        samples: bool = False,
        include_restricted: bool = False,
    ) -> list[str]:
        """Published results in the form of another tool, as `evalkit export --to KIND`; says what was
        written or where it was sent.

        With a `profile` the results that `score` made by it. Raises UsageError for an unknown kind, for an
        option that the kind has no use for and for a package that is missing, StoreError, IncompleteError
        unless complete or `allow_partial`.
        """
        refuse_telemetry()
        options = ExportOptions(
            dest=dest,
            project=project,
            entity=entity,
            tracking_uri=tracking_uri,
            key_env=key_env,
            offline=offline,
            samples=samples,
            include_restricted=include_restricted,
            env=read_environment(),
        )
        run = load_export(
            self.folder, self.plan, tasks, profile=profile, allow_partial=allow_partial
        )
        return export_run(run, kind, options)

    def samples(self, task: str) -> pa.Table:
        """A task's samples as an Arrow table (needs pyarrow). Raises UsageError, StoreError."""
        return samples_table(self.folder, task)

    def samples_frame(self, task: str) -> pd.DataFrame:
        """A task's samples as a pandas frame (needs pandas)."""
        return samples_frame(self.folder, task)


def _quiet(_progress: Any) -> None:
    """Progress that nobody watches."""
