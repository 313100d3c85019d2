"""A `framework.yml` of NVIDIA's wheels: its tasks, their settings, and the command that runs one.

The format is that of nemo-evaluator 0.2. The command is a Jinja template for bash; a name that is not there is an
error. Nothing is run here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined, TemplateError

from evalkit.errors import PlanError
from evalkit.recipe.yaml_text import parse_yaml

if TYPE_CHECKING:
    from pathlib import Path

ROUTES: Mapping[str, str] = {
    "chat": "chat/completions",
    "completions": "completions",
    "completions_logprob": "completions",
}
"""Kinds of endpoints that the gateway has, and their routes below `/v1`."""
_DEPTH = 5
"""Templates in values of templates are rendered so often at most."""


@dataclass(frozen=True, slots=True)
class Framework:
    """What a file says."""

    name: str
    """Of the framework, such as `simple_evals`."""
    package: str
    """Folder below `core_evals`, with its `output.py`."""
    evaluations: Mapping[str, Mapping[str, Any]]
    """By name: `description`, `command`, `config` and `target`, the task's own laid over the defaults."""


def read_framework(path: Path) -> Framework:
    """Raises PlanError for a file that is none."""
    try:
        data = parse_yaml(path.read_text("utf-8"), path.name).data
        about: Mapping[str, Any] = data["framework"]
        defaults: Mapping[str, Any] = data.get("defaults") or {}
        return Framework(
            name=about["name"],
            package=about.get("pkg_name") or about["name"],
            evaluations={
                each["name"]: {
                    "description": " ".join(str(each.get("description") or "").split()),
                    **overlay(defaults, each.get("defaults") or {}),
                }
                for each in data["evaluations"]
            },
        )
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{path} is no framework.yml of nemo-evaluator 0.2: {error!r}") from error


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings laid over each other, at every depth; all else is replaced."""
    merged = deepcopy(dict(below))
    for key, value in above.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            merged[key] = overlay(before, value)
        else:
            merged[key] = deepcopy(value)
    return merged


def render(evaluation: Mapping[str, Any], target: Mapping[str, Any], output: str) -> str:
    """The text for bash. `target` are the fields of `target.api_endpoint`.

    Values of it and `output` go into the text as they are, so they must need no quotes. Raises PlanError for
    one that does, and where the template wants what there is not.
    """
    for name, value in {**target, "output_dir": output}.items():
        if isinstance(value, str) and shlex.quote(value) != value:
            raise PlanError(
                f"{name} is {value!r}: the wheel's command is text for a shell and does not quote it",
                hint="Use names and folders of letters, digits and @%+=:,./-_ alone.",
            )
    endpoint = {"stream": None, "adapter_config": None, **target}
    values = {
        "config": {**evaluation["config"], "output_dir": output},
        "target": {"api_endpoint": endpoint},
        "framework_name": evaluation.get("framework_name"),
        "pkg_name": evaluation.get("pkg_name"),
    }
    environment = Environment(undefined=StrictUndefined)
    text = str(evaluation["command"])
    try:
        for _ in range(_DEPTH):
            rendered = environment.from_string(text).render(values)
            if rendered == text:
                return rendered
            text = rendered
    except TemplateError as error:
        raise PlanError(
            f"the wheel's command cannot be made: {error}",
            hint="Where a setting is missing, give it in params.extra.",
        ) from error
    raise PlanError("the wheel's command holds templates that make templates for ever")


def endpoint_types(evaluation: Mapping[str, Any]) -> str:
    """The kinds of endpoints that a task supports, in words."""
    return ", ".join(evaluation["config"].get("supported_endpoint_types") or ())


def shown_defaults(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of its answers: those that a recipe may want to change, where they are plain values."""
    params = evaluation["config"].get("params") or {}
    said = {name: params.get(name) for name in ("max_new_tokens", "temperature", "top_p")}
    extra = params.get("extra") or {}
    plain = {k: v for k, v in extra.items() if isinstance(v, str | int | float) and v is not False}
    return {name: value for name, value in {**said, **plain}.items() if value is not None}
