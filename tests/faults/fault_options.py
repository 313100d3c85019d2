"""What the fault server can do wrong: its switches, and its command lines.

It has two: its own, with every switch as an option, and vLLM's, in which it stands for a `vllm serve`
(see `write_vllm`), so that everything evalkit does for vLLM alone is done for it too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

VLLM_VERSION = "0.32.0"
VLLM_MAIN = "from tests.faults.fault_server import main\n\nmain(as_vllm=True)\n"


@dataclass
class Switches:
    """What goes wrong, and when. `every` counts request bodies by their hash: 1 means all."""

    ready_after_s: float = 0.0
    """503 from everything until then."""
    die_after: int = 0
    """The process ends, mid-request, at the n-th generation; 0 never."""
    die_at_token: int = 0
    """The process ends with its n-th token; 0 never."""
    hang_after: int = 0
    """Generations after the n-th never end, `/health` stays 200; 0 never."""
    hang_at_token: int = 0
    """No token comes after the n-th, `/health` stays 200; 0 never."""
    fail_status: int = 0
    """Answer with this status (500, 429 ...); 0 never."""
    fail_every: int = 1
    """One body in so many fails."""
    fail_times: int = 1
    """So many times each, then it is answered. Counts for the next four too."""
    truncate_every: int = 0
    """One body in so many gets half of its JSON; 0 never."""
    drop_every: int = 0
    """The connection of one body in so many is cut in the middle of the answer; 0 never."""
    drop_at_once: bool = False
    """Those connections are cut before the answer begins."""
    wrong_model_every: int = 0
    """One body in so many is answered in another model's name; 0 never."""
    health_status: int = 0
    """Status of `/health` once a generation was asked for; 0 stays 200."""
    retry_after: str = ""
    """Retry-After header of failures."""
    null_every: int = 0
    """One body in so many has `content: null`, always; 0 never."""
    empty_every: int = 0
    """One body in so many has `content: ""`, always; 0 never."""
    reasoning: str = "none"
    """`reasoning` or `reasoning_content` (fields), `inline` (<think> in the content), `none`."""
    reads: str = ""
    """The field of an assistant's message whose reasoning enters the prompt; by default none does."""
    takes_tools: bool = True
    """Parse tool calls; else refuse requests that offer tools, in vLLM's words."""
    counts: bool = True
    """Say `usage` in whole answers."""
    served_as: str = ""
    """A model id to serve instead of --model."""
    latency_s: float = 0.0
    """Time to the first token."""
    tokens_per_s: float = 0.0
    """Speed of one generation; 0 is at once."""
    stream_interval: int = 8
    """Tokens of a chunk."""
    ignore_term: bool = False
    """Survive SIGTERM."""
    spawn: int = 0
    """Child processes in sessions of their own that ignore SIGTERM."""
    metrics: bool = True
    """Serve vLLM's token counters."""
    completions: bool = True
    """Serve `/v1/completions` beside the chat; some servers do not."""
    version: str = ""
    """Say this at `/version`, as vLLM does."""
    scale_out: int = 404
    """Status of the routes that abort and continue generations: 200 serves them, 403 is a vLLM
    without `--enable-scale-out`, 404 any other server."""
    abort_status: int = 0
    """Answer requests to abort with this status, and abort nothing."""
    abort_delay_s: float = 0.0
    """Abort so much later."""
    parses: bool = True
    """Parse chats; else refuse with 400, in words that a refusal of the context has too."""
    max_new_tokens: int = 0
    """The server's own limit of an answer, as a checkpoint may bring one; 0 has none."""
    penalty: float = 0.0
    """A presence penalty that the server adds to requests without one."""
    ledger: str = ""
    """A file that gets a JSON line for all that happens to a generation; it outlives a kill."""
    mood: str = ""
    """A file with switches (JSON) for one start: it is removed when it is read. `exit` ends the
    process with that code, `port_taken` makes somebody listen on its port."""


def body_hash(body: dict[str, Any]) -> str:
    """Names a request: equal bodies, equal hashes. How tokens are to be delivered is not in it."""
    asked = dict(body)
    if asked.pop("return_token_ids", None):
        asked["stream"] = False
        for name in ("stream_options", "stream_interval"):
            asked.pop(name, None)
    canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def hits(name: str, every: int) -> bool:
    """Whether a body is the one in `every`; 0 hits none."""
    return every > 0 and int(name, 16) % every == 0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Every switch is an option too."""
    parser = argparse.ArgumentParser(description="A server of the OpenAI API that misbehaves.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--model", default="model")
    parser.add_argument("--exit-at-start", type=int, help="end at once with this code")
    parser.add_argument("--say", default="", help="a line for the log, before anything else")
    _add_switches(parser)
    return parser.parse_args(argv)


def parse_vllm_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """vLLM's own options as far as they matter here, and the switches; the rest means nothing."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("serve", nargs="*")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", dest="model", default="model")
    parser.add_argument("--enable-scale-out", action="store_true")
    _add_switches(parser)
    parser.set_defaults(scale_out=0)
    args, _ = parser.parse_known_args(argv)
    args.scale_out = args.scale_out or (200 if args.enable_scale_out else 403)
    args.version = VLLM_VERSION
    args.api_key = os.environ.get("VLLM_API_KEY", "")
    args.exit_at_start, args.say = None, ""
    return args


def _add_switches(parser: argparse.ArgumentParser) -> None:
    for switch in fields(Switches):
        option, default = f"--{switch.name.replace('_', '-')}", switch.default
        if isinstance(default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(option, type=type(default), default=default)


def switches_of(args: argparse.Namespace) -> tuple[Switches, dict[str, Any]]:
    """The switches among the options with the mood of this start over them, and the mood's rest."""
    values = {f.name: getattr(args, f.name) for f in fields(Switches)}
    mood = _read_mood(args.mood)
    own = {name: value for name, value in mood.items() if name in values}
    return Switches(**values | own), {k: v for k, v in mood.items() if k not in own}


def _read_mood(path: str) -> dict[str, Any]:
    if not path or not Path(path).exists():
        return {}
    found: dict[str, Any] = json.loads(Path(path).read_text())
    Path(path).unlink(missing_ok=True)
    return found


def write_vllm(folder: Path) -> None:
    """Make a package `vllm` in `folder`, for PYTHONPATH, whose `serve` is the fault server."""
    package = folder / "vllm"
    for name in ("cli/main.py", "openai/api_server.py", "scale_out/derender/__init__.py"):
        path = package / "entrypoints" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(VLLM_MAIN if path.name != "__init__.py" else "")
    for made in (package, *(p for p in package.rglob("*") if p.is_dir())):
        (made / "__init__.py").touch()
    # what is looked for in a version that gives up requests with their tokens
    routes = package / "entrypoints" / "scale_out" / "abort.py"
    routes.write_text('PATH = "/inference/v1/abort_requests"\n')
    metadata = folder / f"vllm-{VLLM_VERSION}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}\n"
    )
