"""One task of `evaluation.tasks`, with its parameters, as a task of a recipe.

Parameters are laid over each other as in the launcher: the task's defaults, those of all tasks, its own,
and the arguments of the harness behind them.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evalkit.recipe.nemo.adapter import ADAPTER, read_adapter, task_settings
from evalkit.recipe.nemo.env_vars import check_host, read_variables
from evalkit.recipe.nemo.judges import JUDGE, PARAMS, asks_official, judge_of
from evalkit.recipe.nemo.keys import extra_problems
from evalkit.recipe.nemo.ns_args import NsArgs, parse_args
from evalkit.recipe.nemo.source import Layers

if TYPE_CHECKING:
    from evalkit.recipe.document import Path
    from evalkit.recipe.nemo.draft import Draft
    from evalkit.recipe.nemo.source import Source
    from evalkit.recipe.nemo.tasks import Target

EXTRA = (*PARAMS, "extra")
GLOBAL: Path = ("evaluation", "nemo_evaluator_config")
SAMPLING = {"temperature": "temperature", "top_p": "top_p", "max_new_tokens": "max_tokens"}
DEFAULT_PARALLELISM = 16
"""Of the tasks of NeMo Skills, in the launcher's task definitions."""
STAND_INS = {
    "/nemo_run/code/eval_factory_prompts/math-oai.yaml": "gpt-oss/math",
    "/prompt_templates/math-oai.yaml": "gpt-oss/math",
}
"""Prompts that lie in a container and were never published, and what stands in for them."""
SPLIT = re.compile(r"test_(v[1-6])_(\d\d)(\d\d)_(\d\d)(\d\d)")
CODE = "livecodebench_v6"


@dataclass(frozen=True)
class Chosen:
    """A task of the file that is to be run."""

    index: int
    """Position in the file's list."""
    label: str
    """Its name in the recipe."""
    target: Target

    @property
    def root(self) -> Path:
        """Where it stands."""
        return ("evaluation", "tasks", self.index)


class TaskReader:
    """Reads one task into a draft."""

    def __init__(self, source: Source, draft: Draft, chosen: Chosen) -> None:
        self._source = source
        self._draft = draft
        self._chosen = chosen
        self._own: Path = (*chosen.root, "nemo_evaluator_config")
        self._layers = Layers(source, (GLOBAL, self._own))
        self._path: Path = ("tasks", chosen.label)

    def read(self) -> None:
        """The whole task."""
        self._endpoint()
        self._source.problems += [
            problem
            for problem in extra_problems(self._source.document, (*self._own, *EXTRA))
            if problem not in self._source.problems
        ]
        args = self._args()
        target = self._chosen.target
        benchmark = (target.with_python or target.benchmark) if args.python else target.benchmark
        self._put("benchmark", benchmark, (*self._chosen.root, "name"))
        self._put("repeats", self._repeats(), self._layers.path(*EXTRA, "num_repeats"))
        self._limit(args)
        self._params(args)
        self._generation(args)
        self._adapter()
        self._judge()
        self._rest()

    def _endpoint(self) -> None:
        for key in ("name", "endpoint_type"):
            value = self._source.get(*self._chosen.root, key)
            if key == "endpoint_type" and value not in (None, "chat"):
                self._source.problem((*self._chosen.root, key), "evalkit asks chat endpoints alone")

    def parallelism(self) -> int:
        """Requests in flight that the file asks for."""
        return self._layers.whole(*PARAMS, "parallelism") or DEFAULT_PARALLELISM

    def _put(self, key: str, value: Any, nemo: Path) -> None:
        place = self._source.document.where(nemo)
        self._draft.put((*self._path, key), value, place)

    def _args(self) -> NsArgs:
        args = parse_args(self._layers.text(*EXTRA, "args") or "")
        for text in args.problems:
            self._layers.problem((*EXTRA, "args"), text)
        if args.concurrency is not None:
            self._layers.note(
                (*EXTRA, "args"), "max_concurrent_requests has no effect: parallelism counts"
            )
        return args

    def _repeats(self) -> int:
        return self._layers.whole(*EXTRA, "num_repeats") or self._chosen.target.repeats

    def _limit(self, args: NsArgs) -> None:
        value = self._layers.get(*PARAMS, "limit_samples")
        if isinstance(value, float) and value.is_integer() and value >= 1:
            value = int(value)
        if value is not None and (not isinstance(value, int) or value < 1):
            self._layers.problem(
                (*PARAMS, "limit_samples"), "expected a whole number of samples of at least 1"
            )
            return
        known = [each for each in (value, args.limit) if each is not None]
        if known:
            self._put("limit", min(known), self._layers.path(*PARAMS, "limit_samples"))

    def _params(self, args: NsArgs) -> None:
        params: dict[str, Any] = dict(self._chosen.target.params)
        prompt = self._prompt(args)
        if prompt is not None:
            params["prompt"] = prompt
        params |= self._split()
        if self._chosen.target.benchmark == "hle" and asks_official(self._layers):
            params["judge_prompt"] = "judge/hle-official"
        if params:
            self._put("params", params, self._layers.path(*EXTRA, "args"))

    def _prompt(self, args: NsArgs) -> str | None:
        asked, key = args.prompt, (*EXTRA, "args")
        if asked is None:
            asked, key = self._layers.text(*EXTRA, "prompt_config"), (*EXTRA, "prompt_config")
        if asked is None:
            return self._chosen.target.prompt
        if not self._chosen.target.takes_prompt:
            self._layers.problem(
                key, f"{self._chosen.target.benchmark} has a prompt of its own alone"
            )
        elif asked in STAND_INS:
            self._layers.note(
                key,
                f"{asked} was never published; the prompt {STAND_INS[asked]} stands in for it",
                important=True,
            )
            return STAND_INS[asked]
        elif asked.startswith("/") or asked.endswith((".yaml", ".yml")):
            self._layers.problem(
                key,
                f"{asked} is a file of the launcher's container or of NeMo Skills, which evalkit cannot "
                "read. Write its text into a file with {problem} in it, and set the task's "
                f"params.prompt: -o {self._chosen.label}.params.prompt=FILE",
            )
        return asked

    def _split(self) -> dict[str, Any]:
        target = self._chosen.target
        asked = self._layers.text(*EXTRA, "dataset_split") or target.split
        key = (*EXTRA, "dataset_split")
        if target.benchmark != CODE:
            if asked != target.split:
                self._layers.problem(key, f"evalkit has the split {target.split} alone")
            return {}
        match = SPLIT.fullmatch(asked or "")
        if match is None or not (1 <= int(match[3]) <= 12 and 1 <= int(match[5]) <= 12):
            self._layers.problem(key, "expected test_vN_YYMM_YYMM, as in test_v6_2408_2505")
            return {}
        release, year, month = match[1], 2000 + int(match[4]), int(match[5])
        first = f"20{match[2]}-{match[3]}-01"
        last = f"{year}-{month:02}-{calendar.monthrange(year, month)[1]}"
        if self._layers.is_own(*key) and asked != "test_v6_2408_2505":
            self._layers.note(
                key, f"the window {first} to {last} of release {release}, not that of the card (v6)"
            )
        return {"release": release, "from_date": first, "to_date": last}

    def _generation(self, args: NsArgs) -> None:
        own = {
            name: self._layers.get(*PARAMS, key)
            for key, name in SAMPLING.items()
            if self._layers.is_own(*PARAMS, key)
        }
        own |= args.generation
        server = self._layers.text(*EXTRA, "server_type")
        if server == "vllm":
            # Only its client for openai servers sends the penalty of the card.
            own["presence_penalty"] = 0.0
        elif server not in (None, "openai"):
            self._layers.problem((*EXTRA, "server_type"), "expected openai or vllm")
        if own:
            self._put("generation", own, self._layers.path(*PARAMS))
        for key, name in SAMPLING.items():
            if self._layers.get(*PARAMS, key) is None and name not in own:
                self._layers.note(
                    (*PARAMS, key),
                    f"not set: {self._chosen.target.benchmark}'s own setting applies, not NeMo Skills'",
                    important=True,
                )

    def _adapter(self) -> None:
        adapter = read_adapter(self._layers)
        system = self._layers.text(*EXTRA, "system_message")
        if system is not None and adapter.system_message is not None:
            self._layers.problem(
                (*EXTRA, "system_message"),
                "adapter_config has a custom_system_prompt, too: give one",
            )
        elif system is not None:
            adapter = replace(adapter, system_message=system)
        for key, value in task_settings(adapter).items():
            self._put(key, value, self._layers.path(*ADAPTER))

    def _judge(self) -> None:
        target = self._chosen.target
        variables = read_variables(self._source, (), ("evaluation",), self._chosen.root)
        check_host(self._source, variables)
        if target.benchmark != "hle":
            if self._layers.get(*JUDGE, "url") is not None:
                self._layers.ignore(
                    JUDGE,
                    f"no judge is asked about {target.benchmark}, whose answers are compared",
                    important=True,
                )
            self._layers.use(*EXTRA, "judge_support")
            return
        if not (self._layers.get(*EXTRA, "judge_support") or target.judge):
            self._layers.problem(
                (*EXTRA, "judge_support"), "answers to hle are judged by a model: set it to true"
            )
        name = judge_of(self._source, self._draft, self._layers, target, variables)
        if name is not None:
            self._put("judge", name, self._layers.path(*JUDGE))
        elif self._source.peek(*self._layers.path(*JUDGE, "url")) is None:
            self._layers.problem(
                (*JUDGE, "url"), "answers to hle are judged by a model: give its URL"
            )

    def _rest(self) -> None:
        core = self._layers.text(*PARAMS, "task")
        if core not in (None, self._chosen.target.core):
            self._layers.problem(
                (*PARAMS, "task"), f"evalkit has {self._chosen.target.core} here alone"
            )
        for key in ("pre_cmd", "post_cmd"):
            refuse_command(self._source, (*self._chosen.root, key))


def refuse_command(source: Source, path: Path) -> None:
    """Shell text is a problem: a configuration runs nothing by being read."""
    if source.get(*path):
        name = ".".join(map(str, path))
        source.problem(
            path, f"evalkit runs no shell text of a configuration. Delete it: -o '~{name}'"
        )
