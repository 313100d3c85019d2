"""Runs the simulators of BFCL in the sandbox: a model's calls for a dialogue, and the final check.

This file is sent into the sandbox as the program and reads one JSON request from standard input. It
imports nothing of evalkit, and the official package from the folder that the request names.

The official code evaluates a call as Python text, with names of functions and arguments pasted as the
model wrote them. So nothing is evaluated here that is not a plain call (`refusal`): a simulator's
method, or a name that does not exist (which Python answers in its own words), with JSON values by
name. What remains of the model's text is data, which is why the gold calls and the verdict can be in
the same process. The answer goes out on a descriptor of its own, behind a line that shows that
everything needed was there before the first call of the model's ran.

Operations, by `request["do"]`:
  execute  run the calls of earlier steps, then those of the last one; answers with the last results
  memory   run all steps, then tell what is in memory: the snapshot (as text, because its order
           matters), and what of it a prompt shows
  check    the official verdict on a finished multi-turn dialogue
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import sys
import time
import types
from collections import defaultdict
from pathlib import Path
from typing import Any

READY = "ready"
MODEL = "evalkit"
_CHECKERS = "bfcl_eval.eval_checker.multi_turn_eval"
_NOT_NUMBERS = ("nan", "inf", "Infinity", "NaN")


def main() -> None:
    """Answer the request on standard input."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # simulators print
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    request = json.load(sys.stdin)
    prepare(request["package"])
    if "MemoryAPI_vector" in request["classes"]:
        name_encoder(request["encoder"])
    import_simulators(request["classes"])
    print(READY, file=out, flush=True)
    answer = {"execute": execute, "memory": memory, "check": check}[request["do"]](request)
    out.write(json.dumps(answer))
    out.flush()


def prepare(package: str) -> None:
    """Make the official package importable, in a time zone that is the same everywhere."""
    os.environ["TZ"] = "UTC"  # noqa: TID251 - of the sandbox, which has no other
    time.tzset()
    # It makes folders when it is imported.
    os.environ["BFCL_PROJECT_ROOT"] = str(Path.cwd() / "bfcl")  # noqa: TID251
    sys.path.insert(0, package)
    table: dict[str, Any] = {"MODEL_CONFIG_MAPPING": defaultdict(object)}
    stand_in = types.ModuleType("bfcl_eval.constants.model_config")
    stand_in.__dict__.update(table)
    sys.modules[stand_in.__name__] = stand_in


def name_encoder(folder: str) -> None:
    """Let the encoder, which the vector memory asks for by its name on the hub, be in a folder."""
    module: Any = importlib.import_module("sentence_transformers")
    load = module.SentenceTransformer
    module.SentenceTransformer = lambda _name, **options: load(folder, **options)


def import_simulators(classes: list[str]) -> None:
    """Raises ImportError where one of them, or what it needs, is missing."""
    places = importlib.import_module("bfcl_eval.constants.executable_backend_config")
    for name in classes:
        importlib.import_module(places.CLASS_FILE_PATH_MAPPING[name])
    importlib.import_module(f"{_CHECKERS}.multi_turn_checker")


def execute(request: dict[str, Any]) -> dict[str, Any]:
    """Results of the last step's calls, each a text."""
    results, _ = replay(request)
    return {"results": [_sendable(result) for result in results]}


def memory(request: dict[str, Any]) -> dict[str, Any]:
    """The memory after all steps; one that was to be loaded and is not there is an error of ours."""
    _, instances = replay(request)
    [store] = instances.values()
    store._flush_memory_to_local_file()
    return {
        "snapshot": store.latest_snapshot_file.read_text(),
        "shown": _sendable(store._dump_core_memory_to_context()),
    }


def check(request: dict[str, Any]) -> dict[str, Any]:
    """The official verdict. Every exception on the way to it is the answer's, not right then."""
    checker: Any = importlib.import_module(f"{_CHECKERS}.multi_turn_checker")
    plain = checker.execute_multi_turn_func_call
    methods: set[str] = set()

    def guarded(func_call_list: list[str], **options: Any) -> Any:
        if options["model_name"] != MODEL:
            return plain(func_call_list=func_call_list, **options)
        if not methods:
            methods.update(_methods(plain(func_call_list=[], **options)[1]))
        return run_calls(plain, func_call_list, methods, options)

    checker.execute_multi_turn_func_call = guarded
    entry = {
        "id": request["id"],
        "initial_config": request["config"],
        "involved_classes": request["classes"],
    }
    category = request["id"].rsplit("_", 1)[0]
    try:
        verdict = checker.multi_turn_checker(
            request["turns"], request["gold"], entry, category, MODEL
        )
    except Exception as error:  # noqa: BLE001 - gold calls pass, so it is something in the answer
        return {"valid": False, "error_type": "checker_failed", "message": _sendable(repr(error))}
    found = {"valid": bool(verdict["valid"])}
    return found if found["valid"] else {**found, "error_type": str(verdict["error_type"])}


def replay(request: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Results of the last step, and the simulators after it."""
    utils = importlib.import_module(f"{_CHECKERS}.multi_turn_utils")
    options = {
        "initial_config": _config(request),
        "involved_classes": request["classes"],
        "model_name": MODEL,
        "test_entry_id": request["id"],
        "long_context": "long_context" in request["id"],
        "is_evaL_run": False,
    }
    plain = utils.execute_multi_turn_func_call
    results, instances = plain(func_call_list=[], **options)
    methods = _methods(instances)
    for calls in request["steps"]:
        results, instances = run_calls(plain, calls, methods, options)
    return results, instances


def run_calls(
    plain: Any, calls: list[str], methods: set[str], options: dict[str, Any]
) -> tuple[list[str], Any]:
    """Results of calls in order; those that are not plain are refused unevaluated."""
    reasons = [refusal(call, methods, plain.__globals__) for call in calls]
    evaluated = [call for call, reason in zip(calls, reasons, strict=True) if reason is None]
    found, instances = plain(func_call_list=evaluated, **options)
    found.reverse()
    results = [
        found.pop() if reason is None else f"Error during execution: {reason}" for reason in reasons
    ]
    return results, instances


def refusal(call: str, methods: set[str], known: dict[str, Any]) -> str | None:
    """Why this text is not evaluated, in Python's words; null for a call with JSON values of a
    simulator's method, or of a name that does not exist.

    `known` are the names that the official module has: it evaluates calls among them.
    """
    try:
        tree = ast.parse(call, "<string>", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error)
    return None if _is_plain(tree, methods, known) else f"name {_name(call)!r} is not defined"


def _name(call: str) -> str:
    return call.partition("(")[0]


def _is_plain(tree: ast.expr, methods: set[str], known: dict[str, Any]) -> bool:
    if not isinstance(tree, ast.Call) or tree.args:
        return False
    root = tree.func
    while isinstance(root, ast.Attribute):
        root = root.value
    if not isinstance(root, ast.Name):
        return False
    exists = root.id in known or hasattr(builtins, root.id)
    is_method = isinstance(tree.func, ast.Name) and root.id in methods
    return (is_method or not exists) and all(
        each.arg is not None and _is_value(each.value) for each in tree.keywords
    )


def _is_value(node: ast.expr) -> bool:
    """A value as `repr` writes it of parsed JSON."""
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_value(node.operand)
    if isinstance(node, ast.List):
        return all(map(_is_value, node.elts))
    if isinstance(node, ast.Dict):
        keys = [isinstance(key, ast.Constant) for key in node.keys]
        return all(keys) and all(map(_is_value, node.values))
    if isinstance(node, ast.Name):
        return node.id in _NOT_NUMBERS
    return isinstance(node, ast.Constant)


def _methods(instances: dict[str, Any]) -> set[str]:
    """Names of what may be called on them."""
    return {
        name
        for instance in instances.values()
        for name in dir(instance)
        if not name.startswith("_") and isinstance(getattr(instance, name), types.MethodType)
    }


def _config(request: dict[str, Any]) -> dict[str, Any]:
    """The entry's; that of a memory names the folder in which its snapshot lies."""
    given = request.get("memory")
    if given is None:
        config: dict[str, Any] = request["config"]
        return config
    utils = importlib.import_module("bfcl_eval.utils")
    root, id_ = Path.cwd() / "memory", request["id"]
    folder = root / utils.get_directory_structure_by_id(id_) / "memory_snapshot"
    folder.mkdir(parents=True)
    if given["snapshot"] is not None:
        file = folder / f"{given['scenario']}_final.json"
        file.write_text(given["snapshot"])
    elif not utils.is_first_memory_prereq_entry(id_):
        raise LookupError(f"{id_} was given no memory to begin with")
    [name] = request["classes"]
    return {
        name: {
            "model_result_dir": root,
            "scenario": given["scenario"],
            "test_id": id_,
            "test_category": utils.extract_test_category_from_id(id_),
        }
    }


def _sendable(text: str) -> str:
    """Half of a surrogate pair can be neither journaled nor sent."""
    return text.encode(errors="replace").decode()


if __name__ == "__main__":
    main()
