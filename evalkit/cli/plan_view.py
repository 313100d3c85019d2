"""A plan as a table: what would be done, how much, and what it may cost at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from evalkit.benchmarks.registry import benchmark_class, make_benchmark
from evalkit.cli.console import out, unavailable_lines
from evalkit.client.continuable import find_obstacles
from evalkit.client.request import fixed_fields
from evalkit.cluster.parameters import serving_gpus
from evalkit.recipe.serving import VllmServing
from evalkit.serving.vllm import can_load_plugin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.contract import Benchmark
    from evalkit.plan.model import Plan, TaskPlan


def show_plan(plan: Plan) -> None:
    """The table, and what there is to say about it."""
    out().print(plan_table(plan))
    out().print(Text(plan_total(plan)), soft_wrap=True)
    for line in unavailable_lines(plan.unavailable):
        out().print(Text(line), soft_wrap=True)
    for note in plan_notes(plan):
        out().print(Text(f"note: {note}"), soft_wrap=True)


def plan_table(plan: Plan) -> Table:
    """One row per task, in the order of work."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", overflow="fold")
    table.add_column("profile")
    for name in (
        "samples",
        "repeats",
        "units",
        "calls",
        "shards",
        "max tokens",
        "tokens at most",
        "server",
    ):
        table.add_column(name, justify="right")
    for task in plan.tasks:
        ceiling = token_ceiling(task)
        table.add_row(
            Text(task.name),
            task.profile,
            f"{task.n_samples:,}",
            str(task.repeats),
            f"{task.n_units:,}",
            "-" if task.n_calls is None else f"{task.n_calls:,}",
            str(task.n_shards),
            "-" if task.generation.max_tokens is None else f"{task.generation.max_tokens:,}",
            "-" if ceiling is None else f"{ceiling:,}",
            str(task.deployment),
        )
    return table


def plan_notes(plan: Plan) -> list[str]:
    """What of the plan a person may not expect, a sentence each."""
    notes = [
        f"{task.name}: an answer that is interrupted begins anew, for its requests have "
        f"{' and '.join(obstacles)}"
        for task in plan.tasks
        if (obstacles := not_continued(plan, task))
    ]
    notes += [
        f"{task.name}: {_listed(task.parts)}, of as many calls as their answers take"
        for task in plan.tasks
        if task.parts
    ]
    notes += [note for task in plan.tasks if (note := grading_note(task))]
    lacking = ((task.name, _benchmark(task).lacks()) for task in plan.tasks)
    return [*notes, *(f"{name}: {text}" for name, text in lacking if text)]


def plan_total(plan: Plan) -> str:
    """How many generations a run is, as far as that is known beforehand."""
    return _total(plan.tasks)


def show_sweep_total(plans: Sequence[Plan]) -> None:
    """The same of all runs of a sweep; nothing for a single run."""
    if len(plans) > 1:
        total = _total([task for plan in plans for task in plan.tasks])
        out().print(Text(f"{len(plans)} runs: {total}"), soft_wrap=True)


def _total(tasks: Sequence[TaskPlan]) -> str:
    calls = sum(task.n_calls for task in tasks if task.n_calls is not None)
    further = list(dict.fromkeys(task.name for task in tasks if task.n_calls is None))
    if not further:
        return f"{calls:,} generations in all"
    take = f"as {', '.join(further)} take{'s' * (len(further) == 1)}"
    return f"{calls:,} generations, and as many {take}" if calls else f"as many generations {take}"


def _listed(parts: Mapping[str, int]) -> str:
    """`3,641 single calls, 1,465 dialogues and 111 conversations`."""
    items = [f"{count:,} {name}" for name, count in parts.items()]
    return " and ".join([", ".join(items[:-1]), items[-1]] if items[1:] else items)


def _benchmark(task: TaskPlan) -> Benchmark[Any]:
    return make_benchmark(task.benchmark, task.params, task.profile)


def grading_note(task: TaskPlan) -> str | None:
    """What follows the generation of a task before it is scored."""
    if benchmark_class(task.benchmark).grader == "sandbox":
        return f"{task.name}: programs of its answers run in a sandbox behind the generation"
    if task.judge is None:
        return None
    deployment = task.judge.deployment
    serving = deployment.serving
    if serving.kind == "external":
        where = f"at {serving.base_url}"
    else:
        gpus = serving_gpus(serving)
        where = f"served behind the generation on {gpus} GPU{'' if gpus == 1 else 's'}"
    return f"{task.name}: its answers are judged by {deployment.served_model_name}, {where}"


def not_continued(plan: Plan, task: TaskPlan) -> list[str]:
    """Fields of the task's requests that keep a vLLM of ours from going on with an interrupted answer."""
    serving = plan.deployments[task.deployment].serving
    if not isinstance(serving, VllmServing) or not plan.client.salvage:
        return []
    return find_obstacles(fixed_fields(task.generation), presence=can_load_plugin(serving))


def token_ceiling(task: TaskPlan) -> int | None:
    """Most completion tokens a task can cost; null without a limit per answer, or of their number."""
    tokens = task.generation.max_tokens
    return None if tokens is None or task.n_calls is None else tokens * task.n_calls


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON, with the counts that the table shows."""
    counts = {
        task.name: {
            "units": task.n_units,
            "calls": task.n_calls,
            "parts": task.parts,
            "shards": task.n_shards,
            "tokens": token_ceiling(task),
            "not_continued": not_continued(plan, task),
        }
        for task in plan.tasks
    }
    return {"run_id": plan.run_id, "counts": counts, "plan": plan.model_dump(mode="json")}
