"""Which settings of two results differ: everything that may explain a difference of their scores.

Pure. Settings are flat here, one dotted key for each; a setting that one side does not have is null there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from evalkit.base import Frozen
from evalkit.recipe.request import Reasoning, RequestSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evalkit.report.results import Results

KIND, URL = "serving.kind", "serving.base_url"


class SettingDifference(Frozen):
    """One setting that differs between two runs."""

    key: str
    """`generation.temperature`, `model.weights`, `server.version`, ..."""
    first: Any
    second: Any
    tasks: tuple[str, ...]
    """The tasks in which it differs so, in the order they were given."""


def setting_differences(
    pairs: Mapping[str, tuple[Results, Results]],
) -> tuple[SettingDifference, ...]:
    """What differs in which tasks, by task name; one entry where several differ in the same way."""
    found: dict[tuple[str, str], SettingDifference] = {}
    for task, (first, second) in pairs.items():
        one, two = flat_settings(first), flat_settings(second)
        for key in (*one, *(key for key in two if key not in one)):
            a, b = one.get(key), two.get(key)
            if a == b:
                continue
            known = found.get((key, repr((a, b))))
            tasks = (task,) if known is None else (*known.tasks, task)
            found[key, repr((a, b))] = SettingDifference(key=key, first=a, second=b, tasks=tasks)
    return tuple(found.values())


class FoldedSettings(NamedTuple):
    """What differs, with one entry for servers of different kinds."""

    settings: tuple[SettingDifference, ...]
    folded: int
    """Settings of such servers that are not named one by one: hardly any of one kind is known to the other."""


def fold_servings(found: Sequence[SettingDifference]) -> FoldedSettings:
    """The same without the keys of `serving` in tasks that were served by different kinds, but for what the
    kinds are."""
    kinds = {task: each for each in found if each.key == KIND for task in each.tasks}
    urls = {task: each for each in found if each.key == URL for task in each.tasks}
    settings: list[SettingDifference] = []
    folded = 0
    for each in found:
        if not (each.key.startswith("serving.") and kinds.keys() >= set(each.tasks)):
            settings.append(each)
        elif each.key != KIND:
            folded += 1
        else:
            url = urls.get(each.tasks[0])
            first, second = each.first, each.second
            if url is not None:
                first, second = _at_url(first, url.first), _at_url(second, url.second)
            update = {"key": "serving", "first": first, "second": second}
            settings.append(each.model_copy(update=update))
    return FoldedSettings(tuple(settings), folded)


def _at_url(kind: Any, url: Any) -> Any:
    return kind if url is None else f"{kind} {url}"


def flat_settings(results: Results) -> dict[str, Any]:
    """What a result was made with, by dotted key: what was asked first, where it ran last."""
    settings, provenance = results.settings, results.provenance
    sections: dict[str, Any] = {
        "recipe": results.recipe,
        "model": provenance.model.model_dump(mode="json"),
        "benchmark": results.benchmark,
        "benchmark_version": results.benchmark_version,
        "metric": results.headline.metric,
        "profile": settings.profile,
        "repeats": results.headline.repeats,
        "samples": results.headline.n_samples,
        "not_run": list(results.not_run),
        "generation": settings.generation,
        # results of older versions have neither: what is not said there was the default
        "request": {**RequestSettings().model_dump(mode="json"), **settings.request},
        "reasoning": {**Reasoning().model_dump(mode="json"), **settings.reasoning},
        "params": settings.params,
        "prompts": settings.prompts,
        "data": provenance.data.model_dump(mode="json"),
        "judge": _judge(settings.judge),
        "grader": settings.grader,
        "requests_sha256": settings.requests_sha256,
        "served_model_name": settings.served_model_name,
        "serving": settings.serving,
        "server": server_facts(results),
        "evalkit": None if provenance.made_by is None else provenance.made_by.get("evalkit"),
    }
    return dict(_flatten(sections, ""))


def server_facts(results: Results) -> dict[str, Any]:
    """What the run's servers said about themselves: the value, or all of them where they differ."""
    facts = [server.facts for server in results.provenance.servers]
    return {
        key: values[0] if len(values) == 1 else values
        for key in ("kind", "version", "max_model_len", "gpus")
        if (values := _distinct([each.get(key) for each in facts]))
    }


def _judge(judge: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Who judged and how, without how many at once."""
    if judge is None:
        return {}
    return {**judge["identity"], "served_model_name": judge["deployment"]["served_model_name"]}


def _distinct(values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _flatten(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flatten(inner, f"{prefix}{key}.")
        elif inner is not None and inner != []:
            yield f"{prefix}{key}", inner
