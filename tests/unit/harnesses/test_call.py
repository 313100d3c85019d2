"""Scripts in the Python of a harness: JSON in, JSON out, and nothing left running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.harnesses import call as call_module
from evalkit.harnesses.call import InsideError, call
from evalkit.harnesses.environments import HarnessPython
from evalkit.serving.tree import find_processes

if TYPE_CHECKING:
    from collections.abc import Callable

ECHO = """
import os, sys
def main(arguments):
    print("said")
    return {"arguments": arguments, "env": dict(os.environ), "path": sys.path, "cwd": os.getcwd()}
"""
STUCK = """
import subprocess, sys, time
def main(arguments):
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print("working", flush=True)
    with open(arguments["pids"], "w") as stream:
        print(child.pid, file=stream, flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """A script with this text."""

    def script(text: str) -> str:
        (tmp_path / "script.py").write_text(text)
        return str(tmp_path / "script.py")

    return script


def test_answer(
    own: HarnessPython, script: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments arrive as they are; keys and paths of the user stay out; what is asked for comes in."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("HF_HOME", "/hub")
    monkeypatch.setenv("HUGGINGFACE_API_KEY", "of a hosted model")
    monkeypatch.setenv("https_proxy", "proxy")
    arguments = {"text": "ä\u2028\ud83d", "list": [1, None, 0.5]}
    found: dict[str, Any] = call(own, script(ECHO), arguments, env={"MORE": "1"})
    assert found["arguments"] == arguments
    env = found["env"]
    assert "HUGGINGFACE_API_KEY" not in env
    assert (env["HF_HOME"], env["https_proxy"], env["MORE"]) == ("/hub", "proxy", "1")
    assert (env["PATH"], env["HOME"]) == (os.environ["PATH"], os.environ["HOME"])
    assert (env["PYTHONDONTWRITEBYTECODE"], env["PYTHONHASHSEED"]) == ("1", "0")
    assert not {"OPENAI_API_KEY", "PYTHONPATH"} & set(env)
    assert found["path"][-1] == str(call_module.INSIDE)
    assert not {"", "/elsewhere", found["cwd"], str(Path(__file__).parent)} & set(found["path"])
    assert not Path(found["cwd"]).exists()


def test_a_file_of_ours_hides_no_package(
    own: HarnessPython,
    script: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scripts see each other, after everything that is installed."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "run.py").write_text((call_module.INSIDE / "run.py").read_text())
    (inside / "json.py").write_text("raise RuntimeError")
    (inside / "beside.py").write_text("WORD = 'beside'")
    monkeypatch.setattr(call_module, "INSIDE", inside)
    text = "import colorsys, json, beside\ndef main(_):\n    return [beside.WORD, json.dumps(1)]"
    assert call(own, script(text), {}) == ["beside", "1"]


@pytest.mark.parametrize(
    ("text", "message", "refused"),
    [
        ("def main(_): raise SystemExit('no task xyz')", "no task xyz", True),
        ("def main(_): raise ValueError('odd')", "failed (exit code 1): ValueError: odd", False),
        ("def main(_): raise SystemExit(3)", "failed (exit code 3)", False),
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'", False),
        ("def main(_): return {1, 2}", "TypeError: Object of type set is not JSON", False),
        ("import os\ndef main(_): os.kill(os.getpid(), 9)", "was ended by signal 9", False),
        ("import os\ndef main(_): os._exit(0)", "failed (exit code 0)", False),
    ],
)
def test_no_answer(
    own: HarnessPython, script: Callable[[str], str], text: str, message: str, *, refused: bool
) -> None:
    """What became of it, in one sentence; only a sentence of the script's own is a refusal."""
    with pytest.raises(InsideError) as caught:
        call(own, script(text), {})
    assert message in caught.value.message
    assert caught.value.refused is refused
    assert ("Traceback" in caught.value.tail) is ("Error" in caught.value.tail)


def test_long_output(own: HarnessPython, script: Callable[[str], str]) -> None:
    """The end of what it wrote is told, however much that was."""
    text = "def main(_):\n    for n in range(100_000): print(n)\n    raise SystemExit(1)"
    with pytest.raises(InsideError) as caught:
        call(own, script(text), {})
    assert caught.value.tail.splitlines() == [str(n) for n in range(99_980, 100_000)]


def test_no_such_python() -> None:
    """Named."""
    with pytest.raises(InsideError, match="/no/python: No such file or directory"):
        call(HarnessPython(Path("/no/python"), "1"), "look.py", {})


def child_of(pids: Path) -> int:
    """The pid that the stuck script wrote."""
    return int(pids.read_text())


def has_line(file: Path) -> bool:
    """Whether a file is there, whole."""
    return file.exists() and file.read_text().endswith("\n")


def test_time_limit(
    own: HarnessPython,
    script: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over the limit it ends with all its children, and what it said last is told."""
    pids = tmp_path / "pids"
    # its time begins to pass when it is at work
    clock = SimpleNamespace(monotonic=lambda: 10.0 * has_line(pids))
    monkeypatch.setattr(call_module, "time", clock)
    with pytest.raises(InsideError, match=r"gave no answer within 2 s; it said last: working"):
        call(own, script(STUCK), {"pids": str(pids)}, timeout_s=2)
    assert child_of(pids) not in find_processes()


def wait_until(there: Path, tries: int = 2000) -> None:
    """Until a file has a line."""
    never = threading.Event()
    for _ in range(tries):
        if has_line(there):
            return
        never.wait(0.05)
    pytest.fail(f"{there} was never written")


def test_stop(own: HarnessPython, script: Callable[[str], str], tmp_path: Path) -> None:
    """Another thread ends it."""
    pids, stop = tmp_path / "pids", threading.Event()

    def stop_it() -> None:
        wait_until(pids)
        stop.set()

    thread = threading.Thread(target=stop_it)
    thread.start()
    with pytest.raises(InsideError, match="was stopped"):
        call(own, script(STUCK), {"pids": str(pids)}, stop=stop)
    thread.join()
    assert child_of(pids) not in find_processes()


def test_interrupt(script: Callable[[str], str], tmp_path: Path) -> None:
    """Ctrl-C in evalkit ends it, though it has a session of its own."""
    pids = tmp_path / "pids"
    text = (
        "import sys, json\nfrom pathlib import Path\n"
        "from evalkit.harnesses.call import call\nfrom evalkit.harnesses.environments import HarnessPython\n"
        "call(HarnessPython(Path(sys.executable), '1'), sys.argv[1], json.loads(sys.argv[2]))"
    )
    command = [sys.executable, "-c", text, script(STUCK), json.dumps({"pids": str(pids)})]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        wait_until(pids)
        process.send_signal(2)
        _, said = process.communicate()
    assert b"KeyboardInterrupt" in said
    assert child_of(pids) not in find_processes()
