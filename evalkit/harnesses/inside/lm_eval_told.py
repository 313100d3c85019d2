"""What the driver tells of tasks, and in which form: hashes, versions, JSON."""

import contextlib
import hashlib
import inspect
import json
import re
import sys
from importlib import metadata


def about(task):
    """What is known of a loaded task before it is asked anything; its numbers are `metric,filter`."""
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
    text = re.sub(r" at 0x[0-9a-f]+>", ">", as_json(_with_sources(value), sort_keys=True))
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
        digest.update(as_json(doc, sort_keys=True).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def aggregates(group):
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


def packages():
    """Versions of what scores depend on beside lm-eval."""
    found = {}
    for name in ("datasets", "evaluate", "math-verify", "sympy", "transformers", "nltk"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def version(package):
    """Of lm-eval, under the name of its distribution."""
    return metadata.version(package)


def as_json(value, **more):
    """As lm-eval writes its own files."""
    with stdout_to_stderr():
        from lm_eval.utils import handle_non_serializable
    return json.dumps(value, ensure_ascii=False, default=handle_non_serializable, **more)


def file_name(name):
    """A task's name without odd characters."""
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in name)


def write(path, text):
    """A model may write half of a surrogate pair."""
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


@contextlib.contextmanager
def stdout_to_stderr():
    """lm-eval prints while it is imported and while it loads."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
