"""A task of a wheel with a `framework.yml`: its settings are passed on to the wheel that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.recipe.nemo.adapter import ADAPTER, read_adapter, task_settings
from evalkit.recipe.nemo.env_vars import check_host, read_variables
from evalkit.recipe.nemo.judges import PARAMS
from evalkit.recipe.nemo.ns_args import parse_args
from evalkit.recipe.nemo.task import EXTRA, SAMPLING, TaskReader

if TYPE_CHECKING:
    from evalkit.recipe.nemo.source import Source

AUXILIARY = "auxiliary_deployments."
ALWAYS_SEEN = "HF_"
"""Variables that every harness sees."""


class WheelTaskReader(TaskReader):
    """Reads such a task into a draft."""

    def read(self) -> None:
        """The whole task. What the file leaves out, the wheel sets as it does in the launcher."""
        self._endpoint()
        self._put("benchmark", self._chosen.target.benchmark, (*self._chosen.root, "name"))
        self._limit(parse_args(""))
        self._wheel_params()
        own = {
            name: self._layers.get(*PARAMS, key)
            for key, name in SAMPLING.items()
            if self._layers.is_own(*PARAMS, key)
        }
        if own:
            self._put("generation", own, self._layers.path(*PARAMS))
        adapter = task_settings(read_adapter(self._layers))
        for key, value in adapter.items():
            self._put(key, value, self._layers.path(*ADAPTER))
        self._rest()

    def _wheel_params(self) -> None:
        params: dict[str, Any] = {}
        extra = self._layers.get(*EXTRA)
        if extra:
            params["extra"] = extra
        variables = read_variables(self._source, ("evaluation",), self._chosen.root)
        check_host(self._source, variables)
        passed = [
            name
            for name, each in variables.items()
            if each.kind == "host" and not each.is_renamed and not name.startswith(ALWAYS_SEEN)
        ]
        if passed:
            params["pass_env"] = passed
        if params:
            self._put("params", params, self._layers.path(*EXTRA))


def why_no_wheel_task(source: Source, roots: tuple[tuple[str | int, ...], ...]) -> str | None:
    """Why a task of a wheel is not available, null where it is."""
    for root in roots:
        url = source.peek(*root, *EXTRA, "judge", "url")
        if isinstance(url, str) and url.startswith(AUXILIARY):
            return (
                "its judge is a deployment beside the model, which evalkit starts for no wheel: give the "
                "url and model_id of an endpoint"
            )
    return None
