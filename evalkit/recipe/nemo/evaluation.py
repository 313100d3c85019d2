"""`evaluation`: all tasks, and what they have in common, as a recipe's `tasks`, `generation` and `client`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.recipe.nemo.env_vars import Variable, read_variables
from evalkit.recipe.nemo.judges import PARAMS
from evalkit.recipe.nemo.lm_eval_task import LmEvalTaskReader
from evalkit.recipe.nemo.task import GLOBAL, SAMPLING, TaskReader, refuse_command
from evalkit.recipe.nemo.wheel_task import WheelTaskReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.recipe.document import Path
    from evalkit.recipe.nemo.draft import Draft
    from evalkit.recipe.nemo.source import Source
    from evalkit.recipe.nemo.task import Chosen


def read_evaluation(source: Source, draft: Draft, chosen: Sequence[Chosen]) -> None:
    """All chosen tasks, and what they have in common."""
    _common(source, draft)
    readers = [_reader(each)(source, draft, each) for each in chosen]
    for reader in readers:
        reader.read()
    if readers:
        _parallelism(source, draft, [reader.parallelism() for reader in readers])
    for key in ("pre_cmd", "post_cmd"):
        refuse_command(source, ("evaluation", key))
    _variables(source, draft, chosen)


def _reader(chosen: Chosen) -> type[TaskReader | LmEvalTaskReader]:
    """What reads a task's settings, by who runs it."""
    if chosen.target.is_lm_eval:
        return LmEvalTaskReader
    return WheelTaskReader if chosen.target.is_wheel else TaskReader


def _common(source: Source, draft: Draft) -> None:
    """Sampling and retries of all tasks."""
    params: Path = (*GLOBAL, *PARAMS)
    for key, name in SAMPLING.items():
        value = source.get(*params, key)
        if value is not None:
            draft.put(("generation", name), value, source.document.where((*params, key)))
    retries = source.get(*params, "max_retries")
    if retries is not None:
        place = source.document.where((*params, "max_retries"))
        draft.put(("client", "max_retries"), retries, place)


def _parallelism(source: Source, draft: Draft, numbers: list[int]) -> None:
    path: Path = (*GLOBAL, *PARAMS, "parallelism")
    given = source.is_given(*path)
    draft.put(
        ("client", "parallelism"), max(numbers), source.document.where(path) if given else None
    )
    source.note(
        path,
        f"{max(numbers)} is the total of requests in flight, the largest of all tasks; "
        "there it is shared by the repeats of a task, at least one each (-o client.parallelism=N)",
        important=True,
    )


def _variables(source: Source, draft: Draft, chosen: Sequence[Chosen]) -> None:
    """Variables of the harnesses' containers: evalkit reads its own where it is typed."""
    common = read_variables(source, (), ("evaluation",))
    for name, each in common.items():
        if each.kind == "lit":
            draft.put(("cluster", "env", name), each.text, source.document.where(each.path))
        else:
            _tell(source, each)
    for one in chosen:
        for each in read_variables(source, one.root).values():
            _tell(source, each)


def _tell(source: Source, variable: Variable) -> None:
    if variable.kind == "lit":
        source.ignore(variable.path, "tasks have no process of their own")
        return
    text = "evalkit reads it here, and hands nothing to a container"
    if variable.is_renamed:
        text = (
            f"a key of a judge is read from {variable.text}; what evalkit itself reads, "
            f"such as HF_TOKEN, it reads under its own name: set {variable.name}, too"
        )
    source.note(variable.path, text)
