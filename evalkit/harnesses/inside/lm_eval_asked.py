"""Models that lm-eval asks in place of a real one: one notes each request, one looks answers up.

A request is known by its base, the hash of [method, arguments], and by how many equal ones came before:
`base#3`.
"""

import hashlib
import json

from lm_eval_code import judges
from lm_eval_told import about, aggregates, packages

PLACEHOLDERS = {"generate_until": "", "loglikelihood": (0.0, False), "loglikelihood_rolling": 0.0}


class Watched:
    """What was loaded, and the models that are asked for it. `base` is the edition's class of models."""

    def __init__(self, manager, base, options, programs):
        self.manager = manager
        self._programs = programs
        self._alone = []
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
            self._tasks[name] = about(task)
        self._take_over_programs(tasks)
        self._groups.update({name: aggregates(group) for name, group in groups.items()})

    def _refuse(self, name, task):
        if getattr(task, "MULTIMODAL", False):
            raise SystemExit(f"{name} shows the model images or sound, which cannot be frozen yet")
        if getattr(task, "UNSAFE_CODE", False):
            self._refuse_code(name)
            if not judges(task):
                self._alone.append(name)

    def _refuse_code(self, name):
        if not self._options.get("confirm_run_unsafe_code"):
            raise SystemExit(f"{name} runs code that the model wrote: params.allow_code_execution")

    def _take_over_programs(self, tasks):
        """Tasks that do not say so run programs, too: they have loaded the metric for it."""
        if self._programs is not None and self._programs.take_over():
            self._refuse_code(", ".join(tasks))

    def told(self):
        """`run_by_themselves` are tasks that say they run programs, and do not by the metric for it."""
        return {
            "tasks": self._tasks,
            "groups": self._groups,
            "packages": packages(),
            "run_by_themselves": self._alone,
        }

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
