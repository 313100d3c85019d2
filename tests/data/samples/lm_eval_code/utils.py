"""A task of programs, as those of lm-eval are made."""

import evaluate

METRIC = evaluate.load("code_eval")


def build_predictions(resps, docs):
    """Each answer goes on where the prompt ends."""
    return [
        [doc["prompt"] + text for text in texts] for texts, doc in zip(resps, docs, strict=True)
    ]


def pass_at_1(references, predictions):
    """Of one problem."""
    rates, _ = METRIC.compute(references=references, predictions=predictions, k=[1], timeout=1.0)
    return rates["pass@1"]


def ends(references, predictions):
    """Whether the first program ends by itself, found out right here."""
    try:
        exec(predictions[0][0], {})
    except Exception:  # noqa: BLE001 - whatever the program does
        return 0.0
    return 1.0
