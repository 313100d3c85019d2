"""From a launcher file to a recipe: compose, override, select, check, read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import RecipeError
from evalkit.recipe.nemo.compose import compose
from evalkit.recipe.nemo.deployment import read_target
from evalkit.recipe.nemo.draft import Draft
from evalkit.recipe.nemo.evaluation import read_evaluation
from evalkit.recipe.nemo.execution import output_of, read_execution
from evalkit.recipe.nemo.keys import is_known, key_problems, unknown_key
from evalkit.recipe.nemo.lenient import mend
from evalkit.recipe.nemo.ns_args import parse_args
from evalkit.recipe.nemo.overrides import apply, selected, task_names
from evalkit.recipe.nemo.reasons import reason_of
from evalkit.recipe.nemo.source import Note, Source
from evalkit.recipe.nemo.task import GLOBAL, Chosen
from evalkit.recipe.nemo.tasks import TaskName, similar, understand
from evalkit.recipe.nemo.wheel_task import why_no_wheel_task
from evalkit.recipe.problems import recipe_error
from evalkit.recipe.shorthand import model_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.recipe.document import Document
    from evalkit.recipe.document import Path as Key

LIST = "interceptors"
ARGS = ("nemo_evaluator_config", "config", "params", "extra", "args")


@dataclass(frozen=True)
class NemoOptions:
    """How a launcher file is read."""

    skip_unsupported: bool = False
    """Go on without the tasks that evalkit has not got; they are named in plan and results."""
    lenient: bool = False
    """Take `config:` and `target:` of a task for what they were meant to be."""
    only_shows: bool = False
    """Nothing will be run: tasks that evalkit has not got, values that the file leaves to its user (`???`)
    and variables that are not set are named, and refuse nothing."""


@dataclass(frozen=True)
class NemoRecipe:
    """A launcher file as a recipe."""

    document: Document
    notes: tuple[Note, ...]
    """Keys without effect or with another meaning, in the order of the file."""


def read_nemo(
    own: Document,
    origin: str,
    *,
    overrides: Sequence[str],
    tasks: Sequence[str],
    options: NemoOptions,
    env: Mapping[str, str],
) -> NemoRecipe:
    """The recipe that a launcher file means. Raises RecipeError with every problem that was found."""
    if options.lenient:
        own = mend(own)
    document = compose(own)
    for text in overrides:
        document = apply(text, document)
    errors, odd = key_problems(document)
    if errors:
        raise recipe_error(errors, document, origin)
    source, draft = Source(document, env, only_shows=options.only_shows), Draft()
    chosen, left = _choose(source, draft, tasks, options)
    indices = {each.index for each in chosen}
    for problem in odd:
        if _is_ours(problem.path, indices):
            source.ignore(problem.path, problem.text, important=True)
    served = read_target(source)
    read_execution(source, draft, served)
    place = document.where(served.path)
    draft.put(("models", model_name(served.name)), served.model, place)
    draft.put(("serving",), served.serving, place)
    read_evaluation(source, draft, chosen)
    draft.put(("tasks",), {}, document.where(("evaluation", "tasks")))
    if draft.unavailable:
        draft.put(("unavailable",), draft.unavailable, document.where(("evaluation", "tasks")))
    if source.problems:
        raise recipe_error(source.problems, document, origin)
    _note_left(source, left, has_tasks=bool(chosen))
    _note_unread(source, indices)
    return NemoRecipe(draft.document(), _in_order(source.notes))


def run_folder(own: Document, origin: str, env: Mapping[str, str]) -> Path | None:
    """The folder of the run, if the file names it whole. Raises RecipeError where it is not given.

    Nothing else of the file is looked at: it may still leave things to its user.
    """
    source = Source(compose(own), env)
    value = source.get("execution", "output_dir")
    if source.problems:
        raise recipe_error(source.problems, source.document, origin)
    output = output_of(str(value))
    return Path(output["dir"]) / output["name"] if "name" in output else None


def _choose(
    source: Source, draft: Draft, tasks: Sequence[str], options: NemoOptions
) -> tuple[list[Chosen], dict[int, str]]:
    """The selected tasks that evalkit has, and the labels of the others by position: they are in the draft,
    or in the error that names them."""
    written = task_names(source.document.data)
    if not written:
        source.problem(("evaluation", "tasks"), "the file has no task")
    names = [understand(name) for name in written]
    labels = _labels(names)
    chosen: list[Chosen] = []
    left: dict[int, str] = {}
    for index in selected(written, tasks):
        name, path = names[index], ("evaluation", "tasks", index, "name")
        if not name.harnesses:
            source.problem(
                path,
                f"neither evalkit nor the launcher has a task '{written[index]}'. {similar(name.name)}".strip(),
            )
            continue
        reason = _why_not(source, index, name)
        if reason is None and name.target is not None:
            chosen.append(Chosen(index, labels[index], name.target))
        else:
            draft.unavailable[labels[index]] = str(reason)
            left[index] = labels[index]
    if draft.unavailable and not (options.skip_unsupported or options.only_shows):
        raise RecipeError(
            _not_available(draft.unavailable),
            hint=_what_to_do(chosen),
        )
    return chosen, left


def _why_not(source: Source, index: int, name: TaskName) -> str | None:
    """Why a task is not available, null where it is."""
    if name.target is None:
        return name.reason
    if name.target.is_wheel:
        own = ("evaluation", "tasks", index, "nemo_evaluator_config")
        return why_no_wheel_task(source, (GLOBAL, own))
    args = source.peek("evaluation", "tasks", index, *ARGS)
    if isinstance(args, str) and parse_args(args).python and name.target.with_python is None:
        return f"evalkit has {name.target.benchmark} without a Python tool alone"
    return None


def _labels(names: Sequence[TaskName]) -> list[str]:
    """Names in the recipe: without the harness, and with the position where one is there twice."""
    plain = [name.name for name in names]
    return [f"{n}.{i}" if plain.count(n) > 1 else n for i, n in enumerate(plain)]


def _not_available(unavailable: Mapping[str, str]) -> str:
    lines = [f"  {label}: {reason}" for label, reason in unavailable.items()]
    number = f"{len(lines)} task{'s are' if len(lines) > 1 else ' is'}"
    return "\n".join([f"{number} not available in evalkit", *lines])


def _what_to_do(chosen: Sequence[Chosen]) -> str:
    if not chosen:
        return (
            "None of the selected tasks can be run. `evalkit convert FILE` shows what the file is as a "
            "recipe."
        )
    some = " -t ".join(each.label for each in chosen[:3])
    return (
        "Leave them out with --skip-unsupported (plan and results then name them), or choose others: "
        f"-t {some}"
    )


def _is_ours(path: Key, indices: set[int]) -> bool:
    """Whether a key concerns what is run: keys of other tasks do not."""
    if path[:2] == ("evaluation", "tasks"):
        return len(path) > 2 and path[2] in indices
    return bool(indices) or path[:2] != GLOBAL


def _note_left(source: Source, left: Mapping[int, str], *, has_tasks: bool) -> None:
    """Notes about the keys of tasks that are not available; of all tasks', where there is no other."""
    for path in source.unread(lambda path: path[:2] in (("evaluation", "tasks"), GLOBAL)):
        if path[:2] == GLOBAL:
            if left and not has_tasks:
                source.ignore(path, "not taken over: no task of the file is available")
        elif path[2] in left and path[3:] != ("name",):
            key = _whole_interceptor(path)
            item = source.peek(*key)
            what = f"{item.get('name')} is " if key != path and isinstance(item, dict) else ""
            source.ignore(key, f"{what}not taken over: task {left[int(path[2])]} is not available")


def _whole_interceptor(path: Key) -> Key:
    """The entry of an adapter's list that a key belongs to; else the key."""
    return path[: path.index(LIST) + 2] if LIST in path[:-1] else path


def _note_unread(source: Source, indices: set[int]) -> None:
    """Notes about keys of the file that nothing reads."""
    for path in source.unread(lambda path: _is_ours(path, indices)):
        text = reason_of(path)
        if not is_known(path):
            text = unknown_key(path).text
        source.ignore(path, text)


def _in_order(notes: Sequence[Note]) -> tuple[Note, ...]:
    """By line of the file, then those of the command line and of the groups; each once."""

    def key(note: Note) -> tuple[bool, str, int]:
        name, _, line = note.place.rpartition(":")
        return (not line.isdigit(), name, int(line) if line.isdigit() else 0)

    return tuple(sorted(dict.fromkeys(notes), key=key))
