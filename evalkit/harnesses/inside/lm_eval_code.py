"""Programs that a model wrote, as lm-eval's tasks run them: by the metric `code_eval` of the hub.

That metric runs each program in a child of its own process, and believes what the child sends it. So nothing
is run here: a first scoring notes the programs, evalkit runs each in a sandbox of its own by the metric's own
function, and a second scoring finds the verdicts. A program can then spoil its own verdict and no other.
"""

import functools
import hashlib
import inspect
import json
import sys
import types

LIBRARIES = ("numpy", "pandas", "scipy", "sympy", "mpmath", "regex")
"""Programs find them imported by lm-eval, if it has them. The metric's guard would let nobody import numpy."""
CHECK = "check_correctness"
"""The metric's function for one program: (program, timeout in s, task_id, completion_id) -> its verdict."""


class Programs:
    """Stands in the place of the metric's function. Without `verdicts` it notes what would be run."""

    def __init__(self, verdicts=None):
        self.noted = {}
        self._verdicts = verdicts
        self._source = None

    def take_over(self):
        """Be asked in place of the metric, wherever a task has loaded it. Returns whether one has."""
        for module in _metrics():
            check = getattr(module, CHECK)
            if not hasattr(check, "__self__"):  # else it is taken over already
                self._source = inspect.getsource(sys.modules[check.__module__])
                setattr(module, CHECK, self.check)
        return self._source is not None

    def told(self):
        """What is to be run, by key, the source of the function that runs it, and what it finds imported."""
        return {"programs": self.noted, "source": self._source, "modules": _modules()}

    def check(self, program, timeout, task_id, completion_id):
        """In many threads at once. Raises SystemExit for a program that was not run."""
        key = _key(program, timeout)
        if self._verdicts is None:
            self.noted[key] = {"program": program, "timeout": timeout}
            found = {"passed": False, "result": "not run"}
        elif key in self._verdicts:
            found = self._verdicts[key]
        else:
            raise SystemExit("scored again, a task makes other programs of the same answers")
        return {"task_id": task_id, "completion_id": completion_id, **found}


def judges(task):
    """Whether the functions that score a task use the metric, by names that they find when it is loaded."""
    todo, seen = _scorers(task), set()
    while todo:
        each = todo.pop()
        if isinstance(each, functools.partial):
            todo.append(each.func)
        if isinstance(each, (types.MethodType, types.MethodWrapperType)):
            todo += [each.__self__, getattr(each, "__func__", None)]
        if _is_metric(each):
            return True
        if isinstance(each, types.FunctionType) and each not in seen:
            seen.add(each)
            todo += _used(each.__code__, each.__globals__)
    return False


def _scorers(task):
    lists = [getattr(task, name, None) or {} for name in ("_metric_fn_list", "_aggregation_list")]
    own = [type(task).process_results, getattr(task.config, "process_results", None)]
    return [*own, *(each for found in lists for each in found.values())]


def _used(code, known):
    """What the names in a function's text stand for, those behind the dot of a module included."""
    found = [known[name] for name in code.co_names if name in known]
    for module in [each for each in found if isinstance(each, types.ModuleType)]:
        found += [vars(module)[name] for name in code.co_names if name in vars(module)]
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found += _used(inner, known)
    return found


def _is_metric(value):
    return sys.modules.get(type(value).__module__) in _metrics()


def _metrics():
    """Modules of metrics from the hub that run programs."""
    loaded = list(sys.modules.items())
    return [each for name, each in loaded if "evaluate_modules" in name and hasattr(each, CHECK)]


def _modules():
    parts = [name.split(".") for name in sorted(sys.modules) if "._" not in name]
    return [
        ".".join(each)
        for each in parts
        if each[0] in LIBRARIES and len(each) <= (2 if each[0] == "scipy" else 1)
    ]


def _key(program, timeout):
    return hashlib.sha256(json.dumps([program, timeout]).encode()).hexdigest()
