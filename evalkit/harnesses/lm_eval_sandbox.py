"""Scoring in evalkit's sandbox, for tasks that run what the model wrote.

lm-eval runs such code in children of its own process. So all of it goes into the sandbox: its Python, its
task files and the hub's cache can be read there, nothing else, and there is no network. What it found
comes out through its output.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ScorerError
from evalkit.harnesses.call import INSIDE
from evalkit.harnesses.env import harness_environment
from evalkit.scoring.sandbox import Ending, Limits, Program, SandboxPool, find_sandbox
from evalkit.store.layout import RunFolder
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from evalkit.harnesses.environments import HarnessPython
    from evalkit.recipe.schema import Scoring

_GIB = 2**30
HOURS_S = 24 * 3600.0
LIMITS = Limits(
    memory_bytes=64 * _GIB,  # address space: libraries for tables reserve far more than they use
    file_bytes=4 * _GIB,
    open_files=4096,
    processes=512,
    scratch_bytes=8 * _GIB,
    output_bytes=4 * _GIB,
)
CACHE = "/tmp/huggingface"
"""Where the hub's cache appears inside: links to its files, so that locks can be taken beside them."""
PARTS = ("datasets", "hub", "modules", "evaluate", "metrics")
"""Folders of the hub's cache; of `hub` only data sets and spaces."""
TAIL = 2000


def call_in_sandbox(
    python: HarnessPython,
    script: str,
    arguments: Mapping[str, Any],
    answers: Mapping[str, Any],
    run: Path,
    out: Path,
) -> Mapping[str, Any]:
    """What `inside/<script>` returns there. Its files go into `out`. Raises ScorerError."""
    scoring = load_plan(RunFolder(run)).scoring
    return run_in_sandbox(python, script, arguments, answers, scoring, out)


def run_in_sandbox(
    python: HarnessPython,
    script: str,
    arguments: Mapping[str, Any],
    answers: Mapping[str, Any],
    scoring: Scoring,
    out: Path,
) -> Mapping[str, Any]:
    """As `call_in_sandbox`, with the run's settings for sandboxes."""
    cache = dict(_cache(harness_environment()))
    tasks = arguments["options"].get("include_path")
    readonly = [INSIDE, *cache, *([Path(tasks)] if tasks else [])]
    env = {**arguments.get("env", {}), "HF_HOME": CACHE, "PYTHONDONTWRITEBYTECODE": "1"}
    given = {**arguments, "env": env, "answers": "/tmp/box/answers.json", "out": "/tmp/box/out"}
    program = Program(
        argv=[
            *(str(python.path), "-s", "-B", str(INSIDE / "boxed.py")),
            *(str(INSIDE / script), "arguments.json"),
            *(f"{source}={target}" for source, target in cache.items()),
        ],
        files={
            "arguments.json": json.dumps(given).encode(),
            "answers.json": json.dumps(answers).encode(errors="surrogatepass"),
        },
        wall_s=HOURS_S,
        cpu_s=int(HOURS_S),
        limits=LIMITS,
    )
    sandbox = find_sandbox(
        harness_environment(), interpreter=python.path, readonly=readonly, unsafe=scoring.unsafe
    )
    with SandboxPool(sandbox, workers=1) as pool:
        result = pool.run_one(program)
    if result.ended is not Ending.OK:
        raise ScorerError(
            f"{script} ended in the sandbox as {result.ended} (exit code {result.exit_code})",
            hint=result.stderr.decode(errors="replace")[-TAIL:],
        )
    return _unpack(result.stdout, out)


def _unpack(content: bytes, out: Path) -> Mapping[str, Any]:
    """Only plain files of the one folder: what ran in there may have written anything."""
    answer: Mapping[str, Any] | None = None
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            path = Path(member.name)
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is None:
                continue
            if path == Path("answer.json"):
                answer = json.loads(stream.read())
            elif path.parent == Path("out") and path.suffix in (".json", ".jsonl"):
                (out / path.name).write_bytes(stream.read())
    if answer is None:
        raise ScorerError("the sandbox gave no answer")
    if "refused" in answer:
        raise ScorerError(answer["refused"])
    told: Mapping[str, Any] = answer["answer"]
    return told


def _cache(env: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Folders of the hub's cache, and where they appear."""
    xdg = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME", "/")) / ".cache")
    home = Path(env.get("HF_HOME") or Path(xdg) / "huggingface")
    for part in PARTS:
        name = {"hub": "HF_HUB_CACHE", "datasets": "HF_DATASETS_CACHE"}.get(part, "")
        folder = Path(env.get(name) or home / part).expanduser().absolute()
        if not folder.is_dir():
            continue
        if part != "hub":
            yield folder, f"{CACHE}/{part}"
            continue
        for each in sorted(folder.iterdir()):
            if each.name.startswith(("datasets--", "spaces--")):
                yield each, f"{CACHE}/hub/{each.name}"
