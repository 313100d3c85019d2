"""Submit the runs of a sweep so that they share their jobs: `cluster.share`.

Each job works for the runs in their order, as a replica of each, and reloads its server in between. What
runs already, or owes nothing, is left as it is; a run that is left over alone gets jobs of its own.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from evalkit.cluster.submit import Owing, Submission, Submitter, check_slurm, send, submitting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.clock import Clock
    from evalkit.plan.model import Plan
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder


class SweepRun(NamedTuple):
    """A run of a sweep, and how it is to be executed."""

    folder: RunFolder
    plan: Plan
    cluster: Cluster


def submit_runs(
    runs: Sequence[SweepRun],
    *,
    clock: Clock,
    env: Mapping[str, str],
    replicas: int | None = None,
) -> list[Submission]:
    """Submit runs; those whose cluster settings are the same and say `share` together.

    What was submitted of each, in the order of `runs`. Raises as `submit_run`.
    """
    found: dict[RunFolder, Submission] = {}
    if any(run.cluster.executor == "slurm" for run in runs):
        check_slurm(env)
    for group in _groups(runs):
        found |= _submit_group(group, clock, env, replicas)
    return [found[run.folder] for run in runs]


def _groups(runs: Sequence[SweepRun]) -> list[list[SweepRun]]:
    """Runs that may share jobs, together; all others alone."""
    groups: list[list[SweepRun]] = []
    for run in runs:
        mates = (g for g in groups if run.cluster.share and g[0].cluster == run.cluster)
        group = next(mates, None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups


def _submit_group(
    runs: Sequence[SweepRun], clock: Clock, env: Mapping[str, str], replicas: int | None
) -> dict[RunFolder, Submission]:
    submissions: dict[RunFolder, Submission] = {}
    with contextlib.ExitStack() as stack:
        together: list[tuple[Submitter, Owing]] = []
        for run in runs:
            stack.enter_context(submitting(run.folder))
            submitter = Submitter(run.folder, run.plan, run.cluster, clock, env, replicas)
            state = submitter.look()
            if isinstance(state, Submission):
                submissions[run.folder] = state
            elif len(runs) == 1 or state.running or state.only_gathers:
                submissions[run.folder] = submitter.start(state)
            else:
                together.append((submitter, state))
        if not together:
            return submissions
        launch, warnings = send(together)
        for position, (submitter, state) in enumerate(together):
            jobs = tuple(launch.jobs_of(submitter.folder))
            said = (*state.damage, *(warnings if position == 0 else ()))
            submissions[submitter.folder] = Submission("submitted", state.owed, jobs, said)
    return submissions
