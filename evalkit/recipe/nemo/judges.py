"""`extra.judge`: the models that judge answers, as a recipe's `judges`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.recipe.nemo.deployment import (
    LEFT,
    LEFT_URL,
    endpoint_url,
    key_variable,
    read_deployment,
)
from evalkit.recipe.nemo.ns_args import parse_args
from evalkit.recipe.shorthand import model_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.recipe.document import Path
    from evalkit.recipe.nemo.draft import Draft
    from evalkit.recipe.nemo.env_vars import Variable
    from evalkit.recipe.nemo.source import Layers, Source
    from evalkit.recipe.nemo.tasks import Target

PARAMS = ("config", "params")
JUDGE = (*PARAMS, "extra", "judge")
AUXILIARY = "auxiliary_deployments."
SAMPLING = {"temperature": "temperature", "top_p": "top_p", "max_new_tokens": "max_tokens"}


def judge_of(
    source: Source,
    draft: Draft,
    layers: Layers,
    target: Target,
    variables: Mapping[str, Variable],
) -> str | None:
    """The name of the judge of a task, put into the recipe; null where the file names none."""
    url = layers.get(*JUDGE, "url") or target.judge.get("url")
    if url is None and source.is_missing(*layers.path(*JUDGE, "url")):
        url = LEFT_URL
    if url is None:
        return None
    model = layers.text(*JUDGE, "model_id") or target.judge.get("model_id")
    if model is None and source.is_missing(*layers.path(*JUDGE, "model_id")):
        model = LEFT
    if model is None:
        layers.problem((*JUDGE, "model_id"), "a judge with a url needs a model_id")
        return None
    if str(url).startswith(AUXILIARY):
        name, judge = _auxiliary(source, str(url), str(model))
    else:
        name, judge = (
            model_name(str(model)),
            _hosted(source, layers, str(url), str(model), variables),
        )
    judge |= _settings(layers)
    name = _free_name(draft, name, judge)
    draft.put(("judges", name), judge, source.document.where(layers.path(*JUDGE, "url")))
    return name


def asks_official(layers: Layers) -> bool:
    """Whether verdicts are asked for as JSON, as the data's authors do."""
    args = parse_args(layers.text(*JUDGE, "args") or "")
    for text in args.problems:
        layers.problem((*JUDGE, "args"), text)
    return args.official_judge or bool(layers.get(*JUDGE, "hle_strict_judge"))


def _hosted(
    source: Source, layers: Layers, url: str, model: str, variables: Mapping[str, Variable]
) -> dict[str, Any]:
    path = layers.path(*JUDGE, "url")
    serving: dict[str, Any] = {"kind": "external"}
    serving["base_url"] = endpoint_url(source, path, url) or LEFT_URL
    key = _key(source, layers, variables)
    if key is not None:
        serving["api_key_env"] = key
    return {"id": model, "serving": serving}


def _key(source: Source, layers: Layers, variables: Mapping[str, Variable]) -> str | None:
    """The variable that holds the key here: `env_vars` may give it another name in the container."""
    path = layers.path(*JUDGE, "api_key")
    name = key_variable(source, path, layers.get(*JUDGE, "api_key"))
    variable = None if name is None else variables.get(name)
    if variable is None:
        return name
    if variable.kind == "lit":
        source.problem(variable.path, "a key is given by the name of its variable: host:NAME")
        return None
    return variable.text


def _auxiliary(source: Source, url: str, model: str) -> tuple[str, dict[str, Any]]:
    name = url.removeprefix(AUXILIARY).partition(".")[0]
    root: Path = ("auxiliary_deployments", name)
    served = read_deployment(source, root)
    for key in ("num_nodes", "num_instances", "env_prefix", "port"):
        if source.is_given(*root, key):
            source.ignore((*root, key), "a judge is served on the machine that grades")
    if not model.startswith(AUXILIARY):
        served.serving["served_model_name"] = model
    return model_name(name), {**served.model, "serving": served.serving}


def _settings(layers: Layers) -> dict[str, Any]:
    found: dict[str, Any] = {}
    generation = {
        name: value
        for key, name in SAMPLING.items()
        if (value := layers.get(*JUDGE, key)) is not None
    }
    if generation:
        found["generation"] = generation
    parallelism = layers.whole(*JUDGE, "parallelism")
    if parallelism is not None:
        found["parallelism"] = parallelism
    return found


def _free_name(draft: Draft, name: str, judge: dict[str, Any]) -> str:
    """The name, with a number behind it where another judge has it."""
    judges = draft.data.get("judges", {})
    number, free = 1, name
    while free in judges and judges[free] != judge:
        number += 1
        free = f"{name}-{number}"
    return free
