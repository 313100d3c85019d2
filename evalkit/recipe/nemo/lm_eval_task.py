"""One task of lm-evaluation-harness as a task of a recipe.

The wheel's own framework.yml has the defaults, and evalkit reads it when it plans. What stands here is what
a file says over them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.recipe.nemo.adapter import ADAPTER, read_adapter, task_settings
from evalkit.recipe.nemo.env_vars import check_host, read_variables
from evalkit.recipe.nemo.judges import PARAMS
from evalkit.recipe.nemo.source import Layers

if TYPE_CHECKING:
    from evalkit.recipe.document import Path
    from evalkit.recipe.nemo.draft import Draft
    from evalkit.recipe.nemo.source import Source
    from evalkit.recipe.nemo.task import Chosen

EXTRA = (*PARAMS, "extra")
GLOBAL: Path = ("evaluation", "nemo_evaluator_config")
SAMPLING = {"temperature": "temperature", "top_p": "top_p", "max_new_tokens": "max_tokens"}
DEFAULT_PARALLELISM = 10
"""Of lm-evaluation-harness, in the launcher's task definitions."""


class LmEvalTaskReader:
    """Reads one task into a draft."""

    def __init__(self, source: Source, draft: Draft, chosen: Chosen) -> None:
        self._source = source
        self._draft = draft
        self._chosen = chosen
        self._layers = Layers(source, (GLOBAL, (*chosen.root, "nemo_evaluator_config")))

    def read(self) -> None:
        """The whole task."""
        for key in ("name", "endpoint_type"):
            value = self._source.get(*self._chosen.root, key)
            if key == "endpoint_type" and value not in (None, "completions"):
                self._source.problem(
                    (*self._chosen.root, key), "this task asks completions endpoints alone"
                )
        self._put("benchmark", self._chosen.target.benchmark, (*self._chosen.root, "name"))
        limit = self._layers.whole(*PARAMS, "limit_samples")
        if limit is not None:
            self._put("limit", limit, self._layers.path(*PARAMS, "limit_samples"))
        self._params()
        self._generation()
        adapter = read_adapter(self._layers)
        for key, value in task_settings(adapter).items():
            self._put(key, value, self._layers.path(*ADAPTER))
        check_host(
            self._source, read_variables(self._source, (), ("evaluation",), self._chosen.root)
        )
        core = self._layers.text(*PARAMS, "task")
        if core not in (None, self._chosen.target.core):
            self._layers.problem(
                (*PARAMS, "task"), f"{self._chosen.target.benchmark} has a task of its own alone"
            )

    def parallelism(self) -> int:
        """Requests in flight that the file asks for."""
        return self._layers.whole(*PARAMS, "parallelism") or DEFAULT_PARALLELISM

    def _put(self, key: str, value: Any, nemo: Path) -> None:
        self._draft.put(
            ("tasks", self._chosen.label, key), value, self._source.document.where(nemo)
        )

    def _params(self) -> None:
        params: dict[str, Any] = dict(self._chosen.target.params)
        for name in ("num_fewshot", "downsampling_ratio"):
            if (value := self._layers.get(*EXTRA, name)) is not None:
                params[name] = value
        if self._layers.text(*EXTRA, "args") is not None:
            self._layers.problem(
                (*EXTRA, "args"), "evalkit takes no command line of lm-eval; set the task's params"
            )
        for name in ("tokenizer", "tokenizer_backend", "tokenized_requests"):
            if self._layers.get(*EXTRA, name) is not None:
                self._layers.ignore(
                    (*EXTRA, name), "likelihoods are asked by the served model's own"
                )
        self._put("params", params, (*self._chosen.root, "name"))

    def _generation(self) -> None:
        own = {
            name: self._layers.get(*PARAMS, key)
            for key, name in SAMPLING.items()
            if self._layers.is_own(*PARAMS, key)
        }
        if own:
            self._put("generation", own, self._layers.path(*PARAMS))
