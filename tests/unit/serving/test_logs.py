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
    ("line", "advice"),
    [
        ("api_server.py: error: unrecognized arguments: --bogus", "extra_args"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "memory"),
        ("ValueError: Free memory on device (3/80 GiB) on startup is less than desired GPU "
         "memory utilization (0.9, 72 GiB).", "gpu_memory_utilization"),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error.", "HF_TOKEN"),
        ("RepositoryNotFoundError: 404 Client Error.", "models.<name>.hub"),
        ("ValueError: Couldn't instantiate the backend tokenizer from one of:", "tokenizer"),
        ("Model architectures ['NoSuch'] are not supported for now.", "config.json"),
        ("safetensors_rust.SafetensorError: Error while deserializing header: invalid", "weight"),
        ("ModuleNotFoundError: No module named 'vllm'", "serving.python"),
        ("RuntimeError: Failed to infer device type", "GPU"),
        ("cannot start vllm: No such file or directory", "serving.command"),
        ("[Errno 98] error while attempting to bind: address already in use", "port"),
    ],
)  # fmt: skip
def test_known_causes(line: str, advice: str) -> None:
    """The line is quoted and the advice names what to change."""
    found = logs.find_cause(["INFO loading", line, "Traceback (most recent call last):"])
    assert found is not None
    assert found.line == line
    assert advice in found.hint


def test_no_known_cause() -> None:
    """An ordinary log gives no advice."""
    assert logs.find_cause(["INFO: 127.0.0.1 - GET /health 200 OK", "Capturing graphs"]) is None
    assert not logs.says_address_in_use(["INFO: Uvicorn running on http://127.0.0.1:8000"])


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
