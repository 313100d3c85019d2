"""Asks lm-eval what it would ask a model, and later gives it the answers.

`main` takes and returns JSON; its `command` is one of
  tasks     what there is: name, kind, description
  framework the tasks of NVIDIA's `framework.yml`, where the wheel has one
  requests  every request of one task or group, in lm-eval's order: a line each in the file `out`
  programs  what the model wrote and a task wants to run, from the answers in the file `answers`
  results   its metrics and samples, made from the answers in the file `answers`; nothing is sent. Programs
            are not run: their verdicts are in the file `verdicts`

Upstream's lm-eval and NVIDIA's older edition of it are served by the same code: what a version takes is
read from its signatures, and an option that it does not have is refused, never ignored.

A request is known by its base, the hash of [method, arguments], and by how many equal ones came before:
`base#3`. Both commands make the same call of `simple_evaluate`, so they meet the same requests in the
same order, few-shot examples included, whatever happened in between.
"""

import contextlib
import inspect
import json
import logging
import os
import sys
from pathlib import Path

from lm_eval_asked import Watched
from lm_eval_code import Programs
from lm_eval_index import framework, index, refuse_unknown, tasks
from lm_eval_told import as_json, file_name, stdout_to_stderr, version, write

OPTIONS = (
    "apply_chat_template",
    "fewshot_as_multiturn",
    "system_instruction",
    "add_instruction",
    "instruction_override",
    "downsampling_ratio",
    "limit",
    "gen_kwargs",
    "num_fewshot",
    "confirm_run_unsafe_code",
)
"""Arguments of `simple_evaluate` that a recipe can set."""
PATHS = ("answers", "verdicts", "out", "index")
"""Arguments that are paths, from the working folder on."""


def main(arguments):
    """The answer to one command, as JSON."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    options = arguments.get("options", {})
    # before another folder is entered
    arguments = {**arguments, **_absolute(arguments, PATHS)}
    env = arguments.get("env", {})
    os.environ.update({**env, **_absolute(env, ("HF_HOME",))})
    if options.get("trust_remote_code"):
        # read when `datasets` is imported
        os.environ["HF_DATASETS_TRUST_REMOTE_CODE"] = "1"
    if options.get("include_path"):
        # Where the relative paths in its files start.
        os.chdir(options["include_path"])
    commands = {
        "tasks": tasks,
        "framework": framework,
        "requests": _requests,
        "programs": _programs,
        "results": _results,
    }
    return commands[arguments["command"]](arguments, options)


def _absolute(given, names):
    return {name: str(Path(given[name]).absolute()) for name in names if name in given}


def _requests(arguments, options):
    """Writes `out`; returns what is known about the tasks behind them."""
    watched = _watch(arguments, options, Programs())
    lm = watched.recorder()
    _evaluate(lm, watched, options, predict_only=True, bootstrap_iters=0)
    with Path(arguments["out"]).open("w", encoding="utf-8") as stream:
        for request in lm.requests:
            stream.write(json.dumps(request) + "\n")
    return {**watched.told(), "version": version(arguments["package"])}


def _programs(arguments, options):
    """The programs by key, and the text that runs one."""
    programs = Programs()
    watched = _watch(arguments, options, programs)
    lm = watched.answering(_read(arguments["answers"]))
    _evaluate(lm, watched, options, predict_only=False, bootstrap_iters=0)
    return programs.told()


def _results(arguments, options):
    """Writes `results.json` and `samples_<task>.jsonl` into the folder `out`; returns the results."""
    verdicts = arguments.get("verdicts")
    programs = None if verdicts is None else Programs(_read(verdicts))
    watched = _watch(arguments, options, programs)
    answers = _read(arguments["answers"])
    lm = watched.answering(answers)
    bootstrap = options.get("bootstrap_iters", 100_000)
    results = _evaluate(lm, watched, options, predict_only=False, bootstrap_iters=bootstrap)
    if unused := answers.keys() - lm.used:
        raise SystemExit(
            f"{len(unused)} of {len(answers)} answers are to requests that lm-eval no longer makes: "
            "it, its data or its tasks are not those of the plan"
        )
    told = {**watched.told(), "version": version(arguments["package"])}
    folder = Path(arguments["out"])
    samples = results.pop("samples")
    write(folder / "results.json", as_json(results) + "\n")
    for name, rows in samples.items():
        lines = [as_json(row) + "\n" for row in rows]
        write(folder / f"samples_{file_name(name)}.jsonl", "".join(lines))
    return {**told, "results": json.loads(as_json(results))}


def _read(path):
    return json.loads(Path(path).read_bytes())


def _evaluate(lm, watched, options, **more):
    with stdout_to_stderr():
        from lm_eval import evaluator
    simple_evaluate = evaluator.simple_evaluate
    for name in ("add_env_info", "get_git_commit_hash"):
        # What they tell of this machine takes a dozen processes, and is no part of a result.
        setattr(evaluator, name, lambda *_: None)
    asked = {name: options[name] for name in OPTIONS if options.get(name) is not None}
    known = inspect.signature(inspect.unwrap(simple_evaluate)).parameters
    if "kwargs" not in known:
        for name in [name for name in asked if name not in known]:
            if asked.pop(name):
                raise SystemExit(f"this edition of lm-eval has no {name}")
    random, numpy, torch, fewshot = options.get("seeds") or (0, 1234, 1234, 1234)
    with stdout_to_stderr():
        return simple_evaluate(
            model=lm,
            tasks=[options["task"]],
            task_manager=watched.manager,
            log_samples=True,
            random_seed=random,
            numpy_random_seed=numpy,
            torch_random_seed=torch,
            fewshot_random_seed=fewshot,
            **asked,
            **more,
        )


def _watch(arguments, options, programs):
    """lm-eval's task manager, which tells what it loaded, and the two models."""
    with stdout_to_stderr():
        from lm_eval.api.model import LM
        from lm_eval.tasks import TaskManager
    if options.get("trust_remote_code"):
        with contextlib.suppress(ImportError, AttributeError):
            import datasets

            datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = True

    class Manager(TaskManager):
        """Changes the number of repeats of what it loads, and notes it."""

        def load(self, tasks):
            loaded = super().load(tasks)
            watched.note(loaded["tasks"], loaded.get("groups") or {})
            return loaded

        if not hasattr(TaskManager, "load"):  # an edition of before 0.4.10

            def load_task_or_group(self, tasks):
                loaded = super().load_task_or_group(tasks)
                watched.note(*_flat(loaded))
                return loaded

            del load

    with stdout_to_stderr():
        manager = index(Manager, options, arguments.get("index"))
    watched = Watched(manager, LM, options, programs)
    refuse_unknown(manager, options["task"])
    return watched


def _flat(loaded):
    """Tasks and groups by name, of the nested form that older editions load."""
    tasks, groups = {}, {}
    for key, value in loaded.items():
        if isinstance(value, dict):
            groups[key if isinstance(key, str) else key.group_name] = key
            more_tasks, more_groups = _flat(value)
            tasks.update(more_tasks)
            groups.update(more_groups)
        elif value is not None:
            tasks[key] = value
    return tasks, groups
