"""A key that the endpoint repeats: it is in nothing that a run leaves behind."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar

import pytest

from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.job import current_job
from evalkit.cluster.worker import run_replica
from evalkit.errors import EndpointError
from tests.unit.worker.test_prepare import RECIPE, load, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from evalkit.store.layout import RunFolder

KEY = "sk-proj/echoed-0123456789"
STREAM = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":"5"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)


class Echo(BaseHTTPRequestHandler):
    """Refuses chat requests with the key in its words; `passes_streams` lets the preflight through."""

    passes_streams: ClassVar[bool]
    status: ClassVar[int]

    def do_GET(self) -> None:
        """The models."""
        self._send(200, b'{"object": "list", "data": [{"id": "m", "object": "model"}]}')

    def do_POST(self) -> None:
        """A refusal."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body.get("stream") and self.passes_streams:
            self._send(200, STREAM)
            return
        sent = self.headers["Authorization"]
        # cut by whoever shows 500 characters of it, and with slashes as some servers write them
        text = json.dumps({"error": {"message": f"bad key {sent}: {'x' * 440} {sent} {sent}"}})
        self._send(self.status, text.replace("/", "\\/").encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@contextmanager
def echoing(status: int, *, passes_streams: bool) -> Iterator[str]:
    """Base URL of such a server."""
    handler = type("Handler", (Echo,), {"status": status, "passes_streams": passes_streams})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def make_run(root: Path, base_url: str) -> RunFolder:
    """A run against a server that wants a key."""
    serving = {**RECIPE["serving"], "base_url": base_url, "api_key_env": "ECHO_KEY"}
    changes = {
        "serving": serving,
        "tasks": {"addition": {"params": {"n": 5, "digits": 2}}},
        "client": {"parallelism": 2, "max_retries": 0},
    }
    return prepare(load(root, **changes))[0].folder


def shows_key(root: Path) -> list[str]:
    """Files that hold the key, or half of it."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return [str(path) for path in files if b"echoed-" in path.read_bytes()]


@pytest.mark.parametrize("status", [401, 400])
def test_refused_preflight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """A refusal that repeats the key ends the attempt, and tells why without it."""
    monkeypatch.setenv("ECHO_KEY", KEY)
    with echoing(status, passes_streams=False) as base_url:
        folder = make_run(tmp_path, base_url)
        with pytest.raises(EndpointError, match="bad key") as caught:
            run_replica(folder.root, "r0", current_job())
    assert "echoed-" not in str(caught.value)
    assert caught.value.__context__ is None, "a traceback shows no words of others"
    assert "***" in folder.worker_log("r0", 1).read_text()
    assert shows_key(tmp_path) == []


def test_refused_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units that failed with the key in the answer are journaled without it."""
    monkeypatch.setenv("ECHO_KEY", KEY)
    with echoing(400, passes_streams=True) as base_url:
        folder = make_run(tmp_path, base_url)
        assert run_replica(folder.root, "r0", current_job()) == 0
    [record] = read_attempts(folder)
    assert record.end == "done"
    assert shows_key(tmp_path) == []
    journals = b"".join(p.read_bytes() for p in folder.root.rglob("*.jsonl"))
    assert b"bad key" in journals
