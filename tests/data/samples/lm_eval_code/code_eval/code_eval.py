"""A metric as the hub's code_eval is called and answers, so that none must be fetched."""

import os
from concurrent.futures import ThreadPoolExecutor

import datasets
import evaluate

from .execute import check_correctness


class CodeEval(evaluate.Metric):
    """The share of programs that end by themselves."""

    def _info(self):
        program = datasets.Value("string")
        return evaluate.MetricInfo(
            description="",
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Sequence(program), "references": program}
            ),
        )

    def _compute(self, predictions, references, k, num_workers=4, timeout=3.0):
        if os.environ.get("HF_ALLOW_CODE_EVAL") != "1":
            raise ValueError("set HF_ALLOW_CODE_EVAL")
        tried = [
            (f"{candidate}\n{test}", timeout, problem, number)
            for problem, (candidates, test) in enumerate(zip(predictions, references, strict=True))
            for number, candidate in enumerate(candidates)
        ]
        with ThreadPoolExecutor(num_workers) as threads:
            found = list(threads.map(lambda each: check_correctness(*each), tried))
        return {
            f"pass@{each}": sum(one["passed"] for one in found) / len(found) for each in k
        }, found
