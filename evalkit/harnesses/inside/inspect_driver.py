"""In inspect's Python: lists its tasks, plans one, runs some of its samples, joins the logs.

Nothing is concluded from how `eval` returns: what a log says of itself is the answer, and evalkit decides.
"""

import contextlib
import glob
import json
import math
import os
import re
import signal
import traceback
from importlib import metadata
from pathlib import Path

PATIENCE_S = 7 * 24 * 3600
"""The gateway has the recipe's own limits of time, and what it is asked again it answers from its journal."""
AT_ONCE = 2000
"""Samples and connections: the gateway has the recipe's own limit of requests in flight."""
RETRIES = 3
"""Of connection errors; the gateway has tried again already where that helps."""
AVERAGES = ("accuracy", "mean")
"""inspect's metrics that are the mean of the samples' values."""
MARKUP = re.compile(r"\[/?(?:bold|blue|red|green|yellow|italic|dim)\]")
"""What inspect puts around words of its errors."""
OUTCOMES = {
    "max_tokens": "truncated",
    "model_length": "context_overflow",
    "content_filter": "refused",
}


def list_tasks(arguments):
    """All tasks of the packages that register some, with where they are documented."""
    from inspect_ai.util import registry_info

    found = {}
    for point in metadata.entry_points(group="inspect_ai"):
        for item in vars(point.load()).values():
            try:
                info = registry_info(item)
            except ValueError:
                continue
            if info.type == "task":
                text = (getattr(item, "__doc__", None) or "").strip().partition("\n")[0]
                found[info.name] = {"name": info.name, "description": text}
    return sorted(found.values(), key=lambda task: task["name"])


def plan(arguments):
    """Ids of the task's samples in order, its epochs, and the versions of all that decides a number."""
    import inspect_ai

    log = inspect_ai.eval(
        arguments["task"],
        model="mockllm/model",
        task_args=arguments["task_args"],
        run_samples=False,
        display="none",
        log_dir=str(Path("logs").resolve()),
        **epochs_of(arguments),
    )[0]
    spec = log.eval
    if log.error is not None:
        raise SystemExit(log.error.message)
    return {
        "ids": list(spec.dataset.sample_ids or []),
        "n_samples": spec.dataset.samples,
        "dataset": spec.dataset.location or spec.dataset.name or spec.task,
        "epochs": spec.config.epochs or 1,
        "name": spec.task,
        "task_version": str(spec.task_version),
        "packages": packages(spec),
    }


def run(arguments):
    """Ask about some samples; the gateway's address is in the environment."""
    import inspect_ai

    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    logs = inspect_ai.eval(
        arguments["task"],
        model="openai-api/evalkit/" + arguments["model"],
        model_args={"client_timeout": PATIENCE_S, **arguments["model_args"]},
        model_roles=roles_of(arguments["model_roles"]),
        task_args=arguments["task_args"],
        sample_id=[pattern(each, arguments["name"]) for each in arguments["ids"]],
        fail_on_error=True,
        retry_on_error=0,
        max_connections=AT_ONCE,
        max_samples=AT_ONCE,
        max_retries=RETRIES,
        timeout=PATIENCE_S,
        log_dir=str(Path("logs").resolve()),
        log_format="eval",
        log_buffer=1,
        log_realtime=False,
        display="none",
        score_display=False,
        **epochs_of(arguments),
    )
    return [state(log) for log in logs]


def state(log):
    """What a log says of itself."""
    return {
        "file": Path(str(log.location)).name,
        "status": log.status,
        "error": log.error.message if log.error else None,
        "completed": log.results.completed_samples if log.results else 0,
        "done": [[s.id, s.epoch] for s in log.samples or [] if s.error is None],
        "errors": sorted({s.error.message for s in log.samples or [] if s.error is not None})[:5],
    }


def join(arguments):
    """One log of several, with its metrics computed anew: its samples go to `samples.jsonl`."""
    import inspect_ai
    from inspect_ai.log import read_eval_log, recompute_metrics, write_eval_log

    # The metrics and scorers of a file are known once it is loaded.
    if arguments["is_file"]:
        inspect_ai.eval(
            arguments["task"],
            model="mockllm/model",
            task_args=arguments["task_args"],
            run_samples=False,
            display="none",
            log_dir=str(Path("logs").resolve()),
        )
    logs = [read_eval_log(path) for path in arguments["logs"]]
    whole = logs[0]
    position = {str(each): number for number, each in enumerate(arguments["ids"])}
    whole.samples = sorted(
        (sample for log in logs for sample in log.samples or []),
        key=lambda sample: (position.get(str(sample.id), -1), sample.epoch),
    )
    whole.eval.dataset.sample_ids = arguments["ids"]
    whole.eval.dataset.samples = len(arguments["ids"])
    whole.eval.config.limit = None
    whole.eval.config.sample_id = None
    if len(logs) > 1:
        recompute_metrics(whole)
        whole.results.total_samples = whole.results.completed_samples = len(whole.samples)
    add_stats(whole, logs[1:])
    write_eval_log(whole, arguments["log"])
    problems = write_samples(whole, Path(arguments["samples"]))
    return {
        "done": [[sample.id, sample.epoch] for sample in whole.samples if sample.error is None],
        "metrics": [each for score in whole.results.scores for each in metrics_of(score, whole)],
        "packages": packages(whole.eval),
        "problems": problems,
    }


def add_stats(whole, others):
    """Add the tokens and times of the other logs."""
    for log in others:
        for model, usage in log.stats.model_usage.items():
            before = whole.stats.model_usage.get(model)
            whole.stats.model_usage[model] = usage if before is None else before + usage
        whole.stats.started_at = min(whole.stats.started_at, log.stats.started_at)
        whole.stats.completed_at = max(whole.stats.completed_at, log.stats.completed_at)


def metrics_of(score, log):
    """The metrics of one scorer and reducer; a standard error belongs to the average beside it."""
    stderr = next((m.value for key, m in score.metrics.items() if key == "stderr"), None)
    several = len({each.reducer for each in log.results.scores if each.name == score.name}) > 1
    for key, metric in score.metrics.items():
        if key == "stderr" and any(name in score.metrics for name in AVERAGES):
            continue
        yield {
            "name": f"{score.name}/{key}" + (f",{score.reducer}" if several else ""),
            "value": metric.value,
            "stderr": stderr if key in AVERAGES else None,
            "n_samples": score.scored_samples,
            "is_average": key in AVERAGES,
        }


def write_samples(log, path):
    """Samples as JSON lines, in the log's order. Returns what a person should know of them."""
    names = {
        score.name: [f"{score.name}/{key}" for key in score.metrics if key in AVERAGES]
        or [score.name]
        for score in log.results.scores
    }
    unscored = 0
    with path.open("w", encoding="utf-8") as file:
        for sample in log.samples:
            scores, answer = {}, None
            for name, score in (sample.scores or {}).items():
                answer = answer or score.answer
                for key, value in values_of(name, score):
                    if value is None:
                        unscored += 1
                    for metric in names.get(key, [key]):
                        if value is not None:
                            scores[metric] = value
            file.write(json.dumps(line(sample, scores, answer)) + "\n")
    return [f"{unscored} scores of samples are not numbers, and are left out"] if unscored else []


def values_of(name, score):
    """(scorer or part of it, number) of a score; null for what is not a number."""
    from inspect_ai.scorer import value_to_float

    def number(value):
        try:
            found = float(value) if not isinstance(value, str) else value_to_float()(value)
        except (TypeError, ValueError):
            return None
        return None if math.isnan(found) else found

    if isinstance(score.value, dict):
        return [(key, number(value)) for key, value in score.value.items()]
    if isinstance(score.value, (list, tuple)):
        return [(f"{name}/{index}", number(value)) for index, value in enumerate(score.value)]
    return [(name, number(score.value))]


def line(sample, scores, answer):
    """One sample in evalkit's words."""
    output, usage = sample.output, list(sample.model_usage.values())
    reply = output.message if output.choices else None
    outcome = OUTCOMES.get(output.stop_reason if output.choices else "", "ok")
    last = reply is not None and sample.messages and sample.messages[-1].role == "assistant"
    return {
        "id": str(sample.id),
        "repeat": sample.epoch - 1,
        "scores": scores,
        "messages": [
            {"role": each.role, "content": each.text}
            for each in (sample.messages[:-1] if last else sample.messages)
        ],
        "content": output.completion,
        "reasoning": reasoning_of(reply),
        "answer": answer,
        "target": sample.target,
        "outcome": "empty" if outcome == "ok" and not output.completion else outcome,
        "usage": {
            "prompt_tokens": sum(each.input_tokens for each in usage),
            "completion_tokens": sum(each.output_tokens for each in usage),
        },
        "limit": sample.limit.type if sample.limit else None,
    }


def reasoning_of(message):
    """The reasoning in a message, or null."""
    if message is None or isinstance(message.content, str):
        return None
    parts = [part.reasoning for part in message.content if part.type == "reasoning"]
    return "\n".join(parts) or None


def packages(spec):
    """Versions of the packages that the log names, and of the one that the task is of."""
    found = dict(spec.packages)
    owner = (spec.task_registry_name or "").partition("/")
    if owner[1]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[owner[0]] = metadata.version(owner[0])
    return found


def epochs_of(arguments):
    """The argument `epochs` of `eval`, where the recipe has one."""
    return {"epochs": arguments["epochs"]} if arguments["epochs"] else {}


def roles_of(roles):
    """Models by role, as `eval` takes them."""
    from inspect_ai.model import GenerateConfig, get_model

    return {
        name: get_model(
            role["model"],
            base_url=role["base_url"],
            api_key=os.environ[role["api_key_env"]] if role["api_key_env"] else None,  # noqa: TID251
            config=GenerateConfig(**role["config"]),
        )
        for name, role in roles.items()
    } or None


def pattern(sample_id, task):
    """What selects just this sample: `eval` takes ids for patterns, and `TASK:` before one for a task's name."""
    text = glob.escape(str(sample_id))
    return f"{task}:{text}" if ":" in text else text


def main(arguments):
    """One of the four, as `do` says. Refuses with what inspect says, which it keeps to itself without a display."""
    doing = {"list": list_tasks, "plan": plan, "run": run, "join": join}
    try:
        return doing[arguments["do"]](arguments)
    except Exception as error:
        # Nobody else would see it: inspect's own hook shows nothing where its display is `none`.
        text = MARKUP.sub("", " ".join(str(error).split()))
        if type(error).__name__ == "PrerequisiteError":
            raise SystemExit(text.removeprefix("Error: ")) from error
        traceback.print_exc()
        raise SystemExit(f"{type(error).__name__}: {text}") from error
