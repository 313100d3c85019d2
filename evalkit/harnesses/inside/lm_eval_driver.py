"""Asks lm-eval what it would ask a model, and later gives it the answers.

`main` takes and returns JSON; its `command` is one of
  tasks     what there is: name, kind, description
  framework the tasks of NVIDIA's `framework.yml`, where the wheel has one
  requests  every request of one task or group, in lm-eval's order: a line each in the file `out`
  results   its metrics and samples, made from the answers in the file `answers`; nothing is sent

Upstream's lm-eval and NVIDIA's older edition of it are served by the same code: what a version takes is
read from its signatures, and an option that it does not have is refused, never ignored.

A request is known by its base, the hash of [method, arguments], and by how many equal ones came before:
`base#3`. Both commands make the same call of `simple_evaluate`, so they meet the same requests in the
same order, few-shot examples included, whatever happened in between.
"""

import contextlib
import difflib
import functools
import hashlib
import inspect
import json
import logging
import os
import re
import sys
from importlib import metadata
from pathlib import Path

PLACEHOLDERS = {"generate_until": "", "loglikelihood": (0.0, False), "loglikelihood_rolling": 0.0}
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


def main(arguments):
    """The answer to one command, as JSON."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    options = arguments.get("options", {})
    os.environ.update(arguments.get("env", {}))
    if options.get("trust_remote_code"):
        # read when `datasets` is imported
        os.environ["HF_DATASETS_TRUST_REMOTE_CODE"] = "1"
    if options.get("include_path"):
        # Where the relative paths in its files start.
        os.chdir(options["include_path"])
    commands = {
        "tasks": _tasks,
        "framework": _framework,
        "requests": _requests,
        "results": _results,
    }
    return commands[arguments["command"]](arguments, options)


# What there is


def _tasks(arguments, options):
    """All names with what their files say; nothing of a task is loaded."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=options.get("include_path"))
    kinds = {
        **dict.fromkeys(manager.all_subtasks, "task"),
        **dict.fromkeys(manager.all_tags, "tag"),
        **dict.fromkeys(manager.all_groups, "group"),
    }
    return {
        "version": _version(arguments["package"]),
        "tasks": [_task_row(manager, name, kinds[name]) for name in manager.all_tasks],
    }


def _task_row(manager, name, kind):
    config = {} if kind == "tag" else _file_of(manager, name)
    said = config.get("metadata") or {}
    described = said.get("description") if isinstance(said, dict) else None
    defaults = {
        key: config[key]
        for key in ("num_fewshot", "repeats", "dataset_path", "dataset_name")
        if isinstance(config.get(key), (int, str))
    }
    return {
        "name": name,
        "kind": str(config.get("output_type") or kind),
        "description": described or config.get("task_alias") or config.get("group_alias") or "",
        "defaults": defaults,
    }


def _file_of(manager, name):
    """The YAML of a task, with what it includes; empty for one in Python."""
    entry = manager.task_index[name]
    path = entry["yaml_path"] if isinstance(entry, dict) else entry.yaml_path
    if path in (None, -1):
        return {}
    try:
        return _read_yaml(str(path))
    except (OSError, ValueError):  # what cannot be read is told when it is asked for
        return {}


@functools.cache
def _read_yaml(path, depth=0):
    """A file of lm-eval, without its functions. There are thousands: what many include is read once."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        """Reads over functions."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
    try:
        config = yaml.load(Path(path).read_bytes(), Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(config, dict):
        return {}
    includes = config.get("include") or []
    for each in [includes] if isinstance(includes, str) else includes:
        if depth < 8:
            included = str((Path(path).parent / each).resolve())
            config = {**_read_yaml(included, depth + 1), **config}
    return config


def _framework(arguments, options):
    """The tasks of NVIDIA's wheel with their defaults, as they stand there."""
    import importlib.util

    import yaml

    found = importlib.util.find_spec("lm_eval")
    site = Path(found.origin).parent.parent
    [path] = site.glob("core_evals/*/framework.yml")
    framework = yaml.safe_load(path.read_text("utf-8"))
    common = framework["defaults"]["config"]["params"]
    tasks = {}
    for each in framework["evaluations"]:
        config = each["defaults"]["config"]
        own = config.get("params", {})
        extra = {**common.get("extra", {}), **(own.get("extra") or {})}
        tasks[config["type"]] = {
            "description": str(each.get("description") or "").strip(),
            "endpoints": config.get("supported_endpoint_types") or ["chat", "completions"],
            "params": {**common, **own, "extra": extra},
        }
    return tasks


# Requests, and results


def _requests(arguments, options):
    """Writes `out`; returns what is known about the tasks behind them."""
    watched = _watch(options)
    lm = watched.recorder()
    _evaluate(lm, watched, options, predict_only=True, bootstrap_iters=0)
    with Path(arguments["out"]).open("w", encoding="utf-8") as stream:
        for request in lm.requests:
            stream.write(json.dumps(request) + "\n")
    return {**watched.told(), "version": _version(arguments["package"])}


def _results(arguments, options):
    """Writes `results.json` and `samples_<task>.jsonl` into the folder `out`; returns the results."""
    watched = _watch(options)
    answers = json.loads(Path(arguments["answers"]).read_bytes())
    lm = watched.answering(answers)
    bootstrap = options.get("bootstrap_iters", 100_000)
    results = _evaluate(lm, watched, options, predict_only=False, bootstrap_iters=bootstrap)
    if unused := answers.keys() - lm.used:
        raise SystemExit(
            f"{len(unused)} of {len(answers)} answers are to requests that lm-eval no longer makes: "
            "it, its data or its tasks are not those of the plan"
        )
    told = {**watched.told(), "version": _version(arguments["package"])}
    folder = Path(arguments["out"])
    samples = results.pop("samples")
    _write(folder / "results.json", _as_json(results) + "\n")
    for name, rows in samples.items():
        lines = [_as_json(row) + "\n" for row in rows]
        _write(folder / f"samples_{_file_name(name)}.jsonl", "".join(lines))
    return {**told, "results": json.loads(_as_json(results))}


def _evaluate(lm, watched, options, **more):
    with _stdout_to_stderr():
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
    with _stdout_to_stderr():
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


def _watch(options):
    """lm-eval's task manager, which tells what it loaded, and the two models."""
    with _stdout_to_stderr():
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

    with _stdout_to_stderr():
        manager = _index(Manager, options)
    watched = _Watched(manager, LM, options)
    _refuse_unknown(manager, options["task"])
    return watched


def _index(manager_class, options):
    """An index of tasks: of the user's folder alone where nothing else is needed, for that of all tasks
    takes a quarter of a minute."""
    folder = options.get("include_path")
    if folder is not None:
        own = manager_class(include_path=folder, include_defaults=False)
        if _holds_all(own, options["task"]):
            return own
    return manager_class(include_path=folder)


def _holds_all(manager, name):
    """Whether a task and all members of a group are in an index."""
    if not isinstance(name, str) or name not in manager.task_index:
        return False
    members = _file_of(manager, name).get("task")
    return not isinstance(members, list) or all(_holds_all(manager, each) for each in members)


def _refuse_unknown(manager, name):
    if name in set(manager.all_tags):
        members = manager.task_index[name]
        members = members["task"] if isinstance(members, dict) else getattr(members, "tags", ())
        raise SystemExit(
            f"{name} is a tag of several tasks, which has no number of its own: name one of "
            f"{', '.join(sorted(map(str, members))[:8]) or 'its tasks'}"
        )
    if name not in set(manager.all_tasks):
        near = difflib.get_close_matches(name, manager.all_tasks, n=3)
        raise SystemExit(
            f"lm-eval has no task {name}" + (f"; did you mean {', '.join(near)}?" if near else "")
        )


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


class _Watched:
    """What was loaded, and models for it."""

    def __init__(self, manager, base, options):
        self.manager = manager
        self._base = base
        self._options = options
        self._tasks = {}
        self._groups = {}

    def note(self, tasks, groups):
        repeats = self._options.get("repeats")
        for name, task in tasks.items():
            if repeats is not None and task.config.output_type == "generate_until":
                task.set_config(key="repeats", value=repeats)
            self._refuse(name, task)
            self._tasks[name] = _about(task)
        self._groups.update({name: _aggregates(group) for name, group in groups.items()})

    def _refuse(self, name, task):
        if getattr(task, "MULTIMODAL", False):
            raise SystemExit(f"{name} shows the model images or sound, which cannot be frozen yet")
        if getattr(task, "UNSAFE_CODE", False) and not self._options.get("confirm_run_unsafe_code"):
            raise SystemExit(f"{name} runs code that the model wrote: params.allow_code_execution")

    def told(self):
        return {"tasks": self._tasks, "groups": self._groups, "packages": _packages()}

    def recorder(self):
        """A model that notes what it is asked."""
        lm = self._model()
        lm.requests = []

        def answer(method, request, base, rep):
            lm.requests.append(
                {
                    "method": method,
                    "args": _plain(request.args),
                    "base": base,
                    "rep": rep,
                    "task": request.task_name,
                    "doc": request.doc_id,
                    "idx": request.idx,
                }
            )
            return PLACEHOLDERS[method]

        lm.answer = answer
        return lm

    def answering(self, answers):
        """A model that only looks answers up."""
        lm = self._model()
        lm.used = set()

        def answer(method, request, base, rep):
            key = f"{base}#{rep}"
            if key not in answers:
                raise SystemExit(
                    f"there is no answer to a request of {request.task_name}, document "
                    f"{request.doc_id} (answer {rep + 1} to it): nothing was scored"
                )
            lm.used.add(key)
            found = answers[key]
            return tuple(found) if method == "loglikelihood" else found

        lm.answer = answer
        return lm

    def _model(self):
        return type("Model", (_Asked, self._base), {})()


class _Asked:
    """A model that sees each request once, in lm-eval's order."""

    def __init__(self):
        super().__init__()
        self._seen = {}

    def _each(self, method, requests):
        return [self.answer(method, each, *self._key(method, each)) for each in requests]

    def _key(self, method, request):
        base = _base(method, request.args)
        rep = self._seen.get(base, 0)
        self._seen[base] = rep + 1
        return base, rep

    def generate_until(self, requests, **_):
        return self._each("generate_until", requests)

    def loglikelihood(self, requests, **_):
        return self._each("loglikelihood", requests)

    def loglikelihood_rolling(self, requests, **_):
        return self._each("loglikelihood_rolling", requests)

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        # The server has the template: what is asked are the messages.
        return json.dumps(chat_history, ensure_ascii=False)

    def chat_template(self, chat_template=False):
        return "messages"

    @property
    def tokenizer_name(self):
        return "messages"


def _base(method, args):
    canonical = json.dumps([method, *_plain(args)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(args):
    """Arguments as JSON. Raises SystemExit for what has no lasting form."""
    try:
        return json.loads(json.dumps(list(args)))
    except TypeError as error:
        raise SystemExit(f"a request that is not text and numbers: {error}") from error


def _about(task):
    config = task.dump_config() if hasattr(task, "dump_config") else {}
    lasting = {key: value for key, value in config.items() if key not in ("metadata",)}
    docs = task.eval_docs
    filters = [each.name for each in getattr(task, "_filters", [])]
    # A task that makes its own results has numbers that its file need not name.
    own = getattr(task.config, "process_results", None) is not None
    metrics = [] if own else list(getattr(task, "_metric_fn_list", None) or [])
    return {
        "version": str(getattr(task, "VERSION", None)),
        "kind": str(task.OUTPUT_TYPE),
        "repeats": int(getattr(task.config, "repeats", 1) or 1),
        "n_docs": len(docs),
        "docs_sha256": _docs_hash(docs),
        "config_sha256": _hash(lasting),
        "dataset": [
            str(each) for each in (config.get("dataset_path"), config.get("dataset_name")) if each
        ],
        "revision": (config.get("dataset_kwargs") or {}).get("revision"),
        "numbers": [f"{metric},{name}" for metric in metrics for name in filters],
    }


def _hash(value):
    # Without what differs from process to process.
    text = re.sub(r" at 0x[0-9a-f]+>", ">", _as_json(_with_sources(value), sort_keys=True))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _with_sources(value):
    """Functions as their text: what they do is a part of the task."""
    if isinstance(value, dict):
        return {key: _with_sources(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_sources(each) for each in value]
    if callable(value):
        with contextlib.suppress(OSError, TypeError):
            return inspect.getsource(value)
        return getattr(value, "__qualname__", str(value))
    return value


def _docs_hash(docs):
    digest = hashlib.sha256()
    for doc in docs:
        digest.update(_as_json(doc, sort_keys=True).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def _aggregates(group):
    """Names of a group's own numbers; empty where it has none, null filters where all are meant."""
    config = getattr(group, "_config", None)
    listed = getattr(group, "aggregate_metric_list", None) or getattr(
        config, "aggregate_metric_list", None
    )
    return [
        {"metric": each["metric"], "filters": each.get("filter_list")}
        if isinstance(each, dict) and each
        else {"metric": each.metric, "filters": each.filter_list}
        for each in listed or ()
    ]


def _packages():
    found = {}
    for name in ("datasets", "evaluate", "math-verify", "sympy", "transformers", "nltk"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _version(package):
    return metadata.version(package)


def _as_json(value, **more):
    with _stdout_to_stderr():
        from lm_eval.utils import handle_non_serializable
    return json.dumps(value, ensure_ascii=False, default=handle_non_serializable, **more)


def _file_name(name):
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in name)


def _write(path, text):
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


@contextlib.contextmanager
def _stdout_to_stderr():
    with contextlib.redirect_stdout(sys.stderr):
        yield
