"""An instant mock of a chat endpoint: nginx with one canned reply.

It costs a small part of what any Python client costs per request, so a client on another core is the
bottleneck. nginx comes from the distribution (Debian: nginx-light) and runs here with a configuration,
a port and a folder of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = "canned"
START_S = 10.0

_ANSWER = (
    "We are asked for a sum. Adding the ones, then the tens and then the hundreds, and carrying "
    "where a column is larger than nine, gives the result; checking it by estimating both numbers "
    "gives the same order of magnitude. So the answer is \\boxed{42}."
)
REPLY = {
    "id": "chatcmpl-5f3c2b1a9e8d4c7b",
    "object": "chat.completion",
    "created": 1760000000,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": _ANSWER,
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "tool_calls": [],
                "reasoning": None,
            },
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
            "token_ids": None,
        }
    ],
    "service_tier": None,
    "system_fingerprint": None,
    "usage": {
        "prompt_tokens": 26,
        "total_tokens": 88,
        "completion_tokens": 62,
        "prompt_tokens_details": None,
    },
    "prompt_logprobs": None,
    "prompt_token_ids": None,
    "kv_transfer_params": None,
}
"""All the fields vLLM 0.32 sends, in its order."""

_CHUNK = {
    "id": "chatcmpl-5f3c2b1a9e8d4c7b",
    "object": "chat.completion.chunk",
    "created": 1760000000,
    "model": MODEL,
    "choices": [{"index": 0, "delta": {"content": "So"}, "finish_reason": "stop"}],
}

_CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
  client_body_buffer_size 64k;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    default_type application/json;
    location = /v1/models {{ return 200 {models}; }}
    location = /v1/chat/completions {{ return 200 {reply}; }}
    # nginx cannot read `stream` out of a body: the preflight's path is told by its client
    location = /checked/v1/models {{ return 200 {models}; }}
    location = /checked/v1/chat/completions {{
      if ($http_user_agent ~ OpenAI) {{ rewrite ^ /stream last; }}
      return 200 {reply};
    }}
    location = /stream {{ default_type text/event-stream; return 200 {stream}; }}
  }}
}}
"""


@contextmanager
def instant_mock(folder: Path, port: int, core: int | None) -> Iterator[str]:
    """Serve the canned reply; the context is the root URL, `http://127.0.0.1:PORT`.

    `/v1` answers everything alike; `/checked/v1` streams to the `openai` package, whose only request
    in evalkit is the preflight. Raises RuntimeError when nginx is missing or does not start.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise RuntimeError("nginx is not installed; on Debian: apt-get install nginx-light")
    config = folder / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            folder=folder,
            port=port,
            models=_quoted(orjson.dumps({"object": "list", "data": [{"id": MODEL}]}).decode()),
            reply=_quoted(orjson.dumps(REPLY).decode()),
            stream=_quoted(f"data: {orjson.dumps(_CHUNK).decode()}\n\ndata: [DONE]\n\n"),
        ),
        "utf-8",
    )
    server = subprocess.Popen(
        [program, "-c", str(config), "-p", str(folder), "-e", str(folder / "error.log")],
        stderr=subprocess.PIPE,
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_ready(server, url)
        yield url
    finally:
        server.terminate()
        server.wait()


def _wait_ready(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None and server.stderr is not None:
            raise RuntimeError(f"nginx did not start: {server.stderr.read().decode()}")
        try:
            with urllib.request.urlopen(f"{url}/v1/models", timeout=1):
                return
        except urllib.error.URLError:
            time.sleep(0.05)
    raise RuntimeError(f"nginx gives no answer at {url} after {START_S} s")


def _quoted(text: str) -> str:
    """A string of nginx's configuration. `$` would be a variable and cannot be escaped."""
    if "$" in text:
        raise ValueError("a canned reply cannot hold `$`")
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
