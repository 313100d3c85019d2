"""Which tasks there are, by name: lm-eval's index, and NVIDIA's table.

lm-eval reads its 14,000 files whenever it is asked for one task. What they come to is kept in the folder
`index` of the arguments, with the state of each file that it was made from (`lm_eval_kept`).
"""

import difflib
import functools
import importlib.util
from pathlib import Path

from lm_eval_kept import kept, quick_index
from lm_eval_told import version


def tasks(arguments, options):
    """All names with what their files say; nothing of a task is loaded."""
    rows = kept(arguments.get("index"), "tasks", tasks_folder(), _rows)
    return {"version": version(arguments["package"]), "tasks": rows}


def tasks_folder():
    """Where the files of this lm-eval are, without importing it."""
    return Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"


def _rows():
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    kinds = {
        **dict.fromkeys(manager.all_subtasks, "task"),
        **dict.fromkeys(manager.all_tags, "tag"),
        **dict.fromkeys(manager.all_groups, "group"),
    }
    return [_task_row(manager, name, kinds[name]) for name in manager.all_tasks]


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


def framework(arguments, options):
    """The tasks of NVIDIA's wheel with their defaults, as they stand there."""
    import yaml

    [path] = tasks_folder().parent.parent.glob("core_evals/*/framework.yml")
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


def index(manager_class, options, folder):
    """An index of tasks: of the user's folder alone where nothing else is needed. `folder` keeps that of
    lm-eval's own."""
    include = options.get("include_path")
    if include is not None:
        own = manager_class(include_path=include, include_defaults=False)
        if _holds_all(own, options["task"]):
            return own
    with quick_index(folder, tasks_folder()):
        return manager_class(include_path=include)


def _holds_all(manager, name):
    """Whether a task and all members of a group are in an index."""
    if not isinstance(name, str) or name not in manager.task_index:
        return False
    members = _file_of(manager, name).get("task")
    return not isinstance(members, list) or all(_holds_all(manager, each) for each in members)


def refuse_unknown(manager, name):
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
