"""The end of a server's log, and what is known about the causes that appear in it.

A cause carries the kind of failure that it is. Servers have no other way to tell a full memory from a
misspelt option, so this decides whether a failed start is worth another one; it never decides that a
server is dead (`evalkit.serving.trouble` says when it is asked). A taken port, too, is reported in no
other way: see `says_address_in_use`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from evalkit.errors import FailureKind
from evalkit.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TAIL_LINES = 25
# vLLM prints the root cause of a failed start hundreds of lines before the end: two tracebacks of
# two processes follow it.
SEARCH_BYTES = 512 * 1024
HINT_BYTES = 64 * 1024
LINE_CHARS = 400
# Servers print what they were doing right before an error, and its details right after it.
BEFORE, AFTER = 1, 2
LAST = 3
ERROR = re.compile(r"\b[\w.]*(?:Error|Exception|Interrupt)\b: |^error:|\bfatal\b", re.IGNORECASE)


class Cause(NamedTuple):
    """A known cause: what its line looks like, what it is, and what to do."""

    pattern: re.Pattern[str]
    hint: str
    kind: FailureKind


def _cause(pattern: str, hint: str, kind: FailureKind = FailureKind.CONFIG) -> Cause:
    return Cause(re.compile(pattern, re.IGNORECASE), hint, kind)


class Found(NamedTuple):
    """A cause that a log shows."""

    line: str
    hint: str
    kind: FailureKind
    lines: tuple[str, ...]
    """The line with what was said right before and after it."""


# `(EngineCore pid=12) WARNING 08-01 12:00:00 [model.py:1]`: the server went on after it. Such lines of
# vLLM's speak of a config.json without a length, and of an address in use that another port replaced.
MILD = re.compile(r"^(?:\([^)]*\) *)?(?:DEBUG|INFO|WARNING)\b")
ADDRESS_IN_USE = re.compile(r"address already in use|\[errno 98\]|EADDRINUSE", re.IGNORECASE)

CAUSES = (
    _cause(
        r"no cuda gpus are available|cuda driver version is insufficient|failed to infer device"
        r"|libcuda\.so|uncorrectable ecc|fallen off the bus|gpu is lost|\bxid\b"
        r"|driver/library version mismatch|system not yet initialized",
        "No usable GPU: check the GPUs of the job (cluster.gpu_request, serving.gpus) and the "
        "driver on the node; a broken node can be left out with cluster.exclude.",
        FailureKind.GPU_PREFLIGHT,
    ),
    _cause(
        r"error: unrecognized arguments|unrecognized arguments:|no such option|unknown option",
        "The server does not know an option: check serving.extra_args against its version.",
    ),
    _cause(
        r"no available memory for the cache|larger than the available kv cache memory",
        "The key-value cache does not fit: lower serving.max_model_len, raise "
        "serving.gpu_memory_utilization, or use more GPUs (serving.tensor_parallel_size).",
    ),
    _cause(
        r"out of memory|OutOfMemoryError|less than desired (gpu|cpu) memory utilization"
        r"|not enough memory|\bMemoryError\b|cannot allocate memory|can't allocate memory"
        r"|std::bad_alloc|oom.?kill",
        "Not enough memory: lower serving.gpu_memory_utilization or serving.max_model_len, use more "
        "GPUs (serving.tensor_parallel_size), or look for other processes on the node.",
        FailureKind.OOM,
    ),
    _cause(
        r"gated repo|GatedRepoError|401 client error|access to model .* is restricted",
        "The hub repository is gated: accept its terms, then name the variable that holds your "
        "token in serving.secrets (HF_TOKEN).",
    ),
    _cause(
        r"RepositoryNotFoundError|RevisionNotFoundError|is not a valid model identifier"
        r"|LocalEntryNotFoundError|couldn't connect to .*huggingface",
        "The hub repository was not found: check models.<name>.hub and its revision. Where compute "
        "nodes have no internet, download that revision first where there is (`hf download NAME "
        "--revision COMMIT`, or huggingface-cli), into a cache that the nodes see (HF_HOME).",
    ),
    _cause(
        r"tokenizer.*(not found|cannot|can't|couldn't|could not|fail)|can't load tokenizer"
        r"|couldn't instantiate the backend tokenizer",
        "The tokenizer cannot be loaded: the checkpoint folder needs its tokenizer files.",
    ),
    _cause(
        r"model architectures? .* (are|is) not supported|should have a `?model_type`?"
        r"|unrecognized model in|does not recognize this architecture|invalid repository id or local"
        r"|cannot find any model weights|SafetensorError|HeaderTooLarge"
        r"|incomplete metadata|invalid header|(no|named|find|missing) [^ ]*config\.json"
        r"|config\.json[^ ]* is (missing|not (found|a valid|valid))",
        "vLLM cannot load this checkpoint: check config.json (architectures, model_type) and that "
        "its weight files are complete; a newer vLLM may know the architecture.",
    ),
    _cause(
        r"no module named|cannot import name|undefined symbol|cannot open shared object",
        "The server's Python environment is broken or incomplete: check serving.python and "
        "cluster.setup.",
    ),
    _cause(
        r"^cannot start ",
        "The command is not there: check serving.command, serving.python and cluster.server_prefix.",
    ),
    _cause(
        r"address already in use",
        "Its port was taken by another program.",
        FailureKind.SERVER_START,
    ),
)


def read_end(path: Path, start: int = 0, limit: int = SEARCH_BYTES) -> list[str]:
    """The last lines of a log, from byte `start` on and at most `limit` bytes; [] without a file."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(start, end - limit))
            data = file.read()
    except FileNotFoundError:
        return []
    return data.decode(errors="replace").splitlines()


def readable_end(path: Path) -> list[str]:
    """The last lines of a log, at most 64 KiB; [] where it cannot be read, for who wants hints alone."""
    try:
        return read_end(path, limit=HINT_BYTES)
    except OSError:
        return []


def tail(lines: list[str], secrets: Iterable[str] = ()) -> str:
    """The last lines for an error message: blank ones left out, long ones cut, secrets replaced."""
    kept = [line.rstrip() for line in lines if line.strip()][-TAIL_LINES:]
    return "\n".join(line[:LINE_CHARS] for line in redact("\n".join(kept), secrets).split("\n"))


def find_cause(lines: list[str]) -> Found | None:
    """The first line that shows a known cause, and what to do about it; None when none does.

    What a node does to a server comes before what a recipe does, for the first may be over elsewhere;
    and a server that only warned has coped.
    """
    for cause in CAUSES:
        for index, line in enumerate(lines):
            if cause.pattern.search(line) and not MILD.match(line):
                near = lines[max(0, index - BEFORE) : index + 1 + AFTER]
                kept = tuple(text.rstrip() for text in near if text.strip())
                return Found(line.strip(), cause.hint, cause.kind, kept)
    return None


def find_errors(lines: list[str]) -> list[str]:
    """What a log without a known cause has to say: its first and last errors, or its last lines."""
    errors = [line.rstrip() for line in lines if ERROR.search(line)]
    if not errors:
        return last_lines(lines)
    return list(dict.fromkeys([*errors[:LAST], *errors[-LAST:]]))


def last_lines(lines: list[str]) -> list[str]:
    """The last few that are not blank."""
    return [line.rstrip() for line in lines if line.strip()][-LAST:]


def says_address_in_use(lines: list[str]) -> bool:
    """Whether the server ended because its port was taken."""
    return any(ADDRESS_IN_USE.search(line) and not MILD.match(line) for line in lines)
