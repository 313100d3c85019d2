"""Running a script in the Python of a harness: JSON in, JSON out.

A script is a file in `evalkit/harnesses/inside/` with a function `main(arguments)` that takes and returns
JSON. It sees the packages of its own Python, the other files beside it, and nothing of evalkit. Where it
cannot do what it is asked for, it raises `SystemExit("a sentence")`; every other exception is a fault.
Large things it writes to a path that is among its arguments.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.harnesses.env import harness_environment
from evalkit.serving.tree import MARKER, Marks, end_tree, read_process

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from evalkit.harnesses.environments import HarnessPython

INSIDE = Path(__file__).with_name("inside")
TAIL_LINES = 20
GRACE_S = 5.0
_POLL_S = 0.1


class InsideError(Exception):
    """A script gave no answer. Callers make a PlanError, DataError or ScorerError of it.

    `message` is a sentence: what the script itself said where it refused, else what became of its process,
    with the last line that it wrote. `tail` is the end of its output, for a hint.
    """

    def __init__(self, message: str, tail: str = "", *, refused: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.tail = tail
        self.refused = refused
        """The script said why: its caller asked for something that there is not."""


def call(
    python: HarnessPython,
    script: str,
    arguments: Mapping[str, Any],
    *,
    timeout_s: float | None = None,
    env: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
) -> Any:
    """What `main(arguments)` of `inside/<script>` returns in that Python.

    `env` is added to what `harness_environment` lets through. It runs in an empty folder that is removed
    afterwards. Raises InsideError where there is no answer, where `timeout_s` is over, and once `stop` is
    set. It and its children have ended whenever this returns or raises, Ctrl-C included.
    """
    with tempfile.TemporaryDirectory(prefix="evalkit-harness-") as name:
        folder = Path(name)
        work = folder / "work"
        work.mkdir()
        (folder / "arguments.json").write_text(json.dumps(arguments), "utf-8")
        names = [INSIDE / script, folder / "arguments.json", folder / "answer.json"]
        log = folder / "output.log"
        # Without -I, which would take no notice of PYTHONHASHSEED: the environment is ours alone, and
        # `run.py` sees to the path.
        command = [str(python.path), "-s", "-B", str(INSIDE / "run.py"), *map(str, names)]
        marks = Marks(marker=folder.name, log=log)
        with log.open("wb") as stream:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    cwd=work,
                    env={**harness_environment(env), MARKER: marks.marker},
                    start_new_session=True,
                )
            except OSError as error:
                raise InsideError(f"{python.path}: {error.strerror}") from error
        marks = marks._replace(leader=read_process(process.pid))
        try:
            ended = _wait(process, timeout_s, stop)
        finally:
            end_process(process, marks)
        return _answer(script, folder, process.returncode, ended)


def _wait(
    process: subprocess.Popen[bytes], timeout_s: float | None, stop: threading.Event | None
) -> str | None:
    """Until it ends: null. Else why nobody waits any longer."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while process.poll() is None:
        if stop is not None and stop.is_set():
            return "was stopped"
        if deadline is not None and time.monotonic() > deadline:
            return f"gave no answer within {timeout_s:g} s"
        try:
            process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            continue
    return None


def end_process(process: subprocess.Popen[bytes], marks: Marks) -> None:
    """End what is left of it: nothing, where it ended by itself and left nothing behind."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
    end_tree([], marks, GRACE_S)
    process.wait()


def _answer(script: str, folder: Path, code: int, ended: str | None) -> Any:
    tail = _tail(folder / "output.log")
    last = next((line for line in reversed(tail.splitlines()) if line.strip()), "")
    if ended is not None:
        raise InsideError(f"{script} {ended}" + (f"; it said last: {last}" if last else ""), tail)
    try:
        answer = json.loads((folder / "answer.json").read_bytes())
    except (OSError, ValueError) as error:
        how = f"was ended by signal {-code}" if code < 0 else f"failed (exit code {code})"
        raise InsideError(f"{script} {how}" + (f": {last}" if last else ""), tail) from error
    if "refused" in answer:
        raise InsideError(answer["refused"], tail, refused=True)
    return answer["answer"]


def _tail(log: Path) -> str:
    lines = log.read_bytes().decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])
