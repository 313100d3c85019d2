"""Scoring of tasks that run what the model wrote.

lm-eval is run twice, both times as a whole in a sandbox: its Python, its task files and the hub's cache can
be read there, nothing else, and there is no network. Where its metric `code_eval` would run programs, the
first run only notes them. Then each runs in a sandbox of its own (`lm_eval_programs`), and the second run is
told the verdicts. So nothing that a model wrote runs where results are made.

A task that runs code by other means does it in lm-eval's own process, inside of its sandbox.
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
from evalkit.harnesses.lm_eval_programs import run_programs
from evalkit.scoring.sandbox import Ending, Limits, Program, SandboxPool, find_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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
CACHE = "huggingface"
"""Where the hub's cache appears in the working folder: links to its files, so that locks can be taken beside
them."""
PARTS = ("datasets", "hub", "modules", "evaluate", "metrics")
"""Folders of the hub's cache; of `hub` only data sets and spaces."""
SUFFIXES = (".json", ".jsonl")
TAIL = 2000


def score_in_sandbox(
    python: HarnessPython,
    script: str,
    arguments: Mapping[str, Any],
    answers: Mapping[str, Any],
    scoring: Scoring,
    out: Path,
) -> Mapping[str, Any]:
    """What `inside/<script>` returns for its command `results`. Its files go into `out`. Raises ScorerError."""
    files = {"answers": json.dumps(answers).encode(errors="surrogatepass")}
    told = _run(python, script, {**arguments, "command": "programs"}, files, scoring, None)
    verdicts = run_programs(told, python.path, scoring)
    files["verdicts"] = json.dumps(verdicts).encode()
    return _run(python, script, {**arguments, "command": "results"}, files, scoring, out)


def refuse_image(alone: Sequence[str], scoring: Scoring) -> None:
    """Raises ScorerError where `alone`, tasks that run code in lm-eval's own process, would not be in it."""
    if alone and scoring.image is not None:
        raise ScorerError(
            f"{', '.join(alone)}: runs the model's code in lm-eval's own process, which is not in the image "
            f"{scoring.image}",
            hint="Leave scoring.image out for this task: it is then scored in evalkit's sandbox.",
        )


def _run(
    python: HarnessPython,
    script: str,
    arguments: Mapping[str, Any],
    given: Mapping[str, bytes],
    scoring: Scoring,
    out: Path | None,
) -> Mapping[str, Any]:
    """What the script returns in there; `given` are files by the names of their arguments."""
    cache = dict(_cache(harness_environment()))
    tasks = arguments["options"].get("include_path")
    readonly = [INSIDE, *cache, *([Path(tasks)] if tasks else [])]
    index = {f"index/{path.name}": path.read_bytes() for path in _index(arguments)}
    env = {**arguments.get("env", {}), "HF_HOME": CACHE, "PYTHONDONTWRITEBYTECODE": "1"}
    asked = {**arguments, "env": env, "out": "out", "index": "index"}
    asked |= {name: f"{name}.json" for name in given}
    program = Program(
        argv=[
            *(str(python.path), "-s", "-B", str(INSIDE / "boxed.py")),
            *(str(INSIDE / script), "arguments.json"),
            *(f"{source}={target}" for source, target in cache.items()),
        ],
        files={
            "arguments.json": json.dumps(asked).encode(),
            **{f"{name}.json": content for name, content in given.items()},
            **index,
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


def _index(arguments: Mapping[str, Any]) -> list[Path]:
    """Of lm-eval's tasks, if it was made before."""
    return sorted(Path(arguments["index"]).glob("index-*.json"))


def _unpack(content: bytes, out: Path | None) -> Mapping[str, Any]:
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
            elif out is not None and path.parent == Path("out") and path.suffix in SUFFIXES:
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
