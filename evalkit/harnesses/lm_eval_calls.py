"""What is asked of lm-eval's own Python, and how it may fail."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.env import cache_folder
from evalkit.benchmarks.harness import HarnessTask
from evalkit.errors import DataError, PlanError, RecipeError, ScorerError
from evalkit.harnesses.call import InsideError, call
from evalkit.harnesses.environments import find_python
from evalkit.harnesses.lm_eval_sandbox import refuse_image, score_in_sandbox
from evalkit.store.layout import RunFolder
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.harness import EnvironmentSpec

DRIVER = "lm_eval_driver.py"
ANSWER_S = 600.0
"""For a list of tasks: their files are thousands."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
"""What the plan was made from is in the cache, and other data would be another plan's."""
UNTRUSTED = "HF_ALLOW_CODE_EVAL"


def list_tasks(spec: EnvironmentSpec) -> list[HarnessTask]:
    """All there is. Raises PlanError."""
    answer = _tell(spec, "tasks")
    return [
        HarnessTask(row["name"], row["kind"], row["description"], row["defaults"])
        for row in answer["tasks"]
    ]


def read_framework(spec: EnvironmentSpec) -> Mapping[str, Any]:
    """The launcher's tasks, where the package has some. Raises PlanError."""
    answer: Mapping[str, Any] = _tell(spec, "framework")
    return answer


def build_requests(
    spec: EnvironmentSpec, options: Mapping[str, Any], out: Path
) -> Mapping[str, Any]:
    """Have all requests of a task written to `out`, a line each. Returns what is known about the tasks.

    Reads data sets, from the hub where that can be reached. Raises PlanError, RecipeError, DataError.
    """
    arguments = {**_arguments(spec, "requests"), "options": options, "out": str(out)}
    try:
        answer: Mapping[str, Any] = call(
            find_python(spec), DRIVER, arguments, env=_code_settings(options)
        )
    except InsideError as error:
        if UNTRUSTED in error.tail and not options.get("confirm_run_unsafe_code"):
            raise RecipeError(
                f"{options['task']} runs code that the model wrote",
                hint="Set params.allow_code_execution: true; it runs in evalkit's sandbox only, when "
                "the run is gathered.",
            ) from error
        if error.refused:
            raise RecipeError(error.message) from error
        raise DataError(
            f"{spec.name} cannot build the requests of {options['task']}: {error.message}",
            hint="Its data sets come from the hub, or from the cache below HF_HOME. It said last:\n"
            + error.tail,
        ) from error
    return answer


def score_answers(
    spec: EnvironmentSpec,
    options: Mapping[str, Any],
    answers: Mapping[str, Any],
    run: Path,
    out: Path,
    alone: Sequence[str],
) -> Mapping[str, Any]:
    """Have lm-eval score `answers`, by key. Its files go into `out`. Raises ScorerError.

    `alone` are tasks that run the model's code in lm-eval's own process, as the plan has them: that process
    could say anything of itself. They are `run_by_themselves` of the answer.
    """
    arguments = {**_arguments(spec, "results"), "options": options}
    env = {**OFFLINE, **_code_settings(options)}
    try:
        python = find_python(spec)
        if options.get("confirm_run_unsafe_code"):
            scoring = load_plan(RunFolder(run)).scoring
            asked = {**arguments, "env": env}
            refuse_image(alone, scoring)
            scored = score_in_sandbox(python, DRIVER, asked, answers, scoring, out)
            return {**scored, "run_by_themselves": alone}
        with tempfile.TemporaryDirectory(prefix="evalkit-lm-eval-") as folder:
            path = Path(folder) / "answers.json"
            path.write_text(json.dumps(answers), "utf-8", errors="surrogatepass")
            places = {"answers": str(path), "out": str(out.absolute())}
            told: Mapping[str, Any] = call(python, DRIVER, {**arguments, **places}, env=env)
    except PlanError as error:
        raise ScorerError(error.message, hint=error.hint) from error
    except InsideError as error:
        raise ScorerError(
            f"{spec.name}: {error.message}", hint=None if error.refused else error.tail
        ) from error
    return told


def _arguments(spec: EnvironmentSpec, command: str) -> dict[str, Any]:
    index = cache_folder() / "harnesses" / spec.name
    return {"command": command, "package": spec.package, "index": str(index)}


def _tell(spec: EnvironmentSpec, command: str) -> Any:
    python = find_python(spec)
    try:
        return call(python, DRIVER, _arguments(spec, command), timeout_s=ANSWER_S)
    except InsideError as error:
        raise PlanError(f"{spec.name}: {error.message}", hint=error.tail) from error


def _code_settings(options: Mapping[str, Any]) -> dict[str, str]:
    """Set either way: a shell that allows it must not run a model's code outside of the sandbox."""
    return {UNTRUSTED: "1" if options.get("confirm_run_unsafe_code") else "0"}
