"""The end of a log, and the causes that are recognised in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.serving import logs
from evalkit.serving.server import describe_code

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("line", "advice", "kind"),
    [
        ("api_server.py: error: unrecognized arguments: --bogus", "extra_args", "config"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "memory", "oom"),
        ("ValueError: Free memory on device (3/80 GiB) on startup is less than desired GPU "
         "memory utilization (0.9, 72 GiB).", "gpu_memory_utilization", "oom"),
        ("ValueError: To serve at least one request, 9.0 GiB KV cache is needed, which is larger "
         "than the available KV cache memory (2.0 GiB).", "max_model_len", "config"),
        ("MemoryError", "memory", "oom"),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "memory", "oom"),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error.", "HF_TOKEN", "config"),
        ("RepositoryNotFoundError: 404 Client Error.", "models.<name>.hub", "config"),
        ("ValueError: Couldn't instantiate the backend tokenizer from one of:", "tokenizer",
         "config"),
        ("Model architectures ['NoSuch'] are not supported for now.", "config.json", "config"),
        ("OSError: /m does not appear to have a file named config.json.", "config.json", "config"),
        ("OSError: It looks like the config file at '/m/config.json' is not a valid JSON file.",
         "config.json", "config"),
        ("safetensors_rust.SafetensorError: Error while deserializing header: invalid", "weight",
         "config"),
        ("ModuleNotFoundError: No module named 'vllm'", "serving.python", "config"),
        ("RuntimeError: Failed to infer device type", "GPU", "gpu_preflight"),
        ("ImportError: libcuda.so.1: cannot open shared object file", "GPU", "gpu_preflight"),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "exclude",
         "gpu_preflight"),
        ("cannot start vllm: No such file or directory", "serving.command", "config"),
        ("[Errno 98] error while attempting to bind: address already in use", "port",
         "server_start"),
    ],
)  # fmt: skip
def test_known_causes(line: str, advice: str, kind: str) -> None:
    """The line is quoted with its neighbours; the advice names what to change; the kind is known."""
    log = ["INFO loading", "", line, "Traceback (most recent call last):", "  File x", "  File y"]
    found = logs.find_cause(log)
    assert found is not None
    assert found.line == line
    assert advice in found.hint
    assert found.kind == kind
    assert found.lines == (line, "Traceback (most recent call last):", "  File x")


def test_errors_of_an_unknown_cause() -> None:
    """The first and last errors of a log stand for it; without any, its last lines."""
    said = [f"E{n}Error: x" for n in range(9)]
    log = ["INFO a", *said, "INFO b", ""]
    assert logs.find_errors(log) == [*said[:3], *said[-3:]]
    assert logs.find_errors(["INFO a", "FATAL: b", "INFO c"]) == ["FATAL: b"]
    assert logs.find_errors(["a", "b ", "", "c", "d"]) == ["b", "c", "d"]
    assert logs.find_errors([]) == []


def test_no_known_cause() -> None:
    """An ordinary log gives no advice."""
    assert logs.find_cause(["INFO: 127.0.0.1 - GET /health 200 OK", "Capturing graphs"]) is None
    assert not logs.says_address_in_use(["INFO: Uvicorn running on http://127.0.0.1:8000"])


LENGTH = (
    "(APIServer pid=9) WARNING 11-25 20:01:00 [model.py:2572] The model's config.json does not contain "
    "any of the keys to determine the original maximum length of the model. Assuming 2048."
)
RETRY = (
    "(EngineCore_DP0 pid=9) WARNING 11-25 20:01:00 [parallel.py:746] Address already in use. "
    "Retrying with a new port."
)
ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"


def test_what_a_server_coped_with_is_no_cause() -> None:
    """vLLM's warnings about a missing length and a port it replaced explain no failed start."""
    nccl = "RuntimeError: NCCL error: unhandled system error"
    assert logs.find_cause([LENGTH, RETRY, nccl]) is None
    assert not logs.says_address_in_use([LENGTH, RETRY, nccl])
    assert logs.says_address_in_use([RETRY, "OSError: [Errno 98] Address already in use"])


def test_the_node_comes_before_the_recipe() -> None:
    """A lost GPU explains whatever else goes wrong after it, or before."""
    for lines in ([LENGTH, ECC], [ECC, "ValueError: invalid header"], ["invalid header", ECC]):
        found = logs.find_cause(lines)
        assert found is not None
        assert (found.kind, found.line) == ("gpu_preflight", ECC)


def test_end_of_a_log(tmp_path: Path) -> None:
    """Only what was written since the start counts, decoded whatever the bytes are."""
    path = tmp_path / "log"
    assert logs.read_end(path) == []
    path.write_bytes(b"before\n")
    start = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"caf\xff\nlast")
    assert logs.read_end(path, start) == ["caf\N{REPLACEMENT CHARACTER}", "last"]
    assert logs.read_end(path, 0, limit=4) == ["last"]


def test_tail_is_short() -> None:
    """Many lines, blank lines and long lines do not make a long message."""
    lines = [f"line {n}" for n in range(100)] + ["", "x" * 5000]
    kept = logs.tail(lines).splitlines()
    assert len(kept) == logs.TAIL_LINES
    assert kept[-2] == "line 99"
    assert len(kept[-1]) == logs.LINE_CHARS


@given(st.integers(0, 500))
def test_secrets_are_never_cut_in_half(indent: int) -> None:
    """A secret is replaced before a line is cut, wherever it stands."""
    assert "sec" not in logs.tail(["." * indent + "secret-key"], ["secret-key"])


@pytest.mark.parametrize(
    ("code", "text"),
    [(1, "exit code 1"), (137, "exit code 137 (SIGKILL)"), (-9, "exit code 137 (SIGKILL)"),
     (255, "exit code 255")],
)  # fmt: skip
def test_exit_codes(code: int, text: str) -> None:
    """A signal is named, however the code tells it."""
    assert describe_code(code) == text
