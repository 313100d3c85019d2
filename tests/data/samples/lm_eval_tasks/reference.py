"""lm-eval's own, unsharded run with a model that answers from a table: what a driver must come to.

`reference.py TABLE OUT LIMIT`, in the folder of the tasks; imports nothing of evalkit.
"""

import hashlib
import json
import sys
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable


class FromTable(LM):
    """Equal requests get the answers of the table one after the other."""

    def __init__(self, table):
        super().__init__()
        self._table = table

    def _next(self, method, request):
        key = json.dumps([method, *request.args], sort_keys=True, ensure_ascii=False)
        return self._table[hashlib.sha256(key.encode()).hexdigest()].pop(0)

    def generate_until(self, requests):
        return [self._next("generate_until", each) for each in requests]

    def loglikelihood(self, requests):
        return [tuple(self._next("loglikelihood", each)) for each in requests]

    def loglikelihood_rolling(self, requests):
        return [self._next("loglikelihood_rolling", each) for each in requests]


def main(table, out, limit):
    results = simple_evaluate(
        model=FromTable(json.loads(Path(table).read_text())),
        tasks=["toy_all"],
        task_manager=TaskManager(include_path=str(Path.cwd()), include_defaults=False),
        limit=int(limit),
        bootstrap_iters=20,
        log_samples=True,
    )
    for name, rows in results.pop("samples").items():
        lines = [json.dumps(r, ensure_ascii=False, default=handle_non_serializable) for r in rows]
        Path(out, f"samples_{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    text = json.dumps(results, ensure_ascii=False, default=handle_non_serializable)
    Path(out, "results.json").write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
